r"""Train a recogniser by CTC on whole utterances.

Utterances of like length make a batch; those that are too long to hear, too short for CTC or not to
be spelt are left out and counted. On a CPU a run is a function of its arguments: batches, masks and
dropout depend on seed and step alone, so a run that was stopped goes on to the same weights. On
CUDA the same holds for what is drawn, but not for the last bits of CTC's gradient, which torch adds
up in no fixed order there.

[Graves et al. 2006, CTC]; hidden spans and the schedule [Hsu et al. 2021, HuBERT], §IV-C. Used by
notebook 21. Leaves out: several devices, freezing the encoder for the first steps.
Read next: ``alignment.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from codec_lib.data import Corpus
from codec_lib.data.segments import length_batches
from codec_lib.losses.ctc import ctc_loss, frames_needed

from .ctc import CtcRecogniser
from .features import loaded
from .frontend import HOP, SAMPLE_RATE, frame_count
from .hubert import SmallHubert, span_mask
from .pretrained import PretrainedTeacher
from .runs import make_optimizer, resume_run, run_source, save_run, scheduled_rate


@dataclass(frozen=True)
class CtcConfig:
    r"""How to train. JSON-able.

    Attributes
    ----------
    steps, batch_size
        Optimiser steps; utterances in each.
    max_seconds
        Longer utterances are left out.
    learning_rate, warmup, weight_decay, grad_clip
        As in ``PretrainConfig``.
    mask_start, mask_length
        Spans of frames hidden from the teacher, see ``span_mask``; only where it can.
    warp
        Frequency axis of the input stretched by up to this share; only of a ``SmallHubert``.
    seed
        Of everything random.
    save_every, log_every
        Steps between checkpoints and between lines of the log.
    """

    steps: int = 1500
    batch_size: int = 16
    max_seconds: float = 20.0
    learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    grad_clip: float = 5.0
    mask_start: float = 0.03
    mask_length: int = 6
    warp: float = 0.12
    seed: int = 0
    save_every: int = 250
    log_every: int = 50


def train_ctc(
    recogniser: CtcRecogniser,
    corpus: Corpus,
    config: CtcConfig | None = None,
    checkpoint: str | Path | None = None,
    log: Callable[[str], None] | None = None,
) -> list[dict[str, float]]:
    r"""Train a recogniser and the chosen part of its teacher, in place.

    Parameters
    ----------
    recogniser
        Trained on its device; left in eval mode, with the statistics of its teacher's features
        measured anew.
    corpus
        At 16 kHz, aligned or with text. Files that turn out to be bad are missing from their
        batches; a batch without any file takes no step.
    config
        How to train.
    checkpoint
        File to save to and, where it exists, to go on from.
    log
        Called with a line of text every ``log_every`` steps, e.g. ``print``.

    Returns
    -------
    list[dict[str, float]]
        ``step``, ``loss`` (mean per symbol since the last row), ``learning_rate``, at every
        ``log_every``-th step since the start or the checkpoint.

    Raises
    ------
    ValueError
        If nothing can be used, a size does not fit, or the checkpoint is of another run.
    """
    config, say = config or CtcConfig(), log or (lambda line: None)
    indices, targets = usable_utterances(recogniser, corpus, config, say)
    optimizer = make_optimizer(recogniser, config)
    source, spelt = run_source(recogniser, corpus), dict(zip(indices, targets, strict=True))
    start = resume_run(recogniser, optimizer, config, checkpoint, source)
    batch_of = _batcher([corpus.length(index) for index in indices], config)
    history, losses, began = [], [], time.monotonic()
    recogniser.train()
    for step in range(start, config.steps):
        heard = dict(_readable(corpus, (indices[place] for place in batch_of(step))))
        if heard:
            losses.append(_ctc_step(recogniser, optimizer, heard, spelt, step, config))
        last = step + 1 == config.steps
        if last or (step + 1) % config.log_every == 0:
            rate = scheduled_rate(step, config)
            loss = float(np.mean(losses or [np.nan]))
            history.append({"step": step + 1, "loss": loss, "learning_rate": rate})
            pace, losses = (time.monotonic() - began) / (step + 1 - start), []
            say(f"step {step + 1:5d}/{config.steps}  loss {loss:.3f}  {pace:.2f} s/step")
        if checkpoint is not None and (last or (step + 1) % config.save_every == 0):
            save_run(recogniser, optimizer, config, step + 1, checkpoint, source)
    recogniser.eval()
    _set_statistics(recogniser, corpus, indices)
    return history


def _readable(corpus: Corpus, indices: Iterable[int]) -> Iterator[tuple[int, Tensor]]:
    """Decode utterances, (1, T); leave out bad files, which the corpus reports."""
    for index in indices:
        wav = loaded(corpus, index)
        if wav is not None:
            yield index, wav


def _set_statistics(recogniser: CtcRecogniser, corpus: Corpus, indices: Sequence[int]) -> None:
    """Set the statistics of the teacher's features, where it has some, from utterances."""
    if hasattr(recogniser.teacher, "set_statistics"):
        device = next(recogniser.parameters()).device
        heard = _readable(corpus, indices[:: max(1, len(indices) // 150)])
        recogniser.teacher.set_statistics(wav[None].to(device) for _, wav in heard)


def usable_utterances(
    recogniser: CtcRecogniser,
    corpus: Corpus,
    config: CtcConfig,
    log: Callable[[str], None] | None = None,
) -> tuple[list[int], list[list[int]]]:
    r"""Choose the utterances that CTC can learn from, and say why others are left out.

    Parameters
    ----------
    recogniser
        Its symbols are the targets.
    corpus
        At 16 kHz, aligned or with text.
    config
        For ``max_seconds``.
    log
        Called once with the counts, where there are any.

    Returns
    -------
    indices : list[int]
        Utterances to use.
    targets : list[list[int]]
        Numbers of the symbols of each.

    Raises
    ------
    ValueError
        If none is left, or the sample rate is not 16 kHz.
    """
    if corpus.sample_rate != SAMPLE_RATE:
        raise ValueError(f"{corpus.name}: got {corpus.sample_rate} Hz, expected {SAMPLE_RATE} Hz")
    indices, targets = [], []
    out = dict.fromkeys(
        ("unreadable", "longer than max_seconds", "not to be spelt", "too short"), 0
    )
    for index, utterance in enumerate(corpus):
        length, target = corpus.length(index), recogniser.symbols.encode(utterance)
        if not length:
            out["unreadable"] += 1
        elif length > config.max_seconds * SAMPLE_RATE:
            out["longer than max_seconds"] += 1
        elif not target:
            out["not to be spelt"] += 1
        elif frame_count(length) < frames_needed(target):
            out["too short"] += 1
        else:
            indices.append(index)
            targets.append(target)
    reasons = ", ".join(f"{count} {why}" for why, count in out.items() if count)
    if not indices:
        raise ValueError(f"{corpus.name}: got 0 of {len(corpus)} utterances to use: {reasons}")
    if reasons and log is not None:
        log(f"{corpus.name}: {len(corpus) - len(indices)} utterances left out: {reasons}")
    return indices, targets


def _batcher(lengths: Sequence[int], config: CtcConfig) -> Callable[[int], list[int]]:
    """Return the function from a step to the items of its batch."""
    order = lru_cache(maxsize=2)(
        lambda epoch: length_batches(lengths, config.batch_size, config.seed, epoch)
    )
    per_epoch = len(order(0))
    return lambda step: order(step // per_epoch)[step % per_epoch].tolist()


def _ctc_step(
    recogniser: CtcRecogniser,
    optimizer: torch.optim.Optimizer,
    heard: Mapping[int, Tensor],
    spelt: Mapping[int, list[int]],
    step: int,
    config: CtcConfig,
) -> float:
    """Take one optimiser step; every random choice depends on seed and step alone."""
    device, wavs = next(recogniser.parameters()).device, list(heard.values())
    sizes = torch.tensor([wav.shape[-1] for wav in wavs])
    wav = nn.utils.rnn.pad_sequence([one[0] for one in wavs], batch_first=True)[:, None]
    frames = -(-sizes // HOP)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    mask = span_mask(len(wavs), int(frames.max()), config.mask_start, config.mask_length, generator)
    factors = 1 + config.warp * (2 * torch.rand(len(wavs), generator=generator) - 1)
    hidden = not isinstance(recogniser.teacher, PretrainedTeacher) and config.mask_start > 0
    warped = isinstance(recogniser.teacher, SmallHubert) and config.warp > 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed * 1_000_003 + step)  # dropout
        logits = recogniser(
            wav.to(device),
            sizes.to(device),
            mask.to(device) if hidden else None,
            factors.to(device) if warped else None,
        )
    loss = ctc_loss(logits, frames, [spelt[index] for index in heard])
    for group in optimizer.param_groups:
        group["lr"] = scheduled_rate(step, config)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(recogniser.parameters(), config.grad_clip)
    optimizer.step()
    return float(loss.detach())
