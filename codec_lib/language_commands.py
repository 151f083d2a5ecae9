r"""Commands of ``codec-lib`` for speech language models: ``train-lm`` and ``speak``.

Every command imports what it needs when it runs. Read next: ``lm/unified.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codec_lib.commands import assignments


def train_lm_command(
    preset: Annotated[str, typer.Argument(help="smoke, small or paper.")] = "small",
    codec: Annotated[str | None, typer.Option(help="Whose codes are learnt.")] = None,
    corpus: Annotated[str | None, typer.Option(help="Corpora with texts.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples per step, all devices.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    precision: Annotated[str | None, typer.Option(help="32-true or bf16-mixed.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="auto, cpu or gpu.")] = None,
    devices: Annotated[int | None, typer.Option(help="Of this machine.")] = None,
    time_limit_minutes: Annotated[float | None, typer.Option(help="Save and end then.")] = None,
    init_from: Annotated[str | None, typer.Option(help="Start from these weights.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, e.g. overrides.dim=192; repeat.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete an earlier run there.")] = False,
) -> None:
    """Train the unified speech language model; the same command again goes on."""
    own = ("preset", "out", "change", "fresh")
    flags = {k: v for k, v in locals().items() if k not in own and v is not None and k != "own"}
    from codec_lib.lm.config import language_config
    from codec_lib.lm.run import train_language_model

    flags["out_dir"] = str(out or f"runs/language-{preset}")
    train_language_model(language_config(preset, {**flags, **assignments(change or [])}), fresh)


def speak_command(
    text: Annotated[str, typer.Argument(help="What to say, in English.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.wav")],
    model: Annotated[str, typer.Option(help="Name or file of a language model.")] = "unified-small",
    prompt: Annotated[
        Path | None, typer.Option(help="About three seconds of the voice, as a sound file.")
    ] = None,
    prompt_text: Annotated[str, typer.Option(help="What is said in the prompt.")] = "",
    codec: Annotated[str | None, typer.Option(help="Name or file; the model's own.")] = None,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest code.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Only the k likeliest codes; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Only the likeliest, up to this share.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
) -> None:
    """Say a text in a voice heard for three seconds."""
    from codec_lib import audio, hub
    from codec_lib.lm.files import load_language_model
    from codec_lib.lm.sampling import Sampling
    from codec_lib.lm.speaking import Prompt, synthesise

    if (prompt is None) != (not prompt_text):
        raise ValueError(
            "--prompt: got a prompt without --prompt-text or the reverse, expected both or none"
        )
    network = load_language_model(model)
    tokenizer = hub.load(codec or network.card["codec"])
    voice = None
    if prompt is not None:
        voice = Prompt(audio.read(prompt, tokenizer.sample_rate), prompt_text)
    sampling = Sampling(temperature, top_k, top_p)
    (wav,) = synthesise(network, tokenizer, [text], [voice], sampling, seed)
    if not wav.shape[1]:
        raise ValueError("text: the model ended at once. Hint: another --seed or --temperature")
    audio.write(target, audio.peak_guard(wav), tokenizer.sample_rate)
    typer.echo(f"{target}: {wav.shape[1] / tokenizer.sample_rate:.2f} s")
