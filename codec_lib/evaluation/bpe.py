r"""Byte-pair encoding of units: the commonest pair of neighbours becomes a unit of its own.

[Sennrich et al. 2016, BPE] on units instead of letters, as speech language models use it to shorten
sequences: a merge at a time, the commonest pair first. Units of one utterance never merge with the
next's. Notebook 33. Leaves out: sampling of segmentations. Read next: ``discrete.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_END = -1  # between utterances


class PairEncoding:
    r"""Merges of pairs, in order.

    Parameters
    ----------
    num_units
        Units N before any merge.
    pairs
        Each merge: the two units that become unit N, N + 1, and so on.

    Examples
    --------
    >>> encoding = PairEncoding.fit([torch.tensor([0, 1, 0, 1, 2])], 3, 4)
    >>> encoding.pairs, encoding(torch.tensor([2, 0, 1])).tolist()
    ([(0, 1)], [2, 3])
    """

    def __init__(self, num_units: int, pairs: Sequence[tuple[int, int]]) -> None:
        self.num_units, self.pairs = num_units, list(pairs)

    @property
    def vocabulary(self) -> int:
        """Units after all merges."""
        return self.num_units + len(self.pairs)

    @classmethod
    def fit(cls, sequences: Sequence[Tensor], num_units: int, vocabulary: int) -> PairEncoding:
        r"""Find merges.

        Parameters
        ----------
        sequences
            Units (F,) int64 of each utterance, below ``num_units``.
        num_units
            N.
        vocabulary
            Units wanted; fewer come out where no pair is left that occurs twice.

        Raises
        ------
        ValueError
            If the vocabulary is below N, or a unit is not.
        """
        if vocabulary < num_units:
            raise ValueError(f"vocabulary: got {vocabulary}, expected at least {num_units}")
        highest = max((int(one.max()) for one in sequences if len(one)), default=0)
        if highest >= num_units:
            raise ValueError(f"units: got {highest}, expected 0 to {num_units - 1}")
        flat = np.concatenate([np.append(one.numpy(), _END) for one in sequences])
        pairs: list[tuple[int, int]] = []
        while num_units + len(pairs) < vocabulary:
            inside = (flat[:-1] != _END) & (flat[1:] != _END)
            keys = flat[:-1][inside] * vocabulary + flat[1:][inside]
            found, counts = np.unique(keys, return_counts=True)
            if not len(counts) or counts.max() < 2:
                break
            pair = divmod(int(found[counts.argmax()]), vocabulary)
            flat = _merged(flat, pair, num_units + len(pairs))
            pairs.append(pair)
        return cls(num_units, pairs)

    def __call__(self, units: Tensor) -> Tensor:
        r"""Merge the units (F,) of an utterance, in the order in which merges were found."""
        merged = units.numpy()
        for number, pair in enumerate(self.pairs):
            merged = _merged(merged, pair, self.num_units + number)
        return torch.from_numpy(np.ascontiguousarray(merged))

    def undone(self, merged: Tensor) -> Tensor:
        r"""Return the units that merged ones (G,) stand for."""
        parts = {number: [number] for number in range(self.num_units)}
        for number, (left, right) in enumerate(self.pairs):
            parts[self.num_units + number] = parts[left] + parts[right]
        return torch.tensor([unit for one in merged.tolist() for unit in parts[one]])


def _merged(units: np.ndarray, pair: tuple[int, int], new: int) -> np.ndarray:
    """Replace a pair by a new unit, from the left on, wherever it stands."""
    first = np.flatnonzero((units[:-1] == pair[0]) & (units[1:] == pair[1]))
    if pair[0] == pair[1] and len(first):  # of a run of equal units every second place is taken
        starts = np.flatnonzero(np.diff(first, prepend=first[0] - 2) > 1)
        run = np.repeat(first[starts], np.diff(np.append(starts, len(first))))
        first = first[(first - run) % 2 == 0]
    if not len(first):
        return units
    made = units.copy()
    made[first] = new
    return np.delete(made, first + 1)
