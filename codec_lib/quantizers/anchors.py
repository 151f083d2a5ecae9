r"""Anchor tables: k-means centroids of a speech model as one small file.

SACodec's are the 1000 units of mHuBERT's layer 11, published as a joblib file; ``convert`` reads
the numbers without running what a pickle asks for. Offline, those of our own teacher
(``teachers/anchors.py``) or a random table stand in.

Notebook: ``12_sacodec``. Left out: running the speech model. Read next: ``health.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codec_lib.quantizers.rows import check_sizes


def random_anchor(num_anchors: int, width: int, seed: int = 0) -> Tensor:
    r"""Return a frozen random table (N, S), the control for anchors that mean something.

    Parameters
    ----------
    num_anchors, width
        N and S.
    seed
        Of the draw: the same numbers on every machine.

    Returns
    -------
    Tensor
        Normal with variance 1 / S, so that rows have length 1, as in SimVQ.
    """
    check_sizes(num_anchors=num_anchors, width=width)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_anchors, width, generator=generator) * width**-0.5
