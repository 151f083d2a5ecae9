r"""mHuBERT's 1000 units: the nearest centroid of layer 11, as vocoders and codecs use them.

[Lee et al. 2022, Textless S2ST]: HuBERT base, third iteration, on English, Spanish and French of
VoxPopuli; k-means of 1000 on layer 11, 50 units a second. SACodec's first codebook is the same
table of centroids.

Which layer 11: fairseq's ``extract_features(output_layer=11)`` counts from 1 and returns what
leaves the 11th of 12 layers, residual and norm included: ``hidden_states[11]`` here and in
transformers. (fairseq also lists what leaves a layer's feed-forward part before the residual; code
that takes units from those, e.g. minimal_hubert by default, makes other units.)

Used by notebook 12. Leaves out: the vocoder. Read next: ``anchors.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from .anchors import MHUBERT, read_centroids
from .kmeans import KMeans
from .pretrained import PretrainedTeacher, pretrained, published_file

UNITS_FILE = MHUBERT.rpartition("/")[2]
UNITS_SIZE = "3 MB"


class UnitsOfLayer(nn.Module):
    r"""Function from a waveform to the nearest centroid of every frame.

    Parameters
    ----------
    teacher
        Its hidden states are compared with the centroids.
    kmeans
        The centroids.
    layer
        Which hidden state.
    published_frames
        True makes the frames of the published model, floor((T - 400) / 320) + 1 of them; False one
        for every frame of a codec, ceil(T / 320), centred on it.
    """

    def __init__(
        self,
        teacher: PretrainedTeacher,
        kmeans: KMeans,
        layer: int = 11,
        published_frames: bool = False,
    ) -> None:
        super().__init__()
        if type(layer) is not int or not 0 <= layer <= teacher.num_layers:
            raise ValueError(f"layer: got {layer!r}, expected 0 to {teacher.num_layers}")
        if kmeans.dim != teacher.dim:
            raise ValueError(f"centroids: got width {kmeans.dim}, expected {teacher.dim}")
        self.teacher, self.kmeans, self.layer = teacher, kmeans, layer
        self.published_frames, self.num_units = published_frames, kmeans.num_units

    @torch.no_grad()
    def forward(self, wav: Tensor) -> Tensor:
        r"""Return the units (B, F), int64, of a waveform (B, 1, T) at 16 kHz."""
        if self.published_frames:
            return self.kmeans(self.teacher.hidden_states(wav)[self.layer])
        return self.kmeans(self.teacher.features(wav, self.layer))


def mhubert_units(
    path: str | Path | None = None,
    centroids: str | Path | None = None,
    layer: int = 11,
    published_frames: bool = False,
    download: bool = False,
) -> Callable[[Tensor], Tensor]:
    r"""Load mHuBERT and its units from disk.

    Parameters
    ----------
    path
        fairseq's checkpoint; by default where torch.hub keeps it.
    centroids
        The joblib file of the k-means; by default beside the checkpoint.
    layer, published_frames
        See ``UnitsOfLayer``.
    download
        True fetches what is missing.

    Returns
    -------
    UnitsOfLayer
        Function from a waveform (1, 1, T) at 16 kHz to units (1, F).

    Raises
    ------
    ValueError
        If a file is not there (the message names file, size, address and place) or does not fit.
    """
    teacher = pretrained("mhubert_base", path, download)
    file = published_file(
        "mhubert_base's units", UNITS_FILE, MHUBERT, UNITS_SIZE, centroids, download
    )
    return UnitsOfLayer(teacher, KMeans(read_centroids(file)), layer, published_frames)
