r"""The scheduler of CodecSlime against the recurrence as printed, and against reading the features.

Everything on one thread and in turns; features are noise of width 1024, U = 4, K = F / 2. Reading
the features once, ``z.sum()``, is the floor of every exact scheduler. The figures are in
``data/results/bench.json``. Leaves out: GPUs. Read next: ``speed.py``.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

from codec_lib.evaluation import memory
from codec_lib.evaluation.timing import in_turns, ratio
from codec_lib.rate import schedule, schedule_by_recurrence

WIDTH = 1024


def features(batch: int, frames: int) -> torch.Tensor:
    """Return noise (B, F, 1024)."""
    return torch.randn(batch, frames, WIDTH, generator=torch.Generator().manual_seed(0))


def schedule_speed(repetitions: int, quick: bool = False) -> list[dict[str, Any]]:
    r"""Measure a training batch, one long utterance and the memory of twenty minutes.

    Parameters
    ----------
    repetitions
        Timed turns of each.
    quick
        True takes a shorter utterance against the recurrence.

    Returns
    -------
    list[dict]
        Median seconds; ``ratio`` says how many times slower the other is. Of the batch the other is
        reading it once, which is faster: its ratio is below 1, and ``times_reading`` inverts it.
    """
    batch, long = features(32, 400), features(1, 200 if quick else 1600)
    frames = long.shape[1]
    seconds = in_turns(
        {"ours": lambda: schedule(batch, 200), "theirs": lambda: batch.sum()}, repetitions
    )
    read = ratio(seconds, "theirs", "ours")
    rows = [
        {
            "measured": "schedule 32 x 400 frames, against reading them",
            "theirs_seconds": statistics.median(seconds["theirs"]),
            "ours_seconds": statistics.median(seconds["ours"]),
            "ratio": read,
            "times_reading": 1 / read,
        }
    ]
    seconds = in_turns(
        {
            "ours": lambda: schedule(long, frames // 2),
            "theirs": lambda: schedule_by_recurrence(long, frames // 2),
        },
        min(repetitions, 3),
    )
    same = schedule(long, frames // 2) == schedule_by_recurrence(long, frames // 2)
    rows.append(
        {
            "measured": f"schedule {frames} frames, against the recurrence in Python",
            "theirs_seconds": statistics.median(seconds["theirs"]),
            "ours_seconds": statistics.median(seconds["ours"]),
            "ratio": ratio(seconds, "theirs", "ours"),
            "same_lengths": float(same.float().mean()),
        }
    )
    minutes = 1 if quick else 20
    rows.append(
        {
            "measured": f"schedule {minutes} minutes at 80 Hz",
            **memory.in_own_process(long_task, minutes),
        }
    )
    return rows


def long_task(minutes: str) -> Any:
    r"""Return the scheduling of so many minutes as a task of ``memory.py``; narrow features."""
    frames = int(minutes) * 60 * 80
    z = torch.randn(1, frames, 16, generator=torch.Generator().manual_seed(0))
    schedule(z[:, :100], 50)  # compiled before anything is measured
    return lambda: {"segments": int((schedule(z, frames // 2) > 0).sum())}
