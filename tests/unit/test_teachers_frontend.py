r"""Log-mel and MFCC frames: alignment with samples, level, padding, warping."""

import pytest
import torch

from codec_lib.teachers.frontend import (
    HOP,
    LogMel,
    Mfcc,
    frame_count,
    normalise,
    warp_frequency,
)


@pytest.mark.parametrize("num_samples", [1, 319, 320, 321, 16000, 16001])
def test_frames_are_as_many_as_a_codec_of_hop_320_makes(num_samples):
    wav = torch.randn(2, 1, num_samples)
    expected = -(-num_samples // HOP)
    assert frame_count(num_samples) == expected
    assert LogMel(80)(wav).shape == (2, 80, 2 * expected)
    assert Mfcc()(wav).shape == (2, expected, 39)


@pytest.mark.parametrize("frame", [0, 7, 20])
def test_frame_f_hears_samples_from_320_f_on(frame):
    """A click in the middle of frame f is loudest in its two windows, equally so in both."""
    wav = torch.zeros(1, 1, 21 * HOP)
    wav[0, 0, frame * HOP + HOP // 2] = 1.0
    energy = LogMel(80).raw(wav).exp().sum(1)[0]  # (2F,)
    loud = energy.topk(2).indices.sort().values.tolist()
    assert loud == [2 * frame, 2 * frame + 1]
    assert energy[loud[0]] == pytest.approx(energy[loud[1]].item(), rel=0.02)


def test_level_does_not_matter(speech):
    mel = LogMel(80)
    assert torch.allclose(mel(speech[None]), mel(0.01 * speech[None]), atol=1e-3)


def test_silence_is_finite():
    assert torch.isfinite(LogMel(80)(torch.zeros(1, 1, 3200))).all()
    assert torch.isfinite(Mfcc()(torch.zeros(1, 1, 3200))).all()


def test_each_bin_has_mean_0_and_variance_1_over_the_frames_that_count():
    features = 5 + 3 * torch.randn(2, 4, 100)
    counts = torch.tensor([100, 60])
    out = normalise(features, counts)
    assert out[0].mean(-1).abs().max() < 1e-5
    assert out[1, :, :60].mean(-1).abs().max() < 1e-5
    assert (out[1, :, :60].square().mean(-1) - 1).abs().max() < 1e-4
    assert (out[1, :, 60:] == 0).all()


def test_padding_does_not_change_what_counts(speech):
    mel, frames = LogMel(80), speech.shape[-1] // HOP
    wav = speech[None, :, : frames * HOP]
    padded = torch.nn.functional.pad(wav, (0, 10 * HOP))
    alone, beside = mel(wav), mel(padded, torch.tensor([frames]))
    # Only the very last window reaches into the padding, where the other is padded with zeros too.
    assert torch.allclose(alone, beside[..., : 2 * frames], atol=1e-4)


def test_warp_moves_a_tone_and_factor_1_changes_nothing():
    time = torch.arange(16000) / 16000
    low, high = (torch.sin(2 * torch.pi * f * time)[None, None] for f in (1000.0, 1200.0))
    mel = LogMel(80)
    assert torch.allclose(warp_frequency(mel.raw(high), torch.ones(1)), mel.raw(high), atol=1e-3)
    warped = warp_frequency(mel.raw(high), torch.tensor([1.2]))
    peak = mel.raw(low).mean(-1).argmax()
    assert abs(int(warped.mean(-1).argmax() - peak)) <= 1
    assert int(mel.raw(high).mean(-1).argmax() - peak) >= 3


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="wav: got shape"):
        LogMel(80)(torch.zeros(1, 16000))
    with pytest.raises(ValueError, match="0 samples"):
        LogMel(80)(torch.zeros(1, 1, 0))
