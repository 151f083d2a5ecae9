r"""Discrete against continuous: the same head on units of features and on the features themselves.

The question of the CUHK studies [Wang et al. 2024, DST study], [Wang et al. 2025]. Features of one
encoder go into one head in several forms, so that each step from a vector to a token can be blamed
alone:

===================  ===========================================================================
form                 what enters the head
===================  ===========================================================================
``continuous``       the features
``centroids N``      for each frame the centre of its k-means unit: what clustering loses
``units N``          the unit, embedded by the head: what a table that is to be learnt costs too
``merged N``         equal neighbours merged: how long a unit lasts is gone
``merged N, V``      and byte-pair encoded to V units
===================  ===========================================================================

The rate is R = C log2(V) R_s, the studies' formula, with R_s counted after merging. Tasks are
content (phonemes, letters: CTC) and whole utterances (keyword, intent, speaker: by
``class_probe.py``). No notebook yet. Leaves out: large language models as heads.
Read next: ``abx.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import edit_distance

from codec_lib.data import Corpus, Utterance
from codec_lib.data.transcripts import Symbols
from codec_lib.teachers.kmeans import KMeans, fit_kmeans

from .bpe import PairEncoding
from .class_probe import class_probe
from .ctc_probe import ProbeSettings, check_speakers, fit_probe, prepare, read_logits, spelt
from .errors import symbol_errors
from .ngrams import deduplicate
from .results import bootstrap_interval

Heard = Sequence[Tensor | None]  # features (F, D) of each utterance; None for a bad file


@dataclass(frozen=True)
class Form:
    r"""A form in which features enter a head.

    Attributes
    ----------
    name
        As in the table above.
    apply
        Function from features (F, D) to features (F, D) or units (G, 1) int64.
    vocabulary
        Units V; 0 for vectors.
    """

    name: str
    apply: Callable[[Tensor], Tensor]
    vocabulary: int = 0

    @property
    def sizes(self) -> tuple[int, ...] | None:
        r"""Sizes of the codebooks for a probe; None for vectors."""
        return (self.vocabulary,) if self.vocabulary else None

    def of(self, heard: Heard) -> list[Tensor | None]:
        r"""Return the form of every utterance."""
        return [None if one is None else self.apply(one) for one in heard]


def bitrate(vocabulary: int, units_per_second: float, codebooks: int = 1) -> float:
    r"""Return R = C log2(V) R_s in bit/s.

    Parameters
    ----------
    vocabulary, units_per_second, codebooks
        V, R_s in Hz and C.

    Examples
    --------
    >>> round(bitrate(2000, 50))
    548
    """
    return codebooks * math.log2(vocabulary) * units_per_second


def forms_of(
    heard: Heard,
    num_units: Sequence[int],
    vocabularies: Sequence[int] = (),
    max_frames: int = 50_000,
    seed: int = 0,
) -> list[Form]:
    r"""Fit every form to the features of a training part.

    Parameters
    ----------
    heard
        Features (F, D) of each utterance.
    num_units
        N of each k-means.
    vocabularies
        V of each byte-pair encoding; those above N.
    max_frames, seed
        Of k-means.

    Returns
    -------
    list[Form]
        ``continuous``, then for every N its centroids, units, merged and encoded units.
    """
    found = [Form("continuous", lambda features: features)]
    good = [one for one in heard if one is not None]
    for size in num_units:
        kmeans = fit_kmeans(good, size, max_frames, seed)
        found += _forms_of_units(kmeans, good, [v for v in vocabularies if v > size])
    return found


def _forms_of_units(kmeans: KMeans, good: list[Tensor], vocabularies: Sequence[int]) -> list[Form]:
    """Return the forms that one set of units gives."""
    size = kmeans.num_units

    def merged(features: Tensor) -> Tensor:
        return deduplicate(kmeans(features))

    forms = [
        Form(f"centroids {size}", lambda features: kmeans.centres[kmeans(features)]),
        Form(f"units {size}", lambda features: kmeans(features)[:, None], size),
        Form(f"merged {size}", lambda features: merged(features)[:, None], size),
    ]
    sequences = [merged(one) for one in good] if vocabularies else []
    for wanted in vocabularies:
        encoding = PairEncoding.fit(sequences, size, wanted)

        def encoded(features: Tensor, encoding: PairEncoding = encoding) -> Tensor:
            return encoding(merged(features))[:, None]

        forms.append(Form(f"merged {size}, {wanted}", encoded, encoding.vocabulary))
    return forms


def token_use(form: Form, heard: Heard, frame_rate: float = 50.0) -> dict[str, float]:
    r"""Count how units are used.

    Parameters
    ----------
    form
        Of units; nothing is returned for vectors.
    heard
        Features of each utterance.
    frame_rate
        Of the features, Hz.

    Returns
    -------
    dict[str, float]
        ``units_per_second``, ``bitrate`` (bit/s), ``entropy_rate`` (bit/s, if each unit cost its
        own information), ``bottom_20_share`` and ``top_20_share`` (of all units said, what the
        least and the most used fifth of the vocabulary covers), ``used_share``.
    """
    if not form.vocabulary:
        return {}
    good = [one for one in heard if one is not None]
    units = torch.cat([form.apply(one)[:, 0] for one in good])
    seconds = sum(map(len, good)) / frame_rate
    counts = torch.bincount(units, minlength=form.vocabulary).double().sort().values
    share = counts / counts.sum()
    fifth = max(1, form.vocabulary // 5)
    entropy = float(-(share[share > 0] * share[share > 0].log2()).sum())
    return {
        "units_per_second": len(units) / seconds,
        "bitrate": bitrate(form.vocabulary, len(units) / seconds),
        "entropy_rate": entropy * len(units) / seconds,
        "bottom_20_share": float(share[:fifth].sum()),
        "top_20_share": float(share[-fifth:].sum()),
        "used_share": float((counts > 0).double().mean()),
    }


def read_forms(
    forms: Sequence[Form],
    known: tuple[Corpus, Heard],
    tests: Sequence[tuple[str, Corpus, Heard]],
    symbols: str = "phonemes",
    settings: ProbeSettings | None = None,
    repeat: int = 2,
) -> list[dict[str, Any]]:
    r"""Let the CTC probe read every form.

    Parameters
    ----------
    forms
        See ``forms_of``.
    known
        Corpus and its features, to learn from.
    tests
        Name, corpus and features, e.g. clean and noisy speech.
    symbols, settings
        As in ``fit_probe``.
    repeat
        How often merged units are repeated, so that CTC has room.

    Returns
    -------
    list[dict]
        A row per form and test: ``form``, ``test``, the fields of ``symbol_errors`` and
        ``token_use``; and, with a form ``units N``, of ``rarity_effect`` by the rarity of these.
    """
    check_speakers(known[0], [corpus for _, corpus, _ in tests])
    kind, rows = Symbols(symbols), []
    counted = next((form for form in forms if form.name.startswith("units")), None)
    often = [
        None if counted is None else mean_log_counts(counted, known[1], heard)
        for _, _, heard in tests
    ]
    for form in forms:
        more = repeat if form.name.startswith("merged") else 1
        part = prepare(form.of(known[1]), known[0], kind, more)
        probe, loss = fit_probe(part, kind, form.sizes, None, settings)
        for (name, corpus, heard), counts in zip(tests, often, strict=True):
            tested = prepare(form.of(heard), corpus, kind, more)
            pairs = spelt(read_logits(probe, tested.inputs), tested, kind)
            row = {"form": form.name, "test": name, "train_loss": loss}
            row |= symbol_errors(pairs, kind) | token_use(form, heard)
            if counts is not None:
                row |= rarity_effect(pairs, counts[tested.indices])
            rows.append(row)
    return rows


def mean_log_counts(form: Form, known: Heard, tested: Heard) -> np.ndarray:
    r"""Return for each utterance the mean logarithm of how often its units were met in training.

    Parameters
    ----------
    form
        Of units.
    known, tested
        Features of the training part and of N other utterances.

    Returns
    -------
    np.ndarray
        Shape (N,); NaN for a bad file.
    """
    counts = torch.zeros(form.vocabulary, dtype=torch.float64)
    for one in known:
        if one is not None:
            counts += torch.bincount(form.apply(one)[:, 0], minlength=form.vocabulary)
    log = (counts + 1).log()
    return np.array(
        [math.nan if one is None else float(log[form.apply(one)[:, 0]].mean()) for one in tested]
    )


def rarity_effect(
    pairs: Sequence[tuple[Sequence[str], Sequence[str]]], often: np.ndarray
) -> dict[str, float]:
    r"""Compare errors where units are rare with errors where they are common.

    Utterances are cut in two halves by ``mean_log_counts``. What is rare may be hard for other
    reasons, too: the continuous form, which has no units, shows how much.

    Parameters
    ----------
    pairs
        Symbols found and right of each utterance.
    often
        Shape (N,), of these utterances.

    Returns
    -------
    dict[str, float]
        ``rare_error`` and ``common_error``, and ``rarity_cost``, their difference, with its 95 %
        interval (``_low``, ``_high``); empty where all utterances are alike.
    """
    errors = np.array([edit_distance(a, b) / len(b) for a, b in pairs])
    rare = often <= np.median(often)
    if rare.all():
        return {}
    halves = errors[rare], errors[~rare]
    cost = float(halves[0].mean() - halves[1].mean())
    widths = [(high - low) / 2 for low, high in map(bootstrap_interval, halves)]
    row = {"rare_error": float(halves[0].mean()), "common_error": float(halves[1].mean())}
    row |= {"rarity_cost": cost, "rarity_cost_low": cost - math.hypot(*widths)}
    return {**row, "rarity_cost_high": cost + math.hypot(*widths)}


def label_forms(
    forms: Sequence[Form],
    known: tuple[Corpus, Heard],
    tests: Sequence[tuple[str, Corpus, Heard]],
    label: Callable[[Utterance], str],
    hidden: int = 128,
    steps: int = 400,
    seeds: Sequence[int] = (0,),
) -> list[dict[str, Any]]:
    r"""Let the probe for whole utterances label every form.

    Parameters
    ----------
    forms, known, tests
        As in ``read_forms``.
    label
        Function from an utterance to its label; empty leaves it out.
    hidden, steps, seeds
        Of the probe; a row per seed.

    Returns
    -------
    list[dict]
        A row per form, test and seed: ``form``, ``test``, ``seed``, ``hidden``, the fields of
        ``ProbeResult`` and of ``token_use``.

    Raises
    ------
    ValueError
        If there are fewer than two labels in training, or none of them in a test.
    """
    names = sorted({label(one) for one in known[0]} - {""})
    if len(names) < 2:
        raise ValueError(f"{known[0].name}: got labels {names}, expected two or more")

    def kept(form: Form, corpus: Corpus, heard: Heard) -> tuple[list[Tensor], Tensor]:
        pairs = [
            (form.apply(one), names.index(label(utterance)))
            for one, utterance in zip(heard, corpus, strict=True)
            if one is not None and label(utterance) in names
        ]
        if not pairs:
            raise ValueError(f"{corpus.name}: got no utterance with one of the labels {names[:5]}")
        return [one for one, _ in pairs], torch.tensor([number for _, number in pairs])

    rows = []
    for form in forms:
        learnt = kept(form, *known)
        for name, corpus, heard in tests:
            tested, use = kept(form, corpus, heard), token_use(form, heard)
            for seed in seeds:
                options = {"steps": steps, "hidden": hidden, "seed": seed}
                found = class_probe(*learnt, *tested, form.sizes, **options)
                row = {"form": form.name, "test": name, "seed": seed, "hidden": hidden}
                rows.append({**row, **found.to_dict(), **use})
    return rows


def slot(name: str) -> Callable[[Utterance], str]:
    r"""Return a function from an utterance to the value of a slot of its intent, or ``""``.

    Examples
    --------
    >>> order = Utterance("a", "a.wav", label="coffeeDrink=latte;size=large")
    >>> slot("size")(order), slot("roast")(order)
    ('large', '')
    """

    def value(utterance: Utterance) -> str:
        pairs = (part.partition("=") for part in utterance.label.split(";"))
        return next((found.strip() for key, _, found in pairs if key.strip() == name), "")

    return value
