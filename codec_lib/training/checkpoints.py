r"""Checkpoints that hold everything, survive a kill at any moment, and contain no pickle.

A checkpoint is a folder: tensors in safetensors, the rest in JSON, one file of random states per
process. It is written under a temporary name, flushed to disk and renamed, so a reader sees it
whole or not at all. The last two are kept. The best averaged weights lie beside them as an ordinary
weight file that ``codec_lib.load`` reads.

Left out: sharded optimisers (every process has all tensors; process 0 writes them).

Read next: ``validation.py``.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

KEEP = 2
FOLDER = "checkpoints"
_PREFIX = "step_"


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or does not fit the run."""


def checkpoint_path(run_dir: str | Path, step: int) -> Path:
    """Return the folder of the checkpoint after ``step`` steps."""
    return Path(run_dir) / FOLDER / f"{_PREFIX}{step:08d}"


def list_checkpoints(run_dir: str | Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    return sorted((Path(run_dir) / FOLDER).glob(f"{_PREFIX}*"))


def latest_checkpoint(run_dir: str | Path) -> Path | None:
    """Return the newest complete checkpoint of a run, or None."""
    return (list_checkpoints(run_dir) or [None])[-1]


def step_of(checkpoint: Path) -> int:
    """Return the number of steps that were taken before a checkpoint was written."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def temporary_path(run_dir: str | Path, step: int) -> Path:
    """Return the folder in which the checkpoint after ``step`` steps is written."""
    final = checkpoint_path(run_dir, step)
    return final.with_name("tmp_" + final.name)


def begin(run_dir: str | Path, step: int) -> Path:
    """Make an empty temporary folder for the checkpoint after ``step`` steps (process 0 calls)."""
    temporary = temporary_path(run_dir, step)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def commit(temporary: Path) -> Path:
    r"""Flush a written folder to disk, give it its name and drop checkpoints older than the last 2.

    Parameters
    ----------
    temporary
        What ``begin`` returned, with all files written.

    Returns
    -------
    Path
        The checkpoint.
    """
    for path in (*temporary.iterdir(), temporary):
        _flush(path)
    final = temporary.with_name(temporary.name.removeprefix("tmp_"))
    if final.exists():  # the same step again, from a run that was resumed before it
        shutil.rmtree(final)
    temporary.rename(final)
    _flush(final.parent)
    for old in list_checkpoints(final.parent.parent)[:-KEEP]:
        # renamed first: a kill in the middle of the deletion must not leave half a checkpoint
        doomed = old.rename(old.with_name("old_" + old.name))
        shutil.rmtree(doomed)
    return final


def save_all(
    fabric: Fabric,
    run_dir: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Any],
    tensors: Mapping[str, dict[str, Tensor]],
    state: Mapping[str, Any],
) -> None:
    r"""Write a checkpoint; every process calls, process 0 writes all but the random states.

    Parameters
    ----------
    fabric
        Of the run.
    run_dir
        Its folder.
    modules, optimizers
        By name; equal in all processes.
    tensors
        Further tensors, by the name of their file.
    state
        JSON-able; its ``"step"`` names the checkpoint.
    """
    folder = temporary_path(run_dir, state["step"])
    if fabric.is_global_zero:
        begin(run_dir, state["step"])
    fabric.barrier()
    save_json(folder / f"rng_{fabric.global_rank}.json", random_state())
    if fabric.is_global_zero:
        for name, module in modules.items():
            write_tensors(folder / f"{name}.safetensors", module.state_dict())
        for name, optimizer in optimizers.items():
            save_optimizer(folder, name, optimizer)
        for name, values in tensors.items():
            write_tensors(folder / f"{name}.safetensors", values)
        save_json(folder / "state.json", dict(state))
    fabric.barrier()
    if fabric.is_global_zero:
        commit(folder)
    fabric.barrier()


def restore_modules(folder: Path, modules: Mapping[str, nn.Module]) -> None:
    r"""Load what ``save_all`` wrote into modules, or raise CheckpointError."""
    for name, module in modules.items():
        try:
            module.load_state_dict(read_tensor_file(folder / f"{name}.safetensors"))
        except RuntimeError as error:
            raise CheckpointError(f"{folder / name}: {error}") from None


def restore_random_state(folder: Path, rank: int) -> None:
    r"""Restore a process's random states; with more processes than before, new ones keep theirs."""
    own = folder / f"rng_{rank}.json"
    if own.exists():
        set_random_state(load_json(own))


def sweep(run_dir: str | Path) -> None:
    """Delete what a killed process left half written or half deleted."""
    for pattern in ("tmp_*", ".*.partial", f"{FOLDER}/tmp_*", f"{FOLDER}/old_*"):
        for path in Path(run_dir).glob(pattern):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors by name, each with memory of its own (safetensors refuses shared memory)."""
    save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()},
              path)  # fmt: skip


def save_json(path: Path, value: Any) -> None:
    """Write JSON; floats keep all their digits."""
    path.write_text(json.dumps(value), encoding="utf-8")


def load_json(path: Path) -> Any:
    """Read JSON, or raise CheckpointError that names the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint file ({error})") from None


def read_tensor_file(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Read tensors by name, or raise CheckpointError that names the file."""
    try:
        return load_file(path, device=str(device))
    except Exception as error:
        raise CheckpointError(f"{path}: not a readable checkpoint file ({error})") from None


def save_optimizer(folder: Path, name: str, optimizer: Optimizer) -> None:
    r"""Write an optimiser's state: moments as tensors, the rest as JSON.

    Parameters
    ----------
    folder, name
        Written are ``<name>.safetensors`` and ``<name>.json`` in the folder.
    optimizer
        Any optimiser whose state holds tensors and numbers.
    """
    state = optimizer.state_dict()
    tensors, numbers = {}, {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{index}.{key}"] = value
    write_tensors(folder / f"{name}.safetensors", tensors)
    save_json(folder / f"{name}.json", {"groups": state["param_groups"], "numbers": numbers})


def load_optimizer(folder: Path, name: str, optimizer: Optimizer) -> None:
    r"""Restore what ``save_optimizer`` wrote.

    Parameters
    ----------
    folder, name
        As in ``save_optimizer``.
    optimizer
        Of the same kind, over parameters of the same shapes.

    Raises
    ------
    CheckpointError
        If a file is missing or damaged, or the groups do not fit.
    """
    rest = load_json(folder / f"{name}.json")
    entries: dict[int, dict[str, Any]] = {}
    values = {**read_tensor_file(folder / f"{name}.safetensors"), **rest["numbers"]}
    for path, value in values.items():
        index, _, key = path.partition(".")
        entries.setdefault(int(index), {})[key] = value
    try:
        optimizer.load_state_dict({"state": entries, "param_groups": rest["groups"]})
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{folder / name}: {error}") from None


def random_state() -> dict[str, Any]:
    """Return the states of this process's torch, CUDA, NumPy and Python generators, for JSON."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - the global one is what runs use
    version, internal, gauss = random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "torch": torch.get_rng_state().tolist(),
        "cuda": [state.tolist() for state in cuda],
        "numpy": [
            name,
            keys.tolist(),
            *(float(x) if isinstance(x, float) else int(x) for x in rest),
        ],
        "python": [version, list(internal), gauss],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what ``random_state`` returned."""
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if state["cuda"] and torch.cuda.is_available():
        for index, device_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(torch.tensor(device_state, dtype=torch.uint8), index)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def write_atomic(path: Path, write: Any) -> None:
    """Call ``write(temporary_path)`` and rename the result to ``path``: whole or not at all."""
    temporary = path.with_name(f"tmp_{path.name}")
    write(temporary)
    _flush(temporary)
    temporary.rename(path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    """Ask the operating system to put a file or folder on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
