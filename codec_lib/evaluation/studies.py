r"""Whole studies of tokens, from the names of features and corpora to rows for a result file.

``layers_study`` (disentanglement, a codebook at a time), ``discrete_study`` (a task read from every
form of features, over seeds and numbers of units) and ``tone_study`` put together what
``disentanglement.py``, ``discrete.py`` and ``tone.py`` measure; the commands of
``study_commands.py`` call them. Features go by name, see ``feature_function``, and are computed
once for each corpus.

No paper of its own. Leaves out: pictures. Read next: ``judges/base.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec_lib.codecs.base import Codec
from codec_lib.data import Corpus, Utterance, check_recordings, check_speakers
from codec_lib.teachers import load_teacher
from codec_lib.teachers.features import long_features

from .ctc_probe import ProbeSettings, extracted
from .discrete import Form, Heard, forms_of, slot
from .disentanglement import (
    LayerVectors,
    default_groups,
    layer_vectors,
    name_silhouette,
    separation,
)
from .form_heads import compare, label_forms, read_forms
from .heard import Extract, key_of, remembered
from .judges.signal import PitchJudge
from .results import jackknife_interval
from .teacher_probe import baselines
from .teacher_units import named_perturbations
from .tone import check_voices, discretise, pitch_contour, syllables_of, tone_rows

SPELT = ("phonemes", "characters")  # read by CTC
TASKS = (*SPELT, "label", "speaker", "slot:NAME")


def feature_function(name: str) -> Extract:
    r"""Return features by name.

    Parameters
    ----------
    name
        ``"mfcc"``, ``"log_mel"``, ``"log_mel_context"`` (see ``teacher_probe.baselines``) or
        ``"TEACHER:LAYER"``, e.g. ``"hubert-small:6"``.

    Raises
    ------
    ValueError
        If there is no such teacher, or the name has another form.
    """
    known = baselines()
    if name in known:
        return known[name]
    teacher_name, _, layer = name.rpartition(":")
    if not teacher_name or not (layer == "avg" or layer.isdecimal()):
        raise ValueError(
            f"features: got {name!r}, expected one of {list(known)} or TEACHER:LAYER, e.g. "
            "hubert-small:6"
        )
    teacher, which = load_teacher(teacher_name), layer if layer == "avg" else int(layer)
    return remembered(lambda wav: long_features(teacher, wav, which)[None], key_of(teacher, which))


def layers_study(
    codec: Codec, corpus: Corpus, frames_each: int = 20, seed: int = 0
) -> list[dict[str, Any]]:
    r"""Measure how far every codebook, and groups of them, tell speakers and phonemes apart.

    Parameters
    ----------
    codec, corpus, frames_each, seed
        As in ``disentanglement.layer_vectors``.

    Returns
    -------
    list[dict[str, Any]]
        Rows of ``disentanglement.separation``: the codebooks one by one, then the groups of
        ``default_groups`` that are not one of them. With ``speaker_silhouette_low`` and ``_high``,
        and ``above_first``, how much higher the silhouette is than that of the first codebook, with
        its ends: speakers are left out in turn, for both alike.
    """
    groups = {f"RVQ-{k + 1}": [k] for k in range(codec.num_quantizers)}
    groups |= {name: layers for name, layers in default_groups(codec).items() if len(layers) > 1}
    vectors = layer_vectors(codec, corpus, groups, frames_each, seed)
    rows = separation(vectors, seed)
    found = {name: silhouettes_without(vectors, name) for name in vectors.utterances}
    first = found["RVQ-1"]
    for row in rows:
        own = found[row["layers"]]
        gains = [one - other for one, other in zip(own, first, strict=True)]
        for field, value, without in (("speaker_silhouette", own[0], own[1:]),
                                       ("above_first", gains[0], gains[1:])):  # fmt: skip
            low, high = jackknife_interval(value, without)
            row |= {field: value, f"{field}_low": low, f"{field}_high": high}
    return rows


def silhouettes_without(vectors: LayerVectors, group: str) -> list[float]:
    r"""Return the silhouette of speakers in a group of codebooks, and that without each in turn.

    Utterances of one speaker are no independent draws of a voice: intervals are the jackknife's
    over speakers (``results.jackknife_interval``).

    Parameters
    ----------
    vectors, group
        See ``disentanglement.layer_vectors``.

    Returns
    -------
    list[float]
        Of all speakers first, then with one left out, in the order of their names.
    """
    means, speakers = vectors.utterances[group], np.array(vectors.speakers)
    kept = [speakers != left_out for left_out in ("", *np.unique(speakers))]
    return [name_silhouette(means[torch.from_numpy(one)], list(speakers[one])) for one in kept]


@dataclass(frozen=True)
class DiscreteSettings:
    r"""What ``discrete_study`` varies.

    Attributes
    ----------
    num_units, vocabularies
        Of every k-means; of every byte-pair encoding on top.
    hidden
        Sizes of the head.
    steps
        Of the head's training; None for that of the probe of the task.
    seeds
        Of k-means and head together: a row for each.
    perturbations
        Also test speech changed so, see ``teacher_units.PERTURBATIONS``.
    kinds
        First words of the forms that are read, e.g. ``("continuous", "units")``; all by default.

    Raises
    ------
    ValueError
        If there is no seed or no size of head.
    """

    num_units: Sequence[int] = (100, 500)
    vocabularies: Sequence[int] = (1000,)
    hidden: Sequence[int] = (128,)
    steps: int | None = None
    seeds: Sequence[int] = (0, 1, 2)
    perturbations: Sequence[str] = ("noise",)
    kinds: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.seeds or not self.hidden:
            got = f"{list(self.seeds)} and {list(self.hidden)}"
            raise ValueError(f"seeds, hidden: got {got}, expected one or more of each")


def discrete_study(
    features: str,
    task: str,
    train: Corpus,
    test: Corpus,
    settings: DiscreteSettings | None = None,
    log: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    r"""Read a task from features in every form, from vectors to merged units.

    Parameters
    ----------
    features
        See ``feature_function``.
    task
        One of ``TASKS``: ``"phonemes"`` or ``"characters"`` (by CTC); ``"label"``, ``"speaker"`` or
        a slot of the label, e.g. ``"slot:size"`` (of whole utterances).
    train, test
        Corpora with what the task asks for, without common recordings; those of CTC without common
        speakers.
    settings
        What is varied.
    log
        Called with a line for every seed and size of head.

    Returns
    -------
    list[dict[str, Any]]
        A row per size of head, form and test: ``features``, ``task``, ``hidden``, ``form``,
        ``test`` (``"clean"`` or the perturbation), ``seeds``; ``error`` (share of symbols or labels
        that are wrong) and ``cost``, how much higher it is than that of the continuous form, both
        with ``_low`` and ``_high`` over seeds and utterances (``form_heads.compare``); ``by_seed``,
        the error with each; ``left_out``, how many test utterances could not be read (the most of
        any seed); means over seeds of the numbers of ``discrete.token_use`` and
        ``form_heads.rarity_effect``.

    Raises
    ------
    ValueError
        If there is no such task, perturbation or kind of form, or a recording, or for CTC a
        speaker, is in both corpora.
    """
    settings, extract = settings or DiscreteSettings(), feature_function(features)
    _label_of(task)  # a mistake is said before anything is heard
    (check_speakers if task in SPELT else check_recordings)(train, [test])
    heard, tests = extracted(extract, train), [("clean", test, extracted(extract, test))]
    for name, change in named_perturbations(settings.perturbations).items():
        tests.append((name, test, extracted(extract, test, change)))
    rows: dict[int, list[dict[str, Any]]] = {hidden: [] for hidden in settings.hidden}
    for seed in settings.seeds:
        forms = _fitted_forms(heard, settings, seed)
        for hidden, found in rows.items():
            found += _read_seed(forms, (train, heard), tests, task, (hidden, settings.steps, seed))
            if log is not None:
                log(f"{features}, {task}: seed {seed}, head of {hidden} done")
    title, several = {"features": features, "task": task}, rows.items()
    return [{**title, "hidden": h, **row} for h, found in several for row in _over_seeds(found)]


def _read_seed(
    forms: list[Form], known: tuple[Corpus, Heard], tests: list, task: str, head: tuple
) -> list[dict[str, Any]]:
    """Let a head of a size, trained for so many steps with a seed, read every form."""
    hidden, steps, seed = head
    if task in SPELT:
        probe = ProbeSettings(hidden=hidden, seed=seed)
        return read_forms(forms, known, tests, task, replace(probe, steps=steps or probe.steps))
    options = {"hidden": hidden, "steps": steps or 400, "seeds": [seed]}
    return label_forms(forms, known, tests, _label_of(task), **options)


def _fitted_forms(heard: Heard, settings: DiscreteSettings, seed: int) -> list[Form]:
    """Fit the forms to the features of a training part; return those of the kinds asked for."""
    forms = forms_of(heard, settings.num_units, settings.vocabularies, seed=seed)
    there = list(dict.fromkeys(form.name.split()[0] for form in forms))
    kinds = settings.kinds or there
    if unknown := set(kinds) - set(there):
        raise ValueError(f"kinds: got {sorted(unknown)}, expected some of {there}")
    return [form for form in forms if form.name.split()[0] in kinds]


def _over_seeds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the rows of each form and test together."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["form"], row["test"]), []).append(row)
    measures = ("units_per_second", "bitrate", "entropy_rate", "bottom_20_share", "top_20_share",
                "used_share", "rare_error", "common_error", "rarity_cost")  # fmt: skip
    found = []
    for (form, test), some in groups.items():
        row: dict[str, Any] = {"form": form, "test": test, "seeds": len(some)}
        pairs = {"error": compare(rows, form, None, test)}
        if form != "continuous":
            pairs["cost"] = compare(rows, "continuous", form, test)
        for name, (value, low, high) in pairs.items():
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        row["by_seed"] = [float(one["errors"].sum() / one["sizes"].sum()) for one in some]
        row["left_out"] = max(one["left_out"] for one in some)
        means = {key: [one[key] for one in some if key in one] for key in measures}
        found.append(row | {key: float(np.mean(v)) for key, v in means.items() if v})
    return found


def _label_of(task: str) -> Callable[[Utterance], str]:
    """Return what an utterance's label is in a task; the text tasks have none."""
    kind, _, name = task.partition(":")
    labels = {"label": lambda one: one.label, "speaker": lambda one: one.speaker_id}
    if kind == "slot" and name:
        return slot(name)
    if task not in (*labels, *SPELT):
        raise ValueError(f"task: got {task!r}, expected one of {TASKS}")
    return labels.get(task, lambda one: "")


def tone_study(
    features: str,
    train: Corpus,
    test: Corpus,
    num_units: Sequence[int] = (50, 100, 500, 1000),
    pairs: Sequence[tuple[int, int]] = ((32, 32), (100, 10)),
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 20,
    log: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    r"""Probe tone and vowel of syllables before and after discretisation, in all ways.

    Parameters
    ----------
    features
        See ``feature_function``.
    train, test
        Syllables, see ``tone.syllables_of``, without common recordings; of other voices, unless
        the training part has one alone.
    num_units
        Of each single codebook.
    pairs
        Sizes of two codebooks, tried as residual ones and with the second on the pitch contour.
    seeds
        Of k-means and probes together.
    epochs
        Of the probes.
    log
        Called with a line for every seed.

    Returns
    -------
    list[dict[str, Any]]
        Rows of ``tone.tone_rows`` with ``features`` and, where the pitch contour stands beside
        them, ``pitch`` True.

    Raises
    ------
    ValueError
        If praat-parselmouth, which finds the pitch, is not installed, or a recording or a voice is
        in both parts.
    """
    check_recordings(train, [test])
    check_voices(train.speakers, test.speakers)
    known, tested = (syllables_of(_with_pitch(feature_function(features)), one)
                     for one in (train, test))  # fmt: skip
    split, rows = known.features.shape[-1] - 3, []
    plain = [replace(one, features=one.features[..., :split]) for one in (known, tested)]
    for seed in seeds:
        frames = plain[0].features
        ways = [discretise(frames, [size], seed=seed) for size in num_units]
        ways += [discretise(frames, pair, "residual", seed=seed) for pair in pairs]
        aware = [discretise(known.features, pair, "task-aware", split, seed) for pair in pairs]
        for pitch, (learnt, heard), some in ((False, plain, ways), (True, (known, tested), aware)):
            found = tone_rows(learnt, heard, some, epochs, [seed])
            rows += [{"features": features, "pitch": pitch, **row} for row in found]
        if log is not None:
            log(f"{features}: seed {seed} done")
    return rows


def _with_pitch(extract: Extract) -> Extract:
    """Return features with three more columns: the contour of the pitch."""
    praat = PitchJudge()

    def hear(wav: Tensor) -> Tensor:
        found = extract(wav).cpu()  # (1, F, D)
        contour = praat.contour(wav[0].cpu(), 16_000)
        return torch.cat([found, pitch_contour(contour, found.shape[1])[None]], -1)

    return hear
