r"""Soft targets that use every code about equally: Sinkhorn-Knopp by scaling vectors.

A network that is free to choose its own codes puts all frames on one. Sinkhorn-Knopp [Cuturi 2013],
as in [Caron et al. 2020, SwAV], moves a batch of assignments towards equal shares of all codes
before they become targets. Only two vectors are iterated here, one number per frame and one per
code; the matrix itself is read twice an iteration and written once at the end.

Differences: always float32, also under autocast (exp(1 / 0.02) does not fit into float16), and the
largest score of each frame is subtracted first. Notebook: 21. Leaves out: a queue of frames of
earlier batches. Read next: ``spin.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from codec_lib.quantizers.ranks import is_distributed, sum_over_ranks
from codec_lib.shapes import check_shape

_LOWEST = -80.0  # exp(-80) = 2e-35 is the smallest weight: below 1e-38 arithmetic becomes slow
_TINY = 1e-30  # bounds sums from below: a code that no frame comes near has no mass
_BLOCK = 1 << 18  # numbers worked on at once: 1 MB stays in the cache


@torch.no_grad()
def sinkhorn(
    scores: Tensor, epsilon: float = 0.02, iterations: int = 3, valid: Tensor | None = None
) -> Tensor:
    r"""Turn scores into targets: one distribution over codes per frame, codes about equally used.

    .. math:: q_{nk} = N u_n v_k e^{s_{nk} / \varepsilon}, \qquad
              v_k \leftarrow \Bigl(K \sum_n u_n e^{s_{nk} / \varepsilon}\Bigr)^{-1}, \quad
              u_n \leftarrow \Bigl(N \sum_k v_k e^{s_{nk} / \varepsilon}\Bigr)^{-1}
              \qquad \text{[Cuturi 2013], Alg. 1}

    The frames' turn comes last, so that each target sums to 1 and codes are only about balanced.

    Parameters
    ----------
    scores
        Similarity s of N frames and K codes, shape (N, K), e.g. cosines. Any float type.
    epsilon
        Smoothness: the smaller, the closer to one code per frame. 0.02 in Spin's official config.
    iterations
        Turns of codes and frames; 3 as published.
    valid
        False at frames that do not count, shape (N,), bool; all count by default.

    Returns
    -------
    Tensor
        Shape (N, K), float32, without gradient; rows sum to 1, or to 0 where not valid. In a
        distributed run N and K are as on this process, and the codes are balanced over the frames
        of all processes, each of which has to call this.

    Raises
    ------
    ValueError
        If the shapes differ, or ``epsilon`` or ``iterations`` is not positive.

    Examples
    --------
    >>> scores = torch.tensor([[0.9, 0.1], [0.8, 0.1], [0.7, 0.1], [0.6, 0.1]])
    >>> sinkhorn(scores, epsilon=0.05).argmax(1).tolist()  # two frames each, by their margin
    [0, 0, 1, 1]
    """
    sizes = check_shape(scores, "N K", name="scores")
    if epsilon <= 0 or iterations < 1:
        raise ValueError(
            f"sinkhorn: got epsilon={epsilon}, iterations={iterations}, expected both above 0"
        )
    counted = torch.ones_like(scores[:, 0], dtype=torch.bool) if valid is None else valid
    check_shape(counted, "N", name="valid", N=sizes["N"])
    with torch.autocast(scores.device.type, enabled=False):
        weights, frames = _weights(scores, epsilon, counted)  # (N, K), (N,)
        total = sum_over_ranks(counted.sum().float()).clamp_min(1)
        for _ in range(iterations):
            mass = sum_over_ranks(weights.T @ frames)  # (K,)
            codes = 1 / (sizes["K"] * mass.clamp_min(_TINY))
            frames = counted / (total * (weights @ codes).clamp_min(_TINY))
        frames *= total
        for block, share in _blocks(weights, frames):
            block.mul_(share[:, None]).mul_(codes)
    return weights


def _weights(scores: Tensor, epsilon: float, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Return exp((s - max of the frame) / epsilon), and what brings frames to a common scale."""
    weights = torch.empty_like(scores, dtype=torch.float32)
    highest = torch.empty_like(scores[:, 0], dtype=torch.float32)  # (N,)
    for block, source, top in _blocks(weights, scores, highest):
        block.copy_(source)
        torch.amax(block, 1, out=top)
        block.sub_(top[:, None]).div_(epsilon).clamp_min_(_LOWEST).exp_()
    common = torch.where(counted, highest, -torch.inf).amax() if len(highest) else highest.sum()
    if is_distributed():
        dist.all_reduce(common, dist.ReduceOp.MAX)
    frames = ((highest - common) / epsilon).clamp(_LOWEST, 0).exp() * counted
    return weights, frames


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield views of a few rows of each tensor at a time."""
    rows = max(1, _BLOCK // max(1, tensors[0].shape[1]))
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)
