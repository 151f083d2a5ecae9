r"""SLMTokBench: do tokens say what is said, and do they keep the speech?

Two questions of [Zhang et al. 2024, SpeechTokenizer], §2, for which no code was ever published:

* text alignment: a BiLSTM with CTC learns to read tokens (``ctc_probe.py``); its word error rate,
  and the mutual information of tokens and text that its likelihoods give
  (``mutual_information.py``), in nats an utterance and a symbol;
* information preservation: speech decoded from the tokens, judged by words, speaker and quality
  (``judges``).

Tokens are a codec's codes from the first n codebooks, or units without a decoder. The table of the
probe's embeddings starts at random, or from what the tokens stand for: centroids of units, the
codebooks of a codec. Notebook 30. Leaves out: ViSQOL, MUSHRA. Read next: ``judges/base.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from codec_lib.codecs.base import Codec
from codec_lib.data import Corpus, check_speakers
from codec_lib.data.transcripts import Symbols
from codec_lib.teachers import Spin, load_teacher
from codec_lib.teachers.kmeans import KMeans, fit_kmeans

from .codec_probe import codes_of
from .ctc_probe import (
    Prepared,
    ProbeSettings,
    extracted,
    fit_probe,
    prepare,
    read_logits,
    spelt,
)
from .errors import symbol_errors
from .heard import key_of, remembered
from .judges import Judge, JudgedClip, clips_of, judge_codec, make_judges
from .mutual_information import likelihood_matrix, text_information
from .studies import feature_function

PUBLISHED = ProbeSettings(200_000, batch_size=32, hidden=1024, layers=2, learning_rate=1e-4)
"""The probe of the paper: two layers of 1024 units, 200,000 steps of 32 utterances."""
INITIALISATIONS = ("random", "centroids", "codebooks")


@dataclass(frozen=True)
class Tokens:
    r"""A way to turn speech into tokens.

    Attributes
    ----------
    name
        For the table.
    extract
        Function from a waveform (1, 1, T) to tokens (1, F, K) int64.
    sizes
        Size of each of the K codebooks.
    vectors
        What embeddings may start from, by name of ``INITIALISATIONS``: K tables (N, D).
    bitrate
        bit/s.
    sample_rate
        Hz, of the waveform.
    """

    name: str
    extract: Callable[[Tensor], Tensor]
    sizes: tuple[int, ...]
    vectors: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    bitrate: float = 0.0
    sample_rate: int = 16_000

    def start(self, initialisation: str) -> Sequence[Tensor] | None:
        r"""Return the tables that embeddings start from; None for random ones.

        Raises
        ------
        ValueError
            If these tokens have no such tables.
        """
        if initialisation == "random":
            return None
        if initialisation not in self.vectors:
            raise ValueError(
                f"{self.name}: got initialisation {initialisation!r}, expected one of "
                f"{['random', *self.vectors]}"
            )
        return self.vectors[initialisation]


@torch.no_grad()
def codec_tokens(codec: Codec, n_q: int | None = None) -> Tokens:
    r"""Return the codes of the first ``n_q`` codebooks of a codec; one per frame."""
    count = codec.num_quantizers if n_q is None else n_q
    sizes = tuple(codec.codebook_sizes[:count])
    quantizer = codec.quantizer
    tables = [quantizer.contribution(torch.arange(size), k) for k, size in enumerate(sizes)]
    heard, name = remembered(codes_of(codec), key_of(codec)), f"{codec.name}, {count}"

    def first(wav: Tensor) -> Tensor:
        return heard(wav)[..., :count]

    start = {"codebooks": tables}
    return Tokens(name, first, sizes, start, codec.bitrate(count), codec.sample_rate)


def unit_tokens(
    name: str, units_of: Callable[[Tensor], Tensor], kmeans: KMeans, frame_rate: float = 50.0
) -> Tokens:
    r"""Return units as tokens, e.g. k-means units of a teacher's layer.

    Parameters
    ----------
    name
        For the table.
    units_of
        Function from a waveform (1, 1, T) to units (1, F).
    kmeans
        Their centroids, which embeddings may start from.
    frame_rate
        Hz.
    """
    size = kmeans.num_units
    rate = frame_rate * float(torch.tensor(float(size)).log2())
    start = {"centroids": [kmeans.centres]}
    return Tokens(name, lambda wav: units_of(wav)[..., None], (size,), start, rate)


def named_unit_tokens(name: str, train: Corpus, seed: int = 0) -> Tokens:
    r"""Return units by name: a Spin's, or k-means units of a teacher's layer.

    Parameters
    ----------
    name
        ``"spin-small"`` or a file of a Spin; or ``"TEACHER:LAYER:UNITS"``, e.g.
        ``"hubert-small:6:500"``, which are fitted to 50,000 frames of ``train``.
    train, seed
        Speech that k-means is fitted to; of the fit.

    Raises
    ------
    ValueError
        If there is no such teacher or layer, or the name has another form.
    """
    first, *rest = name.split(":")
    teacher = load_teacher(first)
    if isinstance(teacher, Spin) and not rest:
        codes = torch.nn.functional.normalize(teacher.heads["primary"].codes.detach(), dim=-1)
        return unit_tokens(name, teacher.units, KMeans(codes))
    if len(rest) != 2 or not rest[1].isdecimal() or not (rest[0] == "avg" or rest[0].isdecimal()):
        raise ValueError(
            f"units: got {name!r}, expected TEACHER:LAYER:UNITS, e.g. hubert-small:6:500, or the "
            "name of a Spin"
        )
    extract = feature_function(f"{first}:{rest[0]}")
    features = (one for one in extracted(extract, train) if one is not None)
    kmeans = fit_kmeans(features, int(rest[1]), 50_000, seed)
    return unit_tokens(name, lambda wav: kmeans(extract(wav)), kmeans)


def text_alignment(
    tokens: Tokens,
    train: Corpus,
    tests: Sequence[Corpus],
    symbols: str = "characters",
    initialisations: Sequence[str] = ("random",),
    settings: ProbeSettings | None = None,
    max_texts: int | None = 200,
    log: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    r"""Train the probe on tokens; measure what it reads and how much the tokens tell of the text.

    Parameters
    ----------
    tokens
        See ``codec_tokens`` and ``unit_tokens``.
    train, tests
        Corpora with text, without common speakers.
    symbols
        ``"characters"`` as published, or ``"phonemes"``.
    initialisations
        Of the embeddings, of ``INITIALISATIONS``, those that the tokens have; a probe for each.
    settings
        Of the probe; ``PUBLISHED`` is the paper's, the default takes minutes on one core.
    max_texts
        N of the estimate at most, the first ones; it costs N² alignments.
    log
        Called with a line every 100 steps.

    Returns
    -------
    list[dict[str, Any]]
        A row per initialisation and test: ``tokens``, ``bitrate``, ``initialisation``, ``test``,
        ``train_loss``, ``left_out`` and what ``read_and_inform`` returns.

    Raises
    ------
    ValueError
        If a speaker is in two corpora, or the tokens do not have such tables.
    """
    check_speakers(train, tests)
    kind, starts = Symbols(symbols), {name: tokens.start(name) for name in initialisations}
    known, *parts = (prepare(_tokens_of(tokens, part), part, kind) for part in (train, *tests))
    rows = []
    for name, start in starts.items():
        probe, loss = fit_probe(known, kind, tokens.sizes, start, settings, log)
        for test, part in zip(tests, parts, strict=True):
            row = {"tokens": tokens.name, "bitrate": tokens.bitrate, "initialisation": name}
            row |= {"test": test.name, "train_loss": loss, "left_out": part.left_out}
            rows.append({**row, **read_and_inform(probe, part, kind, max_texts)})
    return rows


def _tokens_of(tokens: Tokens, corpus: Corpus) -> list[Tensor | None]:
    """Return the tokens of every utterance, heard at their own rate."""
    return extracted(tokens.extract, Corpus(corpus.name, list(corpus), tokens.sample_rate))


def read_and_inform(
    probe: Any, part: Prepared, kind: Symbols, max_texts: int | None = 200
) -> dict[str, Any]:
    r"""Let a fitted probe read utterances.

    Parameters
    ----------
    probe, part, kind
        The probe, what it reads, and the symbols it names.
    max_texts
        As in ``text_alignment``.

    Returns
    -------
    dict
        ``symbols``, ``utterances``, ``texts``, the fields of ``symbol_errors`` and of
        ``text_information``.
    """
    logits = read_logits(probe, part.inputs)
    pairs = spelt(logits, part, kind)
    row = {"symbols": kind.kind, "utterances": len(pairs), **symbol_errors(pairs, kind)}
    targets = part.targets[slice(max_texts)]
    table = likelihood_matrix(logits[: len(targets)], targets)
    found = text_information(table, [len(one) for one in targets], targets)
    return {**row, "texts": len(targets), **found}


def information_preservation(
    codec: Codec,
    clips: Sequence[JudgedClip],
    judges: Mapping[str, Judge],
    n_q: Sequence[int],
    log: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    r"""Judge speech decoded from tokens, beside the judges' scores of the recordings.

    Parameters
    ----------
    codec, clips, judges, n_q, log
        As in ``judge_codec``.

    Returns
    -------
    list[dict[str, Any]]
        A row of the recordings themselves, ``n_q`` 0, then those of ``judge_codec``.
    """
    first = {name: judge(clips) for name, judge in judges.items()}
    row: dict[str, Any] = {"n_q": 0, "bitrate": 0.0, "utterances": len(clips)}
    for by_measure in first.values():
        for measure, score in by_measure.items():
            row |= score.summary(measure)
    return [row, *judge_codec(codec, clips, judges, n_q, first, log)]


def probe_settings(size: str = "small", steps: int | None = None, seed: int = 0) -> ProbeSettings:
    r"""Return the settings of a probe by name.

    Parameters
    ----------
    size
        ``"small"`` (128 units, minutes on one core) or ``"published"`` (2 x 1024).
    steps, seed
        Instead of the size's own.

    Raises
    ------
    ValueError
        If there is no such size.
    """
    sizes = {"small": ProbeSettings(), "published": PUBLISHED}
    if size not in sizes:
        raise ValueError(f"probe: got {size!r}, expected one of {list(sizes)}")
    return replace(sizes[size], seed=seed, steps=steps or sizes[size].steps)


def benchmark(
    codecs: Mapping[str, Codec],
    units: Sequence[str],
    train: Corpus,
    tests: Sequence[Corpus],
    n_q: Mapping[str, Sequence[int]],
    symbols: str = "characters",
    initialisations: Sequence[str] = ("random",),
    settings: ProbeSettings | None = None,
    judges: Sequence[str] = (),
    max_utterances: int = 60,
    log: Callable[[str], None] | None = None,
    keep: Callable[[list[dict[str, Any]]], Any] | None = None,
) -> list[dict[str, Any]]:
    r"""Run SLMTokBench on codecs and units.

    Parameters
    ----------
    codecs, n_q
        By name, and by name the numbers of codebooks.
    units
        See ``named_unit_tokens``.
    train, tests, symbols, settings
        As in ``text_alignment``.
    initialisations
        Of the embeddings; those that tokens do not have are left out, ``"random"`` all have.
    judges, max_utterances
        See ``make_judges``; they hear that many utterances of the last test. Units have no decoder
        and are not judged.
    log
        Called with a line for every row.
    keep
        Called with all rows so far after every set of tokens and every codec.

    Returns
    -------
    list[dict[str, Any]]
        Rows with ``measure`` ``"text alignment"`` or ``"information preservation"``, ``codec`` (or
        the units), ``n_q``, and the fields of ``text_alignment`` or ``information_preservation``.
    """
    say, store = log or (lambda line: None), keep or (lambda rows: None)
    sets = [(name, count, codec_tokens(codec, count)) for name, codec in codecs.items()
            for count in n_q[name]]  # fmt: skip
    clips, made = _heard_by(judges, tests[-1], max_utterances)
    seed = settings.seed if settings else 0
    sets += [(name, 1, named_unit_tokens(name, train, seed)) for name in units]
    rows: list[dict[str, Any]] = []
    _check_starts(initialisations, [tokens for _, _, tokens in sets])
    for name, count, tokens in sets:
        starts = [one for one in initialisations if one == "random" or one in tokens.vectors]
        for row in text_alignment(tokens, train, tests, symbols, starts, settings):
            rows.append({"measure": "text alignment", "codec": name, "n_q": count, **row})
        store(rows)
        say(f"{name}, {count} of its codebooks: read")
    if judges:
        for name, codec in codecs.items():
            for row in information_preservation(codec, clips, made, n_q[name], log):
                rows.append({"measure": "information preservation", "codec": name, **row})
            store(rows)
    return rows


def _heard_by(
    judges: Sequence[str], corpus: Corpus, count: int
) -> tuple[list[JudgedClip], dict[str, Judge]]:
    """Return clips and judges that can judge them, before probes have taken their minutes."""
    clips, made = clips_of(corpus, count) if judges else [], make_judges(judges)
    for judge in made.values():
        judge.check(clips)
    return clips, made


def _check_starts(initialisations: Sequence[str], sets: Sequence[Tokens]) -> None:
    """Raise ValueError for starts of embeddings that do not exist, or that no tokens have."""
    there = {"random"}.union(*(tokens.vectors for tokens in sets))
    if set(initialisations) - set(INITIALISATIONS) or not there & set(initialisations):
        raise ValueError(
            f"initialisations: got {list(initialisations)}, expected among {list(INITIALISATIONS)} "
            f"and one of {sorted(there)}, which these tokens have"
        )
