r"""SnakeBeta without aliasing: up two times, the activation, a low-pass, down two times.

A nonlinearity makes overtones; those above half the sample rate fold back as false tones. BigVGAN
[Lee 2023] therefore applies SnakeBeta at twice the rate, between two 12-tap Kaiser low-passes
[Karras 2021], and BigCodec [Xin 2024] keeps that. Here the doubled signal stays as its two phases,
even and odd samples side by side, so that each filter is one short convolution and nothing is
interleaved or multiplied by the zeros of an up-sampler.

Notebook: 05_encoders_and_decoders. Leaves out: other factors and filter lengths. Read next:
``blocks/activations.py``.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

TAPS, CUTOFF, HALF_WIDTH = 12, 0.25, 0.3  # cycles per sample of the doubled signal; published
EPSILON = 1e-9  # keeps 1 / beta finite; the published value
REACH = 3  # samples on each side that one of the two filters reads
CONTEXT = 2 * REACH  # samples on each side that an output depends on


def kaiser_lowpass() -> Tensor:
    r"""Return the 12 taps of the low-pass, a windowed sinc of sum 1, float32.

    The window's beta is Kaiser's formula for A = 2.285 (TAPS / 2 - 1) pi (4 HALF_WIDTH) + 7.95 dB.

    Examples
    --------
    >>> round(float(kaiser_lowpass().sum()), 6)
    1.0
    """
    attenuation = 2.285 * (TAPS // 2 - 1) * math.pi * 4 * HALF_WIDTH + 7.95  # 51 dB
    beta = 0.1102 * (attenuation - 8.7)  # Kaiser's formula above 50 dB
    options = {"dtype": torch.float64, "device": "cpu"}
    window = torch.kaiser_window(TAPS, periodic=False, beta=beta, **options)
    time = torch.arange(TAPS, **options) - (TAPS - 1) / 2
    taps = window * torch.sinc(2 * CUTOFF * time)
    return (taps / taps.sum()).float()


class AntiAliasedSnakeBeta(nn.Module):
    r"""SnakeBeta at twice the sample rate.

    .. math:: \mathrm{snake}_\beta(x) = x + e^{-\beta} \sin^2(e^{\alpha} x)

    [Lee 2023], with alpha and beta logarithmic, one of each per channel, 0 at the start. The signal
    is extended by its first and last value.

    Parameters
    ----------
    channels
        Channels C.

    Examples
    --------
    >>> AntiAliasedSnakeBeta(3)(torch.zeros(2, 3, 10)).shape
    torch.Size([2, 3, 10])
    """

    taps: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        taps = kaiser_lowpass().view(-1, 2).T  # (2, 6): those at even and at odd places
        self.register_buffer("taps", taps[:, None, None].contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, T)."""
        p, q = self.taps.to(x.dtype).expand(-1, x.shape[1], -1, -1)  # each (C, 1, 6)
        conv = partial(F.conv1d, groups=x.shape[1])
        x = F.pad(x, (REACH, REACH), "replicate")
        even = self._snake(conv(x[..., :-1], 2 * p))  # (B, C, T): samples 0, 2, ... at twice
        odd = self._snake(conv(x[..., 1:], 2 * q))  # the rate, and 1, 3, ...; 2 keeps the level
        first, last = even[..., :1], odd[..., -1:]  # of the doubled signal
        left, right = first.expand(-1, -1, REACH), last.expand(-1, -1, REACH)
        even = torch.cat([left[..., 1:], even, right], dim=-1)
        odd = torch.cat([left, odd, right[..., 1:]], dim=-1)
        return conv(even, q) + conv(odd, p)

    def _snake(self, x: Tensor) -> Tensor:
        """Apply SnakeBeta to (B, C, T)."""
        return SnakeBetaFunction.apply(x, self.alpha.exp()[:, None], self.beta.exp()[:, None])


class SnakeBetaFunction(torch.autograd.Function):
    r"""SnakeBeta that keeps only its input for the gradient, half of what would be kept else.

    With a = e^alpha and b = e^beta, y = x + sin^2(a x) / b; the derivative by x is
    1 + a sin(2 a x) / b, that by a is x sin(2 a x) / b, that by b is -sin^2(a x) / b^2.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Map (B, C, T), with a and b (C, 1)."""
        ctx.save_for_backward(x, a, b)
        return x + (b + EPSILON).reciprocal() * (a * x).sin_().square_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients by x, a and b."""
        x, a, b = ctx.saved_tensors
        inverse = (b + EPSILON).reciprocal()
        angle = a * x
        slope = (2 * angle).sin_().mul_(inverse)  # sin(2 a x) / b
        by_a = (grad * slope).mul_(x).sum((0, 2))[:, None].to(a.dtype)
        squares = angle.sin_().square_().mul_(grad)
        by_b = (squares.sum((0, 2))[:, None] * -inverse.square()).to(b.dtype)
        return torch.addcmul(grad, grad, slope.mul_(a)).to(x.dtype), by_a, by_b
