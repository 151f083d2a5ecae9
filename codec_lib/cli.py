r"""The ``codec-lib`` command: train, encode, decode, look, measure, export.

Every command imports what it needs when it runs, so that ``--help`` is quick. What the user got
wrong is one line and exit code 2; ``CODEC_LIB_TRACEBACK=1`` shows where it came from.

Left out: anything a notebook does better.

Read next: ``training/loop.py``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


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
teacher_app = _group("Train teachers.")
app.add_typer(corpus_app, name="corpus")
app.add_typer(teacher_app, name="teacher")

Text = Annotated[str | None, typer.Option()]
Number = Annotated[float | None, typer.Option()]
Count = Annotated[int | None, typer.Option()]


@app.command()
def train(
    codec: Annotated[str, typer.Argument(help="Codec by registry name, e.g. speechtokenizer.")],
    scale: Annotated[str | None, typer.Option(help="smoke, small or paper.")] = None,
    preset: Annotated[str | None, typer.Option(help="Start from these values.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML of training options.")] = None,
    corpus: Annotated[str | None, typer.Option(help="Corpora, joined by commas.")] = None,
    valid_corpus: Annotated[str | None, typer.Option(help="Held-out corpora.")] = None,
    steps: Count = None,
    batch_size: Annotated[int | None, typer.Option(help="Crops per step, all devices.")] = None,
    segment_seconds: Number = None,
    recipe: Annotated[str | None, typer.Option(help="paper, official or small.")] = None,
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
    """Train a codec; the same command again goes on where it was interrupted."""
    flags = {
        key: value
        for key, value in locals().items()
        if value is not None and key not in ("preset", "config", "out", "change", "fresh")
    }
    from codec_lib.training.config import load_config, read_mapping
    from codec_lib.training.loop import train as run

    in_file = read_mapping(config) if config else {}
    preset = preset or scale or in_file.get("scale") or "small"
    if "out_dir" not in in_file:
        flags["out_dir"] = f"runs/{codec}-{preset}"
    if out is not None:
        flags["out_dir"] = str(out)
    if teacher is not None and distill is None and in_file.get("distill", "none") == "none":
        flags["distill"] = "continuous"
    settings = load_config(preset, config, {**flags, **_assignments(change or [])})
    folder = run(settings, fresh=fresh)
    if int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0:
        typer.echo(f"run: {folder}")


def _assignments(pairs: list[str]) -> dict[str, Any]:
    """Read ``key=value`` pairs, values as YAML."""
    import yaml

    changes = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"--set: got {pair!r}, expected key=value, e.g. lr=1e-3")
        changes[key.strip()] = yaml.safe_load(value)
    return changes


@app.command()
def encode(
    source: Annotated[Path, typer.Argument(metavar="IN.wav")],
    target: Annotated[Path, typer.Argument(metavar="OUT.codes")],
    codec: Annotated[str, typer.Option(help="Shipped name or file.")] = "speechtokenizer-small",
    n_q: Annotated[
        int | None, typer.Option("--n-q", help="Codebooks to use; all by default.")
    ] = None,
) -> None:
    """Encode a sound file of any length and rate into a file of codes."""
    from codec_lib import audio, bitstream, hub
    from codec_lib.codecs.chunked import encode as encode_long

    model = hub.load(codec)
    wav = audio.read(source, model.sample_rate)  # (1, T)
    codes = encode_long(model, wav.unsqueeze(0), n_q=n_q)
    bitstream.write_codes(target, codes, model, codec)
    seconds = wav.shape[-1] / model.sample_rate
    rate = 8 * target.stat().st_size / max(seconds, 1e-9)
    typer.echo(
        f"{target}: {seconds:.2f} s, {codes.n_q} codebooks, {target.stat().st_size} bytes, "
        f"{rate / 1000:.2f} kbit/s with header ({model.bitrate(codes.n_q) / 1000:.2f} without)"
    )


@app.command()
def decode(
    source: Annotated[Path, typer.Argument(metavar="IN.codes")],
    target: Annotated[Path, typer.Argument(metavar="OUT.wav")],
    codec: Annotated[str | None, typer.Option(help="Other than the file names.")] = None,
    n_q: Annotated[
        int | None, typer.Option("--n-q", help="Decode the first codebooks only.")
    ] = None,
) -> None:
    """Decode a file of codes into a sound file."""
    from codec_lib import audio, bitstream, hub
    from codec_lib.codecs.chunked import decode as decode_long

    codes, header = bitstream.read_codes(source)
    model = hub.load(codec or header.codec)
    wav = decode_long(model, codes if n_q is None else codes.select(range(n_q)))
    audio.write(target, audio.peak_guard(wav[0]), model.sample_rate)
    typer.echo(f"{target}: {wav.shape[-1] / model.sample_rate:.2f} s at {model.sample_rate} Hz")


@app.command()
def info(
    name: Annotated[str | None, typer.Argument(help="Codec, checkpoint, .codes or run.")] = None,
) -> None:
    """Describe a codec, a checkpoint, codes or a run; without a name, list what there is."""
    raise NotImplementedError
