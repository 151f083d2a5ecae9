r"""What every run of this package is: a module, its optimiser, averaged weights, a folder.

Loop, checkpoints and log are those of the codecs' training (``training/driving.py``), so a run
survives a kill at any moment and goes on to the same weights, on one device or several. A subclass
builds the module and the data and says what its losses are.

Notebook: 40. Leaves out: gradient accumulation. Read next: ``run.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from codec_lib.training import checkpoints
from codec_lib.training.averaging import AveragedWeights
from codec_lib.training.config import differences, read_mapping, write_config
from codec_lib.training.driving import StopRequest, Work, go_on
from codec_lib.training.launch import make_fabric
from codec_lib.training.logs import RunLog
from codec_lib.training.replacing import ASIDE, MOVING, RUN_FILES, check_init, replacing, set_aside
from codec_lib.training.schedule import lr_fraction, set_lr
from codec_lib.training.stages import FINAL
from codec_lib.training.steps import check_finite, update

from .config import ModuleConfig, module_config

BEST = "best.safetensors"


class ModuleRun:
    r"""State of a run.

    Parameters
    ----------
    config
        What to do.
    fabric
        Launched.

    Attributes
    ----------
    module, average
        The bare module and its averaged weights.
    step, best, validated
        Steps taken; smallest held-out loss so far; figures of the last validation.
    data_print
        Of what is learnt from, see ``batches.digest_of``: a run is not continued on anything else.
    title, shown
        What the log calls the run, and which metrics its progress line has.
    """

    title: ClassVar[str] = ""
    shown: ClassVar[tuple[str, ...]] = ("train/loss",)
    data_print: str

    def __init__(self, config: ModuleConfig, fabric: Fabric) -> None:
        self.config, self.fabric, self.step, self.best = config, fabric, 0, float("inf")
        self.validated: dict[str, float] = {}
        if config.batch_size % fabric.world_size:
            raise ValueError(
                f"batch_size: got {config.batch_size} for {fabric.world_size} processes, expected "
                "a multiple"
            )
        torch.manual_seed(config.seed)
        self.module = self.build()
        self.find_data()
        optimizer = torch.optim.AdamW(
            self.module.parameters(),
            config.lr,
            config.betas,
            config.epsilon,
            config.weight_decay,
            fused=True,
        )
        self.wrapped, self.optimizer = fabric.setup(self.module.train(), optimizer)
        self.average = AveragedWeights(self.module, config.average_decay)
        torch.manual_seed(config.seed + 1 + fabric.global_rank)  # dropout differs between ranks

    def build(self) -> nn.Module:
        """Make the module, with the weights that the run starts from."""
        raise NotImplementedError

    def find_data(self) -> None:
        """Find training and held-out data, and set ``data_print``."""
        raise NotImplementedError

    @property
    def audio_seconds(self) -> float:
        """Seconds of speech in a step of all processes, about."""
        raise NotImplementedError

    def open_data(self) -> None:
        """Open the data at the present step."""
        raise NotImplementedError

    def next_batch(self) -> Any:
        """Return this process's batch of the present step."""
        raise NotImplementedError

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Return scalars by name through ``wrapped``; ``loss`` is what is made smaller."""
        raise NotImplementedError

    def measure(self, module: nn.Module) -> dict[str, float]:
        """Measure held-out data; the smallest ``loss`` is the best."""
        raise NotImplementedError

    def names(self, batch: Any) -> list[str]:
        """Name the utterances of a batch."""
        raise NotImplementedError

    def write(self, path: Path, steps: int) -> None:
        """Write the averaged weights as a file."""
        raise NotImplementedError

    def about(self) -> str:
        """Return what the data is, for the log."""
        return self.config.corpus

    def describe(self) -> str:
        """Return one line about the run for people."""
        config = self.config
        size = sum(parameter.numel() for parameter in self.module.parameters()) / 1e6
        start = f"resumed at step {self.step}" if self.step else "from step 0"
        return (
            f"{self.title}, {config.scale} ({size:.2f} M), {self.about()}, {config.batch_size} "
            f"examples a step, {self.fabric.world_size} x {self.fabric.device.type}, "
            f"{config.precision}; {start} of {config.steps}"
        )

    def reduce(self, values: dict[str, Tensor], stop: bool) -> tuple[dict[str, float], bool]:
        """Average metrics over processes; tell whether any of them wants to stop."""
        packed = torch.stack([*values.values(), torch.tensor(float(stop)).to(self.fabric.device)])
        *means, wanted = self.fabric.all_reduce(packed.float(), reduce_op="mean").tolist()
        named = {f"train/{name}": mean for name, mean in zip(values, means, strict=True)}
        return {**named, "train/lr": self.optimizer.param_groups[0]["lr"]}, wanted > 0

    def alarms(self) -> list[str]:
        """Return lines that people should see; none by default."""
        return []

    def save(self, run_dir: Path) -> None:
        """Write a checkpoint; every process takes part."""
        best = None if self.best == float("inf") else self.best
        state = {"step": self.step, "best": best, "validated": self.validated}
        state["data"] = self.data_print
        optimizers = {"optimizer": self.optimizer}
        checkpoints.save_all(self.fabric, run_dir, self._modules(), optimizers, {}, state)

    def restore(self, folder: Path) -> None:
        r"""Continue from a checkpoint, or raise ``CheckpointError``, a ``ValueError``."""
        state = checkpoints.load_json(folder / "state.json")
        if state.get("data") != self.data_print:
            raise checkpoints.CheckpointError(
                f"{folder}: got a run on other data, expected the same utterances and the same "
                "codec. Hint: use --fresh to replace it, or another --out"
            )
        self.step, self.validated = state["step"], state["validated"]
        self.best = float("inf") if state["best"] is None else state["best"]
        checkpoints.restore_modules(folder, self._modules())
        checkpoints.load_optimizer(folder, "optimizer", self.optimizer)
        checkpoints.restore_random_state(folder, self.fabric.global_rank)

    def _modules(self) -> Mapping[str, nn.Module]:
        return {"model": self.module, "average": self.average.module}


def _module_step(run: ModuleRun, batch: Any) -> dict[str, Tensor]:
    """Take one step."""
    config = run.config
    fraction = lr_fraction(run.step, config.steps, config.warmup_steps, config.final_lr_fraction)
    set_lr(run.optimizer, config.lr * fraction)
    found = run.losses(batch)
    check_finite(found)
    run.fabric.backward(found["loss"])
    norm = update(run.fabric, run.wrapped, run.optimizer, config.clip_norm)
    run.average.update(run.module, run.step)
    return {**{name: value.detach() for name, value in found.items()}, "grad_norm": norm}


@torch.no_grad()
def _measure(run: ModuleRun, run_dir: Path, log: RunLog | None) -> dict[str, float]:
    """Measure the averaged weights on process 0; keep them if they are the best so far."""
    values: dict[str, float] = {}
    if run.fabric.is_global_zero:
        found = run.measure(run.average.module)
        values = run.validated = {f"valid/{name}": float(v) for name, v in found.items()}
        if values["valid/loss"] < run.best:
            run.best = values["valid/loss"]
            run.write(run_dir / BEST, run.step + 1)
    run.fabric.barrier()
    return values


def train_module(kind: type[ModuleRun], config: ModuleConfig, fresh: bool = False) -> Path:
    r"""Train a module, or go on with a run that was interrupted.

    Parameters
    ----------
    kind
        What is trained.
    config
        How.
    fresh
        True replaces an earlier run in ``out_dir``, which is gone once the new one has a
        checkpoint.

    Returns
    -------
    Path
        The run's folder: ``config.yml``, ``metrics.csv``, ``tensorboard/``, ``checkpoints/``,
        ``best.safetensors`` (best averaged weights by held-out loss) and, once the last step is
        done, ``final.safetensors``.

    Raises
    ------
    ValueError
        If the folder holds a run with another config or on other data, or something that is not a
        run.
    NonFiniteLoss
        If a loss becomes NaN or infinite; the last checkpoint stays.
    """
    fabric, run_dir = make_fabric(config), Path(config.out_dir)

    def finish(run: ModuleRun, folder: Path) -> None:
        run.write(folder / FINAL, run.step)

    work = Work(_module_step, _measure, finish, lambda run, batch: run.names(batch), kind.shown)
    with replacing(fabric, run_dir):
        _check_folder(config, run_dir, fresh)
        fabric.seed_everything(config.seed, verbose=False)
        run = kind(config, fabric)
        if fabric.is_global_zero:  # only now: a mistake must not cost an earlier run
            run_dir.mkdir(parents=True, exist_ok=True)
            set_aside(run_dir, RUN_FILES if fresh else ())
            checkpoints.sweep(run_dir)
            settings = run_dir / "config.yml"
            checkpoints.write_atomic(settings, lambda path: write_config(config, path))
        fabric.barrier()
        go_on(run, run_dir, StopRequest(config.time_limit_minutes), work)
    return run_dir


def _check_folder(config: ModuleConfig, run_dir: Path, fresh: bool) -> None:
    """Raise ValueError if the folder holds another run, or something that is not a run."""
    written = run_dir / "config.yml"
    check_init(getattr(config, "init_from", None), run_dir)
    if not written.exists():
        there = [path.name for path in run_dir.iterdir()] if run_dir.exists() else []
        known = (*RUN_FILES, ASIDE, MOVING)
        if foreign := [name for name in there if name not in known and name[:4] != "tmp_"]:
            raise ValueError(
                f"out_dir: {run_dir} holds {foreign[0]} but no run; choose another folder"
            )
    elif not fresh and checkpoints.latest_checkpoint(run_dir) is not None:
        before = module_config(type(config), None, read_mapping(written))
        if changed := differences(replace(before, out_dir=config.out_dir), config):
            lines = (f"{name} was {old!r} and is {new!r}" for name, (old, new) in changed.items())
            raise ValueError(
                f"out_dir: {run_dir} holds another run ({', '.join(lines)}); "
                "use --fresh to replace it, or another --out"
            )
