r"""The scheduler as printed, one utterance and one cell after the other: slow, and easy to read.

[CodecSlime], Eqs. (2) and (3). It is what the fast forms are compared with. Notebook:
14_codecslime. Leaves out: batches. Read next: ``rows.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from codec_lib.rate.costs import check_features, check_options


def distortion(z: Tensor, lengths: Sequence[int] | Tensor, cost: str = "paper") -> float:
    r"""Return -J_h of Eq. (2): what a segmentation of one utterance costs, by the definition.

    Parameters
    ----------
    z
        Features, shape (1, F, D).
    lengths
        Frames of each segment, K numbers; zeros at the end are padding.
    cost
        See ``segment_costs``.

    Raises
    ------
    ValueError
        If the lengths are not at least 1 each, or do not sum to F.

    Examples
    --------
    >>> distortion(torch.tensor([[[0.0], [2.0], [2.0]]]), [2, 1])
    2.0
    """
    check_features(z)
    found = [int(length) for length in torch.as_tensor(lengths).flatten()]
    while found and found[-1] == 0:
        found.pop()
    if sum(found) != z.shape[1] or min(found) < 1:
        raise ValueError(f"lengths: got {found}, expected numbers >= 1 of sum {z.shape[1]}")
    total = 0.0
    for segment in z[0].double().split(found):  # each (s, D)
        total += _segment_cost(segment, cost)
    return total


def _segment_cost(segment: Tensor, cost: str) -> float:
    """Return the cost of one segment (s, D) from its frames' distances to their mean."""
    distances = (segment - segment.mean(dim=0)).norm(dim=1)
    if cost == "squared":
        return float(distances.square().sum())
    shape = 1 if cost == "paper" else (len(segment) - 1) / len(segment)
    return shape * float(distances.sum())


def schedule_by_recurrence(
    z: Tensor, num_segments: int, max_length: int = 4, cost: str = "paper"
) -> Tensor:
    r"""Find the best segmentation by the recurrence of Eq. (3), as printed.

    .. math:: d[j, i] = \max_{1 \le s \le U} \; d[j - s, i - 1] - L(j, s), \qquad d[0, 0] = 0

    d[j, i] is the best value of the first j frames in i segments, L(j, s) the cost of the segment
    of s frames that ends with frame j.

    Parameters
    ----------
    z
        Features of one utterance, shape (1, F, D).
    num_segments, max_length, cost
        As in ``schedule``.

    Returns
    -------
    Tensor
        Lengths, shape (1, K), int64. Of equal ways the one with the shorter last segment is taken.

    Raises
    ------
    TypeError, ValueError
        As in ``schedule``.

    Examples
    --------
    >>> schedule_by_recurrence(torch.tensor([[[0.0], [2.0], [2.0]]]), num_segments=2)
    tensor([[1, 2]])
    """
    check_features(z)
    check_options(max_length, cost)
    frames, rows = z.shape[1], z[0].double()
    if not frames <= max_length * num_segments <= max_length * frames:
        raise ValueError(
            f"num_segments: got {num_segments} for {frames} frames, expected "
            f"{-(-frames // max_length)} to {frames}"
        )
    d = [[-math.inf] * (num_segments + 1) for _ in range(frames + 1)]
    taken = [[0] * (num_segments + 1) for _ in range(frames + 1)]
    d[0][0] = 0.0
    for j in range(1, frames + 1):
        losses = [_segment_cost(rows[j - s : j], cost) for s in range(1, min(max_length, j) + 1)]
        for i in range(1, num_segments + 1):
            for s, loss in enumerate(losses, start=1):
                value = d[j - s][i - 1] - loss  # Eq. (3)
                if value > d[j][i]:
                    d[j][i], taken[j][i] = value, s
    lengths, j = [], frames
    for i in range(num_segments, 0, -1):
        lengths.append(taken[j][i])
        j -= taken[j][i]
    return torch.tensor([lengths[::-1]])
