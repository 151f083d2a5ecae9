"""The claims as the README and notebook 35 show them are those of ``data/results/claims.json``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codec_lib.evaluation import read_results
from codec_lib.evaluation.claims import CLAIMS, claim_rows, claims_table, put_table
from codec_lib.evaluation.claims.report import MARKS, discoveries

ROOT = Path(__file__).parents[2]
FILE = ROOT / "data" / "results" / "claims.json"


def test_readme_has_the_table_of_the_file() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = text.partition(MARKS[0])[2].partition(MARKS[1])[0]
    hint = "codec-lib claims --table --into README.md"
    assert shown.strip() == claims_table(read_results(FILE)[0]), hint


def test_rows_say_what_the_catalogue_says() -> None:
    rows, _ = read_results(FILE)
    known = {claim.name: claim for claim in CLAIMS}
    names = [row["claim"] for row in rows]
    assert names == list(known)  # every one, in their order
    for row in rows:
        claim = known[row["claim"]]
        for field in ("statement", "paper", "metric", "source", "version"):
            assert row[field] == getattr(claim, field), (claim.name, field)


def test_verdicts_follow_from_the_values_of_single_seeds() -> None:
    rows, _ = read_results(FILE)
    values = {(row["claim"], int(seed)): figures for row in rows
              for seed, figures in row["by_seed"].items()}  # fmt: skip
    for row, again in zip(rows, claim_rows(values), strict=True):
        assert row["verdict"] == again["verdict"], row["claim"]
        assert row["gain"] == pytest.approx(again["gain"], abs=1e-4), row["claim"]
    assert read_results(FILE)[1]["discoveries"] == discoveries(rows)


def test_notebook_shows_the_rows_of_the_file() -> None:
    notebook = json.loads((ROOT / "notebooks" / "35_listening_and_leaderboard.ipynb").read_text())
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    (source,) = [source for source in sources if "claims.json" in source and "nb.table" in source]
    shown = []

    class Recorder:
        @staticmethod
        def table(rows: list[dict[str, object]], **options: object) -> None:
            shown.append(rows)

    exec(compile(source, "notebook 35", "exec"), {"nb": Recorder})
    known = {row["claim"]: row for row in read_results(FILE)[0]}
    assert [row["claim"] for row in shown[-1]] == list(known)
    for row in shown[-1]:
        assert {key: known[row["claim"]][key] for key in row} == row
        assert {"measured", "verdict", "paper"} <= row.keys()


def test_a_file_without_marks_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"one {MARKS[0]} two")
    with pytest.raises(ValueError, match="expected the marks"):
        put_table(path, [])
    assert path.read_text() == f"one {MARKS[0]} two"
