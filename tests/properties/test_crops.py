r"""Invariants of crops and batches over random sizes and seeds."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codec_lib import audio
from codec_lib.data import Corpus, CropDataset, Utterance, batches
from codec_lib.data.phonemes import align

QUICK = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def noises(tmp_path_factory):
    """Five files of noise of 1 to 900 samples at 1 kHz, and what is in them."""
    folder, utterances, contents = tmp_path_factory.mktemp("noises"), [], []
    for number, length in enumerate((1, 120, 333, 640, 900)):
        generator = torch.Generator().manual_seed(number)
        contents.append(torch.randint(-9000, 9000, (1, length), generator=generator) / 32768)
        audio.write(folder / f"{number}.flac", contents[-1], 1000)
        utterances.append(Utterance(str(number), str(folder / f"{number}.flac")))
    return Corpus("noises", utterances, sample_rate=1000), contents


@QUICK
@given(
    num_samples=st.integers(1, 1200),
    seed=st.integers(0, 2**40),
    hop_length=st.sampled_from([None, 1, 16, 320]),
    index=st.integers(0, 10**7),
)
def test_any_crop_is_a_padded_piece_of_its_file(noises, num_samples, seed, hop_length, index):
    corpus, contents = noises
    crop = CropDataset(corpus, num_samples, seed=seed, hop_length=hop_length)[index]
    piece = contents[crop["index"]][:, crop["start"] : crop["start"] + num_samples]
    assert crop["num_valid"] == piece.shape[1] == min(num_samples, contents[crop["index"]].shape[1])
    assert torch.equal(crop["wav"], audio.pad_or_crop(piece, num_samples))
    assert crop["start"] % (hop_length or 1) == 0


@QUICK
@given(seed=st.integers(0, 10**6), length=st.integers(1, 40), epoch=st.integers(0, 50))
def test_crops_depend_on_seed_epoch_and_item_alone(noises, seed, length, epoch):
    corpus, _ = noises
    one, two = (CropDataset(corpus, 64, seed=seed, length=length) for _ in range(2))
    two.set_epoch(epoch)
    items = torch.randperm(length)[:5].tolist()
    for item in items:
        assert one[epoch * length + item]["start"] == two[item]["start"]
        assert one[epoch * length + item]["index"] == two[item]["index"]


@QUICK
@given(
    share=st.integers(1, 5),
    world_size=st.integers(1, 4),
    start_step=st.integers(0, 1000),
    num_steps=st.integers(1, 5),
)
def test_batches_name_every_item_once_and_in_order(share, world_size, start_step, num_steps):
    size = share * world_size
    parts = [
        list(batches(size, start_step, world_size, rank, num_steps)) for rank in range(world_size)
    ]
    joint = [item for step in zip(*parts, strict=True) for part in step for item in part]
    assert joint == list(range(start_step * size, (start_step + num_steps) * size))


@QUICK
@given(st.lists(st.tuples(st.sampled_from(["sil", "AA", "S"]), st.integers(0, 30)), max_size=20))
def test_alignment_covers_everything_once(durations):
    starts, now = [], 3
    for symbol, duration in durations:
        starts.append((symbol, now))
        now += duration
    phonemes = align(starts, now + 2)
    assert [one.start for one in phonemes] == [0, *(one.end for one in phonemes)][:-1]
    assert phonemes[-1].end == now + 2
    assert all(one.end > one.start for one in phonemes)
    assert not any(one.symbol == other.symbol == "sil" for one, other in pairwise(phonemes))


@QUICK
@given(
    rate=st.sampled_from([8000, 11025, 22050, 24000, 44100, 48000]),
    length=st.integers(1, 3000),
    first=st.integers(0, 999),
    count=st.integers(1, 800),
)
def test_any_resampled_part_is_the_part_of_the_whole(tmp_path, rate, length, first, count):
    wav = 0.3 * torch.sin(torch.arange(length, dtype=torch.float32) * 0.37)[None]
    audio.write(tmp_path / "a.wav", wav, rate)
    whole = audio.read(tmp_path / "a.wav", 16000)
    start = first * whole.shape[1] // 1000
    part = audio.read(tmp_path / "a.wav", 16000, start, count)
    expected = whole[:, start : start + count]
    assert part.shape == expected.shape
    torch.testing.assert_close(part, expected, rtol=0, atol=1e-6)
