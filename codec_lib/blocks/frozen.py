r"""Convolutional networks for use on a CPU: the same numbers, frames first, with packed weights.

Training wants weight norm, autograd and channel-first memory; a finished network needs none of
them. Kept frames first, (B, T, C), every convolution is one call of oneDNN with weights that it has
put into its own order once (``blocks/packed.py``). A transposed convolution of stride s is a plain
one over frames that writes s samples side by side. Activations overwrite their input.

Differences from the trainable network are of rounding only, about 1e-7. Notebook:
05_encoders_and_decoders. Leaves out: gradients, GPUs (cuDNN keeps its own layouts). Read next:
``codecs/base.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec_lib.blocks.activations import Snake, snake_
from codec_lib.blocks.antialias import AntiAliasedSnakeBeta
from codec_lib.blocks.bigcodec import BigCodecDecoder, BigCodecEncoder, DilatedUnit, Stage
from codec_lib.blocks.conv import Conv1d, ConvTranspose1d, num_frames
from codec_lib.blocks.packed import PackedConv
from codec_lib.blocks.recurrent import SkipLSTM
from codec_lib.blocks.seanet import ResidualBlock, SEANetDecoder, SEANetEncoder
from codec_lib.blocks.tiling import run_tiled

SEANET, BIGCODEC = (SEANetEncoder, SEANetDecoder), (BigCodecEncoder, BigCodecDecoder)
LSTM_MODE = 2  # the number of an LSTM among the recurrent cells of aten::mkldnn_rnn_layer


def can_freeze(network: nn.Module) -> bool:
    r"""Say whether a network has a frozen form: SEANet, and BigCodec's, which are DAC's."""
    return isinstance(network, SEANET + BIGCODEC)


class Frozen(nn.Module):
    r"""Run a convolutional encoder or decoder without gradient, frames first.

    Parameters
    ----------
    network
        One that ``can_freeze``, weight norm folded or not; it is copied.

    Attributes
    ----------
    hop_length, receptive_field
        Those of the network.

    Raises
    ------
    TypeError
        If the network is something else or holds a layer that is not known here.

    Examples
    --------
    >>> encoder = SEANetEncoder(latent_dim=8, width=2, strides=(4, 2), lstm_layers=1)
    >>> wav = torch.randn(2, 1, 33)
    >>> torch.allclose(Frozen(encoder)(wav), encoder(wav), atol=1e-6)
    True
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not can_freeze(network):
            raise TypeError(f"network: got {type(network).__name__}, expected SEANet or BigCodec")
        self.hop_length, self.receptive_field = network.hop_length, network.receptive_field
        self.context = network.context
        self.encodes = isinstance(network, SEANetEncoder | BigCodecEncoder)
        self.fills_up = isinstance(network, BigCodecEncoder)
        layers = [freeze_layer(layer) for layer in network.layers]
        split = network.num_strided if self.encodes else network.num_latent
        self.first, self.second = nn.Sequential(*layers[:split]), nn.Sequential(*layers[split:])

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C', T'), as the network does."""
        first, second = partial(_apply, self.first), partial(_apply, self.second)
        if not self.encodes:
            return run_tiled(second, first(x), self.context, 1, self.hop_length)
        if self.fills_up:
            x = F.pad(x, (0, -x.shape[-1] % self.hop_length))
        return second(run_tiled(first, x, self.context, self.hop_length, 1))


def _apply(layers: nn.Module, x: Tensor) -> Tensor:
    """Run frames-first layers on a channel-first tensor."""
    frames_first = x.transpose(1, 2)  # (B, T, C)
    owned = frames_first.clone(memory_format=torch.contiguous_format)  # layers overwrite it
    return layers(owned).transpose(1, 2)


def freeze_layer(layer: nn.Module) -> nn.Module:
    r"""Return the frames-first form of a layer, which may overwrite its input.

    Raises
    ------
    TypeError
        If the layer is not known here.
    """
    known: dict[type, Callable[[nn.Module], nn.Module]] = {
        Conv1d: _Conv,
        ConvTranspose1d: _ConvTranspose,
        ResidualBlock: _Residual,
        DilatedUnit: _Unit,
        Stage: lambda stage: nn.Sequential(*map(freeze_layer, stage.block)),
        SkipLSTM: _SkipLSTM,
        AntiAliasedSnakeBeta: _Elementwise,
    }
    for kind, frozen in known.items():
        if isinstance(layer, kind):
            return frozen(layer)
    if next(layer.children(), None) is not None:
        raise TypeError(f"layer: got {type(layer).__name__}, which has no frames-first form")
    return _Elementwise(layer)


class _Elementwise(nn.Module):
    """An activation; ELU and Snake overwrite their input, which nothing else reads."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = deepcopy(layer).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C), in place where that is possible."""
        if isinstance(self.layer, nn.ELU):
            return F.elu_(x, self.layer.alpha)
        if isinstance(self.layer, Snake):
            return snake_(x, self.layer.alpha.flatten())
        return self.layer(x.transpose(1, 2)).transpose(1, 2).contiguous()


class _Conv(nn.Module):
    """Conv1d with its padding."""

    def __init__(self, layer: Conv1d) -> None:
        super().__init__()
        conv = layer.conv
        if conv.groups != 1:
            raise TypeError("layer: expected no groups")
        self.stride, self.reflects = layer.stride, layer.pad_mode == "reflect"
        self.right = 0 if layer.causal else layer.padding_total // 2
        self.left = layer.padding_total - self.right
        weight, bias = conv.weight.detach(), _bias(conv)
        self.conv = PackedConv(weight, bias, self.stride, conv.dilation[0])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, ceil(T / s), C')."""
        if not self.reflects and self.left == self.right and x.shape[1] % self.stride == 0:
            return self.conv(x, self.left)
        return self.conv(self._padded(x))

    def add_to(self, total: Tensor, x: Tensor) -> Tensor:
        """Add the result to a total, in place."""
        return self.conv.add_to(total, self._padded(x))

    def _padded(self, x: Tensor) -> Tensor:
        extra = num_frames(x.shape[1], self.stride) * self.stride - x.shape[1]
        left, right = self.left, self.right + extra
        return _reflected(x, left, right) if self.reflects else _zeroed(x, left, right)


class _ConvTranspose(nn.Module):
    """ConvTranspose1d: a plain convolution over frames that writes s samples side by side."""

    def __init__(self, layer: ConvTranspose1d) -> None:
        super().__init__()
        conv = layer.conv
        (kernel,), (self.stride,) = conv.kernel_size, conv.stride
        self.left, self.right = layer.left, layer.right
        self.overlap = -(-kernel // self.stride) - 1  # frames that a frame reaches into
        whole = (self.overlap + 1) * self.stride
        self.right += whole - kernel
        weight = F.pad(conv.weight.detach(), (0, whole - kernel))  # (C, C', k)
        taps = weight.unflatten(2, (-1, self.stride)).flip(2)  # (C, C', k / s, s), latest first
        taps = taps.permute(3, 1, 0, 2).flatten(0, 1)  # (s C', C, k / s)
        self.conv = PackedConv(taps, _bias(conv).repeat(self.stride))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, C) to (B, s F, C')."""
        rows = self.conv(x, self.overlap)  # (B, F + overlap, s C')
        out = rows.view(x.shape[0], rows.shape[1] * self.stride, -1)  # (B, T, C')
        return out[:, self.left : out.shape[1] - self.right].contiguous()


class _Residual(nn.Module):
    """ResidualBlock; the last product of the block is added to the shortcut's output."""

    def __init__(self, layer: ResidualBlock) -> None:
        super().__init__()
        self.shortcut = freeze_layer(layer.shortcut)
        self.block = nn.Sequential(*(freeze_layer(part) for part in layer.block))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        total = self.shortcut(x)  # before the block, whose activation overwrites x
        *block, last = self.block
        for part in block:
            x = part(x)
        return last.add_to(total, x)


class _Unit(nn.Module):
    """DilatedUnit; its last product is added to its input."""

    def __init__(self, layer: DilatedUnit) -> None:
        super().__init__()
        self.block = nn.Sequential(*(freeze_layer(part) for part in layer.block))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C), in place."""
        activation, *block, last = self.block
        hidden = activation(x.clone())
        for part in block:
            hidden = part(hidden)
        return last.add_to(x, hidden)


class _SkipLSTM(nn.Module):
    """SkipLSTM whose weights are packed once, where oneDNN is there to do it."""

    def __init__(self, layer: SkipLSTM) -> None:
        super().__init__()
        self.directions, self.hidden_size = layer.directions, layer.lstm.hidden_size
        self.packed = _pack(layer.lstm)
        self.lstm = layer.lstm if self.packed is None else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, C) to (B, F, directions C)."""
        frames_first = x.transpose(0, 1).contiguous()  # (F, B, C); oneDNN ignores strides
        if self.packed is None:
            y = self.lstm(frames_first)[0]
        else:
            y = _run_packed(self.packed, frames_first, self.hidden_size)
        y = y.transpose(0, 1).contiguous()  # (B, F, C * directions)
        return y.add_(torch.cat([x] * self.directions, dim=2))


Packed = list[list[tuple[Tensor, ...]]]
"""For each layer, for each direction: input weights, hidden weights and their two biases."""


def _pack(lstm: nn.LSTM) -> Packed | None:
    """Return an LSTM's weights in oneDNN's order; None where torch was built without it."""
    reorder = getattr(torch.ops.mkldnn, "_reorder_mkldnn_rnn_layer_weight", None)
    on_cpu = lstm.weight_ih_l0.device.type == "cpu"
    if reorder is None or not torch.backends.mkldnn.is_available() or not on_cpu:
        return None
    packed: Packed = []
    for layer in range(lstm.num_layers):
        packed.append([])
        for reverse in (False, True)[: 2 if lstm.bidirectional else 1]:
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            end = f"_l{layer}" + ("_reverse" if reverse else "")
            w_ih, w_hh, b_ih, b_hh = (getattr(lstm, name + end).detach() for name in names)
            shape = [1, 1, w_ih.shape[1]]
            weights = reorder(w_ih, w_hh, lstm.hidden_size, reverse, True, False, shape)
            packed[-1].append((*weights, b_ih, b_hh))
    return packed


def _run_packed(packed: Packed, x: Tensor, hidden_size: int) -> Tensor:
    """Run a packed LSTM on (F, B, C); what ``nn.LSTM`` does, without the packing."""
    state = x.new_zeros(x.shape[1], hidden_size)
    for layer in packed:
        outputs = [
            torch.ops.aten.mkldnn_rnn_layer(
                x, *weights, state, state, bool(reverse), [], LSTM_MODE, hidden_size, 1, True,
                False, False, False,
            )[0]
            for reverse, weights in enumerate(layer)
        ]  # fmt: skip
        x = torch.cat(outputs, dim=2)  # (F, B, C * directions)
    return x


def _bias(conv: nn.Module) -> Tensor:
    """Return a convolution's bias, or zeros."""
    if conv.bias is None:
        return conv.weight.new_zeros(conv.out_channels)
    return conv.bias.detach().clone()


def _zeroed(x: Tensor, left: int, right: int) -> Tensor:
    """Pad (B, T, C) with zeros."""
    return F.pad(x, (0, 0, left, right)) if left or right else x


def _reflected(x: Tensor, left: int, right: int) -> Tensor:
    """Reflect the ends of (B, T, C) as ``blocks.conv.pad`` does."""
    if left == right == 0:
        return x
    missing = max(0, max(left, right) - x.shape[1] + 1)  # too short to mirror: zeros on the right
    source = F.pad(x, (0, 0, 0, missing)) if missing else x
    end = source.shape[1] - 1
    parts = [source[:, 1 : left + 1].flip(1), source, source[:, end - right : end].flip(1)]
    padded = torch.cat(parts, dim=1)
    return padded[:, :-missing].contiguous() if missing else padded
