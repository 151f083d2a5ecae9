r"""Timing that a busy machine does not spoil: functions in turns, and ratios turn by turn.

Every comparison of the benchmark is timed so; notebook 14 times schedulers by it. Leaves out: what
is compared, memory (``memory.py``). Read next: ``speed.py``.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch


def in_turns(
    functions: Mapping[str, Callable[[], Any]], repetitions: int
) -> dict[str, list[float]]:
    r"""Run functions in turns and return the seconds of every run.

    Parameters
    ----------
    functions
        By name; each runs once before the clock starts.
    repetitions
        Timed runs of each.

    Returns
    -------
    dict[str, list[float]]
        Wall-clock seconds by name, in order.

    Examples
    --------
    >>> len(in_turns({"a": lambda: None, "b": lambda: None}, 3)["a"])
    3
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repetitions):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], numerator: str, denominator: str) -> float:
    r"""Return the median over turns of how many times longer one function took than another.

    Parameters
    ----------
    seconds
        What ``in_turns`` returned.
    numerator, denominator
        Names in it.

    Examples
    --------
    >>> ratio({"a": [2.0, 3.0], "b": [1.0, 1.0]}, "a", "b")
    2.5
    """
    turns = zip(seconds[numerator], seconds[denominator], strict=True)
    return statistics.median(above / below for above, below in turns)


@contextmanager
def one_core() -> Iterator[None]:
    r"""Let torch use one thread inside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def imported(module: str, package: str) -> Any:
    r"""Import a module of a package that only benchmarks and tests need.

    Raises
    ------
    ValueError
        If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{package}: not installed, expected for the benchmark. Hint: make env installs it"
        ) from error
