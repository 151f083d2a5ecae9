r"""One set of pins in three files, and nothing imported that is not pinned."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement

# Pinned, yet imported nowhere: commands, plug-ins, and what another pin imports for us.
TOOLS = {
    "tensorboard": "torch.utils.tensorboard writes with it",
    "jupyterlab": "make lab",
    "ipykernel": "runs the notebooks",
    "nbclient": "runs the notebooks",
    "nbmake": "plug-in of pytest",
    "nbstripout": "make format",
    "pytest-xdist": "plug-in of pytest",
    "ruff": "make lint",
    "codespell": "make lint",
    "onnxruntime": "speechmos imports it without asking for it",
    "librosa": "speechmos imports it without asking for it",
    "requests": "speechmos imports it without asking for it",
}
# Locked, but no requirement: only the weights that the package carries are read.
WEIGHTS = {"resemblyzer"}
# Pinned for the parts of the course that are not written yet.
LATER = {"umap-learn", "numba", "seaborn"}
HOMES = {"parselmouth": ["praat-parselmouth"]}  # one compiled file, which metadata does not list


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pins(lines: list[str]) -> dict[str, str]:
    """Return name to version, and fail on anything but an exact pin."""
    pins = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+]+)( ; [^#]+)?", line)
        assert match, f"{line!r} is not an exact pin: expected name==version"
        assert _key(match[1]) not in pins, f"{match[1]} is pinned twice"
        pins[_key(match[1])] = match[2]
    return pins


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def direct(project):
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return _pins([line for group in groups for line in group])


@pytest.fixture(scope="module")
def lock(root):
    text = (root / "requirements.lock").read_text()
    return _pins([line for line in text.splitlines() if not line.startswith("#")])


def test_environment_yml_has_the_pins_of_pyproject(root, project, direct):
    environment = yaml.safe_load((root / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert _pins(pip) == direct
    python = next(entry for entry in conda if entry.startswith("python="))
    assert python.removeprefix("python=") in ("3.11", "3.12")
    assert project["requires-python"] == ">=3.11,<3.13"


def test_every_pin_of_environment_yml_says_what_uses_it(root, direct):
    text = (root / "environment.yml").read_text()
    for name in direct:
        assert re.search(rf"^ +- {name}==\S+  # \w.+", text, re.M | re.I), f"{name}: no comment"


def test_lock_has_the_pins_of_pyproject(direct, lock):
    assert {name: lock.get(name) for name in direct} == direct


def test_lock_names_no_host_and_no_path(root):
    text = (root / "requirements.lock").read_text()
    assert not re.search(r"https?:|file:|@|^-|/", text, re.M)


def test_lock_is_complete_and_has_nothing_else(direct, lock):
    """Everything that the pins pull in is locked, and every locked package is pulled in."""
    pulled, todo = set(), [Requirement(name) for name in direct]
    seen = set()
    while todo:
        requirement = todo.pop()
        entry = (_key(requirement.name), frozenset(requirement.extras))
        if entry in seen:
            continue
        seen.add(entry)
        pulled.add(entry[0])
        for line in importlib.metadata.distribution(requirement.name).requires or []:
            needed = Requirement(line)
            extras = ("", *requirement.extras)
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras):
                todo.append(needed)
    other_python = {"setuptools", "overrides"}  # needed by one of Python 3.11 and 3.12 only
    assert pulled - set(lock) == set()
    assert set(lock) - pulled - other_python - WEIGHTS == set()


def test_installed_versions_are_the_pinned_ones(direct):
    got = {name: importlib.metadata.version(name).split("+")[0] for name in direct}
    assert got == direct, "the environment is not the pinned one: run make env"


def _imports(text_trees):
    """Yield (file, top-level module) for each absolute import."""
    for name, tree in text_trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield name, alias.name.split(".")[0]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                yield name, node.module.split(".")[0]


def _cell_trees(notebooks):
    for notebook in notebooks:
        for cell in notebook.code:
            lines = [line for line in cell.text.splitlines() if not line.startswith(("%", "!"))]
            yield notebook.path.name, ast.parse("\n".join(lines))


def test_every_import_is_pinned_and_every_pin_is_used(
    python_modules, notebooks, direct, project, report
):
    homes = importlib.metadata.packages_distributions() | HOMES
    own = {"codec_lib", "tests", "conftest"} | set(sys.stdlib_module_names)
    trees = [(module.name, module.tree) for module in python_modules]
    extras = project["optional-dependencies"]
    optional = [line for extra in extras if extra != "test" for line in extras[extra]]
    runtime = _pins(project["dependencies"] + optional)
    problems, used = [], set()
    for name, top in _imports([*trees, *_cell_trees(notebooks)]):
        if top in own:
            continue
        dists = {_key(dist) for dist in homes.get(top, [])}
        used |= dists & set(direct)
        # packaging comes with pytest, and only the tests of the repository read versions with it
        allowed = runtime if name.startswith("codec_lib/") else {*direct, *WEIGHTS, "packaging"}
        if not dists & set(allowed):
            problems.append(f"{name}: imports {top}, which pyproject.toml does not pin for it")
    unused = set(direct) - used - set(TOOLS) - LATER
    problems += [f"pyproject.toml: {name} is pinned and imported nowhere" for name in unused]
    report(sorted(set(problems)))
