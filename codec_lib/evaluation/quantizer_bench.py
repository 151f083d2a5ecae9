r"""Quantizers against vector-quantize-pytorch: time and peak memory of a training step.

A step is forward and backward of 64 x 75 frames on 8192 codes, with the same random weights in both
packages. Times are taken in turns, peaks in a process of their own each. The figures are in
``data/results/bench.json``. Leaves out: GPUs, dead-code revival (switched off in both).
Read next: ``speed.py``.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from codec_lib.evaluation import memory
from codec_lib.evaluation.timing import in_turns, ratio
from codec_lib.quantizers import FiniteScalarQuantizer, SimVQ, VectorQuantizer

BATCH, FRAMES, CODES = 64, 75, 8192
PLAIN = {"kmeans_init": False, "dead_code_threshold": 0}
LEVELS = (8, 8, 8, 4, 4)  # 8192 codes
Pair = tuple[nn.Module, nn.Module]


def moving_averages(lucid: Any) -> Pair:
    """A plain quantizer of width 256 that learns by moving averages."""
    ours = VectorQuantizer(256, CODES, **PLAIN)
    theirs = lucid.VectorQuantize(256, CODES, threshold_ema_dead_code=0, channel_last=False)
    theirs._codebook.embed.data.copy_(ours.codebook.unsqueeze(0))
    return ours, theirs


def factorised(lucid: Any) -> Pair:
    """DS-Codec-VQ's and BigCodec's sizes: 1024 -> 8 -> 1024, learnt by gradient."""
    ours = VectorQuantizer(1024, CODES, 8, update="gradient", **PLAIN)
    theirs = lucid.VectorQuantize(
        1024,
        CODES,
        codebook_dim=8,
        learnable_codebook=True,
        ema_update=False,
        threshold_ema_dead_code=0,
        channel_last=False,
    )
    theirs._codebook.embed.data.copy_(ours.codebook.detach().unsqueeze(0))
    theirs.project_in.load_state_dict(ours.in_proj.state_dict())
    theirs.project_out.load_state_dict(ours.out_proj.state_dict())
    return ours, theirs


def simvq(lucid: Any) -> Pair:
    """SimVQ of width 256."""
    ours = SimVQ(256, CODES, bias=False)
    theirs = lucid.SimVQ(256, CODES, channel_first=True, rotation_trick=False)
    theirs.frozen_codebook.copy_(ours.frozen_codebook)
    theirs.code_transform.load_state_dict(ours.basis.state_dict())
    return ours, theirs


def scalar(lucid: Any) -> Pair:
    """Finite scalar quantization of width 256."""
    ours = FiniteScalarQuantizer(256, LEVELS)
    theirs = lucid.FSQ(list(LEVELS), dim=256, channel_first=True)
    theirs.project_in.load_state_dict(ours.in_proj.state_dict())
    theirs.project_out.load_state_dict(ours.out_proj.state_dict())
    return ours, theirs


PAIRS: dict[str, Callable[[Any], Pair]] = {
    "moving averages, width 256": moving_averages,
    "factorised 1024 to 8": factorised,
    "SimVQ, width 256": simvq,
    "FSQ, width 256": scalar,
}


def build_pair(name: str) -> Pair:
    r"""Return our quantizer and theirs with the same random weights.

    Raises
    ------
    ValueError
        If vector-quantize-pytorch is not installed.
    """
    try:
        lucid = importlib.import_module("vector_quantize_pytorch")
    except ImportError as error:
        raise ValueError(
            "vector_quantize_pytorch: not installed; pip install vector-quantize-pytorch"
        ) from error
    torch.manual_seed(0)
    with torch.no_grad():
        return PAIRS[name](lucid)


def training_step(quantizer: nn.Module, latent_dim: int) -> Callable[[], Tensor]:
    r"""Return a function that runs forward and backward once and returns the codes (B, F)."""
    z = torch.randn(BATCH, latent_dim, FRAMES, generator=torch.Generator().manual_seed(1))
    z.requires_grad_()

    @torch.enable_grad()
    def step() -> Tensor:
        z.grad = None
        quantizer.zero_grad()
        out = quantizer(z)
        if isinstance(out, tuple):  # theirs: quantized, codes and mostly a loss
            z_q, codes, losses = out[0], out[1], list(out[2:])
        else:
            z_q, codes, losses = out.z_q, out.codes[:, 0], list(out.losses.values())
        (z_q.square().mean() + sum(loss.sum() for loss in losses)).backward()
        return codes

    return step


def step_task(which: str) -> Callable[[], dict[str, Any]]:
    r"""Return the step of ``"ours NAME"`` or ``"theirs NAME"`` as a task of ``memory.py``."""
    side, _, name = which.partition(" ")
    ours, theirs = build_pair(name)
    step = training_step(ours if side == "ours" else theirs, ours.latent_dim)
    return lambda: {"codes_in_use": len(step().unique())}


def quantizer_speed(repetitions: int) -> list[dict[str, Any]]:
    r"""Compare a step of every pair in one run.

    Parameters
    ----------
    repetitions
        Timed turns of each.

    Returns
    -------
    list[dict]
        For each pair the median seconds and the peak of both, how many times slower theirs is and
        what share of their memory ours takes, and the share of equal codes in the first step.
    """
    rows = []
    for name in PAIRS:
        ours, theirs = build_pair(name)
        steps = {
            "ours": training_step(ours, ours.latent_dim),
            "theirs": training_step(theirs, ours.latent_dim),
        }
        same = float((steps["ours"]() == steps["theirs"]()).float().mean())
        seconds = in_turns(steps, repetitions)
        peaks = {
            side: memory.in_own_process(step_task, f"{side} {name}")["peak_megabytes"]
            for side in steps
        }
        rows.append(
            {
                "measured": f"quantizer step, {BATCH} x {FRAMES} frames, {CODES} codes: {name}",
                "theirs_seconds": statistics.median(seconds["theirs"]),
                "ours_seconds": statistics.median(seconds["ours"]),
                "ratio": ratio(seconds, "theirs", "ours"),
                "peak_megabytes": peaks["ours"],
                "theirs_megabytes": peaks["theirs"],
                "memory_share": peaks["ours"] / peaks["theirs"],
                "same_codes": same,
            }
        )
    return rows
