r"""The comparison of a teacher with what needs no training."""

from dataclasses import replace

import pytest
import torch

from codec_lib import audio
from codec_lib.data import Corpus, corpus
from codec_lib.evaluation.probes import phoneme_frames, pooled_features
from codec_lib.evaluation.teacher_probe import (
    all_layers,
    baselines,
    nearest_agreement,
    probe_phonemes,
    probe_words,
    split_layers,
    untrained_like,
)
from codec_lib.teachers.hubert import HubertConfig, SmallHubert

TINY = HubertConfig(dim=16, num_layers=1, num_heads=2, ffn_dim=32, num_units=8, unit_dim=8)


@pytest.fixture
def teacher():
    return SmallHubert(TINY).eval()


@pytest.fixture(scope="module")
def parts():
    small = corpus("synthetic/small")
    return small.split("train")[:10], small.split("test")[:3]


@pytest.mark.parametrize(
    ("name", "dim"), [("mfcc", 39), ("log_mel", 160), ("log_mel_context", 880)]
)
def test_baselines_have_the_teachers_frames(name, dim, speech):
    assert baselines()[name](speech[None]).shape == (1, 25, dim)


def test_context_holds_the_frame_itself_in_the_middle(speech):
    features = baselines()["log_mel_context"](speech[None])[0].unflatten(1, (80, 11))
    assert torch.equal(features[4, :, 6], features[5, :, 5])
    assert torch.equal(features[9, :, 0], features[4, :, 5])


def test_layers_are_run_once_and_split_as_the_teacher_gives_them(teacher, speech):
    teacher.set_statistics([speech[None]])
    parts = split_layers(all_layers(teacher)(speech[None])[0], teacher)
    assert list(parts) == ["avg", "0", "1"]
    for name, features in parts.items():
        layer = name if name == "avg" else int(name)
        assert torch.allclose(features, teacher.features(speech[None], layer)[0], atol=1e-5)


def test_untrained_is_another_network_of_the_same_sizes(teacher, parts):
    fresh = untrained_like(teacher, parts[0])
    assert fresh.config == teacher.config and fresh.fingerprint != teacher.fingerprint
    assert not torch.equal(fresh.feature_scale, torch.ones_like(fresh.feature_scale))


def test_every_feature_gets_a_row_and_beats_chance(teacher, parts):
    teacher.set_statistics(parts[0].load(index)[None] for index in range(5))
    rows = probe_phonemes(teacher, *parts, max_train_frames=2000, max_test_frames=500)
    names = [(row["features"], row["layer"]) for row in rows]
    assert names[:3] == [("mfcc", None), ("log_mel", None), ("log_mel_context", None)]
    assert names[3:] == [(n, k) for n in ("untrained", "teacher") for k in ("avg", "0", "1")]
    assert all(row["accuracy"] > 2 * row["majority"] for row in rows[:3])


def test_words_are_probed_on_pooled_features(teacher, parts):
    train, test = parts
    rows = probe_words(teacher, train, Corpus("t", list(test)), lambda one: one.sex)
    assert len(rows) == 9 and {row["num_classes"] for row in rows} == {2}
    assert {row["num_test"] for row in rows} == {3}


def test_voices_that_were_learnt_from_are_no_test(teacher, parts):
    for probe in (probe_phonemes, probe_words):
        with pytest.raises(ValueError, match="expected others to test on than to learn from"):
            probe(teacher, parts[0], parts[0])


def test_nearest_frames_are_sought_among_other_speakers(parts):
    known = parts[1]
    numbers = {symbol: n for n, symbol in enumerate(known.phoneme_set)}

    def told(wav):  # features that are the phonemes themselves
        index = lengths.index(wav.shape[-1])
        named = known[index].frame_symbols(50.0, -(-wav.shape[-1] // 320))
        return torch.tensor([[numbers[s]] for s in named]).float()[None]

    lengths = [known.length(index) for index in range(len(known))]
    shared = nearest_agreement(told, known)
    assert 0.5 < shared <= 1  # a phoneme that only one speaker says has no right neighbour
    assert nearest_agreement(lambda wav: 0 * told(wav), known) < 0.2
    alone = known.select(lambda one: one.speaker_id == known.speakers[0])
    with pytest.raises(ValueError, match="got speech of 1 speakers in the first 12"):
        nearest_agreement(told, alone)


def test_a_file_with_a_broken_body_is_left_out(parts, tmp_path):
    """The header says 16-bit FLAC as before; the frames behind it are noise."""
    test = parts[1]
    path = tmp_path / "broken.flac"
    audio.write(path, test.load(0), 16000)
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + b"\x55" * (len(whole) - 200))
    broken = replace(test[0], audio_path=str(path))
    with pytest.raises(audio.AudioError):
        Corpus("broken", [broken]).load(0)
    mixed = Corpus("mixed", [broken, *test])
    mfcc = baselines()["mfcc"]
    first, again = (nearest_agreement(mfcc, one, 9) for one in (test, mixed))
    assert first == again and len(mixed.bad_files) == 1
    untrained = untrained_like(SmallHubert(TINY), mixed)
    assert untrained.feature_mean.abs().max() > 0
    symbols = test.phoneme_set
    frames, labels = phoneme_frames(mfcc, Corpus("mixed", [broken, *test]), symbols)
    assert len(frames) == len(labels) == len(phoneme_frames(mfcc, test, symbols)[1])
    with pytest.raises(ValueError, match="broken: got 1 bad files"):
        phoneme_frames(mfcc, Corpus("broken", [broken]), symbols)
    with pytest.raises(ValueError, match="broken: got 1 bad files"):
        pooled_features(mfcc, Corpus("broken", [broken]), lambda one: one.sex, ["f", "m"])
