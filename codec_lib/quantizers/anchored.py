r"""Semantic anchors: codebooks whose points a speech model chose, and SACodec's pair of quantizers.

[SACodec], Eqs. (1)-(4): the first quantizer looks up frozen k-means centroids of a
speech model through a learnt affine map, the second quantizes what is left by SimVQ. Its two lesser
strategies are here too: direct lookup, and projecting the features instead of the codebook.

Notebook: ``12_sacodec``. Left out: where the centroids come from (``anchors.py``).
Read next: ``anchors.py``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from codec_lib.quantizers.anchors import random_anchor, random_anchor_like
from codec_lib.quantizers.bottleneck import Bottleneck, QuantizedRows
from codec_lib.quantizers.gradients import ESTIMATORS
from codec_lib.quantizers.residual import ResidualQuantizer
from codec_lib.quantizers.rows import check_choice
from codec_lib.quantizers.search import nearest
from codec_lib.quantizers.simvq import FrozenTableQuantizer, SimVQ
from codec_lib.quantizers.vector import VectorQuantizer
from codec_lib.shapes import check_shape

STRATEGIES = ("codebook_projection", "feature_projection", "direct")
FIRST = ("anchored", "random", "learnable")


class AnchoredQuantizer(FrozenTableQuantizer):
    r"""Quantize by a frozen table of anchors C (N, S).

    ========================= ======================== =================== ===================
    ``strategy``              search                   entry e             learns by
    ========================= ======================== =================== ===================
    ``"codebook_projection"`` z among P(C)             P(c)                ``codebook_loss``
    ``"feature_projection"``  P(z) among C             c, or A(c) if S ≠ D ``commitment_loss``
    ``"direct"``              z among C, S = D         c                   nothing here
    ========================= ======================== =================== ===================

    [SACodec], Eqs. (1) and (2) and Fig. 3; P and A are affine.

    Parameters
    ----------
    latent_dim
        Width D of the latent.
    table
        Anchors, shape (N, S): see ``load_anchor``, ``random_anchor_like``.
    strategy
        See the table.
    estimator
        ``"straight_through"`` or ``"rotation"``.

    Raises
    ------
    TypeError, ValueError
        If the table is no finite matrix, a name is unknown, or ``"direct"`` meets S ≠ D.

    Notes
    -----
    ``codebook_loss`` is always reported; under ``"direct"``, and ``"feature_projection"`` with
    S = D, nothing gets gradient from it.

    Examples
    --------
    >>> import torch
    >>> quantizer = AnchoredQuantizer(latent_dim=8, table=random_anchor(16, 12))
    >>> quantizer(torch.randn(2, 8, 50)).codes.shape
    torch.Size([2, 1, 50])
    """

    def __init__(
        self,
        latent_dim: int,
        table: Tensor,
        strategy: str = "codebook_projection",
        estimator: str = "straight_through",
    ) -> None:
        check_choice("strategy", strategy, STRATEGIES)
        width = check_shape(table, "N S", name="table")["S"]
        if strategy == "direct" and width != latent_dim:
            raise ValueError(
                f"table: got anchors of width {width}, expected {latent_dim} for direct lookup. "
                "Hint: latent_dim of that width, or another strategy"
            )
        projects = strategy == "codebook_projection" or width != latent_dim
        basis = nn.Linear(width, latent_dim) if projects else nn.Identity()
        super().__init__(latent_dim, table, basis, estimator)
        self.strategy = strategy
        projected = strategy == "feature_projection"
        self.in_proj = nn.Linear(latent_dim, width) if projected else nn.Identity()

    def project(self, rows: Tensor) -> Tensor:
        """Return rows (V, D) as they are compared: projected to (V, S) where features are."""
        return self.in_proj(rows)

    def search_rows(self, rows: Tensor, k: int = 0) -> Tensor:
        """Return the codes (V,), int64, of rows (V, D)."""
        if self.strategy != "feature_projection":
            return super().search_rows(rows)
        return nearest(self.project(rows), self.frozen_codebook)

    def quantize_rows(self, rows: Tensor) -> QuantizedRows:
        """Quantize rows (V, D) in float32."""
        if self.strategy != "feature_projection":
            return super().quantize_rows(rows)
        projected = self.in_proj(rows)  # (V, S)
        codes = nearest(projected, self.frozen_codebook)
        anchors = self.frozen_codebook[codes]  # (V, S)
        commitment = (projected - anchors).pow(2).mean(dim=1)
        learnt = (rows.detach() - self.basis(anchors)).pow(2).mean(dim=1)
        z_q = self.basis(ESTIMATORS[self.estimator](projected, anchors))
        return QuantizedRows(codes, anchors, z_q, commitment, learnt)


class AsymmetricDualQuantizer(ResidualQuantizer):
    r"""SACodec's bottleneck: anchors say what is spoken, SimVQ quantizes the rest.

    .. math:: \tilde C = P_{sem}(C_{sem}), \quad
              e_1 = \tilde c_i, \; i = \arg\min_i \|h - \tilde c_i\|^2, \quad
              r = h - \mathrm{sg}[e_1], \quad e_2 = \mathrm{SimVQ}(r), \quad
              z_q = h + \mathrm{sg}[e_1 + e_2 - h]

    [SACodec], Eqs. (1)-(4). One straight-through acts on the sum, so the reconstruction reaches the
    encoder exactly once, and never a projector: those learn from ``codebook_loss``. The paper
    writes the residual without the stop-gradient, with which the second ``commitment_loss`` would
    not reach the encoder at all.

    Parameters
    ----------
    latent_dim
        Width D of the latent; 768 gives the paper's parameter count.
    table
        Anchors C_sem, shape (K1, S). None stands for a random table of the sizes below, to be
        filled by a checkpoint.
    codebook_size, codebook_dim
        Entries K2 of the second quantizer and the width of its table (None: D).
    first
        ``"anchored"``; ``"random"``: the same with a frozen random table of the same sizes, mean
        and covariance, the control that the paper lacks; ``"learnable"``: an ordinary vector
        quantizer with K1 entries that ``codebook_loss`` moves.
    strategy
        How the anchors are looked up, see ``AnchoredQuantizer``.
    anchor_size, anchor_dim
        K1 and S where ``table`` is None.
    use_first, use_second
        False leaves the first or the second quantizer out.
    quantizer_dropout
        See ``ResidualVectorQuantizer``.

    Raises
    ------
    TypeError, ValueError
        If a size, a name or the table is wrong, or neither quantizer is used.

    Examples
    --------
    >>> import torch
    >>> quantizer = AsymmetricDualQuantizer(latent_dim=8, anchor_size=10, codebook_size=16)
    >>> out = quantizer(torch.randn(2, 8, 50))
    >>> out.codes.shape, quantizer.codebook_sizes, out.losses["codebook_loss"].shape
    (torch.Size([2, 2, 50]), (10, 16), torch.Size([2]))
    """

    def __init__(
        self,
        latent_dim: int,
        table: Tensor | None = None,
        codebook_size: int = 1024,
        codebook_dim: int | None = None,
        first: str = "anchored",
        strategy: str = "codebook_projection",
        anchor_size: int = 1000,
        anchor_dim: int = 768,
        use_first: bool = True,
        use_second: bool = True,
        quantizer_dropout: float = 0.0,
    ) -> None:
        check_choice("first", first, FIRST)
        if not (use_first or use_second):
            raise ValueError("use_first, use_second: got False twice, expected a quantizer")
        layers: list[Bottleneck] = []
        if use_first:
            if table is None:
                table = random_anchor(anchor_size, anchor_dim)
            elif first == "random":
                table = random_anchor_like(table)
            layers.append(_first_quantizer(latent_dim, table, first, strategy))
        if use_second:
            layers.append(SimVQ(latent_dim, codebook_size, codebook_dim))
        super().__init__(layers, quantizer_dropout)


def _first_quantizer(latent_dim: int, table: Tensor, first: str, strategy: str) -> Bottleneck:
    """Return Q1 of one stream with as many entries as the table has."""
    if first != "learnable":
        return AnchoredQuantizer(latent_dim, table, strategy)
    plain: dict[str, Any] = {"kmeans_init": False, "dead_code_threshold": 0}
    return VectorQuantizer(latent_dim, table.shape[0], update="gradient", **plain)
