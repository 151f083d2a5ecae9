r"""Pictures of sound: waveforms and spectrograms, with one colour range across a comparison.

The charts of ``charts.py`` are offered here too. Every function returns a ``Figure``, shown by
``nb.show(plotting.waveform(...), alt="...")``. Notebook: all of them. Leaves out: players and
tables (``cells.py``), live controls (``widgets.py``). Read next: ``widgets.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torchaudio
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from codec_lib.charts import (
    COLORMAP,
    PALETTE,
    WIDTH,
    bars,
    code_raster,
    codebook_usage,
    curves,
    flat,
    intervals,
    new,
    numbers,
    on,
    scatter,
    unit_table,
    use_style,
)
from codec_lib.panels import matrices, plane, points, sequence

__all__ = [
    "COLORMAP",
    "PALETTE",
    "WIDTH",
    "bars",
    "code_raster",
    "codebook_usage",
    "curves",
    "decibels",
    "intervals",
    "mark_phonemes",
    "mark_words",
    "matrices",
    "mel_db",
    "mel_with_pitch",
    "new",
    "numbers",
    "plane",
    "points",
    "scatter",
    "sequence",
    "spectrogram_db",
    "spectrograms",
    "unit_table",
    "use_style",
    "waveform",
]

FLOOR = 1e-5  # smallest magnitude before the logarithm: -100 dB


def waveform(
    wav: Tensor,
    sample_rate: int,
    phonemes: Sequence[Any] = (),
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    r"""Draw a waveform over time, with phoneme boundaries where they are known.

    Parameters
    ----------
    wav
        Samples in [-1, 1], any shape with T elements.
    sample_rate
        In Hz.
    phonemes
        Objects with ``symbol``, ``start`` and ``end`` (samples).
    title
        Above the axes.
    ax
        Axes to draw into; None makes a figure.

    Returns
    -------
    Figure
        The figure drawn into.
    """
    samples = flat(wav)
    fig, ax = on(ax, height=2.2)
    ax.plot(np.arange(len(samples)) / sample_rate, samples, linewidth=0.5, color=PALETTE[0])
    peak = max(float(np.abs(samples).max(initial=0.0)), 1e-3)
    ax.set(xlabel="time (s)", ylabel="amplitude (1 = full)", title=title)
    ax.set(
        xlim=(0, len(samples) / sample_rate),
        ylim=(-1.15 * peak, 1.35 * peak if phonemes else 1.15 * peak),
    )
    mark_phonemes(ax, phonemes, sample_rate)
    return fig


def mark_phonemes(
    ax: Axes,
    phonemes: Sequence[Any],
    sample_rate: int,
    color: str = "#444444",
    fontsize: float = 8,
) -> None:
    r"""Draw phoneme boundaries as thin lines and write each symbol in its middle.

    Parameters
    ----------
    ax
        Axes whose x axis is time in seconds.
    phonemes
        Objects with ``symbol``, ``start`` and ``end`` (samples).
    sample_rate
        In Hz.
    color
        Of lines and symbols.
    fontsize
        Of the symbols, in points.
    """
    left, right = (limit * sample_rate for limit in ax.get_xlim())
    for phoneme in phonemes:
        if phoneme.end <= left or phoneme.start >= right:
            continue
        ax.axvline(phoneme.start / sample_rate, color=color, linewidth=0.4, alpha=0.7)
        middle = (max(phoneme.start, left) + min(phoneme.end, right)) / 2 / sample_rate
        ax.text(
            middle,
            0.98,
            phoneme.symbol,
            transform=ax.get_xaxis_transform(),
            **{"ha": "center", "va": "top", "fontsize": fontsize, "color": color, "clip_on": True},
        )


def mark_words(ax: Axes, words: Sequence[Any], sample_rate: int) -> None:
    r"""Draw words as coloured blocks and write each into what is seen of its block, if it fits.

    Parameters
    ----------
    ax
        Axes as wide as the figure whose x axis is time in seconds; the y axis becomes 0 to 1,
        without ticks.
    words
        Objects with ``text``, ``start`` and ``end`` (samples), e.g. of ``data.words.word_times``.
    sample_rate
        In Hz.
    """
    left, right = ax.get_xlim()
    ax.set(ylim=(0, 1), yticks=[])
    for number, word in enumerate(words):
        start, end = max(word.start / sample_rate, left), min(word.end / sample_rate, right)
        if start >= end:
            continue
        ax.axvspan(start, end, color=PALETTE[number % 6], alpha=0.3, linewidth=0)
        if end - start > 0.0085 * len(word.text) * (right - left):  # width of a letter
            ax.text((start + end) / 2, 0.5, word.text, ha="center", va="center")


@lru_cache(maxsize=16)
def _mel_transform(
    sample_rate: int, n_fft: int, hop_length: int, n_mels: int, mel_scale: str
) -> torchaudio.transforms.MelSpectrogram:
    return torchaudio.transforms.MelSpectrogram(
        sample_rate=sample_rate,
        n_fft=n_fft,
        hop_length=hop_length,
        n_mels=n_mels,
        power=1.0,
        norm="slaney" if mel_scale == "slaney" else None,
        mel_scale=mel_scale,
    )


def decibels(magnitude: Tensor) -> Tensor:
    """Return 20 log10 of a magnitude, floored at -100 dB."""
    return 20.0 * torch.log10(magnitude.clamp_min(FLOOR))


def spectrogram_db(wav: Tensor, n_fft: int = 512, hop_length: int = 128) -> Tensor:
    r"""Return the short-time Fourier transform in dB; a full-scale sine peaks at 0 dB.

    Parameters
    ----------
    wav
        Samples in [-1, 1], any shape with T elements.
    n_fft, hop_length
        Window and hop in samples.

    Returns
    -------
    Tensor
        Shape (n_fft // 2 + 1, F).
    """
    samples = torch.as_tensor(flat(wav))
    window = torch.hann_window(n_fft)
    stft = torch.stft(samples, n_fft, hop_length, window=window, return_complex=True)  # (bins, F)
    return decibels(stft.abs() / (window.sum() / 2))  # a sine of amplitude 1 has |X| = sum(w) / 2


def mel_db(
    wav: Tensor,
    sample_rate: int,
    n_fft: int = 1024,
    hop_length: int = 256,
    n_mels: int = 80,
    mel_scale: str = "htk",
) -> Tensor:
    r"""Return the mel magnitude spectrogram in dB.

    Parameters
    ----------
    wav
        Samples in [-1, 1], any shape with T elements.
    sample_rate
        In Hz.
    n_fft, hop_length
        Window and hop in samples.
    n_mels
        Mel bins M.
    mel_scale
        ``htk``, or ``slaney`` with filters of equal area.

    Returns
    -------
    Tensor
        Shape (M, F).
    """
    transform = _mel_transform(sample_rate, n_fft, hop_length, n_mels, mel_scale)
    return decibels(transform(torch.as_tensor(flat(wav))))


def spectrograms(
    wavs: Mapping[str, Tensor],
    sample_rate: int,
    kind: str = "stft",
    range_db: float = 70.0,
    phonemes: Sequence[Any] = (),
    columns: int | None = None,
    **options: Any,
) -> Figure:
    r"""Draw spectrograms side by side with one colour range for all.

    Parameters
    ----------
    wavs
        Label to waveform, any shape with T elements.
    sample_rate
        In Hz.
    kind
        ``stft`` (frequency in kHz) or ``mel`` (mel bin).
    range_db
        From the loudest point of all down to this many dB below it.
    phonemes
        Marked in each panel.
    columns
        Panels per row; None takes all in one row, at most 4.
    **options
        Handed to :func:`spectrogram_db` or :func:`mel_db`.

    Returns
    -------
    Figure
        One panel per waveform and one colour bar.
    """
    if kind not in ("stft", "mel"):
        raise ValueError(f"kind: got {kind!r}, expected 'stft' or 'mel'")
    if kind == "stft":
        images = {label: spectrogram_db(wav, **options) for label, wav in wavs.items()}
    else:
        images = {label: mel_db(wav, sample_rate, **options) for label, wav in wavs.items()}
    columns = min(columns or 4, len(wavs))
    fig, axes = new(-(-len(wavs) // columns), columns, height=2.8, sharey=True)
    top = max(float(image.max()) for image in images.values())
    for ax in axes.flat[len(images) :]:
        ax.set_visible(False)
    for ax, (label, image) in zip(axes.flat, images.items(), strict=False):
        seconds = len(flat(wavs[label])) / sample_rate
        height = sample_rate / 2000 if kind == "stft" else image.shape[0]
        drawn = _image(ax, image, (0, seconds, 0, height), (top - range_db, top))
        ax.set(title=label, xlabel="time (s)")
        mark_phonemes(ax, phonemes, sample_rate, color="white")
    for ax in axes[:, 0]:
        ax.set_ylabel("frequency (kHz)" if kind == "stft" else "mel bin")
    fig.colorbar(drawn, ax=axes, label="level (dB)", fraction=0.05, pad=0.01)
    return fig


def mel_with_pitch(
    wav: Tensor,
    sample_rate: int,
    hertz: np.ndarray,
    title: str = "",
    top_bin: int = 45,
    harmonics: Sequence[int] = (1, 4),
    ax: Axes | None = None,
) -> Figure:
    r"""Draw the lower part of a mel spectrogram, and the pitch and harmonics of it as lines.

    Parameters
    ----------
    wav, sample_rate, title, ax
        As in :func:`waveform`.
    hertz
        Pitch every 10 ms, 0 where unvoiced; in the middle of the waveform, as Praat gives it.
    top_bin
        Highest of 80 bins that is shown.
    harmonics
        Multiples of the pitch that are drawn.
    """
    fig, ax = on(ax, height=2.4)
    image, seconds = mel_db(wav, sample_rate, hop_length=80), len(flat(wav)) / sample_rate
    top = float(image.max())
    _image(ax, image, (0, seconds, -0.5, 79.5), (top - 60, top))
    where = np.arange(len(hertz)) * 0.01 + (seconds - 0.01 * (len(hertz) - 1)) / 2
    for harmonic in harmonics:
        frequency = harmonic * np.where(hertz > 0, hertz, np.nan)
        mel = np.log1p(frequency / 700) / np.log1p(sample_rate / 2 / 700)  # HTK's scale, 0 to 1
        ax.plot(where, 81 * mel - 1, color="cyan", linewidth=2)
    ax.set(xlabel="time (s)", title=title, xlim=(0, seconds), ylim=(-0.5, top_bin))
    return fig


def _image(ax: Axes, image: Tensor, extent: tuple, limits: tuple[float, float]) -> AxesImage:
    return ax.imshow(
        image.numpy(),
        origin="lower",
        aspect="auto",
        extent=extent,
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
    )
