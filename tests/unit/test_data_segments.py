r"""Crops: whole numbers of frames, features that belong to them, bad files that end nothing."""

from __future__ import annotations

import logging
import math

import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from codec_lib import audio
from codec_lib.data import Corpus, CropDataset, Utterance, batches

SECONDS = (0.5, 1.0, 0.1, 2.0)


@pytest.fixture
def ramps(tmp_path) -> Corpus:
    """Four files, 0.1 to 2 s at 1 kHz; sample t of file i is (100 i + t) / 32768."""
    utterances = []
    for index, seconds in enumerate(SECONDS):
        values = 100.0 * index + torch.arange(round(1000 * seconds))
        path = tmp_path / f"{index}.wav"
        audio.write(path, values[None] / 32768, 1000)
        utterances.append(Utterance(f"u{index}", str(path)))
    return Corpus("ramps", utterances, sample_rate=1000)


def test_a_crop_is_what_it_says(ramps):
    crops = CropDataset(ramps, 250, seed=1)
    assert len(crops) == round(3600 / 250)
    for crop in crops:
        assert crop["wav"].shape == (1, 250)
        assert crop["wav"].dtype == torch.float32
        said = 100.0 * crop["index"] + crop["start"] + torch.arange(crop["num_valid"])
        assert torch.equal(crop["wav"][0, : crop["num_valid"]] * 32768, said)
        assert not crop["wav"][0, crop["num_valid"] :].any()
        assert crop["num_valid"] == min(250, 1000 * SECONDS[crop["index"]])


def test_an_epoch_visits_the_corpus_by_duration(ramps):
    crops = CropDataset(ramps, 50, length=360)
    counts = torch.bincount(torch.tensor([crop["index"] for crop in crops])).tolist()
    for seconds, count in zip(SECONDS, counts, strict=True):
        assert abs(count - 100 * seconds) <= 1  # 360 crops over 3.6 s, evenly


def test_crops_start_at_frames_and_features_follow(ramps):
    def features(index):
        frames = ramps.length(index) // 20 - (index == 1)  # a teacher may give one frame less
        return torch.stack([torch.full((frames,), float(index)), torch.arange(float(frames))], 1)

    crops = CropDataset(ramps, 200, seed=3, length=50, features=features, hop_length=20)
    for crop in crops:
        assert crop["start"] % 20 == 0
        assert crop["features"].shape == (10, 2)
        assert (crop["features"][:, 0] == crop["index"]).all()
        last = len(features(crop["index"])) - 1
        expected = (crop["start"] // 20 + torch.arange(10)).clamp(max=last)
        assert torch.equal(crop["features"][:, 1], expected.float())


def test_cache_gives_the_same_crops(ramps):
    plain = CropDataset(ramps, 300, seed=5, length=30)
    cached = CropDataset(ramps, 300, seed=5, length=30, cache=True)
    for one, same in zip(plain, cached, strict=True):
        assert (one["index"], one["start"]) == (same["index"], same["start"])
        assert torch.equal(one["wav"], same["wav"])


def test_the_epoch_is_part_of_the_index(ramps):
    crops, later = (CropDataset(ramps, 100, seed=2, length=7) for _ in range(2))
    later.set_epoch(3)
    assert [crops[3 * 7 + item]["start"] for item in range(7)] == [one["start"] for one in later]
    assert [one["start"] for one in crops] != [one["start"] for one in later]
    with pytest.raises(IndexError, match="at least 0"):
        crops[-1]


def test_workers_change_nothing_and_persistent_ones_follow_the_epoch(ramps):
    crops = CropDataset(ramps, 100, seed=4, length=9)
    loader = DataLoader(crops, batch_size=3, num_workers=2, persistent_workers=True)
    for epoch in (0, 1, 5, 1):
        crops.set_epoch(epoch)
        from_workers = torch.cat([batch["wav"] for batch in loader])
        assert torch.equal(from_workers, torch.stack([crop["wav"] for crop in crops]))


def test_batches_of_ranks_join_to_the_joint_batch(ramps):
    whole = list(batches(6, num_steps=4))
    assert whole[0] == [0, 1, 2, 3, 4, 5]
    parts = [list(batches(6, world_size=3, rank=rank, num_steps=4)) for rank in range(3)]
    for step in range(4):
        assert parts[0][step] + parts[1][step] + parts[2][step] == whole[step]


def test_batches_go_on_where_they_were_stopped(ramps):
    crops = CropDataset(ramps, 100, seed=4, length=5)
    sampler = batches(4, num_steps=6)
    whole = [batch["wav"] for batch in DataLoader(crops, batch_sampler=sampler)]
    resumed = DataLoader(crops, batch_sampler=batches(4, start_step=4, num_steps=2), num_workers=2)
    for batch, expected in zip(resumed, whole[4:], strict=True):
        assert torch.equal(batch["wav"], expected)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"batch_size": 5, "world_size": 2}, "divides evenly"),
        ({"batch_size": 4, "world_size": 2, "rank": 2}, "0 <= rank < 2"),
        ({"batch_size": 4, "start_step": -1}, "start_step >= 0"),
    ],
)
def test_batches_refuse_what_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        batches(**arguments)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("fault", ["unreadable", "missing", "nan"])
def test_a_bad_file_is_named_once_and_replaced(ramps, caplog, cache, fault):
    path = ramps[3].audio_path  # two of the corpus's 3.6 s
    if fault == "nan":
        samples = torch.linspace(-1, 1, 2000)
        samples[::7] = math.nan
        soundfile.write(path, samples.numpy(), 1000, subtype="FLOAT")
    elif fault == "unreadable":
        open(path, "wb").write(b"no audio")
    else:
        open(path, "wb").close()
    with caplog.at_level(logging.WARNING):
        crops = CropDataset(ramps, 100, seed=6, length=40, cache=cache)
        seen = [(crop["index"], crop["start"]) for crop in crops]
        again = [(crop["index"], crop["start"]) for crop in crops]
    assert {index for index, _ in seen} == {0, 1, 2}
    assert seen == again
    assert [bad for bad, _ in crops.bad_files] == [path]
    assert sum(path in record.getMessage() for record in caplog.records) == 1


def test_a_file_that_a_teacher_cannot_hear_is_replaced_too(ramps):
    def features(index):
        wav = ramps.load(index)  # whole: a teacher meets what a crop may not
        return torch.zeros(wav.shape[-1] // 20, 1)

    samples = torch.zeros(2000)
    samples[-1] = math.nan
    soundfile.write(ramps[3].audio_path, samples.numpy(), 1000, subtype="FLOAT")
    crops = CropDataset(ramps, 100, seed=6, length=40, features=features, hop_length=20)
    assert {crop["index"] for crop in crops} == {0, 1, 2}
    assert [path for path, _ in crops.bad_files] == [ramps[3].audio_path]


def test_a_worker_tells_of_its_bad_file(ramps):
    samples = torch.full((2000,), math.nan)
    soundfile.write(ramps[3].audio_path, samples.numpy(), 1000, subtype="FLOAT")
    crops = CropDataset(ramps, 100, seed=6, length=20)
    assert crops.bad_files == []  # its header is in order
    wavs = [batch["wav"] for batch in DataLoader(crops, batch_size=5, num_workers=2)]
    assert torch.isfinite(torch.cat(wavs)).all()
    assert [path for path, _ in crops.bad_files] == [ramps[3].audio_path]
    assert torch.equal(torch.cat(wavs), torch.stack([crop["wav"] for crop in crops]))


def test_a_corpus_without_one_good_file_is_refused(ramps):
    for one in ramps:
        open(one.audio_path, "wb").write(b"no audio")
    with pytest.raises(ValueError, match=r"4 files, all bad: .*0\.wav"):
        CropDataset(ramps, 100)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_samples": 0}, "num_samples >= 1"),
        ({"num_samples": 10, "seed": -1}, "seed >= 0"),
        ({"num_samples": 10, "length": 0}, "length >= 1"),
        ({"num_samples": 10, "features": len}, "divides num_samples"),
        ({"num_samples": 10, "features": len, "hop_length": 4}, "divides num_samples"),
    ],
)
def test_crops_refuse_what_cannot_be(ramps, arguments, message):
    with pytest.raises(ValueError, match=message):
        CropDataset(ramps, **arguments)
