"""Single words in several voices, and strings of them: labels, texts, splits, same again."""

from dataclasses import replace

import pytest
import torch

from codec_lib import paths
from codec_lib.data import Corpus, corpus, make_synthetic
from codec_lib.data.mandarin import make_mandarin
from codec_lib.data.spoken_words import make_words
from codec_lib.data.strings import make_strings


def test_words_have_a_label_a_voice_and_a_split(tmp_path):
    found = make_words(tmp_path, ("zero", "one"), ("f1", "m3"), takes=4)
    assert len(found) == 16 and found.speakers == ["f1", "m3"]
    assert {one.label for one in found} == {"zero", "one"}
    assert len(found.split("test")) == 4  # every fourth take
    wav = found.load(0)
    assert 3200 < wav.shape[1] < 16_000 and 0.01 < wav.abs().max() < 1
    assert not torch.equal(wav[:, :3000], found.load(1)[:, :3000])  # another take
    again = make_words(tmp_path, ("zero", "one"), ("f1", "m3"), takes=4)
    assert torch.equal(again.load(0), wav)


def test_too_few_takes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="every fourth"):
        make_words(tmp_path, takes=3)


def test_strings_keep_speaker_split_and_every_word(tmp_path):
    words = make_words(tmp_path / "words", ("zero", "one"), ("f1", "m3"), takes=8)
    made = make_strings(tmp_path / "strings", words, takes=2)
    for speaker in ("f1", "m3"):
        for split, each in (("train", 12), ("test", 4)):  # 6 or 2 takes, used twice
            own = [one for one in made if (one.speaker_id, one.split) == (speaker, split)]
            said = " ".join(one.text for one in own).split()
            assert sorted(said) == ["one"] * each + ["zero"] * each
            assert all(3 <= len(one.text.split()) <= 5 for one in own[:-1])
    longest = max(range(len(made)), key=lambda index: len(made[index].text))
    pauses = 0.2 * len(made[longest].text.split())
    shortest = min(words.length(index) for index in range(len(words)))
    spoken = made.length(longest) - pauses * made.sample_rate
    assert made.load(longest).shape == (1, made.length(longest)) and spoken > 3 * shortest
    again = make_strings(tmp_path / "again", words, takes=2)
    assert [one.text for one in again] == [one.text for one in made]
    assert torch.equal(again.load(3), made.load(3))


def test_strings_are_found_by_name_and_made_once(tmp_path, monkeypatch):
    make_words(tmp_path / "words", ("zero", "one"), ("f1",), takes=4)
    monkeypatch.setenv("CODEC_LIB_DATA", str(tmp_path))
    monkeypatch.setattr(paths, "corpora_root", lambda: tmp_path / "made")
    found = corpus("strings/words", "train", sample_rate=8000)
    assert found.name == "strings/words[train]" and found.sample_rate == 8000
    first = found[0].audio_path
    assert corpus("strings/words", "train", sample_rate=8000)[0].audio_path == first
    assert corpus("strings/words", "train")[0].audio_path != first  # of another rate
    manifest = tmp_path / "words" / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",zero,", ",naught,"))
    said = {one.text for one in corpus("strings/words", "train", sample_rate=8000)}
    assert "naught" in " ".join(said)  # another transcript: made again


def test_recordings_are_never_deleted(tmp_path):
    words = make_words(tmp_path / "words", ("one",), ("f1",), takes=4)
    (tmp_path / "mine" / "audio").mkdir(parents=True)
    recording = tmp_path / "mine" / "audio" / "interview.wav"
    recording.write_bytes(b"mine")
    for make in (
        lambda folder: make_words(folder, ("one",), ("f1",), takes=4),
        lambda folder: make_strings(folder, words),
        lambda folder: make_synthetic(folder, num_utterances=1),
        lambda folder: make_mandarin(folder, 1),
    ):
        with pytest.raises(ValueError, match="that this library has not made"):
            make(tmp_path / "mine")
    assert recording.read_bytes() == b"mine"


def test_strings_of_nobody_are_refused(tmp_path):
    words = make_words(tmp_path, ("one",), ("f1",), takes=4)
    silent = Corpus("silent", [replace(one, text="") for one in words])
    with pytest.raises(ValueError, match="got no recording with text and speaker"):
        make_strings(tmp_path / "strings", silent)
