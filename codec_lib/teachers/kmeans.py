r"""k-means units: fitted on bounded memory, assigned frame by frame, kept in one small file.

[Lloyd 1982]; mini-batch form [Sculley 2010] with the settings of HuBERT's published recipe. Used
by notebook 10. Leaves out: product and residual clustering (``quantizers``).
Read next: ``pretraining.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from codec_lib.shapes import check_shape


class KMeans(nn.Module):
    r"""Centres, and the nearest of them for every frame.

    Parameters
    ----------
    centres
        Shape (N, D), float32.

    Examples
    --------
    >>> kmeans = KMeans(torch.tensor([[0.0], [10.0]]))
    >>> kmeans(torch.tensor([[[1.0], [9.0]]])).tolist()
    [[0, 1]]
    """

    def __init__(self, centres: Tensor) -> None:
        super().__init__()
        sizes = check_shape(centres, "N D", name="centres")
        self.num_units, self.dim = sizes["N"], sizes["D"]
        self.register_buffer("centres", centres.float())

    @torch.no_grad()
    def forward(self, features: Tensor, block: int = 65536) -> Tensor:
        r"""Return the unit of every frame.

        .. math:: c_f = \arg\min_c \lVert x_f - \mu_c \rVert^2

        Parameters
        ----------
        features
            Shape (..., F, D).
        block
            Frames compared at once; bounds the memory to ``block * N`` numbers.

        Returns
        -------
        Tensor
            Shape (..., F), int64.

        Raises
        ------
        ValueError
            If D is another.
        """
        if features.shape[-1] != self.dim:
            raise ValueError(f"features: got width {features.shape[-1]}, expected {self.dim}")
        half_norms = self.centres.square().sum(1) / 2  # (N,)
        rows = features.reshape(-1, self.dim).split(block)
        found = [(row.float() @ self.centres.T - half_norms).argmax(1) for row in rows]
        return torch.cat(found).view(features.shape[:-1])


def sample_frames(
    features: Iterable[Tensor], max_frames: int, seed: int = 0, expected_frames: int | None = None
) -> Tensor:
    r"""Keep an even random sample of the frames of many utterances, on bounded memory.

    Parameters
    ----------
    features
        One tensor (F, D) per utterance.
    max_frames
        Frames to keep at most; memory is twice as many rows.
    seed
        Of the choice.
    expected_frames
        Not needed; where known, frames that will not be kept are dropped at once, which is faster.

    Returns
    -------
    Tensor
        Shape (at most max_frames, D), float32.

    Raises
    ------
    ValueError
        If there are no frames.
    """
    rng = np.random.default_rng(seed)
    share = 1.0 if expected_frames is None else min(1.0, 1.5 * max_frames / expected_frames)
    kept: list[Tensor] = []
    keys: list[np.ndarray] = []
    for frames in features:
        if share < 1:
            frames = frames[torch.from_numpy(rng.random(len(frames)) < share)]
        kept.append(frames.detach().float().cpu())
        keys.append(rng.random(len(frames)))
        if sum(map(len, keys)) > 2 * max_frames:
            kept, keys = _smallest(kept, keys, max_frames)
    if not sum(map(len, keys)):
        raise ValueError("features: got no frames, expected at least one utterance")
    return _smallest(kept, keys, max_frames)[0][0]


def _smallest(kept: list[Tensor], keys: list[np.ndarray], count: int) -> tuple[list, list]:
    """Keep the rows with the smallest random keys: an even sample of all rows so far."""
    rows, key = torch.cat(kept), np.concatenate(keys)
    order = np.sort(np.argsort(key, kind="stable")[:count])
    return [rows[torch.from_numpy(order)]], [key[order]]


def fit_kmeans(
    features: Iterable[Tensor], num_units: int = 100, max_frames: int = 200_000, seed: int = 0
) -> KMeans:
    r"""Find cluster centres with mini-batch k-means.

    Parameters
    ----------
    features
        One tensor (F, D) per utterance, e.g. a generator.
    num_units
        Clusters N.
    max_frames
        Frames used at most, drawn evenly; 200,000 of width 192 are 150 MB.
    seed
        Of the sample and the start.

    Returns
    -------
    KMeans
        The units.

    Raises
    ------
    ValueError
        If there are fewer frames than units.
    """
    from sklearn.cluster import MiniBatchKMeans  # slow to import; only fitting needs it

    rows = sample_frames(features, max_frames, seed)
    if len(rows) < num_units:
        raise ValueError(f"features: got {len(rows)} frames, expected at least {num_units}")
    fitted = MiniBatchKMeans(
        num_units,
        init="k-means++",
        max_iter=100,
        batch_size=10_000,
        tol=0.0,
        max_no_improvement=50,
        n_init=3,
        reassignment_ratio=0.0,
        random_state=seed,
    ).fit(rows.numpy())
    return KMeans(torch.from_numpy(fitted.cluster_centers_).float())


def save_kmeans(kmeans: KMeans, path: str | Path, card: dict | None = None) -> Path:
    r"""Write the centres to a .safetensors file, in full precision.

    Parameters
    ----------
    kmeans, path
        The units and their file.
    card
        Anything JSON can hold that says how they were made.
    """
    from codec_lib import hub

    sizes = {"num_units": kmeans.num_units, "dim": kmeans.dim}
    return hub.save_module(kmeans, path, half=False, metadata={**sizes, **(card or {})})


def load_kmeans(name_or_path: str | Path) -> KMeans:
    r"""Read units that ``save_kmeans`` wrote."""
    from codec_lib import hub

    return hub.load_module(
        name_or_path, lambda card: KMeans(torch.zeros(card["num_units"], card["dim"]))
    )
