r"""What is said, read from codes or features by a small recogniser: a BiLSTM with CTC.

SLMTokBench judges speech tokens by such a probe: an embedding for every code (random, k-means
centroids or the codec's own codebooks), a two-layer BiLSTM of 1024 units and CTC on characters
[Zhang et al. 2024, SpeechTokenizer], §4. Several codebooks are added up, here divided by the root
of their number, so that one and eight enter with the same variance. The network is smaller, so that
one measurement takes two minutes on one core; the absolute error is therefore high, and only
figures of one setting may be compared.

The front of the probe is the part that differs: codes are embedded, features are standardised on
the training part and mapped linearly. Everything random depends on the seed alone. Used by
notebooks 11 and 30. Leaves out: mutual information, language models. Read next: ``results.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec_lib import audio
from codec_lib.data import Corpus, check_speakers
from codec_lib.data.segments import length_batches
from codec_lib.data.transcripts import Symbols
from codec_lib.losses.ctc import ctc_greedy, ctc_loss, frames_needed
from codec_lib.teachers.perturbation import VoiceError

from .ctc_network import WIDTH, CtcProbe, padded, train_probe
from .errors import symbol_errors
from .robustness import Perturbation


@dataclass(frozen=True)
class Prepared:
    r"""A corpus as the probe needs it, for one kind of symbols.

    Attributes
    ----------
    inputs
        Codes (F, K) int64 or features (F, D) float32 of each utterance.
    targets
        Numbers of the symbols of each.
    left_out
        Utterances that are bad, cannot be spelt, or have fewer frames than CTC needs.
    indices
        Number of each utterance in its corpus.
    """

    inputs: list[Tensor]
    targets: list[list[int]]
    left_out: int
    indices: list[int] = field(default_factory=list)

    def first(self, count: int) -> Prepared:
        r"""Return the first utterances."""
        return Prepared(self.inputs[:count], self.targets[:count], 0, self.indices[:count])


@torch.no_grad()
def extracted(
    extract: Callable[[Tensor], Tensor], corpus: Corpus, perturb: Perturbation | None = None
) -> list[Tensor | None]:
    r"""Compute the codes or features of a corpus, from which any kind of symbols can be read.

    Parameters
    ----------
    extract
        Function from a waveform (1, 1, T) to codes (1, F) or (1, F, K) int64, or to features
        (1, F, D) float.
    corpus
        Any.
    perturb
        Changes every waveform first; each utterance has its own random numbers, the same ones
        whenever it is heard.

    Returns
    -------
    list[Tensor | None]
        Of each utterance (F, K) int64 or (F, D) float32; None for a bad file, and for a recording
        that could not be changed: whose change raised ``VoiceError``.
    """
    heard: list[Tensor | None] = []
    for index in range(len(corpus)):
        try:
            wav = corpus.load(index)  # (1, T)
            if perturb is not None:
                wav = perturb(wav, corpus.sample_rate, np.random.default_rng([0, index]))
            found = extract(wav[None])[0].cpu()  # (F,), (F, K) or (F, D)
        except (audio.AudioError, VoiceError):
            heard.append(None)  # the corpus has reported it; what could not be changed is counted
            continue
        found = found[:, None] if found.ndim == 1 else found
        heard.append(found.float() if found.is_floating_point() else found.long())
    return heard


def prepare(
    extract: Callable[[Tensor], Tensor] | Sequence[Tensor | None],
    corpus: Corpus,
    symbols: Symbols,
    repeat: int = 1,
) -> Prepared:
    r"""Put the codes or features of a corpus beside its targets.

    Parameters
    ----------
    extract
        As in ``extracted``; or what it returned, of which any number of kinds can be prepared.
    corpus
        Aligned or with text.
    symbols
        What to name.
    repeat
        How often each frame is repeated, for rates too low for CTC.

    Returns
    -------
    Prepared
        The utterances that can be used; the others are counted.

    Raises
    ------
    ValueError
        If fewer than half of the utterances can be used.
    """
    inputs, targets, indices = [], [], []
    heard = extracted(extract, corpus) if callable(extract) else extract
    for index, (found, utterance) in enumerate(zip(heard, corpus, strict=True)):
        target = None if found is None else symbols.encode(utterance)
        if target and repeat * len(found) >= frames_needed(target):
            inputs.append(found.repeat_interleave(repeat, 0))
            targets.append(target)
            indices.append(index)
    left_out = len(corpus) - len(inputs)
    if 2 * len(inputs) < len(corpus):
        raise ValueError(
            f"{corpus.name}: got {left_out} of {len(corpus)} utterances that cannot be used, "
            f"expected at most half. Hint: are they {symbols.kind} that can be spelt? Frames may "
            f"also be too few for CTC; repeat={repeat + 1}"
        )
    return Prepared(inputs, targets, left_out, indices)


@dataclass(frozen=True)
class ProbeSettings:
    r"""Size and training of a probe.

    Attributes
    ----------
    steps, batch_size, learning_rate
        Of Adam; the rate rises over a tenth of the steps and falls to 0.
    hidden, layers
        Of the BiLSTM, in each direction. SLMTokBench has 1024 and 2.
    seed
        Of weights and batches.
    """

    steps: int = 1000
    batch_size: int = 16
    hidden: int = 128
    layers: int = 1
    learning_rate: float = 3e-3
    seed: int = 0


def fit_probe(
    known: Prepared,
    symbols: Symbols,
    num_codes: Sequence[int] | None = None,
    vectors: Sequence[Tensor] | None = None,
    settings: ProbeSettings | None = None,
    log: Callable[[str], None] | None = None,
    curve: list[float] | None = None,
) -> tuple[CtcProbe, float]:
    r"""Train a probe.

    Parameters
    ----------
    known, symbols
        What to learn from, and what to name.
    num_codes, vectors, log
        As in ``ctc_probe``.
    settings
        Size and training.
    curve
        Filled with the loss of every step.

    Returns
    -------
    tuple[CtcProbe, float]
        In eval mode, and its loss over the last tenth of the steps, nats a symbol.

    Raises
    ------
    ValueError
        If codes and codebooks do not fit.
    """
    settings = settings or ProbeSettings()
    _check_codes(known.inputs, num_codes)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(settings.seed)
        sizes = known.inputs[0].shape[1], WIDTH, settings.hidden, settings.layers
        probe = CtcProbe(len(symbols), num_codes, *sizes, vectors)
        return probe, _train(probe, known, settings, log, curve)


def ctc_probe(
    extract: Callable[[Tensor], Tensor],
    train: Corpus,
    tests: Corpus | Sequence[Corpus],
    symbols: str | Sequence[str] = "phonemes",
    num_codes: Sequence[int] | None = None,
    vectors: Sequence[Tensor] | None = None,
    steps: int = 1000,
    batch_size: int = 16,
    hidden: int = 128,
    layers: int = 1,
    learning_rate: float = 3e-3,
    repeat: int = 1,
    seed: int = 0,
    log: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    r"""Train a recogniser on codes or features, and count its errors on other speech.

    Parameters
    ----------
    extract, repeat
        As in ``prepare``, a function. For a codec's codes: ``codec_probe.codes_of(codec, n_q)``.
    train, tests
        Corpora without common speakers, e.g. ``corpus("synthetic", "train")`` and ``"test"``.
    symbols
        A kind of ``data.transcripts.Symbols``, or several: one extraction, a probe for each.
    num_codes, vectors
        Sizes of the codebooks (None for features); what embeddings start from, see ``CtcProbe``.
    steps, batch_size, learning_rate
        Of Adam; the rate rises over a tenth of the steps and falls to 0.
    hidden, layers
        Of the BiLSTM, in each direction. SLMTokBench has 1024 and 2.
    seed, log
        Of weights and batches; called with a line every 100 steps, e.g. ``print``.

    Returns
    -------
    list[dict[str, Any]]
        A row per kind and test corpus: ``test``, ``symbols``, ``utterances``, ``left_out``,
        ``train_utterances``, ``train_loss`` (last tenth), ``seed``, fields of ``symbol_errors``.

    Raises
    ------
    ValueError
        If codes and codebooks differ, a speaker is in two corpora, or inputs are too few.
    """
    tests = [tests] if isinstance(tests, Corpus) else list(tests)
    check_speakers(train, tests)
    heard, probes = extracted(extract, train), []
    for kind in map(Symbols, [symbols] if isinstance(symbols, str) else symbols):
        known = prepare(heard, train, kind, repeat)
        settings = ProbeSettings(steps, batch_size, hidden, layers, learning_rate, seed)
        probe, loss = fit_probe(known, kind, num_codes, vectors, settings, log)
        fitted = {"train_utterances": len(known.inputs), "train_loss": loss, "seed": seed}
        probes.append((kind, probe, fitted))
    rows = [_tested(probes, extracted(extract, test), test, repeat, num_codes) for test in tests]
    return [row for of_kind in zip(*rows, strict=True) for row in of_kind]


def _tested(
    probes: Sequence[tuple[Symbols, CtcProbe, dict[str, Any]]],
    heard: Sequence[Tensor | None],
    test: Corpus,
    repeat: int,
    num_codes: Sequence[int] | None,
) -> list[dict[str, Any]]:
    """Let the probe of each kind read a corpus; return a row with the errors of each."""
    rows = []
    for kind, probe, fitted in probes:
        part = prepare(heard, test, kind, repeat)
        _check_codes(part.inputs, num_codes)
        pairs = spelt(read_logits(probe, part.inputs), part, kind)
        row = {"test": test.name, "symbols": kind.kind, "utterances": len(pairs)}
        row["left_out"] = part.left_out
        rows.append({**row, **symbol_errors(pairs, kind), **fitted})
    return rows


def _check_codes(inputs: Sequence[Tensor], num_codes: Sequence[int] | None) -> None:
    """Raise ValueError where codes and codebooks do not fit."""
    if num_codes is None:
        if not inputs[0].is_floating_point():
            raise ValueError("num_codes: got None for codes, expected the size of each codebook")
        return
    got = inputs[0].shape[1]
    if inputs[0].is_floating_point() or got != len(num_codes):
        raise ValueError(
            f"extract: got {inputs[0].dtype} of {got} columns, expected int64 codes of "
            f"{len(num_codes)} codebooks"
        )
    top = torch.stack([one.amax(0) for one in inputs]).amax(0)  # (K,)
    low = min(int(one.min()) for one in inputs)
    if low < 0 or bool((top >= torch.tensor(list(num_codes))).any()):
        raise ValueError(
            f"codes: got {low} to {top.tolist()}, expected 0 to below {list(num_codes)}"
        )


def _train(
    probe: CtcProbe,
    known: Prepared,
    settings: ProbeSettings,
    log: Callable[[str], None] | None,
    curve: list[float] | None = None,
) -> float:
    """Train the probe; return its loss over the last tenth of the steps."""
    probe.standardise(known.inputs)
    lengths = [len(one) for one in known.inputs]
    epochs = (
        length_batches(lengths, settings.batch_size, settings.seed, epoch) for epoch in count()
    )
    batches = chain.from_iterable(epochs)

    def loss_of() -> Tensor:
        chosen = next(batches).tolist()
        batch, frames = padded([known.inputs[index] for index in chosen])
        return ctc_loss(probe(batch, frames), frames, [known.targets[index] for index in chosen])

    return train_probe(probe, loss_of, settings.steps, settings.learning_rate, log, curve)


@torch.no_grad()
def read_logits(probe: CtcProbe, inputs: Sequence[Tensor], batch_size: int = 32) -> list[Tensor]:
    r"""Let a probe hear utterances, those of like length together.

    Parameters
    ----------
    probe
        In eval mode.
    inputs
        Codes (F, K) or features (F, D) of each utterance.
    batch_size
        Utterances at once.

    Returns
    -------
    list[Tensor]
        Of each (F, V).
    """
    order = sorted(range(len(inputs)), key=lambda index: len(inputs[index]))
    found: list[Tensor] = [torch.empty(0)] * len(inputs)
    for at in range(0, len(order), batch_size):
        chosen = order[at : at + batch_size]
        batch, frames = padded([inputs[index] for index in chosen])
        for index, logits in zip(chosen, probe(batch, frames), strict=True):
            found[index] = logits[: len(inputs[index])]
    return found


def spelt(
    logits: Sequence[Tensor], part: Prepared, symbols: Symbols
) -> list[tuple[list[str], list[str]]]:
    r"""Return what a probe reads and what is right, symbols of each utterance.

    Parameters
    ----------
    logits
        Of ``read_logits``, (F, V) of each utterance.
    part
        The utterances.
    symbols
        What the probe names.
    """
    found = [ctc_greedy(one[None], torch.tensor([len(one)]))[0] for one in logits]
    pairs = zip(found, part.targets, strict=True)
    return [(symbols.decode(one), symbols.decode(right)) for one, right in pairs]
