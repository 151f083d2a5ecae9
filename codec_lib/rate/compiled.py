r"""The scheduler compiled for one CPU thread: costs while the features pass once, then the table.

Same numbers as ``costs.py`` and ``schedule.py``. Rows of the table hold the least cost D_i[e] of i
segments that have saved e frames, in float64, behind U - 1 cells of infinity. Only the band is
filled from which the last cell can be reached,

.. math:: \max(0, E - (U - 1)(K - i)) \le e \le \min(E, (U - 1)\, i), \qquad E = F - K,

and only values are kept: the choices along the best path are found again on the way back. Where
all rows would take more than 64 MB, every m-th is kept and the rows between are computed again.

Notebook: 14_codecslime. Leaves out: several threads. Read next: ``evaluation/schedule_bench.py``.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from codec_lib.rate.costs import COSTS

TABLE_BYTES = 64e6
# Sums in any order, so that the compiler can use wide registers; NaN and infinity are kept.
_REORDER = {"reassoc", "contract", "nsz"}


def solve_features(
    features: np.ndarray, frames: np.ndarray, segments: np.ndarray, max_length: int, cost: str
) -> tuple[np.ndarray, bool]:
    r"""Return the best lengths (B, K), int64, and whether all features were finite.

    Parameters
    ----------
    features
        Shape (B, F, D), float32.
    frames, segments
        F_b and K_b of each item, shape (B,), int64.
    max_length, cost
        As in ``schedule``.
    """
    return _solve_features(features, frames, segments, max_length, COSTS.index(cost), TABLE_BYTES)


def solve_costs(costs: np.ndarray, frames: np.ndarray, segments: np.ndarray) -> np.ndarray:
    r"""Return the best lengths (B, K), int64.

    Parameters
    ----------
    costs
        Of segments, shape (B, U, F), float32; see ``costs.py``.
    frames, segments
        F_b and K_b of each item, shape (B,), int64.
    """
    return _solve_costs(costs, frames, segments, TABLE_BYTES)


@njit(fastmath=_REORDER, cache=True, nogil=True)
def _fill_costs(features, max_length, cost):
    """Fill the table (U, F) from the distances to the U - 1 frames before."""
    frames, width = features.shape
    table = np.full((max_length, frames), np.inf, dtype=np.float32)
    apart = np.zeros((max_length, max_length), dtype=np.float32)  # [a, b]: a, b frames before now
    to_others = np.zeros(max_length, dtype=np.float32)
    for j in range(frames):
        for a in range(max_length - 1, 0, -1):  # the window moves on by a frame
            for b in range(max_length - 1, 0, -1):
                apart[a, b] = apart[a - 1, b - 1]
        for k in range(1, min(max_length - 1, j) + 1):
            total = np.float32(0)
            for d in range(width):
                step = features[j, d] - features[j - k, d]
                total += step * step
            apart[0, k] = apart[k, 0] = total
        table[0, j] = 0
        for s in range(2, min(max_length, j + 1) + 1):
            scatter = np.float32(0)
            for a in range(s):
                to_others[a] = 0
                for b in range(s):
                    to_others[a] += apart[a, b]
                scatter += to_others[a]
            scatter /= np.float32(2 * s)  # sum of squared distances to the mean
            if cost == 2:
                table[s - 1, j] = scatter
                continue
            loss = np.float32(0)
            for a in range(s):
                loss += np.sqrt(max((to_others[a] - scatter) / np.float32(s), np.float32(0)))
            table[s - 1, j] = loss if cost == 0 else loss * np.float32((s - 1) / s)
    return table


@njit(cache=True, nogil=True)
def _fill(row, before, i, costs, num_segments):
    """Fill row i of the table from the row before."""
    max_length, frames = costs.shape
    saved, pad = frames - num_segments, costs.shape[0] - 1
    low = max(0, saved - pad * (num_segments - i))
    high = min(saved, pad * i)
    row[max(0, low) : pad + low] = np.inf  # what the next row reads beside the band
    row[pad + high + 1 : min(pad + saved, 2 * pad + high) + 1] = np.inf
    best = row[pad + low : pad + high + 1]
    best[:] = before[pad + low : pad + high + 1]  # a segment of one frame costs nothing
    for r in range(1, max_length):
        past = before[pad + low - r : pad + high + 1 - r]
        loss = costs[r, i + low - 1 : i + high]
        for e in range(len(best)):
            value = past[e] + loss[e]
            best[e] = value if value < best[e] else best[e]


@njit(cache=True, nogil=True)
def _solve_one(costs, num_segments, table_bytes):
    """Return the lengths (K,) for the costs (U, F) of one item."""
    max_length, frames = costs.shape
    pad, saved = max_length - 1, frames - num_segments
    width = pad + saved + 1
    kept = num_segments  # rows that are held at a time
    if (num_segments + 1) * width * 8 > table_bytes:
        kept = int(np.ceil(np.sqrt(num_segments)))
    blocks = -(-num_segments // kept)
    first = np.full((blocks, width), np.inf)  # the row before each block
    first[0, pad] = 0.0
    two = np.full((2, width), np.inf)
    two[0] = first[0]
    for i in range(1, (blocks - 1) * kept + 1):
        _fill(two[i % 2], two[(i - 1) % 2], i, costs, num_segments)
        if i % kept == 0:
            first[i // kept] = two[i % 2]
    lengths = np.empty(num_segments, dtype=np.int64)
    rows = np.full((kept + 1, width), np.inf)
    e = saved
    for block in range(blocks - 1, -1, -1):
        start = block * kept
        stop = min(num_segments, start + kept)
        rows[0] = first[block]
        for i in range(start + 1, stop + 1):
            _fill(rows[i - start], rows[i - start - 1], i, costs, num_segments)
        for i in range(stop, start, -1):
            before = rows[i - start - 1]
            best, taken = before[pad + e], 0
            for r in range(1, min(pad, e) + 1):
                value = before[pad + e - r] + costs[r, i + e - 1]
                if value < best:
                    best, taken = value, r
            lengths[i - 1] = taken + 1
            e -= taken
    return lengths


@njit(cache=True, nogil=True)
def _solve_features(features, frames, segments, max_length, cost, table_bytes):
    """Take one item after the other: costs, then lengths."""
    found = np.zeros((len(features), segments.max()), dtype=np.int64)
    finite = True
    for b in range(len(features)):
        costs = _fill_costs(features[b, : frames[b]], max_length, cost)
        if min(costs.shape) > 1:
            finite &= np.isfinite(costs[1, 1:]).all()
        if finite:
            found[b, : segments[b]] = _solve_one(costs, segments[b], table_bytes)
    return found, finite


@njit(cache=True, nogil=True)
def _solve_costs(costs, frames, segments, table_bytes):
    """Take one item after the other."""
    found = np.zeros((len(costs), segments.max()), dtype=np.int64)
    for b in range(len(costs)):
        found[b, : segments[b]] = _solve_one(costs[b, :, : frames[b]], segments[b], table_bytes)
    return found
