r"""Published packages against this one, in turns: encode, decode, a whole training step, memory.

All at the published sizes, on short signals, on one core; every row also says whether the results
are the same. Memory is how far the peak of a process rises. The figures are in
``data/results/bench.json``, what was tried in ``docs/performance.md``. Leaves out: quantizers
(``quantizer_bench.py``). Read next: ``memory.py``.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from codec_lib.evaluation import memory
from codec_lib.evaluation.peer_training import dac_steps
from codec_lib.evaluation.peers import OURS, PEERS, Peers
from codec_lib.evaluation.timing import in_turns, one_core, ratio

CROP = 0.4  # seconds of a training step


def sameness(action: str, theirs: Tensor, ours: Tensor) -> dict[str, float]:
    r"""Say how far two results are the same.

    Parameters
    ----------
    action
        ``"encode"``, which gives codes of (B, K, F) or (K, B, F), or ``"decode"``.
    theirs, ours
        Results of both; of waveforms the shorter length counts.

    Examples
    --------
    >>> sameness("encode", torch.zeros(8, 1, 5), torch.zeros(1, 8, 5))
    {'same_codes': 1.0}
    """
    if action == "encode":
        theirs = theirs if theirs.shape == ours.shape else theirs.transpose(0, 1)
        return {"same_codes": float((theirs == ours).double().mean())}
    length = min(theirs.shape[-1], ours.shape[-1])
    return {"largest_difference": float((theirs[..., :length] - ours[..., :length]).abs().max())}


def _compared(
    label: str,
    runs: Mapping[str, Callable[[], Any]],
    repetitions: int,
    megabytes: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Time the runs of several packages in turns; a row for each package but ours."""
    seconds = in_turns(runs, repetitions)
    return [
        {
            "measured": f"{label}, against {package}",
            "ours_seconds": statistics.median(seconds[OURS]),
            "theirs_seconds": statistics.median(seconds[package]),
            "ratio": ratio(seconds, package, OURS),
            **({"peak_megabytes": megabytes[OURS]} if megabytes else {}),
            **({"their_megabytes": megabytes[package]} if megabytes else {}),
        }
        for package in runs
        if package != OURS
    ]


@torch.inference_mode()
def inference_rows(name: str, seconds: float, repetitions: int) -> list[dict[str, Any]]:
    r"""Compare encoding and decoding of one codec.

    Parameters
    ----------
    name
        Of ``peers.PEERS``.
    seconds
        Length of the signal, s.
    repetitions
        Turns.
    """
    torch.manual_seed(0)
    peers, rows = PEERS[name](seconds), []
    megabytes = memory.in_own_process(memory_task, f"{seconds}:{name}")["megabytes"]
    for action, runs in peers.actions.items():
        label = f"{peers.name}, {action} {seconds:g} s"
        found = _compared(label, runs, repetitions, megabytes[action])
        results = {package: run() for package, run in runs.items()}
        packages = [package for package in runs if package != OURS]
        for package, row in zip(packages, found, strict=True):
            rows.append(row | sameness(action, results[package], results[OURS]))
    return rows


def training_rows(
    seconds: float,
    repetitions: int,
    batch: int = 1,
    device: str = "cpu",
    bf16: bool = False,
) -> list[dict[str, Any]]:
    r"""Compare a whole training step of DAC, codec and critics.

    Parameters
    ----------
    seconds
        Length of a crop, s.
    repetitions
        Turns.
    batch, device, bf16
        See ``dac_steps``; memory is measured on a CPU, in float32.
    """
    steps = dac_steps(seconds, batch, device, bf16)
    losses = {package: step() for package, step in steps.items()}
    apart = max(
        abs(ours / losses[package][name] - 1)
        for package in losses
        for name, ours in losses[OURS].items()
    )
    where = f"{batch} x {seconds:g} s" + (f" on {device}" + ", bf16" * bf16) * (device != "cpu")
    megabytes = {}
    if device == "cpu" and not bf16:
        megabytes = memory.in_own_process(memory_task, f"{seconds}:training")["megabytes"]["step"]
    rows = _compared(f"DAC 44.1 kHz, training step of {where}", steps, repetitions, megabytes)
    return [{**row, "losses_apart": apart} for row in rows]


def memory_task(argument: str) -> Callable[[], dict[str, Any]]:
    r"""Return a task that measures the memory of every action of every package.

    Parameters
    ----------
    argument
        Seconds, a colon, and a name of ``peers.PEERS`` or ``"training"``.
    """
    seconds, _, name = argument.partition(":")
    torch.set_num_threads(1)  # a child has none of its parent's threads and must not wait for them
    if name == "training":
        steps = dac_steps(float(seconds))
        learn = torch.enable_grad()
        actions: dict[str, Any] = {"step": {one: learn(step) for one, step in steps.items()}}
    else:
        actions = _warm(PEERS[name](float(seconds)))

    def task() -> dict[str, Any]:
        found = {
            action: {package: memory.in_a_fork(run) for package, run in runs.items()}
            for action, runs in actions.items()
        }
        return {"megabytes": found}

    return task


def _warm(peers: Peers) -> dict[str, dict[str, Callable[[], Any]]]:
    """Run everything once: what a first call loads is no part of its memory."""
    for runs in peers.actions.values():
        for run in runs.values():
            run()
    return dict(peers.actions)


def peer_speed(repetitions: int, quick: bool = False) -> list[dict[str, Any]]:
    r"""Compare everything, on one core; a training step also on a GPU, where there is one.

    Parameters
    ----------
    repetitions
        Turns.
    quick
        True takes the smallest codec only.
    """
    with one_core():
        if quick:
            return inference_rows("EnCodec", 0.5, repetitions)
        rows = [row for name in PEERS for row in inference_rows(name, 2.0, repetitions)]
        rows += training_rows(CROP, repetitions)
    if torch.cuda.is_available():
        rows += training_rows(1.0, repetitions, batch=8, device="cuda", bf16=True)
    return rows
