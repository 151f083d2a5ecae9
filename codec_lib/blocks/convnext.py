r"""ConvNeXt blocks over frames: the body of the spectral backbone.

[Liu 2022] in one dimension, as in Vocos [Siuzdak 2024]. Tensors are channels-last (B, F, D), so
that linear layers need no transpose. Every normalisation is per frame, so an output depends on
finitely many frames. Notebook: 05_encoders_and_decoders. Leaves out: global response normalisation,
causal forms. Read next: ``blocks/stft.py``, then ``blocks/vocos.py``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec_lib.blocks.stft import full_precision


class DepthwiseConv(nn.Module):
    r"""Convolve each channel of a channels-last tensor along the frames, zero-padded.

    Runs as a 1 x k convolution of a channels-last image, which on a CPU is four times faster
    than ``Conv1d`` between two transposes.

    Parameters
    ----------
    width
        Channels D.
    kernel_size
        Taps, odd.

    Examples
    --------
    >>> DepthwiseConv(8, 7)(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, width: int, kernel_size: int = 7) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: got {kernel_size}, expected an odd number")
        self.conv = nn.Conv2d(
            width, width, (1, kernel_size), padding=(0, kernel_size // 2), groups=width
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, D) to (B, F, D)."""
        image = x.transpose(1, 2).unsqueeze(2)  # (B, D, 1, F), channels-last in memory
        return self.conv(image).squeeze(2).transpose(1, 2)  # (B, F, D)


class AdaptiveLayerNorm(nn.Module):
    r"""Layer norm with one pair of scale and shift for each of C conditions.

    .. math:: y = s_c \odot \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + b_c

    per frame; Vocos [Siuzdak 2024] learns one pair for each bit rate of EnCodec.

    Parameters
    ----------
    num_conditions
        Conditions C.
    width
        Channels D.

    Examples
    --------
    >>> AdaptiveLayerNorm(4, 8)(torch.zeros(2, 5, 8), torch.tensor([0, 3])).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, num_conditions: int, width: int) -> None:
        super().__init__()
        self.scale = nn.Embedding(num_conditions, width)
        self.shift = nn.Embedding(num_conditions, width)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map (B, F, D) to (B, F, D); ``condition`` is (B,) or (1,) int64."""
        x = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        return torch.addcmul(self.shift(condition)[:, None], x, self.scale(condition)[:, None])


class ConvNeXtBlock(nn.Module):
    r"""Depthwise convolution, layer norm, two linear layers, scaled residual.

    .. math:: y = x + \gamma \odot W_2\, \mathrm{GELU}(W_1\, \mathrm{LN}(\mathrm{conv}_k(x)))

    [Liu 2022], in one dimension as in Vocos.

    Parameters
    ----------
    width
        Channels D.
    expansion
        Hidden width as a multiple of ``width``.
    kernel_size
        Taps of the depthwise convolution, odd, in frames.
    layer_scale
        Initial value of gamma; 1 / depth keeps a deep stack close to the identity at the start.
    gelu
        ``"tanh"``, cheaper on a CPU, or ``"none"``, the exact form that published weights know.
    num_conditions
        Above 0, an ``AdaptiveLayerNorm`` takes the place of the layer norm.

    Examples
    --------
    >>> ConvNeXtBlock(8)(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        width: int,
        expansion: int = 3,
        kernel_size: int = 7,
        layer_scale: float = 0.25,
        gelu: str = "tanh",
        num_conditions: int = 0,
    ) -> None:
        super().__init__()
        self.gelu = gelu
        self.depthwise = DepthwiseConv(width, kernel_size)
        self.norm = frame_norm(width, num_conditions)
        self.expand = nn.Linear(width, expansion * width)
        self.reduce = nn.Linear(expansion * width, width)
        self.gamma = nn.Parameter(torch.full((width,), layer_scale))

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        """Map (B, F, D) to (B, F, D); with conditions, pass theirs, (B,) or (1,) int64."""
        hidden = self.expand(self.norm(self.depthwise(x), *condition))
        return torch.addcmul(x, self.gamma, self.reduce(F.gelu(hidden, approximate=self.gelu)))


def frame_norm(width: int, num_conditions: int = 0) -> nn.Module:
    """Return a layer norm over the channels of a frame, adaptive where there are conditions."""
    if num_conditions:
        return AdaptiveLayerNorm(num_conditions, width)
    return nn.LayerNorm(width, eps=1e-6)


class ConvNeXtStack(nn.Module):
    r"""Embedding, ``depth`` ConvNeXt blocks and a linear head, all at one rate.

    Parameters
    ----------
    in_dim, out_dim
        Channels in and out.
    width, depth, expansion, kernel_size
        Of the blocks.

    Examples
    --------
    >>> ConvNeXtStack(4, 6, width=8, depth=2)(torch.zeros(2, 5, 4)).shape
    torch.Size([2, 5, 6])
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        width: int,
        depth: int,
        expansion: int = 3,
        kernel_size: int = 7,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(in_dim, width)
        self.embed_conv = DepthwiseConv(width, kernel_size)
        self.embed_norm = nn.LayerNorm(width, eps=1e-6)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(width, expansion, kernel_size, layer_scale=1 / max(depth, 1))
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, out_dim)
        self.receptive_field = (kernel_size // 2) * (depth + 1)  # frames on each side

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, in_dim) to (B, F, out_dim), in the weights' precision also under autocast."""
        x = self.embed(x)
        x = self.embed_norm(x + self.embed_conv(x))
        for block in self.blocks:
            x = block(x)
        with full_precision(x):  # bf16 has three digits: too few for a phase or a latent
            return self.head(self.norm(x.to(self.head.weight.dtype)))
