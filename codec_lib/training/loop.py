r"""The training loop: build, resume, step, log, validate, save.

``train(config)`` is the whole of it. Lightning Fabric decides devices, precision and processes, so
the same loop runs on a laptop, one GPU or several machines. A run lives in one folder; calling
``train`` again with the same config and folder goes on where its last checkpoint stands. A run in
stages is as many runs in folders of their own, one after the other.

Notebook 06 trains with it. Left out: gradient accumulation, sharded models.

Read next: ``docs/training.md``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

import codec_lib
from codec_lib import hub
from codec_lib.codecs.base import Codec
from codec_lib.training import checkpoints
from codec_lib.training.batches import training_and_held_out, whole_frames
from codec_lib.training.config import (
    TrainConfig,
    differences,
    load_config,
    read_mapping,
    write_config,
)
from codec_lib.training.driving import StopRequest, Work, go_on
from codec_lib.training.freezing import hold_still
from codec_lib.training.launch import make_fabric
from codec_lib.training.logs import RunLog
from codec_lib.training.rates import make_manager
from codec_lib.training.replacing import ASIDE, MOVING, RUN_FILES, check_init, replacing, set_aside
from codec_lib.training.run import (
    Run,
    fitting_weights,
    make_critics,
    make_objective,
    stored_codec,
)
from codec_lib.training.schedule import lr_fraction, set_lr
from codec_lib.training.stages import FINAL, stage_folder, stage_runs
from codec_lib.training.steps import (
    codec_forward,
    discriminator_step,
    generator_step,
)
from codec_lib.training.teaching import PROJECTIONS, check_projections
from codec_lib.training.validation import validate

SHOWN = ("train/loss", "train/recon_loss/mel", "train/distill_loss", "train/disc_loss")
OWN = (*RUN_FILES, ASIDE, MOVING)


def train(config: TrainConfig, fresh: bool = False) -> Path:
    r"""Train a codec, or go on with a run that was interrupted.

    Parameters
    ----------
    config
        What to do; see ``TrainConfig``.
    fresh
        True replaces an earlier run in ``out_dir``, which is gone once the new one has a
        checkpoint.

    Returns
    -------
    Path
        The run's folder: ``config.yml``, ``metrics.csv``, ``tensorboard/``, ``checkpoints/``,
        ``best.safetensors`` (best averaged weights by held-out mel distance) and, once the last
        step is done, ``final.safetensors``; ``codec_lib.load`` reads both. With stages it holds
        ``config.yml`` and such a folder for each stage.

    Raises
    ------
    ValueError
        If the folder holds a run with another config, or something that is not a run.
    NonFiniteLoss
        If a loss becomes NaN or infinite; the last checkpoint stays.
    FrozenPartChanged
        If a part named in ``freeze`` is not what it was; nothing is written.

    Examples
    --------
    >>> train(load_config("smoke", changes={"steps": 2}))  # doctest: +SKIP
    PosixPath('runs/smoke')
    """
    fabric, run_dir = make_fabric(config), Path(config.out_dir)
    with replacing(fabric, run_dir):
        check_folder(config, run_dir, fresh)
        runs = stage_runs(config)
        _check_runs(runs, fabric, fresh)
        if config.stages:
            runs = tuple(one for one in runs if fresh or not is_finished(one))
        stop = StopRequest(config.time_limit_minutes)
        for one in runs:
            _train_stage(config, one, fabric, stop, fresh)
            fresh = False
            fabric.barrier()  # the next stage reads what process 0 has written
            if stop.agreed:
                break
    return run_dir


def _train_stage(
    config: TrainConfig, one: TrainConfig, fabric: Fabric, stop: StopRequest, fresh: bool
) -> None:
    """Take an ordinary run, or one stage of a config, to its end or to where it is to stop."""
    fabric.seed_everything(one.seed, verbose=False)
    run = Run(one, fabric)
    if fabric.is_global_zero:  # only now: a mistake in the config must not cost an earlier run
        _open_folder(config, Path(config.out_dir), fresh)
        if config.stages:
            _open_folder(one, Path(one.out_dir))
            print(f"stage {Path(one.out_dir).name} of {len(config.stages)}", flush=True)
    fabric.barrier()
    go_on(run, Path(one.out_dir), stop, CODEC_WORK)


def is_finished(config: TrainConfig) -> bool:
    """Return whether an ordinary run has taken its last step and written its weights."""
    last, written = checkpoints.latest_checkpoint(config.out_dir), Path(config.out_dir) / FINAL
    if not written.exists() or last is None or checkpoints.step_of(last) < config.steps:
        return False
    card = hub.read_tensors(written)[0].get("card", {})  # not of a shorter run that was extended
    return card.get("steps", config.steps) >= config.steps


def _check_runs(runs: tuple[TrainConfig, ...], fabric: Fabric, fresh: bool) -> None:
    """Raise ValueError for what would else show after a teacher's hours, or a stage's days."""
    before = None
    for index, one in enumerate(runs):
        codec = _check_parts(one, fabric.world_size)
        if before is not None:
            fitting_weights(before, codec, one.init_from, one.freeze)
        elif one.init_from and (fresh or not is_finished(one)):
            kept = [name for name in one.freeze if name.partition(".")[0] not in PROJECTIONS]
            fitting_weights(stored_codec(one.init_from), codec, one.init_from, kept)
        if (one.corpus, one.valid_corpus) != (runs[0].corpus, runs[0].valid_corpus):
            with fabric.rank_zero_first():
                training_and_held_out(one, codec.sample_rate)
        before = codec
        begun = [later.out_dir for later in runs[index + 1 :] if _has_begun(later.out_dir)]
        if begun and not fresh and not is_finished(one):
            raise ValueError(
                f"out_dir: {begun[0]} started from {one.out_dir}, which has not taken its "
                f"{one.steps} steps; use --fresh to replace both, or another --out"
            )


def _check_parts(one: TrainConfig, world_size: int) -> Codec:
    """Build an ordinary run's parts, most without memory, and return its codec without weights."""
    for name in ("batch_size", "critic_batch_size"):
        if getattr(one, name) % world_size:
            raise ValueError(
                f"{name}: got {getattr(one, name)} for {world_size} processes, expected a multiple"
            )
    with torch.device("meta"):
        codec = codec_lib.build(one.codec, one.scale, **one.overrides)
        if one.critics:
            make_critics(one, codec.sample_rate)
    make_manager(one, codec)
    heads = {name for name in PROJECTIONS if getattr(codec, name, "") is None}  # a teacher adds
    hold_still(codec, [name for name in one.freeze if name.partition(".")[0] not in heads])
    samples = whole_frames(one.segment_seconds, codec.sample_rate, codec.hop_length)
    silence = torch.zeros(1, 1, samples)
    make_objective(one, codec.sample_rate).mel_loss(silence, silence)
    check_projections(one, codec)
    return codec


def _has_begun(folder: str | Path) -> bool:
    """Return whether a folder holds what a run has learnt."""
    weights = (Path(folder) / name for name in ("best.safetensors", FINAL))
    return checkpoints.latest_checkpoint(folder) is not None or any(p.exists() for p in weights)


def check_folder(config: TrainConfig, run_dir: Path, fresh: bool = False) -> None:
    r"""Raise ValueError if the folder holds another run, or something that is not a run.

    Parameters
    ----------
    config
        The run to be started or continued.
    run_dir
        Its folder; it need not exist.
    fresh
        True accepts any run, which will be replaced.
    """
    written = run_dir / "config.yml"
    check_init(config.init_from, run_dir)
    if not written.exists():
        there = [path.name for path in run_dir.iterdir()] if run_dir.exists() else []
        foreign = [name for name in there if name not in OWN and name[:4] != "tmp_"]
        if foreign:
            raise ValueError(
                f"out_dir: {run_dir} holds {foreign[0]} but no run; choose another folder"
            )
        return
    if fresh:
        return
    before = replace(load_config(None, written), out_dir=config.out_dir)  # it may have been moved
    now = {one.out_dir: one for one in stage_runs(config)}
    for one in stage_runs(before):
        if not _has_begun(one.out_dir):
            continue
        changed = {"stages": (_names(before), _names(config))}
        if one.out_dir in now:
            changed = differences(one, now[one.out_dir])
        if changed:
            lines = (f"{name} was {old!r} and is {new!r}" for name, (old, new) in changed.items())
            raise ValueError(
                f"out_dir: {one.out_dir} holds another run ({', '.join(lines)}); "
                "use --fresh to replace it, or another --out"
            )


def _names(config: TrainConfig) -> list[str]:
    return [stage["name"] for stage in config.stages]


def _open_folder(config: TrainConfig, run_dir: Path, fresh: bool = False) -> None:
    """Make the run's folder, an earlier run set aside if ``fresh``, and write its config."""
    run_dir.mkdir(parents=True, exist_ok=True)
    written = run_dir / "config.yml"
    stages = read_mapping(written).get("stages") or () if fresh and written.exists() else ()
    names = [stage_folder(index, stage) for index, stage in enumerate(stages)]
    if fresh:
        set_aside(run_dir, (*names, *RUN_FILES))
    checkpoints.sweep(run_dir)
    checkpoints.write_atomic(written, lambda path: write_config(config, path))


def train_step(run: Run, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    r"""Take one step: codec forward, critics' update, codec's update, averaged weights.

    Parameters
    ----------
    run
        Networks and step; ``run.step`` is the step to take.
    batch
        This process's ``wav`` (B, 1, T) and, with a teacher, ``features`` (B, F, D).

    Returns
    -------
    dict
        Metrics by name, scalars of this process.
    """
    config, networks, fabric = run.config, run.networks, run.fabric
    fraction = lr_fraction(run.step, config.steps, config.warmup_steps, config.final_lr_fraction)
    set_lr(networks.codec_optimizer, config.lr * fraction)
    wav = batch["wav"]
    output = codec_forward(networks, wav, run.segment())
    is_adversarial = networks.critics is not None and run.step >= config.critic_start
    values: dict[str, Tensor] = {}
    if is_adversarial:
        set_lr(networks.critic_optimizer, config.critic_lr * fraction)
        values |= discriminator_step(fabric, networks, wav, output.wav)
    values |= generator_step(
        fabric, networks, wav, output, run.teaching.targets(batch), is_adversarial
    )
    run.average.update(run.codec, run.step)
    run.count_codes(output.codes)
    return values


def _validate(run: Run, run_dir: Path, log: RunLog | None) -> dict[str, float]:
    """Measure the averaged weights on process 0; keep them if they are the best so far."""
    values: dict[str, float] = {}
    if run.fabric.is_global_zero:
        codec, config = run.average.module, run.config
        values, made = validate(codec, run.crops)
        run.validated = values
        if values["valid/mel_distance"] < run.best:
            run.best = values["valid/mel_distance"]
            save_weights(run, run_dir / "best.safetensors", run.step + 1, values)
        first = run.step + 1 == config.valid_every
        if log is not None and (first or (run.step + 1) % config.audio_every == 0):
            for index in range(min(4, len(made))):
                log.audio(run.step, f"audio/{index}", made[index], codec.sample_rate)
                if first:
                    wav = run.crops[index].cpu()
                    log.audio(run.step, f"reference/{index}", wav, codec.sample_rate)
    run.fabric.barrier()
    return values


def save_weights(run: Run, path: Path, steps: int, metrics: dict[str, float]) -> None:
    r"""Write the averaged weights as a file that ``codec_lib.load`` reads.

    Parameters
    ----------
    run
        Gives weights and what is known about them.
    path
        The file.
    steps
        Steps that were taken.
    metrics
        Held-out metrics, for the card.
    """
    card = {"steps": steps, "corpus": run.config.corpus, "recipe": run.config.recipe}
    card |= metrics
    # with the statistics of the codebooks, which a stage that trains them goes on from
    hub.save_codec(run.average.module, path, half=False, metadata=card, statistics=True)


def _batch_names(run: Run, batch: dict[str, Tensor]) -> list[str]:
    """Name the utterances of a batch."""
    return [run.corpus[index].utterance_id for index in batch["index"].tolist()]


def _finish(run: Run, run_dir: Path) -> None:
    """Write the weights of the last step."""
    run.check_frozen()
    save_weights(run, run_dir / FINAL, run.step, run.validated)


CODEC_WORK = Work(train_step, _validate, _finish, _batch_names, SHOWN)
