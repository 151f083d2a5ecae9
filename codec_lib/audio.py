r"""The only file that reads, writes, resamples or levels audio.

Everything enters as a float32 tensor (1, T) in [-1, 1] and leaves as 16-bit PCM. What happens to
audio that is not as it should be:

======================  ==========================================================================
input                   behaviour
======================  ==========================================================================
unreadable, not audio   ``AudioError`` naming the file and the decoder's reason
cut off                 ``AudioError``: fewer samples than the header promises
empty (0 samples)       ``AudioError``
NaN or infinite         ``AudioError`` with the number of such samples
stereo, more channels   mean of the channels
wrong sample rate       resampled: Kaiser-windowed sinc, linear phase, so labels stay in place
too short               ``read`` returns what there is; ``pad_or_crop`` fills up with zeros
louder than 1           ``read`` keeps it; ``write`` raises unless told ``over="limit"``
======================  ==========================================================================

Resampling is J. O. Smith, Digital Audio Resampling, with the "Kaiser best" constants of resampy.
Used by notebook 01. Leaves out: dither, loudness in LUFS, effects.
Read next: ``data/utterances.py``.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor

# "Kaiser best" of resampy: 64 zero crossings, stop band below -100 dB, pass band to 0.947 Nyquist.
_ZERO_CROSSINGS, _ROLLOFF, _BETA = 64, 0.9475937167399596, 14.769656459379492
_MAX_KERNEL = 50_000_000  # filter values (200 MB); rates with a tiny common divisor need more
_SILENCE = 1e-10  # mean square at which audio counts as digital silence (-100 dB)


class AudioError(ValueError):
    r"""Say that an audio file, named in the message, cannot be used and why."""


@dataclass(frozen=True)
class AudioInfo:
    r"""What a file's header says: Hz, samples per channel at that rate, number of channels."""

    sample_rate: int
    num_samples: int
    channels: int


def read_info(path: str | Path) -> AudioInfo:
    r"""Read a file's header, without decoding the audio.

    Parameters
    ----------
    path
        Any format that libsndfile reads: wav, flac, ogg, opus, mp3.

    Returns
    -------
    AudioInfo
        Rate, length and channels.

    Raises
    ------
    AudioError
        If there is no such file, it is not audio, or it holds no samples.
    """
    with _opened(path) as file:
        return AudioInfo(file.samplerate, file.frames, file.channels)


def read(
    path: str | Path, sample_rate: int | None = None, start: int = 0, num_samples: int | None = None
) -> Tensor:
    r"""Read audio, or a part of it, as mono at a chosen rate.

    A part is decoded alone and equals the same part of the whole file, also where it is resampled.

    Parameters
    ----------
    path
        Any format that libsndfile reads.
    sample_rate
        Hz of the result; None keeps the file's own.
    start
        First sample, counted at the rate of the result.
    num_samples
        Samples to read at that rate; None reads to the end. Fewer come back where the file ends.

    Returns
    -------
    Tensor
        Shape (1, T), float32.

    Raises
    ------
    AudioError
        If the file is unreadable, cut off, empty, or holds NaN or infinite samples.
    ValueError
        If ``start`` is negative or behind the end, or ``num_samples`` is below 1.
    """
    with _opened(path) as file:
        rate = sample_rate or file.samplerate
        length = resampled_length(file.frames, file.samplerate, rate)
        if not 0 <= start < length or (num_samples is not None and num_samples < 1):
            raise ValueError(
                f"{path}: got start={start}, num_samples={num_samples}, expected num_samples >= 1 "
                f"and 0 <= start < {length}, its samples at {rate} Hz"
            )
        end = length if num_samples is None else min(length, start + num_samples)
        up, down = _ratio(file.samplerate, rate)
        # Whole blocks of `down` source samples become `up` result samples each; the margin covers
        # the filter on both sides, so that the part equals the same part of the whole file.
        margin = 0 if up == down else math.ceil(_half_width(up, down) / down) + 1
        first = max(0, start // up - margin)
        last = min(file.frames, (-(-end // up) + margin) * down)
        wav, source_rate = _decode(file, path, first * down, last), file.samplerate  # (1, T)
    try:
        return resample(wav, source_rate, rate)[:, start - first * up : end - first * up]
    except ValueError as error:
        raise AudioError(f"{path}: {error}") from error


def read_blocks(path: str | Path, block: int, sample_rate: int | None = None) -> Iterator[Tensor]:
    r"""Read a long file piece by piece, in memory bounded by the piece.

    Parameters
    ----------
    path
        Any format that libsndfile reads.
    block
        Samples of each piece at the rate of the result; the last piece may be shorter.
    sample_rate
        Hz of the result; None keeps the file's own.

    Yields
    ------
    Tensor
        Shape (1, block), float32. The pieces one after the other equal ``read(path, sample_rate)``.

    Raises
    ------
    AudioError, ValueError
        As ``read``; if ``block`` is below 1.
    """
    if block < 1:
        raise ValueError(f"block: got {block}, expected at least one sample")
    info = read_info(path)
    rate = sample_rate or info.sample_rate
    for start in range(0, resampled_length(info.num_samples, info.sample_rate, rate), block):
        yield read(path, rate, start, block)


def write(path: str | Path, wav: Tensor, sample_rate: int, over: str = "raise") -> None:
    r"""Write mono audio as 16-bit PCM; the suffix chooses wav or flac.

    A sample x becomes round(32768 x), so that 16-bit audio comes back exactly as it was.

    Parameters
    ----------
    path
        File to write; missing folders are made.
    wav
        Shape (T,) or (1, T) or (1, 1, T), float, in [-1, 1].
    sample_rate
        Hz.
    over
        What to do with samples beyond 1 in magnitude: ``"raise"``, or ``"limit"`` to clip them.

    Raises
    ------
    ValueError
        If the shape or ``over`` is wrong, a sample is NaN or infinite, or one is beyond 1.
    """
    target = Path(path)
    form = target.suffix.lower()
    if form not in (".wav", ".flac"):
        raise ValueError(f"{path}: got suffix {form!r}, expected '.wav' or '.flac'")
    samples = to_int16(wav, over=over, name=str(path))
    packed = io.BytesIO()  # soundfile would wait for the disk after every file
    soundfile.write(packed, samples, sample_rate, subtype="PCM_16", format=form[1:])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(packed.getvalue())


def to_int16(wav: Tensor, over: str = "raise", name: str = "wav") -> np.ndarray:
    r"""Turn float audio (..., T) of one channel into int16 samples (T,), as ``write`` does.

    Parameters
    ----------
    wav, over
        As for ``write``.
    name
        What to call it in an error.

    Raises
    ------
    ValueError
        As ``write``.
    """
    if over not in ("raise", "limit"):
        raise ValueError(f"over: got {over!r}, expected 'raise' or 'limit'")
    flat = torch.as_tensor(wav).detach().cpu().double().reshape(-1)
    if flat.numel() == 0 or flat.numel() != wav.shape[-1]:
        raise ValueError(
            f"{name}: got shape {tuple(wav.shape)}, expected one channel, (1, T), T > 0"
        )
    if not torch.isfinite(flat).all():
        raise ValueError(f"{name}: got NaN or infinite samples, expected finite audio in [-1, 1]")
    peak = float(flat.abs().max())
    if peak > 1.0 and over == "raise":
        raise ValueError(
            f"{name}: got a peak of {peak:.3f}, expected at most 1. "
            "Hint: peak_guard(wav) scales it, over='limit' clips it."
        )
    return (flat * 32768).round().clamp(-32768, 32767).to(torch.int16).numpy()


def resampled_length(num_samples: int, from_rate: int, to_rate: int) -> int:
    r"""Return how many samples ``resample`` makes of ``num_samples``: ceil(T · to / from).

    Parameters
    ----------
    num_samples, from_rate, to_rate
        Samples T, and the two rates in Hz.
    """
    up, down = _ratio(from_rate, to_rate)
    return -(-num_samples * up // down)


def resample(wav: Tensor, from_rate: int, to_rate: int) -> Tensor:
    r"""Change the sample rate with a linear-phase filter, so that nothing moves in time.

    Parameters
    ----------
    wav
        Shape (..., T), float32 or float64; carries gradient. The filter needs more than 16 bits.
    from_rate, to_rate
        Hz.

    Returns
    -------
    Tensor
        Shape (..., ceil(T · to_rate / from_rate)), same dtype. The same tensor for equal rates.

    Raises
    ------
    TypeError, ValueError
        If the dtype is another; if a rate is below 1, or the two have so small a common divisor
        that the filter would need gigabytes (e.g. 44,099 and 16,000).

    Examples
    --------
    >>> resample(torch.zeros(1, 22050), 22050, 16000).shape
    torch.Size([1, 16000])
    """
    if from_rate == to_rate:
        return wav
    if wav.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"wav: got {wav.dtype}, expected float32 or float64. Hint: wav.float()")
    up, down = _ratio(from_rate, to_rate)
    if up * (down + 2 * _half_width(up, down)) > _MAX_KERNEL:
        raise ValueError(
            f"sample rates: got {from_rate} -> {to_rate}, expected a larger common divisor. "
            "Hint: declare the nearest common rate (16000, 22050, 44100, 48000)."
        )
    bank, length = _resampler(up, down, wav.dtype, wav.device), wav.shape[-1]
    made, wanted = bank(wav), resampled_length(length, from_rate, to_rate)
    if made.shape[-1] < wanted:  # torchaudio counts in float32, which is not exact for long files
        made = bank(pad_or_crop(wav, length + down * (2 + length // 2**20)))
    return made[..., :wanted]


def rms_db(wav: Tensor) -> Tensor:
    r"""Return the level in dB below full scale, 10 log10(mean x²), over the last axis.

    Parameters
    ----------
    wav
        Shape (..., T).

    Returns
    -------
    Tensor
        Shape (...), dB; -100 for digital silence.

    Examples
    --------
    >>> round(float(rms_db(torch.full((1, 100), 0.1))), 3)
    -20.0
    """
    return 10 * torch.log10(wav.double().square().mean(-1).clamp_min(_SILENCE)).to(torch.float32)


def set_level(wav: Tensor, db: float) -> Tensor:
    r"""Scale audio to a level; digital silence stays silence.

    Parameters
    ----------
    wav
        Shape (..., T).
    db
        Target of ``rms_db``, dB below full scale, e.g. -23.

    Returns
    -------
    Tensor
        Same shape. It may exceed 1: see ``peak_guard``.
    """
    level = rms_db(wav)[..., None]
    gain = torch.where(level > -99.9, 10 ** ((db - level) / 20), torch.ones_like(level))
    return wav * gain.to(wav.dtype)


def peak_guard(wav: Tensor, peak: float = 0.99) -> Tensor:
    r"""Scale audio (..., T) down to a peak where it is louder; leave it alone where it is not."""
    highest = wav.abs().amax(-1, keepdim=True)
    return wav * (peak / highest.clamp_min(peak))


def pad_or_crop(wav: Tensor, num_samples: int) -> Tensor:
    r"""Make audio exactly ``num_samples`` long: zeros at the end, or the end cut off.

    Parameters
    ----------
    wav
        Shape (..., T).
    num_samples
        Samples wanted.

    Returns
    -------
    Tensor
        Shape (..., num_samples).
    """
    missing = num_samples - wav.shape[-1]
    return torch.nn.functional.pad(wav, (0, missing)) if missing > 0 else wav[..., :num_samples]


@contextmanager
def _opened(path: str | Path) -> Iterator[soundfile.SoundFile]:
    """Open a file that holds audio; whatever libsndfile says becomes an error naming the file."""
    try:
        with soundfile.SoundFile(str(path)) as file:
            if file.frames <= 0:
                raise AudioError(f"{path}: got 0 samples, expected audio. Hint: the file is empty.")
            yield file
    except (OSError, RuntimeError) as error:
        reason = str(error) if Path(path).is_file() else "there is no such file"
        raise AudioError(
            f"{path}: got unreadable audio ({reason}), expected wav, flac, ogg or mp3"
        ) from error


def _decode(file: soundfile.SoundFile, path: str | Path, start: int, end: int) -> Tensor:
    """Decode samples [start, end); mean over channels, (1, T); check what came back."""
    file.seek(start)
    samples = file.read(end - start, dtype="float32", always_2d=True)  # (T, C)
    if len(samples) < end - start:
        raise AudioError(f"{path}: got {len(samples)} samples, expected {end - start}: cut off")
    bad = samples.size - int(np.isfinite(samples).sum())
    if bad:
        raise AudioError(f"{path}: got {bad} NaN or infinite samples, expected finite audio")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(1, dtype=np.float32)
    return torch.from_numpy(mono)[None]


def _ratio(from_rate: int, to_rate: int) -> tuple[int, int]:
    """Return (up, down), the ratio of two rates in lowest terms."""
    if from_rate < 1 or to_rate < 1:
        raise ValueError(f"sample rates: got {from_rate} and {to_rate}, expected at least 1 Hz")
    divisor = math.gcd(from_rate, to_rate)
    return to_rate // divisor, from_rate // divisor


def _half_width(up: int, down: int) -> int:
    """Return the filter's half width in source samples."""
    return math.ceil(_ZERO_CROSSINGS * down / (min(up, down) * _ROLLOFF))


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept may be asked for with gradient later
def _resampler(
    up: int, down: int, dtype: torch.dtype, device: torch.device
) -> torchaudio.transforms.Resample:
    """Make (once per ratio and device) the filter bank."""
    return torchaudio.transforms.Resample(
        down, up, "sinc_interp_kaiser", _ZERO_CROSSINGS, _ROLLOFF, _BETA, dtype=dtype
    ).to(device)
