r"""Generation of speech language models on one core: with the cache, without, against real time.

Both ways write the same codes, in turns. The cache saves what grows with the square of the length,
so the ratio rises with it. The figures are in ``data/results/bench.json``. Leaves out: GPUs,
training. Read next: ``speed.py``.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

from codec_lib.evaluation.timing import in_turns, one_core, ratio
from codec_lib.lm.continuous import TokenBatch, build_continuous_model, write_tokens
from codec_lib.lm.generation import write_first
from codec_lib.lm.sampling import Sampling
from codec_lib.lm.unified import Batch, build_unified

FRAMES = 300  # six seconds at 50 Hz
SYMBOLS, PROMPT = 80, 150  # of prompt and target together; three seconds


def cache_speed(
    scale: str, repetitions: int, frames: int = FRAMES, prompt: int = PROMPT
) -> dict[str, Any]:
    r"""Time the first codebook with and without the cache.

    Parameters
    ----------
    scale
        Of ``build_unified``.
    repetitions
        Timed turns of each.
    frames, prompt
        That are written, and that stand before them.

    Returns
    -------
    dict
        Median seconds with the cache (``ours``) and without (``theirs``), their ratio, the share of
        equal codes, and how many times faster than real time the cached one is.
    """
    model = build_unified(scale).eval()
    with torch.no_grad():
        model.ar.head.weight[-1] = 0  # it would rather not end
    text, codes = torch.full((1, SYMBOLS), 5), torch.arange(8 * prompt).view(1, 8, -1) % 1024
    batch = Batch(text, torch.tensor([SYMBOLS]), codes, torch.tensor([prompt]))
    written: dict[bool, list[torch.Tensor]] = {}

    def write(use_cache: bool) -> None:
        written[use_cache] = write_first(model.ar, batch, [frames], Sampling(), 0, use_cache)

    with one_core():
        turns = {"cache": lambda: write(True), "again": lambda: write(False)}
        seconds = in_turns(turns, repetitions)
    fast = statistics.median(seconds["cache"])
    same = (written[True][0] == written[False][0]).double().mean()
    return {
        "measured": f"writing {frames} codes behind {prompt} with a cache, {scale} scale",
        "ours_seconds": fast,
        "theirs_seconds": statistics.median(seconds["again"]),
        "ratio": ratio(seconds, "again", "cache"),
        "same_codes": float(same),
        "times_real_time": frames / 50 / fast,
    }


def head_speed(repetitions: int, tokens: int = FRAMES // 2) -> list[dict[str, Any]]:
    r"""Time the two heads of continuous tokens, at 25 tokens a second and the scale ``small``.

    Parameters
    ----------
    repetitions
        Timed turns of each.
    tokens
        That are written.

    Returns
    -------
    list[dict]
        Median seconds of each head; their ratio to the mean head; how many times faster than real
        time.
    """
    runs = {}
    for head in ("mean", "flow"):
        model = build_continuous_model("small", head=head).eval()
        with torch.no_grad():
            model.stop.bias.fill_(-50.0)
        prompt = torch.randn(1, PROMPT // 2, model.config.token_dim)
        lengths = torch.tensor([SYMBOLS]), torch.tensor([PROMPT // 2])
        batch = TokenBatch(torch.full((1, SYMBOLS), 5), lengths[0], prompt, lengths[1])
        runs[head] = lambda model=model, batch=batch: write_tokens(model, batch, [tokens])
    with one_core():
        seconds = in_turns(runs, repetitions)
    return [
        {
            "measured": f"writing {tokens} continuous tokens, {head} head",
            "ours_seconds": statistics.median(seconds[head]),
            "ratio": ratio(seconds, head, "mean"),
            "times_real_time": tokens / 25 / statistics.median(seconds[head]),
        }
        for head in runs
    ]


def language_speed(repetitions: int, quick: bool = False) -> list[dict[str, Any]]:
    r"""Time generation at ``small`` and, unless it is to be quick, with the published layers.

    Parameters
    ----------
    repetitions
        Timed turns of each.
    quick
        True writes fewer codes and leaves the published size out.
    """
    frames = 60 if quick else FRAMES
    rows = [cache_speed("small", repetitions, frames), *head_speed(repetitions, frames // 2)]
    # All of them without a cache would take half an hour at that scale; these are the last steps.
    return rows if quick else [*rows, cache_speed("paper", 1, 10, FRAMES - 10)]
