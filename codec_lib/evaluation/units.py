r"""What a set of units is worth: phonemes, robustness, speakers, predictability, in one call.

A unit function maps a waveform (1, 1, T) to units (1, F). Measured on speakers never heard:

* phonemes: PNMI, phone purity, code purity [Hsu et al. 2021, HuBERT], §IV-D; silence left out;
* robustness: unit edit distance between a recording and a changed one [Gat et al. 2023];
* speakers: who has the nearest mean of how often an utterance uses each unit;
* sounds: ABX error of phonemes, where it is asked for (``abx.py``);
* predictability: n-gram perplexity of deduplicated units [Chang et al. 2025, DC-Spin].

Notebooks 20 and 21. Leaves out: resynthesis. Read next: ``teacher_units.py``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from codec_lib.data import Corpus

from .abx import abx, cut_tokens
from .ngrams import sequence_measures
from .probes import SILENCE, ProbeResult, _scored, code_statistics
from .robustness import Perturbation, UnitFunction, Units, device_of, hear, robustness


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
        Several utterances of each speaker, for the probe; by default ``aligned``, where it has two
        such speakers.
    perturbations
        By name, what units should not hear, e.g. ``named_perturbations(["voice"])``; what cannot be
        changed has to raise ``VoiceError``, see ``hear``.
    text
        Other sentences, which the n-gram models learn from, while all of ``aligned`` is tested. By
        default every second sentence of ``aligned`` is learnt from and the others are tested: where
        texts are known, no sentence is on both sides, whoever says it. With one sentence
        predictability is left out.
    frame_rate
        Units per second, Hz.
    seed
        Of the perturbations.

    Returns
    -------
    dict[str, Any]
        The row: what ``phoneme_measures``, ``speaker_measures``, ``sequence_measures`` and, for
        each perturbation, ``robustness`` return.

    Raises
    ------
    ValueError
        If a unit is not below ``num_units``, or nothing could be heard.
    """

    def one_set(wav: Tensor) -> Tensor:
        return units_of(wav.to(device_of(units_of)))[..., None]  # (1, F, 1)

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
    with_abx: bool = False,
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
    with_abx
        True measures ABX errors, too: seconds for each set.

    Returns
    -------
    list[dict[str, Any]]
        S rows; with ABX, the fields of ``abx_measures`` too.
    """
    heard = hear(units_of, aligned)
    if not heard:
        raise ValueError(f"{aligned.name}: got 0 of {len(aligned)} utterances heard, expected some")
    voices = heard if speakers is None else hear(units_of, speakers)
    said_by = Counter(aligned[index].speaker_id for index in heard)
    several = [name for name, count in said_by.items() if name and count > 1]
    learnt = None if text is None else hear(units_of, text)
    changed = {
        name: hear(units_of, aligned, perturb, seed)
        for name, perturb in (perturbations or {}).items()
    }
    rows = []
    for column, size in enumerate(sizes):
        units = _column(heard, column, size)
        row: dict[str, Any] = {"num_units": size}
        if {*aligned.phoneme_set} - {SILENCE}:
            row |= phoneme_measures(units, aligned, size, frame_rate)
            row |= abx_measures(units, aligned, frame_rate, seed) if with_abx else {}
        if speakers is not None or len(several) > 1:
            row |= speaker_measures(_column(voices, column, size), speakers or aligned, size)
        known, tested = _sentences_in_turn(units, aligned)
        if learnt is not None:
            known, tested = list(_column(learnt, column, size).values()), list(units.values())
        if tested:
            row |= sequence_measures(known, tested, size, frame_rate)
        for name, others in changed.items():
            row |= robustness(units, _column(others, column, size), name)
        rows.append(row)
    return rows


def _sentences_in_turn(units: Units, corpus: Corpus) -> tuple[list[Tensor], list[Tensor]]:
    """Deal sentences out to two parts in turn; one without text is its own."""
    part_of: dict[str | int, int] = {}
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for index, frames in units.items():
        words = " ".join(re.findall(r"\w+", corpus[index].text.casefold()))
        parts[part_of.setdefault(words or index, len(part_of) % 2)].append(frames)
    return parts


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

    Raises
    ------
    ValueError
        If there is no frame that is not silent.
    """
    number = {symbol: n for n, symbol in enumerate(sorted({*corpus.phoneme_set, SILENCE}))}
    named = [corpus[i].frame_symbols(frame_rate, len(frames)) for i, frames in units.items()]
    labels = torch.tensor([number[symbol] for symbols in named for symbol in symbols])
    if not (labels != number[SILENCE]).any():
        raise ValueError(f"{corpus.name}: got {len(labels)} frames, all silent, expected phonemes")
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


def abx_measures(
    units: Units, corpus: Corpus, frame_rate: float = 50.0, seed: int = 0
) -> dict[str, float]:
    r"""Measure the ABX error of units, within and across speakers, whatever the neighbours.

    Parameters
    ----------
    units, corpus, frame_rate
        As in ``phoneme_measures``.
    seed
        Of the phonemes that are compared; see ``abx.abx``.

    Returns
    -------
    dict[str, float]
        ``abx_within`` and ``abx_across`` with ``_low`` and ``_high``; each is left out where no two
        phonemes can be compared.
    """
    tokens, row = cut_tokens(units, corpus, False, frame_rate), {}
    for name, across in (("within", False), ("across", True)):
        try:
            found = abx(tokens, across, seed=seed)
        except ValueError:
            continue
        row |= {f"abx_{name}{end}": found[f"abx_error{end}"] for end in ("", "_low", "_high")}
    return row


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

    Raises
    ------
    ValueError
        If the numbers differ, are fewer than two, or all but one are silent.
    """
    if len(one) < 2 or one.keys() != other.keys():
        raise ValueError(f"units: got {len(one)} and {len(other)} utterances, expected 2 in both")
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


def speaker_measures(units: Units, corpus: Corpus, num_units: int) -> dict[str, float]:
    r"""Probe how well an utterance's shares of units tell who speaks.

    Square roots of the shares are compared with their means over the utterances of each speaker
    (``nearest_mean_probe``). Every second utterance of each speaker is learnt from and the others
    are tested, and then the other way round.

    Parameters
    ----------
    units
        By the utterance's number.
    corpus
        Several utterances of each speaker; speakers of whom fewer than two were heard are left out.
    num_units
        N.

    Returns
    -------
    dict[str, float]
        ``speaker_accuracy``, ``speaker_chance`` (one in so many speakers), ``speakers``,
        ``speaker_tests`` (utterances).

    Raises
    ------
    ValueError
        If there are fewer than two speakers of two or more utterances.
    """
    voices = {index: corpus[index].speaker_id for index in units}
    parts = speaker_parts(voices, corpus.name)
    names = sorted({voices[index] for index in parts[0]})
    sides = []
    for part in parts:
        counts = [torch.bincount(units[index], minlength=num_units) for index in part]
        shares = torch.stack([count / count.sum() for count in counts])  # (n, N)
        sides.append((shares.sqrt(), torch.tensor([names.index(voices[index]) for index in part])))
    a, b = sides
    found = nearest_mean_probe(*a, *b), nearest_mean_probe(*b, *a)
    tests = sum(one.num_test for one in found)
    return {
        "speaker_accuracy": sum(one.accuracy * one.num_test for one in found) / tests,
        "speaker_chance": 1 / len(names),
        "speakers": len(names),
        "speaker_tests": tests,
    }


def speaker_parts(voices: Mapping[int, str], name: str) -> tuple[list[int], list[int]]:
    r"""Deal the utterances of each speaker out to two parts in turn; who has one only is left out.

    ``voices`` gives the speaker by the utterance's number, ``""`` where unknown; ``name`` is what
    the ``ValueError`` calls them if there are fewer than two speakers.
    """
    counts, parts = Counter(voices.values()), ([], [])
    known = {one for one, count in counts.items() if one and count > 1}
    if len(known) < 2:
        raise ValueError(
            f"{name}: got {len(known)} speakers of two or more utterances in {len(voices)}, "
            "expected two or more"
        )
    turn = dict.fromkeys(known, 0)
    for index, one in voices.items():
        if one in known:
            parts[turn[one] % 2].append(index)
            turn[one] += 1
    return parts


def nearest_mean_probe(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor
) -> ProbeResult:
    r"""Name the label whose mean is nearest: a linear probe in closed form, for few items.

    On square roots of shares (distances are Hellinger's) it finds more speakers than a softmax
    regression with as many weights as units, which a few dozen utterances cannot determine.

    Parameters
    ----------
    train_features, train_labels, test_features, test_labels
        Shapes (n, D) and (n,) int64, as in ``linear_probe``.
    """
    if not len(train_labels) or not len(test_labels):
        raise ValueError(
            f"probe: got {len(train_labels)} and {len(test_labels)} items, expected some"
        )
    names, rows = train_labels.unique(return_inverse=True)
    means = torch.stack([train_features[rows == row].mean(0) for row in range(len(names))])
    nearest = torch.cdist(test_features, means).argmin(1)
    return _scored(names[nearest], train_labels, test_labels)
