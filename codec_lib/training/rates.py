r"""The rate of tokens in a run: how each step's latents are cut into segments.

A run, or a stage of one, names Melt or Cool [CodecSlime] (``rate/melt.py``); what a step draws
follows from seed and step alone, so a resumed run, and one of several processes, draws the same.
In Cool the losses of the quantizer are means over a process's tokens, of which processes may have
unequal numbers. Notebook: 14_codecslime. Leaves out: the fixed rate, at which nothing is cut. Read
next: ``freezing.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from codec_lib.codecs.base import Codec
from codec_lib.rate.melt import Cool, Melt

if TYPE_CHECKING:
    from codec_lib.training.config import TrainConfig

Segment = Callable[[Tensor], Tensor]


def make_manager(config: TrainConfig, codec: Codec) -> Melt | Cool | None:
    r"""Return what cuts the latents of a run; None where the codec does.

    Melt's ramp ends with the run, Cool's ratio is that of the codec's rates, unless
    ``rate_overrides`` says otherwise.

    Parameters
    ----------
    config
        Its ``rate`` and ``rate_overrides``.
    codec
        Gives rates, longest segment and cost.

    Raises
    ------
    ValueError
        If the codec has a fixed rate, or an option is unknown, out of range or not wanted.
    """
    if config.rate == "codec":
        if config.rate_overrides:
            raise ValueError(
                f"rate_overrides: got {config.rate_overrides} for rate 'codec', which has none; "
                "hint: rate=melt or rate=cool, in a run of stages within the stage"
            )
        return None
    if codec.max_length == 1:
        raise ValueError(
            f"rate: got {config.rate!r} for a codec of fixed rate; "
            "hint: overrides.max_length=4, overrides.token_rate=40"
        )
    options: dict[str, Any] = {"ramp_steps": config.steps}
    if config.rate == "cool":
        options = {"ratio": codec.frame_rate / codec.token_rate, "max_length": codec.max_length}
        options["cost"] = codec.config.segment_cost
    try:
        manager = {"melt": Melt, "cool": Cool}[config.rate](**{**options, **config.rate_overrides})
    except TypeError as error:
        raise ValueError(f"rate_overrides: {error}") from None
    if isinstance(manager, Melt) and len(manager.target) != codec.max_length:
        raise ValueError(
            f"rate_overrides: got {len(manager.target)} shares in target, expected one for each "
            f"length from 1 to {codec.max_length}"
        )
    if isinstance(manager, Cool) and manager.max_length > codec.max_length:
        raise ValueError(
            f"rate_overrides: got segments of up to {manager.max_length} frames, expected at most "
            f"the codec's {codec.max_length}"
        )
    if isinstance(manager, Cool) and manager.ratio == 1:
        raise ValueError(
            f"rate: got 'cool' at {codec.token_rate:g} tokens for {codec.frame_rate:g} frames a "
            "second, which cuts nothing; hint: overrides.token_rate=40"
        )
    return manager


def segment_at(
    manager: Melt | Cool | None, step: int, seed: int, rank: int = 0, world_size: int = 1
) -> Segment | None:
    r"""Return the function from latents (B, D, F) to lengths (B, S) of one step of one process.

    Parameters
    ----------
    manager
        Of ``make_manager``.
    step, seed
        Training step and the run's seed.
    rank, world_size
        This process and the number of processes: each takes its part of what one would draw.
    """
    if manager is None:
        return None
    state = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))

    def segment(z: Tensor) -> Tensor:
        batch, _, frames = z.shape
        mine = slice(rank * batch, (rank + 1) * batch)
        if isinstance(manager, Cool):
            return manager.cut(z, manager.kept(world_size * batch, generator)[mine])
        return manager.lengths(step, world_size * batch, frames, generator)[mine].to(z.device)

    return segment
