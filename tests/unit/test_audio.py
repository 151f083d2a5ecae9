r"""Audio in and out: exact round trips, resampling that moves nothing, every fault defined."""

from __future__ import annotations

import math

import numpy as np
import pytest
import soundfile
import torch

from codec_lib import audio


@pytest.fixture
def noise():
    """Half a second of 16-bit noise at 16 kHz, shape (1, T), at exact 16-bit values."""
    values = torch.randint(-20000, 20000, (1, 8000), generator=torch.Generator().manual_seed(3))
    return values.float() / 32768


def tone(hertz, rate, seconds=0.5):
    time = torch.arange(int(rate * seconds), dtype=torch.float64) / rate
    return (0.5 * torch.sin(2 * math.pi * hertz * time)).float()[None]


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_sixteen_bit_audio_comes_back_exactly(tmp_path, noise, suffix):
    path = tmp_path / "new" / f"a.{suffix}"
    audio.write(path, noise, 16000)
    info = audio.read_info(path)
    assert info == audio.AudioInfo(sample_rate=16000, num_samples=8000, channels=1)
    back = audio.read(path)
    assert back.dtype == torch.float32
    assert back.shape == (1, 8000)
    assert torch.equal(back, noise)


def test_a_part_is_the_part_of_the_whole(tmp_path, noise):
    audio.write(tmp_path / "a.wav", noise, 16000)
    part = audio.read(tmp_path / "a.wav", start=1234, num_samples=777)
    assert torch.equal(part, noise[:, 1234:2011])
    assert audio.read(tmp_path / "a.wav", start=7990, num_samples=100).shape == (1, 10)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 24000])
@pytest.mark.parametrize("start, count", [(0, 100), (3001, 640), (7000, None)])
def test_a_part_is_the_part_of_the_whole_when_resampled(tmp_path, rate, start, count):
    generator = torch.Generator().manual_seed(rate)
    wav = 0.1 * torch.randn(1, rate // 2, generator=generator)
    audio.write(tmp_path / "a.wav", wav, rate)
    whole = audio.read(tmp_path / "a.wav", 16000)
    part = audio.read(tmp_path / "a.wav", 16000, start, count)
    expected = whole[:, start : None if count is None else start + count]
    assert part.shape == expected.shape
    torch.testing.assert_close(part, expected, rtol=0, atol=1e-6)


def test_blocks_join_to_the_whole(tmp_path, noise):
    audio.write(tmp_path / "a.flac", noise, 22050)
    blocks = list(audio.read_blocks(tmp_path / "a.flac", 1000, 16000))
    assert [block.shape[1] for block in blocks] == [1000] * 5 + [805]
    joined = torch.cat(blocks, 1)
    torch.testing.assert_close(joined, audio.read(tmp_path / "a.flac", 16000), rtol=0, atol=1e-6)


def test_blocks_have_samples_and_filters_have_precision(tmp_path, noise):
    audio.write(tmp_path / "a.wav", noise, 22050)
    for block in (0, -5):
        with pytest.raises(ValueError, match=f"block: got {block}, expected at least one"):
            next(audio.read_blocks(tmp_path / "a.wav", block))
    for dtype in (torch.float16, torch.bfloat16, torch.int16):
        with pytest.raises(TypeError, match=f"wav: got {dtype}, expected float32"):
            audio.resample(noise.to(dtype), 22050, 16000)
    assert audio.resample(noise.double(), 22050, 16000).dtype == torch.float64


def test_stereo_becomes_the_mean_of_its_channels(tmp_path):
    left, right = np.full(100, 0.5), np.full(100, -0.25)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 16000)
    wav = audio.read(tmp_path / "a.wav")
    assert wav.shape == (1, 100)
    torch.testing.assert_close(wav, torch.full((1, 100), 0.125))


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_resampling_keeps_a_tone_in_place(rate):
    wav = audio.resample(tone(1000, rate), rate, 16000)
    expected = tone(1000, 16000)
    assert wav.shape[1] == audio.resampled_length(rate // 2, rate, 16000)
    middle = slice(500, 7500)  # the ends differ: outside the signal the filter sees zeros
    torch.testing.assert_close(wav[:, middle], expected[:, middle], rtol=0, atol=1e-3)


def test_a_filter_bank_made_without_gradient_serves_those_who_want_one():
    with torch.inference_mode():
        audio.resample(torch.zeros(1, 100), 23, 17)
    wav = torch.zeros(1, 100, requires_grad=True)
    audio.resample(wav, 23, 17).sum().backward()
    assert wav.grad.abs().sum() > 0


def test_lengths_are_whole_numbers_where_float32_has_none():
    extra = pow(160, -1, 441)
    length = 441 * 10_000 + extra  # 160 / 441 of it is a whole number and 1 / 441
    wav = torch.zeros(1, length)
    wav[0, -1] = 1.0
    made = audio.resample(wav, 44_100, 16_000)
    assert (
        made.shape[-1] == audio.resampled_length(length, 44_100, 16_000) == length * 160 // 441 + 1
    )
    tail = audio.resample(wav[:, -441 * 10 - extra :], 44_100, 16_000)
    assert torch.allclose(made[0, -500:], tail[0, -500:], atol=1e-6) and made[0, -1] > 0.1


def test_resampling_removes_what_the_new_rate_cannot_carry():
    removed = audio.resample(tone(11000, 48000), 48000, 16000)
    assert float(audio.rms_db(removed[:, 500:-500])) < -80


def test_equal_rates_return_the_same_tensor(noise):
    assert audio.resample(noise, 16000, 16000) is noise


def test_rates_that_need_a_giant_filter_are_refused(noise):
    with pytest.raises(ValueError, match=r"got 44099 -> 16000.*common divisor"):
        audio.resample(noise, 44099, 16000)
    with pytest.raises(ValueError, match="at least 1 Hz"):
        audio.resample(noise, 0, 16000)


def test_a_file_at_an_odd_rate_is_a_bad_file(tmp_path, noise):
    audio.write(tmp_path / "odd.wav", noise, 44099)
    assert audio.read(tmp_path / "odd.wav").shape == (1, 8000)
    with pytest.raises(audio.AudioError, match=r"odd\.wav: .*got 44099 -> 16000"):
        audio.read(tmp_path / "odd.wav", 16000)


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("missing.wav", None, "there is no such file"),
        ("text.wav", b"this is no audio at all", "unreadable"),
        ("nothing.flac", b"", "unreadable"),
    ],
)
def test_a_file_that_is_no_audio_is_named(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for function in (audio.read, audio.read_info):
        with pytest.raises(audio.AudioError, match=reason) as caught:
            function(tmp_path / name)
        assert name in str(caught.value)


def test_a_file_without_samples_is_refused(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.int16), 16000)
    with pytest.raises(audio.AudioError, match=r"empty\.wav: got 0 samples"):
        audio.read(tmp_path / "empty.wav")


def test_a_file_cut_off_is_refused(tmp_path, noise):
    audio.write(tmp_path / "whole.flac", noise, 16000)
    content = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[: len(content) // 2])
    with pytest.raises(audio.AudioError, match=r"cut\.flac"):
        audio.read(tmp_path / "cut.flac")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path, noise, bad):
    samples = noise[0].numpy().copy()
    samples[[5, 7000]] = bad
    soundfile.write(tmp_path / "bad.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(audio.AudioError, match=r"bad\.wav: got 2 NaN or infinite"):
        audio.read(tmp_path / "bad.wav")
    assert audio.read(tmp_path / "bad.wav", start=10, num_samples=100).isfinite().all()
    with pytest.raises(ValueError, match="NaN or infinite"):
        audio.write(tmp_path / "out.wav", torch.tensor([[0.0, bad]]), 16000)
    assert not (tmp_path / "out.wav").exists()


def test_reading_behind_the_end_is_the_callers_mistake(tmp_path, noise):
    audio.write(tmp_path / "a.wav", noise, 16000)
    for start, count in ((8000, None), (-1, None), (0, 0)):
        with pytest.raises(ValueError, match="start < 8000"):
            audio.read(tmp_path / "a.wav", start=start, num_samples=count)


def test_writing_beyond_one_is_refused_or_limited(tmp_path):
    wav = torch.tensor([[0.0, 1.0, -1.0, 1.7, -3.0]])
    with pytest.raises(ValueError, match=r"peak of 3\.000.*peak_guard"):
        audio.write(tmp_path / "a.wav", wav, 16000)
    audio.write(tmp_path / "a.wav", wav, 16000, over="limit")
    top = 32767 / 32768
    assert audio.read(tmp_path / "a.wav").tolist() == [[0.0, top, -1.0, top, -1.0]]
    with pytest.raises(ValueError, match="'raise' or 'limit'"):
        audio.write(tmp_path / "a.wav", wav, 16000, over="clip")


@pytest.mark.parametrize("shape", [(2, 100), (1, 0), (2, 1, 50)])
def test_writing_takes_one_channel(tmp_path, shape):
    with pytest.raises(ValueError, match="expected one channel"):
        audio.write(tmp_path / "a.wav", torch.zeros(shape), 16000)


def test_writing_takes_wav_and_flac(tmp_path, noise):
    with pytest.raises(ValueError, match=r"got suffix '\.mp3'"):
        audio.write(tmp_path / "a.mp3", noise, 16000)


def test_levels(noise):
    assert float(audio.rms_db(torch.full((1, 1, 10), 0.5))) == pytest.approx(-6.0206, abs=1e-3)
    assert float(audio.rms_db(torch.zeros(1, 10))) == -100
    levelled = audio.set_level(noise.expand(2, 1, -1), -23.0)
    assert levelled.shape == (2, 1, 8000)
    torch.testing.assert_close(audio.rms_db(levelled), torch.full((2, 1), -23.0), atol=1e-3, rtol=0)
    assert torch.equal(audio.set_level(torch.zeros(1, 10), -23.0), torch.zeros(1, 10))


def test_peak_guard_only_touches_what_is_too_loud():
    wav = torch.tensor([[[0.5, -0.2]], [[2.0, -4.0]]])
    guarded = audio.peak_guard(wav, peak=0.8)
    assert torch.equal(guarded[0], wav[0])
    torch.testing.assert_close(guarded[1], torch.tensor([[0.4, -0.8]]))


def test_pad_or_crop():
    wav = torch.arange(4.0)[None]
    assert audio.pad_or_crop(wav, 6).tolist() == [[0, 1, 2, 3, 0, 0]]
    assert audio.pad_or_crop(wav, 2).tolist() == [[0, 1]]
    assert audio.pad_or_crop(wav, 4).tolist() == [[0, 1, 2, 3]]
