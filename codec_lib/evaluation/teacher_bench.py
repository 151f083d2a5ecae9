r"""Units and their targets on one core: nearest centres of an hour, Sinkhorn of a batch of frames.

Both are compared, in turns, with the matrix product that no exact way around is known of; nearest
centres also with scikit-learn. The figures are in ``data/results/bench.json``. Leaves out: GPUs,
fitting. Read next: ``speed.py``.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor

from codec_lib.evaluation.timing import in_turns, one_core, ratio
from codec_lib.teachers.kmeans import KMeans
from codec_lib.teachers.sinkhorn import sinkhorn

HOUR = 180_000  # frames at 50 Hz
CENTRES = 1000
WIDTHS = (192, 768)  # of the small teacher and of the published base models
_BLOCK = 2048  # rows of the plain product at once, so that it stays in the cache


def noise(*shape: int, seed: int = 0) -> Tensor:
    r"""Return normal noise of a shape, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assignment_speed(width: int, repetitions: int, frames: int = HOUR) -> dict[str, Any]:
    r"""Time the nearest of 1000 centres against scikit-learn's ``predict`` and the bare product.

    Parameters
    ----------
    width
        D of the frames.
    repetitions
        Timed turns of each.
    frames
        Frames F.

    Returns
    -------
    dict
        Median seconds of ours and of scikit-learn and their ratio (above 1: ours is faster);
        ``times_product``: ours over the matrix product; the share of frames with the same unit.
    """
    from sklearn.cluster import KMeans as Theirs

    rows, centres = noise(frames, width), 0.7 * noise(CENTRES, width, seed=1)
    theirs = Theirs(CENTRES, init=centres.numpy(), n_init=1, max_iter=1).fit(centres.numpy())
    theirs._n_threads = 1  # one core, as ours; there is no public name for it
    found = torch.from_numpy(theirs.cluster_centers_).float()
    kmeans, table, transposed = KMeans(found), rows.numpy(), found.T

    def product() -> None:
        for block in rows.split(_BLOCK):
            block @ transposed

    functions = {
        "ours": lambda: kmeans(rows),
        "theirs": lambda: theirs.predict(table),
        "product": product,
    }
    with one_core():
        seconds = in_turns(functions, repetitions)
        same = kmeans(rows) == torch.from_numpy(theirs.predict(table)).long()
    return {
        "measured": f"k-means units of {frames / HOUR:g} h, width {width}, {CENTRES} centres",
        "theirs_seconds": statistics.median(seconds["theirs"]),
        "ours_seconds": statistics.median(seconds["ours"]),
        "ratio": ratio(seconds, "theirs", "ours"),
        "times_product": ratio(seconds, "ours", "product"),
        "same_units": float(same.float().mean()),
    }


def sinkhorn_speed(
    repetitions: int, frames: int = 8000, codes: int = 4096, width: int = 256
) -> dict[str, Any]:
    r"""Time Sinkhorn targets against the matrix product that makes their scores.

    Parameters
    ----------
    repetitions
        Timed turns of each.
    frames, codes, width
        N, K and the width in which both are compared.

    Returns
    -------
    dict
        Median seconds; the other is the product. ``times_product`` is ours over it, ``ratio`` the
        inverse.
    """
    normalised = torch.nn.functional.normalize
    states, table = normalised(noise(frames, width), dim=1), normalised(noise(codes, width, seed=1))
    with one_core():
        scores = states @ table.T
        seconds = in_turns(
            {"ours": lambda: sinkhorn(scores), "theirs": lambda: states @ table.T}, repetitions
        )
    return {
        "measured": f"Sinkhorn targets {frames} x {codes}, against the product of their scores",
        "theirs_seconds": statistics.median(seconds["theirs"]),
        "ours_seconds": statistics.median(seconds["ours"]),
        "ratio": ratio(seconds, "theirs", "ours"),
        "times_product": ratio(seconds, "ours", "theirs"),
    }


def teacher_speed(repetitions: int, quick: bool = False) -> list[dict[str, Any]]:
    r"""Measure the units of an hour at both widths, and Sinkhorn targets.

    Parameters
    ----------
    repetitions
        Timed turns; of the hour at most 5.
    quick
        True takes a tenth of the frames.

    Returns
    -------
    list[dict]
        Rows as of ``assignment_speed`` and ``sinkhorn_speed``.
    """
    turns, parts = min(repetitions, 5), 10 if quick else 1
    rows = [assignment_speed(width, turns, HOUR // parts) for width in WIDTHS]
    return [*rows, sinkhorn_speed(repetitions, 8000 // parts)]
