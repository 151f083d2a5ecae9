r"""Segmentations to compare the scheduler with: uniform, random, and greedy merging.

All cut F frames into the same K segments of at most U frames, so what they lose is due to where
they cut. [CodecSlime] compares itself with fixed pairs only. Notebook:
32_dynamic_frame_rate_segmentations. Leaves out: thresholds, which do not keep a rate. Read next:
``melt.py``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from codec_lib.rate.costs import check_features, check_options, segment_costs
from codec_lib.rate.schedule import NOT_FINITE, NonFiniteFeatures, schedule

SCHEMES = ("scheduled", "greedy", "uniform", "random")


def segment_by(
    scheme: str,
    z: Tensor,
    num_segments: int,
    max_length: int = 4,
    cost: str = "paper",
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Cut latents into K segments each, by one of the schemes.

    Parameters
    ----------
    scheme
        ``"scheduled"``, the optimum; ``"greedy"``, neighbours merged cheapest first;
        ``"uniform"``, lengths that differ by one at most; ``"random"``, the F - K frames above one
        each thrown into the free places of the segments.
    z
        Shape (B, F, D).
    num_segments, max_length, cost
        K, one for all, U and the cost, as in ``schedule``.
    generator
        Of the random scheme, on the CPU; None takes torch's own state.

    Returns
    -------
    Tensor
        Frames of each segment, shape (B, K), int64.

    Raises
    ------
    TypeError, ValueError
        As ``schedule``; also if the scheme is unknown, or greedy merging ends before it has K
        segments (it can where K < 2 F / (U + 1)).

    Examples
    --------
    >>> segment_by("uniform", torch.zeros(1, 7, 2), num_segments=3)
    tensor([[2, 2, 3]])
    """
    _check_cut(scheme, z, num_segments, max_length, cost)
    batch, frames, _ = z.shape
    if scheme == "scheduled":
        return schedule(z, num_segments, max_length, cost)
    if scheme == "greedy":
        costs = segment_costs(z, max_length, cost)
        if max_length > 1 and not bool(costs[:, 1, 1:].isfinite().all()):  # of all pairs
            raise NonFiniteFeatures(NOT_FINITE)
        rows = [merge_neighbours(item, num_segments) for item in costs.cpu().numpy()]
        return torch.tensor(rows, device=z.device)
    if scheme == "uniform":
        ends = torch.arange(num_segments + 1) * frames // num_segments
        return ends.diff().expand(batch, -1).to(z.device)
    rows = [cut_at_random(frames, num_segments, max_length, generator) for _ in range(batch)]
    return torch.stack(rows).to(z.device)


def _check_cut(scheme: str, z: Tensor, num_segments: int, max_length: int, cost: str) -> None:
    """Raise ``TypeError`` or ``ValueError`` for what no scheme can cut."""
    if scheme not in SCHEMES:
        raise ValueError(f"scheme: got {scheme!r}, expected one of {', '.join(SCHEMES)}")
    if isinstance(num_segments, bool) or not isinstance(num_segments, int):
        raise TypeError(f"num_segments: got {num_segments!r}, expected one whole number for all")
    check_features(z)
    check_options(max_length, cost)
    frames = z.shape[1]
    if not frames <= max_length * num_segments <= max_length * frames:
        raise ValueError(
            f"num_segments: got {num_segments} for {frames} frames, expected "
            f"{-(-frames // max_length)} to {frames}"
        )


def cut_at_random(
    frames: int, num_segments: int, max_length: int, generator: torch.Generator | None = None
) -> Tensor:
    r"""Return lengths (K,): 1 each, and what is left in free places chosen at random.

    Parameters
    ----------
    frames, num_segments, max_length
        F, K and U, with K to K U frames.
    generator
        Of what is drawn.
    """
    places = torch.randperm(num_segments * (max_length - 1), generator=generator)
    chosen = places[: frames - num_segments] % num_segments
    return 1 + torch.bincount(chosen, minlength=num_segments)


def merge_neighbours(costs: np.ndarray, num_segments: int) -> list[int]:
    """Merge neighbours, the pair that adds least first, until ``num_segments`` are left.

    ``costs[r, j]`` is the cost of the r + 1 frames that end with frame j.
    """
    longest, frames = costs.shape
    lengths, ends = np.ones(frames, np.int64), np.arange(frames)
    while len(lengths) > num_segments:
        both = lengths[:-1] + lengths[1:]
        merged = costs[np.minimum(both, longest) - 1, ends[1:]]
        each = costs[lengths - 1, ends]
        added = np.where(both <= longest, merged - each[:-1] - each[1:], np.inf)
        first = int(added.argmin())
        if both[first] > longest:
            raise ValueError(
                f"num_segments: got {num_segments}, but greedy merging ends at {len(lengths)} "
                f"segments of at most {longest} frames; hint: more segments, or another scheme"
            )
        lengths[first], ends[first] = both[first], ends[first + 1]
        lengths, ends = np.delete(lengths, first + 1), np.delete(ends, first + 1)
    return lengths.tolist()
