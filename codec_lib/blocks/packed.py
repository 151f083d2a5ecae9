r"""Convolutions and linear layers, for use on a CPU, with weights in the order that oneDNN wants.

torch hands most float32 matrix products to MKL, which takes a slow path on processors by AMD, and
convolutions to oneDNN, which reorders their weights at every call. Packed once, both run at
oneDNN's speed on every x86 processor. Where torch has no oneDNN they are torch's own layers.
Leaves out: gradients, bf16, GPUs. Read next: ``blocks/frozen.py``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TYPICAL = 1024  # rows of the signal that oneDNN chooses an order of weights for


def can_pack(weight: Tensor) -> bool:
    r"""Say whether oneDNN can pack a weight here."""
    has_operators = hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
    return on_cpu and has_operators and torch.backends.mkldnn.is_available()


class PackedConv(nn.Module):
    r"""A convolution along frames-first memory.

    Parameters
    ----------
    weight, bias
        (C', C, k) and (C',).
    stride, dilation
        Of the convolution.

    Examples
    --------
    >>> PackedConv(torch.ones(4, 2, 3), torch.zeros(4))(torch.ones(1, 5, 2)).shape
    torch.Size([1, 3, 4])
    """

    def __init__(self, weight: Tensor, bias: Tensor, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.bias, self.steps = bias, ([1, stride], [1, dilation])
        self.weight, self.is_packed = weight.unsqueeze(2).contiguous(), can_pack(weight)
        if self.is_packed:  # as an image of one row, (C', C, 1, k)
            typical = [1, weight.shape[1], 1, TYPICAL * stride]
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            self.weight = reorder(self.weight, [0, 0], *self.steps, 1, typical)

    def forward(self, x: Tensor, zeros: int = 0) -> Tensor:
        """Map (B, T, C), contiguous, with zeros on both sides, to (B, T', C')."""
        if self.is_packed:
            out = torch.ops.mkldnn._convolution_pointwise(
                _as_image(x), self.weight, self.bias, [0, zeros], *self.steps, 1, "none", [], ""
            )
        else:
            stride, dilation = self.steps
            out = F.conv2d(_as_image(x), self.weight, self.bias, stride, [0, zeros], dilation)
        return out.squeeze(2).transpose(1, 2).contiguous()

    def add_to(self, total: Tensor, x: Tensor) -> Tensor:
        """Add the result for (B, T, C) to a contiguous total (B, T', C'), in place."""
        if not self.is_packed:
            return total.add_(self(x))
        torch.ops.mkldnn._convolution_pointwise_(
            _as_image(total), _as_image(x), self.weight, self.bias, [0, 0], *self.steps, 1,
            "add", None, None, [], None,
        )  # fmt: skip
        return total


def _as_image(x: Tensor) -> Tensor:
    """View (B, T, C), contiguous, as an image of one row whose memory is channels last."""
    batch, length, channels = x.shape
    row = length * channels
    return x.as_strided((batch, channels, 1, length), (row, 1, row, channels))


class PackedLinear(nn.Module):
    r"""A linear layer with a packed weight.

    Parameters
    ----------
    layer
        In float32, on a CPU.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), TYPICAL)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D')."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def pack_linears(module: nn.Module) -> nn.Module:
    r"""Replace the linear layers inside a module by packed ones, in place, where oneDNN is there.

    Parameters
    ----------
    module
        For use only: packed layers have no gradient and are not in its state dict.

    Returns
    -------
    nn.Module
        The same module.

    Examples
    --------
    >>> stack, x = nn.Sequential(nn.Linear(3, 2)).requires_grad_(False), torch.randn(5, 3)
    >>> expected = stack(x)
    >>> torch.allclose(pack_linears(stack)(x), expected, atol=1e-6)
    True
    """
    for name, child in module.named_children():
        if type(child) is nn.Linear and can_pack(child.weight):
            setattr(module, name, PackedLinear(child))
        else:
            pack_linears(child)
    return module
