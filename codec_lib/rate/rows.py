r"""The table of the scheduler as tensor operations: a whole padded batch, on any device.

One row of the recurrence at a time, see ``schedule.py``. Notebook: 14_codecslime. Leaves out: the
band. Read next: ``compiled.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def solve_by_rows(costs: Tensor, frames: Tensor, segments: Tensor) -> Tensor:
    r"""Return the best lengths of a padded batch.

    Parameters
    ----------
    costs
        Costs of segments, shape (B, U, F), see ``segment_costs``.
    frames, segments
        F_b and K_b of each item, shape (B,), int64, on the host.

    Returns
    -------
    Tensor
        Shape (B, K), int64, on the device of the costs; 0 after an item's last segment.
    """
    batch, reach, width = costs.shape
    rows, saved = int(segments.max()), int((frames - segments).max())
    beyond = max(0, rows + saved - width)
    costs = torch.nn.functional.pad(costs.double(), (0, beyond), value=torch.inf)
    row = costs.new_full((batch, reach + saved), torch.inf)  # U - 1 cells, then e = 0 .. E
    row[:, reach - 1] = 0
    choices = torch.empty(rows, batch, saved + 1, dtype=torch.uint8, device=costs.device)
    for i in range(1, rows + 1):
        before = row.unfold(1, reach, 1).flip(2)  # [e, r] = D_(i-1)[e - r]: (B, E + 1, U)
        total = before + costs[:, :, i - 1 : i + saved].transpose(1, 2)
        choices[i - 1] = total.argmin(dim=2)  # the first of equals
        row = torch.nn.functional.pad(total.amin(dim=2), (reach - 1, 0), value=torch.inf)
    segments = segments.to(costs.device)
    e = frames.to(costs.device) - segments
    lengths = torch.zeros(batch, rows, dtype=torch.int64, device=costs.device)
    for i in range(rows, 0, -1):
        active = i <= segments
        taken = choices[i - 1].gather(1, e[:, None])[:, 0].long() * active
        lengths[:, i - 1] = (taken + 1) * active
        e = e - taken
    return lengths
