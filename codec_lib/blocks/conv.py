r"""Convolutions whose output length is known exactly, for every input length.

``Conv1d`` gives ceil(T / stride) frames, ``ConvTranspose1d`` gives F * stride samples; both come in
a symmetric and a causal form, with weight norm. The padding follows EnCodec [Defossez 2022], so
published weights give the published output. Notebook: 05_encoders_and_decoders. Leaves out:
streaming with a state. Read next: ``blocks/recurrent.py``.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from codec_lib.blocks.stft import full_precision

NORMS = ("weight_norm", "none")


def num_frames(num_samples: int, hop_length: int) -> int:
    r"""Return the frames of a waveform: F = ceil(T / hop).

    Examples
    --------
    >>> num_frames(16001, 320)
    51
    """
    return -(-num_samples // hop_length)


def apply_norm(layer: nn.Module, norm: str) -> nn.Module:
    r"""Reparametrise the weight of a layer, w = g v / ||v||, or leave it.

    Parameters
    ----------
    layer
        A layer with a ``weight``; the norm runs over all axes but the first, also for transposed
        convolutions, where the first is the input axis (as published).
    norm
        ``"weight_norm"`` [Salimans 2016] or ``"none"``.

    Raises
    ------
    ValueError
        If the norm is unknown.
    """
    if norm not in NORMS:
        raise ValueError(f"norm: got {norm!r}, expected one of {NORMS}")
    return parametrizations.weight_norm(layer) if norm == "weight_norm" else layer


def fold_weight_norm(module: nn.Module) -> nn.Module:
    r"""Replace every weight norm inside a module by the plain weight, in place.

    The output stays the same and inference no longer computes g v / ||v|| at every call. A folded
    module has fewer parameters and other names in its state dict: fold after loading, for use.

    Parameters
    ----------
    module
        Any module.

    Returns
    -------
    nn.Module
        The same module.

    Examples
    --------
    >>> fold_weight_norm(Conv1d(1, 2, 3)).conv.weight.shape
    torch.Size([2, 1, 3])
    """
    for layer in module.modules():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return module


def pad(x: Tensor, left: int, right: int, mode: str = "reflect") -> Tensor:
    r"""Pad the last axis; reflection works on any length.

    A signal no longer than its padding has too few samples to mirror: as in EnCodec it is extended
    with zeros on the right for the reflection, and as many values are cut off again.

    Parameters
    ----------
    x
        Shape (B, C, T).
    left, right
        Samples to add.
    mode
        ``"reflect"`` or ``"constant"``.

    Returns
    -------
    Tensor
        Shape (B, C, left + T + right).

    Examples
    --------
    >>> import torch
    >>> pad(torch.tensor([[[1.0, 2.0, 3.0]]]), 1, 1).tolist()
    [[[2.0, 1.0, 2.0, 3.0, 2.0]]]
    """
    if left == right == 0:
        return x
    missing = max(left, right) - x.shape[-1] + 1
    if mode == "reflect" and missing > 0:
        return F.pad(F.pad(x, (0, missing)), (left, right), mode)[..., :-missing]
    return F.pad(x, (left, right), mode)


class Conv1d(nn.Module):
    r"""Convolve so that F = ceil(T / stride), whatever T is.

    The total padding is (k - 1) d - (s - 1), plus ceil(T / s) s - T on the right so that the last
    window is full. Symmetric: the odd leftover goes to the left. Causal: everything goes to the
    left, but for what fills the last window.

    Parameters
    ----------
    in_channels, out_channels
        Channels C.
    kernel_size, stride, dilation, groups, bias
        As in ``torch.nn.Conv1d``; the kernel must cover the stride.
    causal
        True makes an output frame independent of later input frames.
    norm
        ``"weight_norm"`` or ``"none"``.
    pad_mode
        ``"reflect"`` or ``"constant"``.

    Raises
    ------
    ValueError
        If the (dilated) kernel is shorter than the stride.

    Examples
    --------
    >>> import torch
    >>> Conv1d(1, 4, kernel_size=10, stride=5)(torch.zeros(1, 1, 51)).shape
    torch.Size([1, 4, 11])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        causal: bool = False,
        norm: str = "weight_norm",
        pad_mode: str = "reflect",
    ) -> None:
        super().__init__()
        self.padding_total = (kernel_size - 1) * dilation - (stride - 1)
        if self.padding_total < 0:
            raise ValueError(
                f"kernel_size: got {kernel_size} with stride {stride} and dilation {dilation}, "
                "expected a kernel at least as long as the stride (samples would be skipped)"
            )
        self.stride, self.causal, self.pad_mode = stride, causal, pad_mode
        layer = nn.Conv1d(in_channels, out_channels, kernel_size, stride, 0, dilation, groups, bias)
        self.conv = apply_norm(layer, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C', ceil(T / stride))."""
        length = x.shape[-1]
        extra = num_frames(length, self.stride) * self.stride - length
        right = 0 if self.causal else self.padding_total // 2
        return self.conv(pad(x, self.padding_total - right, right + extra, self.pad_mode))


class LastConv1d(Conv1d):
    """``Conv1d`` in float32 also under autocast: bf16 rounds a waveform or a latent to 8 bits."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C', ceil(T / stride)), float32 for any floating point below."""
        with full_precision(x):
            return super().forward(x.to(next(self.parameters()).dtype))


class ConvTranspose1d(nn.Module):
    r"""Transposed convolution with F * stride output samples.

    Of the kernel's k - s surplus samples the symmetric form cuts half on each side (the odd one on
    the left); the causal form cuts them on the right.

    Parameters
    ----------
    in_channels, out_channels
        Channels C.
    kernel_size, stride
        Samples; the kernel must cover the stride.
    causal
        True makes an output sample independent of later input frames.
    norm
        ``"weight_norm"`` or ``"none"``.
    lossless
        False cuts the odd sample on both sides, so that one is lost (DAC's released code).

    Raises
    ------
    ValueError
        If the kernel is shorter than the stride.

    Examples
    --------
    >>> import torch
    >>> ConvTranspose1d(4, 1, kernel_size=10, stride=5)(torch.zeros(1, 4, 11)).shape
    torch.Size([1, 1, 55])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        causal: bool = False,
        norm: str = "weight_norm",
        lossless: bool = True,
    ) -> None:
        super().__init__()
        surplus = kernel_size - stride
        if surplus < 0:
            raise ValueError(
                f"kernel_size: got {kernel_size} with stride {stride}, expected a kernel at least "
                "as long as the stride (the output would have holes)"
            )
        self.left = 0 if causal else math.ceil(surplus / 2)
        self.right = surplus - self.left if lossless else self.left
        layer = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride)
        self.conv = apply_norm(layer, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, F) to (B, C', F * stride)."""
        y = self.conv(x)
        return y[..., self.left : y.shape[-1] - self.right]
