r"""Maps of points with a colour for each name: what t-SNE and UMAP show.

A map has no axes: neither direction nor distance means anything, so there are no ticks; the title
gives the silhouette of the names in the *full* space, not in the map. Notebook:
31_disentanglement_and_voice_conversion. Leaves out: what a map invents
(``evaluation/map_reading.py``). Read next: ``widgets.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from codec_lib import charts

Panel = tuple[str, Any, Sequence[str]]  # title, points (N, 2), names


def coloured_maps(
    clouds: Sequence[tuple[str, Tensor, Sequence[str]]],
    how: Sequence[str] = ("tsne",),
    seed: int = 0,
    neighbours: int = 15,
    legends: Sequence[int] = (),
) -> Figure:
    r"""Map vectors to the plane and colour them by name, four maps a row.

    Parameters
    ----------
    clouds
        Label, vectors (N, D) and names of each; vectors that come twice are mapped once.
    how
        ``"tsne"``, ``"umap"`` or both: a map of each kind for each cloud.
    seed, neighbours
        As in ``evaluation.disentanglement.projected``.
    legends
        Numbers of the panels with a legend.

    Returns
    -------
    Figure
        One panel for each cloud and kind, with label, kind and silhouette as its title.
    """
    from codec_lib.evaluation.disentanglement import name_silhouette, projected

    known: dict[tuple[int, str], np.ndarray] = {}
    panels = []
    for label, vectors, names in clouds:
        score = name_silhouette(vectors, names)
        for kind in how:
            if (id(vectors), kind) not in known:
                known[id(vectors), kind] = projected(vectors, kind, seed, neighbours)
            title = f"{label}, {kind}\nsilhouette {score:.2f}"
            panels.append((title, known[id(vectors), kind], names))
    return map_grid(panels, legends=legends)


def draw_map(
    ax: Axes, points: Any, names: Sequence[str], title: str = "", legend: bool = False
) -> None:
    r"""Draw points of the plane, those of one name in one colour.

    Parameters
    ----------
    ax
        Axes to draw into.
    points
        Shape (N, 2).
    names
        Of the points; up to 20 are told apart by colour.
    title
        Above.
    legend
        True names the colours, below the axes.
    """
    points, names = np.asarray(points), np.asarray(names)
    known = sorted(set(names.tolist()))
    palette = charts.PALETTE[:6] if len(known) <= 6 else colormaps["tab20"].colors
    size = 24 if len(points) < 200 else 10
    for number, name in enumerate(known):
        x, y = points[names == name].T
        ax.scatter(x, y, s=size, alpha=0.85, color=palette[number % len(palette)], label=name, lw=0)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(True)
    ax.spines[:].set_color("#cccccc")
    ax.set_title(title, fontsize=9)
    if legend:
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "ncols": 3}
        ax.legend(fontsize=7, markerscale=1.5, handletextpad=0, columnspacing=0.8, **place)


def map_grid(
    panels: Sequence[Panel], columns: int = 4, legends: Sequence[int] = (), width: float = 10.0
) -> Figure:
    r"""Draw several maps beside each other.

    Parameters
    ----------
    panels
        Title, points (N, 2) and names of each.
    columns
        Panels per row.
    legends
        Numbers of the panels with a legend.
    width
        Inches of the figure.

    Returns
    -------
    Figure
        As many rows as are needed.

    Raises
    ------
    ValueError
        If there is no panel.
    """
    if not panels:
        raise ValueError("panels: got none, expected at least one map")
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    fig, axes = charts.new(rows, columns, height=1.08 * width / columns, width=width)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for number, (ax, (title, points, names)) in enumerate(zip(axes.flat, panels, strict=False)):
        draw_map(ax, points, names, title, number in legends)
    return fig
