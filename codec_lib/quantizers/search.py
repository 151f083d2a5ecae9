r"""Nearest codebook entry and k-means, both on bounded memory.

For a row x and an entry e, ||x - e||^2 = ||x||^2 - 2 x.e + ||e||^2, and ||x||^2 does not depend on
e. So the nearest entry is the one with the largest x.e - ||e||^2 / 2: one matrix product with a
bias, then argmax. Rows are taken in blocks, so scores never need more than ``SCORES`` numbers
(``DEVICE_SCORES`` on a GPU), while the difference tensor of the published k-means has V x N x d of
them.

Notebook: ``02_vector_quantization``. Left out: approximate search, k-means++ seeding.
Read next: ``gradients.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codec_lib.quantizers.ranks import draw_rows, own_rows, row_range, sum_over_ranks

SCORES = 1 << 21
"""Scores held at a time (8 MB in float32): a block that stays in a CPU's cache."""
DEVICE_SCORES = 1 << 24
"""The same on a GPU (64 MB), which wants few and large products."""


def half_norms(codebook: Tensor) -> Tensor:
    """Return ||e||^2 / 2 of every entry, shape (N,), for a codebook of shape (N, d)."""
    return codebook.pow(2).sum(dim=1) / 2


@torch.no_grad()
def nearest(rows: Tensor, codebook: Tensor, half: Tensor | None = None) -> Tensor:
    r"""Return the index of the nearest codebook entry of every row.

    .. math:: c = \arg\min_i \|x - e_i\|^2 = \arg\max_i \; x^\top e_i - \|e_i\|^2 / 2

    Parameters
    ----------
    rows
        Vectors x, shape (V, d), float32.
    codebook
        Entries e, shape (N, d), float32.
    half
        ``half_norms(codebook)`` where it is known already, shape (N,).

    Returns
    -------
    Tensor
        Indices, shape (V,), int64. Of equally near entries the one with the lowest index. Rounding
        lets entries count as equally near whose distances to x differ by 1e-3 of its length.

    Examples
    --------
    >>> nearest(torch.tensor([[0.9, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    tensor([1])
    """
    bias = -(half_norms(codebook) if half is None else half)  # (N,)
    scores = SCORES if rows.device.type == "cpu" else DEVICE_SCORES
    block = max(1, scores // codebook.shape[0])
    transposed = codebook.t()
    codes = [torch.addmm(bias, x, transposed).max(dim=1).indices for x in rows.split(block)]
    return torch.cat(codes) if codes else rows.new_zeros(0, dtype=torch.int64)


def cluster_sums(rows: Tensor, codes: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    r"""Count the rows of every code and add them up.

    Parameters
    ----------
    rows
        Vectors, shape (V, d).
    codes
        Their codes, shape (V,), int64.
    codebook_size
        Number of codes N.

    Returns
    -------
    tuple[Tensor, Tensor]
        Counts (N,) and sums (N, d), both in the dtype of ``rows``.
    """
    counts = rows.new_zeros(codebook_size).index_add_(0, codes, rows.new_ones(rows.shape[0]))
    sums = rows.new_zeros(codebook_size, rows.shape[1]).index_add_(0, codes, rows)
    return counts, sums


@torch.no_grad()
def kmeans(
    rows: Tensor,
    num_clusters: int,
    iterations: int = 50,
    generator: torch.Generator | None = None,
    synchronize: bool = True,
) -> tuple[Tensor, Tensor]:
    r"""Cluster rows with Lloyd's algorithm, starting from random rows.

    Stops early once no row changes its cluster, since nothing changes after that. A cluster that
    loses all its rows keeps its place.

    Parameters
    ----------
    rows
        Vectors, shape (V, d), V at least 1; over ranks the joint batch counts.
    num_clusters
        Clusters N. With fewer rows than clusters some start as copies of one row.
    iterations
        Most rounds of assignment and averaging.
    generator
        CPU generator that picks the first means; ranks must seed it alike.
    synchronize
        True clusters the rows of all ranks together.

    Returns
    -------
    tuple[Tensor, Tensor]
        Means (N, d), and the number of rows in each in the last assignment (N,), float.
    """
    start, total = row_range(rows.shape[0], rows.device, synchronize)
    share = sum_over_ranks if synchronize else (lambda tensor: tensor)
    chosen = draw_rows(total, num_clusters, generator or torch.default_generator)
    means = share(own_rows(rows, chosen, start))  # (N, d)
    counts = rows.new_zeros(num_clusters)
    previous = rows.new_full((rows.shape[0],), -1, dtype=torch.int64)
    for _ in range(iterations):
        codes = nearest(rows, means)
        changed = share((codes != previous).sum())
        if not changed:
            break
        counts, sums = (share(part) for part in cluster_sums(rows, codes, num_clusters))
        filled = (counts > 0).unsqueeze(1)  # (N, 1)
        means = torch.where(filled, sums / counts.clamp(min=1).unsqueeze(1), means)
        previous = codes
    return means, counts
