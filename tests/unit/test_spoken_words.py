"""Single words in several voices: labels, splits, and that they are made again alike."""

import pytest
import torch

from codec_lib.data.spoken_words import make_words


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
