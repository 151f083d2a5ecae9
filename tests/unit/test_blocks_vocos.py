"""Vocos decoder: the attention stage, lengths, conditions, receptive field."""

from __future__ import annotations

import math

import pytest
import torch

from codec_lib.blocks.stft import InverseSTFT
from codec_lib.blocks.vocos import FrameAttention, ResidualConv, VocosDecoder

TINY = {"latent_dim": 4, "width": 16, "depth": 1}


@torch.no_grad()
def test_attention_is_softmax_of_scaled_products() -> None:
    layer = FrameAttention(8)
    x = torch.randn(2, 8, 5)
    hidden = layer.norm(x)
    q, k, v = layer.q(hidden), layer.k(hidden), layer.v(hidden)
    for item in range(2):
        out = torch.zeros(8, 5)
        for frame in range(5):
            weights = (q[item, :, frame] @ k[item] / math.sqrt(8)).softmax(0)
            out[:, frame] = v[item] @ weights
        expected = x[item] + layer.proj_out(out[None])[0]
        assert torch.allclose(layer(x)[item], expected, atol=1e-5)


@torch.no_grad()
def test_residual_conv_is_norm_swish_conv_twice() -> None:
    layer = ResidualConv(64).eval()
    x = torch.randn(2, 64, 5)
    hidden = x
    for norm, conv in ((layer.norm1, layer.conv1), (layer.norm2, layer.conv2)):
        grouped = hidden.reshape(2, 32, -1)  # 32 groups of two channels
        centred = grouped - grouped.mean(-1, keepdim=True)
        grouped = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        hidden = grouped.reshape(2, 64, 5)
        hidden = conv(hidden * torch.sigmoid(hidden))
        assert norm.num_groups == 32
    assert torch.allclose(layer(x), x + hidden, atol=1e-5)
    assert not torch.equal(layer.train()(x), layer(x))  # dropout


@pytest.mark.parametrize("pos_net", [False, True])
def test_lengths_and_gradients(pos_net: bool) -> None:
    decoder = VocosDecoder(10, pos_net=pos_net, **TINY)
    z = torch.randn(2, 4, 3, requires_grad=True)
    wav = decoder(z)
    assert wav.shape == (2, 1, 30)
    wav.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())
    assert z.grad.abs().min() > 0


@torch.no_grad()
def test_only_attention_reaches_beyond_the_receptive_field() -> None:
    z = torch.randn(1, 4, 40)
    changed = z.clone()
    changed[..., 20] += 1.0
    local = VocosDecoder(10, pos_net=False, **TINY).eval()
    reach = local.receptive_field
    moved = (local(z) != local(changed)).reshape(40, 10).any(-1).nonzero().flatten()
    assert moved.min() >= 20 - reach and moved.max() <= 20 + reach
    everywhere = VocosDecoder(10, pos_net=True, **TINY).eval()
    assert everywhere.receptive_field is None
    moved = (everywhere(z) != everywhere(changed)).reshape(40, 10).any(-1)
    assert moved.all()


def test_pos_net_keeps_its_own_start() -> None:
    decoder = VocosDecoder(10, latent_dim=4, width=64, depth=1)
    assert decoder.embed.weight.std() < 0.03 < decoder.pos_net[0].conv1.weight.std()
    assert decoder.blocks[0].expand.bias.abs().max() == 0
    assert decoder.pos_net[0].conv1.bias.abs().max() > 0


def test_conditions_are_checked() -> None:
    z = torch.zeros(2, 4, 3)
    with pytest.raises(ValueError, match="condition: got None with num_conditions=3"):
        VocosDecoder(10, pos_net=False, num_conditions=3, **TINY)(z)
    with pytest.raises(ValueError, match="condition: got 1 with num_conditions=0"):
        VocosDecoder(10, pos_net=False, **TINY)(z, 1)
    decoder = VocosDecoder(10, pos_net=False, num_conditions=3, **TINY)
    for wrong in (3, -1, torch.tensor([0, 1, 2])):
        with pytest.raises(ValueError, match="expected one or as many, from 0 to 2"):
            decoder(z, wrong)
    with pytest.raises(ValueError, match="'same' or 'center'"):
        VocosDecoder(10, padding="valid", **TINY)


@torch.no_grad()
def test_centred_inverse_is_torchs() -> None:
    wav = torch.randn(2, 160)
    window = torch.hann_window(64)
    spectrum = torch.stft(wav, 64, 16, window=window, return_complex=True)  # (B, bins, F)
    back = InverseSTFT(64, 16, "center")(spectrum.transpose(1, 2))
    assert torch.allclose(back, wav, atol=1e-5)
    assert torch.allclose(back, torch.istft(spectrum, 64, 16, window=window), atol=1e-6)


def test_spectrum_is_in_float32_under_autocast() -> None:
    """A phase of some turns has no digits left for its angle in bfloat16."""
    decoder, seen = VocosDecoder(8, latent_dim=4, width=8, depth=1), []
    decoder.out.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        wav = decoder(torch.randn(1, 4, 6))
    assert seen == [torch.float32] and wav.dtype == torch.float32
