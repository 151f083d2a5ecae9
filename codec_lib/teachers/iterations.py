r"""From a corpus to a teacher: units of MFCC, pre-training, units of a layer, pre-training again.

[Hsu et al. 2021, HuBERT], §III: the first iteration predicts k-means units of MFCC, the second
those of a middle layer of the first. The published second iteration starts from nothing; here it
goes on from the first by default, which costs half as much. ``PAPER_FIRST`` and ``PAPER_SECOND``
are the published runs: ``train_hubert(corpus, BaseHubertConfig(), PAPER_FIRST, PAPER_SECOND,
(100, 500), layer=6, fresh=True, fit_share=0.1)``. Used by notebooks
20 and 21. Leaves out: MFCC with the level and the colour of the recording in them, as published.
Read next: ``features.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from codec_lib.data import Corpus

from .base_hubert import BaseHubertConfig
from .features import loaded, long_features, spread
from .frontend import HOP, SAMPLE_RATE, Mfcc, frame_count
from .hubert import HubertConfig, new_hubert
from .kmeans import KMeans, fit_kmeans
from .pretraining import PretrainConfig, Trained, pretrain
from .runs import check_source, run_source

Extractor = Callable[[Tensor], Tensor]  # (1, 1, T) -> (1, F, D)
FIRST = PretrainConfig(steps=1500, seed=0)  # what hubert-small was made with
SECOND = PretrainConfig(steps=6000, seed=1)
# 32 GPUs with 87.5 s each, cut to 10 s here; steps of the warm-up as published.
PAPER_FIRST = PretrainConfig(
    steps=250_000,
    batch_size=280,
    num_samples=10 * SAMPLE_RATE,
    learning_rate=5e-4,
    warmup=32_000 / 250_000,
    weight_decay=0.01,
    grad_clip=10.0,
    mask_start=0.08,
    mask_length=10,
    unmasked_weight=0.0,
    warp=0.0,
    num_parts=32,
    save_every=1000,
)
PAPER_SECOND = replace(PAPER_FIRST, steps=400_000, warmup=32_000 / 400_000, seed=1)


def fit_units(
    corpus: Corpus,
    extract: Extractor,
    num_units: int = 100,
    max_frames: int = 100_000,
    seed: int = 0,
) -> KMeans:
    r"""Cluster the frames of a corpus.

    Parameters
    ----------
    corpus
        At 16 kHz.
    extract
        Function from a waveform (1, 1, T) to features (1, F, D), e.g. ``Mfcc()``.
    num_units
        Clusters.
    max_frames
        Frames to fit on at most, from utterances chosen at random; bounds the memory.
    seed
        Of the choice and the clustering.

    Returns
    -------
    KMeans
        The units.
    """
    chosen, frames = [], 0
    for index in np.random.default_rng(seed).permutation(len(corpus)).tolist():
        chosen.append(index)
        frames += frame_count(corpus.length(index))
        if frames >= max_frames:
            break
    found = (_features(corpus, index, extract) for index in chosen)
    usable = (features for features in found if features is not None)
    return fit_kmeans(usable, num_units, max_frames, seed)


def unit_targets(
    corpus: Corpus,
    extract: Extractor,
    num_units: int = 100,
    seed: int = 0,
    fit_share: float | None = None,
) -> tuple[KMeans, list[Tensor]]:
    r"""Cluster the frames of a corpus and name the cluster of each.

    Parameters
    ----------
    corpus, extract, num_units, seed
        As in ``fit_units``.
    fit_share
        Share of the corpus's frames to fit on, 0.1 as published; None fits on 100,000 frames.

    Returns
    -------
    tuple[KMeans, list[Tensor]]
        The units, and one tensor (F,) int16 per utterance; (0,) for a bad file, which the corpus
        has reported.
    """
    lengths = (corpus.length(index) for index in range(len(corpus)))
    frames = None if fit_share is None else round(fit_share * sum(map(frame_count, lengths)))
    limit = {} if frames is None else {"max_frames": max(num_units, frames)}
    kmeans, units = fit_units(corpus, extract, num_units, seed=seed, **limit), []
    for index in range(len(corpus)):
        features = _features(corpus, index, extract)
        empty = torch.zeros(0, dtype=torch.int16)
        units.append(empty if features is None else kmeans(features).to(torch.int16))
    return kmeans, units


@torch.no_grad()
def _features(corpus: Corpus, index: int, extract: Extractor) -> Tensor | None:
    """Extract the features (F, D) of one utterance; None for a bad file."""
    wav = loaded(corpus, index)
    if wav is None:
        return None
    heard = SimpleNamespace(hop_length=HOP, features=lambda piece, _: extract(piece))
    return long_features(heard, wav[None])


def mfcc_targets(
    corpus: Corpus, num_units: int = 100, seed: int = 0, fit_share: float | None = None
) -> list[Tensor]:
    r"""Return the targets of the first iteration: clusters of MFCC, (F,) int16 per utterance.

    Parameters
    ----------
    corpus, num_units, seed, fit_share
        As in ``unit_targets``.
    """
    return unit_targets(corpus, Mfcc(), num_units, seed, fit_share)[1]


def layer_targets(
    teacher: Trained,
    corpus: Corpus,
    layer: int,
    num_units: int = 200,
    seed: int = 0,
    fit_share: float | None = None,
) -> list[Tensor]:
    r"""Return the targets of the next iteration: clusters of a layer, (F,) int16 per utterance.

    Parameters
    ----------
    teacher
        Of the iteration before; put in eval mode.
    layer
        Which hidden state is clustered.
    corpus, num_units, seed, fit_share
        As in ``unit_targets``.
    """
    return unit_targets(corpus, layer_extractor(teacher, layer), num_units, seed, fit_share)[1]


def layer_extractor(teacher: Trained, layer: int) -> Extractor:
    """Return the function from a waveform to a layer's features; puts the teacher in eval mode."""
    teacher.eval()
    device = next(teacher.parameters()).device
    return lambda wav: teacher.features(wav.to(device), layer).cpu()


def with_new_units(teacher: Trained, num_units: int, seed: int = 0, fresh: bool = False) -> Trained:
    r"""Return a copy with fresh unit vectors, to go on with targets of another kind.

    Parameters
    ----------
    teacher
        What to copy.
    num_units, seed
        Number of unit vectors; seed of their values.
    fresh
        True makes all other weights anew as well, as the published second iteration does.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        copy = new_hubert(replace(teacher.config, num_units=num_units))
    if not fresh:
        kept = teacher.state_dict()
        kept = {key: value for key, value in kept.items() if key not in teacher.unit_keys}
        copy.load_state_dict(kept, strict=False)
    return copy.to(next(teacher.parameters()).device)


def train_hubert(
    corpus: Corpus,
    config: HubertConfig | BaseHubertConfig | None = None,
    first: PretrainConfig = FIRST,
    second: PretrainConfig | None = SECOND,
    num_units: tuple[int, int] = (100, 500),
    layer: int | None = None,
    folder: str | Path | None = None,
    device: str | torch.device = "cpu",
    log: Callable[[str], None] | None = None,
    fresh: bool = False,
    fit_share: float | None = None,
) -> Trained:
    r"""Make a teacher from a corpus: two iterations, then the statistics of its features.

    Parameters
    ----------
    corpus
        Speech at 16 kHz; no labels are used.
    config
        Sizes of the teacher, small or as published; ``num_units`` in it is replaced.
    first, second
        How to train each iteration; None leaves the second out.
    num_units
        Units of either iteration.
    layer
        Whose clusters the second iteration predicts; two thirds up by default, 6 as published.
    folder
        Where checkpoints are kept; the same call goes on from them.
    device, log
        Where to train; called with lines of text, e.g. ``print``.
    fresh, fit_share
        True starts the second iteration from nothing, as published; see ``unit_targets``.

    Returns
    -------
    SmallHubert | BaseHubert
        In eval mode; ``save_hubert`` writes it to a file.
    """
    say, place = log or (lambda line: None), None if folder is None else Path(folder)
    teacher = _first_teacher(config or HubertConfig(), num_units[0], first.seed).to(device)
    say(f"{corpus.name}: {len(corpus)} utterances, {corpus.hours:.2f} h; clustering MFCC")
    units = _kept(
        place and place / "iteration1.units.safetensors",
        run_source(teacher, corpus, [f"mfcc {num_units[0]} {first.seed} {fit_share}"]),
        lambda: mfcc_targets(corpus, num_units[0], first.seed, fit_share),
    )
    pretrain(teacher, corpus, units, first, place and place / "iteration1.safetensors", log)
    _measure(teacher, corpus)
    if second is None:
        return teacher
    chosen = round(2 * teacher.num_layers / 3) if layer is None else layer
    say(f"clustering layer {chosen}")
    units = _kept(
        place and place / "iteration2.units.safetensors",
        run_source(teacher, corpus, [f"{chosen} {num_units[1]} {second.seed} {fit_share}"]),
        lambda: layer_targets(teacher, corpus, chosen, num_units[1], second.seed, fit_share),
    )
    file = place and place / "iteration2.safetensors"
    return next_iteration(teacher, corpus, units, num_units[1], second, file, fresh, log)


def _first_teacher(config: HubertConfig | BaseHubertConfig, num_units: int, seed: int) -> Trained:
    """Make a teacher with random weights and leave the global random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return new_hubert(replace(config, num_units=num_units))


def next_iteration(
    teacher: Trained,
    corpus: Corpus,
    units: Sequence[Tensor],
    num_units: int,
    config: PretrainConfig = SECOND,
    checkpoint: str | Path | None = None,
    fresh: bool = False,
    log: Callable[[str], None] | None = None,
) -> Trained:
    r"""Train a teacher's successor on other targets, e.g. the codes of Spin (SpinHuBERT).

    Stage I of DC-Spin is this with ``spin_targets(spin, corpus)`` [Chang et al. 2025, DC-Spin], §2,
    whose network starts from nothing.

    Parameters
    ----------
    teacher
        Of the iteration before; not changed.
    corpus
        Speech at 16 kHz.
    units
        Targets (F,) of every utterance, below ``num_units``.
    num_units
        Units there are.
    config, checkpoint, log
        As in ``pretrain``.
    fresh
        See ``with_new_units``.

    Returns
    -------
    SmallHubert | BaseHubert
        In eval mode, the statistics of its features measured.

    Raises
    ------
    ValueError
        As ``pretrain``.
    """
    student = with_new_units(teacher, num_units, config.seed, fresh)
    pretrain(student, corpus, units, config, checkpoint, log)
    _measure(student, corpus)
    return student


def _kept(file: Path | None, source: str, make: Callable[[], list[Tensor]]) -> list[Tensor]:
    """Return targets from a file, or make and keep them: clustering again may number them anew."""
    from codec_lib import hub

    if file is not None and file.is_file():
        described, tensors = hub.read_tensors(file)
        check_source(file, described, source)
        return list(tensors["units"].split(tensors["lengths"].tolist()))
    units = make()
    if file is not None:
        lengths = torch.tensor([len(one) for one in units])
        tensors = {"units": torch.cat(units), "lengths": lengths}
        hub.save_tensors(tensors, file, False, {"source": source})
    return units


def _measure(teacher: Trained, corpus: Corpus) -> None:
    """Set the statistics of a teacher's features from utterances spread over the corpus."""
    device = next(teacher.parameters()).device
    teacher.set_statistics(wav.to(device) for wav in spread(corpus))
