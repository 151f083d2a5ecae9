r"""From frames to tokens and back: averaging and repeating by the lengths of segments.

[CodecSlime], Eq. (1): the frames of a segment are replaced by their mean, which is quantized once
and repeated for the decoder. A batch may have different numbers of segments, so its tokens stand in
one row behind each other; quantizers work frame by frame and do not mind. Notebook: 14_codecslime.
Leaves out: weighted means. Read next:
``quantized.py``.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from codec_lib.shapes import Codes, check_shape


def token_index(lengths: Tensor, frames: int) -> Tensor:
    r"""Return which token each frame belongs to, counted through the whole batch.

    Parameters
    ----------
    lengths
        Frames of each segment, shape (B, K), int64; 0 after an item's last one.
    frames
        Frames F of every item, the sum of its lengths.

    Returns
    -------
    Tensor
        Shape (B, F), int64, from 0 to N - 1, N segments in all.

    Raises
    ------
    TypeError, ValueError
        If the lengths are no whole numbers >= 0 of sum F, or a 0 stands before a segment.

    Examples
    --------
    >>> token_index(torch.tensor([[2, 1, 0], [1, 1, 1]]), frames=3)
    tensor([[0, 0, 1],
            [2, 3, 4]])
    """
    check_shape(lengths, "B K", name="lengths")
    if lengths.dtype != torch.int64:
        raise TypeError(f"lengths: got dtype {lengths.dtype}, expected torch.int64")
    used = lengths > 0
    gaps = (~used[:, :-1] & used[:, 1:]).any()
    if bool((lengths < 0).any() | (lengths.sum(dim=1) != frames).any() | gaps):
        raise ValueError(
            f"lengths: got rows of sums {lengths.sum(dim=1).tolist()}, expected numbers >= 1 "
            f"of sum {frames}, then zeros"
        )
    ends = lengths.cumsum(dim=1)  # (B, K)
    time = torch.arange(frames, device=lengths.device).expand(len(lengths), frames).contiguous()
    within = torch.searchsorted(ends, time, right=True)  # (B, F), 0 to K_b - 1
    before = used.sum(dim=1).cumsum(dim=0) - used.sum(dim=1)  # tokens of the items before, (B,)
    return within + before[:, None]


def average(z: Tensor, index: Tensor) -> Tensor:
    r"""Return every segment's mean frame, Eq. (1), with gradient.

    Parameters
    ----------
    z
        Frames, shape (B, D, F).
    index
        Of ``token_index``, shape (B, F).

    Returns
    -------
    Tensor
        Tokens of the whole batch in one row, shape (1, D, N). On CUDA the order of a sum is not
        fixed, and with it the last bit.

    Examples
    --------
    >>> z = torch.tensor([[[1.0, 3.0, 5.0]]])
    >>> average(z, token_index(torch.tensor([[2, 1]]), 3))
    tensor([[[2., 5.]]])
    """
    sizes = check_shape(z, "B D F", name="z")
    check_shape(index, "B F", name="index", B=sizes["B"], F=sizes["F"])
    width = sizes["D"]
    flat = index.flatten()
    frames = z.transpose(0, 1).flatten(1)  # (D, B F)
    wide = frames if z.dtype == torch.float64 else frames.float()  # sums of halves lose digits
    count = torch.bincount(flat).to(wide.dtype)  # (N,)
    sums = wide.new_zeros(width, len(count)).index_add(1, flat, wide)
    return (sums / count)[None].to(z.dtype)


def repeat(tokens: Tensor, index: Tensor) -> Tensor:
    r"""Return every token as often as its segment is long: (1, D, N) -> (B, D, F), with gradient.

    Examples
    --------
    >>> repeat(torch.tensor([[[2.0, 5.0]]]), torch.tensor([[0, 0, 1]]))
    tensor([[[2., 2., 5.]]])
    """
    return tokens[0][:, index].transpose(0, 1)


def to_items(tokens: Tensor, lengths: Tensor) -> Tensor:
    r"""Return a batch's tokens item by item: (1, K, N) -> (B, K, longest), 0 where none is.

    Examples
    --------
    >>> to_items(torch.tensor([[[7, 8, 9]]]), torch.tensor([[2, 1], [3, 0]])).tolist()
    [[[7, 8]], [[9, 0]]]
    """
    used = lengths > 0  # (B, S)
    rows = tokens.new_zeros(*used.shape, tokens.shape[1])
    rows[used] = tokens[0].T
    return rows.transpose(1, 2)


def to_row(rows: Tensor, lengths: Tensor) -> Tensor:
    r"""Undo ``to_items``: (B, K, S) -> (1, K, N)."""
    return rows.transpose(1, 2)[lengths > 0].T[None]


def at_frame_rate(codes: Codes) -> Codes:
    r"""Return codes with every code written out as often as its segment is long, (B, K, F).

    Codes without lengths come back as they are. Raises ``ValueError`` as ``token_index`` does.

    Examples
    --------
    >>> short = Codes(torch.tensor([[[7, 8]]]), num_samples=600, lengths=torch.tensor([[2, 1]]))
    >>> at_frame_rate(short).codes.tolist()
    [[[7, 7, 8]]]
    """
    if codes.lengths is None:
        return codes
    index = token_index(codes.lengths, int(codes.lengths[0].sum()))
    frames = repeat(to_row(codes.codes, codes.lengths), index)
    return replace(codes, codes=frames, lengths=None)
