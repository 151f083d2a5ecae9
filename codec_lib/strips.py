r"""Pictures of segmentations and units: strips under a mel spectrogram.

Notebook: 14_codecslime, 21_spin_and_dc_spin, 32_dynamic_frame_rate_segmentations, 34_lexical_tone.
Leaves out: choosing segments (``rate/``) and units (``teachers/``). Read next: ``widgets.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from codec_lib import charts, plotting

MOST = 8  # frames of the longest segment that has a colour of its own
COLORS = colormaps["viridis"](np.linspace(0.95, 0.0, MOST))  # light is short, dark is long


def palette(max_length: int = 4) -> ListedColormap:
    """Return one colour for each length from 1 to ``max_length``, light to dark."""
    return ListedColormap(COLORS[np.linspace(0, MOST - 1, max_length).round().astype(int)])


def segment_strip(
    ax: Axes, lengths: Tensor, frame_rate: float, max_length: int = 4, label: str = ""
) -> None:
    r"""Draw the segments of one utterance as blocks over time, coloured by length.

    Parameters
    ----------
    ax
        Axes whose x axis is time in seconds.
    lengths
        Frames of each segment, any shape with K elements; zeros are padding.
    frame_rate
        Frames per second, Hz.
    max_length
        Longest segment U, which has the darkest colour.
    label
        Left of the strip.
    """
    sizes = charts.flat(lengths).astype(int)
    sizes = sizes[sizes > 0]
    edges = np.concatenate([[0], sizes.cumsum()]) / frame_rate
    options = {"cmap": palette(max_length), "vmin": 0.5, "vmax": max_length + 0.5}
    ax.pcolormesh(edges, [0, 1], sizes[None], edgecolors="white", linewidth=0.6, **options)
    ax.set(yticks=[], ylim=(0, 1))
    ax.spines[:].set_visible(False)
    ax.set_ylabel(label, rotation=0, ha="right", va="center")


def length_shares(ax: Axes, x: Any, shares: Tensor, bars: bool = False) -> None:
    r"""Draw shares of segments by length, stacked, in the colours of the strips.

    Parameters
    ----------
    ax
        Axes to draw into.
    x
        Where each column stands, P numbers.
    shares
        Shape (P, U), each row of sum 1.
    bars
        True draws a bar for each column, False areas between them.
    """
    max_length = shares.shape[1]
    colors, x = palette(max_length).colors, charts.flat(list(x))
    names = [f"{size} frame" + "s" * (size > 1) for size in range(1, max_length + 1)]
    heights = 100 * shares.detach().cpu().numpy().T  # (U, P)
    if bars:
        below = heights.cumsum(axis=0) - heights
        for row, base, color, name in zip(heights, below, colors, names, strict=True):
            ax.bar(x, row, width=0.95, bottom=base, color=color, label=name)
    else:
        ax.stackplot(x, heights, colors=colors, labels=names)
    ax.set(ylim=(0, 100))


def neighbours(
    wav: Tensor,
    sample_rate: int,
    z: Tensor,
    frame_rate: float,
    phonemes: Sequence[Any] = (),
    ylabel: str = "distance to the next",
    title: str = "",
) -> Figure:
    r"""Draw a mel spectrogram, and under it how far each frame is from the next.

    Parameters
    ----------
    wav, sample_rate, frame_rate, phonemes, title
        As in ``segmentation``.
    z
        Frames, shape (1, D, F).
    ylabel
        Of the distance, with its unit.
    """
    fig, axes = charts.new(2, 1, height=2.2, sharex=True)
    mel, curve = axes[:, 0]
    _mel_with_cuts(mel, wav, sample_rate, z.new_zeros(0), frame_rate)
    mel.set_title(title, loc="left")
    apart = charts.flat((z[0, :, 1:] - z[0, :, :-1]).norm(dim=0))
    curve.plot(np.arange(1, len(apart) + 1) / frame_rate, apart, linewidth=1)
    curve.set(xlabel="time (s)", ylabel=ylabel, ylim=(0, 1.25 * apart.max()))
    curve.set_xlim(mel.get_xlim())
    plotting.mark_phonemes(curve, phonemes, sample_rate)
    return fig


def segmentation(
    wav: Tensor,
    sample_rate: int,
    rows: Mapping[str, Tensor],
    frame_rate: float,
    phonemes: Sequence[Any] = (),
    span: tuple[float, float] | None = None,
    max_length: int = 4,
    title: str = "",
) -> Figure:
    r"""Draw a mel spectrogram with the cuts of the first segmentation, and a strip for each.

    Parameters
    ----------
    wav
        Samples in [-1, 1], any shape with T elements.
    sample_rate
        Hz.
    rows
        Label to frames of each segment, (K,).
    frame_rate
        Frames per second that the lengths count, Hz.
    phonemes
        Objects with ``symbol``, ``start`` and ``end`` (samples), as a strip of their own.
    span
        First and last second shown; 2 to 3 s are readable. None: all of it.
    max_length
        Longest segment U.
    title
        Above the spectrogram.

    Returns
    -------
    Figure
        Panels with one time axis.
    """
    heights = [3.2, *[0.55] * (len(rows) + bool(phonemes))]
    fig, axes = charts.new(
        len(heights), 1, height=sum(heights) / len(heights) * 0.72, sharex=True,
        gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    mel, *others = axes[:, 0]
    _mel_with_cuts(mel, wav, sample_rate, next(iter(rows.values())), frame_rate)
    mel.set_title(title, loc="left")
    for ax, (label, lengths) in zip(others, rows.items(), strict=False):
        segment_strip(ax, lengths, frame_rate, max_length, label)
    mel.set_xlim(span or mel.get_xlim())
    if phonemes:
        others[-1].set(yticks=[], ylim=(0, 1))
        others[-1].set_ylabel("phonemes", rotation=0, ha="right", va="center")
        plotting.mark_phonemes(others[-1], phonemes, sample_rate)
    others[-1].set_xlabel("time (s)")
    handles = [Patch(color=color) for color in palette(max_length).colors]
    names = [f"{size}" for size in range(1, max_length + 1)]
    fig.legend(handles, names, title="frames in a segment", ncols=max_length, fontsize=8,
               loc="outside upper right", title_fontsize=8)  # fmt: skip
    return fig


def unit_runs(
    wav: Tensor,
    sample_rate: int,
    rows: Mapping[str, Tensor],
    frame_rate: float,
    phonemes: Sequence[Any] = (),
    span: tuple[float, float] | None = None,
    title: str = "",
) -> Figure:
    r"""Draw a mel spectrogram with phonemes, and under it a strip for each sequence of units.

    Equal units of a strip have one colour (other units may share it); runs bear their number.

    Parameters
    ----------
    wav, sample_rate, phonemes, span, title
        As in ``segmentation``.
    rows
        Label to units, (F,), int64.
    frame_rate
        Units per second, Hz.
    """
    heights = [3.2, *[0.6] * len(rows)]
    fig, axes = charts.new(
        len(heights), 1, height=sum(heights) / len(heights) * 0.72, sharex=True,
        gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    mel, *others = axes[:, 0]
    _mel_with_cuts(mel, wav, sample_rate, torch.zeros(0), frame_rate)
    mel.set_title(title, loc="left")
    mel.set_xlim(span or mel.get_xlim())
    plotting.mark_phonemes(mel, phonemes, sample_rate, color="white")
    for ax, (label, found) in zip(others, rows.items(), strict=True):
        run_strip(ax, found, frame_rate, label, mel.get_xlim()[1] - mel.get_xlim()[0])
        edges = [one.start / sample_rate for one in phonemes]
        ax.vlines(edges, 0.75, 1, color="black", linewidth=1.2)
    others[-1].set_xlabel("time (s)")
    return fig


def run_strip(
    ax: Axes, units: Tensor, frame_rate: float, label: str = "", shown: float | None = None
) -> None:
    r"""Draw units over time: a colour for each, and its number on every run that has room for it.

    Parameters
    ----------
    ax
        Axes whose x axis is time in seconds.
    units
        Shape (F,), int64.
    frame_rate
        Units per second, Hz.
    label
        Left of the strip.
    shown
        Seconds that will be shown, where it is not all.
    """
    numbers, counts = torch.unique_consecutive(units.detach().cpu(), return_counts=True)
    edges = np.concatenate([[0], counts.cumsum(0).numpy()]) / frame_rate
    shade = (numbers * 7 % 20).numpy()  # neighbouring numbers are far apart in colour
    ax.pcolormesh(edges, [0, 1], shade[None], cmap="tab20", vmin=0, vmax=19, alpha=0.6,
                  edgecolors="white", linewidth=0.6)  # fmt: skip
    style = {"ha": "center", "va": "center", "fontsize": 6, "clip_on": True}
    digit = 0.0065 * (shown or edges[-1])  # width of one, for strips of the usual width
    for number, start, end in zip(numbers.tolist(), edges[:-1], edges[1:], strict=True):
        if end - start > digit * len(str(number)):
            ax.text((start + end) / 2, 0.5, str(number), **style)
    ax.set(yticks=[], ylim=(0, 1))
    ax.spines[:].set_visible(False)
    ax.set_ylabel(label, rotation=0, ha="right", va="center")


def _mel_with_cuts(
    ax: Axes, wav: Tensor, sample_rate: int, lengths: Tensor, frame_rate: float
) -> None:
    """Draw a waveform's mel spectrogram, and a line where each segment starts."""
    seconds = len(charts.flat(wav)) / sample_rate
    _image_with_cuts(ax, plotting.mel_db(wav, sample_rate), seconds, lengths, frame_rate)


def _image_with_cuts(
    ax: Axes, image: Tensor, seconds: float, lengths: Tensor, frame_rate: float
) -> None:
    """Draw a spectrogram (M, any number of frames), 70 dB deep, and where segments start."""
    sizes, top, bins = charts.flat(lengths), float(image.max()), len(image)
    options = {"origin": "lower", "aspect": "auto", "vmin": top - 70, "vmax": top}
    ax.imshow(image.numpy(), extent=(0, seconds, 0, bins), **options)
    cuts = sizes[sizes > 0].cumsum()[:-1] / frame_rate
    ax.vlines(cuts, 0, bins, color="white", linewidth=0.4, alpha=0.7)
    ax.set_ylabel("mel bin")


def self_similarity(
    z: Tensor,
    rows: Mapping[str, Tensor],
    frame_rate: float,
    span: tuple[float, float] | None = None,
) -> Figure:
    r"""Draw how far every frame is from every other, and segments as boxes on the diagonal.

    Parameters
    ----------
    z
        Features of one utterance, shape (1, D, F).
    rows
        Label to frames of each segment, (K,): a panel each.
    frame_rate
        Frames per second, Hz.
    span
        First and last second shown; a box of few frames is visible in a second or less. None: all.

    Returns
    -------
    Figure
        Panels of one colour range, dark where frames are alike.
    """
    frames = z.detach().cpu().float()[0].T  # (F, D)
    first, last = (0, len(frames)) if span is None else (round(t * frame_rate) for t in span)
    shown = frames[first:last]
    apart = torch.cdist(shown, shown).numpy()
    start, end = first / frame_rate, (first + len(shown)) / frame_rate
    fig, axes = charts.new(1, len(rows), height=charts.WIDTH / max(2, len(rows)) * 0.82)
    for ax, (label, lengths) in zip(axes[0], rows.items(), strict=True):
        drawn = ax.imshow(apart, origin="lower", extent=(start, end, start, end))
        sizes = charts.flat(lengths)
        sizes = sizes[sizes > 0] / frame_rate
        for left, size in zip(sizes.cumsum() - sizes, sizes, strict=True):
            ax.add_patch(Rectangle((left, left), size, size, fill=False, ec="cyan", lw=1.0))
        ax.set(title=label, xlabel="time (s)", xlim=(start, end), ylim=(start, end))
    axes[0, 0].set_ylabel("time (s)")
    fig.colorbar(drawn, ax=axes, label="distance of two frames", fraction=0.05, pad=0.01)
    return fig


def small(
    image: Tensor,
    lengths: Tensor,
    frame_rate: float,
    max_length: int = 4,
    title: str = "",
) -> Figure:
    r"""Draw one segmentation under a spectrogram that is at hand, fast enough for a live control.

    Parameters
    ----------
    image
        Spectrogram in dB, shape (M, any number of frames), as long as the segments.
    lengths, frame_rate, max_length
        As in ``segment_strip``.
    title
        Above.

    Returns
    -------
    Figure
        Margins are fixed, since finding them takes as long as drawing.
    """
    fig, axes = charts.new(2, 1, height=1.1, width=6.4, gridspec_kw={"height_ratios": [3, 1]})
    fig.set_layout_engine(None)
    fig.subplots_adjust(0.1, 0.2, 0.99, 0.88, hspace=0.08)
    mel, strip = axes[:, 0]
    seconds = float(charts.flat(lengths).sum()) / frame_rate
    _image_with_cuts(mel, image, seconds, lengths, frame_rate)
    mel.set_xticks([])
    mel.set_title(title, fontsize=9)
    segment_strip(strip, lengths, frame_rate, max_length)
    strip.set(xlabel="time (s)", xlim=(0, seconds))
    return fig


def unit_strips(
    voices: Mapping[str, tuple[Tensor, Tensor]],
    sample_rate: int,
    frame_rate: float = 50.0,
    phonemes: Sequence[Any] = (),
    height: float = 0.95,
    width: float = charts.WIDTH,
) -> Figure:
    r"""Draw mel spectrograms with a strip of units below each, and crosses where units differ.

    Parameters
    ----------
    voices
        Label to waveform, any shape with T elements, and its units (F,). Where a unit is another
        one than that of the first waveform at the same frame, there is a cross.
    sample_rate, frame_rate
        Of the waveforms and the units, Hz.
    phonemes
        As in ``segmentation``; the same for all.
    height, width
        Inches: mean height of a panel, width of the figure.

    Returns
    -------
    Figure
        Two panels for each waveform with one time axis. A unit has the same colour everywhere.
    """
    ratios, first = [4, 1] * len(voices), next(iter(voices.values()))[1]
    fig, axes = charts.new(
        len(ratios), 1, height, width, sharex=True, gridspec_kw={"height_ratios": ratios}
    )
    for (mel, strip), (label, (wav, units)) in zip(
        axes.reshape(-1, 2), voices.items(), strict=True
    ):
        _mel_with_cuts(mel, wav, sample_rate, units.new_zeros(0), frame_rate)
        mel.set_title(label)
        plotting.mark_phonemes(mel, phonemes, sample_rate, color="white")
        hues = colormaps["hsv"](units.numpy() * charts.GOLDEN % 1)[
            np.newaxis
        ]  # neighbours far apart
        strip.imshow(hues, aspect="auto", extent=(0, len(units) / frame_rate, 0, 1))
        count = min(len(units), len(first))
        moved = (units[:count] != first[:count]).nonzero()[:, 0].numpy() + 0.5
        strip.plot(moved / frame_rate, np.full(len(moved), 0.5), "kx", markersize=3)
        strip.set(yticks=[], ylabel="units", xlim=mel.get_xlim())
    strip.set_xlabel("time (s)")
    return fig
