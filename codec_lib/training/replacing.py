r"""Replace an earlier run only once the new one stands: what ``--fresh`` does to a folder.

An earlier run is set aside, in the run's own folder, before the new one begins. It comes back if
the new one ends without a checkpoint: a mistake that only the first batch shows costs nothing, nor
does a kill before the first checkpoint. Leaves out: what a run's files are (``loop.py``). Read
next: ``loop.py``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning.fabric import Fabric

from codec_lib.training.stages import FINAL

ASIDE = "replaced"  # folder of the earlier run
RUN_FILES = ("checkpoints", "tensorboard", "metrics.csv", "config.yml", "best.safetensors", FINAL)


def set_aside(run_dir: Path, names: Sequence[str]) -> None:
    """Move the files and folders of an earlier run, those that are there, to ``ASIDE``."""
    aside = run_dir / ASIDE
    for name in names:
        if (run_dir / name).exists():
            aside.mkdir(exist_ok=True)
            (run_dir / name).rename(aside / name)


def settle(run_dir: Path) -> None:
    """Delete what was set aside if the run in its place has a checkpoint, else bring it back."""
    aside = run_dir / ASIDE
    if not aside.exists():
        return
    there = [path for path in run_dir.iterdir() if path != aside]
    if not any([*path.glob("step_*"), *path.glob("*/step_*")] for path in there):
        own = {*RUN_FILES, *(path.name for path in aside.iterdir())}
        for path in there:
            if path.name in own:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in aside.iterdir():
            path.rename(run_dir / path.name)
    shutil.rmtree(aside)


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
