"""The course's bookkeeping without running a notebook: choice, parameters, formulas, pages."""

import base64
import io
import json

import nbformat
import pytest
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from codec_lib import course, nb, pages

ENTRIES = [{"file": "00_a"}, {"file": "01_b"}, {"file": "10_c"}]


def png():
    memory = io.BytesIO()
    Figure(figsize=(5, 1)).savefig(memory)
    return base64.b64encode(memory.getvalue()).decode()


@pytest.fixture
def executed(tmp_path):
    """An executed notebook with a formula, a picture and a player."""
    sound = "<audio controls aria-label='a &amp; b' src='data:audio/wav;base64,UklGRg=='></audio>"
    shown = [
        new_output("display_data", {"image/png": png()}, metadata={"image/png": {"alt": "empty"}}),
        new_output("display_data", {"text/html": sound}),
    ]
    cells = [
        new_markdown_cell("# Tiny\nThe rate is $R = f K \\log_2 N$, see [next](01_b.ipynb)."),
        new_markdown_cell("[Terms](../docs/glossary.md)"),
        new_markdown_cell("$$\\mathcal{L} = \\lVert x - \\hat{x} \\rVert_1 \\tag{4}$$"),
        new_code_cell("1", outputs=shown, execution_count=1),
    ]
    path = tmp_path / "00_a.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_choose_keeps_the_order_and_names_the_unknown():
    assert [entry["file"] for entry in course.choose(ENTRIES, "10, 00")] == ["00_a", "10_c"]
    assert course.choose(ENTRIES, "") == ENTRIES
    with pytest.raises(course.CourseError, match="got 77, expected some of 00, 01, 10"):
        course.choose(ENTRIES, "77,00")


def test_settings_are_read_as_literals():
    assert course._setting("STEPS=5") == ("STEPS", 5)
    assert course._setting("NAME=plain text") == ("NAME", "plain text")


def test_a_page_shows_formulas_without_the_network(executed):
    page = pages.write_page(executed, "00 A", executed.parent / "notebooks").read_text()
    assert page.count("<math") == 2 and "MathJax" not in page
    assert "(</mo><mn>4</mn>" in page or "&#x00028;</mo><mn>4</mn>" in page
    assert pages.EXTERNAL.search(page) is None and "cdnjs" not in page
    assert 'href="./docs/glossary.md"' in page
    assert 'href="01_b.html"' in page and "<audio" in page


def test_a_page_that_would_load_something_is_refused(executed):
    notebook = nbformat.read(executed, as_version=4)
    notebook.cells.append(new_markdown_cell("<img src='https://example.org/a.png' alt='far'>"))
    nbformat.write(notebook, executed)
    with pytest.raises(ValueError, match="from the network"):
        pages.write_page(executed, "00 A", executed.parent)


@pytest.mark.parametrize("latex", [r"\nosuchcommand{x}", r"\frac{1"])
def test_a_formula_that_cannot_be_shown_is_named(latex):
    with pytest.raises(ValueError, match="formula: got"):
        pages.mathml(latex)


def test_pictures_and_sounds_are_laid_beside_the_page(executed):
    found = pages.extract(executed)
    assert found["pictures"] == [
        {"file": "00_a/01.png", "thumbnail": "00_a/01_small.png", "alt": "empty"}
    ]
    assert found["players"] == [{"file": "00_a/01.wav", "label": "a & b"}]
    assert (executed.parent / "00_a" / "01.wav").read_bytes() == b"RIFF"


def test_the_index_tells_what_ran_and_merges_runs(tmp_path):
    record = {
        "title": "A <b>",
        "question": "Why?",
        "page": "smoke/00_a.html",
        "profile": "smoke",
        "seconds": 12.3,
        "device": "cpu (x)",
        "revision": "abc1234",
        "problems": [],
        "pictures": [{"file": "p.png", "thumbnail": "t.png", "alt": "a curve"}],
        "players": [{"file": "s.wav", "label": "original"}],
    }
    (tmp_path / "smoke").mkdir()
    course._write_reports(tmp_path, "smoke", ENTRIES, [{"file": "00_a", **record}])
    failed = {"file": "10_c", **record, "problems": ["cell 3: ValueError"]}
    course._write_reports(tmp_path, "smoke", ENTRIES, [failed])
    index = (tmp_path / "index.html").read_text()
    for expected in (
        "A &lt;b&gt;",
        "Why?",
        "12 s",
        "abc1234",
        "t.png",
        "s.wav",
        "cell 3: ValueError",
    ):
        assert expected in index
    assert [
        entry["file"] for entry in json.loads((tmp_path / "smoke/report.json").read_text())
    ] == [
        "00_a",
        "10_c",
    ]


def test_main_refuses_an_unknown_notebook(capsys, tmp_path):
    assert course.main(["--only", "77", "--profile", "smoke", "--out", str(tmp_path)]) == 2
    assert "expected some of 00" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert nb.PROFILES == ("smoke", "cpu", "gpu", "paper")
