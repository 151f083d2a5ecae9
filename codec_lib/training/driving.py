r"""Take a run from its last checkpoint to its end, whatever is trained.

A run holds its state and knows how to save it (``run.py``, ``lm/run.py``); ``Work`` says what one
step, one validation and the end of it are. The rest is here: resume, log, stop in time.

Left out: what a step does (``steps.py``). Read next: ``loop.py``.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lightning_fabric import Fabric
from torch import Tensor

from codec_lib.training import checkpoints
from codec_lib.training.logs import ProgressLine, RunLog
from codec_lib.training.steps import NonFiniteLoss


class Trainable(Protocol):
    r"""What a run has.

    Attributes
    ----------
    config
        With ``steps``, ``log_every``, ``valid_every``, ``checkpoint_every``, ``progress_seconds``.
    fabric
        Launched.
    step
        Steps taken.
    audio_seconds
        Seconds of speech in a step of all processes, about; for the log.
    """

    config: Any
    fabric: Fabric
    step: int
    audio_seconds: float

    def describe(self) -> str:
        """Return one line about the run for people."""

    def open_data(self) -> None:
        """Open the data at the present step."""

    def next_batch(self) -> Any:
        """Return this process's batch of the present step."""

    def reduce(self, values: dict[str, Tensor], stop: bool) -> tuple[dict[str, float], bool]:
        """Average metrics over processes; tell whether any of them wants to stop."""

    def alarms(self) -> list[str]:
        """Return lines that people should see."""

    def save(self, run_dir: Path) -> None:
        """Write a checkpoint; every process takes part."""

    def restore(self, folder: Path) -> None:
        """Continue from a checkpoint."""


@dataclass(frozen=True)
class Work:
    r"""What is done with a run.

    Attributes
    ----------
    step
        Takes one step with a batch; returns scalars by name.
    validate
        Measures, on process 0; every process calls. Given the run's folder and log.
    finish
        Writes the weights after the last step, on process 0, into the run's folder.
    names
        Names the utterances of a batch, for the message that a loss is not finite.
    shown
        Metrics of the progress line.
    """

    step: Callable[[Any, Any], dict[str, Tensor]]
    validate: Callable[[Any, Path, RunLog | None], dict[str, float]]
    finish: Callable[[Any, Path], None]
    names: Callable[[Any, Any], list[str]]
    shown: tuple[str, ...]


def go_on(run: Trainable, run_dir: Path, stop: StopRequest, work: Work) -> None:
    r"""Take a run from its last checkpoint to its end, or to where it is asked to stop.

    Parameters
    ----------
    run
        Built, at step 0.
    run_dir
        Its folder.
    stop
        Entered here; ``stop.agreed`` says afterwards whether it ended early.
    work
        What is done.

    Raises
    ------
    NonFiniteLoss
        If a loss becomes NaN or infinite; the last checkpoint stays.
    ValueError
        If the run has taken more steps than it is to take.
    """
    fabric, last = run.fabric, checkpoints.latest_checkpoint(run_dir)
    if last is not None:
        run.restore(last)
    if run.step > run.config.steps:
        raise ValueError(
            f"steps: got {run.config.steps}, but {run_dir} has taken {run.step}; expected as many "
            "or more, or --fresh"
        )
    run.open_data()
    log = _open_log(run, run_dir) if fabric.is_global_zero else None
    try:
        with stop:
            _steps(run, run_dir, log, stop, work)
    finally:
        if log is not None:
            log.close()


def _open_log(run: Trainable, run_dir: Path) -> RunLog:
    """Open the run's log and say what is about to happen."""
    config = run.config
    progress = ProgressLine(run.step, config.steps, run.audio_seconds, config.progress_seconds)
    progress.say(run.describe())
    return RunLog(run_dir, run.step, config.log_every, progress)


def _steps(
    run: Trainable, run_dir: Path, log: RunLog | None, stop: StopRequest, work: Work
) -> None:
    """Take the steps that are left."""
    config = run.config
    while run.step < config.steps and not stop.agreed:
        batch = run.next_batch()
        try:
            values = work.step(run, batch)
        except NonFiniteLoss as error:
            kept = checkpoints.latest_checkpoint(run_dir)
            raise NonFiniteLoss(
                f"step {run.step}: {error}; utterances {', '.join(work.names(run, batch))}; "
                f"last checkpoint: {kept or 'none yet'}; hint: lower lr, set clip_norm, or use "
                "precision 32-true"
            ) from None
        values, stop.agreed = run.reduce(values, stop.wanted)
        if log is not None:
            for alarm in run.alarms():
                log.progress.say(alarm)
        last = run.step + 1 == config.steps
        if (run.step + 1) % config.valid_every == 0 or last:
            values |= work.validate(run, run_dir, log)
        if log is not None:
            log.metrics(run.step, values, work.shown)
        run.step += 1
        if run.step % config.checkpoint_every == 0 or last or stop.agreed:
            if log is not None:
                log.flush()
            run.save(run_dir)
    if run.step == config.steps and run.fabric.is_global_zero:
        work.finish(run, run_dir)
    if stop.agreed and log is not None:
        log.progress.say(f"stopped after step {run.step}: {stop.reason}; run again to go on")


class StopRequest:
    r"""Ask a run to save and end: after a time limit, or on SIGTERM or Ctrl-C.

    Parameters
    ----------
    minutes
        Time limit; 0 is none.

    Attributes
    ----------
    agreed
        True once all processes know that one of them wants to stop.
    reason
        Why.
    """

    def __init__(self, minutes: float) -> None:
        self.agreed, self.reason = False, ""
        self.deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    @property
    def wanted(self) -> bool:
        """True once this process wants to stop."""
        if time.monotonic() > self.deadline:
            self.reason = "time limit"
        return bool(self.reason)

    def _on_signal(self, number: int, frame: object) -> None:
        if self.reason:  # asked twice: end at once
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name
