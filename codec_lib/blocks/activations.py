r"""Activations by name: ELU, Snake, anti-aliased SnakeBeta, and the usual ones.

Snake [Ziyin 2020] is periodic, which suits waveforms; DAC and SpeechTokenizer's second checkpoint
use it. Notebook: 05_encoders_and_decoders. Read next: ``blocks/conv.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
        return x + (self.alpha + ALPHA_EPSILON).reciprocal() * (self.alpha * x).sin().square()


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
