r"""Commands of ``codec-lib`` that run a study: disentangle, convert, discrete, tone, claims.

Every command imports what it needs when it runs. Left out: what the rows mean
(``docs/evaluations.md``). Read next: ``evaluation/studies.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from codec_lib.commands import (
    assignments,
    codebook_counts,
    option_numbers,
    part_of,
    phonemes_where_none,
)

Names = Annotated[list[str], typer.Argument(help="[LABEL=]NAME or file; untrained:NAME random.")]
Features = Annotated[
    list[str], typer.Argument(help="mfcc, log_mel, log_mel_context or TEACHER:LAYER.")
]
Corpora = Annotated[str, typer.Option("--corpus", help="Corpora, one after the other.")]
Split = Annotated[str, typer.Option(help="train, dev or test; where there is none, all of it.")]
Seeds = Annotated[str, typer.Option(help="Of everything random, joined by commas.")]
Out = Annotated[Path | None, typer.Option(help="JSON to write.")]


def disentangle_command(
    codecs: Names,
    corpora: Corpora = "synthetic",
    split: Split = "test",
    align: Annotated[
        bool, typer.Option(help="Find phonemes that speech lacks from its text: PocketSphinx.")
    ] = False,
    frames: Annotated[int, typer.Option(help="Frames kept of each utterance.")] = 100,
    max_utterances: Annotated[int, typer.Option(help="Of each corpus, spread over it.")] = 300,
    seed: int = 0,
    out: Out = None,
) -> None:
    """Ask every codebook, and all but the first together, for the speaker and the phoneme."""
    from codec_lib.evaluation.comparison import named_codecs
    from codec_lib.evaluation.studies import layers_study

    models, rows = named_codecs(codecs), []
    conditions = {"corpora": corpora, "split": split, "frames": frames, "aligned": align}
    conditions |= {"max_utterances": max_utterances, "seed": seed}
    conditions["fingerprints"] = _fingerprints(models)
    for name in corpora.split(","):
        for label, codec in models.items():
            speech = _some(part_of(name, split, False, codec.sample_rate), max_utterances)
            if align and any(one.text for one in speech):
                speech = phonemes_where_none(speech)
            found = layers_study(codec, speech, frames, seed)
            rows += [{"codec": label, "corpus": name, **row} for row in found]
            _save(out, rows, conditions)
    shown = ("speaker_accuracy", "speaker_silhouette", "phoneme_accuracy", "phoneme_silhouette")
    typer.echo(columns_text(rows, ("codec", "corpus", "layers"), shown))


def convert_command(
    codecs: Names,
    corpora: Corpora = "synthetic",
    split: Split = "test",
    pairs: Annotated[int, typer.Option(help="Source and reference, of each corpus.")] = 30,
    judges: Annotated[str, typer.Option(help="speaker,words; as in judge.")] = "speaker,words",
    n_q: Annotated[str, typer.Option("--n-q", help="Rows in all; those there are.")] = "",
    seed: int = 0,
    out: Out = None,
) -> None:
    """Convert voices by swapping codebooks; judge voice and words by the rows that are swapped."""
    from codec_lib.evaluation.comparison import named_codecs
    from codec_lib.evaluation.conversion import conversion_curve, conversion_pairs
    from codec_lib.evaluation.judges import make_judges

    models, made, rows = named_codecs(codecs), make_judges(judges.split(",")), []
    conditions = {"corpora": corpora, "split": split, "pairs": pairs, "judges": judges}
    conditions |= {"seed": seed, "fingerprints": _fingerprints(models)}
    for name in corpora.split(","):
        for label, codec in models.items():
            speech = part_of(name, split, False, codec.sample_rate)
            several = conversion_pairs(speech, pairs, seed)
            counts = codebook_counts(n_q, codec.num_quantizers) if n_q else None
            found = conversion_curve(codec, speech, several, made, counts)
            rows += [{"codec": label, "corpus": name, **row} for row in found]
            _save(out, rows, conditions)
            typer.echo(f"{label}, {name}: {found[0]['pairs']} pairs converted")
            if "words" in made and "wer" not in found[0]:
                typer.echo(f"{name}: not every source has a text, so words are not judged")
    shown = ("speaker_similarity", "source_similarity", "wer", "cer")
    typer.echo(columns_text(rows, ("codec", "corpus", "kind", "n_q"), shown))


def discrete_command(
    features: Features,
    task: Annotated[
        str, typer.Option(help="phonemes, characters, label, speaker or slot:NAME.")
    ] = "phonemes",
    train: Annotated[
        str, typer.Option(help="Corpora to learn from, joined by commas.")
    ] = "synthetic",
    test: Annotated[str, typer.Option(help="Corpora to test on, joined by commas.")] = "synthetic",
    units: Annotated[str, typer.Option(help="Of each k-means.")] = "100,500",
    vocabularies: Annotated[str, typer.Option(help="Of each byte-pair encoding on top.")] = "1000",
    hidden: Annotated[str, typer.Option(help="Sizes of the head.")] = "128",
    perturb: Annotated[str, typer.Option(help="Also test so: voice,pitch,noise,room")] = "noise",
    steps: Annotated[int | None, typer.Option(help="Of the head.")] = None,
    seeds: Seeds = "0,1,2",
    out: Out = None,
) -> None:
    """Read a task from continuous features, their centroids, units, merged and encoded units."""
    from codec_lib.evaluation.studies import DiscreteSettings, discrete_study

    sizes = [
        option_numbers(units, "--units"),
        option_numbers(vocabularies, "--vocabularies", may_be_empty=True),
        option_numbers(hidden, "--hidden"),
    ]
    changes = [part for part in perturb.split(",") if part]
    settings = DiscreteSettings(*sizes, steps, option_numbers(seeds, "--seeds"), changes)
    known, tested = part_of(train, "train", False), part_of(test, "test", False)
    conditions = {"task": task, "train": train, "test": test, "perturb": perturb, "steps": steps}
    conditions |= {"seeds": seeds, "num_train": len(known), "num_test": len(tested)}
    rows = []
    for name in features:
        rows += discrete_study(name, task, known, tested, settings, typer.echo)
        _save(out, rows, conditions)
    keys = ("features", "form", "test", "hidden")
    typer.echo(columns_text(rows, keys, ("error", "cost", "cost_low", "cost_high", "bitrate")))


def tone_command(
    features: Features,
    train: Annotated[str, typer.Option(help="Syllables to learn from.")] = "synthetic/mandarin",
    test: Annotated[str, typer.Option(help="Syllables to test on.")] = "synthetic/mandarin",
    units: Annotated[str, typer.Option(help="Of each single k-means.")] = "50,100,500,1000",
    pairs: Annotated[
        str, typer.Option(help="Two codebooks, residual and task-aware: N+M.")
    ] = "32+32,100+10",
    seeds: Seeds = "0,1,2",
    epochs: Annotated[int, typer.Option(help="Of the probes.")] = 20,
    out: Out = None,
) -> None:
    """Ask syllables for tone and vowel, before and after their features became units."""
    from codec_lib.evaluation.studies import tone_study

    two = [tuple(option_numbers(part, "--pairs", by="+")) for part in pairs.split(",") if part]
    if any(len(one) != 2 for one in two):
        raise ValueError(f"--pairs: got {pairs!r}, expected N+M,..., e.g. 32+32")
    known, tested = part_of(train, "train", False), part_of(test, "test", False)
    conditions = {"train": train, "test": test, "seeds": seeds, "epochs": epochs}
    conditions |= {"num_train": len(known), "num_test": len(tested)}
    rows = []
    for name in features:
        options = (option_numbers(units, "--units"), two, option_numbers(seeds, "--seeds"), epochs)
        rows += tone_study(name, known, tested, *options, typer.echo)
        _save(out, rows, conditions)
    keys = ("features", "pitch", "input", "discretiser")
    typer.echo(columns_text(over_seeds(rows, keys, ("tone", "vowel")), keys, ("tone", "vowel")))


def claims_command(
    only: Annotated[str, typer.Option(help="Numbers of claims, joined by commas; all.")] = "",
    seeds: Seeds = "0,1,2",
    budget: Annotated[float, typer.Option(help="Minutes; what is done by then is kept.")] = 0.0,
    corpus: Annotated[str | None, typer.Option(help="What codecs learn from.")] = None,
    heard: Annotated[str | None, typer.Option(help="Other speakers, to measure on.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of every codec, all stages.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of trainings and values.")] = Path(
        "runs/claims"
    ),
    table: Annotated[
        bool, typer.Option("--table", help="Only show what is known, by default what ships.")
    ] = False,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of ClaimSettings; repeat.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="Markdown file whose table is written anew, e.g. README.md.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="JSON; goes on with what it holds; claims.json in --runs.")
    ] = None,
) -> None:
    """Test the papers' claims over seeds; the same command again goes on where it stopped."""
    from codec_lib.evaluation import claims
    from codec_lib.paths import data_root

    given = {"corpus": corpus, "heard": heard, "steps": steps}
    given = {key: value for key, value in given.items() if value is not None}
    settings, done = claims.settings_of({**given, **assignments(change or [])}), True
    if table and (only or seeds != "0,1,2"):
        raise ValueError("--table: got --only or --seeds too, but it shows all that is known")
    if out is None:
        out = (data_root() / "results" if table else runs) / "claims.json"
    if table:
        rows = claims.claim_rows(claims.known_values(runs, out, settings))
    else:
        wanted, minutes = option_numbers(only, "--only", may_be_empty=True), budget or float("inf")
        asked = (wanted, option_numbers(seeds, "--seeds"), settings, minutes, typer.echo)
        rows, done = claims.run_claims(runs, out, *asked)
    typer.echo(claims.claims_table(rows))
    if into is not None:
        claims.put_table(into, rows)
    if not done:
        typer.echo("The budget is spent. Hint: the same command goes on.")


def _some(speech: Any, count: int) -> Any:
    """Return utterances spread over a corpus."""
    from codec_lib.evaluation.reconstruction import spread_indices

    kept = {speech[index].utterance_id for index in spread_indices(len(speech), count)}
    return speech.select(lambda one: one.utterance_id in kept)


def _fingerprints(models: Mapping[str, Any]) -> dict[str, str]:
    """Return the fingerprint of each codec."""
    return {name: model.fingerprint for name, model in models.items()}


def _save(out: Path | None, rows: Sequence[Any], conditions: Mapping[str, Any]) -> None:
    """Write what is known so far where a file is asked for: the rest may take an hour."""
    from codec_lib.evaluation.results import write_results

    if out is not None:
        write_results(out, rows, conditions)


def over_seeds(
    rows: Iterable[Mapping[str, Any]], keys: Sequence[str], measures: Sequence[str]
) -> list[dict[str, Any]]:
    r"""Average rows that differ by seed only.

    Parameters
    ----------
    rows
        Of a study.
    keys
        What makes a row another one.
    measures
        What to average; those that a row lacks are left out.

    Returns
    -------
    list[dict[str, Any]]
        In the order of first appearance, with ``seeds``, their number.

    Examples
    --------
    >>> over_seeds([{"a": 1, "tone": 0.5}, {"a": 1, "tone": 0.7}], ["a"], ["tone"])
    [{'a': 1, 'seeds': 2, 'tone': 0.6}]
    """
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [
        {
            **dict(zip(keys, names, strict=True)),
            "seeds": len(some),
            **{m: sum(r[m] for r in some) / len(some) for m in measures if m in some[0]},
        }
        for names, some in groups.items()
    ]


def columns_text(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], measures: Sequence[str]
) -> str:
    r"""Lay rows out as a table; what a row lacks is empty, and so is a column that all lack.

    Parameters
    ----------
    rows
        Of a study.
    names
        Columns of text, to the left.
    measures
        Columns of numbers.

    Examples
    --------
    >>> print(columns_text([{"codec": "a", "wer": 0.5}], ["codec"], ["wer", "cer"]))
    codec    wer
    a      0.500
    """
    shown = [key for key in measures if any(key in row for row in rows)]
    heads = [*names, *shown]
    table = [heads]
    for row in rows:
        cells = [str(row.get(key, "")) for key in names]
        found = (row.get(key) for key in shown)
        table.append([*cells, *("" if v is None else f"{v:.3f}" for v in found)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for line in table:
        cells = zip(line, widths, heads, strict=True)
        lines.append("  ".join(c.ljust(w) if h in names else c.rjust(w) for c, w, h in cells))
    return "\n".join(line.rstrip() for line in lines)
