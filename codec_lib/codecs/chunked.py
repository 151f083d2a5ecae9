r"""Encode and decode audio of any length by chunks with context, in little memory.

A chunk is run with as many frames before and after it as one output can depend on (the receptive
field), and only its own frames are kept. Where the receptive field is finite (the spectral
backbone, SEANet without LSTM) the codes equal those of the whole file. An LSTM remembers everything
and attention hears everything: there chunks differ from the whole near their borders, and
``exact=False`` must say that this is accepted.

Notebook: 10_speechtokenizer. Leaves out: real-time streaming. Read next: ``bitstream.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from codec_lib.blocks.conv import num_frames
from codec_lib.codecs.base import Codec
from codec_lib.codecs.checks import check_depth, check_speech, check_token_rate
from codec_lib.rate.segments import at_frame_rate
from codec_lib.shapes import Codes, check_shape

LSTM_CONTEXT_SECONDS = 2.0  # an LSTM's state is mostly forgotten after it; not exact


def is_exact(codec: Codec) -> bool:
    r"""Return whether chunks give what the whole file gives: True for finite receptive fields.

    Examples
    --------
    >>> from codec_lib.codecs.registry import build
    >>> is_exact(build("speechtokenizer", "smoke"))
    True
    """
    return None not in codec.receptive_fields


def encode_blocks(
    codec: Codec,
    blocks: Iterable[Tensor],
    n_q: int | None = None,
    chunk_seconds: float = 20.0,
    exact: bool = True,
    token_rate: float | None = None,
) -> Codes:
    r"""Encode a waveform that arrives in blocks, e.g. from ``audio.read_blocks``.

    Parameters
    ----------
    codec
        Any codec.
    blocks
        Pieces of one waveform in order, each (1, t) float32 at the codec's rate, of any lengths.
    n_q
        Codebooks to use; None for all.
    chunk_seconds
        Length of a chunk, s; memory grows with it, overhead shrinks with it.
    exact
        False accepts a codec whose chunks are not exact.
    token_rate
        As in ``codec.encode``. Below the frame rate memory grows: three times the latent, 12 D
        bytes a frame, and the table of ``rate.schedule`` (20 minutes at 80 Hz, D = 64: 235 MB).

    Returns
    -------
    Codes
        Of the whole waveform, shape (1, n_q, F), or (1, n_q, K) with lengths; on the CPU.

    Raises
    ------
    ValueError
        If the codec is not exact and ``exact`` is True, or there is no audio.

    Examples
    --------
    >>> from codec_lib.codecs.registry import build
    >>> codec = build("speechtokenizer", "smoke")
    >>> encode_blocks(codec, [torch.zeros(1, 10000)] * 4, n_q=2).codes.shape
    torch.Size([1, 2, 125])
    """
    context = _context(codec, "encoder", exact)
    chunk = _chunk_frames(codec, chunk_seconds)
    n_q = check_depth(n_q, codec.num_quantizers)
    rate = codec.token_rate if token_rate is None else token_rate
    is_fixed = check_token_rate(rate, codec.frame_rate, codec.max_length) == codec.frame_rate
    kept, num_samples = [], 0
    for window, skip, keep, seen in _windows(blocks, codec.hop_length, chunk, context):
        check_speech(window[None], codec.sample_rate)
        z = codec.latents(window[None].to(codec.device))[..., skip : skip + keep]
        kept.append((codec.to_codes(z, 1, n_q, codec.frame_rate).codes if is_fixed else z).cpu())
        num_samples = seen
    if not kept:
        raise ValueError("blocks: got no samples, expected at least one")
    whole, kept = torch.cat(kept, dim=-1), []
    if is_fixed:
        return Codes(whole, num_samples)
    return codec.to_codes(whole.to(codec.device), num_samples, n_q, rate).to("cpu")


def encode_long(
    codec: Codec,
    wav: Tensor,
    n_q: int | None = None,
    chunk_seconds: float = 20.0,
    exact: bool = True,
    token_rate: float | None = None,
) -> Codes:
    r"""Encode one waveform that is in memory, on any device; the codes are on the CPU.

    Parameters
    ----------
    wav
        Shape (1, 1, T).
    codec, n_q, chunk_seconds, exact, token_rate
        As in ``encode_blocks``.
    """
    check_shape(wav, "1 1 T", name="wav")
    chunk = _chunk_frames(codec, chunk_seconds) * codec.hop_length
    blocks = wav[0].split(chunk, dim=-1)
    return encode_blocks(codec, blocks, n_q, chunk_seconds, exact, token_rate)


def decode_blocks(
    codec: Codec,
    codes: Codes,
    layers: Sequence[int] | None = None,
    chunk_seconds: float = 20.0,
    exact: bool = True,
) -> Iterator[Tensor]:
    r"""Decode codes of any length, yielding the waveform in blocks.

    Parameters
    ----------
    codec, chunk_seconds, exact
        As in ``encode_blocks``.
    codes
        Shape (B, K, F), or (B, K, S) with lengths.
    layers
        Codebooks to use, as in ``codec.decode``.

    Yields
    ------
    Tensor
        The next samples, shape (B, 1, t), on the CPU; ``codes.num_samples`` in all.

    Raises
    ------
    ValueError
        If the codec is not exact and ``exact`` is True, or the codes are of another codec.
    """
    codec.check_codes(codes)
    codes = at_frame_rate(codes)
    hop, frames = codec.hop_length, codes.codes.shape[-1]
    codes = codes if layers is None else codes.select(layers)
    context = _context(codec, "decoder", exact)
    chunk = _chunk_frames(codec, chunk_seconds)
    return (
        _decode_window(codec, codes, first, min(first + chunk, frames), context)
        for first in range(0, frames, chunk)
        if first * hop < codes.num_samples
    )


def decode_long(
    codec: Codec,
    codes: Codes,
    layers: Sequence[int] | None = None,
    chunk_seconds: float = 20.0,
    exact: bool = True,
) -> Tensor:
    r"""Decode to one waveform, shape (B, 1, T), on the CPU.

    Parameters
    ----------
    codec, codes, layers, chunk_seconds, exact
        As in ``decode_blocks``.
    """
    return torch.cat(list(decode_blocks(codec, codes, layers, chunk_seconds, exact)), dim=-1)


def _windows(
    blocks: Iterable[Tensor], hop: int, chunk: int, context: int
) -> Iterator[tuple[Tensor, int, int, int]]:
    """Yield windows (1, t) of a chunk with context, and which of their frames to keep.

    Each comes with the frames to skip, the frames to keep and the samples seen so far.
    """
    buffer = torch.zeros(1, 0)
    start = done = total = 0  # frames: where the buffer starts, what was yielded; samples seen
    for block in blocks:
        check_shape(block, "1 t", name="block")
        total += block.shape[-1]
        buffer = torch.cat([buffer.to(block), block], dim=-1)
        while buffer.shape[-1] >= (done + chunk + context - start) * hop:
            yield buffer[:, : (done + chunk + context - start) * hop], done - start, chunk, total
            done += chunk
            forget = max(0, done - context - start)
            buffer, start = buffer[:, forget * hop :], start + forget
    rest = num_frames(total, hop) - done
    if rest:
        yield buffer, done - start, rest, total


def _decode_window(codec: Codec, codes: Codes, first: int, last: int, context: int) -> Tensor:
    """Decode frames first .. last with context around them and return their samples."""
    hop, frames = codec.hop_length, codes.codes.shape[-1]
    start, end = max(0, first - context), min(frames, last + context)
    part = Codes(codes.codes[..., start:end], (end - start) * hop, layers=codes.layers)
    wav = codec.decode(part.to(codec.device))[..., (first - start) * hop :]
    return wav[..., : min(last * hop, codes.num_samples) - first * hop].cpu()


def _context(codec: Codec, part: str, exact: bool) -> int:
    """Return the frames of context of encoder or decoder, or raise where they cannot suffice."""
    field = codec.receptive_fields[part == "decoder"]
    if field is not None:
        return field
    if exact:
        raise ValueError(
            f"exact: got True, but the {part} of {codec.name} has an LSTM or attention and depends "
            "on the whole file; exact=False accepts results that differ near chunk borders"
        )
    return round(LSTM_CONTEXT_SECONDS * codec.frame_rate)


def _chunk_frames(codec: Codec, chunk_seconds: float) -> int:
    """Return the frames of a chunk."""
    if not chunk_seconds > 0:
        raise ValueError(f"chunk_seconds: got {chunk_seconds}, expected more than 0")
    return max(1, round(chunk_seconds * codec.frame_rate))
