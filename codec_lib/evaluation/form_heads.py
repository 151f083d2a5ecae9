r"""One head, many inputs: the same probe reads every form of the same features.

Content is read symbol by symbol (CTC), whole utterances are labelled (keyword, intent, speaker,
rate), and only what enters the head differs [Wang et al. 2024, DST study]. Rows keep the errors of
every utterance, so that two forms are compared on the same utterances and seeds. Notebook 33.
Leaves out: large language models as heads. Read next: ``abx.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torchaudio.functional import edit_distance

from codec_lib.data import Corpus, Utterance, check_speakers
from codec_lib.data.transcripts import Symbols

from .class_probe import fit_class_probe, name_labels
from .ctc_probe import Prepared, ProbeSettings, fit_probe, prepare, read_logits, spelt
from .discrete import Form, Heard, mean_log_counts, token_use
from .errors import symbol_errors
from .probes import _scored

Rows = list[dict[str, Any]]


def in_pieces(
    corpus: Corpus, heard: Heard, seconds: float = 0.7, frame_rate: float = 50.0
) -> tuple[Corpus, Heard]:
    r"""Cut utterances and their features at phoneme boundaries: CTC learns short ones sooner.

    Parameters
    ----------
    corpus, heard
        Aligned utterances, and the features (F, D) of each.
    seconds
        Of a piece at most, unless one phoneme is longer.
    frame_rate
        Of the features, Hz.

    Returns
    -------
    tuple[Corpus, Heard]
        Pieces in which something is said, with their phonemes and features.
    """
    pieces, parts = [], []
    for utterance, features in zip(corpus, heard, strict=True):
        rate, groups = utterance.sample_rate, [[]]
        for phoneme in utterance.phonemes if features is not None else ():
            if groups[-1] and phoneme.end - groups[-1][0].start > seconds * rate:
                groups.append([])
            groups[-1].append(phoneme)
        for group in groups:
            if all(phoneme.symbol == "sil" for phoneme in group):
                continue
            name = f"{utterance.utterance_id}-{len(pieces)}"
            pieces.append(replace(utterance, utterance_id=name, phonemes=tuple(group)))
            first, last = (round(at / rate * frame_rate) for at in (group[0].start, group[-1].end))
            parts.append(features[first:last])
    return Corpus(corpus.name, pieces, corpus.sample_rate), parts


def read_forms(
    forms: Sequence[Form],
    known: tuple[Corpus, Heard],
    tests: Sequence[tuple[str, Corpus, Heard]],
    symbols: str = "phonemes",
    settings: ProbeSettings | None = None,
    repeat: int = 2,
    seeds: Sequence[int] | None = None,
) -> Rows:
    r"""Let the CTC probe read every form.

    Parameters
    ----------
    forms
        See ``discrete.forms_of``.
    known
        Corpus and its features, to learn from.
    tests
        Name, corpus and features, e.g. clean and noisy speech.
    symbols, settings
        As in ``fit_probe``.
    repeat
        How often merged and joined units are repeated, so that CTC has room.
    seeds
        Of the probe, a row each; None takes that of ``settings``.

    Returns
    -------
    list[dict]
        A row per form, seed and test: ``form``, ``test``, ``seed``, ``hidden``; ``curve``, the loss
        of every step; ``errors`` and ``sizes``, edits and symbols of each utterance (0 where it was
        left out), ``left_out``, how many were, and ``recordings``, the number of what it is a piece
        of, for ``compare``; the fields of ``symbol_errors`` and ``token_use``; and, with a form
        ``units N``, of ``rarity_effect`` by the rarity of these.
    """
    check_speakers(known[0], [corpus for _, corpus, _ in tests])
    kind, settings, rows = Symbols(symbols), settings or ProbeSettings(), []
    counted = next((form for form in forms if form.name.startswith("units")), None)
    often = [
        None if counted is None else mean_log_counts(counted, known[1], heard)
        for _, _, heard in tests
    ]
    for form in forms:
        more = repeat if form.name.startswith(("merged", "joined")) else 1
        part = prepare(form.of(known[1]), known[0], kind, more)
        parts = [prepare(form.of(heard), corpus, kind, more) for _, corpus, heard in tests]
        for seed in [settings.seed] if seeds is None else seeds:
            curve: list[float] = []
            chosen = replace(settings, seed=seed)
            probe, _ = fit_probe(part, kind, form.sizes, None, chosen, curve=curve)
            row = {"form": form.name, "seed": seed, "hidden": settings.hidden, "curve": curve}
            for (name, corpus, heard), counts, tested in zip(tests, often, parts, strict=True):
                pairs = spelt(read_logits(probe, tested.inputs), tested, kind)
                found = {"test": name, **symbol_errors(pairs, kind), **token_use(form, heard)}
                found |= _by_utterance(pairs, tested, corpus)
                if counts is not None:
                    of = found["recordings"][tested.indices]
                    found |= rarity_effect(pairs, counts[tested.indices], of)
                rows.append({**row, **found})
    return rows


def _by_utterance(
    pairs: Sequence[tuple[Sequence[str], Sequence[str]]], tested: Prepared, corpus: Corpus
) -> dict[str, Any]:
    """Return edits and symbols of each utterance, 0 where it was left out, and its recording."""
    errors, sizes = np.zeros(len(corpus)), np.zeros(len(corpus))
    errors[tested.indices] = [edit_distance(found, right) for found, right in pairs]
    sizes[tested.indices] = [len(right) for _, right in pairs]
    files = [str(utterance.audio_path) for utterance in corpus]
    recordings = np.unique(files, return_inverse=True)[1]
    found = {"errors": errors, "sizes": sizes, "recordings": recordings}
    return {**found, "left_out": tested.left_out}


def rarity_effect(
    pairs: Sequence[tuple[Sequence[str], Sequence[str]]],
    often: np.ndarray,
    recordings: np.ndarray | None = None,
) -> dict[str, float]:
    r"""Compare errors where units are rare with errors where they are common.

    Utterances are cut in two halves by ``mean_log_counts``. What is rare may be hard for other
    reasons, too: the continuous form, which has no units, shows how much.

    Parameters
    ----------
    pairs
        Symbols found and right of each utterance.
    often
        Shape (N,), of these utterances.
    recordings
        Shape (N,), number of the recording that each is a piece of; None where none is.

    Returns
    -------
    dict[str, float]
        ``rare_error`` and ``common_error``, and ``rarity_cost``, their difference, with its 95 %
        interval (``_low``, ``_high``) from resampling recordings; empty where all utterances are
        alike.
    """
    errors = np.array([edit_distance(a, b) / len(b) for a, b in pairs])
    rare = often <= np.median(often)
    if rare.all():
        return {}
    whole = np.arange(len(errors)) if recordings is None else recordings
    _, whole = np.unique(whole, return_inverse=True)
    total, rng = int(whole.max()) + 1, np.random.default_rng(0)
    drawn = rng.multinomial(total, np.full(total, 1 / total), 2000)[:, whole]  # (R, N)
    with np.errstate(invalid="ignore"):  # a draw may have no rare, or no common one
        means = [drawn[:, half] @ errors[half] / drawn[:, half].sum(1) for half in (rare, ~rare)]
    low, high = np.nanpercentile(means[0] - means[1], [2.5, 97.5])
    row = {"rare_error": float(errors[rare].mean()), "common_error": float(errors[~rare].mean())}
    row["rarity_cost"] = row["rare_error"] - row["common_error"]
    return {**row, "rarity_cost_low": float(low), "rarity_cost_high": float(high)}


def label_forms(
    forms: Sequence[Form],
    known: tuple[Corpus, Heard],
    tests: Sequence[tuple[str, Corpus, Heard]],
    label: Callable[[Utterance], str],
    hidden: int = 128,
    steps: int = 400,
    batch_size: int = 16,
    learning_rate: float = 3e-3,
    seeds: Sequence[int] = (0,),
) -> Rows:
    r"""Let the probe for whole utterances label every form.

    Parameters
    ----------
    forms, known, tests
        As in ``read_forms``.
    label
        Function from an utterance to its label; empty leaves it out.
    hidden, steps, batch_size, learning_rate, seeds
        Of the probe; a row per seed.

    Returns
    -------
    list[dict]
        A row per form, seed and test: ``form``, ``test``, ``seed``, ``hidden``, ``curve``,
        ``errors`` (1 for a wrong label), ``sizes`` (1) and ``left_out`` (of those with one of the
        labels) as in ``read_forms``, the fields of ``ProbeResult`` and of ``token_use``.

    Raises
    ------
    ValueError
        If there are fewer than two labels in training, or none of them in a test.
    """
    names = sorted({label(one) for one in known[0]} - {""})
    if len(names) < 2:
        raise ValueError(f"{known[0].name}: got labels {names}, expected two or more")

    rows = []
    for form in forms:
        inputs, labels, _ = _labelled(form, *known, label, names)
        parts = [_labelled(form, corpus, heard, label, names) for _, corpus, heard in tests]
        for seed in seeds:
            curve: list[float] = []
            options = {"steps": steps, "batch_size": batch_size, "hidden": hidden}
            options |= {"learning_rate": learning_rate, "seed": seed, "curve": curve}
            probe = fit_class_probe(inputs, labels, len(names), form.sizes, **options)
            row = {"form": form.name, "seed": seed, "hidden": hidden, "curve": curve}
            for (name, corpus, heard), (tested, expected, indices) in zip(
                tests, parts, strict=True
            ):
                found = name_labels(probe, tested)
                errors, sizes = np.zeros(len(corpus)), np.zeros(len(corpus))
                errors[indices], sizes[indices] = (found != expected).numpy(), 1
                result = _scored(found, labels, expected).to_dict() | token_use(form, heard)
                result["left_out"] = sum(label(one) in names for one in corpus) - len(indices)
                rows.append({**row, "test": name, "errors": errors, "sizes": sizes, **result})
    return rows


def _labelled(
    form: Form,
    corpus: Corpus,
    heard: Heard,
    label: Callable[[Utterance], str],
    names: Sequence[str],
) -> tuple[list[Tensor], Tensor, list[int]]:
    """Return inputs, labels and numbers of the utterances that have one of these labels."""
    found = [
        (form.apply(one), names.index(label(utterance)), index)
        for index, (one, utterance) in enumerate(zip(heard, corpus, strict=True))
        if one is not None and label(utterance) in names
    ]
    if not found:
        raise ValueError(f"{corpus.name}: got no utterance with one of the labels {names[:5]}")
    inputs, labels, indices = ([row[column] for row in found] for column in range(3))
    return inputs, torch.tensor(labels), indices


def compare(
    rows: Sequence[Mapping[str, Any]],
    form: str,
    other: str | None = None,
    test: str = "clean",
    resamples: int = 2000,
) -> tuple[float, float, float]:
    r"""Return the error of a form, or how much lower it is than another's, with an interval.

    .. math:: \Delta = \frac{\sum_{s, n} (e'_{sn} - e_{sn})}{S \sum_n m_n}

    e and e' are the errors of ``form`` and ``other`` on utterance n with seed s of S, and m_n the
    symbols of the utterance.

    Parameters
    ----------
    rows
        Of ``read_forms`` or ``label_forms``, of one task.
    form, other
        Names, or their first words (``"units"``); with ``other`` None the error of ``form`` itself
        is returned.
    test
        Name of the test.
    resamples
        Of the bootstrap.

    Returns
    -------
    tuple[float, float, float]
        Positive where ``form`` is the better one; ends of its 95 % interval: of utterances by
        resampling them, the same ones for both forms, pieces of one recording together; of seeds,
        if two or more, by Student's t, since few to resample.

    Raises
    ------
    ValueError
        If a form was not tested, is not the only one of that name, or the two do not have the
        same seeds.
    """
    names = [form] if other is None else [form, other]
    tables = [sorted(of_form(rows, name, test), key=lambda row: row["seed"]) for name in names]
    seeds = [[row["seed"] for row in table] for table in tables]
    if not seeds[0] or seeds[0] != seeds[-1] or len(set(seeds[0])) < len(seeds[0]):
        got = dict(zip(names, seeds, strict=True))
        raise ValueError(f"rows: got seeds {got} of test {test!r}, expected the same, some, once")
    sizes = np.array([[row["sizes"] for row in table] for table in tables])
    errors = np.array([[row["errors"] for row in table] for table in tables])
    used = (sizes > 0).all((0, 1))  # read in every form
    apart = errors[0] if other is None else errors[1] - errors[0]  # (S, N)
    whole = np.asarray(tables[0][0].get("recordings", np.arange(len(used))))[used]
    whole = np.unique(whole, return_inverse=True)[1]
    apart = np.array([np.bincount(whole, one) for one in apart[:, used]])
    symbols, rng = np.bincount(whole, sizes[0, 0, used]), np.random.default_rng(0)
    drawn = rng.multinomial(len(symbols), np.full(len(symbols), 1 / len(symbols)), resamples)
    low, high = np.percentile(drawn @ apart.mean(0) / (drawn @ symbols), [2.5, 97.5])  # (R,)
    by_seed = apart.sum(1) / symbols.sum()  # (S,)
    value, reach = float(by_seed.mean()), _student_reach(by_seed)
    return value, value - math.hypot(value - low, reach), value + math.hypot(high - value, reach)


def _student_reach(values: np.ndarray) -> float:
    """Return how far the mean of a few values is known, by Student's t; 0 for a single one."""
    if len(values) < 2:
        return 0.0
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(stats.t.ppf(0.975, len(values) - 1)) * error


def of_form(rows: Sequence[Mapping[str, Any]], form: str, test: str = "clean") -> list:
    r"""Return the rows of a form and of a test.

    Parameters
    ----------
    rows, form, test
        As in ``compare``.
    """
    return [r for r in rows if r["test"] == test and form in (r["form"], r["form"].split()[0])]


def added(rows: Sequence[Mapping[str, Any]], test: str, base: str = "clean") -> Rows:
    r"""Return the rows of a test with the errors that it has beyond those of another test.

    Parameters
    ----------
    rows
        Of ``read_forms`` or ``label_forms``, tested on the same utterances twice.
    test, base
        Names of the two tests, e.g. ``"10 dB"`` and ``"clean"``.

    Returns
    -------
    list[dict]
        With the differences as ``errors``, for ``compare``; what was left out of the base is left
        out here, too.
    """
    before = {(r["form"], r["seed"], r["hidden"]): r for r in rows if r["test"] == base}
    found = []
    for row in (dict(one) for one in rows if one["test"] == test):
        first = before[row["form"], row["seed"], row["hidden"]]
        sizes = np.where(first["sizes"] > 0, row["sizes"], 0)
        found.append(row | {"errors": row["errors"] - first["errors"], "sizes": sizes})
    return found


def loss_curves(
    rows: Sequence[Mapping[str, Any]], forms: Sequence[str], width: int = 8
) -> dict[str, np.ndarray]:
    r"""Return the losses of each form over steps, a running mean of ``width`` steps.

    Parameters
    ----------
    rows, forms
        As in ``compare``; of the test ``"clean"``.
    width
        Steps in a mean.

    Returns
    -------
    dict[str, np.ndarray]
        Shape (seeds, steps - width + 1).
    """
    mean = np.full(width, 1 / width)
    return {
        form: np.array([np.convolve(r["curve"], mean, "valid") for r in of_form(rows, form)])
        for form in forms
    }
