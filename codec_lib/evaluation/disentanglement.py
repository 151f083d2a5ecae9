r"""Which codebooks hold what is said and which hold the voice: vectors, maps and numbers.

The quantized vectors of some codebooks, summed, are looked at in two ways: a mean for each
utterance, and single frames. Are those of a speaker together, or those of a phoneme? Two numbers
answer it: the silhouette [Rousseeuw 1987], which is above 0 where a group is tighter than its
distance to the next, and the accuracy of a probe. Pictures (t-SNE [van der Maaten and Hinton 2008],
UMAP [McInnes et al. 2018]) show the same to the eye and prove nothing (``map_reading.py``).

[Zhang et al. 2024, SpeechTokenizer], §4: of ten utterances each, RVQ-1 scatters and RVQ-2:8 forms a
cluster for each speaker. Features of another kind, such as log-mel frames, go the same way
(``feature_vectors``): what codes are worth is seen beside them. Notebook 31. Leaves out: conversion
(``conversion.py``). Read next: ``judges/base.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec_lib import audio
from codec_lib.codecs.base import Codec
from codec_lib.data import Corpus, Utterance
from codec_lib.data.phonemes import SILENCE
from codec_lib.shapes import Codes

from .probes import linear_probe
from .units import nearest_mean_probe, speaker_parts

PROJECTIONS = ("tsne", "umap")


@dataclass(frozen=True)
class LayerVectors:
    r"""Quantized vectors of groups of codebooks.

    Attributes
    ----------
    utterances
        By group, the mean vector of each utterance, shape (U, D).
    speakers
        Of each utterance.
    frames
        By group, vectors of single frames, shape (N, D).
    phonemes, frame_speakers
        Of each of these frames; no phonemes where none are known.
    frame_utterances
        Row of ``utterances`` that each of these frames is of.
    """

    utterances: dict[str, Tensor]
    speakers: list[str]
    frames: dict[str, Tensor]
    phonemes: list[str]
    frame_speakers: list[str]
    frame_utterances: list[int] = field(default_factory=list)


def layer_vectors(
    codec: Codec,
    corpus: Corpus,
    groups: Mapping[str, Sequence[int]] | None = None,
    frames_each: int = 20,
    seed: int = 0,
) -> LayerVectors:
    r"""Compute the vectors of groups of codebooks for a corpus.

    Parameters
    ----------
    codec
        In eval mode, at the corpus's sample rate.
    corpus
        Bad files are left out.
    groups
        Name to codebooks, counted from 0; by default the first, all others and all.
    frames_each
        Frames kept of each utterance, drawn evenly; silence is left out where phonemes are known.
    seed
        Of the draw.

    Returns
    -------
    LayerVectors
        On the CPU, float32.

    Raises
    ------
    ValueError
        If a codebook does not exist, or no utterance can be read.
    """
    groups = default_groups(codec) if groups is None else groups
    wanted = [layer for layers in groups.values() for layer in layers]
    if not wanted or min(wanted) < 0 or max(wanted) >= codec.num_quantizers:
        raise ValueError(f"groups: got {dict(groups)}, expected 0 to {codec.num_quantizers - 1}")

    def parts_of(wav: Tensor) -> dict[str, Tensor]:
        codes = codec.encode(wav.to(codec.device))
        return {name: _vectors(codec, codes, layers) for name, layers in groups.items()}

    return feature_vectors(parts_of, corpus, codec.frame_rate, frames_each, seed)


@torch.no_grad()
def feature_vectors(
    parts_of: Callable[[Tensor], Mapping[str, Tensor]],
    corpus: Corpus,
    frame_rate: float = 50.0,
    frames_each: int = 20,
    seed: int = 0,
) -> LayerVectors:
    r"""Collect vectors of any kind, e.g. log-mel frames, as ``layer_vectors`` does those of codes.

    Parameters
    ----------
    parts_of
        Function from a waveform (1, 1, T) to frames by name, (F, D) each, all of the same F.
    corpus, frames_each, seed
        As in ``layer_vectors``; ``corpus`` at the rate that the function hears.
    frame_rate
        Frames per second, Hz.

    Returns
    -------
    LayerVectors
        On the CPU.

    Raises
    ------
    ValueError
        If no utterance can be read.
    """
    rng = np.random.default_rng(seed)
    means: list[Mapping[str, Tensor]] = []
    single: list[Mapping[str, Tensor]] = []
    speakers, phonemes, owners = [], [], []
    for index, utterance in enumerate(corpus):
        try:
            parts = parts_of(corpus.load(index)[None])
        except audio.AudioError:
            continue  # the corpus has reported it
        spoken, symbols = _spoken(utterance, frame_rate, len(next(iter(parts.values()))))
        chosen = np.sort(rng.permutation(spoken)[:frames_each])
        kept = spoken if len(spoken) else ...  # one that is all silent is kept
        means.append({name: one[kept].mean(0).cpu() for name, one in parts.items()})
        single.append({name: one[chosen].cpu() for name, one in parts.items()})
        phonemes += [symbols[f] for f in chosen] if symbols else []
        owners += [len(speakers)] * len(chosen)
        speakers.append(utterance.speaker_id)
    if not speakers:
        raise ValueError(f"{corpus.name}: got no utterance that can be read, expected some")
    utterances = {name: torch.stack([one[name] for one in means]) for name in means[0]}
    frames = {name: torch.cat([one[name] for one in single]) for name in means[0]}
    known = phonemes if len(phonemes) == len(owners) else []
    voices = [speakers[owner] for owner in owners]
    return LayerVectors(utterances, speakers, frames, known, voices, owners)


def _vectors(codec: Codec, codes: Codes, layers: Sequence[int]) -> Tensor:
    """Return the sum of what codebooks stand for at every frame, (F, D)."""
    return codec.latent(codes.select(list(layers)))[0].T.float().cpu()


def _spoken(utterance: Utterance, frame_rate: float, count: int) -> tuple[np.ndarray, list[str]]:
    """Return the frames that are not silent, and each frame's phoneme, where they are known."""
    if not utterance.phonemes:
        return np.arange(count), []
    symbols = utterance.frame_symbols(frame_rate, count)
    return np.flatnonzero([symbol != SILENCE for symbol in symbols]), symbols


def default_groups(codec: Codec) -> dict[str, list[int]]:
    r"""Return the first codebook, all others together, and all, by the papers' names."""
    count = codec.num_quantizers
    if count == 1:
        return {"RVQ-1": [0]}
    others = "RVQ-2" if count == 2 else f"RVQ-2:{count}"
    return {"RVQ-1": [0], others: list(range(1, count)), f"RVQ-1:{count}": list(range(count))}


def separation(vectors: LayerVectors, seed: int = 0) -> list[dict[str, Any]]:
    r"""Measure how far groups of codebooks tell speakers and phonemes apart.

    Parameters
    ----------
    vectors
        See ``layer_vectors``.
    seed
        Of the phoneme probe and of the frames it is tested on.

    Returns
    -------
    list[dict[str, Any]]
        A row per group: ``layers``; ``speaker_silhouette`` (utterances), ``speaker_accuracy``
        (nearest mean, every second utterance learnt from), ``speaker_chance``; where phonemes are
        known ``phoneme_silhouette`` (frames) and ``phoneme_accuracy`` (linear probe, tested on the
        frames of every second speaker) with ``phoneme_majority``.

    Raises
    ------
    ValueError
        If there are fewer than two speakers of two utterances.
    """
    rows = []
    numbers = {index: name for index, name in enumerate(vectors.speakers)}
    parts = speaker_parts(numbers, "vectors")
    names = sorted({vectors.speakers[index] for index in parts[0]})
    owner = torch.tensor([names.index(n) if n in names else -1 for n in vectors.speakers])
    kept = torch.cat([torch.as_tensor(part) for part in parts])
    for name, means in vectors.utterances.items():
        scaled = _standardised(means)
        known, tested = (scaled[torch.as_tensor(part)] for part in parts)
        labels = [owner[torch.as_tensor(part)] for part in parts]
        found = nearest_mean_probe(known, labels[0], tested, labels[1])
        row: dict[str, Any] = {"layers": name, "num_utterances": len(means)}
        row["speaker_silhouette"] = _silhouette(scaled[kept], owner[kept])
        row |= {"speaker_accuracy": found.accuracy, "speaker_chance": 1 / len(names)}
        if vectors.phonemes:
            row |= _phonemes(vectors.frames[name], vectors, seed)
        rows.append(row)
    return rows


def _phonemes(frames: Tensor, vectors: LayerVectors, seed: int) -> dict[str, float]:
    """Measure how far frames tell phonemes; the probe learns from one half of the speakers."""
    symbols = sorted(set(vectors.phonemes))
    labels = torch.tensor([symbols.index(symbol) for symbol in vectors.phonemes])
    half = set(sorted(set(vectors.frame_speakers))[::2])
    learnt = torch.tensor([owner in half for owner in vectors.frame_speakers])
    scaled = _standardised(frames)
    found = linear_probe(
        scaled[learnt], labels[learnt], scaled[~learnt], labels[~learnt], seed=seed
    )
    return {
        "phoneme_silhouette": _silhouette(scaled, labels),
        "phoneme_accuracy": found.accuracy,
        "phoneme_majority": found.majority,
        "num_frames": len(frames),
    }


def pooled_frames(
    vectors: LayerVectors, group: str, count: int, seed: int = 0
) -> tuple[Tensor, list[int]]:
    r"""Average the kept frames of each utterance, so many at a time.

    Parameters
    ----------
    vectors
        With ``frame_utterances``.
    group
        Of its groups.
    count
        Frames n of a mean; what is left of an utterance is dropped.
    seed
        Of the order in which an utterance's frames are taken.

    Returns
    -------
    tuple[Tensor, list[int]]
        Means (N, D), and the row of ``utterances`` of each. ``ValueError`` if none is that long.
    """
    draw, owner = torch.Generator().manual_seed(seed), torch.tensor(vectors.frame_utterances)
    means, whose = [], []
    for index in owner.unique().tolist():
        place = torch.nonzero(owner == index).flatten()
        place = place[torch.randperm(len(place), generator=draw)]
        parts = place[: len(place) // count * count].view(-1, count)
        means.append(vectors.frames[group][parts].mean(1))
        whose += [index] * len(parts)
    if not whose:
        raise ValueError(f"count: got {count}, expected at most the frames kept of an utterance")
    return torch.cat(means), whose


def speaker_accuracy_by_frames(
    vectors: LayerVectors, counts: Sequence[int] = (1, 2, 5, 10, 20), seed: int = 0
) -> list[dict[str, Any]]:
    r"""Measure how many frames it takes to tell who speaks.

    Every second utterance of a speaker gives a mean; means of n frames of the others are tested,
    and the nearest speaker is named. What sounds differ by falls as 1 / n, and the voice stays.

    Parameters
    ----------
    vectors
        Of ``layer_vectors`` or ``feature_vectors``.
    counts
        Frames n that are averaged.
    seed
        Of ``pooled_frames``.

    Returns
    -------
    list[dict[str, Any]]
        A row per group and count: ``layers``, ``frames``, ``speaker_accuracy``,
        ``speaker_chance``, ``num_tests``.

    Raises
    ------
    ValueError
        If there are fewer than two speakers of two utterances, or a count that no utterance has.
    """
    known, tested = (torch.tensor(p) for p in speaker_parts(dict(enumerate(vectors.speakers)), ""))
    names = sorted({vectors.speakers[index] for index in known.tolist()})
    voice = torch.tensor([names.index(n) if n in names else -1 for n in vectors.speakers])
    owner, rows = torch.tensor(vectors.frame_utterances), []
    learnt = torch.isin(owner, known)
    for name, frames in vectors.frames.items():
        centre, scale = frames[learnt].mean(0), frames[learnt].std(0).clamp_min(1e-6)
        own = (frames[learnt] - centre) / scale, voice[owner[learnt]]
        for count in counts:
            means, of = pooled_frames(vectors, name, count, seed)
            whose = torch.tensor(of)
            asked = torch.isin(whose, tested)
            found = nearest_mean_probe(*own, (means[asked] - centre) / scale, voice[whose[asked]])
            row = {"layers": name, "frames": count, "speaker_accuracy": found.accuracy}
            rows.append(row | {"speaker_chance": 1 / len(names), "num_tests": found.num_test})
    return rows


def projected(
    points: Tensor, how: str = "tsne", seed: int = 0, neighbours: int = 15, start: str = "pca"
) -> np.ndarray:
    r"""Map vectors to the plane.

    Parameters
    ----------
    points
        Shape (N, D).
    how
        ``"tsne"`` or ``"umap"``.
    seed
        Of the map.
    neighbours
        Neighbours that a point minds: t-SNE's perplexity, and UMAP's count; at most a third of the
        points.
    start
        Where t-SNE's points begin: ``"pca"``, so that seeds hardly matter, or ``"random"``.

    Returns
    -------
    np.ndarray
        Shape (N, 2), float32.

    Raises
    ------
    ValueError
        If there is no such map, or there are fewer than four points.
    """
    if how not in PROJECTIONS or len(points) < 4:
        raise ValueError(
            f"projected: got {how!r} and {len(points)} points, expected one of {PROJECTIONS}, 4 up"
        )
    data = _standardised(points).numpy()
    near = max(1, min(neighbours, (len(data) - 1) // 3))
    if how == "tsne":
        from sklearn.manifold import TSNE

        made = TSNE(perplexity=near, init=start, random_state=seed, n_jobs=1).fit_transform(data)
    else:
        import warnings

        with warnings.catch_warnings():  # umap says aloud that a seed means one thread
            warnings.simplefilter("ignore")
            import umap

            made = umap.UMAP(n_neighbors=max(2, near), random_state=seed, n_jobs=1).fit_transform(
                data
            )
    return np.asarray(made, dtype=np.float32)


def name_silhouette(points: Tensor, names: Sequence[str]) -> float:
    r"""Return the mean silhouette of vectors (N, D), standardised, grouped by name."""
    order = sorted(set(names))
    return _silhouette(_standardised(points), torch.tensor([order.index(n) for n in names]))


def _standardised(points: Tensor) -> Tensor:
    """Bring every dimension to mean 0 and scale 1; one that does not vary becomes 0."""
    scale = points.std(0)
    return (points - points.mean(0)) / torch.where(scale > 1e-6, scale, torch.inf)


def _silhouette(points: Tensor, labels: Tensor, most: int = 5000) -> float:
    """Return the mean silhouette of groups of two or more, NaN for a single group."""
    from sklearn.metrics import silhouette_score

    size = torch.bincount(labels)
    kept = size[labels] > 1
    if not 2 <= len(labels[kept].unique()) < int(kept.sum()):
        return float("nan")
    count = int(kept.sum())
    sample = most if count > most else None
    data = points[kept].numpy(), labels[kept].numpy()
    return float(silhouette_score(*data, sample_size=sample, random_state=0))
