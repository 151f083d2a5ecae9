r"""Averaged weights: a second copy of the codec that trails the first one.

The average is what is validated and shipped: at a constant learning rate it sounds like a run whose
learning rate was already lowered. Codebooks that are trained by moving averages are buffers; they
are copied, not averaged a second time, because a revived code jumps and has no useful mean.

Read next: ``batches.py``.
"""

from __future__ import annotations

import copy

import torch
from torch import nn


class AveragedWeights:
    r"""Keep an exponential moving average of a module's parameters.

    .. math:: \bar\theta_t = d_t \bar\theta_{t-1} + (1 - d_t) \theta_t, \quad
        d_t = \min(d, t / (t + 10))

    with d ``decay`` and t the number of updates, so that the start is forgotten quickly.

    Parameters
    ----------
    module
        The module in training; it is copied once.
    decay
        d in [0, 1); 0 makes the average equal to the module.

    Attributes
    ----------
    module
        The averaged copy, in eval mode, without gradients.

    Examples
    --------
    >>> average = AveragedWeights(nn.Linear(1, 1), decay=0.9)
    >>> average.update(nn.Linear(1, 1), step=0)
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        r"""Move the average towards the module after training step ``step`` (counted from 0)."""
        decay = min(self.decay, step / (step + 10))  # 10: half-trust after ten steps
        averages, values = list(self.module.parameters()), list(module.parameters())
        torch._foreach_lerp_(averages, [value.detach() for value in values], 1 - decay)
        for average, value in zip(self.module.buffers(), module.buffers(), strict=True):
            average.copy_(value)
