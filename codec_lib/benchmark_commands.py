r"""Commands of ``codec-lib`` that put codecs before judges: judge, slmtokbench, leaderboard.

Every command imports what it needs when it runs. Left out: what tables and figures mean.
Read next: ``evaluation/slmtokbench.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from codec_lib.commands import codebook_counts, part_of

Names = Annotated[list[str], typer.Argument(help="[LABEL=]NAME or file; untrained:NAME random.")]
Split = Annotated[str, typer.Option(help="train, dev or test; where there is none, all of it.")]
Counts = Annotated[str, typer.Option("--n-q", help="Numbers of codebooks; those there are.")]
Out = Annotated[Path | None, typer.Option(help="JSON to write.")]
Most = Annotated[int, typer.Option(help="Utterances, spread over the corpus.")]


def judge_command(
    codecs: Names,
    corpus: Annotated[str, typer.Option(help="Corpora, joined by commas.")] = "synthetic",
    split: Split = "test",
    judges: Annotated[
        str, typer.Option(help="signal,pitch,words,phonemes,speaker,quality; words=NAME ...")
    ] = "signal",
    n_q: Counts = "1,2,4,8",
    max_utterances: Most = 60,
    out: Out = None,
) -> None:
    """Let judges hear what codecs leave of whole utterances, beside the utterances themselves."""
    from codec_lib.evaluation.comparison import named_codecs
    from codec_lib.evaluation.judges import clips_of, judge_codec, make_judges
    from codec_lib.evaluation.results import write_results

    found, models = make_judges(judges.split(",")), named_codecs(codecs)
    clips = clips_of(part_of(corpus, split, False), max_utterances)
    originals, rows = {name: judge(clips) for name, judge in found.items()}, []
    conditions = {"corpus": corpus, "split": split, "utterances": len(clips), "judges": judges}
    conditions["fingerprints"] = _fingerprints(models)
    for name, codec in models.items():
        counts = codebook_counts(n_q, codec.num_quantizers)
        made = judge_codec(codec, clips, found, counts, originals)
        rows += [{"codec": name, **row} for row in made]
        if out is not None:  # minutes each: what is known is kept
            write_results(out, rows, conditions)
    typer.echo(judged_text(rows))


def slmtokbench_command(
    codecs: Annotated[
        list[str] | None, typer.Argument(help="[LABEL=]NAME or file; untrained:NAME random.")
    ] = None,
    units: Annotated[
        str, typer.Option(help="Also units: TEACHER:LAYER:UNITS or a Spin, joined by commas.")
    ] = "",
    train: Annotated[str, typer.Option(help="Corpora that the probe learns from.")] = "synthetic",
    test: Annotated[str, typer.Option(help="Corpora with text to test on.")] = "synthetic",
    n_q: Counts = "1,8",
    symbols: Annotated[str, typer.Option(help="characters or phonemes")] = "characters",
    embeddings: Annotated[
        str, typer.Option(help="How they start: random,centroids,codebooks; what there is counts.")
    ] = "random",
    probe: Annotated[str, typer.Option(help="small (minutes) or published (2 x 1024).")] = "small",
    steps: Annotated[int | None, typer.Option(help="Of the probe.")] = None,
    judges: Annotated[str, typer.Option(help="Of resynthesis, e.g. words,speaker,signal.")] = "",
    max_utterances: Most = 60,
    seed: int = 0,
    out: Out = None,
) -> None:
    """SLMTokBench: how well tokens tell the text, and what decoding them keeps of the speech."""
    from codec_lib.evaluation.comparison import named_codecs
    from codec_lib.evaluation.results import write_results
    from codec_lib.evaluation.slmtokbench import benchmark, probe_settings

    if not codecs and not units:
        raise ValueError("slmtokbench: got nothing to measure, expected a codec or --units")
    models = named_codecs(codecs or [])
    known = part_of(train, "train", False)
    tests = [part_of(name, "test", False) for name in test.split(",")]
    conditions = {"train": train, "test": test, "symbols": symbols, "probe": probe, "steps": steps}
    conditions |= {"seed": seed, "judges": judges, "max_utterances": max_utterances}
    conditions["fingerprints"] = _fingerprints(models)
    rows = benchmark(
        models,
        [part for part in units.split(",") if part],
        known,
        tests,
        {name: codebook_counts(n_q, model.num_quantizers) for name, model in models.items()},
        symbols,
        embeddings.split(","),
        probe_settings(probe, steps, seed),
        [part for part in judges.split(",") if part],
        max_utterances,
        typer.echo,
        None if out is None else lambda rows: write_results(out, rows, conditions),
    )
    typer.echo(bench_text(rows))


def leaderboard_command(
    codecs: Annotated[
        list[str] | None, typer.Argument(help="[LABEL=]NAME or file; all shipped codecs.")
    ] = None,
    corpus: Annotated[str, typer.Option(help="Held-out speech.")] = "synthetic",
    split: Split = "test",
    judges: Annotated[str, typer.Option(help="As in judge.")] = "signal",
    max_utterances: Most = 60,
    max_seconds: Annotated[float, typer.Option(help="Of each; 0 for all, with texts.")] = 6.0,
    opus: Annotated[bool, typer.Option(help="Also Opus.")] = True,
    out: Out = None,
) -> None:
    """Put codecs on one board: sound by bitrate, phonemes, usage, size, speed and memory."""
    from codec_lib import hub
    from codec_lib.evaluation import board
    from codec_lib.evaluation.comparison import named_codecs
    from codec_lib.evaluation.judges import clips_of, make_judges
    from codec_lib.evaluation.results import write_results

    models = named_codecs(codecs or hub.known_codecs())
    speech = part_of(corpus, split, False, 16_000)
    clips = clips_of(speech, max_utterances, max_seconds or None)
    rates = {codec.sample_rate for codec in models.values()}
    parts = {rate: tuple(part_of("synthetic", part, False, rate) for part in ("train", "test"))
             for rate in rates}  # fmt: skip
    conditions = {"corpus": corpus, "split": split, "clips": len(clips), "judges": judges}
    conditions |= {"max_seconds": max_seconds, "fingerprints": _fingerprints(models)}
    heard_by = make_judges(judges.split(","))
    for judge in heard_by.values():  # words and phonemes need whole clips: --max-seconds 0
        judge.check(clips)
    found = board.codec_rows(models, speech, parts)

    def keep(rows: list[dict[str, Any]]) -> None:
        if out is not None:
            write_results(out, [*found, *rows], conditions)

    options = {} if opus else {"opus_rates": ()}
    found += board.board_rows(models, clips, heard_by, **options, keep=keep, log=typer.echo)
    if out is not None:
        write_results(out, found, conditions)
    typer.echo(board.board_text(found))


def _fingerprints(models: Mapping[str, Any]) -> dict[str, str]:
    """Return the fingerprint of each codec."""
    return {name: model.fingerprint for name, model in models.items()}


def judged_text(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""Lay rows of ``judge_codec`` out as a table: each score, and that of the originals.

    Examples
    --------
    >>> row = {"codec": "a", "n_q": 1, "bitrate": 500.0, "utterances": 2, "wer": 0.5}
    >>> print(judged_text([{**row, "wer_original": 0.25}]))
    codec                   n_q      kbit/s                 wer
    a                         1         0.5       0.500 (0.250)
    """
    names = [key.removesuffix("_original") for key in rows[0] if key.endswith("_original")]
    lines = [f"{'codec':<18}{'n_q':>9}{'kbit/s':>12}" + "".join(f"{name:>20}" for name in names)]
    for row in rows:
        cells = (f"{row[name]:.3f} ({row[f'{name}_original']:.3f})" for name in names)
        first = f"{row['codec']:<18}{row['n_q']:>9}{row['bitrate'] / 1000:>12g}"
        lines.append(first + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


def bench_text(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""Lay rows of ``slmtokbench.benchmark`` out as tables.

    Examples
    --------
    >>> row = {"measure": "text alignment", "codec": "a", "n_q": 1, "initialisation": "random"}
    >>> row |= {"test": "synthetic", "mi": 31.24, "mi_per_symbol": 0.5, "cer": 0.2, "wer": 0.4}
    >>> print(bench_text([row]))
    text alignment       n_q initialisation        mi mi_per_symbol     cer     wer  test
    a                      1         random     31.24         0.500   0.200   0.400  synthetic
    """
    lines = []
    columns = {"mi": "9.2f", "mi_per_symbol": "13.3f", "per": "7.3f", "cer": "7.3f", "wer": "7.3f"}
    found = [row for row in rows if row["measure"] == "text alignment"]
    if found:
        shown = {key: form for key, form in columns.items() if key in found[0]}
        heads = "".join(f" {key:>{form.split('.')[0]}}" for key, form in shown.items())
        lines.append(f"{'text alignment':<18}{'n_q':>6} {'initialisation':>14}{heads}  test")
    for row in found:
        cells = "".join(f" {row[key]:{form}}" for key, form in shown.items())
        first = f"{row['codec']:<18}{row['n_q']:>6} {row['initialisation']:>14}"
        lines.append(f"{first}{cells}  {row['test']}")
    judged = [row for row in rows if row["measure"] != "text alignment" and row["n_q"]]
    return "\n".join([*lines, *([judged_text(judged)] if judged else [])])
