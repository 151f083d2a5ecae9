r"""Train the small text encoder: hide whole words and short spans of letters, and spell them.

[Devlin et al. 2019, BERT], §3.1, with whole words hidden as in its later releases. Unlike there,
every hidden letter is replaced by [MASK], as HuBERT replaces frames. A run is a function of its
arguments. Used by notebook 11. Leaves out: the prediction of the next sentence.
Read next: ``text.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from codec_lib.data.synthetic import sentences

from .hubert import span_mask
from .runs import make_optimizer, resume_run, run_source, save_run, scheduled_rate
from .small_text import MASK, PAD, UNKNOWN, VOCABULARY, SmallTextEncoder, TextConfig, pieces_of


@dataclass(frozen=True)
class TextTrainConfig:
    r"""How to train a ``SmallTextEncoder``. JSON-able.

    Attributes
    ----------
    steps, batch_size
        Optimiser steps; sentences in each.
    learning_rate, warmup, weight_decay, grad_clip
        See ``runs.RunConfig``; the gradient's norm at most.
    word_share
        Chance of a word to be hidden whole.
    mask_start, mask_length
        Further letters are hidden in spans, see ``span_mask``.
    seed
        Of everything random.
    save_every, log_every
        Steps between checkpoints and between lines of the log.
    """

    steps: int = 500  # what text-small was made with; more fits the sentences and not the language
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup: float = 0.1
    weight_decay: float = 0.05
    grad_clip: float = 1.0
    word_share: float = 0.12
    mask_start: float = 0.06
    mask_length: int = 2
    seed: int = 0
    save_every: int = 250
    log_every: int = 50


def train_text_encoder(
    texts: Sequence[str] | None = None,
    config: TextConfig | None = None,
    training: TextTrainConfig | None = None,
    checkpoint: str | Path | None = None,
    log: Callable[[str], None] | None = None,
) -> SmallTextEncoder:
    r"""Train a text encoder by masked prediction, then measure the statistics of its features.

    .. math:: L = \frac{1}{|M|} \sum_{n \in M} -\log p(c_n \mid c_{\bar M})

    Parameters
    ----------
    texts
        Sentences; by default the project's for training.
    config, training
        Sizes; how to train.
    checkpoint
        File to save to and, where it exists, to go on from.
    log
        Called with lines of text, e.g. ``print``.

    Returns
    -------
    SmallTextEncoder
        In eval mode, a function of the arguments alone.
    """
    texts, training = texts or sentences("train"), training or TextTrainConfig()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        teacher = SmallTextEncoder(config)
    optimizer = make_optimizer(teacher, training)
    split = [pieces_of(text.split()) for text in texts]
    source = run_source(teacher, texts)
    start = resume_run(teacher, optimizer, training, checkpoint, source)
    for step in range(start, training.steps):
        loss = _text_step(teacher, optimizer, split, step, training)
        last = step + 1 == training.steps
        if log is not None and (last or (step + 1) % training.log_every == 0):
            log(f"step {step + 1:5d}/{training.steps}  loss {loss:.3f}")
        if checkpoint is not None and (last or (step + 1) % training.save_every == 0):
            save_run(teacher, optimizer, training, step + 1, checkpoint, source)
    teacher.eval().set_statistics(texts)
    return teacher


def _text_step(
    teacher: SmallTextEncoder,
    optimizer: torch.optim.Optimizer,
    split: list[tuple[Tensor, Tensor]],
    step: int,
    training: TextTrainConfig,
) -> float:
    """Take one optimiser step; every random choice depends on seed and step alone."""
    generator = torch.Generator().manual_seed(training.seed * 1_000_003 + step)
    chosen = torch.randperm(len(split), generator=generator)[: training.batch_size]
    pieces, mask = hide([split[number] for number in chosen.tolist()], training, generator)
    teacher.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed * 1_000_003 + step)  # dropout
        states = teacher.hidden_states(pieces.masked_fill(mask, MASK))
    loss = functional.cross_entropy(teacher.logits(states[-1][mask]), pieces[mask])
    for group in optimizer.param_groups:
        group["lr"] = scheduled_rate(step, training)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(teacher.parameters(), training.grad_clip)
    optimizer.step()
    return float(loss.detach())


def hide(
    split: Sequence[tuple[Tensor, Tensor]], training: TextTrainConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    r"""Join sentences to a batch and choose the letters to hide: whole words, and short spans.

    Parameters
    ----------
    split
        What ``pieces_of`` made of each sentence.
    training
        Shares and lengths.
    generator
        Random numbers, on the CPU.

    Returns
    -------
    tuple[Tensor, Tensor]
        Pieces (B, N) and the mask (B, N), True where hidden.
    """
    pad = torch.nn.utils.rnn.pad_sequence
    pieces = pad([one for one, _ in split], True, PAD)
    places = pad([one for _, one in split], True, -1)
    words = torch.rand(len(split), int(places.max()) + 1, generator=generator) < training.word_share
    spans = span_mask(*pieces.shape, training.mask_start, training.mask_length, generator)
    hidden = (words.gather(1, places.clamp_min(0)) & (places >= 0)) | spans
    mask = hidden & (pieces >= UNKNOWN)
    if not bool(mask.any()):  # of very short texts: hide their first letters
        mask = places == 0
    return pieces, mask


@torch.no_grad()
def masked_accuracy(
    teacher: SmallTextEncoder, texts: Sequence[str], seed: int = 0, rounds: int = 4
) -> dict[str, float]:
    r"""Measure how well hidden letters of new sentences are guessed, and how well without reading.

    Parameters
    ----------
    teacher
        In eval mode.
    texts
        Sentences it has not seen.
    seed
        Of the masks, which are drawn as in training.
    rounds
        Different masks for every sentence.

    Returns
    -------
    dict[str, float]
        ``accuracy`` and ``loss`` (nat) of the encoder; ``unigram_accuracy`` and ``unigram_loss`` of
        the letters' frequencies in these very texts, the best that can be had without reading.
    """
    split = [pieces_of(text.split()) for text in texts] * rounds
    generator = torch.Generator().manual_seed(seed)
    pieces, mask = hide(split, TextTrainConfig(), generator)
    target = pieces[mask]
    logits = teacher.logits(teacher.hidden_states(pieces.masked_fill(mask, MASK))[-1][mask])
    share = target.bincount(minlength=VOCABULARY) / len(target)
    return {
        "accuracy": float((logits.argmax(-1) == target).float().mean()),
        "loss": float(functional.cross_entropy(logits, target)),
        "unigram_accuracy": float(share.max()),
        "unigram_loss": float(-torch.xlogy(share, share).sum()),
    }
