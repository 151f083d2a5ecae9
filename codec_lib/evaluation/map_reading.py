r"""What can be read off a map of t-SNE or UMAP, and what is invented by it.

Who is next to whom mostly comes from the vectors; clumps and the distances between them may come
from the map alone. Three numbers tell: the silhouette of clumps that k-means finds in the map, with
or without any structure behind them; how often a point's neighbour has its name; and how well
distances between groups agree with those in the full space.

No paper. Notebook 31. Leaves out: making maps (``disentanglement.py``).
Read next: ``conversion.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def clump_silhouette(points: Any, count: int = 6, seed: int = 0) -> float:
    r"""Return how good the clumps of a map look, no matter of what they are.

    Parameters
    ----------
    points
        Shape (N, 2), more than ``count``.
    count
        Clumps that k-means searches.
    seed
        Of k-means.

    Returns
    -------
    float
        Mean silhouette, -1 to 1.

    Examples
    --------
    >>> clump_silhouette([[0.0, 0.0], [0.0, 0.1], [9.0, 9.0], [9.0, 9.1]], 2) > 0.9
    True
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    data = np.asarray(points, dtype=np.float64)
    if len(data) <= count:
        raise ValueError(f"points: got {len(data)}, expected more than the {count} clumps")
    labels = KMeans(count, n_init=3, random_state=seed).fit_predict(data)
    return float(silhouette_score(data, labels))


def read_map(points: Any, full: Any, names: Sequence[str]) -> dict[str, float]:
    r"""Compare a map with what it is a map of.

    Parameters
    ----------
    points
        The map, shape (N, 2).
    full
        The vectors, shape (N, D).
    names
        Of the points, three or more different ones.

    Returns
    -------
    dict[str, float]
        ``neighbour``: share of points whose nearest other one in the map has the same name.
        ``distances``: correlation, over pairs of names, of the distances of their means in the map
        and in the full space.

    Raises
    ------
    ValueError
        If there are fewer than three names, or sizes differ.
    """
    flat, deep = (np.asarray(one, dtype=np.float64) for one in (points, full))
    known, owner = np.unique(np.asarray(names), return_inverse=True)
    if not len(flat) == len(deep) == len(owner) or len(known) < 3:
        raise ValueError(
            f"map: got {len(flat)} points, {len(deep)} vectors and {len(known)} names of "
            f"{len(owner)}, expected as many of each, and three names"
        )
    apart = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    upper, far = np.triu_indices(len(known), 1), []
    for one in (flat, deep):
        means = np.stack([one[owner == group].mean(0) for group in range(len(known))])
        far.append(np.linalg.norm(means[:, None] - means[None], axis=-1)[upper])
    return {
        "neighbour": float((owner[apart.argmin(1)] == owner).mean()),
        "distances": float(np.corrcoef(far)[0, 1]),
    }
