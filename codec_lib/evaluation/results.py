r"""Means with their uncertainty, and result files that say how they came about.

Bootstrap: [Efron 1979]. No notebook of its own. Leaves out: comparing two systems over seeds.
Read next: ``probes.py``.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    r"""Return the interval in which the mean lies, by resampling the values.

    Parameters
    ----------
    values
        One per utterance, finite. Utterances are taken as independent; with several per speaker the
        interval is somewhat too narrow.
    confidence
        Share of the resampled means inside.
    resamples, seed
        Number of resampled means; seed of their choice.

    Returns
    -------
    tuple[float, float]
        Low and high; NaN for fewer than two values.

    Examples
    --------
    >>> low, high = bootstrap_interval([1.0, 2.0, 3.0])
    >>> low < 2 < high
    True
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size < 2:
        return math.nan, math.nan
    chosen = np.random.default_rng(seed).integers(data.size, size=(resamples, data.size))
    tail = 50 * (1 - confidence)
    low, high = np.percentile(data[chosen].mean(axis=1), [tail, 100 - tail])
    return float(low), float(high)


def jackknife_interval(value: float, without: Sequence[float]) -> tuple[float, float]:
    r"""Return the ends of the 95 % interval of an estimate that is no mean of values.

    Student's, with one degree of freedom less than there are items.

    Parameters
    ----------
    value
        The estimate.
    without
        The same with each item, e.g. an utterance or a speaker, left out.

    Examples
    --------
    >>> values = [1.0, 2.0, 3.0, 6.0]
    >>> without = [(12 - one) / 3 for one in values]
    >>> [round(end, 2) for end in jackknife_interval(3.0, without)]  # of a mean: t s / sqrt(n)
    [-0.44, 6.44]
    """
    error = math.sqrt((len(without) - 1) * float(np.var(without)))
    reach = float(stats.t.ppf(0.975, len(without) - 1)) * error
    return value - reach, value + reach


def summarise(values: Sequence[float], name: str) -> dict[str, float]:
    r"""Return mean, 95 % interval and the number of values that could not be measured.

    Parameters
    ----------
    values
        One per utterance; NaN where the measurement failed.
    name
        Of the metric.

    Returns
    -------
    dict[str, float]
        ``name``, ``name_low``, ``name_high``, ``name_failures``; failures are left out of the mean.

    Examples
    --------
    >>> summarise([1.0, 3.0, float("nan")], "stoi")["stoi_failures"]
    1
    """
    data = np.asarray(values, dtype=np.float64)
    good = data[np.isfinite(data)]
    low, high = bootstrap_interval(good)
    return {
        name: float(good.mean()) if good.size else math.nan,
        f"{name}_low": low,
        f"{name}_high": high,
        f"{name}_failures": int(data.size - good.size),
    }


def write_results(
    path: str | Path, rows: Sequence[Mapping[str, Any]], conditions: Mapping[str, Any]
) -> Path:
    r"""Write results as JSON, with the conditions under which they were measured.

    Parameters
    ----------
    path
        File to write, atomically.
    rows
        One mapping per setting, e.g. of ``evaluate_codec``. NaN is written as null.
    conditions
        What was measured on what: codec and fingerprint, corpus, utterances, seeds. Versions of
        Python, torch and this library are added, with the revision if it runs from a checkout, the
        command, and the machine.

    Returns
    -------
    Path
        The file.
    """
    import torch

    import codec_lib
    from codec_lib.paths import revision

    versions = {
        "codec_lib": getattr(codec_lib, "__version__", ""),
        "revision": revision(),
        "torch": torch.__version__.split("+")[0],
        "python": platform.python_version(),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    added = {"versions": versions, "command": _command(), "machine": _machine()}
    content = {"conditions": {**conditions, **added}, "rows": [dict(r) for r in rows]}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    text = json.dumps(_plain(content), indent=1, allow_nan=False)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def _command() -> str:
    """Return the ``codec-lib`` command that is running, or nothing for other programs."""
    program = Path(sys.argv[0])
    is_ours = program.name == "codec-lib" or program.parts[-2:] == ("codec_lib", "cli.py")
    return shlex.join(["codec-lib", *sys.argv[1:]]) if is_ours else ""


def _machine() -> dict[str, Any]:
    """Return processor, threads, and accelerator where there is one."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def read_results(path: str | Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    r"""Read the rows and the conditions that ``write_results`` wrote."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    return content["rows"], content["conditions"]


def _plain(value: Any) -> Any:
    """Turn numbers of NumPy and torch into JSON's, rounded to 6 digits, NaN into null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
