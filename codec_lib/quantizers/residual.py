r"""Residual vector quantizer: each codebook quantizes what the ones before left over.

Algorithm 1 of SoundStream [Zeghidour et al. 2021], the quantizer of EnCodec, SpeechTokenizer,
DM-Codec and (with factorised codes) DAC. The default form gives every layer's commitment loss its
gradient and the reconstruction gradient once; ``as_published=True`` is the released code of EnCodec
and SpeechTokenizer, in which the commitment losses of layers 2 to K have no gradient.

Notebooks: ``02_vector_quantization`` (preview), ``03_residual_and_product_quantization``. Left out:
beam search, codebooks shared by layers. Read next: ``health.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from codec_lib.quantizers.gradients import ESTIMATORS
from codec_lib.quantizers.rows import check_codes, check_sizes, from_rows, to_rows
from codec_lib.quantizers.vector import QuantizedRows, VectorQuantizer
from codec_lib.shapes import QuantizerOutput, check_shape


class ResidualVectorQuantizer(nn.Module):
    r"""Quantize a latent by K codebooks in a row; the sum of their entries stands for it.

    .. math:: r_1 = z, \quad q_k = Q_k(r_k), \quad r_{k+1} = r_k - \mathrm{sg}[q_k], \quad
              z_q = \sum_k q_k

    Parameters
    ----------
    latent_dim
        Width D of the latent.
    num_quantizers
        Codebooks K.
    codebook_size
        Entries N of each.
    quantizer_dropout
        Share of a training batch's items, each drawn on its own, that are quantized with a random
        number of codebooks, uniform over 1..K, so that one model serves every bitrate (DAC). The
        draws come from torch's global CPU generator. 0 switches it off.
    as_published
        True subtracts the straight-through tensor without stopping its gradient and gives all
        layers ``VectorQuantizer(as_published=True)``.
    **vector_options
        Further arguments of every layer's ``VectorQuantizer``.

    Raises
    ------
    ValueError
        If a size or the share is out of range.

    Notes
    -----
    Gradients of the default form. Without projections one estimator acts on the whole sum, so the
    reconstruction gradient reaches the encoder exactly once (straight-through: as the identity);
    summing K straight-through layers with detached residuals would count it K times. With
    projections (``codebook_dim``) the layers' estimators chain, as in DAC, so that the projections
    learn from the reconstruction. Commitment losses always take the detached residual, on which the
    gradient of layer k is that of layer 1.

    Items that dropout has cut still update the codebooks they skip, whose residuals are as good as
    any; in the losses their skipped layers count as zero. ``codes`` always holds all layers.

    Examples
    --------
    >>> quantizer = ResidualVectorQuantizer(latent_dim=8, num_quantizers=3, codebook_size=16)
    >>> out = quantizer(torch.randn(2, 8, 50))
    >>> out.codes.shape, out.losses["commitment_loss"].shape, len(out.layers)
    (torch.Size([2, 3, 50]), torch.Size([3]), 3)
    """

    def __init__(
        self,
        latent_dim: int,
        num_quantizers: int,
        codebook_size: int,
        quantizer_dropout: float = 0.0,
        as_published: bool = False,
        **vector_options: Any,
    ) -> None:
        super().__init__()
        check_sizes(num_quantizers=num_quantizers)
        if not 0 <= quantizer_dropout <= 1:
            raise ValueError(f"quantizer_dropout: got {quantizer_dropout}, expected 0 to 1")
        self.latent_dim, self.num_quantizers = latent_dim, num_quantizers
        self.codebook_size = codebook_size
        self.codebook_sizes = (codebook_size,) * num_quantizers
        self.quantizer_dropout, self.as_published = quantizer_dropout, as_published
        self.layers = nn.ModuleList(
            VectorQuantizer(latent_dim, codebook_size, as_published=as_published, **vector_options)
            for _ in range(num_quantizers)
        )

    def forward(self, z: Tensor, n_q: int | Tensor | None = None) -> QuantizerOutput:
        r"""Quantize a latent; in training mode the codebooks learn from it too.

        Parameters
        ----------
        z
            Latent, shape (B, D, F).
        n_q
            Codebooks to use: a number, one number per item (B,), or None for all (or what
            ``quantizer_dropout`` draws). With a number, later layers do not run at all.

        Returns
        -------
        QuantizerOutput
            ``z_q`` (B, D, F), ``codes`` (B, n_q, F), losses of shape (n_q,), and the layers'
            contributions, each straight-through to the encoder.

        Raises
        ------
        ValueError
            If the shape is not (B, D, F) or ``n_q`` is not in 1..K.
        """
        check_shape(z, "B D F", name="z", D=self.latent_dim)
        depth = self.num_quantizers
        if isinstance(n_q, int):
            depth, n_q = self._depth(n_q), None
        elif n_q is None and self.training and self.quantizer_dropout > 0:
            n_q = self._draw_depths(z.shape[0])
        with torch.autocast(z.device.type, enabled=False):
            return self._quantize(z, depth, self._masks(n_q, z, depth))

    def _quantize(self, z: Tensor, depth: int, masks: list[Tensor] | None) -> QuantizerOutput:
        batch, _, frames = z.shape
        rows = to_rows(z)  # (V, D), V = B F
        residual, total, outs = rows, torch.zeros_like(rows), []
        live = rows  # the residual that keeps its gradient, for chained estimators
        chained = self.layers[0].is_factorised and not self.as_published
        for k, layer in enumerate(self.layers[:depth]):
            out = layer.quantize_rows(residual)
            outs.append(out)
            share = layer.estimate(layer.in_proj(live), out.entries) if chained else out.z_q
            total = total + (share if masks is None else share * masks[k])
            live = live - share if chained else live
            # the released code subtracts q with its gradient, so r_{k+1} has none towards z
            residual = residual - (out.z_q if self.as_published else out.z_q.detach())
        if not (chained or self.as_published):
            total = ESTIMATORS[self.layers[0].estimator](rows, total)
        return QuantizerOutput(
            z_q=from_rows(total, batch, frames).to(z.dtype),
            codes=torch.stack([out.codes.view(batch, frames) for out in outs], dim=1),
            losses=_reduce_losses(outs, masks),
            layers=[from_rows(out.z_q, batch, frames).to(z.dtype) for out in outs],
        )

    @torch.no_grad()
    def encode(self, z: Tensor, n_q: int | None = None) -> Tensor:
        r"""Return the codes (B, n_q, F), int64, of a latent (B, D, F); changes nothing.

        The first k codes do not depend on ``n_q``: what k codebooks send is a prefix.
        """
        check_shape(z, "B D F", name="z", D=self.latent_dim)
        batch, _, frames = z.shape
        codes = []
        with torch.autocast(z.device.type, enabled=False):
            residual = to_rows(z)
            for layer in self.layers[: self._depth(n_q)]:
                codes.append(layer.search(layer.in_proj(residual)))
                residual = residual - layer.contribution(codes[-1])
        return torch.stack([c.view(batch, frames) for c in codes], dim=1)

    def decode(self, codes: Tensor, layers: Iterable[int] | None = None) -> Tensor:
        r"""Return the sum of the entries that codes stand for, shape (B, D, F).

        Parameters
        ----------
        codes
            Codes, shape (B, n_q, F), int64; row k belongs to codebook k.
        layers
            Codebooks to sum, counted from 0; None for all rows. An empty choice gives zeros.

        Raises
        ------
        TypeError
            If the codes are not int64.
        ValueError
            If a code, the number of rows or a layer is out of range.
        """
        sizes = check_shape(codes, "B K F", name="codes")
        check_codes(codes, self.codebook_size)
        rows = self._depth(sizes["K"])
        chosen = range(rows) if layers is None else sorted(set(layers))
        if any(not 0 <= k < rows for k in chosen):
            raise ValueError(f"layers: got {list(chosen)}, expected numbers from 0 to {rows - 1}")
        total = torch.zeros(
            sizes["B"], sizes["F"], self.latent_dim, device=codes.device
        )  # (B, F, D)
        with torch.autocast(codes.device.type, enabled=False):
            for k in chosen:
                total = total + self.layers[k].contribution(codes[:, k])
        return total.transpose(1, 2)

    def _depth(self, n_q: int | None) -> int:
        """Return the number of codebooks to use, checked."""
        n_q = self.num_quantizers if n_q is None else n_q
        if not 1 <= n_q <= self.num_quantizers:
            raise ValueError(f"n_q: got {n_q}, expected 1 to {self.num_quantizers}")
        return n_q

    def _draw_depths(self, batch: int) -> Tensor:
        """Draw how many codebooks each item uses, shape (B,): all, or a random number."""
        drawn = torch.randint(1, self.num_quantizers + 1, (batch,))
        dropped = torch.rand(batch) < self.quantizer_dropout
        return torch.where(dropped, drawn, self.num_quantizers)

    def _masks(self, n_q: Tensor | None, z: Tensor, depth: int) -> list[Tensor] | None:
        """Return per layer which rows use it, each (V, 1) of 0 or 1; None where all do."""
        if n_q is None:
            return None
        check_shape(n_q, "B", name="n_q", B=z.shape[0])
        if n_q.numel() and not 1 <= int(n_q.min()) <= int(n_q.max()) <= depth:
            raise ValueError(f"n_q: got {n_q.tolist()}, expected numbers from 1 to {depth}")
        per_row = n_q.to(z.device).repeat_interleave(z.shape[2]).unsqueeze(1)  # (V, 1)
        return [(per_row > k).float() for k in range(depth)]


def _reduce_losses(outs: list[QuantizedRows], masks: list[Tensor] | None) -> dict[str, Tensor]:
    """Return each loss as one mean per layer, shape (n_q,); masked rows count as zero."""

    def mean(values: Tensor, k: int) -> Tensor:
        return values.mean() if masks is None else (values * masks[k].squeeze(1)).mean()

    losses = {"commitment_loss": torch.stack([mean(o.commitment, k) for k, o in enumerate(outs)])}
    if outs[0].codebook is not None:
        losses["codebook_loss"] = torch.stack([mean(o.codebook, k) for k, o in enumerate(outs)])
    return losses
