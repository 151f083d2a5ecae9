r"""A learnt codebook: its entries, how they are found, started, moved and revived.

Moving averages follow VQ-VAE [van den Oord et al. 2017], appendix A.1; the k-means start and the
revival of dead codes SoundStream [Zeghidour et al. 2021] and EnCodec, in a form in which revival
lasts. ``as_published=True`` is EnCodec's and SpeechTokenizer's released code, with its defects.

Notebook: ``02_vector_quantization``. Left out: projections and gradient estimators (``vector.py``),
codebooks without learnt entries. Read next: ``vector.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from codec_lib.quantizers.ranks import (
    draw_rows,
    own_rows,
    row_range,
    sum_over_ranks,
    take_first_ranks,
)
from codec_lib.quantizers.rows import check_choice, check_sizes
from codec_lib.quantizers.search import cluster_sums, kmeans, nearest

DEAD_FRACTION = 0.1
"""A code is dead when it gets less than a tenth of an average code's vectors."""
PUBLISHED_THRESHOLD = 2.0
"""EnCodec's threshold: an absolute count of vectors, whatever the batch."""


class LearntCodebook(nn.Module):
    r"""N entries of width d that learn from the rows they are the nearest to.

    With n_i rows of sum s_i on code i in a step, ``update="ema"`` moves

    .. math:: N_i \leftarrow \gamma N_i + (1 - \gamma) n_i, \quad
              m_i \leftarrow \gamma m_i + (1 - \gamma) s_i, \quad e_i = m_i / \tilde N_i

    where gamma is ``decay``, N_i ``cluster_size``, m_i ``codebook_sum``, e_i ``codebook`` and N~
    is N after Laplace smoothing with ``epsilon``. ``update="gradient"`` leaves entries to an
    optimiser.

    Parameters
    ----------
    codebook_size, codebook_dim
        Entries N and their width d.
    update, decay, epsilon, kmeans_init, kmeans_iterations, dead_code_threshold, l2_normalize
        See ``VectorQuantizer``.
    as_published
        See ``VectorQuantizer``.

    Raises
    ------
    ValueError
        If a size is below 1, ``decay`` or ``dead_code_threshold`` is out of range, or ``update`` is
        unknown.
    """

    def __init__(
        self,
        codebook_size: int,
        codebook_dim: int,
        update: str = "ema",
        decay: float = 0.99,
        epsilon: float = 1e-5,
        kmeans_init: bool = True,
        kmeans_iterations: int = 50,
        dead_code_threshold: float | None = None,
        l2_normalize: bool = False,
        as_published: bool = False,
    ) -> None:
        super().__init__()
        if dead_code_threshold is None:
            dead_code_threshold = PUBLISHED_THRESHOLD if as_published else DEAD_FRACTION
        check_sizes(codebook_size=codebook_size, codebook_dim=codebook_dim)
        check_choice("update", update, ("ema", "gradient"))
        if not 0 <= decay < 1:
            raise ValueError(f"decay: got {decay}, expected at least 0 and below 1 (0.99 is usual)")
        if dead_code_threshold < 0 or (dead_code_threshold >= 1 and not as_published):
            raise ValueError(
                f"dead_code_threshold: got {dead_code_threshold}, expected a fraction of the mean "
                "count in [0, 1). Absolute counts belong to as_published=True."
            )
        self.codebook_size, self.codebook_dim = codebook_size, codebook_dim
        self.update, self.decay, self.epsilon = update, decay, epsilon
        self.kmeans_iterations = kmeans_iterations
        self.dead_code_threshold = dead_code_threshold
        self.l2_normalize, self.as_published = l2_normalize, as_published
        self._make_buffers(kmeans_init)

    def _make_buffers(self, kmeans_init: bool) -> None:
        entries = torch.randn(self.codebook_size, self.codebook_dim) * self.codebook_dim**-0.5
        if self.as_published and kmeans_init:
            entries.zero_()  # so that the released code encodes everything to 0 before its start
        if self.update == "gradient":
            self.codebook = nn.Parameter(entries)
        else:
            self.register_buffer("codebook", entries)
            self.register_buffer("codebook_sum", entries.clone())
        self.register_buffer("cluster_size", torch.zeros(self.codebook_size))
        self.register_buffer("initialized", torch.tensor(not kmeans_init))
        self.register_buffer("random_state", torch.randint(0, 1 << 48, ()))
        self.num_revived = torch.tensor(0)  # in the last step, for the log
        self._forget_mirrors()

    def _forget_mirrors(self) -> None:
        """Forget what is kept of the buffers in Python, where reading it waits for no device."""
        self._ready = False
        self._next_seed: int | None = None

    def search(self, rows: Tensor) -> Tensor:
        """Return the code (V,), int64, of every row (V, d), float32."""
        codebook = self.codebook.detach().float()
        if self.l2_normalize:
            # of the cosine, the row's own length changes neither order nor ties
            codebook = nn.functional.normalize(codebook, dim=1)
        return nearest(rows, codebook)

    @torch.no_grad()
    def start(self, rows: Tensor) -> None:
        """Start the entries by k-means on the first finite rows (V, d) of all ranks, once.

        ``as_published`` takes each rank's own, for one step: see ``learn``.
        """
        if self._ready or not (self.training or self.as_published):
            return
        if not self.initialized:
            synchronize = not self.as_published
            wrong = (~rows.isfinite()).sum()
            if sum_over_ranks(wrong) if synchronize else wrong:
                return  # as in ``learn``: such a step leaves all as it is
            generator = self._next_generator()
            means, counts = kmeans(
                rows, self.codebook_size, self.kmeans_iterations, generator, synchronize
            )
            self.codebook.copy_(means)
            self.cluster_size.copy_(counts)
            if self.update == "ema":
                # the sum behind a mean is mean times count; the released code forgets the count
                weight = torch.ones_like(counts) if self.as_published else counts
                self.codebook_sum.copy_(means * weight.unsqueeze(1))
            self.initialized.fill_(True)
            return  # is read once more: ``learn`` may say that rank 0 has not started yet
        self._ready = True

    @torch.no_grad()
    def learn(self, rows: Tensor, codes: Tensor) -> None:
        r"""Move counts and entries by this step's rows of all ranks, and revive dead codes.

        ``as_published`` learns from the rows of rank 0: the other ranks take its buffers over, as
        the released code has them do before the next step.

        Parameters
        ----------
        rows
            Vectors, shape (V, d), float32. When one is not finite the step leaves all as it is.
        codes
            Their codes, shape (V,).
        """
        counts, sums, fresh = self._statistics(rows, codes)
        mean = counts.sum() / self.codebook_size  # vectors per code and step
        if not self.as_published:
            self._assume_counts(mean)
        elif self.update == "ema":
            # has no effect: the entries are computed anew from the unchanged sums below
            self._replace(self.cluster_size < self.dead_code_threshold, fresh)
        finite = sums.isfinite().all()
        self.cluster_size.lerp_(torch.where(finite, counts, self.cluster_size), 1 - self.decay)
        if self.update == "ema":
            self.codebook_sum.lerp_(torch.where(finite, sums, self.codebook_sum), 1 - self.decay)
        if not self.as_published and self.dead_code_threshold > 0:
            dead = (self.cluster_size < self.dead_code_threshold * mean) & finite
            self._replace(dead, fresh, mean)
        if self.update == "ema":
            self.codebook.copy_(self.codebook_sum / self._smoothed_counts().unsqueeze(1))
        if self.as_published:
            learnt = {"codebook": self.codebook, **dict(self.named_buffers(recurse=False))}
            learnt.pop("random_state")  # each rank draws among its own rows
            take_first_ranks(*learnt.values())

    def _statistics(self, rows: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return counts (N,), sums (N, d) and N random rows (N, d) of the joint batch."""
        counts, sums = cluster_sums(rows, codes, self.codebook_size)
        fresh = torch.zeros_like(sums)
        synchronize = not self.as_published
        if self.dead_code_threshold > 0:
            start, total = row_range(rows.shape[0], rows.device, synchronize)
            chosen = draw_rows(total, self.codebook_size, self._next_generator())
            fresh = own_rows(rows, chosen, start)  # (N, d)
        if synchronize:
            packed = sum_over_ranks(torch.cat([counts.unsqueeze(1), sums, fresh], dim=1))
            counts, sums, fresh = packed.split([1, self.codebook_dim, self.codebook_dim], dim=1)
            counts = counts.squeeze(1)
        return counts, sums, fresh

    def _assume_counts(self, mean: Tensor) -> None:
        """Give every code the mean count where none is known: random start, inference file."""
        unknown = self.cluster_size.sum() == 0
        self.cluster_size.copy_(torch.where(unknown, mean, self.cluster_size))
        if self.update == "ema":
            self.codebook_sum.copy_(torch.where(unknown, self.codebook * mean, self.codebook_sum))

    def _replace(self, dead: Tensor, fresh: Tensor, mean: Tensor | None = None) -> None:
        """Put fresh rows (N, d) in place of dead codes (N,).

        ``mean`` is the count they start over with, so that they are judged only after a while;
        without it sum and count are left as they are, and with them the death.
        """
        column = dead.unsqueeze(1)  # (N, 1)
        self.codebook.copy_(torch.where(column, fresh, self.codebook))
        self.num_revived = dead.sum()
        if mean is not None:
            self.cluster_size.copy_(torch.where(dead, mean, self.cluster_size))
            if self.update == "ema":
                self.codebook_sum.copy_(torch.where(column, fresh * mean, self.codebook_sum))

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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LearntCodebook:
        """Move or cast the module; what is kept in Python is of the old tensors."""
        self._forget_mirrors()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Load; statistics that an inference file leaves out are filled in as unknown."""
        self._forget_mirrors()
        if prefix + "codebook" in state_dict:
            unknown = {
                "initialized": torch.tensor(True),
                # 0: see _assume_counts, which the released form lacks; 1 fits the sum below
                "cluster_size": torch.full((self.codebook_size,), float(self.as_published)),
                "random_state": self.random_state,
            }
            if self.update == "ema":
                unknown["codebook_sum"] = state_dict[prefix + "codebook"]
            for name, value in unknown.items():
                state_dict.setdefault(prefix + name, value)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
