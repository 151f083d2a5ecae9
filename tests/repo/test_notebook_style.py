r"""The notebook template: budgets, order of cells, parameters, exercises, no outputs."""

from __future__ import annotations

import ast
import re
from itertools import groupby

import pytest
import yaml
from nbconvert.filters.markdown_mistune import MarkdownWithMath

from codec_lib import nb, pages

MANIFEST_KEYS = {
    "file": str,
    "title": str,
    "question": str,
    "device": str,
    "timeout": dict,
    "consumes": list,
    "produces": list,
    "players": int,
    "pictures": int,
}
PROFILES = {"smoke", "cpu", "gpu", "paper"}
# Headings or first words of markdown cells, in the order in which they must come.
ORDER = (
    r"question",
    r"objectives",
    r"predict",
    r"break it",
    r"in the library",
    r"exercises",
    r"results",
    r"summary",
    r"references",
    r"next",
)


@pytest.fixture(scope="module")
def manifest(root):
    path = root / "notebooks" / "manifest.yml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))["notebooks"]


def _tree(cell):
    lines = ["" if line.startswith(("%", "!")) else line for line in cell.text.splitlines()]
    return ast.parse("\n".join(lines))


def test_manifest_entries_are_well_formed(manifest, report):
    problems = []
    for entry in manifest:
        name = entry.get("file", "?")
        for key, kind in MANIFEST_KEYS.items():
            if not isinstance(entry.get(key), kind):
                problems.append(f"{name}: {key} is {entry.get(key)!r}, expected {kind.__name__}")
        problems += [f"{name}: unknown key {key}" for key in set(entry) - set(MANIFEST_KEYS)]
        if set(entry.get("timeout", {})) != PROFILES:
            problems.append(f"{name}: timeout needs {sorted(PROFILES)}")
        if not re.fullmatch(r"\d\d[a-z]?_[a-z0-9_]+", name):
            problems.append(f"{name}: expected NN_topic_in_words")
    report(problems)


def test_manifest_lists_every_notebook_in_order(manifest, notebooks):
    listed = [entry["file"] for entry in manifest]
    assert listed == sorted(set(listed))
    assert set(listed) == {notebook.name for notebook in notebooks}


def test_notebooks_hold_no_outputs(notebooks, report):
    problems = []
    for notebook in notebooks:
        ids = [cell.raw.get("id") for cell in notebook.cells]
        if None in ids or len(set(ids)) != len(ids):
            problems.append(f"{notebook.name}: cell ids are missing or not unique")
        for number, cell in enumerate(notebook.cells):
            if cell.raw.get("outputs") or cell.raw.get("execution_count"):
                problems.append(f"{notebook.name}, cell {number}: has outputs; run make format")
    report(problems)


def test_budgets(notebooks, report):
    problems = []
    for notebook in notebooks:
        code, prose = notebook.code, notebook.prose
        words = sum(len(re.findall(r"\w+", cell.text)) for cell in prose)
        lines = [len(cell.lines) for cell in code]
        runs = [
            len(list(g)) for kind, g in groupby(c.kind for c in notebook.cells) if kind == "code"
        ]
        long = sum(n > 20 for n in lines)
        figures = {
            "cells": (len(notebook.cells), 20, 80),
            "markdown cells per code cell": (len(prose) / max(1, len(code)), 1.0, 3.0),
            "words": (words, 800, 4500),
            "code lines": (sum(lines), 60, 350),
            "lines of the longest code cell": (max(lines), 1, 30),
            "mean lines of a code cell": (sum(lines) / len(lines), 1, 12),
            "share of code cells over 20 lines": (long / len(lines), 0, 0.1),
            "code cells in a row": (max(runs), 1, 3),
            "widest code line": (max(len(s) for c in code for s in c.text.splitlines()), 1, 100),
        }
        for what, (got, low, high) in figures.items():
            if not low <= got <= high:
                problems.append(f"{notebook.name}: {what}: {got:.4g}, expected {low} to {high}")
    report(problems)


def test_equations_hold_no_doubled_backslash(notebooks, report):
    r"""A doubled one is a line break and a word; cells written by a script slip into it."""
    problems = []
    for notebook in notebooks:
        for cell in notebook.prose:
            for maths in re.findall(r"\$\$.*?\$\$|\$[^$\n]+\$", cell.text, re.S):
                doubled = re.findall(r"\\\\[a-zA-Z]+", maths)
                problems += [f"{notebook.name}: {word} in {maths[:40]!r}" for word in doubled]
    report(problems)


def test_pages_can_show_every_formula(notebooks, report):
    problems = []
    for notebook in notebooks:
        for cell in notebook.prose:
            try:
                MarkdownWithMath(renderer=pages.OfflineMath(escape=False)).render(cell.text)
            except ValueError as error:
                problems.append(f"{notebook.name}: {error}")
    report(problems)


def test_definitions_in_notebooks_are_short(notebooks, report):
    problems = []
    for notebook in notebooks:
        for number, cell in enumerate(notebook.cells):
            if cell.kind != "code":
                continue
            for node in ast.walk(_tree(cell)):
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    length = node.end_lineno - node.lineno + 1
                    if length > 20:
                        problems.append(f"{notebook.name}, cell {number}: {node.name}: {length}")
    report(problems)


def test_cells_follow_the_template(notebooks, report):
    problems = []
    for notebook in notebooks:
        cells, code = notebook.cells, notebook.code
        if "nb-header" not in cells[0].tags or not cells[0].text.startswith("# "):
            problems.append(f"{notebook.name}: the first cell is not a header tagged nb-header")
        if "parameters" not in code[0].tags or sum("parameters" in c.tags for c in code) != 1:
            problems.append(f"{notebook.name}: the first code cell alone is tagged parameters")
        if "nb.setup(" not in code[1].text or len(code[1].lines) > 8:
            problems.append(f"{notebook.name}: the second code cell is the set-up, at most 8 lines")
        if "nb.finish(" not in code[-1].text:
            problems.append(f"{notebook.name}: the last code cell does not call nb.finish")
        titles = [
            title.lower()
            for cell in notebook.prose
            for title in re.findall(r"^(?:#+ |\*\*)(.+?)(?:\*\*|$)", cell.text, re.M)
        ]
        position = 0
        for word in ORDER:
            found = [i for i, t in enumerate(titles) if i >= position and re.search(word, t)]
            if found:
                position = found[0]
            else:
                problems.append(f"{notebook.name}: no heading with {word!r} where the order has it")
    report(problems)


def _literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def test_parameters_are_literals_with_comments_and_read_later(notebooks, report):
    problems = []
    for notebook in notebooks:
        cell = notebook.code[0]
        names = []
        for node in _tree(cell).body:
            target = node.targets[0] if isinstance(node, ast.Assign) else None
            if not isinstance(target, ast.Name) or not _literal(node.value):
                problems.append(f"{notebook.name}: not a literal: {ast.unparse(node)}")
                continue
            names.append(target.id)
            if "#" not in cell.text.splitlines()[node.lineno - 1]:
                problems.append(f"{notebook.name}: {target.id} has no comment")
        later = "\n".join(c.text for c in notebook.code[1:])
        read = {n.id for n in ast.walk(_tree_of(later)) if isinstance(n, ast.Name)}
        problems += [f"{notebook.name}: {n} is never read" for n in names if n not in read]
        problems += [
            f"{notebook.name}: no parameter {n}" for n in ("PROFILE", "SEED") if n not in names
        ]
    report(problems)


def _tree_of(text: str) -> ast.Module:
    lines = ["" if line.startswith(("%", "!")) else line for line in text.splitlines()]
    return ast.parse("\n".join(lines))


def _names(cell) -> set[str]:
    return {n.name for n in _tree(cell).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))} | {
        t.id
        for n in _tree(cell).body
        if isinstance(n, ast.Assign)
        for t in n.targets
        if isinstance(t, ast.Name)
    }


def _stub_lines(text: str) -> list[str]:
    """Return what a stub must share with its solution: code without comments, raise, docstring."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            is_text = isinstance(node.body[0], ast.Expr) and len(node.body) > 1
            node.body = [n for n in node.body[is_text:] if not isinstance(n, ast.Raise)] or [
                ast.Pass()
            ]
    lines = ast.unparse(tree).splitlines()
    return [line.strip() for line in lines if line.strip() not in ("", "pass")]


def test_exercises_have_solutions_and_checks(notebooks, report):
    problems = []
    for notebook in notebooks:
        tagged = [c for c in notebook.code if {"exercise", "solution", "check"} & set(c.tags)]
        kinds = [next(t for t in c.tags if t in ("exercise", "solution", "check")) for c in tagged]
        if kinds != ["exercise", "solution", "check"] * (len(kinds) // 3) or not kinds:
            problems.append(f"{notebook.name}: exercise cells are {kinds}")
            continue
        for stub, solution, check in zip(tagged[::3], tagged[1::3], tagged[2::3], strict=True):
            where = f"{notebook.name}: {stub.text.strip().splitlines()[0][:50]}"
            if "NotImplementedError" not in stub.text:
                problems.append(f"{where}: the stub does not raise NotImplementedError")
            if not _names(stub) <= _names(solution) or not _names(stub):
                problems.append(f"{where}: the solution does not define {sorted(_names(stub))}")
            solved = {line.strip() for line in ast.unparse(_tree(solution)).splitlines()}
            extra = [line for line in _stub_lines(stub.text) if line not in solved]
            problems += [f"{where}: the stub's {line!r} is not in the solution" for line in extra]
            if not any(name in check.text for name in _names(stub)):
                problems.append(f"{where}: the check does not use it")
    report(problems)


def test_claims_are_checked(notebooks, report):
    """Enough cells assert what the prose says, and figures are read, not only shown."""
    problems = []
    for notebook in notebooks:
        checks = sum(
            bool(re.search(r"nb\.check\(|^\s*assert ", c.text, re.M)) for c in notebook.code
        )
        looks = sum("what to look at" in cell.text.lower() for cell in notebook.prose)
        if checks < 4:
            problems.append(f"{notebook.name}: {checks} cells check something, expected at least 4")
        if looks < 2:
            problems.append(f"{notebook.name}: {looks} boxes What to look at, expected at least 2")
    report(problems)


def test_verdicts_follow_from_what_was_measured(notebooks, report):
    """No row of results holds one as a text, but that something is not tested here."""
    problems = []
    for notebook in notebooks:
        for cell in notebook.code:
            rows = [n for n in ast.walk(_tree(cell)) if isinstance(n, (ast.Tuple, ast.Dict))]
            for row in rows:
                values = row.elts if isinstance(row, ast.Tuple) else row.values
                fixed = {n.value for n in values if isinstance(n, ast.Constant)}
                if len(values) > 3 and fixed & set(nb.VERDICTS[:3]):
                    problems.append(f"{notebook.name}: {ast.unparse(row)[:60]} is a fixed verdict")
    report(problems)


def test_prose_and_cells_keep_the_rules(notebooks, report):
    rules = {
        "condescends": r"\b(?:simply|obviously|trivially|of course)\b",
        "installs something": r"(?:pip|conda) install",
        "sets a figure's style": r"rcParams|plt\.style",
        "opens a relative path": r"open\(|Path\([\"'](?!/)|read_csv\([\"']",
        "plays sound outside nb": r"\bAudio\(",
    }
    problems = []
    for notebook in notebooks:
        for number, cell in enumerate(notebook.cells):
            for what, pattern in rules.items():
                is_prose_rule = what == "condescends"
                if is_prose_rule == (cell.kind == "markdown") and re.search(pattern, cell.text):
                    problems.append(f"{notebook.name}, cell {number}: {what}")
    report(problems)
