r"""Commands of ``codec-lib`` that do not fit into ``cli.py``: the measuring of units.

Every command imports what it needs when it runs. Left out: training (``cli.py``).

Read next: ``evaluation/teacher_units.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

_COLUMNS = {  # of a row of units -> heading
    "num_units": "units",
    "pnmi": "PNMI",
    "phone_purity": "phone pur.",
    "code_purity": "code pur.",
    "abx_within": "ABX within",
    "abx_across": "ABX across",
    "perplexity": "perplexity",
    "speaker_accuracy": "speaker",
    "bigram_perplexity": "bigram",
    "units_per_second": "units/s",
}


def units_command(
    names: Annotated[
        list[str], typer.Argument(help="[LABEL=]NAME or file of a teacher or of Spin units.")
    ],
    corpus: Annotated[
        str, typer.Option(help="Corpora with train and test, joined by commas.")
    ] = "synthetic",
    test: Annotated[
        str, typer.Option(help="Corpora to test on instead, joined by commas; other speakers.")
    ] = "",
    align: Annotated[
        bool, typer.Option(help="Find phonemes that test speech lacks from its text: PocketSphinx.")
    ] = False,
    layer: Annotated[str, typer.Option(help="Hidden states, e.g. 0,4,avg; all if not.")] = "",
    units: Annotated[
        str, typer.Option(help="Of each k-means, e.g. 100,500; Spin's, or 100, if not.")
    ] = "",
    perturb: Annotated[str, typer.Option(help="voice,pitch,noise,room")] = "",
    max_frames: Annotated[int, typer.Option(help="Frames that k-means is fitted on.")] = 50_000,
    abx: Annotated[bool, typer.Option("--abx", help="Also ABX errors of phonemes.")] = False,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="JSON to write.")] = None,
) -> None:
    """Measure units of a teacher's layers, or Spin's; baselines are always measured with them."""
    from codec_lib.evaluation.comparison import labelled
    from codec_lib.evaluation.results import write_results
    from codec_lib.evaluation.teacher_units import (
        UnitSettings,
        compare_units,
        fresh_like,
        named_perturbations,
    )
    from codec_lib.teachers import Spin, load_teacher

    found = {label: load_teacher(name) for label, name in labelled(names).items()}
    spins = {name: one for name, one in found.items() if isinstance(one, Spin)}
    sizes = set(option_numbers(units, "--units", may_be_empty=True))
    sizes = sizes or {spin.config.num_codes for spin in spins.values()} or {100}
    layers = [_layer(part) for part in layer.split(",") if part]
    changes = named_perturbations([part for part in perturb.split(",") if part])
    options = {"seed": seed, "with_abx": abx}
    settings = UnitSettings(layers or None, sorted(sizes), changes, max_frames, **options)
    train, tested = part_of(corpus, "train", not test), part_of(test or corpus, "test", not test)
    tested = phonemes_where_none(tested) if align else tested
    first = next(iter(found.values()))
    networks = {"untrained": fresh_like(getattr(first, "teacher", first), train, seed)}
    networks |= {name: one for name, one in found.items() if name not in spins}
    functions = {name: (spin.units, spin.config.num_codes) for name, spin in spins.items()}
    rows = compare_units(networks, functions, train, tested, settings)
    typer.echo(units_text(rows, list(changes)))
    if out is not None:
        conditions = {name: one.fingerprint for name, one in found.items()}
        conditions = {"fingerprints": conditions, "corpus": corpus, "parts": "train to test"}
        conditions |= {"test": test or corpus, "aligned": align}
        conditions |= {"max_frames": max_frames, "seed": seed, "perturbations": list(changes)}
        typer.echo(f"written: {write_results(out, rows, conditions)}")


def part_of(names: str, split: str, strict: bool, sample_rate: int = 16_000) -> Any:
    r"""Find a part of corpora.

    Parameters
    ----------
    names
        Joined by commas.
    split
        ``"train"``, ``"dev"`` or ``"test"``.
    strict
        False takes them whole where none has any part, or only another one.
    sample_rate
        Hz.

    Returns
    -------
    Corpus
        As ``corpus``.

    Raises
    ------
    ValueError
        If there are parts, but no such one.
    """
    from codec_lib.data import corpus as find_corpus

    there = find_corpus(names).splits
    if split not in there and (len(there) > 1 or split not in ("train", "dev", "test")):
        raise ValueError(
            f"split: got {split!r}, expected one of {there or ['train', 'dev', 'test']}"
        )
    strict = strict or split in there
    return find_corpus(names, split if strict else None, sample_rate)


def phonemes_where_none(speech: Any) -> Any:
    r"""Align the utterances of a corpus that have no phonemes; the others keep theirs.

    Parameters
    ----------
    speech
        Corpus.

    Returns
    -------
    Corpus
        Less the utterances that ``sphinx_aligned`` leaves out.

    Raises
    ------
    ValueError
        As ``sphinx_aligned``.
    """
    from codec_lib.data import Corpus
    from codec_lib.teachers.sphinx import sphinx_aligned

    if all(one.phonemes for one in speech):
        return speech
    found = sphinx_aligned(speech.select(lambda one: not one.phonemes))
    known = {one.utterance_id: one for one in found}
    kept = [known.get(one.utterance_id, one) for one in speech]
    return Corpus(found.name, [one for one in kept if one.phonemes], speech.sample_rate)


def units_text(rows: Sequence[Mapping[str, Any]], changes: Sequence[str] = ()) -> str:
    r"""Lay rows of ``compare_units`` out as a table of plain text.

    Parameters
    ----------
    rows
        What to print; measures that a row lacks are empty.
    changes
        Names of perturbations, whose edit distance by units is printed.

    Examples
    --------
    >>> print(units_text([{"features": "mfcc", "layer": None, "num_units": 100, "pnmi": 0.5}]))
    features              layer       units        PNMI
    mfcc                                100       0.500
    """
    columns = {key: title for key, title in _COLUMNS.items() if any(key in row for row in rows)}
    columns |= {f"{name}_ued_units": f"UED {name}" for name in changes}
    lines = [f"{'features':<18}{'layer':>9}" + "".join(f"{t:>12}" for t in columns.values())]
    for row in rows:
        layer = "" if row["layer"] is None else str(row["layer"])
        cells = (row.get(key, "") for key in columns)
        text = (f"{c:>12}" if isinstance(c, int | str) else f"{c:>12.3f}" for c in cells)
        lines.append(f"{row['features']:<18}{layer:>9}" + "".join(text))
    return "\n".join(lines)


def option_numbers(
    text: str,
    option: str,
    kind: Callable[[str], Any] = int,
    by: str = ",",
    may_be_empty: bool = False,
) -> list[Any]:
    r"""Read the numbers of an option, e.g. ``100,500``.

    Parameters
    ----------
    text, option
        What was given, and what for.
    kind
        ``int`` or ``float``.
    by
        What joins them.
    may_be_empty
        True where no number at all means something.

    Raises
    ------
    ValueError
        If a part is no such number, or there is none; the message names the option.

    Examples
    --------
    >>> option_numbers("100,500", "--units"), option_numbers("0.5", "--temperature", float)
    ([100, 500], [0.5])
    """
    what = "whole numbers" if kind is int else "numbers"
    wrong = f"{option}: got {text!r}, expected {what} joined by {by!r}"
    try:
        found = [kind(part) for part in text.split(by) if part.strip()]
    except ValueError:
        raise ValueError(wrong) from None
    if not found and not may_be_empty:
        raise ValueError(wrong)
    return found


def _layer(text: str) -> int | str:
    """Read a hidden state: its number, or ``avg``."""
    return text if text == "avg" else option_numbers(text, "--layer")[0]


def codebook_counts(text: str, most: int) -> list[int]:
    """Read ``--n-q``: numbers of codebooks, of which those above the most there are become it."""
    return sorted({min(count, most) for count in option_numbers(text, "--n-q")})


def assignments(pairs: list[str]) -> dict[str, Any]:
    r"""Read ``key=value`` pairs, values as YAML.

    Examples
    --------
    >>> assignments(["lr=1e-3", "weights.adv_loss=2"])
    {'lr': '1e-3', 'weights.adv_loss': 2}
    """
    import yaml

    changes = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"--set: got {pair!r}, expected key=value, e.g. lr=1e-3")
        changes[key.strip()] = yaml.safe_load(value)
    return changes
