r"""Codebook health: how much of a codebook is in use, and what its codes are worth in bit.

- usage: share of the N codes seen at least once;
- perplexity: 2 to the entropy, the size of an evenly used codebook with the same entropy;
- entropy rate: bit per code that an ideal coder needs, knowing only how frequent each code is; with
  ``bigram=True`` also knowing the code before;
- dead codes: codes not seen.

Codebooks may differ in size: each is judged by its own N. A product quantizer has two utilisations,
that of its joint codes and that of each part (``codebook_health(quantizer.split(codes), 16)``).

All depend on how many codes were looked at: report that number with them. Healthy speech codebooks
of 256 to 1024 entries use more than 90 % over a minute of speech; below 10 % something has
collapsed. Joint codes may be more than any memory holds, so of books of more than 2^20 entries only
those in use are counted.

Notebook: ``02_vector_quantization``. Left out: rates of codes under a language model.
Read next: ``codecs/base.py``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codec_lib.quantizers.ranks import sum_over_ranks
from codec_lib.quantizers.rows import check_codes, check_sizes

MIN_USAGE = 0.1
"""Below this share of codes in use the alarm is raised."""
_ALL = 1 << 20  # entries of a codebook up to which those that are not in use have a count as well


def _sizes(codebook_size: int | Sequence[int], rows: int) -> tuple[int, ...]:
    """Return N of each of ``rows`` codebooks."""
    sizes = (codebook_size,) * rows if isinstance(codebook_size, int) else tuple(codebook_size)
    if len(sizes) < rows:
        raise ValueError(f"codes: got {rows} codebooks, at most {len(sizes)}")
    return sizes[:rows]


def code_counts(codes: Tensor, codebook_size: int | Sequence[int]) -> Tensor:
    r"""Count the codes of every codebook.

    Parameters
    ----------
    codes
        Codes, shape (B, K, F), or (B, F) for one codebook; int64.
    codebook_size
        Entries N, or those of each codebook.

    Returns
    -------
    Tensor
        Counts, shape (K, N), int64; N is that of the largest codebook.

    Raises
    ------
    ValueError
        If a code is out of range, the shape is neither, or there are too many codebooks.
    """
    flat, sizes = _streams(codes, codebook_size)
    counts = flat.new_zeros(flat.shape[0], max(sizes))
    return counts.scatter_add_(1, flat, torch.ones_like(flat))


def _streams(codes: Tensor, codebook_size: int | Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
    """Return checked codes as one stream for each codebook, (K, B F), and the sizes of those."""
    if codes.ndim == 2:
        codes = codes.unsqueeze(1)
    if codes.ndim != 3:
        raise ValueError(f"codes: got shape {tuple(codes.shape)}, expected (B, K, F) or (B, F)")
    sizes = _sizes(codebook_size, codes.shape[1])
    check_codes(codes, sizes)
    return codes.transpose(0, 1).flatten(1), sizes


def entropy_bits(counts: Tensor) -> Tensor:
    r"""Return the entropy of counts (..., N) along the last axis, in bit; 0 where all are zero.

    .. math:: H = -\sum_i p_i \log_2 p_i, \quad p_i = n_i / \sum_j n_j

    Examples
    --------
    >>> entropy_bits(torch.tensor([1, 1, 1, 1]))
    tensor(2.)
    """
    share = counts.float() / counts.sum(dim=-1, keepdim=True).clamp(min=1)
    return torch.special.entr(share).sum(dim=-1) / math.log(2)


def health_from_counts(
    counts: Tensor, codebook_size: int | Sequence[int] | None = None
) -> dict[str, Tensor]:
    r"""Return usage, perplexity, entropy rate and dead codes of counts (K, N), each of shape (K,).

    Parameters
    ----------
    counts
        Shape (K, N), as ``code_counts`` returns them; codes that are not in use may be left out.
    codebook_size
        Entries of each codebook where they differ or codes are left out; None: N of all.

    Returns
    -------
    dict[str, Tensor]
        ``usage`` (share, 0..1), ``perplexity`` (1..N), ``entropy_rate`` (bit per code),
        ``dead_codes`` (number, int64).
    """
    sizes = counts.new_tensor(_sizes(codebook_size or counts.shape[1], counts.shape[0]))
    seen = (counts > 0).sum(dim=1)  # (K,)
    entropy = entropy_bits(counts)
    return {
        "usage": seen / sizes,
        "perplexity": 2**entropy,
        "entropy_rate": entropy,
        "dead_codes": sizes - seen,
    }


def codebook_health(
    codes: Tensor, codebook_size: int | Sequence[int], bigram: bool = False
) -> dict[str, Tensor]:
    r"""Measure the health of every codebook on the given codes.

    Parameters
    ----------
    codes
        Codes, shape (B, K, F), or (B, F) for one codebook.
    codebook_size
        Entries N, or those of each codebook.
    bigram
        True adds ``bigram_entropy_rate``, H(c_f | c_{f-1}) in bit per code. It needs far more codes
        than N squared over a few to be more than a lower bound.

    Returns
    -------
    dict[str, Tensor]
        See ``health_from_counts``; each of shape (K,).

    Examples
    --------
    >>> health = codebook_health(torch.tensor([[[0, 1, 0, 1]]]), codebook_size=4)
    >>> health["usage"], health["perplexity"], health["dead_codes"]
    (tensor([0.5000]), tensor([2.]), tensor([2]))
    """
    seen = CountWindow(1)
    seen.add_codes(codes, codebook_size)
    health = health_from_counts(seen.counts().to(codes.device), codebook_size)
    if bigram:
        streams = (codes.unsqueeze(1) if codes.ndim == 2 else codes).unbind(1)
        sizes = _sizes(codebook_size, len(streams))
        rates = [_bigram_rate(row, size) for row, size in zip(streams, sizes, strict=True)]
        health["bigram_entropy_rate"] = torch.stack(rates)
    return health


def _bigram_rate(codes: Tensor, codebook_size: int) -> Tensor:
    """Return H(c_f | c_{f-1}) = H(pair) - H(first of pair) of codes (B, F), in bit."""
    first, second = codes[:, :-1].flatten(), codes[:, 1:].flatten()
    _, pairs = torch.unique(first * codebook_size + second, return_counts=True)
    _, singles = torch.unique(first, return_counts=True)
    return (entropy_bits(pairs) - entropy_bits(singles)).clamp(min=0)


class HealthTracker:
    r"""Codebook health over the last steps of a run.

    One batch holds too few codes to judge a codebook; the tracker counts those of the last
    ``window`` batches.

    Parameters
    ----------
    num_quantizers
        Codebooks K.
    codebook_size
        Entries N, or those of each codebook.
    window
        Batches to look back on.

    Examples
    --------
    >>> tracker = HealthTracker(num_quantizers=1, codebook_size=4)
    >>> tracker.update(torch.tensor([[[0, 0, 0]]]))
    >>> tracker.alarms(min_usage=0.5)
    ['codebook 0: usage 25.0 % (1 of 4 codes over 3 vectors), below 50.0 %']
    """

    def __init__(
        self, num_quantizers: int, codebook_size: int | Sequence[int], window: int = 100
    ) -> None:
        self.codebook_sizes = _sizes(codebook_size, num_quantizers)
        check_sizes(
            num_quantizers=num_quantizers, codebook_size=min(self.codebook_sizes), window=window
        )
        self.num_quantizers, self.window = num_quantizers, window
        self._batches: deque[Tensor] = deque()
        self._counts = torch.zeros(num_quantizers, max(self.codebook_sizes), dtype=torch.int64)

    def update(self, codes: Tensor) -> None:
        """Count the codes (B, n_q, F) of one batch; codebooks beyond ``n_q`` count nothing."""
        self._batches.append(codes.detach().cpu())
        self._count(self._batches[-1], 1)
        if len(self._batches) > self.window:
            self._count(self._batches.popleft(), -1)

    def _count(self, codes: Tensor, sign: int) -> None:
        counts = code_counts(codes, self.codebook_sizes)
        self._counts[: counts.shape[0], : counts.shape[1]] += sign * counts

    def counts(self) -> Tensor:
        """Return the counts (K, N) of this rank's last batches."""
        return self._counts.clone()

    def compute(self, device: torch.device | str | None = None) -> dict[str, Tensor]:
        """Return ``health_from_counts`` over the last batches.

        ``device`` is where the sum over all ranks runs (a GPU under NCCL); None takes this rank's
        batches alone.
        """
        counts = self.counts()
        if device is not None:
            counts = sum_over_ranks(counts.to(device)).cpu()
        return health_from_counts(counts, self.codebook_sizes)

    def alarms(self, min_usage: float = MIN_USAGE) -> list[str]:
        """Return one line for every codebook in use that is below ``min_usage`` (a share)."""
        return usage_alarms(self.counts(), min_usage, self.codebook_sizes)


class CountWindow:
    r"""Sum of the code counts of a run's last steps.

    A step is kept as the few counts that are not zero: of 65,536 codes a batch uses some hundred.
    So is their sum where a codebook has more than 2^20 entries.

    Parameters
    ----------
    window
        Steps to look back on.

    Examples
    --------
    >>> recent = CountWindow(window=2)
    >>> for used in ([5, 0], [1, 0], [0, 2]):
    ...     recent.add(torch.tensor([used]))
    >>> recent.counts()
    tensor([[1, 2]])
    """

    def __init__(self, window: int) -> None:
        self._steps: deque[tuple[Tensor, Tensor]] = deque()  # where counts are not zero, and those
        self.window, self._shape = window, (0,)
        self._counts: Tensor | None = torch.empty(0, dtype=torch.int64)

    def add(self, counts: Tensor) -> None:
        """Add the counts (K, N) of one step, and forget the step that is one too many."""
        flat = counts.cpu().long().flatten()
        used = flat.nonzero().flatten()
        self._append(used, flat[used], tuple(counts.shape))

    def add_codes(self, codes: Tensor, codebook_size: int | Sequence[int]) -> None:
        """Add the codes of one step; shapes and errors as those of ``code_counts``."""
        streams, sizes = _streams(codes.detach().cpu(), codebook_size)
        shape = len(sizes), max(sizes)
        first = shape[1] * torch.arange(shape[0])[:, None]  # place of each codebook's entry 0
        self._append(*torch.unique(streams + first, return_counts=True), shape)

    def _append(self, used: Tensor, values: Tensor, shape: tuple[int, ...]) -> None:
        """Add a step by the places of its counts that are not zero, in (K, N) flattened."""
        if not self._steps:
            self._shape, few = shape, shape[-1] <= _ALL
            self._counts = torch.zeros(shape, dtype=torch.int64) if few else None
        self._steps.append((used, values))
        self._move(used, values)
        if len(self._steps) > self.window:
            used, values = self._steps.popleft()
            self._move(used, -values)

    def _move(self, used: Tensor, values: Tensor) -> None:
        if self._counts is not None:
            self._counts.view(-1).index_add_(0, used, values)

    def counts(self) -> Tensor:
        r"""Return the counts (K, N) of the last steps.

        Above 2^20 entries (K, U), the counts of the codes that each codebook has used, in order,
        then zeros: all that ``health_from_counts`` and ``usage_alarms`` need beside the sizes.
        """
        if self._counts is not None:
            return self._counts.clone()
        used, values = (torch.cat(parts) for parts in zip(*self._steps, strict=True))
        used, place = used.unique(return_inverse=True)
        sums = torch.zeros_like(used).index_add_(0, place, values)
        own = torch.bincount(used // self._shape[1], minlength=self._shape[0])  # of each codebook
        return nn.utils.rnn.pad_sequence(sums.split(own.tolist()), batch_first=True)

    def state(self) -> dict[str, Tensor]:
        """Return all steps as tensors."""
        used, values = zip(*self._steps, strict=True) if self._steps else ((), ())
        empty = torch.empty(0, dtype=torch.int64)
        return {
            "used": torch.cat([empty, *used]),
            "values": torch.cat([empty, *values]),
            "lengths": torch.tensor([len(one) for one in used], dtype=torch.int64),
            "shape": torch.tensor(self._shape),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what ``state`` returned, or as ``recent`` the counts (steps, K, N) in full."""
        self._steps.clear()
        if "recent" in state:
            for counts in state["recent"]:
                self.add(counts)
            return
        lengths = state["lengths"].tolist()
        parts = (state[name].split(lengths) for name in ("used", "values"))
        for used, values in zip(*parts, strict=True):
            self._append(used, values, tuple(state["shape"].tolist()))


def usage_alarms(
    counts: Tensor,
    min_usage: float = MIN_USAGE,
    codebook_size: int | Sequence[int] | None = None,
) -> list[str]:
    r"""Return one line for every codebook of counts (K, N) whose usage is below ``min_usage``.

    Parameters
    ----------
    counts, codebook_size
        As in ``health_from_counts``.
    min_usage
        Share of the codes.

    Notes
    -----
    A codebook with fewer vectors than ``min_usage`` times N cannot be judged and raises no alarm,
    except that a single code for all of several vectors always does.
    """
    lines = []
    sizes = _sizes(codebook_size or counts.shape[1], counts.shape[0])
    for k, (row, size) in enumerate(zip(counts, sizes, strict=True)):
        seen, vectors = int((row > 0).sum()), int(row.sum())
        if vectors > 1 and seen / size < min_usage and (vectors >= min_usage * size or seen == 1):
            lines.append(
                f"codebook {k}: usage {100 * seen / size:.1f} % ({seen} of {size} codes over "
                f"{vectors} vectors), below {100 * min_usage:.1f} %"
            )
    return lines
