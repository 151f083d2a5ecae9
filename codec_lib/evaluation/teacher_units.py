r"""Units of every layer of a teacher, beside units of what nothing was trained for.

k-means is fitted per layer and number of units, on speakers of the training part, and measured on
others. Rows of MFCC, log-mel and an untrained network of the same sizes always come with them: a
random network's units know nearly as much about phonemes as a weak teacher's. Notebook: 20.
Leaves out: ABX.
Read next: ``teacher_bench.py``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from codec_lib import audio
from codec_lib.data import Corpus, check_speakers
from codec_lib.teachers import perturbation
from codec_lib.teachers.features import Teacher, long_features
from codec_lib.teachers.frontend import frame_count
from codec_lib.teachers.kmeans import KMeans, fit_kmeans, sample_frames
from codec_lib.teachers.standardised import StandardisedTeacher, check_layer

from .probes import SILENCE
from .robustness import Perturbation, UnitFunction, Units, device_of, hear
from .teacher_probe import all_layers, baselines, untrained_like
from .units import measure_unit_sets

Title = tuple[str, int | str | None, int]  # features, layer if there is one, number of units
FeatureSets = Callable[[Tensor], list[Tensor]]  # (1, 1, T) -> one (F, D) for each layer
UnitSets = Callable[[Tensor], list[Tensor]]  # (1, 1, T) -> one (F,) for each set
PERTURBATIONS: dict[str, Perturbation] = {
    "voice": partial(perturbation.perturb_voice, strict=True),
    "pitch": perturbation.shift_pitch,
    "noise": perturbation.add_noise,
    "room": perturbation.reverberate,
}


def named_perturbations(names: Sequence[str]) -> dict[str, Perturbation]:
    r"""Return changes by name, some of ``PERTURBATIONS``, which raise ``VoiceError`` if they fail.

    Raises
    ------
    ValueError
        If there is no such change.
    """
    unknown = [name for name in names if name not in PERTURBATIONS]
    if unknown:
        raise ValueError(f"perturb: got {unknown}, expected some of {list(PERTURBATIONS)}")
    return {name: PERTURBATIONS[name] for name in names}


@dataclass(frozen=True)
class UnitSettings:
    r"""How units are found and measured.

    Attributes
    ----------
    layers
        Hidden states to cluster; all by default.
    num_units
        Clusters of each k-means.
    perturbations
        By name, see ``measure_units``.
    max_frames
        Frames that k-means is fitted on, drawn evenly from the training part.
    max_texts
        Utterances, spread over the training part, that the n-gram models learn from.
    seed
        Of the sample, the clusters, an untrained network, the changes and the probe.
    with_abx
        Also the ABX errors of phonemes.
    """

    layers: Sequence[int | str] | None = None
    num_units: Sequence[int] = (100,)
    perturbations: Mapping[str, Perturbation] = field(default_factory=dict)
    max_frames: int = 50_000
    max_texts: int = 300
    seed: int = 0
    with_abx: bool = False


def layer_units(
    teacher: Teacher,
    train: Corpus,
    test: Corpus,
    settings: UnitSettings | None = None,
    log: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    r"""Measure k-means units of layers of a teacher, of an untrained one, of MFCC and of log-mel.

    Parameters
    ----------
    teacher
        Any; one that was trained here with its statistics set.
    train, test, settings, log
        As in ``compare_units``.

    Returns
    -------
    list[dict[str, Any]]
        As ``compare_units``; ``features`` are those of ``baselines()``, then ``"untrained"`` and
        ``"teacher"``.
    """
    settings = settings or UnitSettings()
    networks = {"untrained": fresh_like(teacher, train, settings.seed), "teacher": teacher}
    return compare_units(networks, {}, train, test, settings, log)


def compare_units(
    networks: Mapping[str, Teacher],
    functions: Mapping[str, tuple[UnitFunction, int]],
    train: Corpus,
    test: Corpus,
    settings: UnitSettings | None = None,
    log: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    r"""Measure k-means units of networks' layers, and units as they are, beside the baselines.

    Parameters
    ----------
    networks
        Teachers by name, e.g. an untrained one too.
    functions
        Unit functions by name, with their number of units, e.g. ``(spin.units, 128)``.
    train
        What k-means is fitted on, and, a part of it, what the n-gram models learn from.
    test
        Other speakers, with phonemes where they are to be measured.
    settings
        Layers, numbers of units and perturbations.
    log
        Called with lines of text, e.g. ``print``.

    Returns
    -------
    list[dict[str, Any]]
        Rows ``features``, ``layer`` and those of ``measure_units``: first of ``baselines()``, then
        of the networks, then of the functions.

    Raises
    ------
    ValueError
        If there is no such layer, a speaker is in both parts, or ABX is asked for where phonemes
        are not known.
    """
    check_speakers(train, [test])
    settings = settings or UnitSettings()
    if settings.with_abx and not {*test.phoneme_set} - {SILENCE}:
        raise ValueError(f"ABX: got no phonemes in {test.name}, expected some. Hint: --align")
    sets = _clustered(networks, train, settings, log)
    for name, (units_of, size) in functions.items():
        sets.append((partial(_alone, units_of), [(name, None, size)]))

    def all_units(wav: Tensor) -> Tensor:
        return torch.stack([units for namer, _ in sets for units in namer(wav)], -1)[None]

    titles = [title for _, of_namer in sets for title in of_namer]
    sizes, changes = [size for _, _, size in titles], settings.perturbations
    known = train[:: max(1, len(train) // settings.max_texts)]
    options = {"seed": settings.seed, "with_abx": settings.with_abx}
    rows = measure_unit_sets(all_units, sizes, test, None, changes, known, **options)
    keys = ({"features": name, "layer": layer} for name, layer, _ in titles)
    return [{**key, **row} for key, row in zip(keys, rows, strict=True)]


def _clustered(
    networks: Mapping[str, Teacher],
    train: Corpus,
    settings: UnitSettings,
    log: Callable[[str], None] | None,
) -> list[tuple[UnitSets, list[Title]]]:
    """Fit k-means on baselines and networks; return what names their units, and their titles."""
    sources: dict[str, tuple[Sequence[int | str | None], FeatureSets]] = {
        name: ([None], partial(_alone, extract)) for name, extract in baselines().items()
    }
    for name, network in networks.items():
        every = range(network.num_layers + 1)
        layers = every if settings.layers is None else settings.layers
        for layer in layers:
            check_layer(layer, network.num_layers)
        sources[name] = layers, partial(layer_features, network, layers)
    sets: list[tuple[UnitSets, list[Title]]] = []
    for name, (layers, features) in sources.items():
        fits = fit_layers(features, train, settings.num_units, settings.max_frames, settings.seed)
        titles = [(name, layer, size) for layer in layers for size in settings.num_units]
        sets.append((partial(_nearest_units, features, fits), titles))
        if log is not None:
            log(f"{name}: {len(titles)} sets of units found")
    return sets


def _alone(extract: Callable[[Tensor], Tensor], wav: Tensor) -> list[Tensor]:
    return [extract(wav.to(device_of(extract)))[0].cpu()]


def layer_features(teacher: Teacher, layers: Sequence[int | str], wav: Tensor) -> list[Tensor]:
    r"""Return the features (F, D) of several layers; a teacher trained here is run only once.

    Parameters
    ----------
    teacher, layers, wav
        Any, on any device; hidden states; shape (1, 1, T), heard in pieces (``long_features``).

    Returns
    -------
    list[Tensor]
        On the CPU.
    """
    wav = wav.to(device_of(teacher))
    if not isinstance(teacher, StandardisedTeacher):
        return [long_features(teacher, wav, layer).cpu() for layer in layers]
    together = all_layers(teacher)  # as the features of one layer, (1, F, (L + 1) D)
    whole = SimpleNamespace(hop_length=teacher.hop_length, features=lambda x, _: together(x))
    found = long_features(cast(Teacher, whole), wav).cpu().unflatten(1, (-1, teacher.dim))
    return [found.mean(1) if layer == "avg" else found[:, layer] for layer in layers]


def fresh_like(teacher: Teacher, train: Corpus, seed: int = 0) -> Teacher:
    r"""Return a network of the same form with random weights.

    Every part is drawn as its class draws it, behind a weight norm too. What no class resets is
    drawn with the mean and the spread that it has (WavLM's ``gru_rel_pos_const``).

    Parameters
    ----------
    teacher
        Whose form to take, and device.
    train
        Gives the statistics of a teacher trained here.
    seed
        Of the weights.
    """
    if isinstance(teacher, StandardisedTeacher):
        return untrained_like(teacher, train, seed)
    fresh = copy.deepcopy(teacher)
    if isinstance(fresh, nn.Module) and isinstance(teacher, nn.Module):
        fresh.cpu()  # the same numbers on every device
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            for module in reversed(list(fresh.modules())):  # attention resets its last map itself
                _reset(module)
            for new, old in zip(fresh.parameters(), teacher.parameters(), strict=True):
                spread = float(new.std(correction=0))
                if spread and torch.equal(new, old.cpu()):  # nothing has reset it: a free tensor
                    new.normal_(float(new.mean()), spread)
        fresh.to(device_of(teacher))
    return fresh


def _reset(module: nn.Module) -> None:
    """Draw a module's own parameters anew as its class does, also behind a weight norm."""
    if parametrize.is_parametrized(module):  # its weight is computed: reset a plain twin's instead
        twin = object.__new__(type(module).__bases__[0])
        own = {
            name: nn.Parameter(getattr(module, name).clone()) for name in module.parametrizations
        }
        rest = {name: one for name, one in module._modules.items() if name != "parametrizations"}
        twin.__dict__ = vars(module) | {"_parameters": module._parameters | own, "_modules": rest}
        _reset(twin)
        for name, weight in own.items():
            setattr(module, name, weight.data)
        return
    reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
    if reset is not None:
        reset()


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
        As in ``UnitSettings``. Memory is that of twice as many frames of all layers.

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


def _nearest_units(
    features: FeatureSets, found: Sequence[Sequence[KMeans]], wav: Tensor
) -> list[Tensor]:
    """Name the units (F,) of each k-means of each layer."""
    pairs = zip(features(wav), found, strict=True)
    return [kmeans(frames) for frames, of_layer in pairs for kmeans in of_layer]


def unit_sets(
    features: FeatureSets,
    train: Corpus,
    test: Corpus,
    num_units: int = 100,
    max_frames: int = 50_000,
    seed: int = 0,
) -> list[tuple[KMeans, Units]]:
    r"""Fit k-means for every layer on one corpus, and name the units of another.

    Parameters
    ----------
    features
        Function from a waveform to the features (F, D) of each layer.
    train, test
        What k-means is fitted on; what is named.
    num_units, max_frames, seed
        As in ``fit_layers``.

    Returns
    -------
    list[tuple[KMeans, Units]]
        By layer: the centres, and the units (F,) by the number of the utterance in ``test``.
    """
    fits = fit_layers(features, train, [num_units], max_frames, seed)

    def named(wav: Tensor) -> Tensor:
        pairs = zip(fits, features(wav), strict=True)
        return torch.stack([kmeans(frames) for (kmeans,), frames in pairs], -1)[None]

    heard = hear(named, test)  # (F, layers) of each utterance
    return [
        (of_layer[0], {index: frames[:, column] for index, frames in heard.items()})
        for column, of_layer in enumerate(fits)
    ]
