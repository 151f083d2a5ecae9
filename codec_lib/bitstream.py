r"""Files of codes, packed to the bit: what a codec really sends.

A code of a codebook of N entries takes ceil(log2 N) bits, frame by frame, so the payload of one
second is exactly ``codec.bitrate(n_q)`` bits. Layout, version 2, big-endian::

    "CLC" | version (1 byte) | header length (4) | CRC-32 of the rest (4) | header | payload

The header is JSON; in version 1 it named one size for all codebooks. Leaves out: entropy coding,
and segment lengths of dynamic frame rates (a later version). Notebook: 00_start_here. Read next:
``cli.py``.
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

from codec_lib.codecs.base import Codec
from codec_lib.shapes import Codes

MAGIC, VERSION = b"CLC", 2
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
        Sizes.
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

    @property
    def payload_bits(self) -> int:
        """Bits of all codes, without header and padding to a byte."""
        return self.batch * self.frames * sum(map(bits_per_code, self.codebook_sizes))

    def check(self, codec: Codec) -> None:
        r"""Raise ``ValueError`` unless a codec can decode these codes."""
        for name, got, expected in (
            ("codec", self.codec, codec.name),
            ("sample_rate", self.sample_rate, codec.sample_rate),
            ("hop_length", self.hop_length, codec.hop_length),
            ("codebook_sizes", self.codebook_sizes, _sizes(codec, self.layers)),
            ("checkpoint", self.fingerprint, codec.fingerprint),
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
        If the codes are not this codec's, or have segment lengths.

    Examples
    --------
    >>> from codec_lib.codecs.registry import build
    >>> codec = build("speechtokenizer", "smoke")
    >>> codes = codec.encode(torch.zeros(1, 1, 16000))
    >>> header = write_codes(getfixture("tmp_path") / "a.codes", codes, codec)
    >>> header.payload_bits == codec.bitrate() * 1.0
    True
    """
    if codes.lengths is not None:
        raise ValueError(f"codes: got segment lengths, which format {VERSION} does not hold")
    codec.check_codes(codes)
    header = CodesHeader(
        codec=codec.name,
        fingerprint=codec.fingerprint,
        sample_rate=codec.sample_rate,
        hop_length=codec.hop_length,
        codebook_sizes=_sizes(codec, codes.codebooks),
        layers=codes.codebooks,
        num_samples=codes.num_samples,
        batch=codes.codes.shape[0],
        frames=codes.codes.shape[-1],
    )
    text = json.dumps(asdict(header)).encode()
    body = text + pack(codes.codes, [bits_per_code(size) for size in header.codebook_sizes])
    Path(path).write_bytes(PREFIX.pack(MAGIC, VERSION, len(text), zlib.crc32(body)) + body)
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
    if version not in (1, VERSION):
        raise ValueError(f"{path}: got format version {version}, expected 1 or {VERSION}")
    body = data[PREFIX.size :]
    if zlib.crc32(body) != checksum:
        raise ValueError(f"{path}: got a wrong checksum; the file is cut short or damaged")
    values = json.loads(body[:length])
    if version == 1:
        values["codebook_sizes"] = [values.pop("codebook_size")] * len(values["layers"])
    sequences = {name: tuple(values[name]) for name in ("codebook_sizes", "layers")}
    header = CodesHeader(**{**values, **sequences})
    bits = [bits_per_code(size) for size in header.codebook_sizes]
    codes = unpack(body[length:], bits, header.batch, header.frames)
    layers = None if header.layers == tuple(range(codes.shape[1])) else header.layers
    return Codes(codes, header.num_samples, layers=layers), header
