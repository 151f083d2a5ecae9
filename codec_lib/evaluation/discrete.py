r"""Discrete against continuous: the forms of features on the way to a token, and what they cost.

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
``joined N, V``      and byte-pair encoded to V units
===================  ===========================================================================

The rate is R = C log2(V) R_s, the studies' formula, with R_s counted after merging. Notebook 33.
Leaves out: the heads (``form_heads.py``). Read next: ``form_heads.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codec_lib.data import Corpus, Utterance
from codec_lib.teachers.kmeans import KMeans, fit_kmeans

from .bpe import PairEncoding
from .ngrams import deduplicate

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
    num_units: Sequence[int | KMeans],
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
        N of each k-means, or one that is fitted already.
    vocabularies
        V of each byte-pair encoding; those above N.
    max_frames, seed
        Of k-means.

    Returns
    -------
    list[Form]
        ``continuous``, then for every N its centroids, units, merged and joined units.
    """
    found = [Form("continuous", lambda features: features)]
    good = [one for one in heard if one is not None]
    for one in num_units:
        kmeans = one if isinstance(one, KMeans) else fit_kmeans(good, one, max_frames, seed)
        found += _forms_of_units(kmeans, good, [v for v in vocabularies if v > kmeans.num_units])
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

        forms.append(Form(f"joined {size}, {wanted}", encoded, encoding.vocabulary))
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


def pace(known: Corpus) -> Callable[[Utterance], str]:
    r"""Return a function that says whether an utterance is longer than the median of its label.

    Parameters
    ----------
    known
        Where the median durations come from.

    Returns
    -------
    Callable
        Function from an utterance, of this corpus or another, to ``"slow"`` or ``"fast"``;
        ``""`` for a label without a median or a file that cannot be read.
    """
    spans: dict[str, list[float]] = {}
    for index, utterance in enumerate(known):
        spans.setdefault(utterance.label, []).append(known.length(index) / known.sample_rate)

    def value(utterance: Utterance) -> str:
        seconds = Corpus("one", [utterance], known.sample_rate).length(0) / known.sample_rate
        if not seconds or utterance.label not in spans:
            return ""
        return "slow" if seconds > np.median(spans[utterance.label]) else "fast"

    return value
