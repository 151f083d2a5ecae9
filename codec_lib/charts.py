r"""Style and plain charts of the course: curves, bars, use of codebooks, codes, units, points.

One style for all: white face, a palette told apart by everybody, axes with units. Figures are
already closed for pyplot, so that a notebook shows them once. Notebook: all of them, through
``plotting``. Leaves out: pictures of sound (``plotting.py``). Read next: ``plotting.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

# Okabe and Ito's eight colours, told apart with every common form of colour blindness.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
COLORMAP = "magma"
GOLDEN = 0.618034  # of a turn of the colour circle: units with neighbouring numbers look unlike
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
    r"""Return an empty figure in the course's style and its axes, an array (rows, columns).

    Parameters
    ----------
    rows, columns
        Number of panels.
    height, width
        Inches: height of a row, width of the figure.
    **options
        Handed to ``plt.subplots``.
    """
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


def flat(values: Any) -> np.ndarray:
    """Return a tensor, array or list of numbers as a flat float32 array on the CPU."""
    return torch.as_tensor(values).detach().cpu().float().reshape(-1).numpy()


def on(ax: Axes | None, height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    r"""Return figure and axes to draw into.

    Parameters
    ----------
    ax
        Axes of a figure that exists; None makes one.
    height, width
        Of a new figure, in inches.
    """
    if ax is not None:
        return ax.figure, ax
    fig, axes = new(height=height, width=width)
    return fig, axes[0, 0]


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
    fig, ax = on(ax, height=3.2, width=0.7 * WIDTH)
    for index, (label, values) in enumerate(series.items()):
        x, y, *band = values if isinstance(values, tuple) else (range(len(values)), values)
        color = PALETTE[index % len(PALETTE)]
        x, y = flat(list(x)), flat(list(y))
        ax.plot(x, y, label=label, color=color, marker="o" if markers else None, markersize=4)
        if band:
            ax.fill_between(x, flat(band[0]), flat(band[1]), color=color, alpha=0.2, linewidth=0)
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
    r"""Draw bars, side by side where there are several series.

    Parameters
    ----------
    values
        Label to height, or name of a series to such a mapping.
    ylabel, xlabel, title
        Texts, with units.
    ax
        Axes to draw into; None makes a figure.
    """
    nested = all(isinstance(value, Mapping) for value in values.values())
    groups: Mapping[str, Any] = values if nested else {"": values}
    fig, ax = on(ax, height=3.0, width=0.7 * WIDTH)
    width = 0.8 / len(groups)
    for index, (name, heights) in enumerate(groups.items()):
        where = np.arange(len(heights)) + (index - (len(groups) - 1) / 2) * width
        ax.bar(where, list(heights.values()), width, label=name or None, color=PALETTE[index % 8])
        ax.set_xticks(range(len(heights)), list(heights))
    ax.set(ylabel=ylabel, xlabel=xlabel, title=title)
    if nested:
        ax.legend()
    return fig


def codebook_usage(
    codes: Tensor, codebook_size: int, title: str = "", codebooks: Sequence[int] | None = None
) -> Figure:
    r"""Draw how often each entry of each codebook is used, sorted, against even use.

    Parameters
    ----------
    codes
        Shape (B, K, F) or (B, F) or (F,), int64.
    codebook_size
        N.
    title
        Above the axes.
    codebooks
        Numbers of the codebooks, for the legend; None counts from 1.
    """
    codes = torch.as_tensor(codes)
    layers = codes.transpose(0, 1) if codes.dim() == 3 else codes[None]  # (K, B, F)
    series = {}
    for number, layer in zip(codebooks or range(1, len(layers) + 1), layers, strict=True):
        counts = torch.bincount(layer.reshape(-1).cpu(), minlength=codebook_size).float()
        share = counts.sort(descending=True).values / counts.sum().clamp_min(1)
        series[f"codebook {number}"] = (range(1, codebook_size + 1), 100 * share)
    fig = curves(series, "entry, most used first", "share of frames (%)", title=title, logx=True)
    even = 100.0 / codebook_size
    fig.axes[0].axhline(even, color=PALETTE[6], linestyle="--", linewidth=1, label="even use")
    fig.axes[0].legend()
    return fig


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


def unit_table(rows: Mapping[str, Tensor], ax: Axes | None = None, title: str = "") -> Figure:
    r"""Draw sequences of units of one length below each other, a coloured cell for each unit.

    Parameters
    ----------
    rows
        Label to units, (L,), int64; an empty one leaves a gap.
    ax
        Axes to draw into; None makes a figure.
    title
        Above the axes.

    Returns
    -------
    Figure
        A unit has the same colour in all rows; other units may look like it.
    """
    fig, ax = on(ax, height=0.6 + 0.25 * len(rows))
    length = max(len(units) for units in rows.values())
    image = np.ones((len(rows), length, 4))
    for place, units in enumerate(rows.values()):
        numbers = units.detach().cpu().numpy()
        image[place, : len(numbers)] = colormaps["hsv"](numbers * GOLDEN % 1)
    ax.imshow(image, aspect="auto", interpolation="nearest")
    ax.set(xlabel="frame", title=title)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.tick_params(left=False)
    ax.spines[:].set_visible(False)
    return fig


def scatter(
    points: Mapping[str, Tensor],
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    r"""Draw named point clouds on axes of equal scale.

    Parameters
    ----------
    points
        Label to points, each of shape (P, 2).
    xlabel, ylabel, title
        Texts.
    ax
        Axes to draw into; None makes a figure.
    """
    fig, ax = on(ax, height=3.6, width=0.5 * WIDTH)
    for index, (label, cloud) in enumerate(points.items()):
        cloud = torch.as_tensor(cloud).detach().cpu().float().numpy()
        ax.scatter(cloud[:, 0], cloud[:, 1], s=8, alpha=0.6, label=label, color=PALETTE[index % 8])
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title, aspect="equal")
    if len(points) > 1:
        ax.legend()
    return fig


def numbers(table: Any, ax: Axes, mark: Sequence[tuple[int, int]] = ()) -> None:
    r"""Draw a table as a heat map with its numbers; what is infinite or NaN stays empty.

    Parameters
    ----------
    table
        Shape (rows, columns); row 0 is at the bottom.
    ax
        Axes to draw into; rows and columns are at whole numbers from 0.
    mark
        Rows and columns of the cells in bold print.
    """
    values = torch.as_tensor(table).detach().cpu().double() + 0.0  # no minus in front of a 0
    finite = values.isfinite()
    shown = values.masked_fill(~finite, torch.nan).numpy()
    low, high = float(values[finite].min()), float(values[finite].max())
    room = 0.6 * (high - low) + 1e-9  # the darkest colour is left out: numbers are read on all
    ax.imshow(shown, origin="lower", aspect="auto", cmap="Blues", vmin=low, vmax=high + room)
    for row, column in finite.nonzero().tolist():
        weight = "bold" if (row, column) in mark else "normal"
        text = f"{values[row, column]:.1f}"
        ax.text(column, row, text, ha="center", va="center", fontsize=9, weight=weight)


def intervals(
    values: Mapping[str, Sequence[float]],
    xlabel: str,
    title: str = "",
    line: float = 0.0,
    ax: Axes | None = None,
) -> Figure:
    r"""Draw named values with their intervals below each other, and a line.

    Parameters
    ----------
    values
        Label to value, low and high end.
    xlabel
        With the unit in parentheses.
    title
        Above the axes.
    line
        Where the line is drawn: at 0, or at chance.
    ax
        Axes to draw into; None makes a figure.
    """
    fig, ax = on(ax, height=0.9 + 0.3 * len(values), width=0.8 * WIDTH)
    rows = np.arange(len(values))
    middle, low, high = np.asarray(list(values.values()), dtype=float).T
    ax.errorbar(middle, rows, xerr=[middle - low, high - middle], fmt="o", color=PALETTE[0])
    ax.axvline(line, color="black", linewidth=1)
    ax.set(xlabel=xlabel, title=title, ylim=(len(values) - 0.5, -0.5))
    ax.set_yticks(rows, list(values))
    return fig
