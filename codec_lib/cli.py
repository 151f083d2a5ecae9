r"""The ``codec-lib`` command: train, encode, decode, look, measure, export.

Every command imports what it needs when it runs, so that ``--help`` is quick. What the user got
wrong is one line and exit code 2; ``CODEC_LIB_TRACEBACK=1`` shows where it came from.

Left out: anything a notebook does better.

Read next: ``training/loop.py``.
"""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from codec_lib.benchmark_commands import (
    judge_command,
    leaderboard_command,
    slmtokbench_command,
)
from codec_lib.commands import assignments, option_numbers, part_of, units_command
from codec_lib.language_commands import (
    bands_command,
    judge_lm_command,
    speak_command,
    train_lm_command,
)
from codec_lib.study_commands import (
    claims_command,
    convert_command,
    discrete_command,
    disentangle_command,
    tone_command,
)
from codec_lib.teacher_commands import TEACHER_COMMANDS


class OneLineErrors(TyperGroup):
    """A command group whose user errors are one line on stderr and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; turn ValueError, TypeError and OSError into that line."""
        try:
            return super().invoke(ctx)
        except (ValueError, TypeError, OSError, NotImplementedError) as error:
            if os.environ.get("CODEC_LIB_TRACEBACK"):
                raise
            text = " ".join(str(error).split()) or type(error).__name__
            typer.secho(f"error: {text}", fg="red", err=True)
            raise typer.Exit(2) from None


def _group(text: str) -> typer.Typer:
    return typer.Typer(
        cls=OneLineErrors,
        help=text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )


app = _group("Neural speech codecs: train them, use them, measure them.")
corpus_app = _group("Make and describe corpora.")
teacher_app = _group("Train teachers: of speech, of units, of text.")
anchors_app = _group("Make tables of anchors for SACodec.")
app.add_typer(corpus_app, name="corpus")
app.add_typer(teacher_app, name="teacher")
app.add_typer(anchors_app, name="anchors")
for _name, _command in TEACHER_COMMANDS.items():
    teacher_app.command(_name)(_command)

Text = Annotated[str | None, typer.Option()]
Number = Annotated[float | None, typer.Option()]
Count = Annotated[int | None, typer.Option()]


@app.command("train")
def train_command(
    codec: Annotated[str, typer.Argument(help="Codec by registry name, e.g. speechtokenizer.")],
    scale: Annotated[str | None, typer.Option(help="smoke, small or paper.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Start from these; the codec's if not.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML of training options.")] = None,
    corpus: Annotated[str | None, typer.Option(help="Corpora, joined by commas.")] = None,
    valid_corpus: Annotated[str | None, typer.Option(help="Held-out corpora.")] = None,
    steps: Count = None,
    batch_size: Annotated[int | None, typer.Option(help="Crops per step, all devices.")] = None,
    segment_seconds: Number = None,
    recipe: Annotated[
        str | None, typer.Option(help="Losses: small, paper, official, sacodec, bigcodec, ...")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="hubert-small, hubert_base, ...")] = None,
    distill: Annotated[str | None, typer.Option(help="none, continuous, pseudo_label.")] = None,
    critics: Annotated[str | None, typer.Option(help="small, paper, or mpd,msd,ms_stft.")] = None,
    critic_start: Count = None,
    lr: Number = None,
    seed: Count = None,
    precision: Annotated[str | None, typer.Option(help="32-true or bf16-mixed.")] = None,
    accelerator: Text = None,
    devices: Count = None,
    num_nodes: Count = None,
    num_workers: Count = None,
    time_limit_minutes: Annotated[float | None, typer.Option(help="Save and end then.")] = None,
    init_from: Annotated[str | None, typer.Option(help="Start from these weights.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, e.g. weights.adv_loss=2; repeat.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete an earlier run there.")] = False,
) -> None:
    """Train a codec, in stages where its preset has them; the same command again goes on."""
    flags = {
        key: value
        for key, value in locals().items()
        if value is not None and key not in ("preset", "config", "out", "change", "fresh")
    }
    from codec_lib.training.config import TrainConfig, load_config, read_mapping
    from codec_lib.training.loop import train as run
    from codec_lib.training.presets import preset_for

    in_file = read_mapping(config) if config else {}
    name = preset or scale or in_file.get("scale") or "small"
    whole = {spec.name for spec in fields(TrainConfig)} <= set(in_file)  # as a run has written it
    preset = preset or (None if whole else preset_for(codec, name))
    if "out_dir" not in in_file:
        flags["out_dir"] = f"runs/{codec}-{name}"
    if out is not None:
        flags["out_dir"] = str(out)
    settings = load_config(preset, config, {**flags, **assignments(change or [])})
    run(settings, fresh=fresh)


@app.command("encode")
def encode_command(
    source: Annotated[Path, typer.Argument(metavar="IN.wav")],
    target: Annotated[Path, typer.Argument(metavar="OUT.codes")],
    codec: Annotated[str, typer.Option(help="Shipped name or file.")] = "speechtokenizer-small",
    n_q: Annotated[int | None, typer.Option("--n-q", help="Codebooks; all by default.")] = None,
    frame_rate: Annotated[float | None, typer.Option(help="Codes a second, if dynamic.")] = None,
) -> None:
    """Encode a sound file into a file of codes; at a fixed rate any length on bounded memory."""
    from codec_lib import audio, bitstream, hub
    from codec_lib.codecs.chunked import encode_blocks, is_exact

    model = hub.load(codec)
    blocks = audio.read_blocks(source, 10 * model.sample_rate, model.sample_rate)
    codes = encode_blocks(model, blocks, n_q, exact=is_exact(model), token_rate=frame_rate)
    header = bitstream.write_codes(target, codes, model)
    seconds, size = codes.num_samples / model.sample_rate, target.stat().st_size
    rate = f"{8 * size / seconds / 1000:.2f} kbit/s"
    rate += f" ({model.bitrate(codes.n_q, frame_rate) / 1000:.2f} of codes)"
    if header.segments:
        rate += f", {header.columns} of {header.frames} frames sent"
    typer.echo(f"{target}: {seconds:.2f} s, {codes.n_q} codebooks, {size} bytes, {rate}")


@app.command("decode")
def decode_command(
    source: Annotated[Path, typer.Argument(metavar="IN.codes")],
    target: Annotated[Path, typer.Argument(metavar="OUT.wav")],
    codec: Annotated[str | None, typer.Option(help="Name or file; found if shipped.")] = None,
    n_q: Annotated[int | None, typer.Option("--n-q", help="Decode the first ones only.")] = None,
) -> None:
    """Decode a file of codes into a sound file."""
    from codec_lib import audio, bitstream, hub
    from codec_lib.codecs.checks import check_depth
    from codec_lib.codecs.chunked import decode_long, is_exact

    codes, header = bitstream.read_codes(source)
    model = hub.load(codec or _checkpoint_of(header.codec, header.fingerprint))
    header.check(model)
    layers = None if n_q is None else codes.codebooks[: check_depth(n_q, len(codes.codebooks))]
    wav = decode_long(model, codes, layers, exact=is_exact(model))  # (1, 1, T)
    audio.write(target, audio.peak_guard(wav[0]), model.sample_rate)
    typer.echo(f"{target}: {wav.shape[-1] / model.sample_rate:.2f} s at {model.sample_rate} Hz")


def _checkpoint_of(codec: str, fingerprint: str) -> str:
    """Return the name of the shipped checkpoint with this fingerprint."""
    from codec_lib import hub

    for name, digest in hub.listing().items():
        if fingerprint and digest.startswith(fingerprint):
            return Path(name).stem
    raise ValueError(
        f"the codes are of {codec} checkpoint {fingerprint or 'unknown'}, which is not shipped; "
        "hint: name its file with --codec"
    )


@app.command("info")
def info_command(
    name: Annotated[str | None, typer.Argument(help="Codec, checkpoint, .codes or run.")] = None,
) -> None:
    """Describe a codec, a checkpoint, codes or a run; without a name, list what there is."""
    from codec_lib.training.description import describe_anything

    _table(describe_anything(name))


def _table(pairs: dict[str, Any]) -> None:
    """Print names and values in two columns."""
    width = max(map(len, pairs), default=0)
    for key, value in pairs.items():
        typer.echo(f"{key:<{width}}  {value}")


@corpus_app.command("make")
def corpus_make(
    out: Annotated[Path | None, typer.Argument(help="Folder; data/corpora by default.")] = None,
    hours: Annotated[float, typer.Option(help="How much speech.")] = 1.0,
    seed: int = 0,
) -> None:
    """Make synthetic speech with exact phoneme boundaries."""
    from codec_lib.data import corpus, make_synthetic

    if out is None and seed:
        raise ValueError("--seed: got one without a folder; the corpus in data/corpora has seed 0")
    made = corpus(f"synthetic/{hours:g}h") if out is None else make_synthetic(out, hours, seed=seed)
    typer.echo(f"{made.name}: {len(made)} utterances, {made.hours:.2f} h")


@corpus_app.command("describe")
def corpus_describe(
    name: Annotated[str, typer.Argument(help="Corpora, joined by commas, or a folder.")],
    download: Annotated[bool, typer.Option("--download", help="Fetch it if missing.")] = False,
) -> None:
    """Count utterances, hours, speakers and splits of a corpus."""
    from codec_lib.data import corpus, describe

    _table(describe(corpus(name, download=download)))


@corpus_app.command("excerpt")
def corpus_excerpt(
    name: Annotated[str, typer.Argument(help="E.g. fsdd, librispeech/test-other.")],
    source: Annotated[Path, typer.Option(help="Folder as published: a clone, or LibriSpeech.")],
    out: Annotated[
        Path | None, typer.Option(help="New folder; by default where it is looked for.")
    ] = None,
) -> None:
    """Make the excerpt of a public corpus that the printed figures are measured on."""
    from codec_lib.data.excerpts import excerpt_folder, make_excerpt

    place = out or excerpt_folder(name)
    made = make_excerpt(name, source, place)
    typer.echo(f"{made.name}: {len(made)} utterances, {made.hours:.2f} h, in {place}")


@anchors_app.command("convert")
def anchors_convert(
    source: Annotated[Path, typer.Argument(metavar="FILE.bin", help="Published k-means units.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors")],
) -> None:
    """Read the centroids of a joblib file, without running it, into a table of anchors."""
    from codec_lib.teachers.anchors import read_centroids, save_anchor

    table = read_centroids(source)
    save_anchor(table, out, {"source": source.name})
    typer.echo(f"{out}: {table.shape[0]} anchors of width {table.shape[1]}")


@anchors_app.command("fit")
def anchors_fit(
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors")],
    teacher: Annotated[str, typer.Option(help="Name or file of a small HuBERT.")] = "hubert-small",
    corpus: Annotated[str, typer.Option(help="Corpora, joined by commas.")] = "synthetic",
    units: Annotated[int, typer.Option(help="Anchors.")] = 1000,
    layer: Annotated[int | None, typer.Option(help="Default: the last but one.")] = None,
) -> None:
    """Take the k-means centroids of a teacher's layer as a table of anchors."""
    from codec_lib.data import corpus as find_corpus
    from codec_lib.teachers import load_hubert
    from codec_lib.teachers.anchors import fit_anchor, save_anchor

    speech = find_corpus(corpus, "train")
    table = fit_anchor(load_hubert(teacher), speech, units, layer)
    save_anchor(table, out, {"teacher": teacher, "corpus": corpus, "layer": layer})
    typer.echo(f"{out}: {table.shape[0]} anchors of width {table.shape[1]}")


@app.command("evaluate")
def evaluate_command(
    codecs: Annotated[
        list[str],
        typer.Argument(help="[LABEL=]NAME or file; untrained:NAME random, cut:NAME any rate."),
    ],
    corpus: Annotated[str, typer.Option(help="Corpora, joined by commas.")] = "synthetic",
    split: Annotated[
        str, typer.Option(help="train, dev or test; where there is none, all of it.")
    ] = "test",
    n_q: Annotated[str, typer.Option("--n-q", help="Numbers of codebooks.")] = "1,2,4,8",
    max_utterances: int = 50,
    max_seconds: Annotated[float, typer.Option(help="Of each utterance; 0: all of it.")] = 6.0,
    frame_rate: Annotated[str, typer.Option(help="Codes a second, e.g. 40,80; not --n-q.")] = "",
    schemes: Annotated[str, typer.Option(help="scheduled,greedy,uniform,random")] = "scheduled",
    probe: Annotated[bool, typer.Option(help="Also the phonemes in each codebook.")] = False,
    read: Annotated[str, typer.Option(help="Also read the codes: phonemes,characters")] = "",
    out: Annotated[Path | None, typer.Option(help="JSON to write.")] = None,
) -> None:
    """Measure reconstruction (mel distance, SI-SDR, STOI, PESQ) and what each codebook knows."""
    from codec_lib.data import check_speakers
    from codec_lib.data import corpus as find_corpus
    from codec_lib.data.transcripts import Symbols
    from codec_lib.evaluation.comparison import as_text, compare_codecs, named_codecs
    from codec_lib.evaluation.results import write_results

    models = named_codecs(codecs)
    sample_rate = next(iter(models.values())).sample_rate
    speech = part_of(corpus, split, False, sample_rate)
    counts = option_numbers(n_q, "--n-q")
    known, unseen = (
        find_corpus("synthetic", part, sample_rate) if probe or read else None
        for part in ("train", "test")
    )
    told = [speech] if corpus != "synthetic" and all(one.text for one in speech) else []
    spoken = (known, [unseen, *told], read.split(",")) if read else None
    rates = option_numbers(frame_rate, "--frame-rate", float, may_be_empty=True)
    for kind in read.split(",") if read else []:  # mistakes are said before anything is measured
        Symbols(kind)
        check_speakers(known, spoken[1])
    if schemes != "scheduled" and not rates:
        raise ValueError("--schemes: got some without --frame-rate, at which they differ")
    limits = (max_utterances, max_seconds or None)
    aligned, cuts = (known, unseen) if probe else None, schemes.split(",")
    conditions = {name: model.fingerprint for name, model in models.items()}
    conditions = {"fingerprints": conditions, "corpus": corpus, "split": split}
    conditions |= {"max_utterances": max_utterances, "max_seconds": max_seconds}
    conditions |= {"probe": "synthetic, train to test" if probe else None, "read": read}

    def keep(rows: list[dict[str, Any]]) -> None:
        if out is not None:  # minutes a codec: what is known is kept
            write_results(out, rows, conditions)

    rows = compare_codecs(models, speech, counts, *limits, aligned, rates, cuts, spoken, keep)
    typer.echo(as_text(rows))
    if out is not None:
        typer.echo(f"written: {write_results(out, rows, conditions)}")


app.command("units")(units_command)
app.command("judge")(judge_command)
app.command("slmtokbench")(slmtokbench_command)
app.command("leaderboard")(leaderboard_command)
app.command("disentangle")(disentangle_command)
app.command("convert")(convert_command)
app.command("discrete")(discrete_command)
app.command("tone")(tone_command)
app.command("claims")(claims_command)
app.command("train-lm")(train_lm_command)
app.command("speak")(speak_command)
app.command("judge-lm")(judge_lm_command)
app.command("bands")(bands_command)


@app.command("export")
def export_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or a .safetensors of one.")],
    name: Annotated[str, typer.Argument(help="Name to ship it under, e.g. my-codec.")],
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "CC BY 4.0",
    final: Annotated[bool, typer.Option("--final", help="Last weights, not the best.")] = False,
) -> None:
    """Ship a run's averaged weights: half precision, listed by sha256, with a card to fill in."""
    from codec_lib.training.export import export_run

    for path in export_run(run, name, licence, final):
        typer.echo(f"written: {path}")


@app.command("bench")
def bench_command(
    quick: Annotated[bool, typer.Option("--quick", help="Shorter, and nothing is kept.")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON; data/results/bench.json if not.")] = None,
) -> None:
    """Measure speed and memory against the PyPI packages."""
    from codec_lib.evaluation.speed import main

    main(quick, out)


if __name__ == "__main__":
    app()
