r"""Codebook health: how much of a codebook is in use, and what its codes are worth in bit.

- usage: share of the N codes seen at least once;
- perplexity: 2 to the entropy, the size of an evenly used codebook with the same entropy;
- entropy rate: bit per code that an ideal coder needs, knowing only how frequent each code is; with
  ``bigram=True`` also knowing the code before;
- dead codes: codes not seen.

All depend on how many codes were looked at: report that number with them. Healthy speech codebooks
of 256 to 1024 entries use more than 90 % over a minute of speech; below 10 % something has
collapsed.

Notebook: ``02_vector_quantization``. Left out: rates of codes under a language model.
Read next: ``codecs/base.py``.
"""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

from codec_lib.quantizers.ranks import sum_over_ranks
from codec_lib.quantizers.rows import check_codes, check_sizes

MIN_USAGE = 0.1
"""Below this share of codes in use the alarm is raised."""


def code_counts(codes: Tensor, codebook_size: int) -> Tensor:
    r"""Count the codes of every codebook.

    Parameters
    ----------
    codes
        Codes, shape (B, K, F), or (B, F) for one codebook; int64.
    codebook_size
        Entries N.

    Returns
    -------
    Tensor
        Counts, shape (K, N), int64.

    Raises
    ------
    ValueError
        If a code is out of range or the shape is neither.
    """
    if codes.ndim == 2:
        codes = codes.unsqueeze(1)
    if codes.ndim != 3:
        raise ValueError(f"codes: got shape {tuple(codes.shape)}, expected (B, K, F) or (B, F)")
    check_codes(codes, codebook_size)
    flat = codes.transpose(0, 1).flatten(1)  # (K, B F)
    counts = flat.new_zeros(flat.shape[0], codebook_size)
    return counts.scatter_add_(1, flat, torch.ones_like(flat))


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


def health_from_counts(counts: Tensor) -> dict[str, Tensor]:
    r"""Return usage, perplexity, entropy rate and dead codes of counts (K, N), each of shape (K,).

    Returns
    -------
    dict[str, Tensor]
        ``usage`` (share, 0..1), ``perplexity`` (1..N), ``entropy_rate`` (bit per code),
        ``dead_codes`` (number, int64).
    """
    seen = counts > 0  # (K, N)
    entropy = entropy_bits(counts)
    return {
        "usage": seen.float().mean(dim=1),
        "perplexity": 2**entropy,
        "entropy_rate": entropy,
        "dead_codes": (~seen).sum(dim=1),
    }


def codebook_health(codes: Tensor, codebook_size: int, bigram: bool = False) -> dict[str, Tensor]:
    r"""Measure the health of every codebook on the given codes.

    Parameters
    ----------
    codes
        Codes, shape (B, K, F), or (B, F) for one codebook.
    codebook_size
        Entries N.
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
    health = health_from_counts(code_counts(codes, codebook_size))
    if bigram:
        streams = codes.unsqueeze(1) if codes.ndim == 2 else codes
        rates = [_bigram_rate(streams[:, k], codebook_size) for k in range(streams.shape[1])]
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
        Entries N of each.
    window
        Batches to look back on.

    Examples
    --------
    >>> tracker = HealthTracker(num_quantizers=1, codebook_size=4)
    >>> tracker.update(torch.tensor([[[0, 0, 0]]]))
    >>> tracker.alarms(min_usage=0.5)
    ['codebook 0: usage 25.0 % (1 of 4 codes over 3 vectors), below 50.0 %']
    """

    def __init__(self, num_quantizers: int, codebook_size: int, window: int = 100) -> None:
        check_sizes(num_quantizers=num_quantizers, codebook_size=codebook_size, window=window)
        self.num_quantizers, self.codebook_size = num_quantizers, codebook_size
        self._batches: deque[Tensor] = deque(maxlen=window)

    def update(self, codes: Tensor) -> None:
        """Count the codes (B, n_q, F) of one batch; codebooks beyond ``n_q`` count nothing."""
        counts = code_counts(codes, self.codebook_size).cpu()
        if counts.shape[0] > self.num_quantizers:
            raise ValueError(
                f"codes: got {counts.shape[0]} codebooks, at most {self.num_quantizers}"
            )
        padded = counts.new_zeros(self.num_quantizers, self.codebook_size)
        padded[: counts.shape[0]] = counts
        self._batches.append(padded)

    def counts(self) -> Tensor:
        """Return the counts (K, N) of this rank's last batches."""
        if not self._batches:
            return torch.zeros(self.num_quantizers, self.codebook_size, dtype=torch.int64)
        return torch.stack(list(self._batches)).sum(dim=0)

    def compute(self, device: torch.device | str | None = None) -> dict[str, Tensor]:
        """Return ``health_from_counts`` over the last batches of all ranks.

        ``device`` is where the sum over ranks runs (a GPU under NCCL).
        """
        counts = self.counts()
        if device is not None:
            counts = sum_over_ranks(counts.to(device)).cpu()
        return health_from_counts(counts)

    def alarms(self, min_usage: float = MIN_USAGE) -> list[str]:
        """Return one line for every codebook in use that is below ``min_usage`` (a share)."""
        return usage_alarms(self.counts(), min_usage)


def usage_alarms(counts: Tensor, min_usage: float = MIN_USAGE) -> list[str]:
    r"""Return one line for every codebook of counts (K, N) whose usage is below ``min_usage``.

    A codebook with fewer vectors than ``min_usage`` times N cannot be judged and raises no alarm,
    except that a single code for all of several vectors always does.
    """
    lines = []
    size = counts.shape[1]
    for k, row in enumerate(counts):
        seen, vectors = int((row > 0).sum()), int(row.sum())
        if vectors > 1 and seen / size < min_usage and (vectors >= min_usage * size or seen == 1):
            lines.append(
                f"codebook {k}: usage {100 * seen / size:.1f} % ({seen} of {size} codes over "
                f"{vectors} vectors), below {100 * min_usage:.1f} %"
            )
    return lines
