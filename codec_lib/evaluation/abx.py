r"""ABX: is a sound nearer to another of its kind than to one of a different kind?

X is a phoneme that somebody says, A the same phoneme, B another one in the same place between the
same neighbours. The error is how often X is nearer to B [Schatz et al. 2013], [Riviere and Dupoux
2021]: 0.5 for features that know nothing. Within speakers all three are of one voice; across, X is
of another, so that features that hear voices rather than sounds fail. Distances are angles between
frames, averaged along the best alignment in time; between units a frame is equal or not.

Errors are averaged over neighbours, then speakers, then pairs of phonemes, so that what is frequent
does not count more. The published tool, ``fastabx``, needs Python 3.12 and item files; this measure
is its definition on this project's corpora. No notebook yet. Leaves out: words, item files.
Read next: ``units.py``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.nn import functional

from codec_lib import audio
from codec_lib.data import Corpus
from codec_lib.data.phonemes import SILENCE

from .results import bootstrap_interval

Place = tuple[str, str]  # the phonemes before and after


@dataclass(frozen=True)
class Token:
    r"""One phoneme as it is said.

    Attributes
    ----------
    symbol, place, speaker
        Phoneme; what stands before and after it; who says it.
    frames
        Features (F, D) of length 1, or units (F, 1) int64.
    """

    symbol: str
    place: Place
    speaker: str
    frames: np.ndarray


@torch.no_grad()
def tokens_of(
    extract: Callable[[Tensor], Tensor],
    corpus: Corpus,
    context: bool = True,
    frame_rate: float = 50.0,
) -> list[Token]:
    r"""Cut the phonemes of a corpus out of its features.

    Parameters
    ----------
    extract
        Function from a waveform (1, 1, T) to features (1, F, D) or units (1, F).
    corpus
        With phonemes and speakers.
    context
        False puts all neighbours together, for corpora too small to have the same ones twice.
    frame_rate
        Frames per second, Hz.

    Returns
    -------
    list[Token]
        Of every phoneme but silence, where at least one frame has its centre within it.
    """
    heard = {}
    for index, utterance in enumerate(corpus):
        if not utterance.phonemes:
            continue
        try:
            heard[index] = extract(corpus.load(index)[None])[0].cpu()  # (F, D) or (F,)
        except audio.AudioError:
            continue  # the corpus has reported it
    return cut_tokens(heard, corpus, context, frame_rate)


def cut_tokens(
    heard: Mapping[int, Tensor], corpus: Corpus, context: bool = True, frame_rate: float = 50.0
) -> list[Token]:
    r"""Cut phonemes out of features or units that are there already.

    Parameters
    ----------
    heard
        Features (F, D) or units (F,) by the utterance's number.
    corpus, context, frame_rate
        As in ``tokens_of``.
    """
    found = []
    for index, rows in heard.items():
        utterance = corpus[index]
        rows = rows[:, None] if rows.ndim == 1 else functional.normalize(rows.float(), dim=-1)
        hop = utterance.sample_rate / frame_rate
        symbols = [SILENCE, *(one.symbol for one in utterance.phonemes), SILENCE]
        for place, phoneme in enumerate(utterance.phonemes):
            first, last = (round(edge / hop) for edge in (phoneme.start, phoneme.end))
            if phoneme.symbol != SILENCE and last > first and len(rows) > first:
                around = (symbols[place], symbols[place + 2]) if context else ("", "")
                cut = rows[first:last].numpy()
                found.append(Token(phoneme.symbol, around, utterance.speaker_id, cut))
    return found


def abx(
    tokens: Sequence[Token],
    across: bool = False,
    most: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    r"""Measure the ABX error of phonemes.

    Parameters
    ----------
    tokens
        See ``tokens_of``.
    across
        True takes X from another speaker.
    most
        Tokens of a phoneme, place and speaker that are used at most, as published.
    seed
        Of which.

    Returns
    -------
    dict
        ``abx_error``, its 95 % interval over pairs of phonemes (``_low``, ``_high``), ``pairs`` of
        phonemes, ``cells`` (pair, which of the two X is, place, speakers) and ``across``. A pair
        counts once, by the mean of its two ways; two pairs of one phoneme count as independent.

    Raises
    ------
    ValueError
        If no two phonemes can be compared.
    """
    groups: dict[tuple[Place, str], dict[str, list[Token]]] = defaultdict(dict)
    rng = np.random.default_rng(seed)
    for token in tokens:
        groups[token.place, token.speaker].setdefault(token.symbol, []).append(token)
    for by_symbol in groups.values():
        for symbol, several in by_symbol.items():
            chosen = rng.permutation(len(several))[:most]
            by_symbol[symbol] = [several[index] for index in chosen]
    errors: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    cells = 0
    for (place, speaker), known in groups.items():
        for others in _answers(groups, place, speaker, across):
            for (a, b), error in _cell_errors(known, others, same=not across):
                errors[a, b][speaker].append(error)
                cells += 1
    if not errors:
        raise ValueError(
            f"abx: got {len(tokens)} phonemes without two in the same place of the speakers asked "
            "for. Hint: context=False"
        )
    means = _of_pairs(errors)
    low, high = bootstrap_interval(means)
    row = {"abx_error": float(np.mean(means)), "abx_error_low": low, "abx_error_high": high}
    return {**row, "pairs": len(means), "cells": cells, "across": across}


def _of_pairs(errors: dict[tuple[str, str], dict[str, list[float]]]) -> list[float]:
    """Return the mean error of each pair over speakers, then over X like a and X like b."""
    ways: dict[frozenset[str], list[float]] = defaultdict(list)
    for pair, by_speaker in errors.items():
        ways[frozenset(pair)].append(np.mean([np.mean(cells) for cells in by_speaker.values()]))
    return [float(np.mean(both)) for both in ways.values()]


def _answers(groups: Any, place: Place, speaker: str, across: bool) -> list[dict[str, list[Token]]]:
    """Return where X may come from: the same speaker, or each other one in the same place."""
    if not across:
        return [groups[place, speaker]]
    return [found for (where, who), found in groups.items() if where == place and who != speaker]


def _cell_errors(
    known: dict[str, list[Token]], others: dict[str, list[Token]], same: bool
) -> Iterator[tuple[tuple[str, str], float]]:
    """Yield, for every A and B, how often X is nearer to B, ties half; A is never X itself."""
    common = sorted(set(known) & set(others))
    if not common or len(known) < 2:
        return
    symbols = sorted(known)
    distances = _distances(
        [t for s in common for t in others[s]], [t for s in symbols for t in known[s]]
    )
    rows, columns = (
        np.cumsum([0, *(len(part[s]) for s in order)])
        for part, order in ((others, common), (known, symbols))
    )
    for i, a in enumerate(common):
        heard = distances[rows[i] : rows[i + 1]]  # X against all
        place = symbols.index(a)
        to_a = heard[:, columns[place] : columns[place + 1]]
        allowed = ~np.eye(len(to_a), dtype=bool) if same else np.ones(to_a.shape, dtype=bool)
        if not allowed.any():
            continue
        for j, b in enumerate(symbols):
            if b != a:
                to_b = heard[:, None, columns[j] : columns[j + 1]]
                wins = (to_a[:, :, None] > to_b) + 0.5 * (to_a[:, :, None] == to_b)
                yield (a, b), float(wins[allowed].mean())


def _distances(some: list[Token], others: list[Token]) -> np.ndarray:
    """Return the mean distance along the best alignment of each pair: half turns, or 0 and 1."""
    one, other = (np.concatenate([token.frames for token in part]) for part in (some, others))
    if one.dtype == np.int64:
        costs = (one != other.T).astype(np.float32)
    else:
        costs = np.arccos(np.clip(one @ other.T, -1, 1)).astype(np.float32) / np.float32(np.pi)
    edges = [np.cumsum([0, *(len(token.frames) for token in part)]) for part in (some, others)]
    return _path_costs(costs, *edges)


@njit(cache=True)
def _path_costs(costs: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the path cost of every block of a matrix, cut at rows and columns."""
    found = np.empty((len(rows) - 1, len(columns) - 1))
    for i in range(len(rows) - 1):
        for j in range(len(columns) - 1):
            found[i, j] = _path_cost(costs[rows[i] : rows[i + 1], columns[j] : columns[j + 1]])
    return found


@njit(cache=True)
def _path_cost(costs: np.ndarray) -> float:
    """Return the mean cost on the cheapest path through (F, G) by steps of one, or both, on."""
    rows, columns = costs.shape
    total = np.empty((rows, columns))
    steps = np.empty((rows, columns), dtype=np.int64)
    for i in range(rows):
        for j in range(columns):
            best, count = 0.0, 0
            if i or j:
                best = np.inf
            if i and j and total[i - 1, j - 1] < best:
                best, count = total[i - 1, j - 1], steps[i - 1, j - 1]
            if i and total[i - 1, j] < best:
                best, count = total[i - 1, j], steps[i - 1, j]
            if j and total[i, j - 1] < best:
                best, count = total[i, j - 1], steps[i, j - 1]
            total[i, j] = best + costs[i, j]
            steps[i, j] = count + 1
    return total[-1, -1] / steps[-1, -1]
