r"""What every notebook uses: set-up, checks, players, tables, artefacts, the closing cell.

A notebook calls :func:`setup` once near its top and :func:`finish` in its last cell; between them
it shows figures (:func:`show`), sound (:func:`audio_row`), numbers (:func:`table`,
:func:`results`) and the library's own code (:func:`show_source`), and asserts what it claims
(:func:`check`).

Notebook: all of them. Leaves out: how cells show things (``cells.py``), how figures are drawn
(``plotting.py``), live controls (``widgets.py``), running the course (``course.py``). Read next:
``cells.py``.
"""

from __future__ import annotations

import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from codec_lib import plotting
from codec_lib.cells import ROOT, Clip, audio_row, shared_gain, show, show_source, table
from codec_lib.paths import revision

__all__ = [
    "Clip",
    "Context",
    "artefact",
    "audio_row",
    "check",
    "environment",
    "finish",
    "progress",
    "results",
    "revision",
    "setup",
    "shared_gain",
    "show",
    "show_source",
    "table",
    "verdict_row",
]

PROFILES = ("smoke", "cpu", "gpu", "paper")
VERDICTS = ("reproduced", "not reproduced", "inconclusive", "not tested here")
WITHOUT_PAPER = {"reproduced": "holds", "not reproduced": "does not hold"}


@dataclass
class Context:
    r"""What :func:`setup` found out; most cells need only ``pick`` and ``device``.

    Attributes
    ----------
    number, name, title
        ``"01"``, the file's stem and the title, from ``notebooks/manifest.yml``.
    profile
        ``smoke``, ``cpu``, ``gpu`` or ``paper``.
    seed
        The seed that Python, NumPy and PyTorch were given.
    device
        Where models run.
    artefacts
        Folder of what the notebooks of this profile make.
    started
        Clock at set-up, in seconds.
    """

    number: str
    name: str
    title: str
    profile: str
    seed: int
    device: torch.device
    artefacts: Path
    started: float = field(default_factory=time.perf_counter)

    def pick(self, *, smoke: Any, cpu: Any, gpu: Any = None, paper: Any = None) -> Any:
        """Return the value of the current profile; a missing one falls back to the next smaller."""
        gpu = cpu if gpu is None else gpu
        paper = gpu if paper is None else paper
        return {"smoke": smoke, "cpu": cpu, "gpu": gpu, "paper": paper}[self.profile]

    def path(self, name: str) -> Path:
        """Return where the artefact ``name`` of this profile is written."""
        self.artefacts.mkdir(parents=True, exist_ok=True)
        return self.artefacts / name

    def save_json(self, name: str, data: Any) -> Path:
        """Write ``data`` as the JSON artefact ``name`` and return its path."""
        target = self.path(name)
        target.write_text(json.dumps(data, indent=1, ensure_ascii=False, default=_plain) + "\n")
        return target

    def generator(self, offset: int = 0) -> torch.Generator:
        """Return a CPU generator seeded with the notebook's seed plus ``offset``."""
        return torch.Generator().manual_seed(self.seed + offset)


_current: Context | None = None


def setup(
    number: str, *, profile: str = "cpu", seed: int = 0, device: str = "auto", quiet: bool = False
) -> Context:
    r"""Seed everything, resolve profile and device, set the plot style, print the environment.

    Parameters
    ----------
    number
        The notebook's number in ``notebooks/manifest.yml``, e.g. ``"01"``.
    profile
        ``smoke``, ``cpu``, ``gpu`` or ``paper``; the environment variable ``CODEC_PROFILE`` wins.
    seed
        Any integer.
    device
        ``auto`` (a GPU, where there is one, at the profiles ``gpu`` and ``paper``), ``cpu``,
        ``cuda``.
    quiet
        True prints no environment table.

    Returns
    -------
    Context
        Also kept as the current one, for :func:`results` and :func:`finish`.

    Raises
    ------
    ValueError
        On an unknown number, profile or device.
    """
    global _current
    profile = os.environ.get("CODEC_PROFILE") or profile
    if profile not in PROFILES:
        raise ValueError(f"profile: got {profile!r}, expected one of {', '.join(PROFILES)}")
    entry = manifest_entry(number)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (third parties draw from the global state)
    torch.manual_seed(seed)
    plotting.use_style()
    artefacts = build_root() / "artefacts" / profile
    target = _device(device, profile)
    _current = Context(number, entry["file"], entry["title"], profile, seed, target, artefacts)
    if not quiet:
        table([environment(_current)])
    return _current


def _device(device: str, profile: str) -> torch.device:
    if device == "auto":
        large = profile in ("gpu", "paper")
        return torch.device("cuda" if large and torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device: got {device!r}, expected auto, cpu or cuda") from error
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: got {device!r}, but this machine has no CUDA device; use 'auto'")
    return target


def build_root() -> Path:
    """Return the folder of everything that is made: ``CODEC_LIB_BUILD``, else ``build/``."""
    return Path(os.environ.get("CODEC_LIB_BUILD") or ROOT / "build")


def manifest_entry(number: str) -> dict[str, Any]:
    """Return the entry of a notebook in ``notebooks/manifest.yml``, by number."""
    notebooks = yaml.safe_load((ROOT / "notebooks" / "manifest.yml").read_text())["notebooks"]
    for entry in notebooks:
        if entry["file"].split("_")[0] == str(number):
            return entry
    known = ", ".join(entry["file"].split("_")[0] for entry in notebooks)
    raise ValueError(f"number: got {number!r}, expected one of {known} (notebooks/manifest.yml)")


def environment(ctx: Context) -> dict[str, str]:
    """Return the row that says where and with what a notebook ran."""
    name = torch.cuda.get_device_name() if ctx.device.type == "cuda" else platform.machine()
    return {
        "notebook": ctx.name,
        "profile": ctx.profile,
        "device": f"{ctx.device.type} ({name})",
        "threads": str(torch.get_num_threads()),
        "seed": str(ctx.seed),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "revision": revision(),
    }


def check(name: str, condition: bool | Tensor | np.bool_, hint: str = "") -> None:
    r"""Assert what the text claims and print a line that says so.

    Parameters
    ----------
    name
        The claim, e.g. ``"frames = samples / hop"``.
    condition
        What must hold; a tensor must hold everywhere.
    hint
        Where to look when it does not hold.

    Raises
    ------
    AssertionError
        With the claim and the hint.

    Examples
    --------
    >>> check("two and two is four", 2 + 2 == 4, "count your fingers")
    ✓ two and two is four
    """
    holds = bool(condition.all()) if isinstance(condition, Tensor) else bool(condition)
    if not holds:
        raise AssertionError(f"✗ {name}" + (f"\n  Hint: {hint}" if hint else ""))
    print(f"✓ {name}")


def results(rows: Sequence[Mapping[str, Any]], ctx: Context | None = None) -> None:
    r"""Show the table of results and keep it, with the environment, as ``NN_results.json``.

    Parameters
    ----------
    rows
        Each with ``claim``, ``measured`` (a text with its range), ``paper`` (its figure, or "–")
        and ``verdict``: reproduced, not reproduced, inconclusive, or not tested here; a condition
        stands for the first two. Where the paper has no figure, they are shown as holds and does
        not hold.
    ctx
        Context; None takes that of the last :func:`setup`.

    Raises
    ------
    ValueError
        If a row lacks a column or has another verdict.
    """
    ctx = _context(ctx)
    rows = [{**row, "verdict": _verdict(row.get("verdict"))} for row in rows]
    for row in rows:
        missing = {"claim", "measured", "paper"} - set(row)
        if missing or row["verdict"] not in VERDICTS:
            raise ValueError(
                f"rows: got {dict(row)}, expected claim, measured, paper and a verdict of "
                f"{', '.join(VERDICTS)}"
            )
    rows = [
        {**row, "verdict": WITHOUT_PAPER.get(row["verdict"], row["verdict"])}
        if row["paper"] == "–"
        else row
        for row in rows
    ]
    table(rows, caption=f"Results at profile {ctx.profile}, seed {ctx.seed}")
    record = {"environment": environment(ctx), "results": rows}
    ctx.save_json(f"{ctx.number}_results.json", record)


def _verdict(value: Any) -> Any:
    """Return the verdict that a condition stands for; texts as they are."""
    is_condition = isinstance(value, (bool, np.bool_)) or torch.is_tensor(value)
    return VERDICTS[not value] if is_condition else value


def verdict_row(
    claim: str, value: float, low: float, high: float, digits: int = 1, paper: str = "–"
) -> dict[str, str]:
    r"""Return a row of :func:`results` whose verdict follows from an interval.

    Parameters
    ----------
    claim
        What a positive value speaks for.
    value, low, high
        What was measured, and its interval.
    digits
        Behind the point.
    paper
        The paper's figure.

    Returns
    -------
    dict[str, str]
        Reproduced if the whole interval is above 0, not reproduced if below, else inconclusive.
    """
    verdict = "reproduced" if low > 0 else "not reproduced" if high < 0 else "inconclusive"
    measured = f"{value:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
    return {"claim": claim, "measured": measured, "paper": paper, "verdict": verdict}


def artefact(
    name: str, make: Callable[[Path], object] | None = None, ctx: Context | None = None
) -> Path:
    r"""Return a file that a notebook needs: shipped, made before at this profile, or made now.

    Parameters
    ----------
    name
        File name, e.g. ``"speechtokenizer-small.safetensors"``.
    make
        Called with the path to write when the file is in neither place; it may take time.
    ctx
        Context; None takes that of the last :func:`setup`.

    Returns
    -------
    Path
        An existing file.

    Raises
    ------
    FileNotFoundError
        If the file is nowhere and ``make`` is None or did not write it.
    """
    from codec_lib.paths import checkpoints_root

    ctx = _context(ctx)
    shipped, made = checkpoints_root() / name, ctx.path(name)
    if shipped.exists():
        return shipped
    if not made.exists() and make is not None:
        print(f"{name} is neither shipped nor made yet; it is made now at profile {ctx.profile}.")
        make(made)
    if not made.exists():
        raise FileNotFoundError(f"{name}: not among the shipped checkpoints and not made yet")
    return made


def finish(ctx: Context | None = None) -> None:
    """Check that the artefacts promised in the manifest exist and print the run time."""
    ctx = _context(ctx)
    promised = manifest_entry(ctx.number).get("produces") or []
    missing = [name for name in promised if not (ctx.artefacts / name).exists()]
    if missing:
        raise FileNotFoundError(f"{ctx.name}: the manifest promises {', '.join(missing)}")
    seconds = time.perf_counter() - ctx.started
    print(f"{ctx.name}: {len(promised)} artefact(s) written, {seconds:.0f} s at {ctx.profile}.")


def progress(steps: Iterable, total: int, what: str = "", every: float = 10.0) -> Iterator:
    r"""Yield from ``steps`` and print a line now and then, with the time left.

    Parameters
    ----------
    steps, total
        What to go through, and how many there are.
    what
        First word of the line.
    every
        Seconds between lines.
    """
    started = said = time.perf_counter()
    for done, step in enumerate(steps):
        now = time.perf_counter()
        if done and now - said > every:
            left = (now - started) / done * (total - done)
            print(f"{what} {done}/{total}, about {left:.0f} s left", file=sys.stdout, flush=True)
            said = now
        yield step


def _context(ctx: Context | None) -> Context:
    if ctx is None and _current is None:
        raise ValueError("ctx: got none, expected nb.setup(...) to have been called before")
    return ctx or _current  # type: ignore[return-value]


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    return str(value)
