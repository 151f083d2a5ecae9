r"""What a set of units is worth: phonemes, robustness, speakers, predictability, in one call.

A unit function maps a waveform (1, 1, T) to units (1, F). Measured on speakers never heard:

* phonemes: PNMI, phone purity, code purity [Hsu et al. 2021, HuBERT], §IV-D; silence left out;
* robustness: unit edit distance between a recording and a changed one [Gat et al. 2023];
* speakers: accuracy of a linear probe on how often an utterance uses each unit;
* predictability: n-gram perplexity of deduplicated units [Chang et al. 2025, DC-Spin].

Notebooks 20 and 21. Leaves out: ABX, resynthesis. Read next: ``teacher_units.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec_lib import audio
from codec_lib.data import Corpus
from codec_lib.teachers.perturbation import VoiceError

from .ngrams import NgramModel, deduplicate
from .probes import SILENCE, code_statistics, linear_probe
from .results import summarise
from .robustness import Perturbation, robustness

UnitFunction = Callable[[Tensor], Tensor]  # (1, 1, T) -> (1, F) int64
Units = dict[int, Tensor]  # number of the utterance -> (F,) or (F, S)


def measure_units(
    units_of: UnitFunction,
    num_units: int,
    aligned: Corpus,
    speakers: Corpus | None = None,
    perturbations: Mapping[str, Perturbation] | None = None,
    text: Corpus | None = None,
    frame_rate: float = 50.0,
    seed: int = 0,
) -> dict[str, Any]:
    r"""Measure a set of units.

    Parameters
    ----------
    units_of
        Function from a waveform (1, 1, T) to units (1, F), int64, e.g. ``spin.units``.
    num_units
        N; every unit is below it.
    aligned
        Speech with phonemes, of speakers that the units were not made from. Without phonemes the
        measures that need them are left out.
    speakers
        Several utterances of each speaker, for the probe; ``aligned`` by default.
    perturbations
        By name, what units should not hear, e.g. ``{"voice": perturb_voice}``.
    text
        Other utterances, which the n-gram models learn from; by default every second one of
        ``aligned``, and the others are tested. With one utterance predictability is left out.
    frame_rate
        Units per second, Hz.
    seed
        Of the perturbations and the probe.

    Returns
    -------
    dict[str, Any]
        The row: what ``phoneme_measures``, ``speaker_measures``, ``sequence_measures`` and, for
        each perturbation, ``robustness`` return.

    Raises
    ------
    ValueError
        If a unit is not below ``num_units``.
    """

    def one_set(wav: Tensor) -> Tensor:
        return units_of(wav)[..., None]  # (1, F, 1)

    common = aligned, speakers, perturbations, text, frame_rate, seed
    return measure_unit_sets(one_set, [num_units], *common)[0]


def measure_unit_sets(
    units_of: UnitFunction,
    sizes: Sequence[int],
    aligned: Corpus,
    speakers: Corpus | None = None,
    perturbations: Mapping[str, Perturbation] | None = None,
    text: Corpus | None = None,
    frame_rate: float = 50.0,
    seed: int = 0,
) -> list[dict[str, Any]]:
    r"""Measure several sets of units that are found together, so that speech is heard only once.

    Parameters
    ----------
    units_of
        Function from a waveform (1, 1, T) to S units for each frame, (1, F, S), int64.
    sizes
        Number of units N of each set.
    aligned, speakers, perturbations, text, frame_rate, seed
        As in ``measure_units``.

    Returns
    -------
    list[dict[str, Any]]
        S rows.
    """
    heard = hear(units_of, aligned)
    voices = heard if speakers is None else hear(units_of, speakers)
    corpus = speakers or aligned
    probed = len(corpus) >= 2 * len(corpus.speakers) >= 4 or speakers is not None
    learnt = None if text is None else hear(units_of, text)
    changed = {
        name: hear(units_of, aligned, perturb, seed)
        for name, perturb in (perturbations or {}).items()
    }
    rows = []
    for column, size in enumerate(sizes):
        units = _column(heard, column, size)
        row: dict[str, Any] = {"num_units": size}
        if aligned.phoneme_set:
            row |= phoneme_measures(units, aligned, size, frame_rate)
        if probed:
            row |= speaker_measures(_column(voices, column, size), corpus, size, seed)
        known, tested = list(units.values())[::2], list(units.values())[1::2]
        if learnt is not None:
            known, tested = list(_column(learnt, column, size).values()), list(units.values())
        if tested:
            row |= sequence_measures(known, tested, size, frame_rate)
        for name, others in changed.items():
            row |= robustness(units, _column(others, column, size), name)
        rows.append(row)
    return rows


@torch.no_grad()
def hear(
    units_of: UnitFunction, corpus: Corpus, perturb: Perturbation | None = None, seed: int = 0
) -> Units:
    r"""Name the units of every utterance.

    Parameters
    ----------
    units_of
        Function from a waveform (1, 1, T) to units (1, F) or (1, F, S).
    corpus
        What to hear.
    perturb
        Changes every waveform first.
    seed
        Of the changes; each utterance has its own random numbers.

    Returns
    -------
    Units
        Units (F,) or (F, S) by the utterance's number. Bad files are left out, and recordings that
        could not be changed.
    """
    heard = {}
    for index in range(len(corpus)):
        try:
            wav = corpus.load(index)  # (1, T)
            if perturb is not None:
                wav = perturb(wav, corpus.sample_rate, np.random.default_rng([seed, index]))
        except (audio.AudioError, VoiceError):
            continue  # the corpus has reported it; a change that failed counts as a failure
        heard[index] = units_of(wav[None])[0].cpu()
    return heard


def _column(heard: Units, column: int, size: int) -> Units:
    """Take one set of units out of several, and check that there are no others."""
    units = {index: frames[:, column] for index, frames in heard.items()}
    highest = max((int(frames.max()) for frames in units.values()), default=0)
    if highest >= size:
        raise ValueError(f"units: got {highest}, expected 0 to {size - 1}")
    return units


def phoneme_measures(
    units: Units, corpus: Corpus, num_units: int, frame_rate: float = 50.0
) -> dict[str, float]:
    r"""Measure how units and phonemes go together, and how evenly units are used.

    Parameters
    ----------
    units
        By the utterance's number.
    corpus
        With phonemes.
    num_units
        N.
    frame_rate
        Units per second, Hz.

    Returns
    -------
    dict[str, float]
        The fields of ``CodeStatistics`` over frames that are not silent; ``used_share`` of the N
        units, and ``bottom_20_share``: share of the frames that the least used fifth of all units
        covers (0.2 if even). ``silence_share`` of the frames, ``silence_perplexity`` of the units
        there, ``pnmi_with_silence``; ``num_frames``, silence included.
    """
    number = {symbol: n for n, symbol in enumerate(sorted({*corpus.phoneme_set, SILENCE}))}
    named = [corpus[i].frame_symbols(frame_rate, len(frames)) for i, frames in units.items()]
    labels = torch.tensor([number[symbol] for symbols in named for symbol in symbols])
    codes = torch.cat(list(units.values()))
    silent = labels == number[SILENCE]
    spoken, counts = ~silent, torch.bincount(codes[~silent], minlength=num_units)
    found = code_statistics(codes[spoken], labels[spoken])
    quiet = torch.bincount(codes[silent]).double()
    fifth = counts.sort().values[: num_units // 5]
    return {
        **asdict(found),
        "used_share": found.num_codes / num_units,
        "bottom_20_share": int(fifth.sum()) / int(counts.sum()),
        "silence_share": float(silent.double().mean()),
        "silence_perplexity": float(torch.special.entr(quiet / quiet.sum()).sum().exp()),
        "pnmi_with_silence": code_statistics(codes, labels).pnmi,
        "num_frames": len(codes),
    }


def unit_names(units: Units, corpus: Corpus, num_units: int) -> list[str]:
    r"""Name each unit by the phoneme it goes with most often, silence included, at 50 Hz.

    Parameters
    ----------
    units
        Units (F,) by the utterance's number.
    corpus
        With phonemes.
    num_units
        N; a unit that does not occur is named like the first symbol.
    """
    symbols = sorted({*corpus.phoneme_set, SILENCE})
    table = torch.zeros(num_units, len(symbols))
    for index, frames in units.items():
        named = corpus[index].frame_symbols(50.0, len(frames))
        for unit, symbol in zip(frames.tolist(), named, strict=True):
            table[unit, symbols.index(symbol)] += 1
    return [symbols[best] for best in table.argmax(1).tolist()]


def pnmi_gain(one: Units, other: Units, corpus: Corpus) -> tuple[float, float, float]:
    r"""Compare two sets of units of the same utterances, with an interval over utterances.

    The jackknife: each utterance is left out once, of both sets; how much the difference moves
    gives its standard error. (The bootstrap is biased here: PNMI grows when frames come twice.)

    Parameters
    ----------
    one, other
        Units (F,) by the utterance's number; the same numbers, two or more.
    corpus
        With phonemes; silence is left out.

    Returns
    -------
    tuple[float, float, float]
        PNMI of ``one`` minus that of ``other``, and the ends of its 95 % interval, at a 50 Hz grid.
    """
    symbols = sorted({*corpus.phoneme_set, SILENCE})
    labels = {}
    for index, frames in one.items():
        named = corpus[index].frame_symbols(50.0, len(frames))
        labels[index] = torch.tensor([-1 if s == SILENCE else symbols.index(s) for s in named])

    def pnmi(units: Units, left_out: int | None) -> float:
        chosen = [index for index in labels if index != left_out]
        label = torch.cat([labels[index] for index in chosen])
        found = torch.cat([units[index] for index in chosen])
        return code_statistics(found[label >= 0], label[label >= 0]).pnmi

    gains = torch.tensor([pnmi(one, i) - pnmi(other, i) for i in labels], dtype=torch.float64)
    error = float(((len(gains) - 1) * gains.var(correction=0)).sqrt())
    value = pnmi(one, None) - pnmi(other, None)
    return value, value - 1.96 * error, value + 1.96 * error


def speaker_measures(
    units: Units, corpus: Corpus, num_units: int, seed: int = 0
) -> dict[str, float]:
    r"""Probe how well an utterance's shares of units tell who speaks.

    Every second utterance of each speaker is fitted on and the others are tested, and then the
    other way round.

    Parameters
    ----------
    units
        By the utterance's number.
    corpus
        Several utterances of each speaker.
    num_units, seed
        N; seed of the probe.

    Returns
    -------
    dict[str, float]
        ``speaker_accuracy``, ``speaker_chance`` (one in so many speakers), ``speakers``,
        ``speaker_tests`` (utterances).
    """
    seen = dict.fromkeys(corpus.speakers, 0)
    parts: tuple[list, list] = ([], [])
    for index, frames in units.items():
        name = corpus[index].speaker_id
        if name in seen:
            shares = torch.bincount(frames, minlength=num_units) / len(frames)
            parts[seen[name] % 2].append((shares.sqrt(), corpus.speakers.index(name)))
            seen[name] += 1
    if len(seen) < 2 or not parts[1]:
        raise ValueError(
            f"{corpus.name}: got {len(seen)} speakers of {len(units)} utterances, "
            "expected 2 or more speakers of 2 or more utterances each"
        )
    sides = (zip(*part, strict=True) for part in parts)
    a, b = ((torch.stack(shares), torch.tensor(names)) for shares, names in sides)
    found = [linear_probe(*pair, epochs=40, seed=seed) for pair in ((*a, *b), (*b, *a))]
    tests = sum(one.num_test for one in found)
    return {
        "speaker_accuracy": sum(one.accuracy * one.num_test for one in found) / tests,
        "speaker_chance": 1 / len(seen),
        "speakers": len(seen),
        "speaker_tests": tests,
    }


def sequence_measures(
    known: Sequence[Tensor], tested: Sequence[Tensor], num_units: int, frame_rate: float = 50.0
) -> dict[str, float]:
    r"""Measure how predictable units are once equal neighbours are merged.

    Parameters
    ----------
    known
        Units (F,) of the utterances that the n-gram models learn from.
    tested
        Units of other utterances.
    num_units, frame_rate
        N; units per second before merging, Hz.

    Returns
    -------
    dict[str, float]
        ``bigram_perplexity``, ``trigram_perplexity`` over all tested units;
        ``units_per_second`` after merging and ``bigram_bits_per_second``, what the bigram model's
        ideal code needs (durations not counted), with intervals over utterances, see ``summarise``;
        ``ngram_units``, how many units the models learnt from.
    """
    learnt, held_out = ([deduplicate(one) for one in part] for part in (known, tested))
    bigrams, trigrams = (NgramModel(learnt, num_units, order) for order in (2, 3))
    seconds = [len(one) / frame_rate for one in tested]
    rates = [len(one) / t for one, t in zip(held_out, seconds, strict=True)]
    bits = [bigrams.bits(one) / t for one, t in zip(held_out, seconds, strict=True)]
    return {
        "bigram_perplexity": bigrams.perplexity(held_out),
        "trigram_perplexity": trigrams.perplexity(held_out),
        **summarise(rates, "units_per_second"),
        **summarise(bits, "bigram_bits_per_second"),
        "ngram_units": sum(map(len, learnt)),
    }
