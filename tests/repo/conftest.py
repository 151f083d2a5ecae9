r"""What the tests of the repository read: its files, its modules as syntax trees, its notebooks."""

from __future__ import annotations

import ast
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
IGNORED = {".git", ".venv", "build", "runs", "corpora", "cache", "__pycache__"}


def _listing() -> list[Path]:
    """Return files that are in the repository or about to be; everything in an unpacked archive."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listing.returncode == 0 and listing.stdout:
        names = listing.stdout.decode().split("\0")
        paths = [ROOT / name for name in names if name]
    else:
        paths = [p for p in ROOT.rglob("*") if not IGNORED & set(p.relative_to(ROOT).parts)]
    return sorted({p for p in paths if p.is_file()})


@dataclass(frozen=True)
class Module:
    """A Python file: its path, its name relative to the repository, its text and syntax tree."""

    path: Path
    name: str
    text: str
    tree: ast.Module = field(repr=False)


@dataclass(frozen=True)
class Cell:
    """A notebook cell."""

    kind: str
    text: str
    tags: tuple[str, ...]
    raw: dict[str, Any] = field(repr=False)

    @property
    def lines(self) -> list[str]:
        """Lines that are not blank."""
        return [line for line in self.text.splitlines() if line.strip()]


@dataclass(frozen=True)
class Notebook:
    """A notebook: its path, its name without suffix and its cells."""

    path: Path
    name: str
    cells: tuple[Cell, ...]

    @property
    def code(self) -> list[Cell]:
        """Return the code cells."""
        return [cell for cell in self.cells if cell.kind == "code"]

    @property
    def prose(self) -> list[Cell]:
        """Return the markdown cells."""
        return [cell for cell in self.cells if cell.kind == "markdown"]


def _read_notebook(path: Path) -> Notebook:
    cells = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = cell["source"]
        text = source if isinstance(source, str) else "".join(source)
        tags = tuple(cell.get("metadata", {}).get("tags", ()))
        cells.append(Cell(cell["cell_type"], text, tags, cell))
    return Notebook(path, path.stem, tuple(cells))


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the repository's folder."""
    return ROOT


@pytest.fixture(scope="session")
def files() -> list[Path]:
    """Return every file of the repository."""
    return _listing()


@pytest.fixture(scope="session")
def python_modules(files: list[Path]) -> list[Module]:
    """Return every Python file of library and tests."""
    modules = []
    for path in files:
        if path.suffix == ".py":
            text = path.read_text(encoding="utf-8")
            name = path.relative_to(ROOT).as_posix()
            modules.append(Module(path, name, text, ast.parse(text, str(path))))
    return modules


@pytest.fixture(scope="session")
def library(python_modules: list[Module]) -> list[Module]:
    """Return the Python files of the library."""
    return [module for module in python_modules if module.name.startswith("codec_lib/")]


@pytest.fixture(scope="session")
def notebooks(files: list[Path]) -> list[Notebook]:
    """Return the notebooks of the course."""
    folder = ROOT / "notebooks"
    return [_read_notebook(p) for p in files if p.suffix == ".ipynb" and p.parent == folder]


def report(problems: list[str]) -> None:
    """Fail with one problem a line."""
    assert not problems, "\n" + "\n".join(problems)


@pytest.fixture(scope="session", name="report")
def _report() -> Any:
    """Return :func:`report`."""
    return report
