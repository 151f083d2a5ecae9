r"""Units of every layer of a teacher, beside units of what nothing was trained for.

k-means is fitted per layer and number of units, on speakers of the training part, and measured on
others. Rows of MFCC, log-mel and an untrained network of the same sizes always come with them: a
random network's units know nearly as much about phonemes as a weak teacher's. Notebook: 20.
Leaves out: units that are learnt, such as Spin's (``measure_units`` takes them as they are).
Read next: ``teacher_bench.py``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codec_lib import audio
from codec_lib.data import Corpus
from codec_lib.teachers import perturbation
from codec_lib.teachers.features import Teacher
from codec_lib.teachers.frontend import frame_count
from codec_lib.teachers.hubert import SmallHubert, check_layer
from codec_lib.teachers.kmeans import KMeans, fit_kmeans, sample_frames

from .robustness import Perturbation
from .teacher_probe import baselines, untrained_like
from .units import measure_unit_sets

Layer = int | str | None  # None: features without layers
FeatureSets = Callable[[Tensor], list[Tensor]]  # (1, 1, T) -> one (F, D) for each layer
PERTURBATIONS: dict[str, Perturbation] = {
    "voice": perturbation.perturb_voice,
    "pitch": perturbation.shift_pitch,
    "noise": perturbation.add_noise,
    "room": perturbation.reverberate,
}


def named_perturbations(names: Sequence[str]) -> dict[str, Perturbation]:
    r"""Return changes by name, some of ``PERTURBATIONS``.

    Raises
    ------
    ValueError
        If there is no such change.
    """
    unknown = [name for name in names if name not in PERTURBATIONS]
    if unknown:
        raise ValueError(f"perturb: got {unknown}, expected some of {list(PERTURBATIONS)}")
    return {name: PERTURBATIONS[name] for name in names}


def layer_units(
    teacher: Teacher,
    train: Corpus,
    test: Corpus,
    layers: Sequence[int | str] | None = None,
    num_units: Sequence[int] = (100,),
    perturbations: Mapping[str, Perturbation] | None = None,
    max_frames: int = 50_000,
    seed: int = 0,
    log: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    r"""Measure k-means units of layers of a teacher, of an untrained one, of MFCC and of log-mel.

    Parameters
    ----------
    teacher
        Any; a ``SmallHubert`` with statistics set.
    train
        What k-means is fitted on, and what the n-gram models learn from.
    test
        Other speakers, with phonemes where they are to be measured.
    layers
        Hidden states; all by default.
    num_units
        Clusters of each k-means.
    perturbations
        By name, see ``measure_units``.
    max_frames
        Frames that k-means is fitted on, drawn evenly from ``train``.
    seed
        Of the sample, the clusters, the untrained weights, the changes and the probe.
    log
        Called with lines of text, e.g. ``print``.

    Returns
    -------
    list[dict[str, Any]]
        Rows ``features``, ``layer`` and those of ``measure_units``, the baselines first.

    Raises
    ------
    ValueError
        If there is no such layer, or a speaker is in both parts.
    """
    common = set(train.speakers) & set(test.speakers)
    if common:
        raise ValueError(f"units: got speakers {sorted(common)[:3]} in both parts, expected none")
    chosen = list(range(teacher.num_layers + 1)) if layers is None else list(layers)
    for layer in chosen:
        check_layer(layer, teacher.num_layers)
    sources: dict[str, tuple[list[Layer], FeatureSets]] = {
        name: ([None], partial(_alone, extract)) for name, extract in baselines().items()
    }
    for name, network in {
        "untrained": fresh_like(teacher, train, seed),
        "teacher": teacher,
    }.items():
        sources[name] = chosen, partial(layer_features, network, chosen)
    fits, titles = [], []
    for name, (labels, features) in sources.items():
        fits.append((features, fit_layers(features, train, num_units, max_frames, seed)))
        titles += [(name, layer, size) for layer in labels for size in num_units]
        if log is not None:
            log(f"{name}: {len(labels)} x {list(num_units)} units found")
    sizes = [size for _, _, size in titles]
    measured = measure_unit_sets(
        partial(_all_units, fits), sizes, test, None, perturbations, train, seed=seed
    )
    return [
        {"features": name, "layer": layer, **row}
        for (name, layer, _), row in zip(titles, measured, strict=True)
    ]


def _alone(extract: Callable[[Tensor], Tensor], wav: Tensor) -> list[Tensor]:
    return [extract(wav)[0]]


def layer_features(teacher: Teacher, layers: Sequence[int | str], wav: Tensor) -> list[Tensor]:
    r"""Return the features (F, D) of several layers; a small HuBERT is run only once.

    Parameters
    ----------
    teacher, layers, wav
        Any; hidden states; shape (1, 1, T).
    """
    if not isinstance(teacher, SmallHubert):
        return [teacher.features(wav, layer)[0].cpu() for layer in layers]
    states = torch.stack(teacher.hidden_states(wav))[:, 0]  # (L + 1, F, D)
    states = (states - teacher.feature_mean[:, None]) / teacher.feature_scale[:, None]
    return [states.mean(0) if layer == "avg" else states[layer] for layer in layers]


def fresh_like(teacher: Teacher, train: Corpus, seed: int = 0) -> Teacher:
    r"""Return a network of the same form with random weights.

    Parameters
    ----------
    teacher
        Whose form to take.
    train
        Gives a small HuBERT's statistics.
    seed
        Of the weights.
    """
    if isinstance(teacher, SmallHubert):
        return untrained_like(teacher, train, seed)
    fresh = copy.deepcopy(teacher)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in fresh.modules() if isinstance(fresh, nn.Module) else ():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return fresh


@torch.no_grad()
def fit_layers(
    features: FeatureSets,
    corpus: Corpus,
    num_units: Sequence[int],
    max_frames: int = 50_000,
    seed: int = 0,
) -> list[list[KMeans]]:
    r"""Fit k-means for every layer and number of units, on the same frames.

    Parameters
    ----------
    features
        Function from a waveform to the features (F, D) of each layer.
    corpus, num_units, max_frames, seed
        As in ``layer_units``. Memory is that of twice as many frames of all layers.

    Returns
    -------
    list[list[KMeans]]
        By layer, then by number of units.
    """
    widths: list[int] = []

    def frames_of_all():
        count = 0
        for index in np.random.default_rng(seed).permutation(len(corpus)).tolist():
            try:
                found = features(corpus.load(index)[None])
            except audio.AudioError:
                continue  # the corpus has reported it
            widths[:] = [one.shape[1] for one in found]
            count += len(found[0])
            yield torch.cat(found, 1)
            if count >= 2 * max_frames:
                return

    expected = min(2 * max_frames, sum(frame_count(corpus.length(i)) for i in range(len(corpus))))
    rows = sample_frames(frames_of_all(), max_frames, seed, expected)
    return [
        [fit_kmeans([part], size, max_frames, seed) for size in num_units]
        for part in rows.split(widths, 1)
    ]


def _all_units(fits: Sequence[tuple[FeatureSets, list[list[KMeans]]]], wav: Tensor) -> Tensor:
    """Name the units of each k-means of each layer of each source: (1, F, S)."""
    units = []
    for features, found in fits:
        for frames, of_layer in zip(features(wav), found, strict=True):
            units += [kmeans(frames) for kmeans in of_layer]
    return torch.stack(units, -1)[None]
