r"""The benchmark behind ``codec-lib bench``: speed against the official package, critics, memory.

Ratios are taken in one run, with the same random weights and in turns (ours, theirs, ours, ...),
and are medians over the turns, so a busy machine slows both alike. Seconds are of this machine and
mean little elsewhere. No notebook; the figures are in ``data/results/bench.json``. Leaves out:
GPUs, training at the published size. Read next: ``memory.py``.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codec_lib.codecs.registry import build
from codec_lib.discriminators import build_discriminators
from codec_lib.evaluation import memory
from codec_lib.evaluation.language_bench import language_speed
from codec_lib.evaluation.peer_bench import peer_speed
from codec_lib.evaluation.peers import official_pair
from codec_lib.evaluation.quantizer_bench import quantizer_speed
from codec_lib.evaluation.results import write_results
from codec_lib.evaluation.schedule_bench import schedule_speed
from codec_lib.evaluation.teacher_bench import teacher_speed
from codec_lib.evaluation.timing import in_turns, ratio
from codec_lib.losses.objective import GeneratorObjective
from codec_lib.paths import data_root

CRITIC_SETS: dict[str, tuple[str, ...]] = {
    "none": (),
    "MS-STFT": ("ms_stft",),
    "MPD": ("mpd",),
    "MSD": ("msd",),
    "MS-STFT + MPD": ("ms_stft", "mpd"),
    "all three": ("mpd", "msd", "ms_stft"),
}


@torch.inference_mode()
def codec_speed(seconds: float, repetitions: int) -> dict[str, Any]:
    r"""Time encode plus decode of the published network, theirs and ours.

    Parameters
    ----------
    seconds
        Length of the noise that is coded, s.
    repetitions
        Turns.

    Returns
    -------
    dict
        Median seconds of both, their ratio (above 1: ours is faster), and whether codes are the
        same and how far the waveforms are apart.
    """
    theirs, ours = official_pair()
    wav = 0.1 * torch.randn(1, 1, round(16000 * seconds))

    def run_theirs() -> tuple[Tensor, Tensor]:
        codes = theirs.encode(wav)  # (K, B, F)
        return codes.transpose(0, 1), theirs.decode(codes)

    def run_ours() -> tuple[Tensor, Tensor]:
        codes = ours.encode(wav)
        return codes.codes, ours.decode(codes)

    measured = in_turns({"theirs": run_theirs, "ours": run_ours}, repetitions)
    (their_codes, their_wav), (our_codes, our_wav) = run_theirs(), run_ours()
    return {
        "measured": f"encode + decode {seconds:g} s, paper scale",
        "theirs_seconds": statistics.median(measured["theirs"]),
        "ours_seconds": statistics.median(measured["ours"]),
        "ratio": ratio(measured, "theirs", "ours"),
        "same_codes": float((their_codes == our_codes).float().mean()),
        "largest_difference": float((their_wav[..., : wav.shape[-1]] - our_wav).abs().max()),
    }


def critic_speed(repetitions: int, batch: int = 4, seconds: float = 1.0) -> list[dict[str, Any]]:
    r"""Time the codec's training step with each set of small critics, against none.

    Parameters
    ----------
    repetitions
        Turns.
    batch, seconds
        Size of the batch; length of a crop, s.

    Returns
    -------
    list[dict]
        For each set its parameters, median seconds of forward and backward of critics and codec,
        and how many times longer that is than without critics.
    """
    torch.manual_seed(0)
    codec, objective = build("speechtokenizer", scale="small"), GeneratorObjective("small")
    wav = 0.1 * torch.randn(batch, 1, round(codec.sample_rate * seconds))
    critics = {
        label: build_discriminators("small", names=names) if names else None
        for label, names in CRITIC_SETS.items()
    }

    def step(disc: nn.Module | None) -> None:
        out = codec(wav)
        real = fake = None
        if disc is not None:
            told = disc(torch.cat([wav, out.wav.detach()]))  # the critics' own step
            sum(output.logits.mean() for output in told).backward()
            real, fake = disc(wav), disc(out.wav)
        objective(out, wav, real, fake).total.backward()
        codec.zero_grad()

    functions = {label: (lambda disc=disc: step(disc)) for label, disc in critics.items()}
    measured = in_turns(functions, repetitions)
    return [
        {
            "measured": f"training step, critics: {label}",
            "parameters": sum(p.numel() for p in disc.parameters()) if disc else 0,
            "ours_seconds": statistics.median(measured[label]),
            "ratio": ratio(measured, label, "none"),
        }
        for label, disc in critics.items()
    ]


def main(quick: bool = False, path: str | Path | None = None) -> Path:
    r"""Run the whole benchmark, print a table and write ``data/results/bench.json``.

    Parameters
    ----------
    quick
        True measures shorter signals fewer times and writes nothing unless ``path`` is given.
    path
        Where to write the results.

    Returns
    -------
    Path
        The file of results.
    """
    repetitions = 3 if quick else 9
    parts: list[Callable[[], list[dict[str, Any]]]] = [
        lambda: [codec_speed(length, repetitions) for length in ((2,) if quick else (3, 10))],
        lambda: critic_speed(repetitions),
        lambda: quantizer_speed(repetitions),
        lambda: schedule_speed(repetitions, quick),
        lambda: teacher_speed(repetitions, quick),
        lambda: memory.long_file((10, 30) if quick else (60, 600, 3600)),
        lambda: [memory.long_file_agreement(10 if quick else 60), memory.kmeans_start()],
        lambda: language_speed(min(repetitions, 3), quick),
        lambda: peer_speed(min(repetitions, 5), quick),
    ]
    conditions = {
        "what": "medians of runs in turns; memory is how far the peak rises",
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "weights": "random, the same for both packages",
    }
    target = Path(path) if path else data_root() / "results" / "bench.json"
    rows: list[dict[str, Any]] = []
    for part in parts:
        rows += part()
        if path is not None:  # minutes each: what is known is kept
            write_results(target, rows, conditions)
    print_table(rows)
    return target if quick else write_results(target, rows, conditions)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    r"""Print what was measured, one line a row."""
    from rich.console import Console
    from rich.table import Table

    table = Table("measured", "ours", "theirs", "ratio", "peak memory", "also")
    shown = {"measured", "ours_seconds", "theirs_seconds", "ratio", "peak_megabytes"}
    for row in rows:
        table.add_row(
            str(row["measured"]),
            f"{row['ours_seconds']:.3g} s" if "ours_seconds" in row else "",
            f"{row['theirs_seconds']:.3g} s" if "theirs_seconds" in row else "",
            f"{row['ratio']:.2f}" if "ratio" in row else "",
            f"{row['peak_megabytes']:.0f} MB" if "peak_megabytes" in row else "",
            ", ".join(f"{k} {v:.6g}" for k, v in row.items() if k not in shown),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
