r"""What it costs to let one token stand for s frames, for every s and every place.

[CodecSlime], Eq. (2): a segment's frames are replaced by their mean, and the cost is the sum of
their distances to it. Every such distance follows from those between the segment's frames,

.. math:: \|h_a - \bar h\|^2 = \frac{1}{s} \sum_b \|h_a - h_b\|^2
          - \frac{1}{s^2} \sum_{b < c} \|h_b - h_c\|^2,

so U - 1 distances a frame, to the U - 1 frames before it, give all costs, and the features are read
once. Differences are taken before squaring: expanding the squares loses digits where features
share an offset. Notebook: 14_codecslime. Leaves out: cosine and learnt costs. Read next:
``schedule.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codec_lib.shapes import check_shape

COSTS = ("paper", "released", "squared")
MAX_LENGTH = 8  # frames; pair distances grow with its square
CHUNK_ELEMENTS = 1 << 22  # of one temporary: 16 MiB


def segment_costs(z: Tensor, max_length: int = 4, cost: str = "paper") -> Tensor:
    r"""Return the cost of every segment.

    ============== ==================================== =========================================
    ``cost``       of a segment of s frames             source
    ============== ==================================== =========================================
    ``"paper"``    sum of distances to the mean, L      Eq. (2)
    ``"released"`` L (s - 1) / s                        the released scheduler's default
    ``"squared"``  sum of squared distances to the mean k-means' own, additive in bits at high rate
    ============== ==================================== =========================================

    Parameters
    ----------
    z
        Features, shape (B, F, D), any floating dtype; differences are taken in float32.
    max_length
        Longest segment U, 1 to 8 frames.
    cost
        See the table.

    Returns
    -------
    Tensor
        Shape (B, U, F), float32: entry (b, s - 1, j) is the segment of s frames whose last one is
        frame j; infinite where it would begin before the first frame.

    Raises
    ------
    TypeError, ValueError
        If the features are no finite floating tensor (B, F, D), or an argument is out of range.

    Notes
    -----
    Extra memory: 16 MiB and 2 U + 4 numbers a frame.

    Examples
    --------
    >>> steps = torch.tensor([0.0, 2.0, 2.0]).reshape(1, 3, 1)
    >>> segment_costs(steps, max_length=2)
    tensor([[[0., 0., 0.],
             [inf, 2., 0.]]])
    """
    check_features(z)
    check_options(max_length, cost)
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        apart = _distances_to_the_past(z, max_length)  # ||h_j - h_(j-k)||^2, (B, U - 1, F)
        table = z.new_full((z.shape[0], max_length, z.shape[1]), torch.inf, dtype=torch.float32)
        table[:, 0] = 0
        for s in range(2, min(max_length, z.shape[1]) + 1):
            table[:, s - 1, s - 1 :] = _cost(apart, s, cost)
    return table


def check_features(z: Tensor) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless z is floating and (B, F, D) with F >= 1."""
    check_shape(z, "B F D", name="z")
    if not z.is_floating_point():
        raise TypeError(f"z: got dtype {z.dtype}, expected floating-point features")
    if not z.shape[1]:
        raise ValueError("z: got no frames, expected at least one")


def check_options(max_length: int, cost: str) -> None:
    """Raise ``TypeError`` or ``ValueError`` for a length that is not 1 to 8 or an unknown cost."""
    if isinstance(max_length, bool) or not isinstance(max_length, int):
        raise TypeError(f"max_length: got {max_length!r}, expected a whole number of frames")
    if not 1 <= max_length <= MAX_LENGTH:
        raise ValueError(f"max_length: got {max_length}, expected 1 to {MAX_LENGTH} frames")
    if cost not in COSTS:
        raise ValueError(f"cost: got {cost!r}, expected one of {', '.join(COSTS)}")


def _distances_to_the_past(z: Tensor, max_length: int) -> Tensor:
    """Return squared distances (B, U - 1, F) to the frame k before, k = 1 to U - 1, 0 if none."""
    batch, frames, width = z.shape
    apart = z.new_zeros(batch, max_length - 1, frames, dtype=torch.float32)
    step = max(1, CHUNK_ELEMENTS // (batch * width))
    for k in range(1, min(max_length, frames)):
        for start in range(k, frames, step):
            now = z[:, start : start + step].float()
            past = z[:, start - k : start - k + now.shape[1]].float()
            apart[:, k - 1, start : start + step] = (now - past).square_().sum(dim=2)
    return apart


def _cost(apart: Tensor, s: int, cost: str) -> Tensor:
    """Return the costs (B, F - s + 1) of segments of s frames by their last frame."""
    last = apart.shape[2]

    def pair(
        a: int, b: int
    ) -> Tensor:  # between a and b > a frames before the last: (B, F - s + 1)
        return apart[:, b - a - 1, s - 1 - a : last - a]

    every = {(a, b): pair(a, b) for b in range(s) for a in range(b)}
    scatter = torch.stack([*every.values()]).sum(dim=0) / s  # sum of squared distances to the mean
    if cost == "squared":
        return scatter
    total = torch.zeros_like(scatter)
    for a in range(s):
        to_others = torch.stack([one for pair_of, one in every.items() if a in pair_of]).sum(dim=0)
        total += ((to_others - scatter) / s).clamp_min(0).sqrt()
    return total if cost == "paper" else total * ((s - 1) / s)
