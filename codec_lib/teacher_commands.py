r"""``codec-lib teacher ...``: train what teaches a codec, or what turns its features into units.

Every command imports what it needs when it runs; the same command again goes on where it stopped.
Left out: tables of anchors (``cli.py``). Read next: ``teachers/iterations.py``.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from codec_lib.commands import option_numbers

Out = Annotated[Path, typer.Argument(metavar="OUT.safetensors")]
Speech = Annotated[str, typer.Option(help="Corpora, joined by commas.")]
Steps = Annotated[int | None, typer.Option(help="Optimiser steps.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]


def _training_part(names: str) -> Any:
    """Find the training part of corpora."""
    from codec_lib.data import corpus as find_corpus

    speech = find_corpus(names).select(lambda one: one.split in ("train", ""))
    if not len(speech):
        raise ValueError(f"--corpus: got {names}, which has no training part, expected some")
    return speech


def _say_size(out: Path) -> None:
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def teacher_train(
    out: Out,
    corpus: Speech = "synthetic",
    size: Annotated[str, typer.Option(help="small, or base: the published network.")] = "small",
    steps: Annotated[str, typer.Option(help="Of both iterations, or of each: 1500,6000.")] = "",
    iterations: Annotated[int, typer.Option(help="1: MFCC units; 2: then a layer's.")] = 2,
    units: Annotated[str, typer.Option(help="k-means units of each iteration.")] = "100,500",
    device: Device = "cpu",
) -> None:
    """Pre-train a HuBERT from scratch, small or at the published size."""
    from codec_lib.teachers import BaseHubertConfig, HubertConfig, save_hubert
    from codec_lib.teachers import iterations as recipe

    if size not in ("small", "base"):
        raise ValueError(f"--size: got {size!r}, expected small or base")
    base, counts = size == "base", option_numbers(steps, "--steps", may_be_empty=True) or [None]
    num_units = option_numbers(units, "--units")
    if iterations not in (1, 2) or max(len(counts), len(num_units)) > 2:
        raise ValueError(
            f"got --iterations {iterations}, --steps {steps}, --units {units}: expected 1 or 2 "
            "iterations, and one number for both or one for each"
        )
    recipes = (recipe.PAPER_FIRST, recipe.PAPER_SECOND) if base else (recipe.FIRST, recipe.SECOND)
    first, second = (
        one if count is None else replace(one, steps=count)
        for one, count in zip(recipes, (counts[0], counts[-1]), strict=True)
    )
    teacher = recipe.train_hubert(
        _training_part(corpus),
        BaseHubertConfig() if base else HubertConfig(),
        first=first,
        second=second if iterations > 1 else None,
        num_units=tuple((2 * num_units)[:2]),
        layer=6 if base else None,
        folder=out.with_suffix(".checkpoints"),
        device=device,
        log=typer.echo,
        fresh=base,
        fit_share=0.1 if base else None,
    )
    save_hubert(teacher, out, {"corpus": corpus})
    _say_size(out)


def teacher_text(out: Out, steps: Steps = None, seed: Seed = 0) -> None:
    """Train the small text encoder on the project's sentences."""
    from codec_lib.data.synthetic import sentences
    from codec_lib.teachers.small_text import save_text_encoder
    from codec_lib.teachers.text_training import (
        TextTrainConfig,
        masked_accuracy,
        train_text_encoder,
    )

    config = TextTrainConfig(seed=seed)
    config = config if steps is None else replace(config, steps=steps)
    checkpoint = out.with_suffix(".checkpoint.safetensors")
    encoder = train_text_encoder(None, None, config, checkpoint, typer.echo)
    found = masked_accuracy(encoder, sentences("dev"), rounds=1)
    save_text_encoder(encoder, out, {"training": asdict(config), "dev": found})
    typer.echo("held out: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()))
    _say_size(out)


def teacher_voices(
    corpus: Speech = "synthetic",
    copies: Annotated[int, typer.Option(help="Other voices of each utterance.")] = 1,
    seed: Seed = 0,
) -> None:
    """Say a corpus in other voices, for Spin; cached, about 60 times faster than real time."""
    from codec_lib.teachers.perturbed import perturbed_copies

    speech = _training_part(corpus)
    _, report = perturbed_copies(speech, copies, seed, progress=_counter(500))
    typer.echo(f"{speech.name}: {report.num_changed} voices changed, {len(report.failures)} failed")
    for line in report.failures[:5]:
        typer.echo(f"  {line}")


def _counter(every: int) -> Any:
    """Return a callback that says how many are done, now and then."""

    def count(done: int, total: int) -> None:
        if done % every == 0:
            typer.echo(f"{done} of {total}")

    return count


def teacher_spin(
    out: Out,
    teacher: Annotated[str, typer.Option(help="Name or file of what is tuned.")] = "hubert-small",
    corpus: Speech = "synthetic",
    codes: Annotated[int, typer.Option(help="Codes of the units.")] = 128,
    auxiliary: Annotated[int, typer.Option(help="Codes of DC-Spin's second head.")] = 0,
    copies: Annotated[int, typer.Option(help="Other voices of each utterance.")] = 1,
    size: Annotated[str, typer.Option(help="small, or paper: the published recipe.")] = "small",
    steps: Steps = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Tune a teacher's top layers so that its units stay the same in another voice."""
    from codec_lib.hub import known_names
    from codec_lib.teachers import SmallHubert, load_teacher
    from codec_lib.teachers.perturbed import perturbed_copies
    from codec_lib.teachers.spin import Spin, SpinSizes
    from codec_lib.teachers.spin_files import save_spin
    from codec_lib.teachers.spin_training import PAPER, SMALL, train_spin

    if size not in ("small", "paper"):
        raise ValueError(f"--size: got {size!r}, expected small or paper")
    recipe, width = (PAPER, 256) if size == "paper" else (SMALL, 128)
    speech = _training_part(corpus)
    views, report = perturbed_copies(speech, copies, seed, progress=_counter(500))
    typer.echo(f"{speech.name}: {len(speech)} utterances; {len(report.failures)} voices failed")
    sizes = SpinSizes(codes, auxiliary, width)
    spin = Spin(load_teacher(teacher), sizes, seed=seed).to(device)
    config = replace(recipe, seed=seed, steps=steps or recipe.steps)
    checkpoint = out.with_suffix(".checkpoint.safetensors")
    train_spin(spin, speech, views, config, checkpoint, typer.echo)
    card = {"teacher": Path(teacher).name, "corpus": speech.name, "copies": copies}
    card |= {"training": {**asdict(config), "num_auxiliary": auxiliary}}
    # What was tuned from a file of one's own is written whole where it is small: files move.
    whole = isinstance(spin.teacher, SmallHubert) and teacher not in known_names()
    save_spin(spin.cpu(), out, card, base="" if whole else teacher)
    _say_size(out)


def teacher_spin_hubert(
    out: Out,
    targets: Annotated[str, typer.Argument(help="Name or file of the Spin whose codes are named.")],
    teacher: Annotated[str, typer.Option(help="Name or file of what goes on.")] = "hubert-small",
    corpus: Speech = "synthetic",
    fresh: Annotated[bool, typer.Option(help="Start from random weights, as published.")] = False,
    steps: Steps = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Pre-train a HuBERT on the codes of a Spin instead of k-means units (SpinHuBERT)."""
    from codec_lib.teachers import load_hubert, load_spin, save_hubert
    from codec_lib.teachers.iterations import SECOND, next_iteration
    from codec_lib.teachers.spin_training import spin_targets

    speech, spin = _training_part(corpus), load_spin(targets).to(device)
    units, count = spin_targets(spin, speech), spin.config.num_codes
    config = (
        replace(SECOND, seed=seed) if steps is None else replace(SECOND, seed=seed, steps=steps)
    )
    start, file = load_hubert(teacher).to(device), out.with_suffix(".checkpoint.safetensors")
    student = next_iteration(start, speech, units, count, config, file, fresh, typer.echo)
    card = {"targets": Path(targets).name, "teacher": Path(teacher).name, "corpus": speech.name}
    save_hubert(student.cpu(), out, {**card, "fresh": fresh, "training": asdict(config)})
    _say_size(out)


def teacher_recogniser(
    out: Out,
    teacher: Annotated[str, typer.Option(help="Name or file of what is tuned.")] = "hubert-small",
    corpus: Speech = "synthetic",
    symbols: Annotated[str, typer.Option(help="phonemes or characters.")] = "phonemes",
    layers: Annotated[int | None, typer.Option(help="Top layers that learn; all if not.")] = None,
    steps: Steps = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Tune a teacher to write down what is said, by CTC; it can also align text with speech."""
    from codec_lib.teachers import load_teacher
    from codec_lib.teachers.ctc import CtcRecogniser, RecogniserConfig, save_recogniser
    from codec_lib.teachers.ctc_training import CtcConfig, train_ctc

    speech = _training_part(corpus)
    recogniser = CtcRecogniser(load_teacher(teacher), RecogniserConfig(symbols, layers), seed)
    recogniser, config = recogniser.to(device), CtcConfig(seed=seed)
    config = replace(config, steps=steps or config.steps)
    checkpoint = out.with_suffix(".checkpoint.safetensors")
    train_ctc(recogniser, speech, config, checkpoint, typer.echo)
    card = {"base": Path(teacher).name, "corpus": speech.name, "training": asdict(config)}
    save_recogniser(recogniser.cpu(), out, card)
    _say_size(out)


TEACHER_COMMANDS = {
    "train": teacher_train,
    "text": teacher_text,
    "voices": teacher_voices,
    "spin": teacher_spin,
    "spin-hubert": teacher_spin_hubert,
    "recogniser": teacher_recogniser,
}
