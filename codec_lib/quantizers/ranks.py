r"""Sums and random rows over the processes of a distributed run (nothing to do on one process).

Rank r holds some rows of a batch; the joint batch is the rows of rank 0, then of rank 1, and so
on. A codebook that learns from the joint batch must be the same on every rank: statistics are
summed over ranks, and random rows are chosen by their number in the joint batch, with a generator
that every rank seeds alike. Two ranks then learn what one process learns from the joint batch. The
released code learns from the rows of rank 0 alone, and the other ranks take over what it learnt.

Left out: gathering the vectors themselves (only sums, codes and the chosen rows travel).
Notebook: ``02_vector_quantization``. Read next: ``search.py``.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Tell whether several processes share this run."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Return the sum of ``tensor`` over all ranks, on every rank (in place)."""
    if is_distributed():
        dist.all_reduce(tensor)
    return tensor


def take_first_ranks(*tensors: Tensor) -> None:
    """Overwrite tensors by those of rank 0, in place; every rank gives as many, in one order."""
    if is_distributed():
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def row_range(num_rows: int, device: torch.device, synchronize: bool = True) -> tuple[int, int]:
    r"""Return where this rank's rows start in the joint batch, and how many rows that has.

    Parameters
    ----------
    num_rows
        Rows on this rank; ranks may differ.
    device
        Where the collective runs.
    synchronize
        False looks at this rank alone.

    Returns
    -------
    tuple[int, int]
        Number of the first own row, and number of all rows.
    """
    if not (synchronize and is_distributed()):
        return 0, num_rows
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=device)
    sizes[dist.get_rank()] = num_rows
    counts = sum_over_ranks(sizes).tolist()
    return sum(counts[: dist.get_rank()]), sum(counts)


def all_rows(rows: Tensor) -> Tensor:
    r"""Return the rows (V, ...) of all ranks, in their order, on every rank; V may differ."""
    start, total = row_range(len(rows), rows.device)
    joint = rows.new_zeros(total, *rows.shape[1:])
    joint[start : start + len(rows)] = rows
    return sum_over_ranks(joint)


def own_rows(rows: Tensor, chosen: Tensor, start: int) -> Tensor:
    r"""Return the chosen rows of the joint batch, zero where another rank holds them.

    Summed over ranks, the results are the chosen rows.

    Parameters
    ----------
    rows
        This rank's rows, shape (V, d).
    chosen
        Numbers in the joint batch, shape (n,), int64.
    start
        Number of this rank's first row (see ``row_range``).

    Returns
    -------
    Tensor
        Shape (n, d).
    """
    local = chosen.to(rows.device) - start  # (n,)
    if not is_distributed():
        return rows[local]
    here = (local >= 0) & (local < rows.shape[0])
    found = rows.new_zeros(chosen.shape[0], rows.shape[1])
    found[here] = rows[local[here]]
    return found


def draw_rows(total: int, num: int, generator: torch.Generator) -> Tensor:
    r"""Draw row numbers of the joint batch, on the CPU.

    Parameters
    ----------
    total
        Rows to draw from, at least 1.
    num
        Rows to draw.
    generator
        CPU generator, seeded alike on every rank.

    Returns
    -------
    Tensor
        Shape (num,), int64; repeats only where ``num`` is more than ``total``.
    """
    if total >= num:
        return torch.randperm(total, generator=generator)[:num]
    return torch.randint(0, total, (num,), generator=generator)
