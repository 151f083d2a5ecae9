r"""Melt and Cool [CodecSlime]: which segmentations a codec meets while it learns to live with them.

**Melt** draws random ones, at first the original rate, then more and more of the target mixture:

.. math:: d = (1 - \pi)\, e_1 + \pi\, p_{tgt}, \qquad \pi = \min(g / S_p, 1), \qquad
          p \sim \mathrm{Dirichlet}\big(c\, d / \max(1, g / S_p)^{2.5}\big)

p are the shares of segments of 1 to U frames in a batch, laid out in an order of its own for every
item. The page's pseudo-code gives what is left over by the ramp to the longest segment, so that
training would start at 20 Hz, against its own text; ``leftover="longest"`` is that form.

**Cool** draws nothing: the scheduler cuts every item as it will be cut in use. In both some inputs
stay as they are. Notebook: 14_codecslime. Leaves out: freezing (``training/config.py``). Read next:
``schedule.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codec_lib.rate.costs import check_options
from codec_lib.rate.schedule import num_segments_at, schedule

FLOOR = 1e-6  # of a share, before the Dirichlet draw
FADE = 2.5  # power by which the mixture loosens after the ramp


@dataclass(frozen=True)
class Melt:
    r"""Draw random segmentations, by training step.

    Attributes
    ----------
    target
        Shares p_tgt of segments of 1 to U frames at the end of the ramp; published for U = 4.
    ramp_steps
        Steps S_p until then.
    concentration
        c: higher draws stay closer to the mixture.
    bypass
        Share of batches that keep every frame.
    leftover
        Which length the ramp starts from: ``"shortest"``, or as printed ``"longest"``.

    Examples
    --------
    >>> melt = Melt(ramp_steps=100)
    >>> melt.mixture(0).tolist(), melt.mixture(100).tolist()
    ([1.0, 0.0, 0.0, 0.0], [0.1, 0.45, 0.25, 0.2])
    """

    target: Sequence[float] = (0.1, 0.45, 0.25, 0.2)
    ramp_steps: int = 100_000
    concentration: float = 30.0
    bypass: float = 0.5
    leftover: str = "shortest"

    def __post_init__(self) -> None:
        shares = tuple(self.target)
        if not (shares and min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6):
            raise ValueError(f"target: got {list(self.target)}, expected shares of sum 1")
        if self.leftover not in ("shortest", "longest"):
            raise ValueError(f"leftover: got {self.leftover!r}, expected 'shortest' or 'longest'")
        if not (0 <= self.bypass <= 1 and self.ramp_steps >= 1 and self.concentration > 0):
            raise ValueError(
                f"bypass, ramp_steps, concentration: got {self.bypass}, {self.ramp_steps}, "
                f"{self.concentration}; expected 0 to 1, at least 1, and more than 0"
            )

    def mixture(self, step: int) -> Tensor:
        """Return the expected shares d of a step, shape (U,), float64."""
        target = torch.tensor(tuple(self.target), dtype=torch.float64)
        start = torch.zeros_like(target)
        start[0 if self.leftover == "shortest" else -1] = 1
        ramp = min(step / self.ramp_steps, 1.0)
        return (1 - ramp) * start + ramp * target

    def draw(self, step: int, generator: torch.Generator) -> Tensor:
        """Draw shares p of segments by length, shape (U,), float64."""
        loosened = self.concentration / max(1.0, step / self.ramp_steps) ** FADE
        alpha = self.mixture(step).clamp_min(FLOOR) * loosened
        seed = int(torch.randint(2**63 - 1, (), generator=generator))  # torch's takes no generator
        return torch.from_numpy(np.random.default_rng(seed).dirichlet(alpha.numpy()))

    def lengths(self, step: int, batch: int, frames: int, generator: torch.Generator) -> Tensor:
        r"""Draw a batch's segmentation.

        Parameters
        ----------
        step
            Training step g, from 0.
        batch, frames
            Sizes B, F.
        generator
            On the CPU; the same state draws the same lengths.

        Returns
        -------
        Tensor
            Shape (B, K), int64: from 1 to U, of sum F, the same ones in another order for each
            item.
        """
        if float(torch.rand((), generator=generator)) < self.bypass:
            return torch.ones(batch, frames, dtype=torch.int64)
        pieces = _count_lengths(self.draw(step, generator), frames)
        orders = torch.rand(batch, len(pieces), generator=generator).argsort(dim=1)
        return pieces[orders]


@dataclass(frozen=True)
class Cool:
    r"""Cut every item by the scheduler, except some that keep every frame.

    Attributes
    ----------
    ratio
        R_S: frames for each token, on average.
    max_length, cost
        Of ``schedule``.
    bypass
        Share of items that keep every frame.
    """

    ratio: float = 2.0
    max_length: int = 4
    cost: str = "paper"
    bypass: float = 0.3

    def __post_init__(self) -> None:
        check_options(self.max_length, self.cost)
        if not 1 <= self.ratio <= self.max_length or not 0 <= self.bypass <= 1:
            raise ValueError(
                f"ratio, bypass: got {self.ratio}, {self.bypass}; expected 1 to {self.max_length}, "
                "0 to 1"
            )

    def kept(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw which items keep every frame, shape (B,), bool."""
        return torch.rand(batch, generator=generator) < self.bypass

    def cut(self, z: Tensor, kept: Tensor) -> Tensor:
        """Cut the latents (B, D, F), not the kept ones: lengths (B, K), int64, 0 after the last."""
        frames = z.shape[2]
        count = num_segments_at(frames, self.ratio, 1.0, self.max_length)
        segments = torch.where(kept, frames, count)
        return schedule(z.transpose(1, 2), segments, self.max_length, self.cost)


def _count_lengths(shares: Tensor, frames: int) -> Tensor:
    """Return lengths, (K,) int64 of sum F, about ``shares`` (U,) of them of 1 to U frames."""
    sizes = torch.arange(1, len(shares) + 1)
    number = frames / float(shares @ sizes.double())  # K before rounding
    counts = (shares * number).floor().long()
    missing = frames - int(counts @ sizes)
    order = (shares * number - counts).argsort(descending=True, stable=True)
    for size in sizes[order].tolist():  # largest remainders first
        if size <= missing:
            counts[size - 1] += 1
            missing -= size
    while missing:
        size = min(missing, len(shares))
        counts[size - 1] += 1
        missing -= size
    return sizes.repeat_interleave(counts)
