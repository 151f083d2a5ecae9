"""SEANet: lengths, sizes, causality, options."""

from __future__ import annotations

import pytest
import torch

from codec_lib.blocks import tiling
from codec_lib.blocks.seanet import ResidualBlock, SEANetDecoder, SEANetEncoder

SIZES = {"latent_dim": 6, "width": 2, "strides": (4, 2)}


def test_lengths() -> None:
    encoder, decoder = SEANetEncoder(**SIZES), SEANetDecoder(**SIZES)
    assert encoder.hop_length == decoder.hop_length == 8
    for length in (1, 7, 8, 9, 100):
        z = encoder(torch.randn(1, 1, length))
        assert z.shape == (1, 6, -(-length // 8))
        assert decoder(z).shape == (1, 1, z.shape[-1] * 8)


def test_encoder_reverses_the_strides() -> None:
    encoder = SEANetEncoder(**SIZES)
    strides = [layer.stride for layer in encoder.layers if getattr(layer, "stride", 1) > 1]
    assert strides == [2, 4]  # given in the decoder's order


@pytest.mark.parametrize("lstm_layers", [0, 1])
def test_causal_form_ignores_the_future(lstm_layers: int) -> None:
    options = SIZES | {"lstm_layers": lstm_layers, "causal": True, "bidirectional": False}
    encoder, decoder = SEANetEncoder(**options), SEANetDecoder(**options)
    wav = torch.randn(1, 1, 160)
    changed = wav.clone()
    changed[..., 80:] += 1.0
    before, after = encoder(wav), encoder(changed)
    assert torch.allclose(before[..., :10], after[..., :10], atol=1e-6)
    assert not torch.allclose(before[..., 10:], after[..., 10:])
    assert torch.allclose(decoder(before)[..., :80], decoder(after)[..., :80], atol=1e-6)


def test_bidirectional_frame_sees_the_whole_file() -> None:
    encoder = SEANetEncoder(**SIZES)
    wav = torch.randn(1, 1, 400, requires_grad=True)
    encoder(wav)[..., 0].sum().backward()
    assert wav.grad[..., -8:].abs().max() > 0
    assert encoder.receptive_field is None


def test_receptive_field_without_lstm_is_an_upper_bound() -> None:
    encoder = SEANetEncoder(**SIZES, lstm_layers=0)
    wav = torch.randn(1, 1, 800, requires_grad=True)
    encoder(wav)[..., 50].sum().backward()
    touched = wav.grad[0, 0].nonzero().flatten()
    context = encoder.receptive_field * 8
    assert 50 * 8 - context <= touched.min() and touched.max() < 51 * 8 + context


def test_options() -> None:
    with pytest.raises(ValueError, match="bidirectional"):
        SEANetEncoder(**SIZES, causal=True)
    snake = SEANetEncoder(**SIZES, activation="snake")
    elu = SEANetEncoder(**SIZES)
    count = [sum(p.numel() for p in module.parameters()) for module in (snake, elu)]
    assert count[0] - count[1] == (2 + 1 + 2) + (4 + 2 + 4) + 2 * 8  # one alpha per channel
    plain = SEANetEncoder(**SIZES, norm="none")
    assert not any("parametrizations" in key for key in plain.state_dict())


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="wav: got shape"):
        SEANetEncoder(**SIZES)(torch.zeros(1, 2, 80))
    with pytest.raises(ValueError, match="z_q: got shape"):
        SEANetDecoder(**SIZES)(torch.zeros(6, 80))


def test_shortcut_is_learned() -> None:
    block = ResidualBlock(4)
    block(torch.randn(1, 4, 9)).sum().backward()
    assert all(p.grad is not None for p in block.shortcut.parameters())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lstm_layers", [0, 1])
def test_tiles_give_the_whole(causal: bool, lstm_layers: int, monkeypatch) -> None:
    monkeypatch.setattr(tiling, "TILE_FRAMES", 16)
    options = SIZES | {"lstm_layers": lstm_layers, "causal": causal, "bidirectional": not causal}
    encoder, decoder = SEANetEncoder(**options), SEANetDecoder(**options | {"bidirectional": False})
    for length in (16 * 8, 21 * 8 + 1, 70 * 8 + 5):
        wav = torch.randn(2, 1, length)
        z = encoder(wav)  # whole, as a gradient is needed
        wav_hat = decoder(z)
        with torch.no_grad():
            assert torch.allclose(encoder(wav), z, atol=1e-6)
            assert torch.allclose(decoder(z), wav_hat, atol=1e-6)


def test_tiles_are_used_without_gradient_only() -> None:
    lengths: list[int] = []

    def function(x: torch.Tensor) -> torch.Tensor:
        lengths.append(x.shape[-1])
        return x

    x = torch.randn(1, 1, 2 * tiling.TILE_FRAMES + 3)
    with torch.no_grad():
        assert torch.equal(tiling.run_tiled(function, x, 1, 1, 1), x)
    assert lengths == [129, 130, 4]
    tiling.run_tiled(function, x, 1, 1, 1)
    assert lengths[3:] == [x.shape[-1]]
