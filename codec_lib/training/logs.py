r"""What a run says: a CSV of every step, TensorBoard scalars and sounds, progress with time left.

``metrics.csv`` has one row per step and one column per metric; floats keep all their digits, so two
runs can be compared exactly. When a run resumes, rows from the resumed step on are dropped first.

Left out: remote trackers; TensorBoard's folder or the CSV can be uploaded by any of them.

Read next: ``checkpoints.py``.
"""

from __future__ import annotations

import csv
import sys
import time
from collections import deque
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch import Tensor

from codec_lib.training.checkpoints import write_atomic


class CsvLog:
    r"""Append rows to a CSV whose columns may grow, and drop rows that a resumed run repeats.

    Parameters
    ----------
    path
        The file; its folder exists.
    first_step
        Rows with this step or a later one are dropped, as is a last line that was cut short.
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        self.path, self.columns = path, ["step"]
        rows = [row for row in read_csv(path) if int(row["step"]) < first_step]
        for row in rows[-1:]:
            self.columns = list(row)
        self._rewrite(rows)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append one row; a new column rewrites the file once."""
        new = [name for name in values if name not in self.columns]
        if new:
            self.file.close()
            self.columns += new
            self._rewrite(list(read_csv(self.path)))
        self.writer.writerow({"step": step, **{name: repr(v) for name, v in values.items()}})

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        self.file.flush()

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        def write(path: Path) -> None:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self.columns, restval="", lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)

        write_atomic(self.path, write)
        self.file = self.path.open("a", newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, self.columns, restval="", lineterminator="\n")


def read_csv(path: Path) -> list[dict[str, str]]:
    r"""Read the rows of a ``metrics.csv`` as text, without a last line that was cut short.

    Examples
    --------
    >>> read_csv(Path("no/such/file.csv"))
    []
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    return list(csv.DictReader(whole.splitlines()))


class ProgressLine:
    r"""Show step, losses, speed and time left: a live bar on a terminal, else a line now and then.

    Parameters
    ----------
    first_step, steps
        Where this process starts, and where the run ends.
    audio_seconds
        Seconds of audio per step, for the throughput.
    every
        Seconds between lines where there is no terminal.
    """

    def __init__(self, first_step: int, steps: int, audio_seconds: float, every: float) -> None:
        self.steps, self.audio_seconds, self.every = steps, audio_seconds, every
        self.times: deque[tuple[float, int]] = deque(maxlen=50)
        self.times.append((time.monotonic(), first_step))
        self.next_line = 0.0
        self.bar = _bar() if Console(stderr=True).is_terminal else None
        if self.bar is not None:
            self.task = self.bar.add_task("", total=steps, completed=first_step)
            self.bar.start()

    @property
    def steps_per_second(self) -> float:
        """Speed over the last 50 steps."""
        (start, first), (end, last) = self.times[0], self.times[-1]
        return (last - first) / max(end - start, 1e-9)

    def update(self, done: int, shown: dict[str, float]) -> None:
        """Report that ``done`` steps are complete, with the values to show."""
        now = time.monotonic()
        self.times.append((now, done))
        text = "  ".join(f"{name.removeprefix('train/')} {v:.4g}" for name, v in shown.items())
        left = (self.steps - done) / max(self.steps_per_second, 1e-9)
        speed = f"{self.steps_per_second:.2f} steps/s"
        speed += f" ({self.steps_per_second * self.audio_seconds:.0f} s audio/s)"
        if self.bar is not None:  # short names: it must fit into 80 columns
            text = "  ".join(f"{name.rpartition('/')[2]} {v:.3g}" for name, v in shown.items())
            text += f"  {self.steps_per_second:.2f} steps/s  {clock(left)} left"
            self.bar.update(self.task, completed=done, description=text)
        elif now >= self.next_line or done == self.steps:
            self.next_line = now + self.every
            print(f"step {done}/{self.steps}  {text}  {speed}  {clock(left)} left", flush=True)

    def say(self, message: str) -> None:
        """Print one line without disturbing the bar."""
        (self.bar.console.print if self.bar is not None else _print)(message)

    def close(self) -> None:
        """Stop the bar."""
        if self.bar is not None:
            self.bar.stop()


def _print(message: str) -> None:
    print(message, file=sys.stdout, flush=True)


def _bar() -> Progress:
    console = Console(stderr=True)
    columns = (BarColumn(bar_width=10), MofNCompleteColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=console, refresh_per_second=2)


def clock(seconds: float) -> str:
    r"""Write a time span as h:mm:ss.

    Examples
    --------
    >>> clock(3725)
    '1:02:05'
    """
    minutes, rest = divmod(int(min(seconds, 3.6e8)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class RunLog:
    r"""Everything one run writes about itself; only process 0 has one.

    Parameters
    ----------
    run_dir
        Folder of the run.
    first_step
        Step that this process starts with.
    log_every
        Steps between TensorBoard points.
    progress
        Where progress is shown.
    """

    def __init__(
        self, run_dir: Path, first_step: int, log_every: int, progress: ProgressLine
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.csv = CsvLog(run_dir / "metrics.csv", first_step)
        self.board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step)
        self.log_every, self.progress = log_every, progress

    def metrics(self, step: int, values: dict[str, float], shown: tuple[str, ...]) -> None:
        """Write a step's metrics (``train/…``, ``valid/…``) and update progress."""
        self.csv.write(step, values)
        if step % self.log_every == 0:
            self.csv.flush()
        if step % self.log_every == 0 or any(name.startswith("valid/") for name in values):
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
        self.progress.update(step + 1, {name: values[name] for name in shown if name in values})

    def audio(self, step: int, name: str, wav: Tensor, sample_rate: int) -> None:
        """Write one sound (1, T) to TensorBoard."""
        self.board.add_audio(name, wav.clamp(-1, 1), step, sample_rate)

    def flush(self) -> None:
        """Hand everything to the operating system; call before a checkpoint is committed."""
        self.csv.flush()
        self.board.flush()

    def close(self) -> None:
        """Close every output."""
        self.progress.close()
        self.csv.close()
        self.board.close()
