r"""Pre-train a HuBERT, small or of the published size, by masked prediction of given units.

[Hsu et al. 2021, HuBERT], §III. What a small budget needs is kept apart as arguments: the weight of
heard frames, shorter spans, and a warped frequency axis on the input only, so that speakers of all
sizes have to be mapped to the same units.

A run is a function of its arguments: crops, masks and dropout depend on seed and step alone, so a
run that was stopped goes on to the same weights. Used by notebook 20. Leaves out: several devices.
Read next: ``iterations.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from codec_lib.data import Corpus, CropDataset, batches

from .base_hubert import BaseHubert
from .frontend import HOP, SAMPLE_RATE, frame_count
from .hubert import SmallHubert, masked_prediction_loss, span_mask
from .runs import make_optimizer, resume_run, run_source, save_run, scheduled_rate

Trained = SmallHubert | BaseHubert
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class PretrainConfig:
    r"""How to train. JSON-able.

    Attributes
    ----------
    steps, batch_size, num_samples
        Optimiser steps; crops in each; samples of a crop, a multiple of 320.
    learning_rate, warmup, weight_decay, grad_clip
        AdamW: peak rate, share of the steps in which it rises (it then falls to 0, both linearly).
    mask_start, mask_length
        See ``span_mask``; 0.08 and 10 as published.
    unmasked_weight
        See ``masked_prediction_loss``; 0 as published.
    warp
        Frequency axis of the input stretched by up to this share, either way.
    precision
        ``"float32"``, or ``"bfloat16"`` for autocast (weights and moments stay float32).
    num_parts
        Parts into which a batch is cut to fit into memory; their losses are averaged, so masked
        frames of smaller parts weigh a little more.
    seed
        Of everything random.
    save_every, log_every
        Steps between checkpoints and between lines of the log.
    """

    steps: int = 1500
    batch_size: int = 16
    num_samples: int = 2 * SAMPLE_RATE
    learning_rate: float = 1e-3
    warmup: float = 0.08
    weight_decay: float = 0.01
    grad_clip: float = 5.0
    mask_start: float = 0.12
    mask_length: int = 6
    unmasked_weight: float = 0.5
    warp: float = 0.12
    precision: str = "float32"
    num_parts: int = 1
    seed: int = 0
    save_every: int = 250
    log_every: int = 50


def pretrain(
    teacher: Trained,
    corpus: Corpus,
    units: Sequence[Tensor],
    config: PretrainConfig | None = None,
    checkpoint: str | Path | None = None,
    log: Callable[[str], None] | None = None,
) -> list[dict[str, float]]:
    r"""Train a teacher, in place, to name the units of the frames it does not hear.

    Parameters
    ----------
    teacher
        Trained in place, on its device; left in eval mode.
    corpus
        At 16 kHz; decoded into memory once (115 MB an hour).
    units
        Targets (F,) of every utterance.
    config
        How to train.
    checkpoint
        File to save to and, where it exists, to go on from.
    log
        Called with a line of text every ``log_every`` steps, e.g. ``print``.

    Returns
    -------
    list[dict[str, float]]
        ``step``, ``loss``, ``masked_loss``, ``unmasked_loss``, ``masked_accuracy``,
        ``learning_rate``, at every ``log_every``-th step since the start or the checkpoint.

    Raises
    ------
    ValueError
        If a size does not fit, or the checkpoint is of another run.
    """
    config = config or PretrainConfig()
    _check(teacher, corpus, units, config)
    dataset = _crops(corpus, units, config)
    optimizer = make_optimizer(teacher, config)
    source = run_source(teacher, corpus, units)
    start = resume_run(teacher, optimizer, config, checkpoint, source)
    history, began = [], time.monotonic()
    teacher.train()
    for step, indices in enumerate(batches(config.batch_size, start), start):
        if step >= config.steps:
            break
        row = _step(teacher, optimizer, [dataset[index] for index in indices], step, config)
        last = step + 1 == config.steps
        if last or (step + 1) % config.log_every == 0:
            history.append(row)
            if log is not None:
                pace = (time.monotonic() - began) / (step + 1 - start)
                log(_line(row, pace, config.steps))
        if checkpoint is not None and (last or (step + 1) % config.save_every == 0):
            save_run(teacher, optimizer, config, step + 1, checkpoint, source)
    teacher.eval()
    return history


def _crops(corpus: Corpus, units: Sequence[Tensor], config: PretrainConfig) -> CropDataset:
    """Cut crops with the units of their frames, (F, 1), as features."""
    return CropDataset(
        corpus,
        config.num_samples,
        config.seed,
        features=lambda index: units[index][:, None],
        hop_length=HOP,
        cache=True,
    )


def _step(
    teacher: Trained,
    optimizer: torch.optim.Optimizer,
    items: list[dict],
    step: int,
    config: PretrainConfig,
) -> dict[str, float]:
    """Take one optimiser step; every random choice depends on seed and step alone."""
    device = next(teacher.parameters()).device
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    shape = (len(items), items[0]["features"].shape[0])
    mask = span_mask(*shape, config.mask_start, config.mask_length, generator)
    warp = 1 + config.warp * (2 * torch.rand(shape[0], generator=generator) - 1)
    rate = scheduled_rate(step, config)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    measured: dict[str, float] = {}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed * 1_000_003 + step)  # dropout
        for part in torch.arange(len(items)).chunk(config.num_parts):
            losses = _losses(
                teacher, [items[index] for index in part], mask[part], warp[part], config
            )
            (losses["loss"] * (len(part) / len(items))).backward()
            for name, value in losses.items():
                share = float(value.detach()) * len(part) / len(items)
                measured[name] = measured.get(name, 0.0) + share
    torch.nn.utils.clip_grad_norm_(teacher.parameters(), config.grad_clip)
    optimizer.step()
    return {"step": step + 1, **measured, "learning_rate": rate}


def _losses(
    teacher: Trained, items: list[dict], mask: Tensor, warp: Tensor, config: PretrainConfig
) -> dict[str, Tensor]:
    """Return the losses of some crops, ``loss`` with gradient."""
    device = next(teacher.parameters()).device
    wav = torch.stack([item["wav"] for item in items]).to(device)  # (B, 1, T)
    units = torch.stack([item["features"][:, 0] for item in items]).long().to(device)  # (B, F)
    frames = torch.tensor([frame_count(item["num_valid"]) for item in items], device=device)
    mask, factors = mask.to(device), warp.to(device) if config.warp else None
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        states, besides = teacher.training_states(wav, mask, frames, factors)
        logits = teacher.logits(states[-1])
    valid = torch.arange(units.shape[1], device=device) < frames[:, None]
    losses = masked_prediction_loss(logits.float(), units, mask, valid, config.unmasked_weight)
    return {**losses, "loss": losses["loss"] + besides}


def _line(row: dict[str, float], pace: float, steps: int) -> str:
    """Write one line of the log."""
    left = pace * (steps - row["step"]) / 60
    return (
        f"step {row['step']:5d}/{steps}  loss {row['loss']:.3f}  masked {row['masked_loss']:.3f} "
        f"(accuracy {row['masked_accuracy']:.3f})  heard {row['unmasked_loss']:.3f}  "
        f"{pace:.2f} s/step  {left:.1f} min left"
    )


def _check(
    teacher: Trained, corpus: Corpus, units: Sequence[Tensor], config: PretrainConfig
) -> None:
    """Raise ValueError where the parts of a run do not fit."""
    if corpus.sample_rate != SAMPLE_RATE:
        raise ValueError(f"{corpus.name}: got {corpus.sample_rate} Hz, expected {SAMPLE_RATE} Hz")
    if len(units) != len(corpus):
        raise ValueError(f"units: got {len(units)} utterances, expected {len(corpus)}")
    top = max((int(one.max()) for one in units if len(one)), default=0)
    if top >= teacher.config.num_units:
        raise ValueError(f"units: got number {top}, expected below {teacher.config.num_units}")
    if config.warp and isinstance(teacher, BaseHubert):
        raise ValueError(
            f"config: got warp={config.warp}, expected 0: this network hears waveforms, and only "
            "log-mel frames can be warped"
        )
    if config.precision not in PRECISIONS or not 1 <= config.num_parts <= config.batch_size:
        raise ValueError(
            f"config: got precision={config.precision!r}, num_parts={config.num_parts}; "
            f"expected one of {PRECISIONS}, 1 to {config.batch_size} parts"
        )
    if config.num_samples % HOP or min(config.steps, config.batch_size, config.num_samples) < 1:
        raise ValueError(
            f"config: got steps={config.steps}, batch_size={config.batch_size}, "
            f"num_samples={config.num_samples}; expected at least 1, samples a multiple of {HOP}"
        )
