r"""Transformer blocks over frames in LLaMA's form, which start as the identity.

DS-Codec [Chen 2025] puts one between the quantizer and the decoder of a codec that is already
trained: with the two output projections at zero the block passes its input on unchanged at step 0,
so the warm start is kept. Depth, width and heads are not published; causality neither.

Notebook: 13_ds_codec. Leaves out: a key-value cache, grouped queries, dropout, the norm after the
last block (it would not be an identity). Read next: ``codecs/backbones.py``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec_lib.shapes import check_shape

ROTARY_BASE = 10_000.0  # LLaMA's
NORM_EPSILON = 1e-6


def rotate(x: Tensor) -> Tensor:
    r"""Rotate queries or keys by their position (rotary embedding [Su 2021]).

    .. math:: (a, b) \mapsto (a \cos \theta - b \sin \theta,\ b \cos \theta + a \sin \theta),
              \quad \theta = f\, 10000^{-2i/d}

    with a and b values i and i + d/2 of frame f: the order of LLaMA's released weights.

    Parameters
    ----------
    x
        Shape (B, heads, F, d), d even.

    Returns
    -------
    Tensor
        The same shape; a product of two depends only on the distance of their frames.

    Examples
    --------
    >>> rotate(torch.ones(1, 1, 2, 2))[0, 0, 0].tolist()
    [1.0, 1.0]
    """
    frames, half = x.shape[-2], x.shape[-1] // 2
    options = {"device": x.device, "dtype": torch.float32}
    speed = ROTARY_BASE ** -(torch.arange(half, **options) / half)  # (d/2,)
    angle = torch.arange(frames, **options).unsqueeze(1) * speed  # theta, (F, d/2)
    cos, sin = angle.cos(), angle.sin()  # float32, as the products, also under autocast
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


class SelfAttention(nn.Module):
    r"""Rotary self-attention without biases; the output projection starts at zero.

    Parameters
    ----------
    dim, num_heads, causal
        As in ``Transformer``.

    Examples
    --------
    >>> bool((SelfAttention(8, num_heads=2)(torch.randn(1, 5, 8)) == 0).all())
    True
    """

    def __init__(self, dim: int, num_heads: int, causal: bool = False) -> None:
        super().__init__()
        self.num_heads, self.causal = num_heads, causal
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, D) to (B, F, D)."""
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1))  # (B, F, 3, heads, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, F, d)
        y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    r"""Gated feed-forward network W_3 (silu(W_1 x) * W_2 x) [Shazeer 2020]; W_3 starts at zero.

    Parameters
    ----------
    dim, hidden_dim
        Widths D and of the product.

    Examples
    --------
    >>> SwiGLU(8, 24)(torch.zeros(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(dim, 2 * hidden_dim, bias=False)  # W_1 above W_2
        self.down = nn.Linear(hidden_dim, dim, bias=False)  # W_3
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, D) to (B, F, D)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class TransformerBlock(nn.Module):
    r"""RMSNorm, attention, residual; RMSNorm, SwiGLU, residual.

    Parameters
    ----------
    dim, num_heads, hidden_dim, causal
        As in ``Transformer``, all given.

    Examples
    --------
    >>> x = torch.randn(1, 5, 8)
    >>> torch.equal(TransformerBlock(8, 2, 24)(x), x)
    True
    """

    def __init__(self, dim: int, num_heads: int, hidden_dim: int, causal: bool = False) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(dim, eps=NORM_EPSILON)
        self.attention = SelfAttention(dim, num_heads, causal)
        self.feed_forward_norm = nn.RMSNorm(dim, eps=NORM_EPSILON)
        self.feed_forward = SwiGLU(dim, hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, D) to (B, F, D)."""
        x = x.to(self.attention_norm.weight.dtype)  # under autocast the sum stays in float32
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))


class Transformer(nn.Module):
    r"""LLaMA-style blocks over latent frames; an identity until it is trained.

    Parameters
    ----------
    dim
        Latent width D.
    num_layers
        Blocks.
    num_heads
        Attention heads; D / heads must be even.
    hidden_dim
        Width of the SwiGLU; None is LLaMA's 8 D / 3, rounded up to a multiple of 8.
    causal
        True lets a frame attend to itself and earlier frames only.

    Raises
    ------
    ValueError
        If the heads do not divide D into even widths.

    Examples
    --------
    >>> z = torch.randn(2, 16, 7)
    >>> torch.equal(Transformer(16, num_layers=2, num_heads=4)(z), z)
    True
    """

    receptive_field = None  # frames: unbounded

    def __init__(
        self,
        dim: int,
        num_layers: int = 1,
        num_heads: int = 8,
        hidden_dim: int | None = None,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % (2 * num_heads):
            raise ValueError(
                f"num_heads: got {num_heads} for a width of {dim}, expected heads of equal, even "
                "width (positions rotate pairs of values)"
            )
        hidden_dim = -(-8 * dim // 24) * 8 if hidden_dim is None else hidden_dim
        self.layers = nn.Sequential(
            *(TransformerBlock(dim, num_heads, hidden_dim, causal) for _ in range(num_layers))
        )

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, D, F) to (B, D, F)."""
        check_shape(z, "B D F", name="z")
        return self.layers(z.transpose(1, 2)).transpose(1, 2)
