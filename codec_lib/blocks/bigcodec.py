r"""BigCodec's encoder and decoder, which are DAC's by other arguments.

Strided convolutions with dilated residual units: DAC [Kumar 2023] with Snake and no LSTM, BigCodec
[Xin 2024] with anti-aliased SnakeBeta and an LSTM at the frame rate. Widths double at every stride.
Padding is with zeros, and the waveform is filled up to whole frames first, as published. DAC's
released decoder loses samples at odd strides; this one does not. Parameters stand in the published
order, so that published weights load. Notebook: 05_encoders_and_decoders. Leaves out: causal
forms. Read next: ``blocks/transformer.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from codec_lib.blocks.activations import activation as build_activation
from codec_lib.blocks.antialias import CONTEXT
from codec_lib.blocks.conv import Conv1d, ConvTranspose1d, LastConv1d
from codec_lib.blocks.recurrent import SkipLSTM
from codec_lib.shapes import check_shape

DILATIONS = (1, 3, 9)  # of a stage's residual units, in both papers
EDGE = 3  # samples on each side that a convolution k 7 reads


class DilatedUnit(nn.Module):
    r"""Two convolutions (k 7, dilated; k 1) beside an identity.

    Parameters
    ----------
    channels
        Channels C.
    dilation
        Of the first convolution.
    activation, norm
        Name of the activation before each convolution, and the norm of its weights.

    Examples
    --------
    >>> import torch
    >>> DilatedUnit(4, dilation=3)(torch.zeros(1, 4, 9)).shape
    torch.Size([1, 4, 9])
    """

    def __init__(
        self,
        channels: int,
        dilation: int = 1,
        activation: str = "snake_beta",
        norm: str = "weight_norm",
    ) -> None:
        super().__init__()
        conv = partial(Conv1d, channels, channels, norm=norm, pad_mode="constant")
        self.block = nn.Sequential(
            build_activation(activation, channels),
            conv(7, dilation=dilation),
            build_activation(activation, channels),
            conv(1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, T)."""
        return x + self.block(x)


class Stage(nn.Module):
    """A strided convolution with its activation and three dilated units, in the given order."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C', T / stride) or (B, C', T * stride)."""
        return self.block(x)


class BigCodecEncoder(nn.Module):
    r"""Encode a waveform into latent frames, hop = product of the strides.

    Parameters
    ----------
    latent_dim
        Latent width D.
    width
        Channels of the first convolution (BigCodec: 48, DAC: 64).
    strides
        In the decoder's order; the encoder uses them reversed.
    lstm_layers
        0 leaves the LSTM out (DAC).
    activation
        ``"snake_beta"`` (BigCodec) or ``"snake"`` (DAC).
    norm
        ``"weight_norm"`` or ``"none"``.

    Examples
    --------
    >>> import torch
    >>> encoder = BigCodecEncoder(latent_dim=8, width=2, strides=(5, 2))
    >>> encoder(torch.zeros(1, 1, 33)).shape
    torch.Size([1, 8, 4])
    """

    def __init__(
        self,
        latent_dim: int = 1024,
        width: int = 48,
        strides: Sequence[int] = (5, 5, 2, 2, 2),
        lstm_layers: int = 2,
        activation: str = "snake_beta",
        norm: str = "weight_norm",
    ) -> None:
        super().__init__()
        self.hop_length = math.prod(strides)
        conv = partial(Conv1d, norm=norm, pad_mode="constant")
        layers: list[nn.Module] = [conv(1, width, 7)]
        channels = width
        for stride in reversed(strides):
            units = [DilatedUnit(channels, dilation, activation, norm) for dilation in DILATIONS]
            down = conv(channels, 2 * channels, 2 * stride, stride)
            layers.append(Stage(*units, build_activation(activation, channels), down))
            channels *= 2
        self.num_strided = len(layers)  # layers that run above the frame rate
        if lstm_layers:
            layers.append(SkipLSTM(channels, lstm_layers))
        head = LastConv1d(channels, latent_dim, 3, norm=norm, pad_mode="constant")
        layers += [build_activation(activation, channels), head]
        self.layers = nn.Sequential(*layers)
        self.context = _reach(strides, activation)
        self.receptive_field = None if lstm_layers else self.context
        _zero_biases(self)

    def forward(self, wav: Tensor) -> Tensor:
        r"""Encode.

        Parameters
        ----------
        wav
            Waveform, shape (B, 1, T).

        Returns
        -------
        Tensor
            Latent, shape (B, D, F) with F = ceil(T / hop_length).
        """
        check_shape(wav, "B 1 T", name="wav")
        return self.layers(F.pad(wav, (0, -wav.shape[-1] % self.hop_length)))


class BigCodecDecoder(nn.Module):
    r"""Decode latent frames into a waveform in [-1, 1]; the encoder's mirror.

    Parameters
    ----------
    latent_dim, strides, lstm_layers, activation, norm
        As in ``BigCodecEncoder``.
    width
        Channels of the last convolution (BigCodec: 48, DAC: 96).
    lossless
        False cuts as much on the right of a transposed convolution as on the left, as DAC's
        released code does: at every odd stride a sample is lost.

    Examples
    --------
    >>> import torch
    >>> decoder = BigCodecDecoder(latent_dim=8, width=2, strides=(5, 2))
    >>> decoder(torch.zeros(1, 8, 4)).shape
    torch.Size([1, 1, 40])
    """

    def __init__(
        self,
        latent_dim: int = 1024,
        width: int = 48,
        strides: Sequence[int] = (5, 5, 2, 2, 2),
        lstm_layers: int = 2,
        activation: str = "snake_beta",
        norm: str = "weight_norm",
        lossless: bool = True,
    ) -> None:
        super().__init__()
        self.hop_length = math.prod(strides)
        conv = partial(Conv1d, norm=norm, pad_mode="constant")
        channels = width * 2 ** len(strides)
        layers: list[nn.Module] = [conv(latent_dim, channels, 7)]
        if lstm_layers:
            layers.append(SkipLSTM(channels, lstm_layers))
        self.num_latent = len(layers)  # layers that run at the frame rate
        for stride in strides:
            half = channels // 2
            up = ConvTranspose1d(channels, half, 2 * stride, stride, norm=norm, lossless=lossless)
            units = [DilatedUnit(half, dilation, activation, norm) for dilation in DILATIONS]
            layers.append(Stage(build_activation(activation, channels), up, *units))
            channels = half
        head = LastConv1d(channels, 1, 7, norm=norm, pad_mode="constant")
        layers += [build_activation(activation, channels), head, nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.context = _reach(strides, activation)
        self.receptive_field = None if lstm_layers else self.context
        _zero_biases(self)

    def forward(self, z_q: Tensor) -> Tensor:
        r"""Decode.

        Parameters
        ----------
        z_q
            Latent, shape (B, D, F).

        Returns
        -------
        Tensor
            Waveform, shape (B, 1, F * hop_length).
        """
        check_shape(z_q, "B D F", name="z_q")
        return self.layers(z_q)


def _zero_biases(module: nn.Module) -> None:
    """Start the biases of all convolutions at 0, as published."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
            nn.init.zeros_(layer.bias)


def _reach(strides: Sequence[int], activation: str) -> int:
    """Bound the frames on each side that an output of the network without LSTM depends on."""
    smooth = CONTEXT if activation == "snake_beta" else 0  # samples that an activation reads
    units = sum(EDGE * dilation + 2 * smooth for dilation in DILATIONS)
    samples, step = EDGE + smooth, 1
    for stride in reversed(strides):
        # the decoder's activation before a stride runs at the lower rate
        samples += step * (units + 2 * stride + smooth * stride)
        step *= stride
    return -(-samples // step) + EDGE + smooth  # and the convolution at the frame rate
