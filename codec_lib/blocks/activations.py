r"""Activations by name: ELU, Snake, anti-aliased SnakeBeta, and the usual ones.

Snake [Ziyin 2020] is periodic, which suits waveforms; DAC and SpeechTokenizer's second checkpoint
use it. Notebook: 05_encoders_and_decoders. Read next: ``blocks/conv.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from codec_lib.blocks.antialias import AntiAliasedSnakeBeta

ALPHA_EPSILON = 1e-9  # keeps 1 / alpha finite; the published value


class Snake(nn.Module):
    r"""Periodic activation with one learnable frequency per channel.

    .. math:: \mathrm{snake}(x) = x + \frac{1}{\alpha} \sin^2(\alpha x)

    [Ziyin 2020]; alpha starts at 1.

    Parameters
    ----------
    channels
        Channels C.

    Examples
    --------
    >>> Snake(3)(torch.zeros(2, 3, 10)).shape
    torch.Size([2, 3, 10])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, T)."""
        return SnakeFunction.apply(x, self.alpha)


class SnakeFunction(torch.autograd.Function):
    r"""Snake that keeps only its input for the gradient, and makes few passes over memory.

    With s = sin(2 alpha x), the derivative by x is 1 + s, that by alpha
    (x s - sin^2(alpha x) / alpha) / alpha.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor) -> Tensor:
        """Map (B, C, T), with alpha (1, C, 1)."""
        ctx.save_for_backward(x, alpha)
        squares = (alpha * x).sin_().square_()
        return torch.addcmul(x.to(squares.dtype), squares, (alpha + ALPHA_EPSILON).reciprocal())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients by x and by alpha."""
        x, alpha = ctx.saved_tensors
        inverse = (alpha + ALPHA_EPSILON).reciprocal()
        angle = alpha * x
        slope = (2 * angle).sin_()  # sin(2 alpha x) = 2 sin cos
        by_alpha = None
        if ctx.needs_input_grad[1]:
            by_alpha = angle.sin_().square_().mul_(-inverse).addcmul_(x, slope).mul_(grad)
            by_alpha = (by_alpha.sum((0, 2), keepdim=True) * inverse).to(alpha.dtype)
        return torch.addcmul(grad, grad, slope.mul_(alpha * inverse)).to(x.dtype), by_alpha


BLOCK = 1 << 16  # values that fit a core's cache, with their squares


@torch.no_grad()
def snake_(x: Tensor, alpha: Tensor) -> Tensor:
    r"""Apply Snake in place, frames first, block by block so that it reads memory once.

    Parameters
    ----------
    x
        (B, T, C), contiguous.
    alpha
        (C,).
    """
    inverse = (alpha + ALPHA_EPSILON).reciprocal()
    for part in x.flatten(0, 1).split(max(1, BLOCK // len(alpha))):
        part.addcmul_((part * alpha).sin_().square_(), inverse)
    return x


def activation(name: str, channels: int) -> nn.Module:
    r"""Build an activation by name.

    Parameters
    ----------
    name
        ``"elu"`` (alpha 1), ``"snake"``, ``"snake_beta"`` (anti-aliased), ``"relu"``, ``"gelu"``
        or ``"leaky_relu"`` (slope 0.1).
    channels
        Channels C of its input; only the Snakes need them.

    Raises
    ------
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> activation("elu", 4)
    ELU(alpha=1.0)
    """
    known = {
        "snake": lambda: Snake(channels),
        "snake_beta": lambda: AntiAliasedSnakeBeta(channels),
        "elu": nn.ELU,
        "relu": nn.ReLU,
        "gelu": nn.GELU,
        "leaky_relu": lambda: nn.LeakyReLU(0.1),
    }
    if name not in known:
        raise ValueError(f"activation: got {name!r}, expected one of {sorted(known)}")
    return known[name]()
