r"""How far units change when only the voice, the room or the noise does: unit edit distance.

Recordings are heard as they are and changed. The deduplicated units of both are compared by the
edits that turn one into the other [Gat et al. 2023]. Two lengths to divide by are in use, so both
are given and named. Notebook: 21. Leaves out: the changes themselves
(``teachers/perturbation.py``). Read next: ``units.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codec_lib import audio
from codec_lib.data import Corpus
from codec_lib.teachers.perturbation import VoiceError

from .ngrams import deduplicate
from .results import summarise

UnitFunction = Callable[[Tensor], Tensor]  # (1, 1, T) -> (1, F) int64
Units = dict[int, Tensor]  # number of the utterance -> (F,) or (F, S)
Perturbation = Callable[[Tensor, int, np.random.Generator], Tensor]  # (1, T), Hz -> (1, T)


@torch.no_grad()
def hear(
    units_of: UnitFunction, corpus: Corpus, perturb: Perturbation | None = None, seed: int = 0
) -> Units:
    r"""Name the units of every utterance.

    Parameters
    ----------
    units_of
        Function from a waveform (1, 1, T) to units (1, F) or (1, F, S). It is given a whole
        recording at a time, on its own device where it is a network's method (``spin.units``).
    corpus
        What to hear.
    perturb
        Changes every waveform first.
    seed
        Of the changes; each utterance has its own random numbers.

    Returns
    -------
    Units
        Units (F,) or (F, S) by the utterance's number, on the CPU. Bad files are left out, and
        recordings that have no frame or could not be changed: whose change raised ``VoiceError``.
    """
    heard, device = {}, device_of(units_of)
    for index in range(len(corpus)):
        try:
            wav = corpus.load(index)  # (1, T)
            if perturb is not None:
                wav = perturb(wav, corpus.sample_rate, np.random.default_rng([seed, index]))
        except (audio.AudioError, VoiceError):
            continue  # the corpus has reported it; a change that failed counts as a failure
        units = units_of(wav[None].to(device))[0].cpu()
        if len(units):
            heard[index] = units
    return heard


def device_of(network: Any) -> torch.device:
    r"""Return where a network is, or the one whose method this is; the CPU if that is unknown."""
    owner = getattr(network, "__self__", network)
    parts = chain(owner.parameters(), owner.buffers()) if isinstance(owner, nn.Module) else ()
    return next((one.device for one in parts), torch.device("cpu"))


def robustness(
    units: Mapping[int, Tensor], changed: Mapping[int, Tensor], name: str
) -> dict[str, float]:
    r"""Compare the units of recordings with those of the same recordings after a change.

    .. math:: \mathrm{UED} = \mathrm{lev}\bigl(\mathrm{dedup}(u(x)), \mathrm{dedup}(u(g(x)))\bigr)
              \; / \; \text{length} \qquad \text{[Gat et al. 2023]}

    Parameters
    ----------
    units, changed
        By the utterance's number, (F,) each; where none is changed, the change failed.
    name
        Of the change; begins the keys.

    Returns
    -------
    dict[str, float]
        Means over utterances with their intervals, see ``summarise``: ``<name>_ued_units``, edits
        by deduplicated units of the original; ``<name>_ued_frames``, by its frames, as published;
        ``<name>_agreement``, share of frames with the same unit, left out where the change moved
        them.
    """
    by_units, by_frames, same = [], [], []
    for index, frames in units.items():
        others = changed.get(index, frames[:0])
        first, second = deduplicate(frames), deduplicate(others)
        heard = len(frames) > 0 and len(others) > 0
        edits = unit_edit_distance(first, second) if heard else math.nan
        by_units.append(edits / max(1, len(first)))
        by_frames.append(edits / max(1, len(frames)))
        kept = heard and len(others) == len(frames)
        same.append(float((frames == others).double().mean()) if kept else math.nan)
    row = summarise(by_units, f"{name}_ued_units") | summarise(by_frames, f"{name}_ued_frames")
    if not all(map(math.isnan, same)):
        row |= summarise(same, f"{name}_agreement")
    return row


def ued_gain(one: tuple[Units, Units], other: tuple[Units, Units]) -> tuple[float, float, float]:
    r"""Compare how far two sets of units change with the same recordings, with an interval.

    What is hard to one set is hard to the other, so differences are taken utterance by utterance:
    their mean is known better than either UED.

    Parameters
    ----------
    one, other
        Two mappings each, of the recordings and of the changed ones: units (F,) by the utterance's
        number. Utterances that any of the four lacks are left out.

    Returns
    -------
    tuple[float, float, float]
        Edits per deduplicated unit that ``one`` saves, i.e. the UED of ``other`` minus its own, and
        the ends of its 95 % interval (1.96 standard errors).

    Raises
    ------
    ValueError
        If fewer than two utterances are in all four.
    """
    common = sorted(set.intersection(*(set(units) for units in (*one, *other))))
    if len(common) < 2:
        raise ValueError(f"units: got {len(common)} common utterances, expected two or more")
    saved = []
    for index in common:
        pairs = [[deduplicate(units[index]) for units in pair] for pair in (one, other)]
        mine, others = (unit_edit_distance(a, b) / max(1, len(a)) for a, b in pairs)
        saved.append(others - mine)
    value, error = float(np.mean(saved)), float(np.std(saved, ddof=1) / math.sqrt(len(saved)))
    return value, value - 1.96 * error, value + 1.96 * error


def unit_edit_distance(first: Tensor, second: Tensor) -> int:
    r"""Count the fewest units to insert, delete or replace to turn one sequence into another.

    A row of the table [Wagner & Fischer 1974] at a time: what the row above allows, then the best
    of it with insertions, a running minimum of the cost less the place.

    Parameters
    ----------
    first, second
        Shape (F,) each; lengths may differ.

    Examples
    --------
    >>> import torch
    >>> unit_edit_distance(torch.tensor([1, 2, 3]), torch.tensor([2, 3, 4]))
    2
    """
    across = second.numpy()
    places = np.arange(len(across) + 1)
    row = places.copy()
    for deleted, unit in enumerate(first.tolist(), 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (across != unit))
        row = np.concatenate(([deleted], best)) - places
        row = np.minimum.accumulate(row) + places
    return int(row[-1])
