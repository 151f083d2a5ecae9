r"""Peak memory of a task, measured from outside: each runs in a process of its own.

A process only ever reports the most memory it has held, so one that does nothing but the task is
started, and says how much its peak rose from just before the task to its end. Notebook:
35_listening_and_leaderboard. Leaves out: memory on a GPU (``torch.cuda.max_memory_allocated``
tells). Read next: ``results.py``.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from codec_lib import audio
from codec_lib.codecs.base import Codec
from codec_lib.codecs.chunked import encode_blocks, encode_long
from codec_lib.codecs.registry import build
from codec_lib.quantizers.vector import VectorQuantizer

SAMPLE_RATE = 16000
BLOCK = 10 * SAMPLE_RATE  # samples that a long file is read by
KMEANS_VECTORS = 4500  # 30 crops of 3 s at 50 frames/s
Task = Callable[[str], Callable[[], dict[str, Any]]]  # prepares; what it returns is measured
UNITS = 1024 if sys.platform == "darwin" else 1  # macOS counts bytes, Linux kilobytes


def peak_megabytes() -> float:
    r"""Return the most memory that this process has held so far, in MB (10^6 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():  # what the parent held counts in getrusage, but not here
        lines = (line.split() for line in status.read_text().splitlines())
        return next(int(line[1]) for line in lines if line and line[0] == "VmHWM:") * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / UNITS * 1024 / 1e6


def in_own_process(task: Task, argument: float | str) -> dict[str, Any]:
    r"""Run a task in a fresh process.

    Parameters
    ----------
    task
        A function of a module, found there by its name: from the argument, as a string, to what is
        measured.
    argument
        Handed to it as a string.

    Returns
    -------
    dict
        What it returned, ``ours_seconds`` and ``peak_megabytes``: how far the peak rose.

    Raises
    ------
    RuntimeError
        If it failed, with what it wrote.
    """
    command = [sys.executable, "-m", "codec_lib.evaluation.memory"]
    command += [task.__module__, task.__name__, str(argument)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{task.__name__}: ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def codec_megabytes(names: Sequence[str], seconds: float = 10.0) -> dict[str, float]:
    r"""Return how far the peak rises when a codec encodes and decodes noise, in MB.

    Parameters
    ----------
    names
        Of shipped codecs, or paths of files.
    seconds
        Length of the noise, s; the whole of it in one piece.

    Returns
    -------
    dict[str, float]
        By name. Weights, and what a first call loads, do not count.

    Raises
    ------
    RuntimeError
        As ``in_own_process``.
    """
    return in_own_process(codecs_task, f"{seconds}:{','.join(map(str, names))}")["megabytes"]


def write_long_file(path: str | Path, seconds: float) -> None:
    r"""Write noise of any length, s, whose level rises and falls once a second."""
    generator = torch.Generator().manual_seed(0)
    second = torch.sin(torch.linspace(0, torch.pi, SAMPLE_RATE))
    ten = 0.1 * torch.randn(1, BLOCK, generator=generator) * second.repeat(10)
    repeats = -(-round(seconds * SAMPLE_RATE) // BLOCK)
    wav = ten.repeat(1, repeats)[:, : round(seconds * SAMPLE_RATE)]
    audio.write(path, wav, SAMPLE_RATE)


def long_file(lengths: Sequence[float]) -> list[dict[str, Any]]:
    r"""Encode files of several lengths (s) in blocks with the small codec, each on its own."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seconds in lengths:
            path = Path(folder) / f"{seconds:g}.wav"
            write_long_file(path, seconds)
            row = in_own_process(encode_task, str(path))
            rows.append({"measured": f"encode {seconds:g} s in blocks, small scale", **row})
            path.unlink()
    return rows


@torch.inference_mode()
def long_file_agreement(seconds: float) -> dict[str, Any]:
    r"""Compare the codes of a file encoded in blocks with those of the file encoded whole.

    Parameters
    ----------
    seconds
        Length of the file, s.

    Returns
    -------
    dict
        Shares of equal codes: 1 at small scale, where a frame depends on few neighbours; less at
        paper scale, whose LSTM reads the whole file.
    """
    torch.manual_seed(0)
    wav = 0.1 * torch.randn(1, 1, round(seconds * SAMPLE_RATE))
    shares = {}
    for scale in ("small", "paper"):
        codec = build("speechtokenizer", scale=scale).eval().for_inference()
        for layer in codec.quantizer.layers:
            layer.codebook.normal_()
        blocks = encode_long(codec, wav, chunk_seconds=seconds / 4, exact=scale == "small")
        shares[scale] = float((blocks.codes == codec.encode(wav).codes).float().mean())
    return {
        "measured": f"equal codes, {seconds:g} s in four blocks and whole",
        **{f"equal_{scale}": share for scale, share in shares.items()},
    }


def kmeans_start() -> dict[str, Any]:
    r"""Measure the k-means start of a codebook at the published size."""
    row = in_own_process(kmeans_task, KMEANS_VECTORS)
    return {"measured": f"k-means start, {KMEANS_VECTORS} vectors, paper scale", **row}


def encode_task(path: str) -> Callable[[], dict[str, Any]]:
    r"""Return the encoding of a file in blocks by the small codec, as a task."""
    codec = build("speechtokenizer", scale="small").eval().for_inference()
    codec.encode(torch.zeros(1, 1, BLOCK))  # what the first call allocates is no part of the task

    def task() -> dict[str, Any]:
        codes = encode_blocks(codec, audio.read_blocks(path, BLOCK))
        return {"frames": codes.codes.shape[2]}

    return task


def kmeans_task(vectors: str) -> Callable[[], dict[str, Any]]:
    r"""Return the k-means start of a codebook from so many latents, as a task."""
    quantizer = VectorQuantizer(latent_dim=1024, codebook_size=1024, kmeans_init=True).train()
    z = torch.randn(1, 1024, int(vectors))

    def task() -> dict[str, Any]:
        out = quantizer(z)
        return {"codes_in_use": len(out.codes.unique())}

    return task


def codecs_task(argument: str) -> Callable[[], dict[str, Any]]:
    r"""Return a task that measures each codec in a child of its own, forked before it works."""
    from codec_lib import hub

    seconds, _, names = argument.partition(":")
    torch.set_num_threads(1)  # a child has none of its parent's threads and must not wait for them
    codecs = {name: hub.load(name) for name in names.split(",")}
    for codec in codecs.values():  # what the first call loads is no part of the task
        codec.decode(codec.encode(torch.zeros(1, 1, codec.sample_rate // 2)))

    def there_and_back(codec: Codec) -> None:
        codec.decode(
            codec.encode(0.1 * torch.randn(1, 1, round(float(seconds) * codec.sample_rate)))
        )

    def task() -> dict[str, Any]:
        found = {n: in_a_fork(partial(there_and_back, codec)) for n, codec in codecs.items()}
        return {"megabytes": found}

    return task


def in_a_fork(run: Callable[[], Any]) -> float:
    r"""Do something in a child of this process; return how far the child's peak rose, in MB.

    Parameters
    ----------
    run
        Uses one thread: a child has none of its parent's and would wait for them.

    Raises
    ------
    RuntimeError
        If the child ended before its work did.
    """
    with contextlib.suppress(OSError, AttributeError):  # what was freed before must be asked for
        ctypes.CDLL(None).malloc_trim(0)  # again; glibc alone keeps it
    into, out = os.pipe()
    if not os.fork():
        try:
            before = peak_megabytes()
            run()
            os.write(out, str(peak_megabytes() - before).encode())
        finally:
            os._exit(0)
    os.close(out)
    with os.fdopen(into) as pipe:
        said = pipe.read()
    os.wait()
    if not said:
        raise RuntimeError("the process ended without a word, killed or by an error")
    return float(said)


def _run_task(module: str, name: str, argument: str) -> None:
    """Prepare and run a task, and print its result as JSON."""
    torch.manual_seed(0)
    with torch.no_grad():
        task = getattr(importlib.import_module(module), name)(argument)
        before, start = peak_megabytes(), time.perf_counter()
        result = task()
        seconds = time.perf_counter() - start
    rise = peak_megabytes() - before
    print(json.dumps({**result, "ours_seconds": seconds, "peak_megabytes": rise}))


if __name__ == "__main__":
    _run_task(*sys.argv[1:])
