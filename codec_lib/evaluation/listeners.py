r"""What a panel of listeners found: screening, means, paired differences, and listeners made up.

Scores vary for three reasons: listeners differ, utterances differ, and nobody scores the same thing
twice alike. With L listeners and U utterances the mean of a condition, or of a difference, has

.. math:: \operatorname{Var} \approx \frac{\sigma_L^2}{L} + \frac{\sigma_U^2}{U}
          + \frac{\sigma^2}{L U},

so an interval that takes all L U scores as independent is too narrow. Here listeners and utterances
are resampled independently of each other, as in [Owen 2007, the pigeonhole bootstrap].

Screening: [ITU-R BS.1534-3], §4.1.2. Notebook 35. Leaves out: analysis
of variance, rank tests. Read next: ``leaderboard.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from .mushra import REFERENCE, Design, Rating, Session

FLOOR, SHARE = 90, 0.15  # a hidden reference below this, on more than this share of the trials


@dataclass(frozen=True)
class Panel:
    r"""Scores of a panel.

    Attributes
    ----------
    listeners, utterances, conditions
        Names of the three axes.
    scores
        Shape (L, U, C), 0 to 100; NaN where a listener has not come so far.
    excluded
        Listeners who were screened out, and why, in words.
    """

    listeners: tuple[str, ...]
    utterances: tuple[str, ...]
    conditions: tuple[str, ...]
    scores: np.ndarray
    excluded: Mapping[str, str]

    def of(self, condition: str) -> np.ndarray:
        """Return the scores (L, U) of a condition."""
        if condition not in self.conditions:
            raise ValueError(f"condition: got {condition!r}, expected one of {self.conditions}")
        return self.scores[:, :, self.conditions.index(condition)]


def panel_of(ratings: Sequence[Rating], design: Design) -> Panel:
    r"""Arrange ratings by listener, utterance and condition; nobody is screened out yet.

    Raises
    ------
    ValueError
        If there are none.
    """
    if not ratings:
        raise ValueError("ratings: got none, expected at least one finished trial")
    listeners = tuple(dict.fromkeys(one.listener for one in ratings))
    scores = np.full((len(listeners), len(design.utterances), len(design.conditions)), np.nan)
    for one in ratings:
        place = design.utterances.index(one.utterance), design.conditions.index(one.condition)
        scores[(listeners.index(one.listener), *place)] = one.score
    return Panel(listeners, design.utterances, design.conditions, scores, {})


def screen(panel: Panel, floor: float = FLOOR, share: float = SHARE) -> Panel:
    r"""Leave out listeners who did not hear the hidden reference.

    Parameters
    ----------
    panel
        Of ``panel_of``.
    floor
        A hidden reference scored below it counts as not heard.
    share
        Of the listener's trials; who exceeds it is left out.

    Returns
    -------
    Panel
        Of the others; ``excluded`` says of each why.

    Raises
    ------
    ValueError
        If nobody is left.

    Notes
    -----
    The recommendation has a second rule, for listeners who score the mid anchor above 90. In speech
    of 16 kHz there is next to nothing above 7 kHz to be missed, so it would exclude good listeners.
    """
    low, excluded = panel.of(REFERENCE) < floor, {}
    heard = np.isfinite(panel.of(REFERENCE)).sum(axis=1)
    for listener, missed, trials in zip(panel.listeners, low.sum(axis=1), heard, strict=True):
        if missed > share * trials:
            excluded[listener] = (
                f"scored the hidden reference below {floor:g} on {missed} of {trials} trials, "
                f"more than {share:.0%}"
            )
    kept = [i for i, name in enumerate(panel.listeners) if name not in excluded]
    if not kept:
        raise ValueError(
            f"listeners: got all {len(panel.listeners)} excluded, expected one or more"
        )
    names = tuple(panel.listeners[i] for i in kept)
    every = {**panel.excluded, **excluded}
    return replace(panel, listeners=names, scores=panel.scores[kept], excluded=every)


def two_way_interval(
    values: np.ndarray, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    r"""Return the mean of scores and its interval, resampling both listeners and utterances.

    Parameters
    ----------
    values
        Shape (L, U), of listeners and utterances; NaN where there is none.
    confidence
        Share of the resampled means inside.
    resamples, seed
        Number of resampled means; seed of their choice.

    Returns
    -------
    tuple[float, float, float]
        Mean, low, high; the latter two NaN for fewer than two listeners or utterances.

    Examples
    --------
    >>> two_way_interval(np.array([[1.0, 2.0], [3.0, 4.0]]))[0]
    2.5
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 2 or not np.isfinite(data).any():
        raise ValueError(f"values: got shape {data.shape}, expected scores (listeners, utterances)")
    there = np.isfinite(data).astype(np.float64)
    filled = np.where(there > 0, data, 0.0)
    mean = float(filled.sum() / there.sum())
    if min(data.shape) < 2:
        return mean, np.nan, np.nan
    rng = np.random.default_rng(seed)
    rows, columns = (_counts(rng, size, resamples) for size in data.shape)  # (R, L), (R, U)
    totals = np.einsum("rl,lu,ru->r", rows, filled, columns, optimize=True)
    numbers = np.einsum("rl,lu,ru->r", rows, there, columns, optimize=True)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(totals[numbers > 0] / numbers[numbers > 0], [tail, 100 - tail])
    return mean, float(low), float(high)


def _counts(rng: np.random.Generator, size: int, resamples: int) -> np.ndarray:
    """Draw how often each of ``size`` things is in each resample, (resamples, size)."""
    return rng.multinomial(size, np.full(size, 1 / size), resamples).astype(np.float64)


def variance_parts(values: np.ndarray) -> np.ndarray:
    r"""Return what listeners, utterances and the rest contribute to the spread of scores.

    .. math:: \hat\sigma^2 = M, \quad \hat\sigma_L^2 = \frac{M_L - M}{U}, \quad
              \hat\sigma_U^2 = \frac{M_U - M}{L}

    with the mean squares of rows, of columns and of the rest [Fisher 1925]; negative estimates
    become 0.

    Parameters
    ----------
    values
        Shape (L, U), all finite, L and U at least 2.

    Returns
    -------
    numpy.ndarray
        :math:`\sigma_L^2, \sigma_U^2, \sigma^2`.

    Raises
    ------
    ValueError
        If there are fewer scores, or one is missing.

    Examples
    --------
    >>> variance_parts(np.array([[0.0, 0.0], [2.0, 2.0]])).tolist()
    [2.0, 0.0, 0.0]
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or min(x.shape) < 2 or not np.isfinite(x).all():
        raise ValueError(f"values: got shape {x.shape}, expected finite scores, at least 2 by 2")
    rows, columns = x.mean(axis=1, keepdims=True), x.mean(axis=0, keepdims=True)
    listeners, utterances = x.shape
    rest = ((x - rows - columns + x.mean()) ** 2).sum() / ((listeners - 1) * (utterances - 1))
    of_listeners = rows.var(ddof=1) - rest / utterances
    return np.array([of_listeners, columns.var(ddof=1) - rest / listeners, rest]).clip(0)


def condition_means(panel: Panel, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    r"""Return mean, low and high of each condition, the best first."""
    found = {name: two_way_interval(panel.of(name), seed=seed) for name in panel.conditions}
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


def condition_differences(
    panel: Panel, pairs: Sequence[tuple[str, str]] | None = None, seed: int = 0
) -> dict[tuple[str, str], tuple[float, float, float]]:
    r"""Return how much higher one condition is scored than another, by the same ears in one trial.

    Parameters
    ----------
    panel
        Screened.
    pairs
        Of conditions; None takes neighbours in the order of ``condition_means``.
    seed
        Of the resampling.

    Returns
    -------
    dict[tuple[str, str], tuple[float, float, float]]
        Mean, low and high of the paired differences, first less second.
    """
    pairs = list(pairwise(condition_means(panel, seed))) if pairs is None else pairs
    return {
        (one, other): two_way_interval(panel.of(one) - panel.of(other), seed=seed)
        for one, other in pairs
    }


@dataclass(frozen=True)
class Simulated:
    r"""How made-up listeners score: no model of hearing, a test of the analysis.

    A listener's score of something of quality q is
    :math:`50 + g_l (q - 50) + b_l + c_{lu} + \varepsilon`, rounded and kept within 0 to 100.
    Careless ones score at random. The hidden reference is recognised and gets 100, or it is missed
    and scored like the rest.

    Attributes
    ----------
    gain
        Lowest and highest of :math:`g_l`, evenly drawn.
    bias, mood, noise
        Standard deviations of :math:`b_l`, of :math:`c_{lu}` (one for all letters of a trial) and
        of :math:`\varepsilon`.
    missed
        Probability that the hidden reference is not recognised.
    """

    gain: tuple[float, float] = (0.7, 1.1)
    bias: float = 6.0
    mood: float = 3.0
    noise: float = 8.0
    missed: float = 0.02


def simulate(
    design: Design,
    quality: np.ndarray,
    path: str | Path,
    attentive: int = 12,
    careless: int = 2,
    how: Simulated | None = None,
    seed: int = 0,
) -> list[str]:
    r"""Let made-up listeners sit the test; they are named ``simulated 01`` and so on.

    Parameters
    ----------
    design
        The test.
    quality
        Shape (U, C), 0 to 100, in the order of the design: what a listener without faults would
        say.
    path
        File of ratings.
    attentive, careless
        Number of listeners of either kind; the careless ones come last.
    how
        How they score; None takes the defaults of ``Simulated``.
    seed
        Of their scores.

    Returns
    -------
    list[str]
        Their names.

    Raises
    ------
    ValueError
        If the shape of ``quality`` does not fit, or a value is not within 0 to 100.
    """
    how, quality = how or Simulated(), np.asarray(quality, dtype=np.float64)
    shape = (len(design.utterances), len(design.conditions))
    if quality.shape != shape or not ((quality >= 0) & (quality <= 100)).all():
        raise ValueError(f"quality: got shape {quality.shape}, expected {shape}, from 0 to 100")
    names = [f"simulated {number + 1:02d}" for number in range(attentive + careless)]
    for number, name in enumerate(names):
        rng = np.random.default_rng([seed, number])
        scores = _simulated_scores(quality, design, how, rng, number >= attentive)
        session = Session(design, name, path, "simulated")
        while (trial := session.trial) is not None:
            row = design.utterances.index(trial.utterance)
            for letter, condition in trial.letters.items():
                session.rate(letter, scores[row, design.conditions.index(condition)])
            session.next_trial()
    return names


def _simulated_scores(
    quality: np.ndarray, design: Design, how: Simulated, rng: np.random.Generator, careless: bool
) -> np.ndarray:
    """Draw what one listener says, (U, C)."""
    if careless:
        return rng.integers(0, 101, quality.shape)
    gain, bias = rng.uniform(*how.gain), how.bias * rng.standard_normal()
    mood = how.mood * rng.standard_normal((len(quality), 1))
    heard = (
        50 + gain * (quality - 50) + bias + mood + how.noise * rng.standard_normal(quality.shape)
    )
    heard = heard.round().clip(0, 100)
    recognised = rng.random(len(quality)) >= how.missed
    heard[recognised, design.conditions.index(REFERENCE)] = 100
    return heard
