"""The runner refuses what a reader should not get; tiny notebooks made here show each refusal."""

from pathlib import Path

import nbformat
import pytest
import yaml
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


MEETING = """
import time
from pathlib import Path
Path("{own}").touch()
waited = time.monotonic()
while not Path("{other}").exists():
    assert time.monotonic() - waited < 40, "the other notebook never ran"
    time.sleep(0.1)
"""


def test_two_notebooks_run_at_a_time_and_come_back_in_order(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    names = {"90_first": ("a", "b", 0.5), "91_second": ("b", "a", 0.0)}  # the first ends last
    entries = []
    for name, (own, other, rest) in names.items():
        text = MEETING.format(own=own, other=other) + f"time.sleep({rest})"
        cells = [new_markdown_cell("# Tiny"), PARAMETERS, new_code_cell(text)]
        nbformat.write(new_notebook(cells=cells, metadata=METADATA), folder / f"{name}.ipynb")
        about = {"title": name, "question": "Who comes first?"}
        entries.append({**ENTRY, "file": name, **about})
    (folder / "manifest.yml").write_text(yaml.safe_dump({"notebooks": entries}))
    monkeypatch.setattr(course.nb, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    records = course.run_course("smoke", out=Path("build/course"), jobs=2)
    assert Path.cwd() == tmp_path and (tmp_path / "build" / "course" / "index.html").is_file()
    assert [record["file"] for record in records] == list(names)
    assert [record["problems"] for record in records] == [[], []]
    assert "2 notebooks, 2 at a time" in capsys.readouterr().out
    assert course.default_jobs("gpu") == 1 and "CODEC_PROFILE" not in course.os.environ
