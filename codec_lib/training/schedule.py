r"""Learning rate as a pure function of the step: linear warm-up, then half a cosine.

A function of the step has no state, so a resumed run cannot have a wrong one. The official trainer
of SpeechTokenizer anneals by cosine to 0 without warm-up; that is ``warmup_steps=0``.

Read next: ``averaging.py``.
"""

from __future__ import annotations

import math

from torch.optim import Optimizer


def lr_fraction(step: int, steps: int, warmup_steps: int = 0, final_fraction: float = 0.0) -> float:
    r"""Return the learning rate of a step as a fraction of the largest one.

    .. math:: f(s) = r + (1 - r) \tfrac12 (1 + \cos \pi \tfrac{s - w}{S - w}), \quad s \ge w

    and f(s) = (s + 1) / w before, with s ``step``, S ``steps``, w ``warmup_steps``, r
    ``final_fraction``.

    Parameters
    ----------
    step
        Step about to be taken, counted from 0.
    steps
        Length of the run.
    warmup_steps
        Steps of the linear rise.
    final_fraction
        Fraction at the end.

    Returns
    -------
    float
        In (0, 1], or 0 after the end where ``final_fraction`` is 0.

    Examples
    --------
    >>> [round(lr_fraction(step, 10, final_fraction=0.1), 2) for step in (0, 5, 10)]
    [1.0, 0.55, 0.1]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group of an optimiser the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
