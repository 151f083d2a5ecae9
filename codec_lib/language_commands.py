r"""Commands of ``codec-lib`` for speech language models: ``train-lm`` and ``speak``.

Every command imports what it needs when it runs. Read next: ``lm/unified.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from codec_lib.commands import assignments


def train_lm_command(
    kind: Annotated[
        str, typer.Argument(help="unified, tokenizer (continuous) or continuous (its model).")
    ] = "unified",
    preset: Annotated[str, typer.Option(help="smoke, small or paper.")] = "small",
    codec: Annotated[str | None, typer.Option(help="Codec, or tokenizer, that is learnt.")] = None,
    corpus: Annotated[str | None, typer.Option(help="Corpora, joined by commas.")] = None,
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
    """Train a speech language model or a continuous tokenizer; the same command again goes on."""
    own = ("kind", "preset", "codec", "out", "change", "fresh")
    flags = {k: v for k, v in locals().items() if k not in own and v is not None and k != "own"}
    from codec_lib.lm.config import LanguageConfig, module_config
    from codec_lib.lm.continuous_run import ContinuousRun, ContinuousRunConfig
    from codec_lib.lm.module_run import train_module
    from codec_lib.lm.run import LanguageRun
    from codec_lib.lm.tokenizer_run import TokenizerConfig, TokenizerRun

    kinds: dict[str, tuple[Any, Any, str]] = {
        "unified": (LanguageConfig, LanguageRun, "codec"),
        "tokenizer": (TokenizerConfig, TokenizerRun, ""),
        "continuous": (ContinuousRunConfig, ContinuousRun, "tokenizer"),
    }
    if kind not in kinds:
        raise ValueError(f"kind: got {kind!r}, expected one of {list(kinds)}")
    config, run, source = kinds[kind]
    if codec is not None:
        if not source:
            raise ValueError("--codec: got one, expected none: the tokenizer is what is trained")
        flags[source] = codec
    flags["out_dir"] = str(out or f"runs/{kind}-{preset}")
    settings = module_config(config, preset, {**flags, **assignments(change or [])})
    train_module(run, settings, fresh)


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
    from codec_lib.lm.continuous_run import load_continuous_model, synthesise_continuous
    from codec_lib.lm.files import load_language_model
    from codec_lib.lm.sampling import Sampling
    from codec_lib.lm.speaking import Prompt, synthesise
    from codec_lib.lm.tokenizer_run import load_tokenizer

    if (prompt is None) != (not prompt_text):
        raise ValueError(
            "--prompt: got a prompt without --prompt-text or the reverse, expected both or none"
        )
    card = hub.read_tensors(hub.resolve(model))[0].get("card", {})
    discrete = "continuous_language" not in card
    network: Any = (load_language_model if discrete else load_continuous_model)(model)
    source = codec or card["codec" if discrete else "tokenizer"]
    tokenizer: Any = (hub.load if discrete else load_tokenizer)(source)
    voice = None
    if prompt is not None:
        voice = Prompt(audio.read(prompt, tokenizer.sample_rate), prompt_text)
    if discrete:
        options = (Sampling(temperature, top_k, top_p), seed)
        (wav,) = synthesise(network, tokenizer, [text], [voice], *options)
    else:
        (wav,) = synthesise_continuous(network, tokenizer, [text], [voice], seed)
    if not wav.shape[1]:
        raise ValueError("text: the model ended at once. Hint: another --seed or --temperature")
    audio.write(target, audio.peak_guard(wav), tokenizer.sample_rate)
    typer.echo(f"{target}: {wav.shape[1] / tokenizer.sample_rate:.2f} s")
