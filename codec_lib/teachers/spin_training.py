r"""Train Spin: pairs of crops in two voices, one optimiser step after the other.

Every crop is cut at the same place from a corpus and from a copy of it in other voices. Recipe of
the official code [Chang et al. 2023, Spin] in ``PAPER``, one for a small teacher on a CPU in
``SMALL``. A run is a function of its arguments: crops, voices and dropout depend on seed and step
alone, so a stopped run goes on to the same weights. Where torch.distributed is initialised,
processes share the pairs of a step, balance codes over all of them and add up their gradients.

Notebook: 21. Leaves out: half precision. Read next: ``iterations.py``, whose next stage may take
``spin_targets``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from codec_lib import audio
from codec_lib.data import Corpus, CropDataset, batches
from codec_lib.quantizers.ranks import is_distributed, sum_over_ranks

from .features import loaded, long_features, spread
from .frontend import HOP, SAMPLE_RATE, frame_count
from .runs import resume_run, run_source, save_run, scheduled_rate
from .spin import Spin, swapped_prediction_loss


@dataclass(frozen=True)
class SpinConfig:
    r"""How to train. JSON-able.

    Attributes
    ----------
    steps, pairs, num_samples
        Optimiser steps; pairs of crops in each, over all processes; samples of a crop, a multiple
        of 320.
    learning_rate, warmup, weight_decay, grad_clip
        Adam: peak rate, share of the steps in which it rises (it then falls to 0, both linearly).
    temperature, epsilon, iterations
        See ``swapped_prediction_loss``.
    auxiliary_weight
        Of the second head's loss. DC-Spin prints none.
    seed
        Of everything random.
    save_every, log_every
        Steps between checkpoints and between lines of the log.
    """

    steps: int = 600
    pairs: int = 16
    num_samples: int = 2 * SAMPLE_RATE
    learning_rate: float = 2e-3
    warmup: float = 0.2
    weight_decay: float = 1e-6
    grad_clip: float = 10.0
    temperature: float = 0.1
    epsilon: float = 0.02
    iterations: int = 3
    auxiliary_weight: float = 1.0
    seed: int = 0
    save_every: int = 100
    log_every: int = 20


# A higher rate and a shorter rise than the official ones: so few steps need both.
SMALL = SpinConfig()
# Official: 17 s at most and 256 s a step however many utterances that is; those below 2.5 s are
# dropped, here they are padded; its rate starts and ends at 1e-6, here at 0.
_LONG = 16 * SAMPLE_RATE  # by 16 pairs: 256 s a step
PAPER = SpinConfig(steps=5000, num_samples=_LONG, learning_rate=1e-4, warmup=0.5)


def train_spin(
    spin: Spin,
    corpus: Corpus,
    views: Sequence[Corpus],
    config: SpinConfig | None = None,
    checkpoint: str | Path | None = None,
    log: Callable[[str], None] | None = None,
) -> list[dict[str, float]]:
    r"""Train heads and top layers, in place, to name the same codes in two voices.

    Parameters
    ----------
    spin
        Trained in place, on its device; left in eval mode, its features' statistics measured anew.
    corpus
        At 16 kHz; decoded into memory once (115 MB an hour), as is each view.
    views
        Copies of the corpus in other voices (``perturbed_copies``); a pair takes one at random.
    config
        How to train.
    checkpoint
        File to save to and, where it exists, to go on from.
    log
        Called with a line of text every ``log_every`` steps, e.g. ``print``.

    Returns
    -------
    list[dict[str, float]]
        At every ``log_every``-th step since the start or the checkpoint: ``step``, ``loss``,
        ``learning_rate``, and by head ``primary_loss``, ``_agreement``, ``_perplexity``.

    Raises
    ------
    ValueError
        If a size does not fit, or the checkpoint is of another run.
    """
    config = config or SpinConfig()
    _check_pairs(corpus, views, config)
    rank, world = (dist.get_rank(), dist.get_world_size()) if is_distributed() else (0, 1)
    dataset = _pairs(corpus, views, config)
    decay = config.weight_decay
    optimizer = torch.optim.Adam(spin.release(), config.learning_rate, weight_decay=decay)
    source, history = run_source(spin, corpus, *views), []
    start, began = resume_run(spin, optimizer, config, checkpoint, source), time.monotonic()
    spin.train()
    for step, indices in enumerate(batches(config.pairs, start, world, rank), start):
        if step >= config.steps:
            break
        items = [_pair(dataset, index, len(views), config.seed) for index in indices]
        row = _spin_step(spin, optimizer, items, step, config)
        last = step + 1 == config.steps
        if last or (step + 1) % config.log_every == 0:
            history.append(row)
            if log is not None:
                log(_spin_line(row, (time.monotonic() - began) / (step + 1 - start), config.steps))
        if checkpoint is not None and rank == 0 and (last or (step + 1) % config.save_every == 0):
            save_run(spin, optimizer, config, step + 1, checkpoint, source)
    device = next(spin.eval().parameters()).device
    spin.set_statistics(wav.to(device) for wav in spread(corpus))
    return history


def _pairs(corpus: Corpus, views: Sequence[Corpus], config: SpinConfig) -> CropDataset:
    """Cut crops; all views come with them as features: a frame is 320 samples of each."""
    stored = [_framed(corpus, views, index) for index in range(len(corpus))]
    return CropDataset(
        corpus, config.num_samples, config.seed, features=stored.__getitem__, hop_length=HOP,
        cache=True,
    )  # fmt: skip


def _framed(corpus: Corpus, views: Sequence[Corpus], index: int) -> Tensor:
    """Decode all views of an utterance: (F, views * 320) int16; (0, ...) for a bad file."""
    length = corpus.length(index)
    try:
        wavs = [audio.pad_or_crop(view.load(index), length) for view in views if length]
    except audio.AudioError:
        if loaded(corpus, index) is not None:
            raise  # the copy is bad, the recording is not
        length, wavs = 0, []
    if not length:
        return torch.zeros(0, len(views) * HOP, dtype=torch.int16)
    padded = [audio.pad_or_crop(wav, frame_count(length) * HOP) for wav in wavs]
    samples = [torch.from_numpy(audio.to_int16(wav, over="limit")) for wav in padded]
    return torch.cat([one.view(-1, HOP) for one in samples], 1)


def _pair(dataset: CropDataset, index: int, copies: int, seed: int) -> tuple[Tensor, Tensor, int]:
    """Return a crop (1, T), the same crop in another voice, and the samples that are no padding."""
    item = dataset[index]
    copy = int(np.random.default_rng((seed, index)).integers(copies))
    other = item["features"].view(-1, copies, HOP)[:, copy].reshape(1, -1) / 32768  # (1, T)
    length = item["wav"].shape[-1]
    return item["wav"], audio.pad_or_crop(other[:, : item["num_valid"]], length), item["num_valid"]


def _spin_step(
    spin: Spin,
    optimizer: torch.optim.Optimizer,
    items: list[tuple[Tensor, Tensor, int]],
    step: int,
    config: SpinConfig,
) -> dict[str, float]:
    """Take one optimiser step; every random choice depends on seed, step and process alone."""
    device = next(spin.parameters()).device
    one, two, lengths = zip(*items, strict=True)
    wav = torch.stack([*one, *two]).to(device)  # (2 B, 1, T): both voices in one pass
    frames = torch.tensor([frame_count(length) for length in lengths], device=device)
    rank = dist.get_rank() if is_distributed() else 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(1000 * (config.seed * 1_000_003 + step) + rank)  # of dropout
        scores = spin(wav, frames.repeat(2))
    rate = scheduled_rate(step, config)
    for group in optimizer.param_groups:
        group["lr"] = rate
    row = _spin_update(spin, optimizer, scores, frames, config)
    return {"step": step + 1, **row, "learning_rate": rate}


def _spin_update(
    spin: Spin,
    optimizer: torch.optim.Optimizer,
    scores: dict[str, Tensor],
    frames: Tensor,
    config: SpinConfig,
) -> dict[str, float]:
    """Turn cosines of both voices, (2 B, F, K) by head, into losses, gradients and an update."""
    count = next(iter(scores.values())).shape[1]
    valid = (torch.arange(count, device=frames.device) < frames[:, None]).flatten()  # (B F,)
    total, row = 0.0, {}
    for name, score in scores.items():
        one, two = score.unflatten(0, (2, -1)).flatten(1, 2)  # (B F, K) each
        recipe = config.temperature, config.epsilon, config.iterations
        losses = swapped_prediction_loss(one, two, valid, *recipe)
        total = total + (1.0 if name == "primary" else config.auxiliary_weight) * losses["loss"]
        losses["loss"] = sum_over_ranks(losses["loss"].detach().clone())
        row |= {f"{name}_{key}": float(value) for key, value in losses.items()}
    total.backward()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for weight in weights:
        sum_over_ranks(weight.grad)  # each loss is a share of the joint one, so sums, not means
    torch.nn.utils.clip_grad_norm_(weights, config.grad_clip)
    optimizer.step()
    spin.normalize_codes()  # as in the official code: every step, before gradients are cleared
    optimizer.zero_grad(set_to_none=True)
    return {"loss": float(sum_over_ranks(total.detach().clone())), **row}


def _spin_line(row: dict[str, float], pace: float, steps: int) -> str:
    """Write one line of the log."""
    heads = "  ".join(
        f"{key.removesuffix('_loss')} {row[key]:.3f} (agreement "
        f"{row[key.replace('loss', 'agreement')]:.3f}, perplexity "
        f"{row[key.replace('loss', 'perplexity')]:.0f})"
        for key in row
        if key.endswith("_loss")
    )
    left = pace * (steps - row["step"]) / 60
    return f"step {row['step']:5d}/{steps}  {heads}  {pace:.2f} s/step  {left:.1f} min left"


def _check_pairs(corpus: Corpus, views: Sequence[Corpus], config: SpinConfig) -> None:
    """Raise ValueError where the parts of a run do not fit."""
    if corpus.sample_rate != SAMPLE_RATE:
        raise ValueError(f"{corpus.name}: got {corpus.sample_rate} Hz, expected {SAMPLE_RATE} Hz")
    if not views or any(len(view) != len(corpus) for view in views):
        raise ValueError(
            f"views: got {[len(view) for view in views]} utterances, expected at least one view of "
            f"{len(corpus)}; hint: perturbed_copies(corpus)[0]"
        )
    for index in range(len(corpus)):
        lengths = {view.length(index) for view in views} | {corpus.length(index)}
        if len(lengths) > 1:
            raise ValueError(
                f"views: got lengths {sorted(lengths)} of {corpus[index].utterance_id}, expected "
                "all views to be as long as the recording"
            )
    if config.num_samples % HOP or min(config.steps, config.pairs, config.num_samples) < 1:
        raise ValueError(
            f"config: got steps={config.steps}, pairs={config.pairs}, "
            f"num_samples={config.num_samples}; expected at least 1, samples a multiple of {HOP}"
        )


def spin_targets(spin: Spin, corpus: Corpus, head: str = "primary") -> list[Tensor]:
    r"""Name the unit of every frame: targets for pre-training the next teacher (SpinHuBERT).

    Parameters
    ----------
    spin
        Put in eval mode.
    corpus
        At 16 kHz.
    head
        ``"primary"`` or ``"auxiliary"``.

    Returns
    -------
    list[Tensor]
        One tensor (F,) int16 per utterance, as ``iterations.unit_targets`` gives them; (0,) for a
        bad file, which the corpus has reported. Recordings above 30 s are heard in pieces.
    """
    spin.eval()
    device = next(spin.parameters()).device
    named = SimpleNamespace(
        hop_length=spin.hop_length, features=lambda wav, _: spin.units(wav.to(device), head).cpu()
    )
    units = []
    for index in range(len(corpus)):
        wav = loaded(corpus, index)
        found = torch.zeros(0) if wav is None else long_features(named, wav[None])
        units.append(found.to(torch.int16))
    return units
