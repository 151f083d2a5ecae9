r"""How close a codec's output is to its input: mel distance, SI-SDR, STOI, PESQ.

==============  ======================================================  =======================
metric          what it says                                            range
==============  ======================================================  =======================
mel_distance    spectral envelope: mean difference of log-mel values    0 equal; 0.5 audible
si_sdr          waveform, up to a gain [Le Roux et al. 2019]            dB; a codec may be < 0
stoi            intelligibility [Taal et al. 2011]                      0 to 1
pesq            quality, wide band [ITU-T P.862.2]                      1.04 to 4.64
==============  ======================================================  =======================

A metric that cannot be computed (silence, too short) is NaN and is counted, never replaced by a
bad value. Notebook: 10_speechtokenizer. Leaves out: metrics that need a downloaded model.
Read next: ``results.py``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from codec_lib import audio
from codec_lib.codecs.base import Codec
from codec_lib.data import Corpus
from codec_lib.losses.mel import MelScale, MelSpectrogram, mel_recipe
from codec_lib.shapes import check_shape

from .results import summarise

METRICS = ("mel_distance", "si_sdr", "stoi", "pesq")
_RATE = 16000  # Hz at which wide-band PESQ is defined
_FLOOR = 1e-5  # magnitude: below it log-mel values count as silence


@lru_cache(maxsize=4)
def _mel(sample_rate: int) -> MelSpectrogram:
    """Make the mel transform of ``mel_distance`` once."""
    scale = MelScale(n_fft=1024, hop_length=256, n_mels=80)
    return MelSpectrogram(scale, mel_recipe("official", scales=(scale,)), sample_rate)


def mel_distance(reference: Tensor, estimate: Tensor, sample_rate: int) -> float:
    r"""Return the mean absolute difference of two log-mel spectrograms.

    .. math:: \frac{1}{F M} \sum_{f,m} \left| \log \max(X_{fm}, 10^{-5})
              - \log \max(\hat X_{fm}, 10^{-5}) \right|

    X are magnitudes of a 1024-sample Hann window every 256 samples through 80 mel filters (HTK
    scale, equal area), as in the first scale of the official mel loss; natural logarithm.

    Parameters
    ----------
    reference, estimate
        Shape (1, T), the same T.
    sample_rate
        Hz.

    Returns
    -------
    float
        0 for equal signals; doubling the level gives 0.69.
    """
    with torch.no_grad():
        both = torch.stack([reference, estimate])  # (2, 1, T)
        short = max(0, 1024 - both.shape[-1])
        log_mel = (
            _mel(sample_rate)(torch.nn.functional.pad(both, (0, short))).clamp_min(_FLOOR).log()
        )
        return float((log_mel[0] - log_mel[1]).abs().mean())


def si_sdr(reference: Tensor, estimate: Tensor) -> float:
    r"""Return the scale-invariant signal-to-distortion ratio.

    .. math:: 10 \log_{10} \frac{\|\alpha s\|^2}{\|\hat s - \alpha s\|^2}, \quad
              \alpha = \frac{\langle \hat s, s \rangle}{\|s\|^2}
              \qquad \text{[Le Roux et al. 2019], Eq. (5)}

    Parameters
    ----------
    reference, estimate
        Shape (1, T); the mean of each is removed.

    Returns
    -------
    float
        dB; infinite for equal signals, minus infinite for a silent estimate, NaN for a silent
        reference.
    """
    target = reference.double() - reference.double().mean()
    given = estimate.double() - estimate.double().mean()
    energy = target.square().sum()
    if float(energy) <= 0:
        return math.nan
    scaled = (given * target).sum() / energy * target  # alpha s
    noise = (given - scaled).square().sum()
    signal = scaled.square().sum()
    if float(signal) <= 0:
        return -math.inf
    return math.inf if float(noise) <= 1e-20 * float(energy) else _decibel(signal / noise)


def _decibel(ratio: Tensor) -> float:
    """Return a ratio of energies in dB."""
    return float(10 * torch.log10(ratio))


def stoi(reference: Tensor, estimate: Tensor, sample_rate: int) -> float:
    r"""Return the short-time objective intelligibility, by ``pystoi``; NaN where it fails.

    Parameters
    ----------
    reference, estimate
        Shape (1, T).
    sample_rate
        Hz; resampled to 10 kHz within.

    Returns
    -------
    float
        0 to 1; NaN where less than 0.4 s of the reference is speech.
    """
    from pystoi import stoi as published  # slow to import

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = float(published(reference[0].numpy(), estimate[0].numpy(), sample_rate))
        except (ValueError, IndexError):
            return math.nan
    too_short = any("Not enough STFT frames" in str(one.message) for one in caught)
    return math.nan if too_short or not math.isfinite(value) else value


def pesq_wideband(reference: Tensor, estimate: Tensor, sample_rate: int) -> float:
    r"""Return wide-band PESQ, by ``pesq``; NaN where it fails.

    Parameters
    ----------
    reference, estimate
        Shape (1, T).
    sample_rate
        Hz; resampled to 16 kHz where it is another.

    Returns
    -------
    float
        1.04 to 4.64; NaN where it finds no speech or less than a quarter of a second.
    """
    from pesq import PesqError, pesq

    if sample_rate != _RATE:
        reference = audio.resample(reference, sample_rate, _RATE)
        estimate = audio.resample(estimate, sample_rate, _RATE)
    try:
        with np.errstate(invalid="ignore", divide="ignore"):  # it divides by the peak of silence
            return float(pesq(_RATE, reference[0].numpy(), estimate[0].numpy(), "wb"))
    except (PesqError, ValueError):  # no utterances, too short; NaN inside for a silent estimate
        return math.nan


def reconstruction_metrics(
    reference: Tensor, estimate: Tensor, sample_rate: int, metrics: Sequence[str] = METRICS
) -> dict[str, float]:
    r"""Compare a reconstruction with the original.

    Parameters
    ----------
    reference, estimate
        Shape (1, T), float32, on the CPU.
    sample_rate
        Hz.
    metrics
        Which of ``METRICS``. For a second of audio mel distance and SI-SDR take about 1 ms, STOI
        and PESQ 9 ms each.

    Returns
    -------
    dict[str, float]
        By name; NaN where it cannot be computed.

    Raises
    ------
    ValueError
        If the shapes differ, a metric is unknown or the estimate is not finite.
    """
    sizes = check_shape(reference, "1 T", name="reference")
    check_shape(estimate, "1 T", name="estimate", T=sizes["T"])
    unknown = set(metrics) - set(METRICS)
    if unknown:
        raise ValueError(f"metrics: got {sorted(unknown)}, expected some of {list(METRICS)}")
    if not bool(torch.isfinite(estimate).all()):
        raise ValueError("estimate: got NaN or infinite samples, expected finite ones")
    measure: dict[str, Callable[[], float]] = {
        "mel_distance": lambda: mel_distance(reference, estimate, sample_rate),
        "si_sdr": lambda: si_sdr(reference, estimate),
        "stoi": lambda: stoi(reference, estimate, sample_rate),
        "pesq": lambda: pesq_wideband(reference, estimate, sample_rate),
    }
    return {name: measure[name]() for name in metrics}


def codec_scores(
    codec: Codec,
    corpus: Corpus,
    n_q: Sequence[int] = (1, 2, 4, 8),
    max_utterances: int | None = None,
    max_seconds: float | None = 6.0,
    metrics: Sequence[str] = METRICS,
) -> dict[int, dict[str, np.ndarray]]:
    r"""Measure a codec utterance by utterance; see ``evaluate_codec`` for the arguments.

    Parameters
    ----------
    codec, corpus, n_q, max_utterances, max_seconds, metrics
        As in ``evaluate_codec``.

    Returns
    -------
    dict[int, dict[str, np.ndarray]]
        By number of codebooks and metric: one value per utterance that could be read. Two codecs
        measured on the same corpus can be compared utterance by utterance.
    """
    if not n_q or min(n_q) < 1 or max(n_q) > codec.num_quantizers:
        raise ValueError(f"n_q: got {list(n_q)}, expected some of 1 to {codec.num_quantizers}")
    found: dict[int, dict[str, list[float]]] = {n: {m: [] for m in metrics} for n in n_q}
    for wav in utterances(codec, corpus, max_utterances, max_seconds):
        codes = codec.encode(wav[None].to(codec.device), n_q=max(n_q))
        for count in n_q:
            made = codec.decode(codes.select(range(count)))[0].cpu()  # (1, T)
            row = reconstruction_metrics(wav, made, codec.sample_rate, metrics)
            for name, value in row.items():
                found[count][name].append(value)
    return {n: {m: np.asarray(v) for m, v in row.items()} for n, row in found.items()}


def evaluate_codec(
    codec: Codec,
    corpus: Corpus,
    n_q: Sequence[int] = (1, 2, 4, 8),
    max_utterances: int | None = None,
    max_seconds: float | None = 6.0,
    metrics: Sequence[str] = METRICS,
) -> list[dict[str, float]]:
    r"""Measure how well a codec reconstructs a corpus, by number of codebooks.

    Parameters
    ----------
    codec
        In eval mode.
    corpus
        Speech the codec was not trained on, at its sample rate.
    n_q
        Numbers of codebooks.
    max_utterances
        Utterances to use, spread evenly over the corpus; None for all.
    max_seconds
        Only the beginning of each is used; None for all of it.
    metrics
        Which of ``METRICS``.

    Returns
    -------
    list[dict[str, float]]
        A row per number of codebooks: ``n_q``, ``bitrate`` (bit/s), ``utterances``, and for each
        metric its mean, ``_low`` and ``_high`` (95 % bootstrap interval over utterances) and
        ``_failures`` (utterances without a value, left out of the mean).

    Raises
    ------
    ValueError
        If the sample rates differ, or a number of codebooks or a metric does not exist.
    """
    scores = codec_scores(codec, corpus, n_q, max_utterances, max_seconds, metrics)
    rows = []
    for count, by_metric in scores.items():
        row = {"n_q": count, "bitrate": float(codec.bitrate(count))}
        row["utterances"] = len(next(iter(by_metric.values()), ()))
        for name, values in by_metric.items():
            row |= summarise(values, name)
        rows.append(row)
    return rows


def utterances(
    codec: Codec,
    corpus: Corpus,
    max_utterances: int | None = None,
    max_seconds: float | None = 6.0,
) -> Iterator[Tensor]:
    r"""Yield the beginnings (1, T) of utterances spread evenly over a corpus.

    Parameters
    ----------
    codec, corpus, max_utterances, max_seconds
        As in ``evaluate_codec``. What cannot be read is left out; the corpus reports it.

    Raises
    ------
    ValueError
        If the sample rates differ.
    """
    if codec.sample_rate != corpus.sample_rate:
        raise ValueError(
            f"{corpus.name}: got {corpus.sample_rate} Hz, expected the codec's {codec.sample_rate} "
            f"Hz; hint: corpus(name, sample_rate={codec.sample_rate})"
        )
    samples = None if max_seconds is None else int(max_seconds * codec.sample_rate)
    for index in spread_indices(len(corpus), max_utterances):
        try:
            yield corpus.load(index, 0, samples)
        except audio.AudioError:
            continue


def spread_indices(count: int, wanted: int | None) -> list[int]:
    """Choose indices spread evenly over ``count``."""
    if wanted is None or wanted >= count:
        return list(range(count))
    if wanted < 1:
        raise ValueError(f"max_utterances: got {wanted}, expected at least 1 or None")
    return [int(position * count / wanted) for position in range(wanted)]
