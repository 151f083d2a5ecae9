r"""Run the notebooks in order and leave pages that can be trusted: ``python -m codec_lib.course``.

Reads ``notebooks/manifest.yml``, runs each notebook through papermill at a profile, refuses what a
reader should not get (errors, warnings, dead widgets, somebody's paths, missing players), and
writes executed copies, pages and an index under ``build/course/``. ``student`` as the command makes
the versions without solutions instead, ``headers`` rewrites the notebooks' first cells.
Notebook: all. Leaves out: the pages themselves (``pages.py``). Read next: ``pages.py``.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml

from codec_lib import nb, pages, student
from codec_lib.paths import replace_text

MAX_BYTES = 5_000_000
WIDGET = "application/vnd.jupyter.widget-view+json"
USER_PATH = re.compile(r"(/home/|/Users/|/root/|/tmp/|[A-Z]:\\Users\\)[\w.\-]*")
WARNING = re.compile(r"\bwarn(ing|ed)?\b|\w+Warning\b", re.IGNORECASE)


class CourseError(RuntimeError):
    """A notebook cannot be run as asked: unknown number, unknown parameter, no such file."""


def read_manifest(path: Path) -> list[dict[str, Any]]:
    """Return the notebooks of a manifest in order."""
    return yaml.safe_load(path.read_text())["notebooks"]


def choose(entries: Sequence[dict[str, Any]], only: str) -> list[dict[str, Any]]:
    """Return the entries whose numbers are in ``only`` (comma separated); empty takes all."""
    wanted = [number.strip() for number in only.split(",") if number.strip()]
    known = {entry["file"].split("_")[0]: entry for entry in entries}
    unknown = [number for number in wanted if number not in known]
    if unknown:
        raise CourseError(f"only: got {', '.join(unknown)}, expected some of {', '.join(known)}")
    return [known[number] for number in known if not wanted or number in wanted]


def check_parameters(path: Path, parameters: Mapping[str, Any]) -> None:
    r"""Refuse parameters that the notebook does not have; papermill would only log a line.

    Raises
    ------
    CourseError
        Naming the unknown parameters and those that exist.
    """
    known = papermill.inspect_notebook(str(path))
    unknown = [name for name in parameters if name not in known]
    if unknown:
        raise CourseError(
            f"{path.name}: got unknown parameters {', '.join(unknown)}, expected some of "
            f"{', '.join(known) or 'none (no cell is tagged parameters)'}"
        )


def find_problems(executed: Path, entry: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with an executed notebook, in words; an empty list is a pass."""
    notebook = nbformat.read(executed, as_version=4)
    problems, missed = [], 0
    if executed.stat().st_size > MAX_BYTES:
        problems.append(f"{executed.stat().st_size / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:.0f}")
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        missed += cell.execution_count is None
        for output in cell.outputs:
            problems += [f"cell {index}: {problem}" for problem in output_problems(output)]
    problems += [f"{missed} cells were not executed"] if missed else []
    found = {"players": len(pages.players(notebook)), "pictures": len(pages.pictures(notebook))}
    for kind, number in found.items():
        if number < entry.get(kind, 0):
            problems.append(f"{number} {kind}, but the manifest promises {entry[kind]}")
    return problems


def output_problems(output: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with one output of a cell."""
    if output["output_type"] == "error":
        return [f"{output['ename']}: {output['evalue'][:300]}"]
    data = output.get("data", {})
    problems = []
    if WIDGET in data and not {"image/png", "text/html"} & set(data):
        problems.append("only a widget, dead without a kernel")
    if "image/png" in data:
        alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
        problems += [] if alt else ["a picture without alt text; use nb.show(fig, alt=...)"]
    kinds = ("text/plain", "text/html", "text/markdown")
    text = output.get("text", "") + " ".join(data.get(kind, "") for kind in kinds)
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    if output.get("name") == "stderr" and WARNING.search(text):
        problems.append(f"a warning is printed: {text.strip()[:200]}")
    found = USER_PATH.search(text) or re.search(re.escape(str(nb.ROOT)), text)
    if found:
        problems.append(f"an absolute path is printed: {found[0]}")
    return problems


@contextlib.contextmanager
def kernel_environment(profile: str, out: Path, jobs: int = 1) -> Any:
    r"""Set what the kernels inherit: profile, static widgets, where artefacts go, their threads.

    Parameters
    ----------
    profile, out
        As in ``run_course``.
    jobs
        Kernels at a time, which share the cores unless ``OMP_NUM_THREADS`` says otherwise.
    """
    values = {
        "CODEC_PROFILE": profile,
        "CODEC_STATIC": "1",
        "CODEC_LIB_BUILD": str(out.parent),
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, _cores() // jobs)),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else ipykernel prints a warning of its debugger
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def run_notebook(
    source: Path, target: Path, entry: Mapping[str, Any], parameters: Mapping[str, Any]
) -> tuple[float, list[str]]:
    r"""Execute one notebook and judge the result.

    Parameters
    ----------
    source, target
        The notebook and where its executed copy goes.
    entry
        Its entry in the manifest (``timeout``, ``players``, ``pictures``).
    parameters
        Values for the cell tagged ``parameters``; must hold ``PROFILE``.

    Returns
    -------
    tuple[float, list[str]]
        Seconds, and the problems found.

    Raises
    ------
    CourseError
        If the notebook does not exist or lacks a parameter.
    """
    if not source.exists():
        raise CourseError(f"{source.name}: is in the manifest but not in {source.parent.name}/")
    check_parameters(source, parameters)
    limit = entry["timeout"][parameters["PROFILE"]]
    target.parent.mkdir(parents=True, exist_ok=True)
    started, problems = time.perf_counter(), []
    try:
        papermill.execute_notebook(
            str(source),
            str(target),
            parameters=dict(parameters),
            kernel_name="python3",
            # papermill would change the folder of the process, which other threads are in
            cwd=None if Path.cwd() == source.parent.resolve() else str(source.parent),
            progress_bar=False,
            execution_timeout=limit,
            # else ipykernel speaks about its transport, and about being asked to end
            extra_arguments=["--log-level=CRITICAL"],
        )
    except papermill.PapermillExecutionError:
        pass  # the error is in the executed copy and reported from there
    except Exception as error:  # a dead kernel or a cell over the limit; the copy is written too
        problems.append(f"{type(error).__name__}: {str(error).strip()[:300]}")
    seconds = time.perf_counter() - started
    if seconds > limit:
        problems.append(f"took {seconds:.0f} s, more than the {limit} s of the manifest")
    return seconds, problems + find_problems(target, entry)


def default_jobs(profile: str) -> int:
    r"""Return how many notebooks run at a time: two on two cores or more, one where a GPU is used.

    Every notebook runs alone, so the order in which they are run does not matter.
    """
    return min(2, _cores()) if profile in ("smoke", "cpu") else 1


def _cores() -> int:
    return os.cpu_count() or 1


def run_course(
    profile: str,
    only: str = "",
    settings: Mapping[str, Any] | None = None,
    out: Path | None = None,
    jobs: int | None = None,
) -> list[dict[str, Any]]:
    r"""Run the chosen notebooks, write pages and index, and return the records.

    Parameters
    ----------
    profile
        ``smoke``, ``cpu``, ``gpu`` or ``paper``.
    only
        Numbers of notebooks, comma separated; empty runs all.
    settings
        Further parameters for every chosen notebook.
    out
        Folder to write to; None takes ``build/course``.
    jobs
        Notebooks at a time; None takes ``default_jobs``.
    """
    out = (out or nb.build_root() / "course").resolve()  # kernels run in another folder
    jobs = jobs or default_jobs(profile)
    entries = read_manifest(nb.ROOT / "notebooks" / "manifest.yml")
    chosen = choose(entries, only)
    started, records = time.perf_counter(), []
    in_folder = contextlib.chdir(nb.ROOT / "notebooks")
    with kernel_environment(profile, out, jobs), in_folder, ThreadPoolExecutor(jobs) as pool:
        runs = [pool.submit(_run_entry, entry, profile, settings or {}, out) for entry in chosen]
        try:
            for run in as_completed(runs):
                record = run.result()
                records.append(record)
                verdict = "ok" if not record["problems"] else "FAILED"
                print(f"{record['file']:<42}{record['seconds']:6.0f} s  {verdict}", flush=True)
                for problem in record["problems"]:
                    print(f"    {problem}", flush=True)
                _write_reports(out, profile, entries, records)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # those that wait need not begin
            raise
    seconds = time.perf_counter() - started
    print(f"{len(records)} notebooks, {jobs} at a time: {seconds / 60:.1f} minutes", flush=True)
    order = [entry["file"] for entry in chosen]
    return sorted(records, key=lambda record: order.index(record["file"]))


def _run_entry(
    entry: Mapping[str, Any], profile: str, settings: Mapping[str, Any], out: Path
) -> dict[str, Any]:
    source = nb.ROOT / "notebooks" / f"{entry['file']}.ipynb"
    target = out / profile / source.name
    seconds, problems = run_notebook(source, target, entry, {"PROFILE": profile, **settings})
    found = pages.extract(target)
    number = entry["file"].split("_")[0]
    try:
        pages.write_page(target, f"{number} {entry['title']}", source.parent)
    except ValueError as error:
        problems.append(str(error))
    for files in found.values():
        for one in files:
            one.update(
                {key: f"{profile}/{one[key]}" for key in ("file", "thumbnail") if key in one}
            )
    return {
        "file": entry["file"],
        "title": entry["title"],
        "question": entry["question"],
        "page": f"{profile}/{entry['file']}.html",
        "profile": profile,
        "seconds": round(seconds, 1),
        "device": _device(out.parent / "artefacts" / profile / f"{number}_results.json"),
        "revision": nb.revision(),
        "problems": problems,
        **found,
    }


def _device(results: Path) -> str:
    if not results.exists():
        return "unknown device"
    return json.loads(results.read_text())["environment"]["device"]


def _write_reports(
    out: Path, profile: str, entries: Sequence[Mapping[str, Any]], records: Sequence[dict[str, Any]]
) -> None:
    """Merge with what an earlier run of this profile left, and write report and index."""
    report = out / profile / "report.json"
    known = {}
    if report.exists():
        known = {record["file"]: record for record in json.loads(report.read_text())}
    known |= {record["file"]: record for record in records}
    merged = [known[entry["file"]] for entry in entries if entry["file"] in known]
    replace_text(report, json.dumps(merged, indent=1, ensure_ascii=False) + "\n")
    total = sum(record["seconds"] for record in merged)
    subtitle = (
        f"{len(merged)} of {len(entries)} notebooks at profile {profile}, {total:.0f} s in all"
    )
    pages.write_index(out / "index.html", merged, subtitle)


def _setting(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected NAME=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 when every notebook passed."""
    parser = argparse.ArgumentParser(prog="python -m codec_lib.course", description=__doc__)
    parser.add_argument("command", nargs="?", default="run", choices=("run", "student", "headers"))
    default = os.environ.get("CODEC_PROFILE") or "cpu"
    parser.add_argument("--profile", default=default, choices=nb.PROFILES)
    parser.add_argument("--only", default="", help="numbers of notebooks, e.g. 00,02")
    parser.add_argument("--jobs", type=int, default=None, help="notebooks at a time; 2 on CPUs")
    parser.add_argument("--set", dest="settings", action="append", type=_setting, default=[])
    parser.add_argument("--out", type=Path, default=None, help="folder; default build/course")
    options = parser.parse_args(arguments)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        if options.command == "headers":
            written = student.write_headers(read_manifest(nb.ROOT / "notebooks" / "manifest.yml"))
            print(f"{len(written)} headers rewritten")
            return 0
        if options.command == "student":
            entries = choose(read_manifest(nb.ROOT / "notebooks" / "manifest.yml"), options.only)
            made = student.write_all(entries, options.out or nb.build_root() / "student")
            print(
                f"{len(made)} student versions in {made[0].parent.name}/" if made else "none made"
            )
            return 0
        chosen = options.profile, options.only, dict(options.settings), options.out
        records = run_course(*chosen, options.jobs)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"index: {(options.out or nb.build_root() / 'course') / 'index.html'}")
    return int(any(record["problems"] for record in records))


if __name__ == "__main__":
    raise SystemExit(main())
