r"""Compare a teacher's layers with MFCC, log-mel and an untrained network, by the same probes.

A random Transformer and a wider window already help, so a teacher has to beat log-mel with context
and itself before training. Phonemes are probed on synthetic speech of unseen speakers; words on
recorded speech, where it can be had. Notebook: 20. Leaves out: units.
Read next: ``probes.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from codec_lib import audio
from codec_lib.data import Corpus, Utterance, check_speakers
from codec_lib.teachers.frontend import LogMel, Mfcc
from codec_lib.teachers.standardised import StandardisedTeacher

from .probes import SILENCE, FeatureFunction, linear_probe, phoneme_frames, pooled_features
from .robustness import device_of

CONTEXT = 5  # frames on either side: 0.22 s in all


def baselines() -> dict[str, FeatureFunction]:
    r"""Return features that nothing was trained for, by name.

    Returns
    -------
    dict[str, FeatureFunction]
        Each maps (1, 1, T) to (1, F, D) at 50 Hz: ``mfcc`` (39), ``log_mel`` (both windows of a
        frame, 160), ``log_mel_context`` (11 frames of their mean, 880).
    """
    mfcc, mel = Mfcc(), LogMel(80)

    def both_windows(wav: Tensor) -> Tensor:
        windows = mel(wav).unflatten(2, (-1, 2))  # (1, M, F, 2)
        return windows.permute(0, 2, 3, 1).flatten(2)  # (1, F, 2 M)

    def context(wav: Tensor) -> Tensor:
        frames = functional.pad(functional.avg_pool1d(mel(wav), 2), (CONTEXT, CONTEXT))
        return frames.unfold(2, 2 * CONTEXT + 1, 1).permute(0, 2, 1, 3).flatten(2)

    return {"mfcc": mfcc, "log_mel": both_windows, "log_mel_context": context}


def untrained_like(
    teacher: StandardisedTeacher, train: Corpus, seed: int = 0
) -> StandardisedTeacher:
    r"""Return a network of the same sizes with random weights, its features standardised.

    Parameters
    ----------
    teacher
        Whose sizes to take.
    train
        Gives the statistics.
    seed
        Of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(teacher)(teacher.config).eval()
    fresh.set_statistics(wav[None] for _, wav in _loaded(train, 30))
    return fresh.to(device_of(teacher))


def _loaded(corpus: Corpus, count: int) -> Iterator[tuple[int, Tensor]]:
    """Yield number and waveform (1, T) of the first ``count`` utterances, bad files left out."""
    for index in range(min(count, len(corpus))):
        try:
            wav = corpus.load(index)
        except audio.AudioError:
            continue  # the corpus has reported it
        yield index, wav


def all_layers(teacher: StandardisedTeacher) -> FeatureFunction:
    r"""Return a function to all layers at once, (1, F, (L + 1) D): the teacher is run only once."""

    def extract(wav: Tensor) -> Tensor:
        states = torch.stack(
            teacher.hidden_states(wav.to(device_of(teacher))), 2
        )  # (1, F, L + 1, D)
        return ((states - teacher.feature_mean) / teacher.feature_scale).flatten(2)

    return extract


def split_layers(features: Tensor, teacher: StandardisedTeacher) -> dict[str, Tensor]:
    r"""Split (n, (L + 1) D) into layers by name, ``"avg"`` first, each (n, D)."""
    layers = features.unflatten(1, (-1, teacher.dim))  # (n, L + 1, D)
    named = {"avg": layers.mean(1)}
    return named | {str(number): layers[:, number] for number in range(layers.shape[1])}


def probe_phonemes(
    teacher: StandardisedTeacher,
    train: Corpus,
    test: Corpus,
    max_train_frames: int = 40_000,
    max_test_frames: int = 20_000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    r"""Probe a teacher, an untrained one and the baselines for the phoneme of each frame.

    Parameters
    ----------
    teacher
        With statistics set.
    train, test
        Aligned corpora without common speakers or sentences.
    max_train_frames, max_test_frames
        Frames at most, silence left out.
    seed
        Of frames, probe and untrained weights.

    Returns
    -------
    list[dict[str, Any]]
        Rows ``features``, ``layer`` and those of ``ProbeResult``.

    Raises
    ------
    ValueError
        If a speaker or a recording is in both corpora.
    """
    check_speakers(train, [test])
    symbols = sorted({*train.phoneme_set, *test.phoneme_set})

    def collect(extract: FeatureFunction) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        known = phoneme_frames(extract, train, symbols, max_train_frames, seed=seed)
        return *known, *phoneme_frames(extract, test, symbols, max_test_frames, seed=seed)

    return _rows(teacher, train, collect, lambda *parts: linear_probe(*parts, seed=seed), seed)


def probe_words(
    teacher: StandardisedTeacher,
    train: Corpus,
    test: Corpus,
    label: Callable[[Utterance], Any] = lambda utterance: utterance.label,
    seed: int = 0,
) -> list[dict[str, Any]]:
    r"""Probe the same features, pooled over each utterance, for what its label says.

    Parameters
    ----------
    teacher, seed
        As in ``probe_phonemes``.
    train, test
        Corpora without common speakers, e.g. recorded digits.
    label
        Function from an utterance to its label.

    Returns
    -------
    list[dict[str, Any]]
        As ``probe_phonemes``.

    Raises
    ------
    ValueError
        As ``probe_phonemes``.
    """
    check_speakers(train, [test])

    def collect(extract: FeatureFunction) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        names = sorted({str(label(one)) for corpus in (train, test) for one in corpus})
        parts = [pooled_features(extract, corpus, label, names) for corpus in (train, test)]
        return *parts[0], *parts[1]

    def fit(known: Tensor, truth: Tensor, tested: Tensor, expected: Tensor):
        return linear_probe(
            known.flatten(1), truth, tested.flatten(1), expected, epochs=60, seed=seed
        )

    return _rows(teacher, train, collect, fit, seed)


def _rows(
    teacher: StandardisedTeacher, train: Corpus, collect: Callable, fit: Callable, seed: int
) -> list[dict[str, Any]]:
    """Collect and probe the baselines, an untrained network and the teacher, layer by layer."""
    rows = []
    for name, extract in baselines().items():
        rows.append({"features": name, "layer": None, **fit(*collect(extract)).to_dict()})
    networks = {"untrained": untrained_like(teacher, train, seed), "teacher": teacher}
    for name, network in networks.items():
        known, truth, tested, expected = collect(all_layers(network))
        parts = split_layers(known, network), split_layers(tested, network)
        for layer in parts[0]:
            result = fit(parts[0][layer], truth, parts[1][layer], expected)
            rows.append({"features": name, "layer": layer, **result.to_dict()})
    return rows


@torch.no_grad()
def nearest_agreement(
    extract: FeatureFunction, corpus: Corpus, utterances: int = 12, frame_rate: float = 50.0
) -> float:
    r"""Ask how often the nearest frame of another speaker is the same phoneme.

    Parameters
    ----------
    extract
        Function from a waveform (1, 1, T) to features (1, F, D).
    corpus
        Aligned; the first ones are compared, each frame with all frames of other speakers.
    utterances
        How many; time and memory grow with the square.
    frame_rate
        Frames per second of ``extract``.

    Returns
    -------
    float
        Share of the frames that are not silent; ``ValueError`` where fewer than two speakers say
        something. Needs no training and no test part.
    """
    rows, symbols, voices, device = [], [], [], device_of(extract)
    for index, wav in _loaded(corpus, utterances):
        frames = extract(wav[None].to(device))[0].cpu()  # (F, D)
        named = corpus[index].frame_symbols(frame_rate, len(frames))
        spoken = [f for f, symbol in enumerate(named) if symbol != SILENCE]
        rows.append(frames[spoken])
        symbols += [named[f] for f in spoken]
        voices += [corpus[index].speaker_id] * len(spoken)
    names = sorted(set(voices))
    if len(names) < 2:
        raise ValueError(
            f"{corpus.name}: got speech of {len(names)} speakers in the first {utterances} "
            "utterances, expected two or more; hint: more utterances"
        )
    features, voice = torch.cat(rows), torch.tensor([names.index(one) for one in voices])
    apart = torch.cdist(features, features).masked_fill(voice[:, None] == voice, torch.inf)
    nearest = apart.argmin(1).tolist()
    return sum(symbols[f] == symbols[g] for f, g in enumerate(nearest)) / len(symbols)
