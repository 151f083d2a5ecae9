r"""Student versions: the same notebooks without the solutions, which move to a file beside them.

A master holds, for each exercise, a stub (tag ``exercise``) that raises ``NotImplementedError``, a
solution (tag ``solution``) and a check (tag ``check``). The first cell of every master is written
here too, from the manifest. Notebook: every one. Leaves out: running them (the tests do). Read
next: nothing, this is the last file of the presentation.
"""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat

from codec_lib.cells import ROOT


def tags(cell: Any) -> set[str]:
    """Return the tags of a cell."""
    return set(cell.get("metadata", {}).get("tags", []))


def make_student(master: Any) -> tuple[Any, Any]:
    r"""Split a master notebook.

    Parameters
    ----------
    master
        A notebook node; it is not changed.

    Returns
    -------
    tuple
        The student version (no solutions, check cells may raise) and the notebook of solutions
        (task, solution, check).

    Raises
    ------
    ValueError
        If an exercise lacks its solution or its check, or a cell needs what only these make.
    """
    problems = exercise_problems(master)
    if problems:
        raise ValueError("; ".join(problems))
    copy = nbformat.from_dict(master)
    version, solutions = nbformat.v4.new_notebook(), nbformat.v4.new_notebook()
    version.metadata = solutions.metadata = copy.metadata
    for index, cell in enumerate(copy.cells):
        if "solution" in tags(cell):
            task = copy.cells[index - 2]
            solutions.cells += [task] * (task.cell_type == "markdown") + [cell]
            continue
        if "check" in tags(cell):
            solutions.cells.append(nbformat.from_dict(cell))
            cell.metadata["tags"] = sorted(tags(cell) | {"raises-exception"})
        version.cells.append(cell)
    problems = lost_names(version)
    if problems:
        raise ValueError("; ".join(problems))
    return version, solutions


def lost_names(version: Any) -> list[str]:
    """Return which cells of a student version would stop a student who has solved nothing.

    That is: which need a name that only a solution makes, or a check behind its first use of a
    stub, where it ends; which use a stub and are no check; and which checks never use one.
    """
    problems, stubs = [], set()
    known = {*dir(builtins), "display", "get_ipython"}
    for cell in (cell for cell in version.cells if cell.cell_type == "code"):
        where, parts, kind = f"cell {cell.get('id', '')}", ast.parse(cell.source).body, tags(cell)
        if "exercise" in kind:
            unsolved = (part for part in parts if "NotImplementedError" in ast.unparse(part))
            stubs |= {
                one.name for one in unsolved if isinstance(one, ast.FunctionDef | ast.ClassDef)
            }
        asks = [bool(_names([part])[0] & stubs) for part in parts]
        if "check" in kind:
            if True not in asks:
                problems.append(f"{where}: expected the check to use {', '.join(sorted(stubs))}")
            parts = parts[: asks.index(True)] if True in asks else parts
        elif True in asks:
            problems.append(f"{where}: uses a stub, expected only cells tagged check to do so")
        used, made = _names(parts)
        for name in sorted(used - made - known):
            problems.append(f"{where}: needs {name}, which no cell before it makes for a student")
        known |= made
    return problems


def _names(parts: Sequence[ast.stmt]) -> tuple[set[str], set[str]]:
    """Return the global names that statements use, and those that they make."""
    top = symtable.symtable(ast.unparse(ast.Module(list(parts), [])), "cell", "exec")
    tables, used, made = [top], set(), set()
    for table in tables:
        tables += table.get_children()
        ours = [one for one in table.get_symbols() if table is top or one.is_global()]
        used |= {one.get_name() for one in ours if one.is_referenced()}
        made |= {one.get_name() for one in ours if one.is_assigned() or one.is_imported()}
    return used, made


def exercise_problems(master: Any) -> list[str]:
    """Return which exercises break the order stub, solution, check, or solve something else."""
    problems = []
    cells = [cell for cell in master.cells if cell.cell_type == "code"]
    for index, cell in enumerate(cells):
        if "exercise" not in tags(cell):
            continue
        name = f"exercise {cell.get('id', index)}"
        after = [tags(other) for other in cells[index + 1 : index + 3]]
        if len(after) < 2 or "solution" not in after[0] or "check" not in after[1]:
            problems.append(f"{name}: expected a solution cell and a check cell after it")
            continue
        if "NotImplementedError" not in cell.source:
            problems.append(f"{name}: expected the stub to raise NotImplementedError")
        missing = defined(cell.source) - defined(cells[index + 1].source)
        if missing:
            problems.append(f"{name}: the solution does not define {', '.join(sorted(missing))}")
    return problems


def defined(source: str) -> set[str]:
    """Return the names of functions and classes that a cell defines, with their arguments."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            names.add(f"{node.name}({', '.join(arg.arg for arg in node.args.args)})")
        elif isinstance(node, ast.ClassDef):
            names.add(node.name)
    return names


def header(entries: Sequence[Mapping[str, Any]], index: int) -> str:
    """Return the first cell of a notebook: number, title, and links to its neighbours."""
    number, title = entries[index]["file"].split("_")[0], entries[index]["title"]
    links = []
    for step, text in ((-1, "← {}"), (1, "{} →")):
        if 0 <= index + step < len(entries):
            other = entries[index + step]
            name = f"{other['file'].split('_')[0]} {other['title']}"
            links.append(f"[{text.format(name)}]({other['file']}.ipynb)")
    return f"# {number} · {title}\n\n" + " · ".join(links)


def write_headers(entries: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write the header into the cell tagged ``nb-header`` of every master that has one."""
    written = []
    for index, entry in enumerate(entries):
        path = ROOT / "notebooks" / f"{entry['file']}.ipynb"
        if not path.exists():
            continue
        master = nbformat.read(path, as_version=4)
        for cell in master.cells:
            if "nb-header" in tags(cell) and cell.source != header(entries, index):
                cell.source = header(entries, index)
                nbformat.write(master, path)
                written.append(path)
    return written


def write_all(entries: Iterable[Mapping[str, Any]], out: Path) -> list[Path]:
    """Write the student version of each notebook of the manifest and return the files."""
    written = []
    (out / "solutions").mkdir(parents=True, exist_ok=True)
    for entry in entries:
        name = f"{entry['file']}.ipynb"
        master = nbformat.read(ROOT / "notebooks" / name, as_version=4)
        version, solutions = make_student(master)
        nbformat.write(version, out / name)
        nbformat.write(solutions, out / "solutions" / name)
        written.append(out / name)
    return written
