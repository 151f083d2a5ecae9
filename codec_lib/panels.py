r"""Charts that compare matrices, named points and intervals; a sequence that is being written.

No paper. Used by notebooks 30, 33 and 40. Leaves out: curves and bars (``charts.py``). Read next:
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
from torch import Tensor

from codec_lib.charts import COLORMAP, GOLDEN, PALETTE, WIDTH, new, on


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


def sequence(
    symbols: Sequence[str], codes: Tensor, written: int, weights: Tensor, chances: Tensor
) -> Figure:
    r"""Draw what a language model has read and written, and what it may write next.

    Symbols are the darker the more the last frame reads of them; equal codes have equal colours.

    Parameters
    ----------
    symbols
        Text in front, S of them.
    codes
        All that will be written, (F,).
    written
        How many are.
    weights
        Attention from each frame to the symbols, (F, S); before the first code none is drawn.
    chances
        Probabilities of the next code after 0, 1, ... codes, (F + 1, N + 1); the last is the end.

    Raises
    ------
    ValueError
        If ``written`` is not between 0 and F.
    """
    frames, end = len(codes), chances.shape[1] - 1
    if not 0 <= written <= frames:
        raise ValueError(f"written: got {written}, expected 0 to {frames}")
    fig, axes = new(1, 3, height=1.5, width_ratios=(4, 6, 1.5))
    text, row, next_ = axes[0]
    shades = np.asarray(weights[written - 1].detach().cpu() if written else 0 * weights[0])
    text.imshow(shades[None], aspect="auto", cmap="Blues", vmin=0, vmax=1)
    for place, symbol in enumerate(symbols):
        color = "white" if shades[place] > 0.5 else "black"
        text.text(place, 0, symbol, fontsize=7, rotation=90, ha="center", va="center", color=color)
    text.set(xticks=[], yticks=[], xlabel="text", title="read by the last frame")
    colors = plt.get_cmap("hsv")(codes[:written].cpu().numpy() * GOLDEN % 1)
    if written:
        row.imshow(colors[None], aspect="auto", extent=(0, written, 0, 1), interpolation="nearest")
    row.set(xlim=(0, frames), yticks=[], xlabel="code", title=f"{written} of {frames} written")
    top = chances[written].detach().cpu().topk(5)
    next_.barh(range(5), top.values.numpy(), color=PALETTE[0])
    next_.set_yticks(range(5), ["end" if code == end else str(int(code)) for code in top.indices])
    next_.set(xlim=(0, 1), ylim=(4.5, -0.5), xlabel="probability", title="next")
    return fig
