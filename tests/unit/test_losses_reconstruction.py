"""Waveform and mel losses: known values, conventions, errors."""

import math
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_lib.losses import (
    MelRecipe,
    MelScale,
    MelSpectrogram,
    MultiScaleMelLoss,
    mel_recipe,
    waveform_loss,
)

RATE = 16000
ONE_SCALE = MelRecipe(scales=(MelScale(512, 128, 40),))


def noise(num_samples=3200, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 1, num_samples, generator=generator) * 0.1


def test_waveform_loss_is_the_mean_absolute_error():
    wav = torch.tensor([[[0.0, 0.5, -0.5, 1.0]]])
    wav_hat = torch.tensor([[[0.25, 0.5, 0.5, 1.0]]])
    assert waveform_loss(wav_hat, wav).item() == pytest.approx((0.25 + 1.0) / 4)
    assert waveform_loss(wav, wav).item() == 0.0


@pytest.mark.parametrize("bad", [torch.zeros(1, 1, 5), torch.zeros(2, 1, 4), torch.zeros(1, 4)])
def test_waveform_loss_refuses_other_shapes(bad):
    with pytest.raises(ValueError, match="wav_hat"):
        waveform_loss(bad, torch.zeros(1, 1, 4))


def test_paper_scales_are_those_of_equation_4():
    scales = mel_recipe("paper").scales
    assert [s.n_fft for s in scales] == [32, 64, 128, 256, 512, 1024, 2048]
    assert all(s.hop_length * 4 == s.n_fft and s.n_mels == 64 and s.weight == 1 for s in scales)
    assert mel_recipe("paper").l1 == mel_recipe("paper").l2 == 1.0


def test_official_scales_are_those_of_the_released_code():
    recipe = mel_recipe("official")
    assert [(s.n_fft, s.hop_length) for s in recipe.scales] == [
        (1024, 240),
        (512, 120),
        (256, 60),
        (128, 30),
    ]
    assert [s.weight for s in recipe.scales] == [45, 1, 1, 1]
    assert {s.n_mels for s in recipe.scales} == {80}
    assert (recipe.l2, recipe.mel_scale, recipe.mel_norm) == (0.0, "htk", "slaney")


def test_official_frames_of_three_seconds():
    mels = MultiScaleMelLoss("official", RATE).mels(torch.zeros(1, 1, 48000))
    assert [mel.shape for mel in mels] == [(1, f, 80) for f in (200, 400, 800, 1600)]


def test_empty_filters_are_counted_and_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        official = MultiScaleMelLoss("official", RATE)
        MultiScaleMelLoss("paper", RATE)
        small = MultiScaleMelLoss("small", RATE)
    assert [t.num_empty for t in official.transforms] == [0, 0, 2, 13]
    assert [t.num_empty for t in small.transforms] == [0, 0, 0, 0]


def test_one_neper_louder_costs_one_per_full_bin():
    wav = noise(4800)
    distances = MultiScaleMelLoss("official", RATE).per_scale(wav * math.e, wav)
    expected = [1.0, 1.0, 78 / 80, 67 / 80]  # empty bins are at the floor in both
    assert [d.item() for d in distances] == pytest.approx(expected, abs=1e-4)


def test_linear_l1_is_proportional_to_the_gain():
    wav = noise()
    recipe = replace(ONE_SCALE, l1_compression="linear")
    loss = MultiScaleMelLoss(recipe, RATE)
    mean = loss.mels(wav)[0].mean().item()
    assert loss(wav * 1.5, wav).item() == pytest.approx(0.5 * mean, rel=1e-4)
    assert loss(wav * 2, wav).item() == pytest.approx(mean, rel=1e-4)


def test_l2_forms():
    wav = noise()
    square = MultiScaleMelLoss(replace(ONE_SCALE, l1=0.0, l2=1.0), RATE)
    norm = MultiScaleMelLoss(replace(ONE_SCALE, l1=0.0, l2=1.0, l2_form="norm"), RATE)
    gain = math.exp(0.5)
    assert square(wav * gain, wav).item() == pytest.approx(0.25, abs=1e-4)
    assert norm(wav * gain, wav).item() == pytest.approx(0.5, abs=1e-4)
    both = MultiScaleMelLoss(replace(ONE_SCALE, l1=2.0, l2=3.0), RATE)
    assert both(wav * gain, wav).item() == pytest.approx(2 * 0.5 + 3 * 0.25, abs=1e-4)


def test_normalized_divides_by_the_window_norm():
    scale = MelScale(512, 128, 40)
    plain = MelSpectrogram(scale, ONE_SCALE, RATE)
    normed = MelSpectrogram(scale, replace(ONE_SCALE, normalized=True), RATE)
    ratio = plain(noise()) / normed(noise())
    assert ratio == pytest.approx(torch.full_like(ratio, math.sqrt(512 * 3 / 8)), rel=1e-4)


def test_a_tone_peaks_in_the_bin_that_holds_its_frequency():
    time = torch.arange(4000) / RATE
    tone = torch.sin(2 * torch.pi * 1000 * time)[None, None]
    transform = MelSpectrogram(MelScale(1024, 256, 80), ONE_SCALE, RATE)
    centre = (transform.filters.argmax(dim=0)[transform(tone)[0, 8].argmax()] * RATE / 1024).item()
    assert centre == pytest.approx(1000, abs=60)


@pytest.mark.parametrize("recipe", ["paper", "official", "small", "dac", "vocos"])
def test_loss_is_zero_for_equal_clips_and_scales_are_summed(recipe):
    loss = MultiScaleMelLoss(recipe, RATE)
    wav, other = noise(), noise(seed=1)
    assert loss(wav, wav).item() == pytest.approx(0.0, abs=1e-7)
    weights = [s.weight for s in loss.recipe.scales]
    total = sum(w * d.item() for w, d in zip(weights, loss.per_scale(other, wav), strict=True))
    assert loss(other, wav).item() == pytest.approx(total, rel=1e-5)


def test_given_targets_replace_the_original():
    loss = MultiScaleMelLoss("small", RATE)
    wav, other = noise(), noise(seed=1)
    assert torch.equal(loss(other, wav, targets=loss.mels(wav)), loss(other, wav))


@pytest.mark.parametrize("recipe", ["paper", "official", "small", "dac", "vocos"])
def test_gradient_is_finite_on_silence_and_reaches_only_the_reconstruction(recipe):
    wav_hat = torch.zeros(1, 1, 3200, requires_grad=True)
    wav = noise(batch=1).requires_grad_()
    loss = MultiScaleMelLoss(recipe, RATE)
    (loss(wav_hat, wav) + loss(wav_hat, torch.zeros_like(wav))).backward()
    assert wav.grad is None
    assert torch.isfinite(wav_hat.grad).all()
    nearly = (wav.detach() * 0.9).requires_grad_()
    loss(nearly, wav).backward()
    assert nearly.grad.abs().sum() > 0


def test_float32_under_autocast():
    wav, other = noise(), noise(seed=1)
    loss = MultiScaleMelLoss("official", RATE)
    exact = loss(other, wav)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(other, wav)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, exact)


def test_filters_are_buffers_that_no_checkpoint_stores():
    loss = MultiScaleMelLoss("official", RATE)
    assert len(list(loss.buffers())) == 8
    assert loss.state_dict() == {}
    assert loss.mels(noise())[0].dtype == torch.float32


@pytest.mark.parametrize("recipe", ["paper", "official", "small", "dac", "vocos"])
def test_short_clips_name_the_window(recipe):
    loss = MultiScaleMelLoss(recipe, RATE)
    with pytest.raises(ValueError, match=f"window of {loss.recipe.scales[0].n_fft}|window of 2048"):
        loss(torch.zeros(1, 1, 100), torch.zeros(1, 1, 100))
    short = noise(loss.min_samples)
    assert torch.isfinite(loss(short, short * 0.5))
    with pytest.raises(ValueError, match=f"at least {loss.min_samples}"):
        loss(short[..., :-1], short[..., :-1])


@pytest.mark.parametrize(
    "changes",
    [{"l2_form": "sum"}, {"l1_compression": "db"}, {"scales": ()}, {"l1": 0.0, "l2": 0.0}],
)
def test_bad_recipes(changes):
    with pytest.raises(ValueError, match="got"):
        mel_recipe("official", **changes)


def test_unknown_recipe_and_hop():
    with pytest.raises(ValueError, match="'papers'"):
        mel_recipe("papers")
    with pytest.raises(ValueError, match="hop_length"):
        MelSpectrogram(MelScale(128, 256, 20), ONE_SCALE, RATE)


@settings(max_examples=15, deadline=None)
@given(hops=st.integers(5, 40), rest=st.integers(0, 127), gain=st.floats(0.1, 3.0))
def test_frames_and_log_gain_for_any_length(hops, rest, gain):
    wav = noise(hops * 128 + rest, batch=1)
    loss = MultiScaleMelLoss(ONE_SCALE, RATE)
    assert loss.mels(wav)[0].shape == (1, hops, 40)
    assert loss(wav * gain, wav).item() == pytest.approx(abs(math.log(gain)), abs=2e-3)
