r"""Codecs at every rate they have, on the same clips: points, paired places, agreement of judges.

A place on a board is a mean over clips, and means have intervals; so neighbours are compared clip
by clip, and the clips are resampled to see how often each codec would have had each place. Two
judges agree as far as they rank systems alike:

.. math:: \rho = \operatorname{corr}(\operatorname{rank} a, \operatorname{rank} b)
          \qquad \text{[Spearman 1904]}

Notebook 35. Leaves out: one figure for everything, which would need
weights that nobody has. Read next: ``speed.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from codec_lib.codecs.base import Codec

from .judges import JudgedClip, Score, clip_through
from .results import bootstrap_interval


@dataclass(frozen=True)
class Point:
    r"""A codec at one rate.

    Attributes
    ----------
    codec
        Name.
    bitrate
        bit/s, lengths included.
    n_q
        Codebooks; None for all.
    token_rate
        Tokens per second, Hz; None for the codec's frame rate.
    """

    codec: str
    bitrate: float
    n_q: int | None = None
    token_rate: float | None = None

    @property
    def label(self) -> str:
        """The codec's name, and what was chosen where there was a choice."""
        if self.token_rate is not None:
            return f"{self.codec}, {self.token_rate:g} Hz"
        plural = "s" if self.n_q != 1 else ""
        return f"{self.codec}, {self.n_q} codebook{plural}" if self.n_q else self.codec


def points_of(
    name: str,
    codec: Codec,
    counts: Sequence[int] = (1, 2, 4, 8),
    token_rates: Sequence[float] = (20, 40, 57, 80),
) -> list[Point]:
    r"""Return the rates at which a codec is measured.

    Parameters
    ----------
    name
        As it is called on the board.
    codec
        With several codebooks it is measured at ``counts``, with a dynamic rate at ``token_rates``,
        else at the only rate it has.
    counts
        Numbers of codebooks; those that it does not have are left out.
    token_rates
        Hz; those that it does not have are left out.

    Returns
    -------
    list[Point]
        By rising bitrate.

    Examples
    --------
    >>> import codec_lib
    >>> [p.bitrate for p in points_of("st", codec_lib.build("speechtokenizer", "smoke"), (1, 8))]
    [300.0, 2400.0]
    """
    if codec.max_length > 1:
        has = [rate for rate in token_rates if codec.slowest_rate <= rate <= codec.frame_rate]
        found = [Point(name, codec.bitrate(None, rate), None, rate) for rate in has]
    elif codec.num_quantizers > 1:
        has = [count for count in counts if 1 <= count <= codec.num_quantizers]
        found = [Point(name, codec.bitrate(count), count) for count in has]
    else:
        found = [Point(name, codec.bitrate())]
    if not found:
        raise ValueError(
            f"{name}: got {list(counts)} and {list(token_rates)} Hz, of which it has none"
        )
    return sorted(found, key=lambda point: point.bitrate)


def through(codec: Codec, point: Point, clips: Sequence[JudgedClip]) -> list[JudgedClip]:
    r"""Send clips through a codec at one of its points.

    Clips of another sample rate than the codec's are resampled on the way in and out, so that all
    codecs are judged on the same samples.

    Parameters
    ----------
    codec
        In eval mode.
    point
        Of ``points_of``.
    clips
        See ``judges.clips_of``.

    Returns
    -------
    list[JudgedClip]
        As they come out, at the clips' own rate and length, each with its original, text and voice.
    """
    return [clip_through(codec, clip, point.n_q, point.token_rate)[0] for clip in clips]


def nearest_rates(points: Sequence[Point], bitrate: float) -> list[Point]:
    r"""Return of each codec the point whose bitrate is nearest to one, by ratio.

    Parameters
    ----------
    points
        Of several codecs.
    bitrate
        bit/s.

    Examples
    --------
    >>> points = [Point("a", 500), Point("a", 2000), Point("b", 90)]
    >>> [p.bitrate for p in nearest_rates(points, 1100)]
    [2000, 90]
    """
    by_codec: dict[str, list[Point]] = {}
    for point in points:
        by_codec.setdefault(point.codec, []).append(point)
    return [
        min(own, key=lambda point: abs(math.log(point.bitrate / bitrate)))
        for own in by_codec.values()
    ]


def in_order(scores: Mapping[str, Score]) -> list[str]:
    r"""Return names by their mean, the best first; who has no score comes last."""
    sign = {name: 1 if score.higher_is_better else -1 for name, score in scores.items()}
    means = {name: sign[name] * _mean(score) for name, score in scores.items()}
    return sorted(means, key=lambda name: -np.nan_to_num(means[name], nan=-np.inf))


def steps(scores: Mapping[str, Score]) -> list[tuple[str, str, float, float, float]]:
    r"""Compare each place of a board with the next, clip by clip.

    Parameters
    ----------
    scores
        By name, of one measure, on the same clips in the same order.

    Returns
    -------
    list[tuple[str, str, float, float, float]]
        The better one by the mean, the next one, and by how much it is better (positive whichever
        way the measure counts): mean, low and high (95 %) over clips that both have.

    Raises
    ------
    ValueError
        If the numbers of clips differ.
    """
    if len({len(score.values) for score in scores.values()}) != 1:
        sizes = {name: len(score.values) for name, score in scores.items()}
        raise ValueError(f"scores: got {sizes} clips, expected the same clips for all")
    rows = []
    for one, other in pairwise(in_order(scores)):
        rows.append((one, other, *paired(scores[one], scores[other])))
    return rows


def paired(one: Score, other: Score) -> tuple[float, float, float]:
    r"""Return by how much one is better than another, clip by clip: mean, low and high (95 %)."""
    difference = one.spread() - other.spread()
    good = difference[np.isfinite(difference)] * (1 if one.higher_is_better else -1)
    return (float(good.mean()) if good.size else math.nan), *bootstrap_interval(good)


def place_shares(
    scores: Mapping[str, Score], resamples: int = 2000, seed: int = 0
) -> tuple[list[str], np.ndarray]:
    r"""Return how often each name has each place when the clips are drawn again.

    Parameters
    ----------
    scores
        As in ``steps``.
    resamples, seed
        Number of draws, and their seed.

    Returns
    -------
    tuple[list[str], numpy.ndarray]
        Names in the order of their means, and shares (C, C): rows are names, columns places, and
        both sum to 1.
    """
    names = in_order(scores)
    values = np.array([scores[name].spread() for name in names])  # (C, N)
    good = np.isfinite(values).all(axis=0)  # clips that all have
    sign = 1 if scores[names[0]].higher_is_better else -1
    rng = np.random.default_rng(seed)
    drawn = rng.integers(good.sum(), size=(resamples, good.sum()))
    means = sign * values[:, good][:, drawn].mean(axis=-1)  # (C, R)
    places = (-means).argsort(axis=0, kind="stable").argsort(axis=0)  # (C, R)
    return names, np.array([(places == place).mean(axis=1) for place in range(len(names))]).T


def rank_correlations(means: np.ndarray) -> np.ndarray:
    r"""Return Spearman's correlation of judges over systems.

    Parameters
    ----------
    means
        Shape (J, S): of each judge, what it says of each system, larger is better.

    Returns
    -------
    numpy.ndarray
        Shape (J, J), from -1 to 1; NaN where a judge gives all systems the same.

    Examples
    --------
    >>> rank_correlations(np.array([[1.0, 2.0, 3.0], [1.0, 4.0, 9.0]])).round(3).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    ranks = np.array([_ranks(row) for row in np.asarray(means, dtype=np.float64)])
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    norms = np.sqrt((centred**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return centred @ centred.T / np.outer(norms, norms)


def _ranks(row: np.ndarray) -> np.ndarray:
    """Return ranks from 0; equal values share their mean rank."""
    below = (row[:, None] > row[None, :]).sum(axis=1)
    return below + ((row[:, None] == row[None, :]).sum(axis=1) - 1) / 2


def _mean(score: Score) -> float:
    values = score.spread()
    good = values[np.isfinite(values)]
    return float(good.mean()) if good.size else math.nan
