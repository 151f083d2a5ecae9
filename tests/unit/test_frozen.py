r"""Frozen networks give what the trainable ones give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from codec_lib.blocks.activations import Snake
from codec_lib.blocks.bigcodec import BigCodecDecoder, BigCodecEncoder
from codec_lib.blocks.conv import Conv1d, ConvTranspose1d
from codec_lib.blocks.frozen import Frozen, _pack, _run_packed, freeze_layer
from codec_lib.blocks.packed import PackedConv, PackedLinear, pack_linears
from codec_lib.blocks.seanet import SEANetDecoder, SEANetEncoder

OPTIONS = (
    {},
    {"activation": "snake"},
    {"causal": True, "bidirectional": False},
    {"lstm_layers": 0},
    {"norm": "none", "strides": (3, 2)},
)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("num_samples", [1, 7, 320, 777])
def test_encoder(options, num_samples):
    encoder = SEANetEncoder(latent_dim=8, width=4, **options)
    wav = torch.randn(2, 1, num_samples)
    frozen = Frozen(encoder)
    expected = encoder(wav)
    assert frozen(wav).shape == expected.shape
    assert (frozen(wav) - expected).abs().max() < 1e-6
    assert (encoder(wav) == expected).all(), "freezing changed the network"


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("num_frames", [1, 5])
def test_decoder(options, num_frames):
    options = {"bidirectional": False, **options}
    decoder = SEANetDecoder(latent_dim=8, width=4, **options)
    z_q = torch.randn(2, 8, num_frames)
    given = z_q.clone()
    assert (Frozen(decoder)(z_q) - decoder(z_q)).abs().max() < 1e-6
    assert (z_q == given).all(), "the input was overwritten"


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (7, 1), (5, 2), (6, 3), (9, 4)])
def test_any_kernel_and_stride(kernel, stride):
    x = torch.randn(2, 3, 41)
    conv = Conv1d(3, 4, kernel, stride)
    assert torch.allclose(_first(freeze_layer(conv), x), conv(x), atol=1e-6)
    transposed = ConvTranspose1d(3, 4, kernel, stride)
    assert torch.allclose(_first(freeze_layer(transposed), x), transposed(x), atol=1e-6)


def _first(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return layer(x.transpose(1, 2).contiguous()).transpose(1, 2)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("num_frames", "batch"), [(1, 1), (9, 1), (30, 3)])
def test_packed_lstm(bidirectional, num_frames, batch):
    lstm = nn.LSTM(16, 16, 2, bidirectional=bidirectional)
    packed = _pack(lstm)
    if packed is None:
        pytest.skip("torch was built without oneDNN")
    x = torch.randn(num_frames, batch, 16)
    with torch.no_grad():
        assert (_run_packed(packed, x, 16) - lstm(x)[0]).abs().max() < 1e-6


BIGCODEC = {
    "DAC": {"lstm_layers": 0, "activation": "snake"},
    "BigCodec": {"lstm_layers": 2, "activation": "snake_beta"},
    "elu": {"lstm_layers": 1, "activation": "elu", "strides": (3, 2)},
}


@pytest.mark.parametrize("name", BIGCODEC)
@pytest.mark.parametrize("num_samples", [1, 40, 777, 9000])  # the last runs in tiles
def test_bigcodecs_networks(name, num_samples):
    options = {"latent_dim": 8, "width": 4, "strides": (5, 2), **BIGCODEC[name]}
    encoder, decoder = BigCodecEncoder(**options), BigCodecDecoder(**options)
    for module in [*encoder.modules(), *decoder.modules()]:
        if isinstance(module, Snake):
            module.alpha.data.uniform_(0.5, 2.0)
    wav = torch.randn(2, 1, num_samples)
    given, z = wav.clone(), encoder(wav)
    assert torch.allclose(Frozen(encoder)(wav), z, atol=2e-6)
    assert torch.allclose(Frozen(decoder)(z), decoder(z), atol=2e-6)
    assert (wav == given).all() and (encoder(wav) == z).all(), "something was overwritten"
    assert all(p.requires_grad for p in [*encoder.parameters(), *decoder.parameters()])


def test_lossy_decoder():
    decoder = BigCodecDecoder(8, 4, (5, 3), 0, "snake", lossless=False)
    z = torch.randn(1, 8, 6)
    assert torch.allclose(Frozen(decoder)(z), decoder(z), atol=1e-6)


@pytest.mark.parametrize("packs", [True, False])
def test_packed_layers_are_torchs(packs, monkeypatch):
    monkeypatch.setattr("codec_lib.blocks.packed.can_pack", lambda weight: packs)
    conv, x = nn.Conv1d(5, 6, 3, 2, dilation=2), torch.randn(2, 21, 5)
    with torch.no_grad():
        packed, expected = PackedConv(conv.weight, conv.bias, 2, 2), conv(x.transpose(1, 2))
        assert torch.allclose(packed(x).transpose(1, 2), expected, atol=1e-6)
        inside = packed(x, 2)[:, 1:-1]
        assert torch.allclose(inside, packed(x), atol=1e-6)
        total = torch.randn(2, 9, 6)
        before = total.clone()
        assert packed.add_to(total, x[:, :21]) is total
        assert torch.allclose(total, before + expected.transpose(1, 2), atol=1e-6)
        stack = nn.Sequential(
            nn.Linear(5, 7), nn.GELU(), nn.Sequential(nn.Linear(7, 2, bias=False))
        )
        expected = stack(x)
        assert torch.allclose(pack_linears(stack)(x), expected, atol=1e-6)
    assert isinstance(stack[0], PackedLinear) is packs


def test_no_gradient_and_no_trainable_weight_but_the_lstm():
    encoder = SEANetEncoder(latent_dim=8, width=2, lstm_layers=0)
    frozen = Frozen(encoder)
    assert not frozen(torch.randn(1, 1, 640)).requires_grad
    assert sum(p.numel() for p in frozen.parameters()) == 0


def test_other_networks_are_refused():
    with pytest.raises(TypeError, match="expected SEANet"):
        Frozen(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="no frames-first form"):
        freeze_layer(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(TypeError, match="no groups"):
        freeze_layer(Conv1d(2, 2, 3, groups=2))
