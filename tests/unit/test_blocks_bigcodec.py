"""BigCodec's and DAC's network: anti-aliased SnakeBeta, lengths, sizes, reach."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal
from torch import Tensor, nn

from codec_lib.blocks.antialias import (
    CONTEXT,
    AntiAliasedSnakeBeta,
    SnakeBetaFunction,
    kaiser_lowpass,
)
from codec_lib.blocks.bigcodec import BigCodecDecoder, BigCodecEncoder
from codec_lib.blocks.seanet import SEANetDecoder, SEANetEncoder

BIGCODEC = {"strides": (5, 5, 2, 2, 2), "lstm_layers": 2, "activation": "snake_beta"}
DAC = {"lstm_layers": 0, "activation": "snake"}
TINY = {"latent_dim": 3, "width": 1}


def direct_snake_beta(x: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """Return the anti-aliased activation of one channel, resampled by scipy in float64."""
    # the published design: 12 taps, cut-off at half the old rate, beta of 6 taps' transition 1.2
    window = ("kaiser", signal.kaiser_beta(signal.kaiser_atten(6, 1.2)))
    taps = signal.firwin(12, 0.5, window=window)
    doubled = 2 * signal.upfirdn(taps, np.pad(x, 5, "edge"), up=2)[15:]
    doubled = doubled[: 2 * len(x)]
    doubled = doubled + np.sin(np.exp(alpha) * doubled) ** 2 / np.exp(beta)
    return signal.upfirdn(taps, np.pad(doubled, (5, 6), "edge"), down=1)[11::2][: len(x)]


@pytest.mark.parametrize("length", [1, 2, 7, 200])
def test_snake_beta_is_the_direct_computation(length: int) -> None:
    layer = AntiAliasedSnakeBeta(2)
    with torch.no_grad():
        layer.alpha.copy_(torch.tensor([0.5, -1.0]))
        layer.beta.copy_(torch.tensor([-0.3, 0.7]))
    x = torch.randn(3, 2, length)
    got = layer(x).detach().numpy()
    for item in range(3):
        for channel, (alpha, beta) in enumerate([(0.5, -0.3), (-1.0, 0.7)]):
            expected = direct_snake_beta(x[item, channel].double().numpy(), alpha, beta)
            assert np.allclose(got[item, channel], expected, atol=1e-5)


def test_snake_beta_has_the_gradient_of_its_formula() -> None:
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    a, b = (torch.rand(3, 1, dtype=torch.float64).add(0.5).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(SnakeBetaFunction.apply, (x, a, b))
    expected = x + (a * x).sin().square() / b
    assert torch.allclose(SnakeBetaFunction.apply(x, a, b), expected, atol=1e-8)


def test_snake_beta_keeps_little_for_the_gradient() -> None:
    sizes = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.randn(2, 8, 4000, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = AntiAliasedSnakeBeta(8)(x)  # keeps y alive: no storage is reused
    assert y.shape == x.shape
    assert sum(sizes.values()) < 7 * x.numel() * 4  # six filters' inputs; 12 without the function


@pytest.mark.parametrize("network", ["seanet", "bigcodec"])
def test_latent_and_waveform_leave_autocast_in_float32(network: str) -> None:
    sizes = {"latent_dim": 4, "width": 2, "strides": (4, 2), "lstm_layers": 1}
    kinds = (
        (SEANetEncoder, SEANetDecoder)
        if network == "seanet"
        else (BigCodecEncoder, BigCodecDecoder)
    )
    encoder, decoder = (kind(**sizes) for kind in kinds)
    wav = torch.randn(1, 1, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = encoder(wav)
        made = decoder(z)
    assert z.dtype == made.dtype == torch.float32
    assert (made != made.bfloat16()).any()  # finer than bf16
    assert torch.allclose(encoder(wav), z, atol=0.05)  # and close to what it is without


def test_filter_is_a_lowpass() -> None:
    taps = kaiser_lowpass().double()
    assert torch.allclose(taps, taps.flip(0)) and abs(float(taps.sum()) - 1) < 1e-6
    gain = torch.fft.rfft(taps, 1000).abs()
    assert (gain[:80] - 1).abs().max() < 0.05 and gain[450:].max() < 0.01


def test_snake_beta_has_less_aliasing() -> None:
    tone = torch.sin(2 * torch.pi * 3 / 8 * torch.arange(800) + 1)[None, None]

    def alias(x: Tensor) -> float:
        """Return the level of the second harmonic, 3/4 of the rate, which folds back to 1/4."""
        return float(torch.fft.rfft(x[0, 0, 100:740]).abs()[160])

    plain = tone + tone.sin().square()
    smooth = AntiAliasedSnakeBeta(1)(tone).detach()
    # 10 dB: what is left is the tone's image, 5/8 of the rate, that 12 taps let through
    assert alias(smooth) < 0.32 * alias(plain)


def test_snake_beta_depends_on_its_context_only() -> None:
    x = torch.randn(1, 1, 60, requires_grad=True)
    AntiAliasedSnakeBeta(1)(x)[0, 0, 30].backward()
    touched = x.grad[0, 0].nonzero().flatten()
    assert 30 - CONTEXT <= touched.min() and touched.max() <= 30 + CONTEXT
    assert len(touched) > CONTEXT


@pytest.mark.parametrize("form", [BIGCODEC, {**DAC, "strides": (8, 5, 4, 2)}])
def test_one_second_keeps_its_length(form: dict) -> None:
    with torch.no_grad():
        z = BigCodecEncoder(**TINY, **form)(torch.randn(1, 1, 16000) * 0.1)
        wav = BigCodecDecoder(**TINY, **form)(z)
    assert z.shape == (1, 3, 80 if form is BIGCODEC else 50)
    assert wav.shape == (1, 1, 16000) and wav.abs().max() <= 1


def test_every_length_to_2000_is_kept() -> None:
    """Whole frames keep their length, and every length is filled up to whole frames."""
    encoder, decoder = BigCodecEncoder(**TINY, **BIGCODEC), BigCodecDecoder(**TINY, **BIGCODEC)
    with torch.no_grad():
        for frames in range(1, 11):
            z = encoder(torch.zeros(1, 1, 200 * frames))
            assert z.shape[-1] == frames and decoder(z).shape[-1] == 200 * frames
    encoder.layers = nn.Identity()
    for length in range(1, 2001):
        assert encoder(torch.zeros(1, 1, length)).shape[-1] == 200 * -(-length // 200)


def test_released_dac_loses_samples_at_odd_strides() -> None:
    z = torch.randn(1, 3, 50)
    options = {**TINY, **DAC, "strides": (8, 5, 4, 2)}
    torch.manual_seed(0)
    kept = BigCodecDecoder(**options)
    torch.manual_seed(0)
    lost = BigCodecDecoder(**options, lossless=False)
    assert lost(z).shape == (1, 1, 15992)
    reach = lost.receptive_field * 320
    assert torch.allclose(lost(z)[..., :-reach], kept(z)[..., : 15992 - reach], atol=1e-6)


@given(
    num_samples=st.integers(1, 2000),
    strides=st.lists(st.sampled_from([2, 3, 5]), min_size=1, max_size=3),
)
@settings(max_examples=15, deadline=None)
def test_any_length_and_strides(num_samples: int, strides: list[int]) -> None:
    options = {**TINY, "strides": strides, "lstm_layers": 0, "activation": "snake"}
    encoder, decoder = BigCodecEncoder(**options), BigCodecDecoder(**options)
    with torch.no_grad():
        z = encoder(torch.randn(1, 1, num_samples))
        assert z.shape[-1] == -(-num_samples // encoder.hop_length)
        assert decoder(z).shape[-1] == z.shape[-1] * decoder.hop_length


@pytest.mark.parametrize("activation", ["snake", "snake_beta"])
def test_receptive_field_without_lstm_is_an_upper_bound(activation: str) -> None:
    options = {**TINY, "strides": (5, 2), "lstm_layers": 0, "activation": activation}
    encoder, decoder = BigCodecEncoder(**options), BigCodecDecoder(**options)
    wav = torch.randn(1, 1, 1000, requires_grad=True)
    encoder(wav)[..., 50].sum().backward()
    touched = wav.grad[0, 0].nonzero().flatten()
    reach = encoder.receptive_field * 10
    assert 500 - reach <= touched.min() and touched.max() < 510 + reach
    z = torch.randn(1, 3, 100, requires_grad=True)
    decoder(z)[..., 500:510].sum().backward()
    touched = z.grad[0].sum(0).nonzero().flatten()
    reach = decoder.receptive_field
    assert 50 - reach <= touched.min() and touched.max() <= 50 + reach
    assert reach < 2.5 * float(touched.max() - 50)  # and no wild one


def test_an_lstm_remembers_everything_before() -> None:
    encoder = BigCodecEncoder(**TINY, strides=(5, 2), lstm_layers=1)
    wav = torch.randn(1, 1, 1000, requires_grad=True)
    encoder(wav)[..., -1].sum().backward()
    assert encoder.receptive_field is None and wav.grad[..., :10].abs().max() > 0


def test_every_parameter_learns() -> None:
    encoder = BigCodecEncoder(**TINY, strides=(5, 2))
    decoder = BigCodecDecoder(**TINY, strides=(5, 2))
    decoder(encoder(torch.randn(1, 1, 200))).square().sum().backward()
    for name, parameter in [*encoder.named_parameters(), *decoder.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
