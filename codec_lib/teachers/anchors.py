r"""Make tables of anchors: from fairseq's published units, or from a layer of our own teacher.

[SACodec]: the centroids of mHuBERT's layer 11, 1000 x 768, are the first codebook. The published
file is read without running it (``joblib_file.py``); offline, the k-means centroids of
``hubert-small`` take their place. Notebook: ``12_sacodec``. Left out: the codebook itself
(``quantizers/anchored.py``). Read next: ``features.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec_lib import hub
from codec_lib.data import Corpus
from codec_lib.quantizers.anchors import TABLE

from .hubert import SmallHubert
from .iterations import fit_units, layer_extractor
from .joblib_file import Record, read_joblib

MHUBERT = "https://dl.fbaipublicfiles.com/hubert/mhubert_base_vp_en_es_fr_it3_L11_km1000.bin"


def read_centroids(path: str | Path) -> Tensor:
    r"""Return the centroids (N, S), float32, of a published k-means file, running nothing of it.

    Raises
    ------
    ValueError
        If the file is not there, asks for more than numbers, or holds no k-means.
    """
    if not Path(path).is_file():
        raise ValueError(f"file: got {path}, expected a k-means file. Hint: SACodec's is {MHUBERT}")
    found = read_joblib(path)
    state = found.state if isinstance(found, Record) else None
    centres = state.get("cluster_centers_") if isinstance(state, dict) else None
    if not isinstance(centres, np.ndarray) or centres.ndim != 2:
        raise ValueError(f"{path}: got no cluster_centers_ (N, S), expected a fitted k-means")
    if not np.isfinite(centres).all():
        raise ValueError(f"{path}: got NaN or infinite centroids, expected finite ones")
    return torch.from_numpy(centres.astype(np.float32))


def fit_anchor(
    teacher: SmallHubert,
    corpus: Corpus,
    num_units: int = 1000,
    layer: int | None = None,
    max_frames: int = 100_000,
    seed: int = 0,
) -> Tensor:
    r"""Return the k-means centroids (N, S), float32, of a teacher's layer.

    Parameters
    ----------
    teacher
        E.g. ``load_teacher("hubert-small")``; its features are standardised.
    corpus
        Speech at 16 kHz.
    num_units
        Centroids N.
    layer
        Hidden state; None is the last but one, as mHuBERT's 11 of 12.
    max_frames, seed
        As in ``fit_units``.
    """
    chosen = teacher.num_layers - 1 if layer is None else layer
    extract = layer_extractor(teacher, chosen)
    return fit_units(corpus, extract, num_units, max_frames, seed).centres


def save_anchor(table: Tensor, path: str | Path, card: dict[str, Any] | None = None) -> Path:
    r"""Write a table (N, S) for ``load_anchor``, in half precision.

    Parameters
    ----------
    table, path
        The anchors and their .safetensors file.
    card
        Anything JSON can hold that says how they were made.
    """
    return hub.save_tensors({TABLE: table}, path, half=True, described={"card": card or {}})
