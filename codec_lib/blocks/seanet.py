r"""SEANet encoder and decoder: strided convolutions with residual blocks and an LSTM.

[Tagliasacchi 2020], in the form of EnCodec [Defossez 2022] and SpeechTokenizer [Zhang 2024], which
makes the encoder's LSTM bidirectional. Widths double at every stride, from ``width`` to
``width * 2 ** len(strides)``. ``layers`` has the published order, so that published weights load by
index. Notebook: 05_encoders_and_decoders. Leaves out: several residual blocks per stage, identity
shortcuts. Read next: ``blocks/spectral.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from codec_lib.blocks.activations import activation as build_activation
from codec_lib.blocks.conv import Conv1d, ConvTranspose1d, LastConv1d
from codec_lib.blocks.recurrent import SkipLSTM
from codec_lib.blocks.tiling import run_tiled
from codec_lib.shapes import check_shape

COMPRESSION = 2  # hidden width of a residual block is its width / 2, as published
LATENT_CONTEXT = 6  # frames: convolution k 7 at the frame rate, 3, or 6 on one side where causal


class ResidualBlock(nn.Module):
    r"""Two convolutions (k 3, C -> C/2; k 1, C/2 -> C) beside a learned 1x1 shortcut.

    Parameters
    ----------
    channels
        Channels C, even.
    activation
        Name of the activation before each convolution.
    causal, norm
        Of the convolutions.

    Examples
    --------
    >>> import torch
    >>> ResidualBlock(4)(torch.zeros(1, 4, 9)).shape
    torch.Size([1, 4, 9])
    """

    def __init__(
        self,
        channels: int,
        activation: str = "elu",
        causal: bool = False,
        norm: str = "weight_norm",
    ) -> None:
        super().__init__()
        hidden = channels // COMPRESSION
        self.block = nn.Sequential(
            build_activation(activation, channels),
            Conv1d(channels, hidden, 3, causal=causal, norm=norm),
            build_activation(activation, hidden),
            Conv1d(hidden, channels, 1, causal=causal, norm=norm),
        )
        self.shortcut = Conv1d(channels, channels, 1, causal=causal, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, T)."""
        return self.shortcut(x) + self.block(x)


class SEANetEncoder(nn.Module):
    r"""Encode a waveform into latent frames, hop = product of the strides.

    Parameters
    ----------
    latent_dim
        Latent width D.
    width
        Channels of the first convolution (published: 64).
    strides
        In the decoder's order, as in published configs; the encoder uses them reversed.
    lstm_layers
        0 leaves the LSTM out.
    bidirectional
        True doubles the channels after the LSTM (SpeechTokenizer).
    activation
        ``"elu"`` or ``"snake"``.
    causal
        True makes a frame independent of later samples; excludes ``bidirectional``.
    norm
        ``"weight_norm"`` or ``"none"``.

    Raises
    ------
    ValueError
        If causal and bidirectional are both asked for.

    Examples
    --------
    >>> import torch
    >>> encoder = SEANetEncoder(latent_dim=8, width=2, strides=(4, 2))
    >>> encoder(torch.zeros(1, 1, 33)).shape
    torch.Size([1, 8, 5])
    """

    def __init__(
        self,
        latent_dim: int = 1024,
        width: int = 64,
        strides: Sequence[int] = (8, 5, 4, 2),
        lstm_layers: int = 2,
        bidirectional: bool = True,
        activation: str = "elu",
        causal: bool = False,
        norm: str = "weight_norm",
    ) -> None:
        super().__init__()
        if causal and bidirectional and lstm_layers:
            raise ValueError(
                "causal, bidirectional: got True and True; a bidirectional LSTM reads the future, "
                "set bidirectional=False"
            )
        self.hop_length = math.prod(strides)
        conv, last = (partial(kind, causal=causal, norm=norm) for kind in (Conv1d, LastConv1d))
        layers: list[nn.Module] = [conv(1, width, 7)]
        channels = width
        for stride in reversed(strides):
            layers += [
                ResidualBlock(channels, activation, causal, norm),
                build_activation(activation, channels),
                conv(channels, 2 * channels, 2 * stride, stride),
            ]
            channels *= 2
        self.num_strided = len(layers)  # layers that run above the frame rate
        if lstm_layers:
            layers.append(SkipLSTM(channels, lstm_layers, bidirectional))
            channels *= 2 if bidirectional else 1
        layers += [build_activation(activation, channels), last(channels, latent_dim, 7)]
        self.layers = nn.Sequential(*layers)
        self.context = _strided_context(strides)
        # frames on each side; an LSTM remembers without bound
        self.receptive_field = None if lstm_layers else self.context + LATENT_CONTEXT

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
        strided, rest = self.layers[: self.num_strided], self.layers[self.num_strided :]
        return rest(run_tiled(strided, wav, self.context, self.hop_length, 1))


class SEANetDecoder(nn.Module):
    r"""Decode latent frames into a waveform; the encoder's mirror, its LSTM unidirectional.

    Parameters
    ----------
    latent_dim, width, strides, lstm_layers, activation, causal, norm
        As in ``SEANetEncoder``.
    bidirectional
        Published: False.

    Examples
    --------
    >>> import torch
    >>> decoder = SEANetDecoder(latent_dim=8, width=2, strides=(4, 2))
    >>> decoder(torch.zeros(1, 8, 5)).shape
    torch.Size([1, 1, 40])
    """

    def __init__(
        self,
        latent_dim: int = 1024,
        width: int = 64,
        strides: Sequence[int] = (8, 5, 4, 2),
        lstm_layers: int = 2,
        bidirectional: bool = False,
        activation: str = "elu",
        causal: bool = False,
        norm: str = "weight_norm",
    ) -> None:
        super().__init__()
        self.hop_length = math.prod(strides)
        conv, last = (partial(kind, causal=causal, norm=norm) for kind in (Conv1d, LastConv1d))
        channels = width * 2 ** len(strides)
        layers: list[nn.Module] = [conv(latent_dim, channels, 7)]
        if lstm_layers:
            layers.append(SkipLSTM(channels, lstm_layers, bidirectional))
            channels *= 2 if bidirectional else 1
        self.num_latent = len(layers)  # layers that run at the frame rate
        for i, stride in enumerate(strides):
            out_channels = width * 2 ** (len(strides) - 1 - i)
            layers += [
                build_activation(activation, channels),
                ConvTranspose1d(channels, out_channels, 2 * stride, stride, causal, norm),
                ResidualBlock(out_channels, activation, causal, norm),
            ]
            channels = out_channels
        layers += [build_activation(activation, channels), last(channels, 1, 7)]
        self.layers = nn.Sequential(*layers)
        self.context = _strided_context(strides)
        self.receptive_field = None if lstm_layers else self.context + LATENT_CONTEXT

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
        latent, strided = self.layers[: self.num_latent], self.layers[self.num_latent :]
        return run_tiled(strided, latent(z_q), self.context, 1, self.hop_length)


def _strided_context(strides: Sequence[int]) -> int:
    """Bound the frames on each side that the layers above the frame rate make a frame depend on."""
    samples, step = 6, 1  # convolution k 7 at the sample rate: 3, or 6 on one side where causal
    for stride in reversed(strides):
        samples += step * (2 + 2 * stride)  # residual block k 3, strided convolution k 2 stride
        step *= stride
    return -(-samples // step)
