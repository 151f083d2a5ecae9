r"""k-means units: fitted on bounded memory, assigned frame by frame, kept in one small file.

[Lloyd 1982]; mini-batch form [Sculley 2010] with the settings of HuBERT's published recipe, but
with fewer starts (``PUBLISHED_FIT`` has all). Units belong to a layer of a teacher: fitted on one
and used on another they are wrong without any sign of it, so their file names both and is refused
for others. Used by notebooks 10, 20, 21 and 34. Leaves out: product and residual clustering
(``quantizers``). Read next: ``pretraining.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from codec_lib.quantizers.search import half_norms, nearest
from codec_lib.shapes import check_shape

if TYPE_CHECKING:
    from .features import Teacher  # imports this package's audio side, which units do not need

PUBLISHED_FIT = {"n_init": 20, "max_no_improvement": 100}
"""Starts and patience of HuBERT's recipe, for ``fit_kmeans``; several times slower."""


class KMeans(nn.Module):
    r"""Centres, and the nearest of them for every frame.

    Parameters
    ----------
    centres
        Shape (N, D), float32.
    layer
        Hidden state that the units are of, or ``"avg"``; None if unknown.
    teacher
        Fingerprint of the teacher; empty if unknown, or for features that no teacher made.

    Examples
    --------
    >>> kmeans = KMeans(torch.tensor([[0.0], [10.0]]))
    >>> kmeans(torch.tensor([[[1.0], [9.0]]])).tolist()
    [[0, 1]]
    """

    def __init__(self, centres: Tensor, layer: int | str | None = None, teacher: str = "") -> None:
        super().__init__()
        self.layer, self.teacher = layer, teacher
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
            Shape (..., F, D), any float type.
        block
            Frames brought to float32 at once.

        Returns
        -------
        Tensor
            Shape (..., F), int64; of equally near centres the first, see ``search.nearest``.

        Raises
        ------
        ValueError
            If D is another.
        """
        if features.shape[-1] != self.dim:
            raise ValueError(f"features: got width {features.shape[-1]}, expected {self.dim}")
        rows, half = features.reshape(-1, self.dim), half_norms(self.centres)
        found = [nearest(part.float(), self.centres, half) for part in rows.split(block)]
        return torch.cat(found).view(features.shape[:-1])

    def units_of(self, teacher: Teacher) -> Callable[[Tensor], Tensor]:
        r"""Return the function from a waveform (1, 1, T) to the units (1, F) of its frames.

        Parameters
        ----------
        teacher
            The one whose layer the units are of.

        Raises
        ------
        ValueError
            If the units are of another teacher, or do not know their layer.
        """
        self.check(teacher)
        if self.layer is None:
            raise ValueError("kmeans: got units without a layer; hint: KMeans(centres, layer=...)")
        return lambda wav: self(teacher.features(wav, self.layer).cpu())

    def check(self, teacher: Teacher | None = None, layer: int | str | None = None) -> None:
        r"""Raise ``ValueError`` if the units are known to be of another teacher or layer.

        Parameters
        ----------
        teacher
            Compared by its fingerprint; None is not compared.
        layer
            None is not compared.
        """
        if teacher is not None and self.teacher and self.teacher != teacher.fingerprint:
            raise ValueError(
                f"kmeans: got a teacher with fingerprint {teacher.fingerprint}, expected "
                f"{self.teacher}, which the units are of; hint: fit units on this teacher, as "
                "saved (half precision changes the fingerprint)"
            )
        if layer is not None and self.layer not in (None, layer):
            raise ValueError(f"kmeans: got layer {layer!r}, expected {self.layer!r}, as fitted")


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
    features: Iterable[Tensor],
    num_units: int = 100,
    max_frames: int = 200_000,
    seed: int = 0,
    n_init: int = 3,
    max_no_improvement: int = 50,
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
    n_init, max_no_improvement
        Starts, of which the best goes on; batches without improvement after which to end. As
        published: ``**PUBLISHED_FIT``.

    Returns
    -------
    KMeans
        The units; set their ``layer`` and ``teacher`` where there is one.

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
        max_no_improvement=max_no_improvement,
        n_init=n_init,
        reassignment_ratio=0.0,
        random_state=seed,
    ).fit(rows.numpy())
    return KMeans(torch.from_numpy(fitted.cluster_centers_).float())


def save_kmeans(kmeans: KMeans, path: str | Path, card: dict | None = None) -> Path:
    r"""Write the centres to a .safetensors file, in full precision, with layer and teacher.

    Parameters
    ----------
    kmeans, path
        The units and their file.
    card
        Anything JSON can hold that says how they were made.
    """
    from codec_lib import hub

    known = {"num_units": kmeans.num_units, "dim": kmeans.dim, "layer": kmeans.layer}
    known = {**known, "teacher": kmeans.teacher} if kmeans.teacher else known
    return hub.save_module(kmeans, path, half=False, metadata={**(card or {}), **known})


def load_kmeans(
    name_or_path: str | Path, teacher: Teacher | None = None, layer: int | str | None = None
) -> KMeans:
    r"""Read units that ``save_kmeans`` wrote.

    Parameters
    ----------
    name_or_path
        Name in ``data/checkpoints``, or file.
    teacher, layer
        What they are to be used on; each is checked by itself, and not where it is None.

    Returns
    -------
    KMeans
        The units.

    Raises
    ------
    ValueError
        If the file holds no units, or they are of another teacher or layer.
    """
    from codec_lib import hub

    def build(card: dict) -> KMeans:
        if not {"num_units", "dim"} <= card.keys():
            raise ValueError(f"{name_or_path}: got no k-means units, expected a file of them")
        empty = torch.zeros(card["num_units"], card["dim"])
        return KMeans(empty, card.get("layer"), card.get("teacher", ""))

    kmeans = hub.load_module(name_or_path, build)
    kmeans.check(teacher, layer)
    return kmeans
