r"""Replace an earlier run only once the new one stands: what ``--fresh`` does to a folder.

An earlier run is set aside, in the run's own folder, before the new one begins. It comes back if
the new one ends without a checkpoint: a mistake that only the first batch shows costs nothing, nor
does a kill before the first checkpoint. A kill in the midst of moving leaves a folder ``MOVING``,
of which everything is moved back and nothing deleted. Leaves out: what a run's files are
(``loop.py``). Read next: ``loop.py``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning_fabric import Fabric

from codec_lib.training.stages import FINAL

ASIDE, MOVING = "replaced", "replaced.partial"  # folder of the earlier run, whole and in parts
RUN_FILES = ("checkpoints", "tensorboard", "metrics.csv", "config.yml", "best.safetensors", FINAL)


def check_init(init_from: str | None, run_dir: Path) -> None:
    """Raise ValueError if a run would start from weights that it replaces."""
    if init_from is not None:
        given = Path(init_from).resolve()
        if run_dir.resolve() in (given, *given.parents):
            raise ValueError(
                f"init_from: got {init_from}, which the run in {run_dir} would replace, "
                "expected other weights. Hint: another --out"
            )


def set_aside(run_dir: Path, names: Sequence[str]) -> None:
    """Move the files and folders of an earlier run, those that are there, to ``ASIDE``."""
    there, moving = [name for name in names if (run_dir / name).exists()], run_dir / MOVING
    if not there:
        return
    moving.mkdir()
    for name in there:
        (run_dir / name).rename(moving / name)
    moving.rename(run_dir / ASIDE)


def settle(run_dir: Path) -> None:
    """Delete what was set aside if the run in its place has a checkpoint, else bring it back."""
    aside, moving = run_dir / ASIDE, run_dir / MOVING
    _move_back(moving)
    if not aside.exists():
        return
    there = [path for path in run_dir.iterdir() if path != aside]
    if not any([*path.glob("step_*"), *path.glob("*/step_*")] for path in there):
        own = {*RUN_FILES, *(path.name for path in aside.iterdir())}
        for path in there:
            if path.name in own:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        aside.rename(moving)
        _move_back(moving)
    else:
        shutil.rmtree(aside)


def _move_back(moving: Path) -> None:
    """Move what was being moved to where it was."""
    if moving.exists():
        for path in moving.iterdir():
            path.rename(moving.parent / path.name)
        moving.rmdir()


@contextmanager
def replacing(fabric: Fabric, run_dir: Path) -> Iterator[None]:
    """Settle on process 0 what an earlier attempt left behind, and at the end what this one did."""
    with fabric.rank_zero_first():
        if fabric.is_global_zero:
            settle(run_dir)
    try:
        yield
    finally:
        if fabric.is_global_zero:
            settle(run_dir)
