r"""Files of codes, packed to the bit: what a codec really sends.

A code of a codebook of N entries takes ceil(log2 N) bits, frame by frame, so the payload of one
second at a fixed rate is exactly ``codec.bitrate(n_q)`` bits. Layout, big-endian::

    "CLC" | version (1 byte) | header length (4) | CRC-32 of the rest (4) | header | payload

The header is JSON; in version 1 it named one size for all codebooks. Version 3 is for codes of a
dynamic frame rate: after the codes of a segment comes its length, less 1, in ceil(log2 U) bits, and
the segments of all items stand in one row. At a fixed rate version 2 is written. Leaves out:
entropy coding. Notebook: 00_start_here. Read next: ``cli.py``.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec_lib.blocks.conv import num_frames
from codec_lib.codecs.base import Codec
from codec_lib.rate.segments import to_items, to_row
from codec_lib.shapes import Codes

MAGIC, VERSION, DYNAMIC = b"CLC", 2, 3
SEQUENCES = ("codebook_sizes", "layers", "segments")
OF_SEGMENTS = ("max_length", "segments")  # fields that files of a fixed rate do not have
PREFIX = struct.Struct(">3sBII")  # magic, version, header length, CRC-32


@dataclass(frozen=True)
class CodesHeader:
    r"""What a file of codes says about itself.

    Attributes
    ----------
    codec, fingerprint
        Registry name and checkpoint of the codec; the fingerprint is empty for random weights.
    sample_rate, hop_length
        Hz, samples per frame.
    codebook_sizes
        Entries N of the codebook of each row; its codes take ceil(log2 N) bits.
    layers
        Codebook of each row.
    num_samples, batch, frames
        Sizes; frames are those of the codec, however many of them share a code.
    max_length, segments
        At a dynamic rate: the most frames U of a segment, and the segments of each item.
    """

    codec: str
    fingerprint: str
    sample_rate: int
    hop_length: int
    codebook_sizes: tuple[int, ...]
    layers: tuple[int, ...]
    num_samples: int
    batch: int
    frames: int
    max_length: int = 1
    segments: tuple[int, ...] = ()

    @property
    def bits(self) -> list[int]:
        """Bits of each row of the payload: a code of each codebook, then any segment's length."""
        lengths = [bits_per_code(self.max_length)] if self.segments else []
        return [*map(bits_per_code, self.codebook_sizes), *lengths]

    @property
    def columns(self) -> int:
        """Columns of the payload: segments, or frames, of all items."""
        return sum(self.segments) if self.segments else self.batch * self.frames

    @property
    def payload_bits(self) -> int:
        """Bits of all codes and lengths, without header and padding to a byte."""
        return self.columns * sum(self.bits)

    def check(self, codec: Codec) -> None:
        r"""Raise ``ValueError`` unless a codec can decode these codes."""
        for name, got, expected in (
            ("codec", self.codec, codec.name),
            ("sample_rate", self.sample_rate, codec.sample_rate),
            ("hop_length", self.hop_length, codec.hop_length),
            ("codebook_sizes", self.codebook_sizes, _sizes(codec, self.layers)),
            ("checkpoint", self.fingerprint, codec.fingerprint),
            ("max_length", self.max_length, codec.max_length if self.segments else 1),
        ):
            if got != expected:
                raise ValueError(
                    f"{name}: got codes of {got!r}, expected {expected!r}; "
                    "decode with the checkpoint that encoded"
                )


def bits_per_code(codebook_size: int) -> int:
    r"""Return ceil(log2 N), the bits that tell N entries apart.

    Examples
    --------
    >>> bits_per_code(1024), bits_per_code(1000), bits_per_code(1)
    (10, 10, 0)
    """
    return (codebook_size - 1).bit_length()


def pack(codes: Tensor, bits: Sequence[int]) -> bytes:
    r"""Pack codes (B, K, F) frame by frame, most significant bit first; ``bits`` of each row.

    Examples
    --------
    >>> pack(torch.tensor([[[1, 2], [3, 0]]]), bits=[2, 2]).hex()
    '78'
    """
    rows, shifts = _digits(bits)
    values = codes.permute(0, 2, 1).reshape(-1, codes.shape[1]).cpu().numpy()  # (B F, K)
    return np.packbits(((values[:, rows] >> shifts) & 1).astype(np.uint8)).tobytes()


def unpack(data: bytes, bits: Sequence[int], batch: int, frames: int) -> Tensor:
    r"""Undo ``pack``.

    Parameters
    ----------
    data
        What ``pack`` returned.
    bits
        Bits of a code of each of the K rows.
    batch, frames
        Sizes B, F.

    Returns
    -------
    Tensor
        Codes (B, K, F), int64.

    Raises
    ------
    ValueError
        If there are not exactly as many bytes as the sizes ask for.
    """
    rows, shifts = _digits(bits)
    count = batch * frames * len(rows)
    if len(data) != -(-count // 8):
        raise ValueError(f"payload: got {len(data)} bytes, expected {-(-count // 8)}")
    digits = np.unpackbits(np.frombuffer(data, np.uint8), count=count)
    weights = np.zeros((len(rows), len(bits)), np.int64)  # (digits of a frame, K)
    weights[np.arange(len(rows)), rows] = 1 << shifts
    values = digits.reshape(batch * frames, len(rows)) @ weights  # (B F, K)
    return torch.from_numpy(values).reshape(batch, frames, -1).permute(0, 2, 1).contiguous()


def _digits(bits: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each binary digit of a frame, its row of codes and its place value's exponent."""
    rows = np.repeat(np.arange(len(bits)), bits)
    ends = np.cumsum(bits)[rows]
    return rows, ends - 1 - np.arange(len(rows))


def _sizes(codec: Codec, layers: Sequence[int]) -> tuple[int, ...]:
    """Return the entries of some codebooks; none for a codebook that the codec does not have."""
    known = codec.codebook_sizes
    return tuple(known[layer] for layer in layers if layer < len(known))


def write_codes(path: str | Path, codes: Codes, codec: Codec) -> CodesHeader:
    r"""Write codes to a file.

    Parameters
    ----------
    path
        Usually ``*.codes``.
    codes
        Of this codec, shape (B, K, F).
    codec
        Gives the header; its ``fingerprint`` names the checkpoint.

    Returns
    -------
    CodesHeader
        As written.

    Raises
    ------
    ValueError
        If the codes are not this codec's.

    Examples
    --------
    >>> from codec_lib.codecs.registry import build
    >>> codec = build("speechtokenizer", "smoke")
    >>> codes = codec.encode(torch.zeros(1, 1, 16000))
    >>> header = write_codes(getfixture("tmp_path") / "a.codes", codes, codec)
    >>> header.payload_bits == codec.bitrate() * 1.0
    True
    """
    codec.check_codes(codes)
    rows, segments = codes.codes, ()
    if codes.lengths is not None:
        both = torch.cat([codes.codes, codes.lengths[:, None] - 1], dim=1)
        rows = to_row(both, codes.lengths)
        segments = tuple((codes.lengths > 0).sum(dim=1).tolist())
    header = CodesHeader(
        codec=codec.name,
        fingerprint=codec.fingerprint,
        sample_rate=codec.sample_rate,
        hop_length=codec.hop_length,
        codebook_sizes=_sizes(codec, codes.codebooks),
        layers=codes.codebooks,
        num_samples=codes.num_samples,
        batch=codes.codes.shape[0],
        frames=num_frames(codes.num_samples, codec.hop_length),
        max_length=codec.max_length if segments else 1,
        segments=segments,
    )
    values, version = asdict(header), DYNAMIC
    if not segments:
        values, version = {k: v for k, v in values.items() if k not in OF_SEGMENTS}, VERSION
    text = json.dumps(values).encode()
    body = text + pack(rows, header.bits)
    Path(path).write_bytes(PREFIX.pack(MAGIC, version, len(text), zlib.crc32(body)) + body)
    return header


def read_codes(path: str | Path) -> tuple[Codes, CodesHeader]:
    r"""Read a file of codes.

    Returns
    -------
    tuple[Codes, CodesHeader]
        The codes and what the file says about itself; ``header.check(codec)`` tells whether a codec
        can decode them.

    Raises
    ------
    ValueError
        If the file is missing, of another kind or version, cut short or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"path: got {path}, expected a file of codes")
    data = path.read_bytes()
    if len(data) < PREFIX.size or not data.startswith(MAGIC):
        raise ValueError(f"{path}: got a file that does not start as codes do ({MAGIC!r})")
    _, version, length, checksum = PREFIX.unpack_from(data)
    if not 1 <= version <= DYNAMIC:
        raise ValueError(f"{path}: got format version {version}, expected 1 to {DYNAMIC}")
    body = data[PREFIX.size :]
    if zlib.crc32(body) != checksum:
        raise ValueError(f"{path}: got a wrong checksum; the file is cut short or damaged")
    try:  # the checksum does not cover the prefix: version and length may be damaged
        values = json.loads(body[:length])
        if version == 1:
            values["codebook_sizes"] = [values.pop("codebook_size")] * len(values["layers"])
        sequences = {name: tuple(values.get(name, ())) for name in SEQUENCES}
        header = CodesHeader(**{**values, **sequences})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: got a header that is none of codes ({error})") from None
    try:
        _check_segments(header, version)
        codes, lengths = _unpack_body(body[length:], header)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    layers = None if header.layers == tuple(range(codes.shape[1])) else header.layers
    return Codes(codes, header.num_samples, lengths, layers), header


def _check_segments(header: CodesHeader, version: int) -> None:
    """Raise ``ValueError`` unless a header's segments are those of its version and batch."""
    counts, longest = header.segments, header.max_length
    is_whole = all(type(count) is int and count >= 1 for count in (*counts, longest))
    if not is_whole or len(counts) != (header.batch if version == DYNAMIC else 0):
        raise ValueError(
            f"segments: got {list(counts)} of up to {longest} frames in a file of version "
            f"{version} and {header.batch} items; it is damaged"
        )


def _unpack_body(data: bytes, header: CodesHeader) -> tuple[Tensor, Tensor | None]:
    """Return codes (B, K, F), or (B, K, S) and lengths (B, S)."""
    if not header.segments:
        return unpack(data, header.bits, header.batch, header.frames), None
    row = unpack(data, header.bits, 1, header.columns)  # (1, K + 1, N)
    lengths = torch.nn.utils.rnn.pad_sequence(
        (row[0, -1] + 1).split(list(header.segments)), batch_first=True
    )
    if bool((lengths.sum(dim=1) != header.frames).any()):
        raise ValueError(
            f"segments: got {lengths.sum(dim=1).tolist()} frames, expected {header.frames} each"
        )
    return to_items(row[:, :-1], lengths), lengths
