r"""The feature cache: what is read is what the teacher says, whatever happens to the files."""

import multiprocessing
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from codec_lib import audio
from codec_lib.data import Corpus, CropDataset, Utterance
from codec_lib.teachers import features
from codec_lib.teachers.features import FeatureCache, long_features


class Counting:
    """A teacher whose features are the mean and the peak of each frame; counts its calls."""

    sample_rate, hop_length, dim, num_layers = 16000, 320, 2, 1
    fingerprint = "counting"

    def __init__(self):
        self.calls = 0

    def features(self, wav, layer="avg"):
        self.calls += 1
        padded = torch.nn.functional.pad(wav, (0, -wav.shape[-1] % 320))
        frames = padded.unflatten(-1, (-1, 320))[:, 0]  # (B, F, 320)
        return torch.stack([frames.mean(-1), frames.abs().amax(-1)], -1)


@pytest.fixture
def corpus(tmp_path, make_speech):
    utterances = []
    for number in range(3):
        path = tmp_path / f"{number}.wav"
        audio.write(path, make_speech(0.3 + 0.1 * number, seed=number), 16000)
        utterances.append(Utterance(str(number), str(path)))
    return Corpus("three", utterances)


def test_features_are_the_teachers_and_computed_once(corpus, tmp_path):
    teacher = Counting()
    cache = FeatureCache(teacher, corpus, root=tmp_path / "cache")
    direct = teacher.features(corpus.load(1)[None])[0]
    assert cache(1).dtype == torch.float16
    assert torch.allclose(cache(1).float(), direct, atol=1e-3)
    calls = teacher.calls
    again = FeatureCache(teacher, corpus, root=tmp_path / "cache")
    assert torch.equal(again(1), cache(1))
    assert teacher.calls == calls


def test_key_is_content_teacher_and_layer(corpus, tmp_path, make_speech):
    teacher, root = Counting(), tmp_path / "cache"
    first = FeatureCache(teacher, corpus, root=root)(0)
    audio.write(corpus[0].audio_path, make_speech(0.3, seed=9), 16000)
    changed = FeatureCache(teacher, corpus, root=root)(0)
    assert not torch.equal(first, changed)
    calls = teacher.calls
    FeatureCache(teacher, corpus, layer=1, root=root)(0)
    other = Counting()
    other.fingerprint = "another"
    FeatureCache(other, corpus, root=root)(0)
    assert teacher.calls == calls + 1 and other.calls == 1


@pytest.mark.parametrize("damage", ["cut", "text", "width", "nan"])
def test_damaged_files_are_computed_again(corpus, tmp_path, damage, caplog):
    cache = FeatureCache(Counting(), corpus, root=tmp_path / "cache")
    good = cache(0)
    (file,) = (tmp_path / "cache").glob("*/*/*.npy")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-7])
    elif damage == "text":
        file.write_text("no features")
    elif damage == "width":
        np.save(file, np.zeros((len(good), 3), np.float16))
    else:
        np.save(file, np.full(good.shape, np.nan, np.float16))
    again = FeatureCache(Counting(), corpus, root=tmp_path / "cache")
    assert torch.equal(again(0), good)
    assert "damaged features removed" in caplog.text
    assert np.array_equal(np.load(file), good.numpy())


def test_memory_and_disk_are_bounded(corpus, tmp_path, caplog):
    teacher = Counting()
    cache = FeatureCache(teacher, corpus, root=tmp_path, memory_bytes=1, disk_bytes=1)
    for index in (0, 1, 2, 0):
        cache(index)
    assert len(cache._memory) == 1
    assert not list(tmp_path.glob("counting-avg/*/*.npy"))
    assert teacher.calls == 4
    assert caplog.text.count("full; the rest is computed at every call") == 1


def test_a_corpus_that_does_not_fit_is_refused_before_it_is_heard(corpus, tmp_path, monkeypatch):
    teacher, frames = Counting(), 15 + 20 + 25
    root, files = tmp_path / "cache", frames * 2 * 2  # float16 of width 2
    small = FeatureCache(teacher, corpus, root=root, disk_bytes=files - 1)
    with pytest.raises(ValueError, match=r"got 2.4e-07 GB to write.*expected at most 2.39e-07 GB"):
        small.fill()
    monkeypatch.setattr(features.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(ValueError, match=r"expected at most 1e-07 GB.*CODEC_LIB_CACHE on a larger"):
        FeatureCache(teacher, corpus, root=root).fill()
    assert teacher.calls == 0 and not root.exists()
    FeatureCache(teacher, corpus, root=root)(2)
    FeatureCache(teacher, corpus, root=root)(1)
    FeatureCache(teacher, corpus, root=root).fill()  # what is missing fits
    assert teacher.calls == 3 and len(list(root.rglob("*.npy"))) == 3
    FeatureCache(teacher, corpus, root=root, disk_bytes=1).fill()  # nothing is missing


def test_what_is_there_is_not_opened_again_and_damage_is_found_by_who_reads(
    corpus, tmp_path, monkeypatch
):
    FeatureCache(Counting(), corpus, root=tmp_path / "cache").fill()
    cache, teacher = FeatureCache(Counting(), corpus, root=tmp_path / "cache"), Counting()
    damaged = cache._file(1)
    damaged.write_bytes(damaged.read_bytes()[:-7])
    with monkeypatch.context() as patched:
        patched.setattr(features.np, "load", lambda *_, **__: pytest.fail("a file was opened"))
        cache.fill()
    assert cache.teacher.calls == 0
    assert torch.equal(cache(1).float(), teacher.features(corpus.load(1)[None])[0].half().float())
    assert cache.teacher.calls == 1 and len(np.load(damaged)) == 20


def test_other_processes_look_whether_the_cache_is_theirs_too(corpus, tmp_path):
    mine, other = (FeatureCache(Counting(), corpus, root=tmp_path / name) for name in "ab")
    mine.fill()
    mine.check_filled()
    with pytest.raises(ValueError, match="no features of three, expected those that process 0"):
        other.check_filled()


def test_no_partial_files_are_left_and_fill_reports(corpus, tmp_path):
    done = []
    cache = FeatureCache(Counting(), corpus, root=tmp_path / "cache")
    cache.fill(lambda count, total: done.append((count, total)))
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 3
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_bad_files_are_left_out(corpus, tmp_path):
    utterances = [*corpus, Utterance("bad", str(tmp_path / "missing.wav"))]
    cache = FeatureCache(Counting(), Corpus("bad", utterances), root=tmp_path / "cache")
    cache.fill()
    with pytest.raises(audio.AudioError, match=r"missing\.wav"):
        cache(3)


def _fill(corpus, root):
    FeatureCache(Counting(), corpus, root=root).fill()


def test_two_processes_fill_one_cache(corpus, tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(corpus, tmp_path / "c")) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    teacher = Counting()
    cache = FeatureCache(teacher, corpus, root=tmp_path / "c")
    assert [len(cache(index)) for index in range(3)] == [15, 20, 25]
    assert teacher.calls == 0


def test_crops_carry_the_frames_of_their_samples(corpus, tmp_path):
    cache = FeatureCache(Counting(), corpus, root=tmp_path / "cache")
    dataset = CropDataset(corpus, 1600, features=cache, hop_length=320)
    for item in dataset:
        frames = item["wav"].unflatten(-1, (-1, 320))[0]
        assert torch.allclose(item["features"][:, 1], frames.abs().amax(-1), atol=1e-3)


def test_long_audio_is_heard_in_pieces_that_join():
    wav = torch.randn(1, 1, 3001 * 320 + 5)
    teacher = Counting()
    pieces = long_features(teacher, wav)
    assert teacher.calls == 3
    assert torch.equal(pieces, teacher.features(wav)[0])


def test_rates_and_layers_are_checked(corpus, tmp_path):
    other = Corpus("8k", list(corpus), sample_rate=8000)
    with pytest.raises(ValueError, match="got 8000 Hz"):
        FeatureCache(Counting(), other, root=tmp_path)
    with pytest.raises(ValueError, match="expected 'avg' or 0 to 1"):
        FeatureCache(Counting(), corpus, layer=2, root=tmp_path)
