"""Files of codes: round trips, counted bits, damage."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import codec_lib
from codec_lib.bitstream import PREFIX, bits_per_code, pack, read_codes, unpack, write_codes
from codec_lib.shapes import Codes


@pytest.fixture(scope="module")
def codec() -> codec_lib.codecs.base.Codec:
    return codec_lib.build("speechtokenizer", "smoke", codebook_size=1000)


def random_codes(codec, num_samples: int = 5000, batch: int = 2) -> Codes:
    frames = -(-num_samples // codec.hop_length)
    return Codes(torch.randint(codec.codebook_size, (batch, 8, frames)), num_samples)


@given(
    sizes=st.lists(st.integers(1, 70000), min_size=1, max_size=9),
    batch=st.integers(1, 3),
    frames=st.integers(1, 20),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_pack_round_trip(sizes: list[int], batch: int, frames: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(size, (batch, frames), generator=generator) for size in sizes]
    codes = torch.stack(rows, dim=1)
    bits = [bits_per_code(size) for size in sizes]
    data = pack(codes, bits)
    assert len(data) == -(-batch * frames * sum(bits) // 8)
    assert torch.equal(unpack(data, bits, batch, frames), codes)


def test_a_file_of_version_1_is_read(codec, tmp_path: Path) -> None:
    """Its header has one size for all codebooks; the payload is the same."""
    path = tmp_path / "a.codes"
    codes = random_codes(codec).select([4, 1])
    written = write_codes(path, codes, codec)
    data = path.read_bytes()
    length = PREFIX.unpack_from(data)[2]
    values = json.loads(data[PREFIX.size : PREFIX.size + length])
    assert values.pop("codebook_sizes") == [1000, 1000]
    text = json.dumps({**values, "codebook_size": 1000}).encode()
    body = text + data[PREFIX.size + length :]
    path.write_bytes(PREFIX.pack(b"CLC", 1, len(text), zlib.crc32(body)) + body)
    again, header = read_codes(path)
    assert torch.equal(again.codes, codes.codes) and header == written


def test_counted_bits_are_the_bitrate(codec, tmp_path: Path) -> None:
    path = tmp_path / "a.codes"
    codes = codec.encode(torch.randn(1, 1, 3 * 16000) * 0.1, n_q=5)
    header = write_codes(path, codes, codec)
    assert header.payload_bits == 3 * codec.bitrate(5)
    text = PREFIX.unpack_from(path.read_bytes())[2]
    assert path.stat().st_size == PREFIX.size + text + -(-header.payload_bits // 8)


def test_file_round_trip(codec, tmp_path: Path) -> None:
    path = tmp_path / "a.codes"
    codes = random_codes(codec)
    for some in (codes, codes.select(range(3)), codes.select([4, 1])):
        written = write_codes(path, some, codec)
        again, header = read_codes(path)
        assert torch.equal(again.codes, some.codes)
        assert again.num_samples == 5000 and again.layers == some.layers
        assert header == written
        header.check(codec)
        assert torch.equal(codec.decode(again), codec.decode(some))


def test_header_says_which_codec(codec, tmp_path: Path) -> None:
    path = tmp_path / "a.codes"
    header = write_codes(path, random_codes(codec), codec)
    other = codec_lib.build("speechtokenizer", "smoke", codebook_size=512)
    with pytest.raises(ValueError, match=r"codebook_sizes: got codes of \(1000, .*expected \(512"):
        header.check(other)
    trained = codec_lib.build("speechtokenizer", "smoke", codebook_size=1000)
    trained.fingerprint = "0123456789abcdef"
    with pytest.raises(ValueError, match="checkpoint: got codes of ''"):
        header.check(trained)


def test_damage_is_found(codec, tmp_path: Path) -> None:
    path = tmp_path / "a.codes"
    write_codes(path, random_codes(codec), codec)
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[-3] ^= 4
    for broken, message in (
        (data[:-1], "cut short or damaged"),
        (bytes(flipped), "cut short or damaged"),
        (data[:5], "does not start as codes do"),
        (b"RIFF" + data[4:], "does not start as codes do"),
        (b"", "does not start as codes do"),
        (data[:3] + b"\x04" + data[4:], "version 4, expected 1 to 3"),
    ):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=message):
            read_codes(path)
    for bit in range(8 * 12):  # of the prefix: magic, version, length of the header, checksum
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=str(path)):
            read_codes(path)
    with pytest.raises(ValueError, match="expected a file of codes"):
        read_codes(tmp_path / "b.codes")
    with pytest.raises(ValueError, match="got 3 bytes, expected 2"):
        unpack(b"abc", [4], 1, 4)


def test_what_cannot_be_written(codec, tmp_path: Path) -> None:
    codes = random_codes(codec)
    with pytest.raises(ValueError, match="indices from"):
        write_codes(tmp_path / "a.codes", Codes(codes.codes + 1000, 5000), codec)
    halves = Codes(codes.codes[..., :8], 5000, torch.full((2, 8), 2))
    with pytest.raises(ValueError, match="a code for 2 frames, expected at most 1"):
        write_codes(tmp_path / "a.codes", halves, codec)
    assert list(tmp_path.iterdir()) == []
