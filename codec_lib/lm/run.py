r"""Train the unified speech language model: state, step, validation, and the loop around them.

Loop, checkpoints and log are those of the codecs' training (``training/driving.py``), so a run
survives a kill at any moment and goes on to the same weights, on one device or several.

Notebook: 40. Leaves out: gradient accumulation. Read next: ``speaking.py``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from codec_lib import hub
from codec_lib.training import checkpoints
from codec_lib.training.averaging import AveragedWeights
from codec_lib.training.batches import training_and_held_out
from codec_lib.training.config import differences, write_config
from codec_lib.training.driving import StopRequest, Work, go_on
from codec_lib.training.launch import make_fabric
from codec_lib.training.logs import RunLog
from codec_lib.training.schedule import lr_fraction, set_lr
from codec_lib.training.stages import FINAL
from codec_lib.training.steps import check_finite, update

from .config import LanguageConfig, read_config
from .examples import Group, JoinedBatches, collate, joined, spoken_of
from .files import load_language_model, save_language_model
from .unified import Batch, build_unified

PROMPT_SECONDS = 3.0  # of an acoustic prompt at most, as published
_NAMES = ("train/loss", "train/ar", "train/nar_second", "train/nar_later")
_OWN = ("checkpoints", "tensorboard", "metrics.csv", "config.yml", "best.safetensors", FINAL)


class LanguageRun:
    r"""Build everything a run needs and hold its state.

    Parameters
    ----------
    config
        What to build.
    fabric
        Launched.

    Attributes
    ----------
    model, average
        The bare model and its averaged weights.
    step, best, validated
        Steps taken; smallest held-out loss so far; figures of the last validation.
    """

    def __init__(self, config: LanguageConfig, fabric: Fabric) -> None:
        self.config, self.fabric, self.step, self.best = config, fabric, 0, float("inf")
        self.validated: dict[str, float] = {}
        self._data: Iterator[list[Group]] | None = None
        torch.manual_seed(config.seed)
        self.model = build_unified(config.scale, **config.overrides)
        if config.init_from is not None:
            self.model.load_state_dict(load_language_model(config.init_from).state_dict())
        codec = hub.load(config.codec, device=fabric.device)
        self.frame_rate, self.codec_print = codec.frame_rate, codec.fingerprint
        count = self.model.config.num_quantizers
        with fabric.rank_zero_first():  # process 0 encodes what the others then read
            train, held_out = training_and_held_out(config, codec.sample_rate)
            self.spoken = spoken_of(train, codec, count)
            self.held_out = spoken_of(held_out[: 4 * config.valid_examples], codec, count)
        sizes = (config.batch_size, config.most_frames, config.most_joined, config.seed)
        self.batches = JoinedBatches(self.spoken, *sizes)
        optimizer = torch.optim.AdamW(
            self.model.parameters(),
            config.lr,
            config.betas,
            config.epsilon,
            config.weight_decay,
            fused=fabric.device.type == "cuda",
        )
        self.wrapped, self.optimizer = fabric.setup(self.model.train(), optimizer)
        self.average = AveragedWeights(self.model, config.average_decay)
        torch.manual_seed(config.seed + 1 + fabric.global_rank)  # dropout differs between ranks

    @property
    def audio_seconds(self) -> float:
        """Seconds of speech in a step of all processes, about."""
        mean = float(self.batches.frames.mean()) * (1 + self.config.most_joined) / 2
        return self.config.batch_size * min(mean, self.config.most_frames) / self.frame_rate

    def describe(self) -> str:
        """Return one line about the run for people."""
        config = self.config
        size = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        start = f"resumed at step {self.step}" if self.step else "from step 0"
        return (
            f"unified speech language model, {config.scale} ({size:.2f} M), codes of "
            f"{Path(config.codec).name}, {len(self.spoken)} utterances, {config.batch_size} "
            f"examples of at most {config.most_frames} frames, {self.fabric.world_size} x "
            f"{self.fabric.device.type}, {config.precision}; {start} of {config.steps}"
        )

    def open_data(self) -> None:
        """Open the data at the present step."""
        ranks = self.fabric.global_rank, self.fabric.world_size
        self._data = self.batches.from_step(self.step, *ranks)

    def next_batch(self) -> tuple[list[Group], Batch]:
        """Return this process's batch of the present step, on its device, and its utterances."""
        groups = next(self._data)
        batch = collate([joined(self.spoken, group) for group in groups])
        return groups, batch.to(self.fabric.device)

    def asked(self, batch: Batch) -> tuple[int, Tensor | None]:
        r"""Return the codebook of Eq. (10) of this step, and the prompts' frames (B,).

        The codebook is the same in all processes; both depend on seed and step alone.
        """
        rng = np.random.default_rng((self.config.seed, self.step))
        count = self.model.config.num_quantizers
        codebook = int(rng.integers(2, count)) if count > 2 else 1
        if self.model.config.as_published:
            return codebook, None
        size, rank = len(batch.text), self.fabric.global_rank
        drawn = rng.random(self.config.batch_size)[rank * size : (rank + 1) * size]
        share = torch.from_numpy(drawn).to(batch.code_lengths.device)
        most = (batch.code_lengths // 2).clamp_max(round(PROMPT_SECONDS * self.frame_rate))
        return codebook, (share * (most + 1)).long()

    def reduce(self, values: dict[str, Tensor], stop: bool) -> tuple[dict[str, float], bool]:
        """Average metrics over processes; tell whether any of them wants to stop."""
        packed = torch.stack([*values.values(), torch.tensor(float(stop)).to(self.fabric.device)])
        *means, wanted = self.fabric.all_reduce(packed.float(), reduce_op="mean").tolist()
        named = {f"train/{name}": mean for name, mean in zip(values, means, strict=True)}
        return {**named, "train/lr": self.optimizer.param_groups[0]["lr"]}, wanted > 0

    def alarms(self) -> list[str]:
        """Return nothing: there is no codebook here that could collapse."""
        return []

    def save(self, run_dir: Path) -> None:
        """Write a checkpoint; every process takes part."""
        best = None if self.best == float("inf") else self.best
        state = {"step": self.step, "best": best, "validated": self.validated}
        optimizers = {"optimizer": self.optimizer}
        checkpoints.save_all(self.fabric, run_dir, self._modules(), optimizers, {}, state)

    def restore(self, folder: Path) -> None:
        r"""Continue from a checkpoint, or raise ``CheckpointError``."""
        state = checkpoints.load_json(folder / "state.json")
        self.step, self.validated = state["step"], state["validated"]
        self.best = float("inf") if state["best"] is None else state["best"]
        checkpoints.restore_modules(folder, self._modules())
        checkpoints.load_optimizer(folder, "optimizer", self.optimizer)
        checkpoints.restore_random_state(folder, self.fabric.global_rank)

    def _modules(self) -> dict[str, torch.nn.Module]:
        return {"model": self.model, "average": self.average.module}


def train_language_model(config: LanguageConfig, fresh: bool = False) -> Path:
    r"""Train a unified speech language model, or go on with a run that was interrupted.

    Parameters
    ----------
    config
        What to do.
    fresh
        True deletes an earlier run in ``out_dir`` first.

    Returns
    -------
    Path
        The run's folder: ``config.yml``, ``metrics.csv``, ``tensorboard/``, ``checkpoints/``,
        ``best.safetensors`` (best averaged weights by held-out loss) and, once the last step is
        done, ``final.safetensors``; ``load_language_model`` reads both.

    Raises
    ------
    ValueError
        If the folder holds a run with another config, or something that is not a run.
    NonFiniteLoss
        If a loss becomes NaN or infinite; the last checkpoint stays.
    """
    fabric, run_dir = make_fabric(config), Path(config.out_dir)
    _check_folder(config, run_dir, fresh)
    fabric.seed_everything(config.seed, verbose=False)
    run = LanguageRun(config, fabric)
    if fabric.is_global_zero:  # only now: a mistake in the config must not cost an earlier run
        run_dir.mkdir(parents=True, exist_ok=True)
        for name in _OWN if fresh else ():
            path = run_dir / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        checkpoints.sweep(run_dir)
        checkpoints.write_atomic(run_dir / "config.yml", lambda path: write_config(config, path))
    fabric.barrier()
    go_on(run, run_dir, StopRequest(config.time_limit_minutes), LANGUAGE_WORK)
    return run_dir


def _check_folder(config: LanguageConfig, run_dir: Path, fresh: bool) -> None:
    """Raise ValueError if the folder holds another run, or something that is not a run."""
    written = run_dir / "config.yml"
    if not written.exists():
        there = [path.name for path in run_dir.iterdir()] if run_dir.exists() else []
        if foreign := [name for name in there if name not in _OWN and name[:4] != "tmp_"]:
            raise ValueError(
                f"out_dir: {run_dir} holds {foreign[0]} but no run; choose another folder"
            )
    elif not fresh and checkpoints.latest_checkpoint(run_dir) is not None:
        before = replace(read_config(written), out_dir=config.out_dir)
        if changed := differences(before, config):
            lines = (f"{name} was {old!r} and is {new!r}" for name, (old, new) in changed.items())
            raise ValueError(
                f"out_dir: {run_dir} holds another run ({', '.join(lines)}); "
                "use --fresh to replace it, or another --out"
            )


def _language_step(run: LanguageRun, given: tuple[list[Group], Batch]) -> dict[str, Tensor]:
    """Take one step."""
    config, (_, batch) = run.config, given
    fraction = lr_fraction(run.step, config.steps, config.warmup_steps, config.final_lr_fraction)
    set_lr(run.optimizer, config.lr * fraction)
    found = run.wrapped(batch, *run.asked(batch))
    check_finite(found)
    run.fabric.backward(found["loss"])
    norm = update(run.fabric, run.wrapped, run.optimizer, config.clip_norm)
    run.average.update(run.model, run.step)
    return {**{name: value.detach() for name, value in found.items()}, "grad_norm": norm}


@torch.no_grad()
def _measure(run: LanguageRun, run_dir: Path, log: RunLog | None) -> dict[str, float]:
    """Measure the averaged weights on process 0; keep them if they are the best so far."""
    values: dict[str, float] = {}
    if run.fabric.is_global_zero:
        model, size = run.average.module, run.config.valid_examples
        batch = collate([joined(run.held_out, (n,)) for n in range(len(run.held_out))[:size]])
        last = model.config.num_quantizers - 1
        found = model(batch.to(run.fabric.device), last)
        values = {f"valid/{name}": float(value) for name, value in found.items()}
        run.validated = values
        if values["valid/loss"] < run.best:
            run.best = values["valid/loss"]
            _save_weights(run, run_dir / "best.safetensors", run.step + 1)
    run.fabric.barrier()
    return values


def _write_final(run: LanguageRun, run_dir: Path) -> None:
    """Write the weights of the last step."""
    _save_weights(run, run_dir / FINAL, run.step)


def _save_weights(run: LanguageRun, path: Path, steps: int) -> None:
    """Write the averaged weights."""
    card = {"steps": steps, "corpus": run.config.corpus, "codec": Path(run.config.codec).name}
    card |= {"codec_fingerprint": run.codec_print, **run.validated}
    save_language_model(run.average.module, path, card, half=False)


def _utterances(run: LanguageRun, given: tuple[list[Group], Batch]) -> list[str]:
    """Name the utterances of a batch."""
    return [run.spoken[number].utterance_id for group in given[0] for number in group]


LANGUAGE_WORK = Work(_language_step, _measure, _write_final, _utterances, _NAMES)
