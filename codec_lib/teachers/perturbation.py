r"""Say the same in another voice: pitch, formants and colour changed, timing kept.

Spin learns units from pairs of recordings that differ in the speaker only. Such pairs are made, not
found: Praat moves formants, median pitch and pitch range by random ratios, and an equaliser of ten
bands colours the result [Choi et al. 2021, NANSY], [Qian et al. 2022, ContentVec], in the ranges of
Spin's official code [Chang et al. 2023, Spin]. Durations stay, so frames of both are aligned.

Differences: limits of the pitch search come from the recording itself (there is no table of
speakers); what Praat draws at random is seeded too; a failure is never silent. Notebook: 21.
Leaves out: fixed male-to-female mappings of the official validation.
Read next: ``perturbed.py``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from codec_lib import audio
from codec_lib.shapes import check_shape

_log = logging.getLogger(__name__)
_SEARCH = (60.0, 600.0)  # Hz, first search for pitch
_LIMITS = (50.0, 800.0)  # Hz, what the second search may be given
_RING = 1.0  # s after which the narrowest filter has died away


class VoiceError(ValueError):
    r"""Say that Praat could not change a recording, and why: most often nothing is voiced."""


@dataclass(frozen=True)
class PerturbationConfig:
    r"""How far a voice is moved. JSON-able; the defaults are those of Spin's official code.

    Attributes
    ----------
    formant_ratio, pitch_ratio, range_ratio
        Formants, median pitch and pitch range are multiplied by a ratio between 1 and this, or
        divided by it, with equal chance.
    gain_db
        Gains of the equaliser are even in plus or minus this, dB.
    quality
        Qualities Q of its filters, from lowest to highest, even on a logarithmic scale.
    frequencies
        Lowest and highest centre frequency, Hz.
    num_bands
        Centres, evenly spaced in log frequency: the lowest is a low shelf, the highest a high
        shelf, the others are peaks.
    """

    formant_ratio: float = 1.4
    pitch_ratio: float = 2.0
    range_ratio: float = 1.5
    gain_db: float = 12.0
    quality: tuple[float, float] = (2.0, 5.0)
    frequencies: tuple[float, float] = (60.0, 7600.0)
    num_bands: int = 10


@dataclass
class PerturbationReport:
    r"""What became of the recordings that were to be changed.

    Attributes
    ----------
    num_changed
        Recordings whose voice was changed.
    failures
        Those that were only equalised, as ``(name, reason)``.
    """

    num_changed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def failed_share(self) -> float:
        r"""Share of the recordings that were only equalised."""
        return len(self.failures) / max(1, self.num_changed + len(self.failures))


def perturb_voice(
    wav: Tensor,
    sample_rate: int,
    rng: np.random.Generator,
    config: PerturbationConfig | None = None,
    report: PerturbationReport | None = None,
    name: str = "waveform",
    strict: bool = False,
) -> Tensor:
    r"""Change a voice at random: Praat's "Change gender", then an equaliser, then clipping.

    Parameters
    ----------
    wav
        Shape (1, T), float32.
    sample_rate
        Hz.
    rng
        Every random choice; a failure draws as many numbers as a success.
    config
        Ranges.
    report
        Counts the call.
    name
        What to call the recording in the log and the report.
    strict
        True raises where Praat fails, for measurements: an equalised voice is no other voice.

    Returns
    -------
    Tensor
        Shape (1, T), float32, within [-1, 1]. Where Praat fails, the wave is only equalised, which
        is logged and reported, unless ``strict``.

    Raises
    ------
    VoiceError
        If Praat fails and ``strict`` is True; it is reported as well.
    ValueError
        If the shape is another or parselmouth is not installed.
    """
    config, report = config or PerturbationConfig(), report or PerturbationReport()
    check_shape(wav, "1 T", name="wav")
    ratios = [
        _random_ratio(rng, top)
        for top in (config.formant_ratio, config.pitch_ratio, config.range_ratio)
    ]
    seed = int(rng.integers(1, 2**31))
    gains = rng.uniform(-config.gain_db, config.gain_db, config.num_bands)
    low, high = config.quality
    qualities = low * (high / low) ** rng.random(config.num_bands)
    try:
        wav = change_voice(wav, sample_rate, *ratios, seed=seed)
        report.num_changed += 1
    except VoiceError as error:
        report.failures.append((name, str(error)))
        if strict:
            raise
        _log.warning("%s: voice not changed, only equalised: %s", name, error)
    return equalise(wav, sample_rate, gains, qualities, config.frequencies).clamp(-1, 1)


def _random_ratio(rng: np.random.Generator, top: float) -> float:
    """Draw a ratio between 1 and ``top``, or its inverse."""
    ratio = float(rng.uniform(1.0, top))
    return ratio if rng.random() < 0.5 else 1 / ratio


def change_voice(
    wav: Tensor,
    sample_rate: int,
    formant_ratio: float = 1.0,
    pitch_ratio: float = 1.0,
    range_ratio: float = 1.0,
    seed: int = 0,
) -> Tensor:
    r"""Multiply formants, median pitch and pitch range of a recording; durations stay.

    Pitch is searched twice: between 60 and 600 Hz, then between 0.75 times the lower and 1.5 times
    the upper quartile of what was found [De Looze & Hirst 2008]. Official code looks limits up in a
    table of speakers.

    Parameters
    ----------
    wav
        Shape (1, T).
    sample_rate
        Hz.
    formant_ratio, pitch_ratio, range_ratio
        What to multiply by.
    seed
        Of Praat's random numbers: it shifts voiceless parts by random amounts.

    Returns
    -------
    Tensor
        Shape (1, T), float32; may exceed 1.

    Raises
    ------
    VoiceError
        If Praat finds nothing voiced, or the recording is too short for it.
    ValueError
        If parselmouth is not installed.
    """
    parselmouth = _praat()
    call = parselmouth.praat.call
    try:
        sound = parselmouth.Sound(wav[0].double().numpy(), sample_rate)
        pitch = call(sound, "To Pitch", 0.0, *_SEARCH)
        quartiles = [call(pitch, "Get quantile", 0, 0, part, "Hertz") for part in (0.25, 0.75)]
        if not all(map(math.isfinite, quartiles)):
            raise VoiceError("no voiced frames")
        floor, ceiling = max(_LIMITS[0], 0.75 * quartiles[0]), min(_LIMITS[1], 1.5 * quartiles[1])
        pitch = call(sound, "To Pitch", 0.8 / floor, floor, ceiling)
        median = call(pitch, "Get quantile", 0, 0, 0.5, "Hertz")
        if not math.isfinite(median):
            raise VoiceError("no voiced frames")
        parselmouth.praat.run(f"random_initializeWithSeedUnsafelyButPredictably: {seed}")
        ratios = formant_ratio, median * pitch_ratio, range_ratio, 1.0
        changed = call((sound, pitch), "Change gender", *ratios).values[:1]
    except parselmouth.PraatError as error:
        raise VoiceError(" ".join(str(error).split())) from error
    if not np.isfinite(changed).all():
        raise VoiceError("Praat returned samples that are not finite")
    return audio.pad_or_crop(torch.from_numpy(changed).float(), wav.shape[-1])


def _praat():
    """Import parselmouth, or say how to get it."""
    try:
        import parselmouth
        import parselmouth.praat
    except ImportError as error:
        raise ValueError(
            "voices: got no parselmouth, expected praat-parselmouth to be installed. "
            "Hint: pip install codec-lib[voices]"
        ) from error
    return parselmouth


def biquad(
    kind: str, frequency: float, gain_db: float, quality: float, sample_rate: int
) -> tuple[np.ndarray, np.ndarray]:
    r"""Design one band of an equaliser, a filter of second order.

    .. math:: H(z) = \frac{b_0 + b_1 z^{-1} + b_2 z^{-2}}{a_0 + a_1 z^{-1} + a_2 z^{-2}}
              \qquad \text{[Bristow-Johnson, Audio EQ Cookbook]}

    Parameters
    ----------
    kind
        ``"low"`` and ``"high"`` shelf, or ``"peak"``.
    frequency, gain_db, quality
        Centre (of a shelf: middle of the slope), Hz; gain there (of a shelf: beyond it), dB; Q.
    sample_rate
        Hz.

    Returns
    -------
    tuple[np.ndarray, np.ndarray]
        b and a, shape (3,) each.
    """
    gain, angle = 10 ** (gain_db / 40), 2 * math.pi * frequency / sample_rate
    cosine, alpha = math.cos(angle), math.sin(angle) / (2 * quality)
    if kind == "peak":
        b = [1 + alpha * gain, -2 * cosine, 1 - alpha * gain]
        return np.array(b), np.array([1 + alpha / gain, -2 * cosine, 1 - alpha / gain])
    side = {"low": 1, "high": -1}[kind]
    more, less, slope = gain + 1, side * (gain - 1), 2 * math.sqrt(gain) * alpha
    b = [more - less * cosine + slope, 2 * (less - more * cosine), more - less * cosine - slope]
    a = [more + less * cosine + slope, -2 * (less + more * cosine), more + less * cosine - slope]
    return gain * np.array(b), np.array(a)


def equalise(
    wav: Tensor,
    sample_rate: int,
    gains_db: Sequence[float],
    qualities: Sequence[float],
    frequencies: tuple[float, float] = (60.0, 7600.0),
) -> Tensor:
    r"""Colour a recording with a chain of biquads at centres evenly spaced in log frequency.

    The response of the chain multiplies the spectrum of the recording with a second of zeros behind
    it, in which the filters die away: one transform instead of ten recursions.

    Parameters
    ----------
    wav
        Shape (1, T).
    sample_rate
        Hz.
    gains_db, qualities
        dB and Q of each band; at least two bands.
    frequencies
        Lowest and highest centre, Hz; the highest is kept below 0.95 times half the sample rate.

    Returns
    -------
    Tensor
        Shape (1, T), float32; may exceed 1.
    """
    bands, length = len(gains_db), wav.shape[-1]
    top = min(frequencies[1], 0.475 * sample_rate)
    kinds = ["low", *["peak"] * (bands - 2), "high"]
    size = length + round(_RING * sample_rate)
    size += -size % 4096  # sizes of few prime factors transform fast
    delay = np.exp(-2j * math.pi * np.arange(size // 2 + 1) / size)  # z^-1 at each bin
    response = np.ones_like(delay)
    centres = np.geomspace(frequencies[0], top, bands)
    for band in zip(kinds, centres, gains_db, qualities, strict=True):
        b, a = biquad(*band, sample_rate)
        response *= np.polyval(b[::-1], delay) / np.polyval(a[::-1], delay)
    spectrum = torch.fft.rfft(wav.double(), n=size) * torch.from_numpy(response)
    return torch.fft.irfft(spectrum, n=size)[..., :length].float()


def shift_pitch(
    wav: Tensor, sample_rate: int, rng: np.random.Generator, ratio: float = 1.3
) -> Tensor:
    r"""Multiply or divide the pitch by a ratio; formants and durations stay.

    Parameters
    ----------
    wav, sample_rate, rng
        As in ``perturb_voice``.
    ratio
        Of the median pitch; rng chooses the direction.

    Returns
    -------
    Tensor
        Shape (1, T), within [-1, 1].

    Raises
    ------
    VoiceError
        If nothing is voiced: there is no pitch to shift.
    """
    seed, upwards = int(rng.integers(1, 2**31)), rng.random() < 0.5
    factor = ratio if upwards else 1 / ratio
    return change_voice(wav, sample_rate, pitch_ratio=factor, seed=seed).clamp(-1, 1)


def add_noise(
    wav: Tensor, sample_rate: int, rng: np.random.Generator, snr_db: float = 10.0
) -> Tensor:
    r"""Add white noise.

    Parameters
    ----------
    wav, sample_rate, rng
        As in ``perturb_voice``; the rate makes no difference.
    snr_db
        Power of the recording over that of the noise, dB.

    Returns
    -------
    Tensor
        Shape (1, T), within [-1, 1].
    """
    noise = torch.from_numpy(rng.standard_normal(wav.shape)).float()
    level = wav.square().mean().sqrt() * 10 ** (-snr_db / 20)
    return (wav + level * noise).clamp(-1, 1)


def reverberate(
    wav: Tensor,
    sample_rate: int,
    rng: np.random.Generator,
    seconds: float = 0.4,
    direct_db: float = 0.0,
) -> Tensor:
    r"""Put a recording into a room: noise that decays exponentially follows every sample.

    Parameters
    ----------
    wav, sample_rate, rng
        As in ``perturb_voice``.
    seconds
        Time in which the reverberation falls by 60 dB.
    direct_db
        Energy of the direct sound over that of the reverberation, dB.

    Returns
    -------
    Tensor
        Shape (1, T), at the level of the input, within [-1, 1]; the direct sound is not delayed.
    """
    count = max(1, round(seconds * sample_rate))
    decay = 10 ** (-3 * np.arange(count) / count)  # -60 dB of energy at the end
    room = torch.from_numpy(rng.standard_normal(count) * decay)
    room *= 10 ** (-direct_db / 20) / room.norm()
    room = torch.cat([torch.ones(1, dtype=room.dtype), room])
    size = wav.shape[-1] + count
    product = torch.fft.rfft(wav.double(), n=size) * torch.fft.rfft(room, n=size)
    wet = torch.fft.irfft(product, n=size)[..., : wav.shape[-1]].float()
    return (wet * (wav.norm() / wet.norm().clamp_min(1e-9))).clamp(-1, 1)
