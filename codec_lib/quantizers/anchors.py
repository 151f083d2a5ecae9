r"""Anchor tables: k-means centroids of a speech model as one small file, and their random control.

SACodec's are the 1000 units of mHuBERT's layer 11, 1000 x 768; ``teachers/anchors.py`` converts the
published file or makes a table from our own teacher. ``hubert-small-km1000`` ships with the course.

Notebook: ``12_sacodec``. Left out: running a speech model. Read next: ``health.py``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from codec_lib.paths import data_root
from codec_lib.quantizers.rows import check_sizes
from codec_lib.shapes import check_shape

TABLE = "centres"
"""Name of the one tensor in the file, (N, S); that of ``KMeans`` too."""


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

    Examples
    --------
    >>> random_anchor(1000, 64).norm(dim=1).mean().round()
    tensor(1.)
    """
    check_sizes(num_anchors=num_anchors, width=width)
    generator = torch.Generator("cpu").manual_seed(seed)
    table = torch.randn(num_anchors, width, generator=generator, device="cpu") * width**-0.5
    return table.to(torch.get_default_device())


def random_anchor_like(table: Tensor, seed: int = 0) -> Tensor:
    r"""Return frozen random rows with the mean and the covariance of a table's rows.

    .. math:: C' = \mathbf{1} m^\top + G\, (C - \mathbf{1} m^\top) / \sqrt{N - 1}, \quad
              G_{ij} \sim \mathcal{N}(0, 1)

    The fair control: what is left out is only where the rows of C lie within their own cloud. A
    table of another scale (``random_anchor``) can lose merely because a latent is far from it.

    Parameters
    ----------
    table
        Anchors C, shape (N, S), N at least 2.
    seed
        Of the draw: the same numbers on every machine.

    Returns
    -------
    Tensor
        Shape, device and dtype of ``table``.

    Examples
    --------
    >>> table = 3 + 2 * random_anchor(1000, 8, seed=1)
    >>> random_anchor_like(table).std().sub(table.std()).abs() < 0.05
    tensor(True)
    """
    size, _ = check_shape(table, "N S", name="table").values()
    if size < 2:
        raise ValueError(f"table: got {size} row, expected at least 2 to have a covariance")
    generator = torch.Generator("cpu").manual_seed(seed)
    draw = torch.randn(size, size, generator=generator, device="cpu").to(table)  # G, (N, N)
    mean = table.mean(dim=0)  # m, (S,)
    return mean + draw @ (table - mean) * (size - 1) ** -0.5


def load_anchor(name_or_path: str | Path) -> Tensor:
    r"""Read a table of anchors.

    Parameters
    ----------
    name_or_path
        A file of ``data/anchors`` without its suffix, or a path.

    Returns
    -------
    Tensor
        Shape (N, S), float32.

    Raises
    ------
    ValueError
        If there is no such file, or it holds no table.
    """
    folder, path = data_root() / "anchors", Path(name_or_path)
    if not path.is_file():
        path = folder / f"{name_or_path}.safetensors"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.safetensors")))
        raise ValueError(
            f"anchor: got {str(name_or_path)!r}, expected a file or one of {known}. "
            "Hint: codec-lib anchors --help tells how to make one"
        )
    try:
        with safe_open(path, framework="pt") as file:
            table = file.get_tensor(TABLE).float()
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: got a file without a table of anchors ({error}), expected safetensors with "
            f"{TABLE!r}. Hint: a published .bin is converted by codec-lib anchors convert"
        ) from error
    if table.ndim != 2:
        raise ValueError(f"{path}: got shape {tuple(table.shape)}, expected (N, S)")
    return table
