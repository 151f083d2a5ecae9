r"""Transformer layers of speech language models, with a cache of keys and values.

Pre-norm layers with biases and ReLU, sinusoidal positions with a scale that is learnt, and, for the
model that does not write from left to right, norms whose scale and shift depend on the codebook
that is asked for. These are the layers of the unified speech language model [Zhang et al. 2024,
SpeechTokenizer], §5.4, whose code follows VALL-E [Wang et al. 2023].

Generation writes one frame at a time; ``KeyValueCache`` keeps what earlier frames have computed.
Notebook: 40. Leaves out: rotary positions (``blocks/transformer.py``). Read next: ``unified.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

POSITION_BASE = 10_000.0


def sine_positions(positions: Tensor, dim: int) -> Tensor:
    r"""Return sines and cosines of positions [Vaswani et al. 2017], §3.5.

    .. math:: p_{n, 2i} = \sin(n\, 10000^{-2i/D}), \quad p_{n, 2i+1} = \cos(n\, 10000^{-2i/D})

    Parameters
    ----------
    positions
        Any shape, numbers n.
    dim
        Width D, even.

    Returns
    -------
    Tensor
        The shape of ``positions`` and D, float32.

    Examples
    --------
    >>> sine_positions(torch.tensor([0]), 4).tolist()
    [[0.0, 1.0, 0.0, 1.0]]
    """
    even = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32)
    angle = positions[..., None].float() * torch.exp(even * (-math.log(POSITION_BASE) / dim))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


class SinePosition(nn.Module):
    r"""Add sinusoidal positions times a learnt scale.

    Parameters
    ----------
    dim
        Width D, even.
    dropout
        After the sum.
    learnt
        False keeps the scale at 1.
    pace
        What a position counts. Frames that count as many symbols as they last on the average stand
        where their text stands, so that attention finds it early.
    """

    def __init__(
        self, dim: int, dropout: float = 0.0, learnt: bool = True, pace: float = 1.0
    ) -> None:
        super().__init__()
        self.alpha, self.pace = nn.Parameter(torch.ones(1), requires_grad=learnt), pace
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """Map (B, L, D) to (B, L, D); positions (B, L) are 0, pace, 2 pace and so on by default."""
        if positions is None:
            positions = self.pace * torch.arange(x.shape[1], device=x.device)
        place = sine_positions(positions, x.shape[-1]).to(x.dtype)
        return self.dropout(x + self.alpha * place)


class LayerCache:
    r"""Keys and values of one layer, for up to L positions.

    Parameters
    ----------
    length
        L; memory is taken when the first keys come, in their type.
    """

    def __init__(self, length: int) -> None:
        self.length, self.used = length, 0
        self.keys, self.values = torch.empty(0), torch.empty(0)

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, heads, n, d) each, and return all there are, (B, heads, used, d)."""
        first, self.used = self.used, self.used + keys.shape[2]
        if self.used > self.length:
            raise ValueError(f"cache: got {self.used} positions, expected at most {self.length}")
        if not first:
            batch, heads, _, width = keys.shape
            self.keys, self.values = (one.new_empty(batch, heads, self.length, width)
                                      for one in (keys, values))  # fmt: skip
        self.keys[:, :, first : self.used] = keys
        self.values[:, :, first : self.used] = values
        return self.keys[:, :, : self.used], self.values[:, :, : self.used]


class KeyValueCache:
    r"""Keys and values of all layers, and which positions of each item are real.

    Parameters
    ----------
    stack
        Whose layers they are.
    batch, length
        Items B and positions L.
    device
        Where they are.
    """

    def __init__(
        self, stack: Stack, batch: int, length: int, device: torch.device | str = "cpu"
    ) -> None:
        self.layers = [LayerCache(length) for _ in stack.layers]
        self.valid = torch.zeros(batch, length, dtype=torch.bool, device=device)

    @property
    def used(self) -> int:
        r"""Positions that are filled."""
        return self.layers[0].used

    def mark(self, valid: Tensor) -> Tensor:
        """Say which of the next n positions are real, (B, n); return a mask (B, 1, 1, used + n)."""
        count = valid.shape[1]
        self.valid[:, self.used : self.used + count] = valid
        return self.valid[:, None, None, : self.used + count]


class Attention(nn.Module):
    r"""Multi-head self-attention with biases.

    Parameters
    ----------
    dim, num_heads
        Width D, which the heads divide.
    dropout
        In training, share of what is listened to that is not heard.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.in_proj, self.out_proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, mask: Tensor | None, cache: LayerCache | None = None) -> Tensor:
        """Map (B, L, D) to (B, L, D); True in the mask, (B or 1, 1, L or 1, keys), may be heard."""
        qkv = self.in_proj(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, L, d)
        if cache is not None:
            k, v = cache.extend(k, v)
        heard = _attend(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.out_proj(heard.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, mask: Tensor | None, heads: int | None = None) -> Tensor:
        r"""Return what each position listens to, (B, heads, L, keys), in the first heads or all."""
        qkv = self.in_proj(x).unflatten(-1, (3, self.num_heads, -1))[..., :heads, :]
        q, k, _ = qkv.permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attend; in float32 on CPUs, where the gradient in bf16 takes more than twice as long."""
    if q.device.type != "cpu":
        return functional.scaled_dot_product_attention(q, k, v, mask, dropout)
    with torch.autocast("cpu", enabled=False):
        q, k, v = q.float(), k.float(), v.float()
        return functional.scaled_dot_product_attention(q, k, v, mask, dropout)


class AdaptiveNorm(nn.Module):
    r"""LayerNorm whose scale and shift are a linear map of a condition.

    .. math:: \mathrm{AdaLN}(x, c) = a(c)\, \mathrm{LN}(x) + b(c), \quad (a, b) = W c + w

    Parameters
    ----------
    dim
        Width D of both.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.project = nn.LayerNorm(dim), nn.Linear(dim, 2 * dim)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map (B, L, D) and a condition (D,) or (B, 1, D) to (B, L, D)."""
        scale, shift = self.project(condition).chunk(2, dim=-1)
        return scale * self.norm(x) + shift


class Layer(nn.Module):
    r"""Norm, attention, residual; norm, ReLU network, residual.

    Parameters
    ----------
    dim, num_heads, hidden_dim, dropout, adaptive
        As in ``Stack``.
    """

    def __init__(
        self, dim: int, num_heads: int, hidden_dim: int, dropout: float, adaptive: bool
    ) -> None:
        super().__init__()
        make = AdaptiveNorm if adaptive else nn.LayerNorm
        self.attention_norm, self.attention = make(dim), Attention(dim, num_heads, dropout)
        self.feed_forward_norm = make(dim)
        self.up, self.down = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        condition: Sequence[Tensor] = (),
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        heard = self.attention(self.attention_norm(x, *condition), mask, cache)
        x = x + self.dropout(heard)
        inner = self.dropout(functional.relu(self.up(self.feed_forward_norm(x, *condition))))
        return x + self.dropout(self.down(inner))


class Stack(nn.Module):
    r"""Layers and a last norm.

    Parameters
    ----------
    dim, num_heads, num_layers, hidden_dim
        Width D, heads that divide it, layers, width of the ReLU network.
    dropout
        Of what is listened to, behind attention, inside and behind the ReLU network.
    adaptive
        True gives every norm a condition.

    Raises
    ------
    ValueError
        If the heads do not divide the width, or it is odd.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_layers: int,
        hidden_dim: int,
        dropout: float = 0.1,
        adaptive: bool = False,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads or dim % 2:
            raise ValueError(
                f"num_heads: got {num_heads} for a width of {dim}, expected an even width that "
                "the heads divide"
            )
        self.dim, self.num_heads = dim, num_heads
        self.layers = nn.ModuleList(
            Layer(dim, num_heads, hidden_dim, dropout, adaptive) for _ in range(num_layers)
        )
        self.norm = AdaptiveNorm(dim) if adaptive else nn.LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        condition: Tensor | None = None,
        cache: KeyValueCache | None = None,
        watch: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        r"""Run all layers.

        Parameters
        ----------
        x
            Shape (B, L, D).
        mask
            Shape (B or 1, 1, L or 1, keys), bool; True may be heard. None: everything.
        condition
            Shape (D,) or (B, 1, D), for adaptive norms.
        cache
            Filled with the keys and values of x; what it holds already comes before them.
        watch
            Called with the number of every layer and what enters it.
        """
        given = () if condition is None else (condition,)
        kept = [None] * len(self.layers) if cache is None else cache.layers
        for number, (layer, own) in enumerate(zip(self.layers, kept, strict=True)):
            if watch is not None:
                watch(number, x)
            x = layer(x, mask, given, own)
        return self.norm(x, *given)

    @torch.no_grad()
    def attention_maps(
        self, x: Tensor, mask: Tensor | None = None, condition: Tensor | None = None
    ) -> list[Tensor]:
        r"""Return what every layer listens to, each (B, heads, L, L); arguments as in forward."""
        given, maps = () if condition is None else (condition,), []
        for layer in self.layers:
            maps.append(layer.attention.weights(layer.attention_norm(x, *given), mask))
            x = layer(x, mask, given)
        return maps


def real(lengths: Tensor, size: int) -> Tensor:
    r"""Return which of ``size`` positions lie before each length, (B, size) bool.

    Examples
    --------
    >>> real(torch.tensor([1, 2]), 2).tolist()
    [[True, False], [True, True]]
    """
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def prefix_mask(text: Tensor, frames: int) -> Tensor:
    r"""Return the mask of a prefix language model: text hears text, frames hear it and the past.

    Parameters
    ----------
    text
        Which text positions are real, (B, S) bool.
    frames
        Frames F behind the text.

    Returns
    -------
    Tensor
        Shape (B, 1, S + F, S + F), bool: query, key.

    Examples
    --------
    >>> prefix_mask(torch.ones(1, 1, dtype=torch.bool), 2)[0, 0].int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    size, length = text.shape[1], text.shape[1] + frames
    past = torch.ones(frames, frames, dtype=torch.bool, device=text.device).tril()
    mask = torch.zeros(len(text), length, length, dtype=torch.bool, device=text.device)
    mask[:, :, :size] = text[:, None, :]
    mask[:, size:, size:] = past
    return mask[:, None]
