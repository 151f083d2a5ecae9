r"""How predictable a sequence of units is: n-gram models with Witten-Bell smoothing.

The perplexity that an n-gram model has on sequences it never saw is the cheapest measure of how
well a language model will do on the same units [Chang et al. 2025, DC-Spin]. Smoothing: [Witten &
Bell 1991] in the interpolated form. Notebook: 21. Leaves out: pruning, Kneser-Ney.
Read next: ``robustness.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from .results import summarise


def deduplicate(units: Tensor) -> Tensor:
    r"""Keep the first of equal neighbours.

    Parameters
    ----------
    units
        Shape (F,).

    Returns
    -------
    Tensor
        Shape (at most F,).

    Examples
    --------
    >>> import torch
    >>> deduplicate(torch.tensor([3, 3, 1, 1, 1, 3])).tolist()
    [3, 1, 3]
    """
    return units.unique_consecutive()


class NgramModel:
    r"""Counts of all sequences of up to n units, and the probabilities they give the next one.

    .. math:: p_n(w \mid h) = \frac{c(h w) + t(h) \, p_{n-1}(w \mid h')}{c(h) + t(h)},
              \qquad p_0 = 1 / N \qquad \text{[Witten \& Bell 1991]}

    c counts, t(h) is how many different units follow h, and h' is h without its first unit. The
    more often a context was seen, the less the shorter one counts.

    Parameters
    ----------
    sequences
        To count, each (F,) int64, below N.
    num_units
        N.
    order
        Units of the longest sequences counted: 2 for a bigram model.

    Raises
    ------
    ValueError
        If there is nothing to count, or a unit is no such thing.

    Examples
    --------
    >>> import torch
    >>> model = NgramModel([torch.tensor([0, 1, 0, 1])], num_units=2, order=2)
    >>> [round(float(p), 3) for p in model.probabilities(torch.tensor([1, 0]))]
    [0.25, 0.75]
    """

    def __init__(self, sequences: Sequence[Tensor], num_units: int, order: int = 2) -> None:
        self.num_units, self.order = num_units, order
        if not sum(map(len, sequences)):
            raise ValueError(f"sequences: got no units in {len(sequences)}, expected some")
        if (num_units + 1) ** order >= 2**63:
            raise ValueError(f"order: got {order} for {num_units} units, expected a smaller one")
        self._levels = []
        for size in range(1, order + 1):
            seen = np.concatenate([self._numbers(one, size) for one in sequences])
            grams, counts = np.unique(seen, return_counts=True)
            contexts, where, types = np.unique(
                grams // (num_units + 1), return_inverse=True, return_counts=True
            )
            totals = np.bincount(where, counts)
            self._levels.append((grams, counts, contexts, totals, types))

    def _numbers(self, sequence: Tensor, size: int) -> np.ndarray:
        """Number the ``size`` units that end at each place; N stands before the beginning."""
        units = sequence.cpu().numpy().astype(np.int64)
        if len(units) and not 0 <= units.min() <= units.max() < self.num_units:
            raise ValueError(
                f"units: got {units.min()} to {units.max()}, expected 0 to {self.num_units - 1}"
            )
        padded = np.concatenate([np.full(size - 1, self.num_units), units])
        numbers = np.zeros(len(units), dtype=np.int64)
        for back in range(size):
            numbers = numbers * (self.num_units + 1) + padded[back : back + len(units)]
        return numbers

    def probabilities(self, sequence: Tensor) -> np.ndarray:
        r"""Return the probability of each unit given those before it, shape (F,), float64."""
        p = np.full(len(sequence), 1 / self.num_units)
        for size, (grams, counts, contexts, totals, types) in enumerate(self._levels, 1):
            numbers = self._numbers(sequence, size)
            count = _look_up(numbers, grams, counts)
            context = numbers // (self.num_units + 1)
            total, kinds = _look_up(context, contexts, totals), _look_up(context, contexts, types)
            p = (count + np.where(total, kinds, 1) * p) / np.where(total, total + kinds, 1)
        return p

    def bits(self, sequence: Tensor) -> float:
        r"""Return what a sequence costs in an ideal code, in bit."""
        return float(-np.log2(self.probabilities(sequence)).sum())

    def perplexity(self, sequences: Sequence[Tensor]) -> float:
        r"""Return 2 to the power of the bit per unit, over all sequences together."""
        count = sum(map(len, sequences))
        if not count:
            raise ValueError(f"sequences: got no units in {len(sequences)}, expected some")
        return 2 ** (sum(map(self.bits, sequences)) / count)


def _look_up(wanted: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the value of each wanted key, 0 where there is none; keys are sorted."""
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def sequence_measures(
    known: Sequence[Tensor], tested: Sequence[Tensor], num_units: int, frame_rate: float = 50.0
) -> dict[str, float]:
    r"""Measure how predictable units are once equal neighbours are merged.

    Parameters
    ----------
    known
        Units (F,) of the utterances that the n-gram models learn from.
    tested
        Units of other utterances.
    num_units, frame_rate
        N; units per second before merging, Hz.

    Returns
    -------
    dict[str, float]
        ``bigram_perplexity``, ``trigram_perplexity`` over all tested units;
        ``units_per_second`` after merging and ``bigram_bits_per_second``, what the bigram model's
        ideal code needs (durations not counted), with intervals over utterances, see ``summarise``;
        ``ngram_units``, how many units the models learnt from. Utterances without frames are left
        out.

    Raises
    ------
    ValueError
        If there is nothing to learn from or to test.
    """
    known, tested = ([one for one in part if len(one)] for part in (known, tested))
    if not known or not tested:
        raise ValueError(
            f"units: got {len(known)} utterances to learn from and {len(tested)} to test, "
            "expected one or more of each"
        )
    learnt, held_out = ([deduplicate(one) for one in part] for part in (known, tested))
    bigrams, trigrams = (NgramModel(learnt, num_units, order) for order in (2, 3))
    seconds = [len(one) / frame_rate for one in tested]
    rates = [len(one) / t for one, t in zip(held_out, seconds, strict=True)]
    bits = [bigrams.bits(one) / t for one, t in zip(held_out, seconds, strict=True)]
    return {
        "bigram_perplexity": bigrams.perplexity(held_out),
        "trigram_perplexity": trigrams.perplexity(held_out),
        **summarise(rates, "units_per_second"),
        **summarise(bits, "bigram_bits_per_second"),
        "ngram_units": sum(map(len, learnt)),
    }
