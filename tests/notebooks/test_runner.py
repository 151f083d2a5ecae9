"""The runner refuses what a reader should not get; tiny notebooks made here show each refusal."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from codec_lib import course, pages

PARAMETERS = new_code_cell('PROFILE = "smoke"\nSTEPS = 1', metadata={"tags": ["parameters"]})
METADATA = {
    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
    "language_info": {"name": "python"},
}
ENTRY = {"file": "90_tiny", "timeout": {"smoke": 60}}
PICTURE = """
from IPython.display import display
from codec_lib import nb, plotting
fig, axes = plotting.new(width=1, height=1)
"""


def run(tmp_path, *sources, entry=ENTRY, **parameters):
    """Run a notebook of these cells and return the problems."""
    cells = [new_markdown_cell("# Tiny"), PARAMETERS, *(new_code_cell(text) for text in sources)]
    source = tmp_path / "90_tiny.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata=METADATA), source)
    target = tmp_path / "out" / "90_tiny.ipynb"
    return course.run_notebook(source, target, entry, {"PROFILE": "smoke", **parameters})[1]


def test_a_good_notebook_passes_and_gets_its_parameters(tmp_path):
    picture = PICTURE + "nb.show(fig, alt='an empty frame')"
    problems = run(
        tmp_path, "assert (PROFILE, STEPS) == ('smoke', 7); print(STEPS)", picture, STEPS=7
    )
    assert problems == []
    executed = nbformat.read(tmp_path / "out" / "90_tiny.ipynb", as_version=4)
    texts = [output.get("text", "") for output in pages.outputs(executed)]
    assert "7\n" in texts


def test_an_unknown_parameter_fails_before_anything_runs(tmp_path):
    with pytest.raises(course.CourseError, match=r"STEP\b.*PROFILE, STEPS"):
        run(tmp_path, "pass", STEP=2)
    assert not (tmp_path / "out").exists()


def test_what_a_reader_should_not_get_is_named(tmp_path):
    problems = run(
        tmp_path,
        "import warnings; warnings.warn('old habit')",
        "print('/ho' + 'me/someone/data')",
        "import ipywidgets; display(ipywidgets.IntSlider())",
        PICTURE + "display(fig)",
        "1 / 0",
        "print('never')",
        entry=ENTRY | {"players": 1},
    )
    for expected in (
        "a warning is printed",
        "an absolute path is printed: /home/someone",
        "only a widget",
        "without alt text",
        "ZeroDivisionError",
        "1 cells were not executed",
        "0 players, but the manifest promises 1",
    ):
        assert any(expected in problem for problem in problems), (expected, problems)


def test_a_notebook_of_the_manifest_that_is_not_there_is_named(tmp_path):
    with pytest.raises(course.CourseError, match="in the manifest but not in"):
        course.run_notebook(
            tmp_path / "91.ipynb", tmp_path / "o.ipynb", ENTRY, {"PROFILE": "smoke"}
        )


def test_a_cell_beyond_the_time_limit_is_reported(tmp_path):
    problems = run(tmp_path, "import time; time.sleep(60)", entry=ENTRY | {"timeout": {"smoke": 3}})
    assert any("more than the 3 s" in problem for problem in problems)
