"""BigCodec and DAC: sizes, rates, chunks, files. The contract is in test_codecs_single.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import codec_lib
from codec_lib import hub
from codec_lib.codecs.backbones import build_backbone
from codec_lib.codecs.chunked import decode_long, encode_long, is_exact
from codec_lib.codecs.config import CodecConfig

OWN = {"backbone": "bigcodec", "width": 1, "latent_dim": 12, "codebook_size": 32}
BIGCODEC = {**OWN, "activation": "snake_beta", "strides": (5, 2)}
DAC = {**OWN, "activation": "snake", "lstm_layers": 0, "strides": (5, 2), "num_quantizers": 2}


def count(codec: nn.Module) -> int:
    return sum(p.numel() for p in codec.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("name", "scale", "parameters", "bitrate"),
    [
        ("bigcodec", "paper", 159_436_290, 1040),
        ("dac", "paper", 76_651_890, 7752),  # printed: 8 kbit/s
        ("dac", "24khz", 74_708_706, 24000),
        ("dac", "16khz", 74_175_906, 6000),
    ],
)
def test_published_sizes(name: str, scale: str, parameters: int, bitrate: int) -> None:
    with torch.device("meta"):
        codec = codec_lib.build(name, scale)
    assert count(codec) == parameters and round(codec.bitrate()) == bitrate
    if name == "bigcodec":
        assert count(codec.encoder) == 76_530_704 and codec.frame_rate == 80


@pytest.mark.parametrize("name", ["bigcodec", "dac"])
def test_own_sizes(name: str) -> None:
    assert count(codec_lib.build(name, "smoke")) < 300_000
    small = codec_lib.build(name, "small")
    assert 1_000_000 < count(small) < 3_000_000
    assert (small.sample_rate, small.frame_rate) == (16000, 80 if name == "bigcodec" else 50)


def test_a_config_turns_one_network_into_the_other() -> None:
    sizes = {"backbone": "bigcodec", "latent_dim": 4, "strides": (2,), "width": 2}
    plain = CodecConfig(**sizes, lstm_layers=0, activation="snake", decoder_width=5)
    encoder, decoder = build_backbone(plain)
    assert encoder.layers[0].conv.out_channels == 2
    assert decoder.layers[-2].conv.in_channels == 5
    assert encoder.receptive_field and decoder.receptive_field
    encoder, decoder = build_backbone(CodecConfig(**sizes, activation="snake_beta"))
    assert decoder.layers[-2].conv.in_channels == 2
    assert encoder.receptive_field is decoder.receptive_field is None


@pytest.mark.parametrize("changes", [{}, {"activation": "snake_beta"}])
def test_chunks_equal_the_whole_without_lstm(changes: dict) -> None:
    codec = codec_lib.build("dac", "paper", **{**DAC, **changes}, sample_rate=1000).eval()
    assert is_exact(codec)
    wav = torch.randn(1, 1, 1577) * 0.3
    whole = codec.encode(wav)
    assert torch.equal(encode_long(codec, wav, chunk_seconds=0.4).codes, whole.codes)
    decoded = decode_long(codec, whole, chunk_seconds=0.4)
    assert torch.allclose(decoded, codec.decode(whole), atol=1e-5)
    assert not is_exact(codec_lib.build("bigcodec", "paper", **BIGCODEC))


@pytest.mark.parametrize(("name", "sizes"), [("bigcodec", BIGCODEC), ("dac", DAC)])
def test_file_and_folding_keep_codes(name: str, sizes: dict, tmp_path: Path) -> None:
    codec = codec_lib.build(name, "paper", **sizes).eval()
    wav = torch.randn(1, 1, 777) * 0.3
    codes, decoded = codec.encode(wav), codec.decode(codec.encode(wav))
    again = hub.load(hub.save_codec(codec, tmp_path / "codec.safetensors", half=False))
    for other in (again, codec.for_inference()):
        assert torch.equal(other.encode(wav).codes, codes.codes)
        assert torch.allclose(other.decode(codes), decoded, atol=1e-6)
    assert again.config == codec.config


def test_codes_are_found_by_direction() -> None:
    codec = codec_lib.build("bigcodec", "smoke").eval()
    layer = codec.quantizer.layers[0]
    z = codec.encoder(torch.randn(1, 1, 4000) * 0.1)
    before = codec.quantizer.encode(z)
    with torch.no_grad():
        layer.codebook.mul_(torch.rand(64, 1) + 0.5)  # lengths do not count in the search
    assert torch.equal(codec.quantizer.encode(z), before)
    assert layer.update == "gradient" and layer.codebook.requires_grad
    override = codec_lib.build("bigcodec", "smoke", quantizer={"l2_normalize": False})
    assert not override.quantizer.layers[0].l2_normalize
