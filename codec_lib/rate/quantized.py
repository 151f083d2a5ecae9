r"""A quantizer at a dynamic frame rate: one code for every segment, and what the lengths cost.

[CodecSlime], Eq. (1), prints the average copied back to F frames, which are then quantized; its
release quantizes the K averages. The codes are the same. In training the losses differ: the first
form counts a token as often as its segment is long, the second once. Notebook: 14_codecslime.
Leaves out: choosing the segments (``schedule.py``, ``melt.py``). Read next: ``melt.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codec_lib.quantizers.bottleneck import Bottleneck
from codec_lib.rate.segments import average, repeat, to_items, token_index
from codec_lib.shapes import QuantizerOutput

FORMS = ("tokens", "frames")


def quantize_segments(
    quantizer: Bottleneck,
    z: Tensor,
    lengths: Tensor,
    n_q: int | Tensor | None = None,
    form: str = "tokens",
) -> QuantizerOutput:
    r"""Quantize the mean frame of every segment, with gradient.

    Parameters
    ----------
    quantizer
        Any quantizer of the library; in training mode it learns.
    z
        Latent, shape (B, D, F).
    lengths
        Frames of each segment, shape (B, S), int64; 0 after an item's last one.
    n_q
        Streams to use, as in ``Bottleneck.forward``.
    form
        ``"tokens"``: losses and codebook statistics count every token once; ``"frames"``: once for
        every frame, as Eq. (1) is printed.

    Returns
    -------
    QuantizerOutput
        ``z_q`` and ``layers`` at the frame rate, (B, D, F); ``codes`` (B, n_q, S), 0 where an item
        has no segment.

    Raises
    ------
    ValueError
        If the lengths do not fit the latent, or the form is unknown.
    """
    if form not in FORMS:
        raise ValueError(f"form: got {form!r}, expected one of {FORMS}")
    index = token_index(lengths, z.shape[-1])
    tokens = average(z, index)  # (1, D, N)
    if form == "frames":
        out = quantizer(repeat(tokens, index), n_q=n_q)
        row = out.codes.new_empty(1, out.codes.shape[1], tokens.shape[2])
        row[0][:, index.flatten()] = out.codes.transpose(0, 1).flatten(1)  # equal within a segment
        return QuantizerOutput(out.z_q, to_items(row, lengths), out.losses, out.layers)
    if n_q is None and quantizer.training and quantizer.quantizer_dropout > 0:
        n_q = quantizer.draw_depths(len(z))
    if isinstance(n_q, Tensor):
        n_q = n_q.to(lengths.device).repeat_interleave((lengths > 0).sum(dim=1))  # one a token
    out = quantizer(tokens.transpose(0, 2), n_q=n_q)  # (N, D, 1): every token is an item
    return QuantizerOutput(
        z_q=repeat(out.z_q.transpose(0, 2), index),
        codes=to_items(out.codes.transpose(0, 2), lengths),
        losses=out.losses,
        layers=[repeat(layer.transpose(0, 2), index) for layer in out.layers],
    )


def length_bits(lengths: Tensor) -> float:
    r"""Return the entropy of the lengths in use, bit a token: what an ideal coder would pay.

    .. math:: H = -\sum_{s=1}^{U} p_s \log_2 p_s

    Parameters
    ----------
    lengths
        Frames of each segment, any shape, int64; zeros do not count.

    Raises
    ------
    ValueError
        If there is no segment.

    Examples
    --------
    >>> length_bits(torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4]]))
    2.0
    """
    counts = torch.bincount(lengths[lengths > 0]).double()
    if not counts.numel():
        raise ValueError("lengths: got no segment, expected at least one")
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * shares.log2()).sum())
