"""Student versions lack the solutions, and raise nothing but NotImplementedError."""

import os

import nbclient
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from codec_lib import course, nb, student

MASTERS = sorted((nb.ROOT / "notebooks").glob("*.ipynb"))


def tagged(source, tag):
    return new_code_cell(source, metadata={"tags": [tag]})


def exercise(stub="def half(x):\n    raise NotImplementedError", name="half"):
    return [
        new_markdown_cell("**Exercise 1.** Halve it."),
        tagged(stub, "exercise"),
        tagged(f"def {name}(x):\n    return x / 2", "solution"),
        tagged("assert half(4) == 2", "check"),
    ]


def test_solutions_move_to_their_own_notebook():
    version, solutions = student.make_student(new_notebook(cells=exercise()))
    assert [sorted(student.tags(cell)) for cell in version.cells] == [
        [],
        ["exercise"],
        ["check", "raises-exception"],
    ]
    assert "return x / 2" not in "".join(cell.source for cell in version.cells)
    assert [cell.cell_type for cell in solutions.cells] == ["markdown", "code", "code"]
    assert "return x / 2" in solutions.cells[1].source


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        (exercise()[:2], "expected a solution cell"),
        (exercise(name="third"), "does not define half"),
        (exercise(stub="def half(x):\n    return 0"), "raise NotImplementedError"),
    ],
)
def test_an_exercise_without_its_parts_is_refused(cells, problem):
    with pytest.raises(ValueError, match=problem):
        student.make_student(new_notebook(cells=cells))


@pytest.mark.parametrize("path", MASTERS, ids=lambda path: path.stem)
def test_every_exercise_has_a_solution_and_a_check(path):
    master = nbformat.read(path, as_version=4)
    student.make_student(master)  # would refuse
    assert sum("exercise" in student.tags(cell) for cell in master.cells) >= 2


@pytest.mark.parametrize(
    ("after", "problem"),
    [
        ([new_code_cell("one + third(3)")], "needs third, which no cell before it makes"),
        ([new_code_cell("half(3)")], "uses a stub, expected only cells tagged check"),
        ([new_code_cell("[seen := 1 for _ in range(3)]\nlater")], "needs later"),
        ([*exercise(), new_code_cell("whole")], "needs whole"),
        ([*exercise()[:3], tagged("1 + 1", "check")], "expected the check to use half"),
    ],
)
def test_what_only_a_solution_or_a_check_makes_is_not_needed(after, problem):
    first = [*exercise()[:3], tagged("one = 4\nwhole = 2 * half(one)\nlater = 1", "check")]
    fine = [new_code_cell("def calls():\n    return above + one\nabove = [x for x in 'ab']")]
    student.make_student(new_notebook(cells=first + fine))
    with pytest.raises(ValueError, match=problem):
        student.make_student(new_notebook(cells=first + fine + after))


def masters_to_run():
    """Return all masters; running them twice takes long, so most run a second time on request."""
    return [pytest.param(path, marks=[pytest.mark.slow] * (place > 1), id=path.stem)
            for place, path in enumerate(MASTERS)]  # fmt: skip


@pytest.mark.parametrize("path", masters_to_run())
def test_the_student_version_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("CODEC_PROFILE", "smoke")
    monkeypatch.setenv("CODEC_LIB_BUILD", str(tmp_path))
    version, _ = student.make_student(nbformat.read(path, as_version=4))
    client = nbclient.NotebookClient(version, timeout=600, kernel_name="python3")
    client.execute(cwd=str(path.parent))
    raised = {
        (output["ename"], "check" in student.tags(cell))
        for cell in version.cells
        for output in cell.get("outputs", [])
        if output["output_type"] == "error"
    }
    assert raised == {("NotImplementedError", True)}
    assert os.environ["CODEC_PROFILE"] == "smoke"


def test_the_header_links_to_the_neighbours():
    entries = [{"file": f"0{n}_x", "title": f"T{n}"} for n in range(3)]
    assert (
        student.header(entries, 1) == "# 01 · T1\n\n[← 00 T0](00_x.ipynb) · [02 T2 →](02_x.ipynb)"
    )
    assert student.header(entries, 2).endswith("[← 01 T1](01_x.ipynb)")


@pytest.mark.parametrize("path", MASTERS, ids=lambda path: path.stem)
def test_every_header_is_the_manifests(path):
    entries = course.read_manifest(nb.ROOT / "notebooks" / "manifest.yml")
    index = [entry["file"] for entry in entries].index(path.stem)
    first = nbformat.read(path, as_version=4).cells[0]
    assert "nb-header" in student.tags(first)
    assert first.source == student.header(entries, index), "run python -m codec_lib.course headers"


def test_every_notebook_is_in_the_manifest():
    entries = course.read_manifest(nb.ROOT / "notebooks" / "manifest.yml")
    names = [entry["file"] for entry in entries]
    assert names == sorted(set(names))
    assert {path.stem for path in MASTERS} <= set(names)
    for entry in entries:
        assert set(entry["timeout"]) == set(nb.PROFILES)
        assert {"title", "question", "device", "consumes", "produces"} <= set(entry)
