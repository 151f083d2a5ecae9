"""Run the same training twice: once in peace, once killed again and again; then compare by hand.

Children are forked, so that torch is imported once. Called by ``test_resume.py`` as
``killer.py CONFIG.yml OUT``: leaves ``OUT/peace`` and ``OUT/killed`` and prints how it went.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from codec_lib.training import checkpoints
from codec_lib.training.config import TrainConfig, load_config
from codec_lib.training.loop import train
from codec_lib.training.stages import stage_runs

TIMED_KILLS = 6
# Counted from the first stage's last checkpoint on: the rest of its commit, configs and logs of the
# next start, its final weights (10), the folder of the next stage, the first checkpoint there.
BOUNDARY_KILLS = (1, 7, 10, 11, 15, 29, 45)
WRITE_KILLS = (1, 4, 9, 13, 19, 25)  # at the n-th file operation: first files, flushes, renames


def start(config: TrainConfig, before: Callable[[], None] | None = None) -> int:
    """Fork a process that trains; return its id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if before is not None:
            before()
        train(config)
    except BaseException as error:
        print(f"child: {error!r}", file=sys.stderr)
        os._exit(1)
    os._exit(0)


def killed_by(pid: int) -> int:
    """Wait for a process; return the signal that ended it, 0 if it finished."""
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit("a child failed")
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def kill_self_at_operation(number: int, counts: Callable[[], bool] = lambda: True) -> None:
    """Make this process die of SIGKILL right before its n-th operation on files that counts."""
    count = 0

    def counted(function: Callable) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += counts()
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    checkpoints.write_tensors = counted(checkpoints.write_tensors)
    checkpoints.save_json = counted(checkpoints.save_json)
    checkpoints._flush = counted(checkpoints._flush)
    Path.rename, Path.replace = counted(Path.rename), counted(Path.replace)
    shutil.rmtree = counted(shutil.rmtree)


def main() -> None:
    """Run, kill, run to the end."""
    torch.set_num_threads(1)
    config, out = load_config(None, Path(sys.argv[1])), Path(sys.argv[2])
    began = time.monotonic()
    assert killed_by(start(replace(config, out_dir=str(out / "peace")))) == 0
    peace = time.monotonic() - began
    config = replace(config, out_dir=str(out / "killed"))
    rng, kills, steps = random.Random(0), 0, []
    first, *later = stage_runs(config)

    def reached() -> str:
        places = [checkpoints.latest_checkpoint(one.out_dir) for one in (first, *later)]
        return "/".join(str(getattr(place, "name", None)) for place in places)

    for number in () if later else WRITE_KILLS:
        pid = start(config, lambda number=number: kill_self_at_operation(number))
        kills += killed_by(pid) == signal.SIGKILL
        steps.append(reached())
    end = checkpoints.checkpoint_path(first.out_dir, first.steps)
    for number in BOUNDARY_KILLS if later else ():
        pid = start(config, lambda number=number: kill_self_at_operation(number, end.exists))
        kills += killed_by(pid) == signal.SIGKILL
        steps.append(reached())
    for _ in range(0 if later else TIMED_KILLS):
        pid = start(config)
        time.sleep(rng.uniform(0.2, 0.8) * peace)
        os.kill(pid, signal.SIGKILL)
        kills += killed_by(pid) == signal.SIGKILL
        steps.append(reached())
    assert killed_by(start(config)) == 0
    print(f"kills {kills}, {peace:.1f} s in peace, checkpoints after each: {' '.join(steps)}")


if __name__ == "__main__":
    main()
