r"""What is said, read from codes or features by a small recogniser: a BiLSTM with CTC.

SLMTokBench judges speech tokens by such a probe: an embedding for every code (random, k-means
centroids or the codec's own codebooks), a two-layer BiLSTM of 1024 units and CTC on characters
[Zhang et al. 2024, SpeechTokenizer], §4. Several codebooks are added up, here divided by the root
of their number, so that one and eight enter with the same variance. The network is smaller, so that
one measurement takes two minutes on one core; the absolute error is therefore high, and only
figures of one setting may be compared.

The front of the probe is the part that differs: codes are embedded, features are standardised on
the training part and mapped linearly. Everything random depends on the seed alone. Used by
notebook 11. Leaves out: mutual information, language models. Read next: ``results.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from codec_lib import audio
from codec_lib.data import Corpus
from codec_lib.data.segments import length_batches
from codec_lib.data.transcripts import Symbols
from codec_lib.losses.ctc import ctc_greedy, ctc_loss, frames_needed

from .errors import symbol_errors

WIDTH = 128  # channels into the BiLSTM
DROPOUT = 0.2  # of what enters and leaves the BiLSTM: an hour of speech is learnt by heart without


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
    """

    inputs: list[Tensor]
    targets: list[list[int]]
    left_out: int


class BiLstm(nn.Module):
    r"""A bidirectional LSTM for padded batches: the second direction begins at each item's end.

    The same as torch's on packed sequences, whose backward pass takes four times as long on a CPU.

    Parameters
    ----------
    width, hidden, layers
        Channels in; units in each direction; layers.
    """

    def __init__(self, width: int, hidden: int, layers: int) -> None:
        super().__init__()
        widths = [width] + [2 * hidden] * (layers - 1)
        self.ahead = nn.ModuleList(nn.LSTM(one, hidden, batch_first=True) for one in widths)
        self.back = nn.ModuleList(nn.LSTM(one, hidden, batch_first=True) for one in widths)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        r"""Map (B, F, width) and lengths (B,) to (B, F, 2 hidden)."""
        place = torch.arange(x.shape[1])
        mirror = torch.where(place < frames[:, None], frames[:, None] - 1 - place, place)[..., None]
        for ahead, back in zip(self.ahead, self.back, strict=True):
            turned = back(x.gather(1, mirror.expand(x.shape)))[0]
            x = torch.cat([ahead(x)[0], turned.gather(1, mirror.expand(turned.shape))], -1)
        return x


class CtcProbe(nn.Module):
    r"""Embeddings of codes or a linear map of features, a BiLSTM, and a linear map to symbols.

    Parameters
    ----------
    num_symbols
        Symbols V with the blank.
    num_codes
        Size of each codebook; None for features.
    dim
        Width of the features, where there are no codes.
    width, hidden, layers
        Of the front; of the BiLSTM in each direction; its layers.
    vectors
        For each codebook what to start its embedding from, (N, D), D the same for all; by default
        random ones of variance 1, whose sum over K codebooks is divided by sqrt(K). They are
        trained on.
    """

    def __init__(
        self,
        num_symbols: int,
        num_codes: Sequence[int] | None,
        dim: int = 0,
        width: int = WIDTH,
        hidden: int = 128,
        layers: int = 1,
        vectors: Sequence[Tensor] | None = None,
    ) -> None:
        super().__init__()
        if vectors is not None and [len(one) for one in vectors] != list(num_codes or ()):
            sizes = [len(one) for one in vectors]
            raise ValueError(f"vectors: got tables of {sizes} rows, expected {num_codes}")
        dim = vectors[0].shape[1] if vectors is not None else dim if num_codes is None else width
        self.tables = nn.ModuleList(nn.Embedding(size, dim) for size in num_codes or ())
        for table, given in zip(self.tables, vectors or (), strict=False):
            table.weight.data.copy_(given)
        self.front = nn.Linear(dim, width) if num_codes is None or vectors is not None else None
        self.register_buffer("mean", torch.zeros(dim))
        spread = len(self.tables) ** 0.5 if self.front is None else 1.0  # of K random vectors' sum
        self.register_buffer("scale", torch.full((dim,), spread))
        self.lstm = BiLstm(width, hidden, layers)
        self.to_symbol = nn.Linear(2 * hidden, num_symbols)

    def forward(self, inputs: Tensor, frames: Tensor) -> Tensor:
        r"""Map codes (B, F, K) or features (B, F, D), and lengths (B,), to logits (B, F, V)."""
        x = inputs
        if len(self.tables):
            x = sum(table(inputs[..., k]) for k, table in enumerate(self.tables))
        x = (x - self.mean) / self.scale
        x = x if self.front is None else self.front(x)  # (B, F, width)
        x = functional.dropout(x, DROPOUT, self.training)
        x = functional.dropout(self.lstm(x, frames), DROPOUT, self.training)
        return self.to_symbol(x)

    @torch.no_grad()
    def standardise(self, inputs: Sequence[Tensor]) -> None:
        r"""Measure mean and scale of what enters the front, over the frames of utterances."""
        if self.front is None:
            return  # random embeddings are known to have mean 0 and variance K
        rows = torch.cat(list(inputs))
        if len(self.tables):
            rows = sum(table(rows[:, k]) for k, table in enumerate(self.tables))
        self.mean.copy_(rows.mean(0))
        self.scale.copy_(rows.std(0).clamp_min(1e-5))


@torch.no_grad()
def extracted(extract: Callable[[Tensor], Tensor], corpus: Corpus) -> list[Tensor | None]:
    r"""Compute the codes or features of a corpus, from which any kind of symbols can be read.

    Parameters
    ----------
    extract
        Function from a waveform (1, 1, T) to codes (1, F) or (1, F, K) int64, or to features
        (1, F, D) float.
    corpus
        Any.

    Returns
    -------
    list[Tensor | None]
        Of each utterance (F, K) int64 or (F, D) float32; None for a bad file.
    """
    heard: list[Tensor | None] = []
    for index in range(len(corpus)):
        try:
            found = extract(corpus.load(index)[None])[0].cpu()  # (F,), (F, K) or (F, D)
        except audio.AudioError:
            heard.append(None)  # the corpus has reported it
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
    inputs, targets = [], []
    heard = extracted(extract, corpus) if callable(extract) else extract
    for found, utterance in zip(heard, corpus, strict=True):
        target = None if found is None else symbols.encode(utterance)
        if target and repeat * len(found) >= frames_needed(target):
            inputs.append(found.repeat_interleave(repeat, 0))
            targets.append(target)
    left_out = len(corpus) - len(inputs)
    if 2 * len(inputs) < len(corpus):
        raise ValueError(
            f"{corpus.name}: got {left_out} of {len(corpus)} utterances that cannot be used, "
            f"expected at most half. Hint: are they {symbols.kind} that can be spelt? Frames may "
            f"also be too few for CTC; repeat={repeat + 1}"
        )
    return Prepared(inputs, targets, left_out)


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
    _check_speakers(train, tests)
    heard, probes = extracted(extract, train), []
    for kind in map(Symbols, [symbols] if isinstance(symbols, str) else symbols):
        _check_codes((known := prepare(heard, train, kind, repeat)).inputs, num_codes)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            sizes = known.inputs[0].shape[1], WIDTH, hidden, layers
            probe = CtcProbe(len(kind), num_codes, *sizes, vectors)
            loss = _train(probe, known, steps, batch_size, learning_rate, seed, log)
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
        found = [kind.decode(one) for one in _read(probe, part.inputs)]
        right = [kind.decode(one) for one in part.targets]
        row = {"test": test.name, "symbols": kind.kind, "utterances": len(found)}
        row["left_out"] = part.left_out
        rows.append({**row, **symbol_errors(list(zip(found, right, strict=True)), kind), **fitted})
    return rows


def _check_speakers(train: Corpus, tests: Sequence[Corpus]) -> None:
    """Raise ValueError where a speaker is in the training and in a test corpus."""
    for test in tests:
        common = set(train.speakers) & set(test.speakers)
        if common:
            raise ValueError(f"probe: got speakers {sorted(common)[:3]} twice, expected none")


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
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    log: Callable[[str], None] | None,
) -> float:
    """Train the probe; return its loss over the last tenth of the steps."""
    probe.train().standardise(known.inputs)
    optimizer = torch.optim.Adam(probe.parameters(), learning_rate)
    lengths = [len(one) for one in known.inputs]
    losses: list[float] = []
    epoch, queue = 0, np.zeros((0, 1), dtype=np.int64)
    for step in range(steps):
        if not len(queue):
            queue, epoch = length_batches(lengths, batch_size, seed, epoch), epoch + 1
        chosen, queue = queue[0].tolist(), queue[1:]
        rate = learning_rate * min(1.0, 10 * (step + 1) / steps, (steps - step) / (0.9 * steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        padded, frames = _padded([known.inputs[index] for index in chosen])
        targets = [known.targets[index] for index in chosen]
        loss = ctc_loss(probe(padded, frames), frames, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(probe.parameters(), 5.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if log is not None and (step + 1) % 100 == 0:
            log(f"step {step + 1:5d}/{steps}  loss {np.mean(losses[-100:]):.3f}")
    probe.eval()
    return float(np.mean(losses[-max(1, steps // 10) :]))


@torch.no_grad()
def _read(probe: CtcProbe, inputs: Sequence[Tensor], batch_size: int = 32) -> list[list[int]]:
    """Let the probe read utterances, longest together; return the symbols of each."""
    order = sorted(range(len(inputs)), key=lambda index: len(inputs[index]))
    found: list[list[int]] = [[] for _ in inputs]
    for at in range(0, len(order), batch_size):
        chosen = order[at : at + batch_size]
        padded, frames = _padded([inputs[index] for index in chosen])
        for index, symbols in zip(chosen, ctc_greedy(probe(padded, frames), frames), strict=True):
            found[index] = symbols
    return found


def _padded(inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack (F, C) to (B, F, C), filled up with zeros; return it and the lengths (B,)."""
    frames = torch.tensor([len(one) for one in inputs])
    return nn.utils.rnn.pad_sequence(list(inputs), batch_first=True), frames
