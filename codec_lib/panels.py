r"""Charts that compare: matrices in one range, named points in a plane, values with intervals.

No paper. Used by notebooks 30 and 33. Leaves out: curves and bars (``charts.py``). Read next:
``strips.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from codec_lib.charts import COLORMAP, PALETTE, WIDTH, new, on


def matrices(
    tables: Mapping[str, Any], label: str, xlabel: str, ylabel: str, low: float | None = None
) -> Figure:
    r"""Draw named matrices side by side, in one range of colours; row 0 is on top.

    Parameters
    ----------
    tables
        Label to values, (rows, columns); what is infinite or NaN is grey.
    label
        Of the colour bar, with the unit.
    xlabel, ylabel
        What columns and rows are.
    low
        Values below it have the darkest colour; None: the lowest value.
    """
    shown = {name: torch.as_tensor(one).detach().cpu().double() for name, one in tables.items()}
    good = torch.cat([one[one.isfinite()] for one in shown.values()])
    lowest = float(good.min()) if low is None else low
    fig, axes = new(1, len(shown), height=0.9 + 0.85 * WIDTH / max(3, len(shown)))
    colors = plt.get_cmap(COLORMAP).with_extremes(bad="#bbbbbb")
    for ax, (name, one) in zip(axes[0], shown.items(), strict=True):
        values = one.masked_fill(~one.isfinite(), torch.nan).numpy()
        drawn = ax.imshow(values, cmap=colors, vmin=lowest, vmax=float(good.max()))
        ax.set(title=name, xlabel=xlabel)
        ax.spines[:].set_visible(False)
    axes[0, 0].set_ylabel(ylabel)
    fig.colorbar(drawn, ax=axes, label=label, fraction=0.05, pad=0.01)
    return fig


def plane(
    points: Mapping[str, tuple[float, float]],
    xlabel: str,
    ylabel: str,
    title: str = "",
    lines: Mapping[str, float] | None = None,
    ax: Axes | None = None,
    order: Sequence[str] = (),
) -> Figure:
    r"""Draw named points, each with a mark of its own, and heights that have no place across.

    Parameters
    ----------
    points
        Label to x and y.
    xlabel, ylabel, title
        Texts, with units.
    lines
        Label to a height y, drawn as a grey line.
    ax
        Axes to draw into; None makes a figure.
    order
        Labels of all planes that are seen together, so that one has one mark in all of them.
    """
    fig, ax = on(ax, height=3.6, width=0.6 * WIDTH)
    for name, (x, y) in points.items():
        number = list(order or points).index(name)
        mark = "os^DvP*X"[number % 8]
        ax.plot(x, y, mark, color=PALETTE[number % 8], markersize=8, label=name)
    for number, (name, y) in enumerate((lines or {}).items()):
        style = ("--", ":", "-.")[number % 3]
        ax.axhline(y, color="#777777", linestyle=style, linewidth=1.2, label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.margins(0.12)
    ax.grid(True)
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
    return fig


def points(
    panels: Mapping[str, Mapping[str, Any]],
    ylabel: str,
    names: Sequence[str] = (),
    xlabel: str = "",
    levels: Mapping[str, float] | None = None,
    sharey: bool = False,
) -> Figure:
    r"""Draw values with their intervals, a panel for each title and a colour for each series.

    Parameters
    ----------
    panels
        Title to name of a series to its values, (P, 3): value, low and high end of each; or to
        ``(x, values)``, which are then joined by a line.
    ylabel, xlabel
        With the unit in parentheses.
    names
        Below the P values, where they have no x.
    levels
        Title to the height of a dashed line.
    sharey
        True gives all panels one scale.
    """
    fig, axes = new(1, len(panels), height=3.0, sharey=sharey)
    for ax, (title, series) in zip(axes[0], panels.items(), strict=True):
        for index, (label, values) in enumerate(series.items()):
            x, found = values if isinstance(values, tuple) else (None, values)
            middle, low, high = np.asarray(found, dtype=float).T
            beside = np.arange(len(middle)) + 0.12 * (index - (len(series) - 1) / 2)
            ax.errorbar(
                beside if x is None else x, middle, [middle - low, high - middle], label=label,
                fmt="o" if x is None else "o-", capsize=3, color=PALETTE[index % len(PALETTE)],
            )  # fmt: skip
        if len(names):
            ax.set_xticks(range(len(names)), names, rotation=45, ha="right")
        if title in (levels or {}):
            ax.axhline(levels[title], color="black", linestyle="--", linewidth=1)
        ax.set(title=title, xlabel=xlabel)
        ax.grid(axis="y")
        if len(series) > 1:
            ax.legend(fontsize=8)
    axes[0, 0].set_ylabel(ylabel)
    return fig
