r"""Vector quantizer: one codebook, learnt by moving averages or by gradient.

Covers the quantizer of VQ-VAE [van den Oord et al. 2017] (Eqs. 1-3; moving averages of its
appendix A.1), with the k-means start and dead-code revival of SoundStream and EnCodec, the
factorised and L2-normalised lookup of DAC, and two gradient estimators. ``as_published=True`` is
the quantizer of EnCodec's and SpeechTokenizer's released code, with its defects.

Notebook: ``02_vector_quantization``. Left out: several codebooks (``residual.py``) and codebooks
without learnt entries. Read next: ``residual.py``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from codec_lib.quantizers.gradients import ESTIMATORS
from codec_lib.quantizers.nearest import cluster_sums, half_norms, kmeans, nearest
from codec_lib.quantizers.ranks import draw_rows, own_rows, row_range, sum_over_ranks
from codec_lib.quantizers.rows import check_choice, check_codes, check_sizes, from_rows, to_rows
from codec_lib.shapes import QuantizerOutput, check_shape

DEAD_FRACTION = 0.1
"""A code is dead when it gets less than a tenth of an average code's vectors."""
PUBLISHED_THRESHOLD = 2.0
"""EnCodec's threshold: an absolute count of vectors, whatever the batch."""


class QuantizedRows(NamedTuple):
    """One quantizer's result for V rows; what ``ResidualVectorQuantizer`` works with."""

    codes: Tensor  # (V,) int64
    entries: Tensor  # (V, codebook_dim): the chosen codebook entries
    z_q: Tensor  # (V, D), gradient to the encoder by the estimator
    commitment: Tensor  # (V,): mean squared error per row, gradient to the encoder
    codebook: Tensor | None  # (V,): the same, gradient to the codebook (update="gradient")


class VectorQuantizer(nn.Module):
    r"""Replace every latent vector by the nearest of N learnt entries.

    .. math:: q(z) = e_c, \quad c = \arg\min_i \|z - e_i\|^2

    With ``update="ema"`` entries are moving averages of the vectors they stand for
    [van den Oord et al. 2017, A.1]: with n_i vectors of sum s_i on code i in this step,

    .. math:: N_i \leftarrow \gamma N_i + (1 - \gamma) n_i, \quad
              m_i \leftarrow \gamma m_i + (1 - \gamma) s_i, \quad e_i = m_i / \tilde N_i

    where gamma is ``decay`` and N~ is N after Laplace smoothing with ``epsilon``. With
    ``update="gradient"`` they are a parameter, moved by ``codebook_loss`` = ||sg[z] - e||^2.
    ``commitment_loss`` = ||z - sg[e]||^2 is returned in both forms.

    Parameters
    ----------
    latent_dim
        Width D of the latent.
    codebook_size
        Entries N.
    codebook_dim
        Width d of an entry. When it differs from D, learnt projections D -> d -> D surround the
        lookup (DAC's factorised codes); their ``in_proj`` learns through the estimator and from the
        commitment loss. None means D.
    update
        ``"ema"`` or ``"gradient"``.
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
    estimator
        ``"straight_through"`` or ``"rotation"`` (see ``gradients.py``).
    as_published
        True reproduces the released code of EnCodec and SpeechTokenizer: a replaced dead code is
        overwritten in the same step, so it stays dead; k-means also runs in eval mode; after
        k-means the sums hold the means without their counts, so the first step shrinks every entry
        by its count; statistics are those of one rank.

    Raises
    ------
    ValueError
        If a size is below 1, ``decay`` or ``dead_code_threshold`` is out of range, or a name is
        unknown.

    Notes
    -----
    Buffers: ``codebook`` (N, d), ``codebook_sum`` (N, d), ``cluster_size`` (N,), ``initialized``
    (bool) and ``random_state`` (int64), which seeds the next random choice, so that a resumed run
    and every rank choose alike. A state dict without the last four (an inference file) loads too.
    The lookup runs in float32 under autocast. Codes are those of the codebook before the step's
    update, and ``encode`` never changes anything.

    Examples
    --------
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
        decay: float = 0.99,
        epsilon: float = 1e-5,
        kmeans_init: bool = True,
        kmeans_iterations: int = 50,
        dead_code_threshold: float | None = None,
        l2_normalize: bool = False,
        estimator: str = "straight_through",
        as_published: bool = False,
    ) -> None:
        super().__init__()
        codebook_dim = latent_dim if codebook_dim is None else codebook_dim
        if dead_code_threshold is None:
            dead_code_threshold = PUBLISHED_THRESHOLD if as_published else DEAD_FRACTION
        check_sizes(latent_dim=latent_dim, codebook_size=codebook_size, codebook_dim=codebook_dim)
        check_choice("update", update, ("ema", "gradient"))
        check_choice("estimator", estimator, tuple(ESTIMATORS))
        if not 0 <= decay < 1:
            raise ValueError(f"decay: got {decay}, expected at least 0 and below 1 (0.99 is usual)")
        if dead_code_threshold < 0 or (dead_code_threshold >= 1 and not as_published):
            raise ValueError(
                f"dead_code_threshold: got {dead_code_threshold}, expected a fraction of the mean "
                "count in [0, 1). Absolute counts belong to as_published=True."
            )
        self.latent_dim, self.codebook_size, self.codebook_dim = (
            latent_dim,
            codebook_size,
            codebook_dim,
        )
        self.update, self.decay, self.epsilon = update, decay, epsilon
        self.kmeans_iterations = kmeans_iterations
        self.dead_code_threshold = dead_code_threshold
        self.l2_normalize, self.estimator = l2_normalize, estimator
        self.as_published = as_published
        projected = codebook_dim != latent_dim
        self.in_proj = nn.Linear(latent_dim, codebook_dim) if projected else nn.Identity()
        self.out_proj = nn.Linear(codebook_dim, latent_dim) if projected else nn.Identity()
        self._make_codebook(kmeans_init)

    def _make_codebook(self, kmeans_init: bool) -> None:
        entries = torch.randn(self.codebook_size, self.codebook_dim) * self.codebook_dim**-0.5
        if self.update == "gradient":
            self.codebook = nn.Parameter(entries)
        else:
            self.register_buffer("codebook", entries)
            self.register_buffer("codebook_sum", entries.clone())
        self.register_buffer("cluster_size", torch.zeros(self.codebook_size))
        self.register_buffer("initialized", torch.tensor(not kmeans_init))
        self.register_buffer("random_state", torch.randint(0, 1 << 48, ()))
        self._forget_mirrors()

    def _forget_mirrors(self) -> None:
        """Forget what is kept of the buffers in Python, where reading it waits for no device."""
        self._search_cache: tuple[Any, Tensor, Tensor] | None = None
        self._ready = False
        self._next_seed: int | None = None

    @property
    def is_factorised(self) -> bool:
        """True where projections surround the lookup (``codebook_dim`` is not ``latent_dim``)."""
        return self.codebook_dim != self.latent_dim

    def extra_repr(self) -> str:
        """Show sizes and form when printed."""
        return (
            f"{self.latent_dim}, codebook_size={self.codebook_size}, "
            f"codebook_dim={self.codebook_dim}, update={self.update!r}, "
            f"estimator={self.estimator!r}, as_published={self.as_published}"
        )

    def forward(self, z: Tensor) -> QuantizerOutput:
        r"""Quantize a latent; in training mode also let the codebook learn from it.

        Parameters
        ----------
        z
            Latent, shape (B, D, F).

        Returns
        -------
        QuantizerOutput
            ``z_q`` (B, D, F) with the dtype of ``z``, ``codes`` (B, 1, F), the losses as means of
            shape (1,), and ``layers = [z_q]``.

        Raises
        ------
        ValueError
            If the shape is not (B, D, F).
        """
        check_shape(z, "B D F", name="z", D=self.latent_dim)
        batch, _, frames = z.shape
        with torch.autocast(z.device.type, enabled=False):
            out = self.quantize_rows(to_rows(z))
        z_q = from_rows(out.z_q, batch, frames).to(z.dtype)
        losses = {"commitment_loss": out.commitment.mean().reshape(1)}
        if out.codebook is not None:
            losses["codebook_loss"] = out.codebook.mean().reshape(1)
        return QuantizerOutput(z_q, out.codes.view(batch, 1, frames), losses, [z_q])

    @torch.no_grad()
    def encode(self, z: Tensor) -> Tensor:
        r"""Return the codes (B, F), int64, of a latent (B, D, F); changes nothing."""
        check_shape(z, "B D F", name="z", D=self.latent_dim)
        with torch.autocast(z.device.type, enabled=False):
            codes = self.search(self.in_proj(to_rows(z)))
        return codes.view(z.shape[0], z.shape[2])

    def decode(self, codes: Tensor) -> Tensor:
        r"""Return the latent (B, D, F) that codes (B, F) stand for.

        Raises
        ------
        TypeError
            If the codes are not int64.
        ValueError
            If a code lies outside [0, N) or the shape is not (B, F).
        """
        check_shape(codes, "B F", name="codes")
        check_codes(codes, self.codebook_size)
        with torch.autocast(codes.device.type, enabled=False):
            return self.output(self.codebook[codes]).transpose(1, 2)

    def output(self, entries: Tensor) -> Tensor:
        """Return what entries (..., d) contribute to the latent, shape (..., D), float32."""
        return self.out_proj(entries.float())

    def search(self, rows: Tensor) -> Tensor:
        """Return the codes (V,) of projected rows (V, d)."""
        codebook, half = self._search_codebook()
        return nearest(rows, codebook, half)

    def quantize_rows(self, rows: Tensor) -> QuantizedRows:
        r"""Quantize rows (V, D) in float32; the step that ``forward`` wraps.

        Runs the k-means start and the update of the codebook in training mode.
        """
        projected = self.in_proj(rows)  # (V, d)
        self._start(projected)
        codes = self.search(projected)  # (V,)
        learns = self.update == "gradient"
        # indexing copies, so that the update below does not reach what this step returns
        entries = self.codebook[codes].float()  # (V, d)
        fixed = entries.detach()
        commitment = (projected - fixed).pow(2).mean(dim=1)  # (V,), Eq. (3), third term
        codebook = (projected.detach() - entries).pow(2).mean(dim=1) if learns else None
        z_q = self.estimate(projected, fixed)
        if self.training:
            self._learn(projected.detach(), codes)
        return QuantizedRows(codes, fixed, z_q, commitment, codebook)

    def estimate(self, projected: Tensor, entries: Tensor) -> Tensor:
        """Return the contribution (V, D) of entries, with gradient to the projected rows (V, d)."""
        return self.out_proj(ESTIMATORS[self.estimator](projected, entries))

    @torch.no_grad()
    def _search_codebook(self) -> tuple[Tensor, Tensor]:
        """Return the entries in the form that the search compares, and half their squared norms."""
        key = (self.codebook.data_ptr(), self.codebook._version, self.codebook.dtype)
        if not self.training and self._search_cache is not None and self._search_cache[0] == key:
            return self._search_cache[1:]
        codebook = self.codebook.detach().float()
        if self.l2_normalize:
            # the cosine with a row only needs the entry's direction; the row's length changes
            # neither order nor ties
            codebook = nn.functional.normalize(codebook, dim=1)
        half = half_norms(codebook)
        self._search_cache = None if self.training else (key, codebook, half)
        return codebook, half

    @torch.no_grad()
    def _start(self, rows: Tensor) -> None:
        """Start the codebook by k-means on the first rows (V, d), once."""
        if self._ready or not (self.training or self.as_published) or rows.shape[0] == 0:
            return
        if self.initialized:
            self._ready = True
            return
        means, counts = kmeans(
            rows.detach(),
            self.codebook_size,
            self.kmeans_iterations,
            generator=self._next_generator(),
            synchronize=not self.as_published,
        )
        self.codebook.copy_(means)
        self.cluster_size.copy_(counts)
        if self.update == "ema":
            # the sum behind a mean is mean times count; the released code forgets the count
            weight = torch.ones_like(counts) if self.as_published else counts
            self.codebook_sum.copy_(means * weight.unsqueeze(1))
        self.initialized.fill_(True)
        self._ready = True

    @torch.no_grad()
    def _learn(self, rows: Tensor, codes: Tensor) -> None:
        """Update counts, entries and dead codes with this step's rows (V, d) of all ranks."""
        counts, sums, fresh = self._statistics(rows, codes)
        mean = counts.sum() / self.codebook_size  # vectors per code and step
        if self.as_published:
            dead = self.cluster_size < self.dead_code_threshold
            # without effect on the entries: they are computed from the old sums below
            self.codebook.copy_(torch.where(dead.unsqueeze(1), fresh, self.codebook))
        else:
            self._assume_counts(mean)
        finite = sums.isfinite().all()  # a step with NaN leaves the codebook as it is
        self.cluster_size.lerp_(torch.where(finite, counts, self.cluster_size), 1 - self.decay)
        if self.update == "ema":
            self.codebook_sum.lerp_(torch.where(finite, sums, self.codebook_sum), 1 - self.decay)
        if not self.as_published and self.dead_code_threshold > 0:
            dead = (self.cluster_size < self.dead_code_threshold * mean) & finite
            self._revive(dead.unsqueeze(1), fresh, mean)
        if self.update == "ema":
            self.codebook.copy_(self.codebook_sum / self._smoothed_counts().unsqueeze(1))

    def _statistics(self, rows: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return counts (N,), sums (N, d) and N random rows (N, d) of the joint batch."""
        synchronize = not self.as_published
        counts, sums = cluster_sums(rows, codes, self.codebook_size)
        start, total = row_range(rows.shape[0], rows.device, synchronize)
        chosen = draw_rows(total, self.codebook_size, self._next_generator())
        fresh = own_rows(rows, chosen, start)  # (N, d)
        if not synchronize:
            return counts, sums, fresh
        packed = sum_over_ranks(torch.cat([counts.unsqueeze(1), sums, fresh], dim=1))
        counts, sums, fresh = packed.split([1, self.codebook_dim, self.codebook_dim], dim=1)
        return counts.squeeze(1), sums, fresh

    def _assume_counts(self, mean: Tensor) -> None:
        """Give every code the mean count where none are known: random start, inference file."""
        unknown = self.cluster_size.sum() == 0
        self.cluster_size.copy_(torch.where(unknown, mean, self.cluster_size))
        if self.update == "ema":
            self.codebook_sum.copy_(torch.where(unknown, self.codebook * mean, self.codebook_sum))

    def _revive(self, dead: Tensor, fresh: Tensor, mean: Tensor) -> None:
        """Restart dead codes (N, 1) at fresh rows (N, d): entry, sum and count together."""
        self.codebook.copy_(torch.where(dead, fresh, self.codebook))
        self.cluster_size.copy_(torch.where(dead.squeeze(1), mean, self.cluster_size))
        if self.update == "ema":
            self.codebook_sum.copy_(torch.where(dead, fresh * mean, self.codebook_sum))

    def _smoothed_counts(self) -> Tensor:
        """Return the counts after Laplace smoothing, with the same total, shape (N,)."""
        total = self.cluster_size.sum()
        smoothed = self.cluster_size + self.epsilon
        return smoothed / (total + self.codebook_size * self.epsilon) * total

    def _next_generator(self) -> torch.Generator:
        """Return a CPU generator for the next random choice, the same on every rank."""
        seed = int(self.random_state) if self._next_seed is None else self._next_seed
        self._next_seed = seed + 1
        self.random_state.add_(1)
        return torch.Generator().manual_seed(seed)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Fill in the statistics that an inference file leaves out."""
        self._forget_mirrors()
        if prefix + "codebook" in state_dict:
            entries = state_dict[prefix + "codebook"]
            missing = {
                "initialized": torch.tensor(True),
                "cluster_size": torch.zeros(self.codebook_size),  # unknown: _assume_counts
                "random_state": self.random_state,
            }
            if self.update == "ema":
                missing["codebook_sum"] = entries
            state_dict |= {
                prefix + name: value
                for name, value in missing.items()
                if prefix + name not in state_dict
            }
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
