r"""From values of single seeds to verdicts: kept on disk one by one, so nothing is measured twice.

Every value is a file of its own, named after claim and seed, and carries the settings and the
version of the measure. ``claims.json`` is made of those files and of the values it held before.
Intervals are Student's over seeds: with three, a mean must be 4.3 standard errors from zero to be
called anything but inconclusive. Leaves out: tests over utterances, which each study has.
Read next: ``../studies.py``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from codec_lib.training.checkpoints import write_atomic

from ..results import read_results, write_results
from .catalogue import CLAIMS, Claim
from .workshop import ClaimSettings, OutOfTime, Workshop

Values = dict[tuple[str, int], dict[str, float]]
MARKS = ("<!-- claims: begin -->", "<!-- claims: end -->")


def seeds_interval(values: Sequence[float]) -> tuple[float, float]:
    r"""Return the 95 % interval of a mean over few seeds, by Student's t.

    Examples
    --------
    >>> low, high = seeds_interval([1.0, 2.0, 3.0])
    >>> round(low, 2), round(high, 2)
    (-0.48, 4.48)
    """
    if len(values) < 2:
        return math.nan, math.nan
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return float(np.mean(values)) - reach, float(np.mean(values)) + reach


def p_value(values: Sequence[float]) -> float:
    r"""Return the probability of a mean so far from zero by chance, Student's, from both sides.

    Below 0.05 where ``seeds_interval`` leaves zero out; NaN where there is no interval.

    Examples
    --------
    >>> round(p_value([1.0, 2.0, 3.0]), 3)
    0.074
    """
    if len(values) < 2 or np.ptp(values) == 0:
        return math.nan
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def discoveries(rows: Sequence[Mapping[str, Any]], level: float = 0.05) -> dict[str, Any]:
    r"""Say how many verdicts stand where so many are asked for [Benjamini 1995].

    Of n claims tested, sorted by p, those up to the last with p_(i) <= i level / n are kept: of
    them at most the share ``level`` is there by chance, in the mean.

    Parameters
    ----------
    rows
        See ``claim_rows``; those without a p-value do not count.
    level
        Share of false ones.

    Returns
    -------
    dict[str, Any]
        ``tested``, ``alone`` (p below ``level``), ``kept``, ``lost`` (names of those in between).

    Examples
    --------
    >>> rows = [{"claim": name, "p_value": p} for name, p in (("1", 0.01), ("2", 0.04), ("3", 0.2))]
    >>> discoveries(rows)
    {'tested': 3, 'alone': 2, 'kept': 1, 'lost': ['2']}
    """
    tested = sorted((row["p_value"], row["claim"]) for row in rows if row["p_value"] is not None)
    tested = [(p, name) for p, name in tested if not math.isnan(p)]
    passed = [i for i, (p, _) in enumerate(tested, 1) if p <= i * level / len(tested)]
    kept, alone = max(passed, default=0), sum(p < level for p, _ in tested)
    lost = [name for _, name in tested[kept:alone]]
    return {"tested": len(tested), "alone": alone, "kept": kept, "lost": lost}


def verdict(low: float, high: float, seeds: int = 3) -> str:
    r"""Return what an interval of the gain says of the claim.

    Parameters
    ----------
    low, high
        Ends of the interval; NaN where there is none.
    seeds
        How many it is of.

    Examples
    --------
    >>> verdict(0.5, 2.0), verdict(-2.0, -0.5), verdict(-1.0, 2.0)
    ('reproduced', 'not reproduced', 'inconclusive')
    >>> verdict(math.nan, math.nan, seeds=1), verdict(math.nan, math.nan, seeds=2)
    ('one seed', 'not measurable')
    """
    if math.isnan(low):
        return "one seed" if seeds == 1 else "not measurable"
    return "reproduced" if low > 0 else "not reproduced" if high < 0 else "inconclusive"


def measure_claims(
    shop: Workshop, claims: Iterable[Claim], seeds: Sequence[int], known: Values
) -> None:
    r"""Measure what is not known yet, seed by seed, until it is done or the budget is spent.

    Parameters
    ----------
    shop
        With its settings and budget.
    claims, seeds
        Wanted.
    known
        Values that are not measured again; new ones are added.

    Raises
    ------
    OutOfTime
        If the budget is spent first. What was measured is in files, and in ``known``.
    """
    claims = list(claims)
    for seed in seeds:
        for claim in claims:
            if (claim.name, seed) in known:
                continue
            shop.minutes_left()
            found = {key: float(value) for key, value in claim.measure(shop, seed).items()}
            _write_value(shop, claim, seed, found)
            known[claim.name, seed] = found
            shop.log(f"claim {claim.name}, seed {seed}: {found['gain']:+.3g} ({claim.metric})")


def _write_value(shop: Workshop, claim: Claim, seed: int, found: Mapping[str, float]) -> None:
    """Write one value, with the settings it was measured with."""
    folder = shop.root / "values"
    folder.mkdir(parents=True, exist_ok=True)
    value = {"settings": asdict(shop.settings), "version": claim.version, "figures": dict(found)}
    text = json.dumps(value, indent=1)
    write_atomic(folder / f"{claim.name}-{seed}.json", lambda path: path.write_text(text))


def known_values(root: str | Path, out: str | Path | None, settings: ClaimSettings) -> Values:
    r"""Collect values of these settings: from a result file, then from the folder of runs.

    Values of claims that are no longer there, or of another version of their measure, do not count.

    Parameters
    ----------
    root, settings
        Of the workshop.
    out
        The result file, if there is one.

    Raises
    ------
    ValueError
        If the result file holds values of other settings, which would be lost.
    """
    own, values = asdict(settings), {}
    versions = {claim.name: claim.version for claim in CLAIMS}
    if out is not None and Path(out).exists():
        rows, conditions = read_results(out)
        held = conditions.get("settings", {})
        differ = [key for key in own if held.get(key) != own[key]]
        if differ:
            raise ValueError(
                f"{out}: got values of other settings ({', '.join(differ)}), expected the same. "
                "Hint: another --out"
            )
        for row in rows:
            if versions.get(row["claim"]) == row.get("version", 1):
                for seed, figures in row["by_seed"].items():
                    values[row["claim"], int(seed)] = figures
    for file in sorted((Path(root) / "values").glob("*.json")):
        kept = json.loads(file.read_text(encoding="utf-8"))
        name, _, seed = file.stem.rpartition("-")
        if kept["settings"] == own and versions.get(name) == kept.get("version", 1):
            values[name, int(seed)] = kept["figures"]
    return values


def claim_rows(values: Values) -> list[dict[str, Any]]:
    r"""Turn values into rows of a table, in the order of the catalogue.

    Parameters
    ----------
    values
        By claim and seed.

    Returns
    -------
    list[dict[str, Any]]
        For every claim that was measured ``claim``, ``version``, ``source``, ``statement``,
        ``metric``, ``paper``, ``seeds`` (their number), ``gain`` with ``gain_low`` and
        ``gain_high``, ``measured`` (the three as text), ``p_value``, ``verdict``, ``by_seed``.
    """
    rows = []
    for claim in CLAIMS:
        own = {
            seed: values[claim.name, seed] for name, seed in sorted(values) if name == claim.name
        }
        if not own:
            continue
        gains = [figures["gain"] for figures in own.values()]
        low, high = seeds_interval(gains)
        row: dict[str, Any] = {"claim": claim.name, "version": claim.version}
        row |= {"source": claim.source}
        row |= {"statement": claim.statement, "metric": claim.metric, "paper": claim.paper}
        row |= {"seeds": len(own), "gain": float(np.mean(gains))}
        row |= {"gain_low": low, "gain_high": high, "verdict": verdict(low, high, len(own))}
        row |= {"p_value": p_value(gains)}
        spread = "" if math.isnan(low) else f" ({low:+.2f} to {high:+.2f})"
        row |= {"measured": f"{row['gain']:+.2f}{spread}"}
        rows.append(row | {"by_seed": {str(seed): figures for seed, figures in own.items()}})
    return rows


def claims_table(rows: Iterable[Mapping[str, Any]]) -> str:
    r"""Lay rows out as a Markdown table.

    Examples
    --------
    >>> row = {"claim": "1", "statement": "A beats B", "source": "Paper", "paper": "2 to 1"}
    >>> row |= {"metric": "points", "measured": "+1.00", "seeds": 3, "verdict": "reproduced"}
    >>> print(claims_table([row]).splitlines()[-1])
    | 1 | A beats B (Paper) | 2 to 1 | +1.00 points | 3 | reproduced |
    """
    heads = ("", "claim", "paper", "measured, mean and 95 % over seeds", "seeds", "verdict")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        said, found = f"{row['statement']} ({row['source']})", f"{row['measured']} {row['metric']}"
        cells = (row["claim"], said, row["paper"], found, str(row["seeds"]), row["verdict"])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def put_table(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    r"""Write the table into a Markdown file, between its two marks.

    Parameters
    ----------
    path
        The file; ``MARKS`` stand in it, each on a line of its own.
    rows
        See ``claim_rows``.

    Raises
    ------
    ValueError
        If a mark is missing; the file stays as it is.
    """
    path = Path(path)
    before, first, rest = path.read_text(encoding="utf-8").partition(MARKS[0])
    _, last, after = rest.partition(MARKS[1])
    if not first or not last:
        raise ValueError(f"{path}: expected the marks {MARKS[0]} and {MARKS[1]}, got not both")
    text = f"{before}{first}\n{claims_table(rows)}\n{last}{after}"
    write_atomic(path, lambda target: target.write_text(text, encoding="utf-8"))


def run_claims(
    root: str | Path,
    out: str | Path | None = None,
    only: Sequence[int] = (),
    seeds: Sequence[int] = (0, 1, 2),
    settings: ClaimSettings | None = None,
    minutes: float = math.inf,
    log: Any = print,
) -> tuple[list[dict[str, Any]], bool]:
    r"""Measure claims as far as the budget goes, and write what is known of all of them.

    Parameters
    ----------
    root
        Folder of runs and values; kept, so that the same call goes on.
    out
        Result file; its values of the same settings count as known.
    only
        Numbers of claims; all by default.
    seeds
        Each trains everything anew.
    settings
        See ``ClaimSettings``.
    minutes
        Budget, by the clock.
    log
        Called with lines for people.

    Returns
    -------
    tuple[list[dict[str, Any]], bool]
        ``claim_rows`` of all values that are known; whether everything asked for is among them.

    Raises
    ------
    ValueError
        If there is no such claim.
    """
    settings = settings or ClaimSettings()
    numbers = sorted({claim.number for claim in CLAIMS})
    unknown = sorted(set(only) - set(numbers))
    if unknown:
        raise ValueError(f"claims: got {unknown}, expected some of 1 to {numbers[-1]}")
    chosen = [claim for claim in CLAIMS if not only or claim.number in only]
    values, done = known_values(root, out, settings), True
    try:
        measure_claims(Workshop(root, settings, minutes, log), chosen, seeds, values)
    except OutOfTime:
        done = False
    rows = claim_rows(known_values(root, out, settings))  # another process may have found more
    if out is not None:
        about = {"settings": asdict(settings), "discoveries": discoveries(rows)}
        write_results(out, rows, about)
    return rows, done
