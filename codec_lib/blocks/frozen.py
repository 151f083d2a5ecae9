r"""SEANet for use: the same numbers from matrix products and packed weights, on a CPU.

Training wants weight norm, autograd and channel-first memory; a finished network needs none of
them. Kept frames-first, (T, C), a convolution of kernel k = 2s and stride s *is* two matrix
products: row f of ``x.view(F, s C)`` is the first half of window f, row f + 1 its second half. Its
transpose writes the same two products one frame apart. Nothing is copied, and no layer reorders its
input or its weights at each call, which costs the convolutions and above all the LSTM of the
published network (59 M weights) a quarter of their time on a few seconds of speech.

Differences from ``blocks/seanet.py`` are of rounding only, about 1e-7. Notebook:
05_encoders_and_decoders. Leaves out: gradients, GPUs (cuDNN keeps its own layouts). Read next:
``codecs/base.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec_lib.blocks.conv import Conv1d, ConvTranspose1d, num_frames
from codec_lib.blocks.recurrent import SkipLSTM
from codec_lib.blocks.seanet import ResidualBlock, SEANetDecoder, SEANetEncoder
from codec_lib.blocks.tiling import run_tiled

FEW = 64  # k C up to which copied windows beat thin products
LSTM_MODE = 2  # the number of an LSTM among the recurrent cells of aten::mkldnn_rnn_layer


class FrozenSEANet(nn.Module):
    r"""Run a SEANet encoder or decoder without gradient, frames first.

    Parameters
    ----------
    network
        A ``SEANetEncoder`` or ``SEANetDecoder``, weight norm folded or not; it is copied.

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
    >>> torch.allclose(FrozenSEANet(encoder)(wav), encoder(wav), atol=1e-6)
    True
    """

    def __init__(self, network: SEANetEncoder | SEANetDecoder) -> None:
        super().__init__()
        if not isinstance(network, SEANetEncoder | SEANetDecoder):
            raise TypeError(f"network: got {type(network).__name__}, expected SEANet")
        self.hop_length, self.receptive_field = network.hop_length, network.receptive_field
        self.context, self.encodes = network.context, isinstance(network, SEANetEncoder)
        split = network.num_strided if self.encodes else network.num_latent
        layers = [freeze_layer(layer) for layer in network.layers]
        self.first, self.second = nn.Sequential(*layers[:split]), nn.Sequential(*layers[split:])

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C', T'), as the network does."""
        if self.encodes:
            x = run_tiled(partial(_apply, self.first), x, self.context, self.hop_length, 1)
            return _apply(self.second, x)
        x = _apply(self.first, x)
        return run_tiled(partial(_apply, self.second), x, self.context, 1, self.hop_length)


def _apply(layers: nn.Module, x: Tensor) -> Tensor:
    """Run frames-first layers on a channel-first tensor."""
    frames_first = x.transpose(1, 2)  # (B, T, C)
    owned = frames_first.clone(memory_format=torch.contiguous_format)  # ELU overwrites it
    return layers(owned).transpose(1, 2)


def freeze_layer(layer: nn.Module) -> nn.Module:
    r"""Return the frames-first form of a layer of SEANet.

    Raises
    ------
    TypeError
        If the layer is not known here.
    """
    known: dict[type, Callable[[nn.Module], nn.Module]] = {
        Conv1d: _Conv,
        ConvTranspose1d: _ConvTranspose,
        ResidualBlock: _Residual,
        SkipLSTM: _SkipLSTM,
    }
    for kind, frozen in known.items():
        if isinstance(layer, kind):
            return frozen(layer)
    if next(layer.children(), None) is not None:
        raise TypeError(f"layer: got {type(layer).__name__}, which has no frames-first form")
    return _Elementwise(layer)


class _Elementwise(nn.Module):
    """An activation; ELU overwrites its input, which nothing else reads."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, C) to (B, F, C), in place where that is safe."""
        if isinstance(self.layer, nn.ELU):
            return F.elu_(x, self.layer.alpha)
        return self.layer(x.transpose(1, 2)).transpose(1, 2)  # keeps the memory frames-first


class _Conv(nn.Module):
    """Conv1d as one product where windows do not overlap, else as one for each shift by a stride.

    Few input channels would make thin products: there the windows are copied side by side.
    """

    def __init__(self, layer: Conv1d) -> None:
        super().__init__()
        conv = layer.conv
        if conv.groups != 1 or conv.dilation != (1,) or layer.pad_mode != "reflect":
            raise TypeError("layer: expected no groups, no dilation and reflection")
        self.stride, (self.kernel,) = layer.stride, conv.kernel_size
        self.right = 0 if layer.causal else layer.padding_total // 2
        self.left = layer.padding_total - self.right
        weight = conv.weight.detach().permute(2, 1, 0)  # (k, C, C')
        self.copies = weight.shape[0] * weight.shape[1] <= FEW
        if self.copies:
            weight = weight.flatten(0, 1).unsqueeze(0)  # (1, k C, C')
        else:
            whole = -(-self.kernel // self.stride) * self.stride  # k, rounded up to whole strides
            weight = F.pad(weight, (0, 0, 0, 0, 0, whole - self.kernel))
            weight = weight.unflatten(0, (-1, self.stride)).flatten(1, 2)  # (k / s, s C, C')
        self.register_buffer("shifts", weight.contiguous())
        self.register_buffer("bias", _bias(conv))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, C) to (B, ceil(F / s), C')."""
        frames = num_frames(x.shape[1], self.stride)
        out = x.new_empty(x.shape[0], frames, self.bias.shape[0])  # (B, F, C')
        out[:] = self.bias
        return self.add_to(out, x)

    def add_to(self, out: Tensor, x: Tensor) -> Tensor:
        """Add the products to ``out``; the bias is not among them."""
        windows, frames = self._windows(x, out.shape[1]), out.shape[1]
        for item, target in zip(windows, out, strict=True):
            for shift, weight in enumerate(self.shifts):
                target.addmm_(item[shift : shift + frames], weight)
        return out

    def _windows(self, x: Tensor, frames: int) -> Tensor:
        """Return rows of one stride (B, F + k/s - 1, s C), or of whole windows (B, F, k C)."""
        extra = self.right + frames * self.stride - x.shape[1]
        if self.copies:
            x = _pad(x, self.left, extra, 0)
            return x.unfold(1, self.kernel, self.stride).transpose(2, 3).flatten(2)
        rows = frames + len(self.shifts) - 1
        # a kernel of no whole number of strides is filled up with zeros, and so is its last window
        x = _pad(x, self.left, extra, len(self.shifts) * self.stride - self.kernel)
        return x[:, : rows * self.stride].reshape(x.shape[0], rows, -1)


class _ConvTranspose(nn.Module):
    """ConvTranspose1d: the products for each stride of the kernel, one frame apart."""

    def __init__(self, layer: ConvTranspose1d) -> None:
        super().__init__()
        conv = layer.conv
        (kernel,), (self.stride,) = conv.kernel_size, conv.stride
        self.left, self.right = layer.left, layer.right
        self.overlap = -(-kernel // self.stride) - 1  # frames that a frame reaches into
        whole = (self.overlap + 1) * self.stride
        self.right += whole - kernel
        weight = F.pad(conv.weight.detach(), (0, whole - kernel))  # (C, C', k)
        weight = weight.unflatten(2, (self.overlap + 1, self.stride))  # (C, C', k / s, s)
        shifts = weight.permute(2, 0, 3, 1).flatten(2)  # (k / s, C, s C')
        self.register_buffer("shifts", shifts.contiguous())
        self.register_buffer("bias", _bias(conv).repeat(self.stride))  # (s C',)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, C) to (B, s F, C')."""
        batch, frames, _ = x.shape
        out = x.new_empty(batch, frames + self.overlap, self.bias.shape[0])  # (B, F + 1, s C')
        out[:, frames:] = self.bias
        for item, target in zip(x, out, strict=True):
            torch.addmm(self.bias, item, self.shifts[0], out=target[:frames])
            for shift in range(1, self.overlap + 1):
                target[shift : shift + frames].addmm_(item, self.shifts[shift])
        out = out.view(batch, (frames + self.overlap) * self.stride, -1)  # (B, T, C')
        return out[:, self.left : out.shape[1] - self.right]


class _Residual(nn.Module):
    """ResidualBlock; the last product of the block is added to the shortcut's output."""

    def __init__(self, layer: ResidualBlock) -> None:
        super().__init__()
        self.shortcut = freeze_layer(layer.shortcut)
        self.block = nn.Sequential(*(freeze_layer(part) for part in layer.block))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, C) to (B, F, C)."""
        total = self.shortcut(x)  # before the block, whose activation overwrites x
        *block, last = self.block
        for part in block:
            x = part(x)
        return last.add_to(total.add_(last.bias), x)


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
        return y.transpose(0, 1) + torch.cat([x] * self.directions, dim=2)  # (B, F, C * directions)


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


def _pad(x: Tensor, left: int, right: int, zeros: int) -> Tensor:
    """Reflect the ends of (B, T, C) as ``blocks.conv.pad`` does, and append zeros."""
    length = x.shape[1]
    if left == right == zeros == 0:
        return x
    missing = max(0, max(left, right) - length + 1)  # too short to mirror: zeros on the right
    source = F.pad(x, (0, 0, 0, missing)) if missing else x
    end = source.shape[1] - 1
    parts = [source[:, 1 : left + 1].flip(1), source, source[:, end - right : end].flip(1)]
    padded = torch.cat(parts, dim=1)
    if missing:
        padded = padded[:, :-missing]
    return F.pad(padded, (0, 0, 0, zeros)) if zeros else padded
