"""Spectral backbone: frames, inverse transform, receptive field, heads."""

from __future__ import annotations

import math

import pytest
import torch

from codec_lib.blocks.convnext import ConvNeXtBlock, DepthwiseConv
from codec_lib.blocks.spectral import SpectralDecoder, SpectralEncoder
from codec_lib.blocks.stft import InverseSTFT, LogMelFrames, polar_spectrum
from codec_lib.blocks.vocos import VocosDecoder

TINY = {"latent_dim": 4, "width": 8, "depth": 1, "expansion": 2}


def test_depthwise_equals_conv1d() -> None:
    layer = DepthwiseConv(6, 7)
    x = torch.randn(2, 9, 6)
    expected = torch.nn.functional.conv1d(
        x.transpose(1, 2), layer.conv.weight.squeeze(2), layer.conv.bias, padding=3, groups=6
    )
    assert torch.allclose(layer(x), expected.transpose(1, 2), atol=1e-6)
    with pytest.raises(ValueError, match="odd"):
        DepthwiseConv(6, 4)


def test_block_starts_near_the_identity() -> None:
    block = ConvNeXtBlock(8, layer_scale=0.0)
    x = torch.randn(2, 9, 8)
    assert torch.equal(block(x), x)
    block(x).sum().backward()
    assert block.gamma.grad.abs().max() > 0


@pytest.mark.parametrize("subframes", [1, 2, 4])
@pytest.mark.parametrize(
    ("sample_rate", "hop", "rate"),
    [(16000, 320, 50), (16000, 200, 80), (24000, 320, 75), (24000, 300, 80)],
)
def test_rates_and_lengths(sample_rate: int, hop: int, rate: int, subframes: int) -> None:
    if hop // subframes % 2:
        pytest.skip("an odd step cannot be centred")
    assert sample_rate / hop == rate
    encoder = SpectralEncoder(sample_rate, hop, subframes=subframes, num_mels=20, **TINY)
    decoder = SpectralDecoder(hop, subframes=subframes, **TINY)
    for length in (1, hop - 1, hop, hop + 1, 5 * hop + 3):
        z = encoder(torch.randn(2, 1, length))
        assert z.shape == (2, 4, -(-length // hop))
        assert decoder(z).shape == (2, 1, z.shape[-1] * hop)


def test_mel_frames_of_a_sine() -> None:
    frames = LogMelFrames(16000, 320, num_mels=40)
    time = torch.arange(16000) / 16000
    low, high = (
        frames(torch.sin(2 * torch.pi * hertz * time)[None, None])[0, 25]
        for hertz in (300.0, 3000.0)
    )
    assert low.argmax() < high.argmax()
    assert frames(torch.zeros(1, 1, 640)).unique().numel() == 1  # silence is the floor


@pytest.mark.parametrize("overlap", [2, 4, 8])
def test_inverse_stft_inverts(overlap: int) -> None:
    step, frames = 20, 30
    n_fft = step * overlap
    wav = torch.randn(2, frames * step)
    side = (n_fft - step) // 2
    padded = torch.nn.functional.pad(wav, (side, side))
    spectrum = torch.stft(
        padded, n_fft, step, window=torch.hann_window(n_fft), center=False, return_complex=True
    )
    back = InverseSTFT(n_fft, step)(spectrum.transpose(1, 2))
    assert torch.allclose(back, wav, atol=1e-5)


def test_invalid_transforms_are_rejected() -> None:
    for n_fft in (350, 320, 321):
        with pytest.raises(ValueError, match="n_fft"):
            InverseSTFT(n_fft, 320)
    with pytest.raises(ValueError, match="subframes"):
        SpectralEncoder(16000, 320, subframes=3, **TINY)
    with pytest.raises(ValueError, match="head"):
        SpectralDecoder(320, head="mel", **TINY)


@pytest.mark.parametrize("subframes", [1, 2])
def test_receptive_field_holds(subframes: int) -> None:
    encoder = SpectralEncoder(16000, 320, subframes=subframes, num_mels=20, **TINY)
    decoder = SpectralDecoder(320, subframes=subframes, **TINY)
    wav = torch.randn(1, 1, 60 * 320, requires_grad=True)
    encoder(wav)[..., 30].sum().backward()
    touched = wav.grad[0, 0].nonzero().flatten() // 320
    assert 30 - encoder.receptive_field <= touched.min()
    assert touched.max() <= 30 + encoder.receptive_field
    z = torch.randn(1, 4, 60, requires_grad=True)
    decoder(z)[..., 30 * 320 : 31 * 320].square().sum().backward()
    touched = z.grad[0].abs().sum(0).nonzero().flatten()
    assert 30 - decoder.receptive_field <= touched.min()
    assert touched.max() <= 30 + decoder.receptive_field


@pytest.mark.parametrize("head", ["magnitude_phase", "real_imag"])
def test_heads_pass_gradient(head: str) -> None:
    decoder = SpectralDecoder(320, head=head, **TINY)
    decoder(torch.randn(1, 4, 6)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())


def test_wild_frames_stay_finite() -> None:
    decoder = SpectralDecoder(320, **TINY)
    decoder.stack.head.bias.data.fill_(1e4)
    assert decoder(torch.randn(1, 4, 6)).isfinite().all()


def test_a_magnitude_beyond_the_limit_has_no_gradient() -> None:
    level = torch.tensor([1.0, 5.0, 90.0], requires_grad=True)  # exp(90) is no float32
    spectrum = polar_spectrum(level, torch.zeros(3), max_magnitude=100.0)
    spectrum.real.sum().backward()
    assert spectrum.real.tolist() == pytest.approx([math.e, 100.0, 100.0])
    assert level.grad.tolist() == pytest.approx([math.e, 0.0, 0.0])


def test_bf16_autocast() -> None:
    encoder, decoder = (
        SpectralEncoder(16000, 320, num_mels=20, **TINY),
        SpectralDecoder(320, **TINY),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = encoder(torch.randn(1, 1, 1600))
        spectrum = decoder.stack(z.transpose(1, 2))
        wav_hat = decoder(z)
    assert wav_hat.dtype == torch.float32 and wav_hat.isfinite().all()
    for out in (z, spectrum):  # latent, log magnitudes and phases keep float32's digits
        assert out.dtype == torch.float32 and not torch.equal(out, out.bfloat16().float())


def test_encoder_runs_in_double_precision() -> None:
    """``samples_heard`` needs it: small gradients vanish in float32."""
    encoder = SpectralEncoder(16000, 320, num_mels=20, **TINY).double()
    assert encoder(torch.randn(1, 1, 1600).double()).dtype == torch.float64


def test_both_halves_run_on_the_meta_device() -> None:
    with torch.device("meta"):  # where networks are counted
        encoder = SpectralEncoder(16000, 320, num_mels=20, **TINY)
        decoder = SpectralDecoder(320, **TINY)
        vocos = VocosDecoder(320, latent_dim=4, width=8, depth=1)
        z = encoder(torch.zeros(1, 1, 1601))
        assert decoder(z).shape == vocos(z).shape == (1, 1, 1920)
    assert encoder.frames.filters.is_meta
