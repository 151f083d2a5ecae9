r"""Commands of ``codec-lib`` for speech language models: train, speak, judge, and compare bands.

Every command imports what it needs when it runs. Read next: ``lm/unified.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from codec_lib.commands import assignments, option_numbers, part_of
from codec_lib.study_commands import columns_text


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
    from codec_lib import audio
    from codec_lib.lm.loading import load_speaking_model
    from codec_lib.lm.sampling import Sampling
    from codec_lib.lm.speaking import Prompt

    if (prompt is None) != (not prompt_text):
        raise ValueError(
            "--prompt: got a prompt without --prompt-text or the reverse, expected both or none"
        )
    speaker = load_speaking_model(model, codec, Sampling(temperature, top_k, top_p), seed)
    voice = None
    if prompt is not None:
        voice = Prompt(audio.read(prompt, speaker.sample_rate), prompt_text)
    (wav,) = speaker.say([text], [voice])
    if not wav.shape[1]:
        raise ValueError("text: the model ended at once. Hint: another --seed or --temperature")
    audio.write(target, audio.peak_guard(wav), speaker.sample_rate)
    typer.echo(f"{target}: {wav.shape[1] / speaker.sample_rate:.2f} s")


def bands_command(
    names: Annotated[
        list[str], typer.Argument(help="[LABEL=]NAME or file of codecs and continuous tokenizers.")
    ],
    corpus: Annotated[str, typer.Option(help="Corpora, joined by commas.")] = "synthetic",
    split: Annotated[
        str, typer.Option(help="train, dev or test; where there is none, all.")
    ] = "test",
    max_utterances: Annotated[int, typer.Option(help="Spread over the corpus.")] = 40,
    out: Annotated[Path | None, typer.Option(help="JSON to write.")] = None,
) -> None:
    """Measure how much of each frequency band survives coding."""
    from codec_lib import hub
    from codec_lib.evaluation.bands import retention_rows
    from codec_lib.evaluation.comparison import labelled
    from codec_lib.evaluation.results import write_results
    from codec_lib.lm.loading import round_trip

    ways, rate, prints = {}, set(), {}
    for label, name in labelled(names).items():
        ways[label], own = round_trip(name)
        rate.add(own)
        prints[label] = hub.sha256(hub.resolve(name))[:16]
    if len(rate) != 1:
        raise ValueError(f"names: got {names} at {sorted(rate)} Hz, expected one rate")
    speech = part_of(corpus, split, False, rate.pop())
    rows = retention_rows(speech, ways, max_utterances)
    typer.echo(columns_text(rows, ("way", "low", "high"), ("transfer", "coherence", "envelope")))
    conditions = {"corpus": corpus, "split": split, "max_utterances": max_utterances}
    if out is not None:
        conditions["fingerprints"] = prints
        typer.echo(f"written: {write_results(out, rows, conditions)}")


def judge_lm_command(
    models: Annotated[list[str], typer.Argument(help="[LABEL=]NAME or file of language models.")],
    corpus: Annotated[
        str, typer.Option(help="Speakers with texts, that none has met.")
    ] = "synthetic",
    split: Annotated[
        str, typer.Option(help="train, dev or test; where there is none, all.")
    ] = "test",
    tasks: Annotated[int, typer.Option(help="Sentences to say, each after a prompt.")] = 40,
    judges: Annotated[
        str, typer.Option(help="phonemes,words,speaker,quality; as in judge.")
    ] = "phonemes,speaker",
    temperature: Annotated[
        str, typer.Option(help="0: always the likeliest code. One for all, or one for each model.")
    ] = "1.0",
    top_k: Annotated[int, typer.Option(help="Only the k likeliest codes; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Only the likeliest, up to this share.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of tasks and of what is drawn.")] = 0,
    alone: Annotated[bool, typer.Option("--alone", help="Also without prompts.")] = False,
    against: Annotated[
        str, typer.Option(help="Label of a model to compare the others with, by sentence.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="JSON to write.")] = None,
) -> None:
    """Let language models say sentences in voices they have not met, and judge what is heard."""
    from codec_lib.evaluation.judges import make_judges
    from codec_lib.evaluation.results import write_results
    from codec_lib.evaluation.synthesis import judge_synthesis, synthesis_tasks, without_prompts

    warmth = option_numbers(temperature, "--temperature", float)
    found = _speakers(models, warmth, top_k, top_p, seed)
    rates = {one.sample_rate for one in found.values()}
    if len(rates) != 1:
        raise ValueError(f"models: got {models} at {sorted(rates)} Hz, expected one rate")
    if against not in ("", *found):
        raise ValueError(f"--against: got {against!r}, expected one of {list(found)}")
    speech = part_of(corpus, split, False, rates.pop())
    chosen, heard = synthesis_tasks(speech, tasks, seed=seed), make_judges(judges.split(","))
    ways: dict[str, Any] = {}
    rivals: dict[str, str] = {}
    for label, one in found.items():
        ways[label] = one.say
        kinds = ["", ", no prompt"] if alone else [""]
        if alone:
            ways[f"{label}, no prompt"] = without_prompts(one.say)
        if against and label != against:
            rivals |= {f"{label}{kind}": f"{against}{kind}" for kind in kinds}
    rows = judge_synthesis(speech, chosen, ways, heard, rivals, log=typer.echo)
    measures = ("per", "wer", "cer", "speaker_similarity", "dnsmos", "seconds_ratio", "empty",
                "times_real_time")  # fmt: skip
    measures += tuple(f"{one}_change" for one in measures)
    typer.echo(columns_text(rows, ("way",), measures))
    conditions = {"corpus": corpus, "split": split, "tasks": len(chosen), "judges": judges}
    conditions |= {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    conditions["fingerprints"] = {label: one.fingerprint for label, one in found.items()}
    if out is not None:
        typer.echo(f"written: {write_results(out, rows, conditions)}")


def _speakers(
    models: Sequence[str], temperatures: Sequence[float], top_k: int, top_p: float, seed: int
) -> dict[str, Any]:
    """Load models by label, with one temperature for all of them or one for each."""
    from codec_lib.evaluation.comparison import labelled
    from codec_lib.lm.loading import load_speaking_model
    from codec_lib.lm.sampling import Sampling

    if len(temperatures) not in (1, len(models)):
        raise ValueError(f"--temperature: got {len(temperatures)}, expected 1 or {len(models)}")
    heats, found = list(temperatures) * (len(models) // len(temperatures)), {}
    for (label, name), heat in zip(labelled(models).items(), heats, strict=True):
        sampling = Sampling(heat, top_k, top_p)
        found[label] = load_speaking_model(name, None, sampling, seed)
    return found
