r"""Figures of the course: one style, labelled axes with units, one range across a comparison.

Every function returns a ``Figure`` that is already closed for pyplot, so that a notebook shows it
once: ``nb.show(plotting.waveform(...), alt="...")``. Notebook: all of them. Leaves out: players and
tables (``nb.py``), live controls (``widgets.py``). Read next: ``widgets.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import torchaudio
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

# Okabe and Ito's eight colours, told apart with every common form of colour blindness.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
COLORMAP = "magma"
FLOOR = 1e-5  # smallest magnitude before the logarithm: -100 dB
WIDTH = 10.0  # inches; 90 dpi gives the 900 pixels a notebook shows without scrolling


def use_style() -> None:
    """Set matplotlib to the course's style: white face, the palette, thin frame, readable text."""
    plt.rcParams.update(
        {
            "figure.facecolor": "white",
            "axes.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.dpi": 90,
            "savefig.dpi": 90,
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": plt.cycler(color=PALETTE),
            "axes.grid": False,
            "grid.color": "#dddddd",
            "legend.frameon": False,
            "image.cmap": COLORMAP,
        }
    )


def new(
    rows: int = 1, columns: int = 1, height: float = 2.6, width: float = WIDTH, **options: Any
) -> tuple[Figure, np.ndarray]:
    r"""Return an empty figure and its axes, shape (rows, columns); ``height`` inches per row."""
    use_style()
    fig, axes = plt.subplots(
        rows,
        columns,
        figsize=(width, height * rows),
        squeeze=False,
        layout="constrained",
        **options,
    )
    plt.close(fig)  # the returned object shows itself; pyplot would show it a second time
    return fig, axes


def _flat(wav: Tensor | np.ndarray) -> np.ndarray:
    return torch.as_tensor(wav).detach().cpu().float().reshape(-1).numpy()


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
    samples = _flat(wav)
    fig, ax = _axes(ax, height=2.2)
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
    ax: Axes, phonemes: Sequence[Any], sample_rate: int, color: str = "#444444"
) -> None:
    """Draw phoneme boundaries (samples) as thin lines and write each symbol in its middle."""
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
            **{"ha": "center", "va": "top", "fontsize": 8, "color": color, "clip_on": True},
        )


def _axes(ax: Axes | None, height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    if ax is not None:
        return ax.figure, ax
    fig, axes = new(height=height, width=width)
    return fig, axes[0, 0]


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
    """Return the STFT in dB, shape (n_fft // 2 + 1, F); a full-scale sine peaks at 0 dB."""
    samples = torch.as_tensor(_flat(wav))
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
    """Return the mel magnitude spectrogram in dB, shape (M, F); ``mel_scale``: htk or slaney."""
    transform = _mel_transform(sample_rate, n_fft, hop_length, n_mels, mel_scale)
    return decibels(transform(torch.as_tensor(_flat(wav))))


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
    rows = -(-len(wavs) // columns)
    fig, axes = new(rows, columns, height=2.8, sharex=False, sharey=True)
    top = max(float(image.max()) for image in images.values())
    for ax in axes.flat[len(images) :]:
        ax.set_visible(False)
    for ax, (label, image) in zip(axes.flat, images.items(), strict=False):
        seconds = len(_flat(wavs[label])) / sample_rate
        height = sample_rate / 2000 if kind == "stft" else image.shape[0]
        drawn = ax.imshow(
            image.numpy(),
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, height),
            vmin=top - range_db,
            vmax=top,
            interpolation="nearest",
        )
        ax.set(title=label, xlabel="time (s)")
        mark_phonemes(ax, phonemes, sample_rate, color="white")
    for ax in axes[:, 0]:
        ax.set_ylabel("frequency (kHz)" if kind == "stft" else "mel bin")
    fig.colorbar(drawn, ax=axes, label="level (dB)", fraction=0.05, pad=0.01)
    return fig


def curves(
    series: Mapping[str, Any],
    xlabel: str,
    ylabel: str,
    title: str = "",
    logx: bool = False,
    logy: bool = False,
    markers: bool = False,
    ax: Axes | None = None,
) -> Figure:
    r"""Draw named curves into one axes.

    Parameters
    ----------
    series
        Label to ``y``, or to ``(x, y)``, or to ``(x, y, low, high)`` with a shaded range.
    xlabel, ylabel
        With the unit in parentheses.
    title
        Above the axes.
    logx, logy
        True uses a logarithmic axis.
    markers
        True marks each point.
    ax
        Axes to draw into; None makes a figure.
    """
    fig, ax = _axes(ax, height=3.2, width=0.7 * WIDTH)
    for index, (label, values) in enumerate(series.items()):
        x, y, *band = values if isinstance(values, tuple) else (range(len(values)), values)
        color = PALETTE[index % len(PALETTE)]
        x, y = _flat(list(x)), _flat(y)
        ax.plot(x, y, label=label, color=color, marker="o" if markers else None, markersize=4)
        if band:
            ax.fill_between(x, _flat(band[0]), _flat(band[1]), color=color, alpha=0.2, linewidth=0)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.set(xscale="log" if logx else "linear", yscale="log" if logy else "linear")
    ax.grid(True)
    if len(series) > 1 or "" not in series:
        ax.legend()
    return fig


def bars(
    values: Mapping[str, float] | Mapping[str, Mapping[str, float]],
    ylabel: str,
    xlabel: str = "",
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Draw bars; ``values`` is label to height, or series to such a mapping for grouped bars."""
    nested = all(isinstance(value, Mapping) for value in values.values())
    groups: Mapping[str, Any] = values if nested else {"": values}
    fig, ax = _axes(ax, height=3.0, width=0.7 * WIDTH)
    width = 0.8 / len(groups)
    for index, (name, heights) in enumerate(groups.items()):
        where = np.arange(len(heights)) + (index - (len(groups) - 1) / 2) * width
        ax.bar(where, list(heights.values()), width, label=name or None, color=PALETTE[index % 8])
        ax.set_xticks(range(len(heights)), list(heights))
    ax.set(ylabel=ylabel, xlabel=xlabel, title=title)
    if nested:
        ax.legend()
    return fig


def codebook_usage(codes: Tensor, codebook_size: int, title: str = "") -> Figure:
    r"""Draw how often each entry of each codebook is used, sorted, against even use.

    Parameters
    ----------
    codes
        Shape (B, K, F) or (B, F) or (F,), int64.
    codebook_size
        N.
    title
        Above the axes.
    """
    codes = torch.as_tensor(codes)
    layers = codes.transpose(0, 1) if codes.dim() == 3 else codes[None]  # (K, B, F)
    series = {}
    for index, layer in enumerate(layers):
        counts = torch.bincount(layer.reshape(-1).cpu(), minlength=codebook_size).float()
        share = counts.sort(descending=True).values / counts.sum().clamp_min(1)
        series[f"codebook {index + 1}"] = (range(1, codebook_size + 1), 100 * share)
    even = 100.0 / codebook_size
    series["even use"] = ([1, codebook_size], [even, even])
    return curves(series, "entry, most used first", "share of frames (%)", title=title)


def code_raster(codes: Tensor, codebook_size: int, frame_rate: float, title: str = "") -> Figure:
    r"""Draw codes as a raster: time across, one row per codebook, colour by index.

    Parameters
    ----------
    codes
        Shape (K, F) or (1, K, F), int64.
    codebook_size
        N, the end of the colour scale.
    frame_rate
        In Hz.
    title
        Above the axes.
    """
    codes = torch.as_tensor(codes).cpu()
    image = codes.reshape(codes.shape[-2], codes.shape[-1]).numpy()  # (K, F)
    fig, axes = new(height=0.9 + 0.25 * len(image))
    ax = axes[0, 0]
    drawn = ax.imshow(
        image,
        aspect="auto",
        extent=(0, image.shape[1] / frame_rate, len(image) + 0.5, 0.5),
        vmin=0,
        vmax=codebook_size - 1,
        cmap="viridis",
        interpolation="nearest",
    )
    ax.set(xlabel="time (s)", ylabel="codebook", title=title, yticks=range(1, len(image) + 1))
    fig.colorbar(drawn, ax=ax, label="code", fraction=0.05, pad=0.01)
    return fig


def scatter(
    points: Mapping[str, Tensor],
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Draw named point clouds, each of shape (P, 2), on axes of equal scale."""
    fig, ax = _axes(ax, height=3.6, width=0.5 * WIDTH)
    for index, (label, cloud) in enumerate(points.items()):
        cloud = torch.as_tensor(cloud).detach().cpu().float().numpy()
        ax.scatter(cloud[:, 0], cloud[:, 1], s=8, alpha=0.6, label=label, color=PALETTE[index % 8])
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title, aspect="equal")
    if len(points) > 1:
        ax.legend()
    return fig
