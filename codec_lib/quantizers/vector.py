r"""Vector quantizer: a latent vector becomes the index of its nearest codebook entry.

Covers the quantizer of VQ-VAE [van den Oord et al. 2017] (Eqs. 1-3), the factorised and
L2-normalised lookup of DAC [Kumar et al. 2023], and two gradient estimators; how the codebook
learns is in ``codebook.py``.

Notebook: ``02_vector_quantization``. Left out: several codebooks (``residual.py``).
Read next: ``residual.py``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrizations

from codec_lib.quantizers.bottleneck import Bottleneck, QuantizedRows
from codec_lib.quantizers.codebook import LearntCodebook
from codec_lib.quantizers.gradients import ESTIMATORS
from codec_lib.quantizers.rows import check_choice, check_sizes


class VectorQuantizer(LearntCodebook, Bottleneck):
    r"""Replace every latent vector by the nearest of N learnt entries.

    .. math:: q(z) = e_c, \quad c = \arg\min_i \|z - e_i\|^2

    [van den Oord et al. 2017], Eqs. (1) and (2). Losses, means over all elements [Eq. (3)]:
    ``commitment_loss`` = ||z - sg[e]||^2, and with ``update="gradient"`` ``codebook_loss`` =
    ||sg[z] - e||^2.

    Parameters
    ----------
    latent_dim
        Width D of the latent.
    codebook_size
        Entries N.
    codebook_dim
        Width d of an entry. When it differs from D, learnt projections D -> d -> D surround the
        lookup (DAC's factorised codes). None means D.
    update
        ``"ema"``: entries are moving averages of their rows; ``"gradient"``: they are a parameter
        that ``codebook_loss`` moves.
    estimator
        ``"straight_through"`` or ``"rotation"`` (see ``gradients.py``).
    weight_norm
        True weight-normalises the two projections (DAC, BigCodec).
    decay
        Share of the old average kept in a step, in [0, 1).
    epsilon
        Laplace smoothing of the counts.
    kmeans_init
        True starts the codebook by k-means on the first batch in training mode. Until then (and
        with False) entries are random.
    kmeans_iterations
        Most rounds of that k-means.
    dead_code_threshold
        A code whose average count falls below this fraction of the mean count (vectors per step
        over N, all ranks) is revived: it becomes a random vector of the batch and starts over with
        the mean count. 0 never revives. None means 0.1. With ``as_published`` it is an absolute
        count and None means 2.
    l2_normalize
        True looks up the entry with the largest cosine (DAC); the entry itself keeps its length.
    as_published
        True reproduces the released code of EnCodec and SpeechTokenizer: a replaced dead code is
        overwritten in the same step, so it stays dead; k-means also runs in eval mode; after
        k-means the sums hold the means without their counts, so the first step shrinks every entry
        by its count; statistics are those of rank 0.

    Raises
    ------
    ValueError
        If a size is below 1, ``decay`` or ``dead_code_threshold`` is out of range, or a name is
        unknown.

    Notes
    -----
    Buffers: ``codebook`` (N, d), ``codebook_sum`` (N, d; moving averages only), ``cluster_size``
    (N,), ``initialized`` (bool) and ``random_state`` (int64), the seed of the next random choice,
    so that a resumed run and every rank choose alike. A state dict with only ``codebook`` (an
    inference file) loads too. The lookup runs in float32, also under autocast. Codes are those of
    the codebook before the step's update; ``encode`` never changes anything.

    Examples
    --------
    >>> import torch
    >>> quantizer = VectorQuantizer(latent_dim=8, codebook_size=16)
    >>> out = quantizer(torch.randn(2, 8, 50))
    >>> out.z_q.shape, out.codes.shape, sorted(out.losses)
    (torch.Size([2, 8, 50]), torch.Size([2, 1, 50]), ['commitment_loss'])
    """

    def __init__(
        self,
        latent_dim: int,
        codebook_size: int,
        codebook_dim: int | None = None,
        update: str = "ema",
        estimator: str = "straight_through",
        weight_norm: bool = False,
        **codebook_options: Any,
    ) -> None:
        codebook_dim = latent_dim if codebook_dim is None else codebook_dim
        check_sizes(latent_dim=latent_dim)
        check_choice("estimator", estimator, tuple(ESTIMATORS))
        super().__init__(codebook_size, codebook_dim, update, **codebook_options)
        self.latent_dim, self.codebook_sizes = latent_dim, (codebook_size,)
        self.estimator = estimator
        self.in_proj, self.out_proj = nn.Identity(), nn.Identity()
        if self.is_factorised:
            norm = parametrizations.weight_norm if weight_norm else nn.Identity()
            self.in_proj = norm(nn.Linear(latent_dim, codebook_dim))
            self.out_proj = norm(nn.Linear(codebook_dim, latent_dim))

    @property
    def is_factorised(self) -> bool:
        """True where projections surround the lookup (``codebook_dim`` is not ``latent_dim``)."""
        return self.codebook_dim != self.latent_dim

    def extra_repr(self) -> str:
        """Show sizes and form when printed."""
        return (
            f"latent_dim={self.latent_dim}, codebook_size={self.codebook_size}, "
            f"codebook_dim={self.codebook_dim}, update={self.update!r}, "
            f"estimator={self.estimator!r}, as_published={self.as_published}"
        )

    def search_rows(self, rows: Tensor, k: int = 0) -> Tensor:
        """Return the codes (V,), int64, of rows (V, D)."""
        return self.search(self.in_proj(rows))

    def contribution(self, codes: Tensor, k: int = 0) -> Tensor:
        """Return what unchecked codes (...) add to the latent, shape (..., D), float32."""
        return self.out_proj(self.codebook[codes].float())

    def quantize_rows(self, rows: Tensor) -> QuantizedRows:
        r"""Quantize rows (V, D) in float32; the step behind ``forward``.

        In training mode the codebook starts and learns here.
        """
        projected = self.in_proj(rows)  # (V, d)
        self.start(projected.detach())
        codes = self.search(projected)  # (V,)
        entries = self.codebook[codes].float()  # (V, d), a copy that learning does not reach
        fixed = entries.detach()
        commitment = (projected - fixed).pow(2).mean(dim=1)  # Eq. (3), third term
        codebook = None
        if self.update == "gradient":
            codebook = (projected.detach() - entries).pow(2).mean(dim=1)  # Eq. (3), second term
        z_q = self.estimate(projected, fixed)
        if self.training:
            self.learn(projected.detach(), codes)
        return QuantizedRows(codes, fixed, z_q, commitment, codebook)

    def estimate(self, projected: Tensor, entries: Tensor) -> Tensor:
        """Return the contribution (V, D) of entries, with gradient to the projected rows (V, d)."""
        return self.out_proj(ESTIMATORS[self.estimator](projected, entries))
