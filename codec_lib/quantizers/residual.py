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

from codec_lib.quantizers.bottleneck import Bottleneck, QuantizedRows
from codec_lib.quantizers.gradients import ESTIMATORS
from codec_lib.quantizers.rows import check_sizes
from codec_lib.quantizers.vector import VectorQuantizer


class ResidualQuantizer(Bottleneck):
    r"""Quantizers in a row, each on what the ones before left over; they may differ in kind.

    Parameters
    ----------
    layers
        K quantizers of one stream each and of the same ``latent_dim``: vector quantizers that all
        have projections (``codebook_dim``), or any without that have an ``estimator``.
    quantizer_dropout, as_published
        See ``ResidualVectorQuantizer``.

    Raises
    ------
    ValueError
        If there is no layer, their widths differ, they do not go together, or the share is out of
        range.
    """

    def __init__(
        self,
        layers: Iterable[Bottleneck],
        quantizer_dropout: float = 0.0,
        as_published: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        widths = {layer.latent_dim for layer in self.layers}
        if len(widths) != 1:
            raise ValueError(f"layers: got latent widths {sorted(widths)}, expected one for all")
        _check_kinds(self.layers)
        if not 0 <= quantizer_dropout <= 1:
            raise ValueError(f"quantizer_dropout: got {quantizer_dropout}, expected 0 to 1")
        self.latent_dim = widths.pop()
        self.codebook_sizes = tuple(layer.codebook_sizes[0] for layer in self.layers)
        self.quantizer_dropout, self.as_published = quantizer_dropout, as_published

    def search_rows(self, rows: Tensor, k: int = 0) -> Tensor:
        """Return the codes (V,), int64, that layer k gives to rows (V, D)."""
        return self.layers[k].search_rows(rows)

    def contribution(self, codes: Tensor, k: int = 0) -> Tensor:
        """Return what unchecked codes (...) of layer k add to the latent, (..., D)."""
        return self.layers[k].contribution(codes)

    def quantize_streams(
        self, rows: Tensor, depth: int, masks: list[Tensor] | None
    ) -> tuple[Tensor, list[QuantizedRows]]:
        """Quantize rows (V, D) and what is left of them; see ``Bottleneck``."""
        residual, total, outs = rows, torch.zeros_like(rows), []
        live = rows  # the residual that keeps its gradient, for chained estimators
        chained = getattr(self.layers[0], "is_factorised", False) and not self.as_published
        for k, layer in enumerate(self.layers[:depth]):
            out = layer.quantize_rows(residual)
            outs.append(out)
            share = layer.estimate(layer.in_proj(live), out.entries) if chained else out.z_q
            total = total + (share if masks is None else share * masks[k])
            live = live - share if chained else live
            # [SACodec], Eq. (3); the released code subtracts q with its gradient, so that r_{k+1}
            # has none towards z
            residual = residual - (out.z_q if self.as_published else out.z_q.detach())
        if not (chained or self.as_published):
            total = ESTIMATORS[self.layers[0].estimator](rows, total)  # once, on the sum
        return total, outs


def _check_kinds(layers: nn.ModuleList) -> None:
    """Raise where one estimator on the sum would leave a layer's projections untrained."""
    plain = [type(layer).__name__ for layer in layers if not hasattr(layer, "estimator")]
    if plain:
        raise ValueError(
            f"layers: got {', '.join(plain)}, expected quantizers with an estimator, such as "
            "VectorQuantizer, SimVQ or AnchoredQuantizer"
        )
    if len({getattr(layer, "is_factorised", False) for layer in layers}) > 1:
        raise ValueError(
            "layers: got some with projections and some without, expected one kind. "
            "Hint: codebook_dim=None, or the same codebook_dim for all"
        )


class ResidualVectorQuantizer(ResidualQuantizer):
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
        check_sizes(num_quantizers=num_quantizers)
        vector_options["as_published"] = as_published
        layers = (
            VectorQuantizer(latent_dim, codebook_size, **vector_options)
            for _ in range(num_quantizers)
        )
        super().__init__(layers, quantizer_dropout, as_published)
        self.codebook_size = codebook_size
