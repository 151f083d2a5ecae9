r"""What every quantizer does at its edges: latents to rows and back, and checks of what comes in.

A quantizer works on rows, one latent vector each, (B*F, D); the rest of the library on latents
(B, D, F).

Read next: ``ranks.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_rows(z: Tensor) -> Tensor:
    """Turn a latent (B, D, F) into rows (B*F, D), float32."""
    return z.transpose(1, 2).reshape(-1, z.shape[1]).float()


def from_rows(rows: Tensor, batch: int, frames: int) -> Tensor:
    r"""Turn rows back into a latent.

    Parameters
    ----------
    rows
        Shape (B*F, D).
    batch, frames
        B and F.

    Returns
    -------
    Tensor
        Shape (B, D, F).
    """
    return rows.view(batch, frames, rows.shape[1]).transpose(1, 2)


def check_codes(codes: Tensor, codebook_sizes: int | Sequence[int]) -> None:
    r"""Raise TypeError unless codes are int64, ValueError unless all lie in [0, N).

    ``codebook_sizes`` is N, or one N for each of the K rows of codes (B, K, F).
    """
    if codes.dtype != torch.int64:
        raise TypeError(f"codes: got dtype {codes.dtype}, expected torch.int64")
    if codes.numel() == 0:
        return
    one_size = isinstance(codebook_sizes, int) or len(set(codebook_sizes)) == 1
    rows = [codes] if one_size else codes.unbind(1)
    sizes = [codebook_sizes] if isinstance(codebook_sizes, int) else codebook_sizes
    for row, size in zip(rows, sizes, strict=False):
        low, high = (int(bound) for bound in row.aminmax())
        if low < 0 or high >= size:
            raise ValueError(
                f"codes: got values from {low} to {high}, expected 0 to {size - 1}. "
                "Codes of another codec, or padding?"
            )


def check_sizes(**sizes: int) -> None:
    """Raise ValueError for a size below 1, naming it."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: got {size}, expected at least 1")


def check_choice(name: str, got: str, known: tuple[str, ...]) -> None:
    r"""Raise ValueError unless a name is known.

    Parameters
    ----------
    name
        Argument, for the message.
    got
        What the caller gave.
    known
        What it may be.
    """
    if got not in known:
        raise ValueError(f"{name}: got {got!r}, expected one of {', '.join(known)}")
