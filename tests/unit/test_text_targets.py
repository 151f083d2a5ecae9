"""Text vectors over time: where they stand, what pauses get, the padded form, the run's targets."""

import dataclasses

import pytest
import torch

import codec_lib
from codec_lib.codecs.dm_codec import DmCodec
from codec_lib.data import Corpus, Phoneme, Utterance, corpus
from codec_lib.data.words import word_times
from codec_lib.teachers.small_text import SmallTextEncoder, save_text_encoder
from codec_lib.teachers.text_targets import TextTargets
from codec_lib.training.config import load_config
from codec_lib.training.teaching import Teaching, make_teaching

HOP = 320


class Lengths:
    """A language model that knows how long words are, and where a piece stands."""

    dim, num_layers, fingerprint = 2, 1, "lengths"

    def encode(self, words, layer="avg"):
        return torch.tensor([[len(word), place + 1.0] for place, word in enumerate(words)])

    def hidden_pieces(self, text, layer="avg", length=None):
        rows = self.encode(text.split())
        padding = torch.full((length - len(rows), 2), -7.0)
        return torch.cat([rows, padding])


@pytest.fixture(scope="module")
def spoken():
    return corpus("synthetic/small", "train")


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    """A text encoder with random weights on disk."""
    path = tmp_path_factory.mktemp("text") / "text.safetensors"
    return str(save_text_encoder(SmallTextEncoder(), path))


def test_each_frame_in_a_word_has_its_vector_and_pauses_have_none(spoken):
    targets = TextTargets(Lengths(), spoken)
    assert targets.num_spoken == len(spoken)
    for index in (0, 3):
        found, words = targets(index), word_times(spoken[index])
        frames = -(-spoken.length(index) // HOP)
        assert found.shape == (frames, 3) and found.dtype == torch.float16
        expected = torch.zeros(frames, 3)
        for frame in range(frames):
            centre = (frame + 0.5) * HOP
            for place, word in enumerate(words):
                if word.start <= centre < word.end:
                    expected[frame] = torch.tensor([len(word.text), place + 1, 1])
        assert torch.equal(found.float(), expected)
        assert 0.5 < found[:, 2].float().mean() < 1  # leading silence is no word


def test_the_padded_form_pairs_piece_and_frame_whatever_is_said(spoken):
    aligned, padded = (TextTargets(Lengths(), spoken, form=form) for form in ("aligned", "padded"))
    found, words = padded(0), word_times(spoken[0])
    assert found[:, 2].all()
    clip = [word for word in words if word.start < 150 * HOP]
    assert found[: len(clip), 0].tolist() == [len(word.text) for word in clip]
    assert (found[len(clip) : 150, 0] == -7).all()
    assert not torch.equal(found, aligned(0))


def test_speech_without_text_or_times_has_no_target(tmp_path, spoken, make_speech):
    codec_lib.audio.write(tmp_path / "a.wav", make_speech(0.5), 16000)
    bare = [
        Utterance("silent", str(tmp_path / "a.wav")),
        Utterance("untimed", str(tmp_path / "a.wav"), text="two words"),
    ]
    with pytest.raises(ValueError, match="no utterance with text and phonemes"):
        TextTargets(Lengths(), Corpus("bare", bare))
    timed = Utterance(
        "timed",
        str(tmp_path / "a.wav"),
        text="I see",
        sample_rate=8000,  # times count at the file's rate, frames at the corpus's
        phonemes=(Phoneme("AY", 0, 1600), Phoneme("S", 1600, 2000), Phoneme("IY", 2000, 4000)),
    )
    targets = TextTargets(Lengths(), Corpus("mixed", [*bare, timed]))
    assert targets.num_spoken == 1
    assert not targets(0).any() and not targets(1).any() and targets.words(0) == []
    assert targets(2)[:, 0].tolist() == [1] * 10 + [3] * 15
    with pytest.raises(ValueError, match="got 'shuffled'"):
        TextTargets(Lengths(), spoken, form="shuffled")


def test_targets_come_apart_again():
    parts = {"semantic": lambda index: torch.ones(4, 3), "text": lambda index: torch.zeros(4, 3)}
    teaching = Teaching(parts, (3, 3))
    batch = {"features": torch.stack([teaching.features(0), teaching.features(1)])}
    found = teaching.targets(batch)
    assert torch.equal(found["semantic"], torch.ones(2, 4, 3))
    vectors, heard = found["text"]
    assert vectors.shape == (2, 4, 2) and heard.dtype == torch.bool and not heard.any()
    assert Teaching().features is None and Teaching().targets(batch) is None


@pytest.mark.parametrize("distill", ["none", "continuous", "pseudo_label"])
def test_a_run_has_the_teachers_it_asks_for(distill, spoken, text_file, tmp_path, monkeypatch):
    monkeypatch.setenv("CODEC_LIB_CACHE", str(tmp_path))
    changes = {"codec": "dm_codec", "teacher": "hubert-small", "distill": distill, "units": 8}
    config = load_config("smoke", changes={**changes, "text_teacher": text_file})
    codec = codec_lib.build("dm_codec", "smoke")
    first = {spoken[0].utterance_id, spoken[1].utterance_id}
    few = spoken.select(lambda utterance: utterance.utterance_id in first)
    teaching = make_teaching(config, few, codec, torch.device("cpu"))
    names = {"none": ("text",), "continuous": ("semantic", "text")}
    assert teaching.projections == names.get(distill, ("units", "text"))
    # One map for both where widths are equal: both small teachers have 192.
    assert teaching.overrides["text_dim"] == (192 if distill == "none" else 0)
    fitted = DmCodec(dataclasses.replace(codec.config, **teaching.overrides))
    out = fitted(0.1 * torch.randn(1, 1, 20 * HOP))
    targets = teaching.targets({"features": teaching.features(0)[None, :20]})
    for name, target in targets.items():
        width = {"semantic": 192, "text": 192, "units": 8}[name]
        assert out.projections[name].shape == (1, 20, width), name
        expected = (1, 20) if name == "units" else (1, 20, width)
        assert (target[0] if name == "text" else target).shape == expected, name


def test_other_codecs_have_no_text_teacher(spoken):
    config = load_config("smoke", changes={"text_teacher": "bert_base"})
    codec = codec_lib.build("speechtokenizer", "smoke")
    with pytest.raises(ValueError, match="speechtokenizer, which has no projection"):
        make_teaching(config, spoken, codec, torch.device("cpu"))
