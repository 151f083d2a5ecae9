"""Lengths: what is decoded is as long as what was encoded, for every length and rate."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import codec_lib
from codec_lib.codecs.base import Codec
from codec_lib.codecs.chunked import decode_long, encode_long

RATES = {  # name: (sample_rate, strides); hop and frame rate
    "16k, 50 Hz": (16000, (8, 5, 4, 2)),
    "16k, 80 Hz": (16000, (5, 5, 4, 2)),
    "24k, 75 Hz": (24000, (8, 5, 4, 2)),
    "24k, 80 Hz": (24000, (5, 5, 4, 3)),
}


@cache
def tiny(backbone: str, rate: str) -> Codec:
    """Build a tiny codec once."""
    torch.manual_seed(0)
    sample_rate, strides = RATES[rate]
    return codec_lib.build(
        "speechtokenizer",
        "smoke",
        sample_rate=sample_rate,
        strides=strides,
        backbone=backbone,
        width=16 if backbone == "spectral" else 2,
        latent_dim=8,
        num_quantizers=2,
        codebook_size=16,
        num_mels=20,
        n_fft=640,
    ).eval()


def check_round_trip(codec: Codec, num_samples: int) -> None:
    wav = torch.randn(1, 1, num_samples) * 0.1
    codes = codec.encode(wav)
    frames = -(-num_samples // codec.hop_length)
    assert codes.codes.shape == (1, 2, frames)
    assert codes.codes.min() >= 0 and codes.codes.max() < codec.codebook_size
    assert codec.decode(codes).shape == wav.shape
    assert codec(wav).wav.shape == wav.shape


@pytest.mark.parametrize("backbone", ["spectral", "seanet"])
@pytest.mark.parametrize("rate", list(RATES))
def test_every_length_around_a_frame(backbone: str, rate: str) -> None:
    codec = tiny(backbone, rate)
    hop = codec.hop_length
    for num_samples in (1, 2, 3, hop - 1, hop, hop + 1, 2 * hop - 1, 3 * hop + 1, 5 * hop):
        check_round_trip(codec, num_samples)


@given(
    num_samples=st.integers(1, 4000),
    backbone=st.sampled_from(["spectral", "seanet"]),
    rate=st.sampled_from(list(RATES)),
)
@settings(max_examples=40, deadline=None)
def test_any_length(num_samples: int, backbone: str, rate: str) -> None:
    check_round_trip(tiny(backbone, rate), num_samples)


@given(
    num_samples=st.integers(1, 40000),
    chunk_seconds=st.floats(0.02, 2.0),
    rate=st.sampled_from(list(RATES)),
)
@settings(max_examples=15, deadline=None)
def test_any_chunks_equal_the_whole(num_samples: int, chunk_seconds: float, rate: str) -> None:
    codec = tiny("spectral", rate)
    wav = torch.randn(1, 1, num_samples, generator=torch.Generator().manual_seed(0)) * 0.1
    whole = codec.encode(wav)
    codes = encode_long(codec, wav, chunk_seconds=chunk_seconds)
    # rounding differs with the size of a matrix product, so that a tie may fall to either side
    assert (codes.codes == whole.codes).float().mean() > 0.99
    wav_hat = decode_long(codec, whole, chunk_seconds=chunk_seconds)
    assert torch.allclose(wav_hat, codec.decode(whole), atol=1e-5)
