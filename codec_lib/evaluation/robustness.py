r"""How far units change when only the voice, the room or the noise does: unit edit distance.

Deduplicated units of a recording and of a changed one are compared by the edits that turn one into
the other [Gat et al. 2023]. Two lengths to divide by are in use, so both are given and named.
Notebook: 21. Leaves out: the changes themselves (``teachers/perturbation.py``).
Read next: ``units.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from .ngrams import deduplicate
from .results import summarise

Perturbation = Callable[[Tensor, int, np.random.Generator], Tensor]  # (1, T), Hz -> (1, T)


def robustness(
    units: Mapping[int, Tensor], changed: Mapping[int, Tensor], name: str
) -> dict[str, float]:
    r"""Compare the units of recordings with those of the same recordings after a change.

    .. math:: \mathrm{UED} = \mathrm{lev}\bigl(\mathrm{dedup}(u(x)), \mathrm{dedup}(u(g(x)))\bigr)
              \; / \; \text{length} \qquad \text{[Gat et al. 2023]}

    Parameters
    ----------
    units, changed
        By the utterance's number, (F,) each; where none is changed, the change failed.
    name
        Of the change; begins the keys.

    Returns
    -------
    dict[str, float]
        Means over utterances with their intervals, see ``summarise``: ``<name>_ued_units``, edits
        by deduplicated units of the original; ``<name>_ued_frames``, by its frames, as published;
        ``<name>_agreement``, share of frames with the same unit, left out where the change moved
        them.
    """
    by_units, by_frames, same = [], [], []
    for index, frames in units.items():
        others = changed.get(index, frames[:0])
        first, second = deduplicate(frames), deduplicate(others)
        edits = unit_edit_distance(first, second) if len(others) else math.nan
        by_units.append(edits / len(first))
        by_frames.append(edits / len(frames))
        kept = len(others) == len(frames)
        same.append(float((frames == others).double().mean()) if kept else math.nan)
    row = summarise(by_units, f"{name}_ued_units") | summarise(by_frames, f"{name}_ued_frames")
    if not all(map(math.isnan, same)):
        row |= summarise(same, f"{name}_agreement")
    return row


def unit_edit_distance(first: Tensor, second: Tensor) -> int:
    r"""Count the fewest units to insert, delete or replace to turn one sequence into another.

    A row of the table [Wagner & Fischer 1974] at a time: what the row above allows, then the best
    of it with insertions, a running minimum of the cost less the place.

    Parameters
    ----------
    first, second
        Shape (F,) each; lengths may differ.

    Examples
    --------
    >>> import torch
    >>> unit_edit_distance(torch.tensor([1, 2, 3]), torch.tensor([2, 3, 4]))
    2
    """
    across = second.numpy()
    places = np.arange(len(across) + 1)
    row = places.copy()
    for deleted, unit in enumerate(first.tolist(), 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (across != unit))
        row = np.concatenate(([deleted], best)) - places
        row = np.minimum.accumulate(row) + places
    return int(row[-1])
