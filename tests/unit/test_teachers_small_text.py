r"""The small text encoder: pieces, words in context, padding, statistics, files."""

import pytest
import torch

from codec_lib.teachers import load_teacher
from codec_lib.teachers.small_text import (
    CLS,
    LETTERS,
    PAD,
    SEP,
    SPACE,
    SPECIAL,
    UNKNOWN,
    SmallTextEncoder,
    TextConfig,
    load_text_encoder,
    pieces_of,
    save_text_encoder,
)
from codec_lib.teachers.text import load_text_teacher

TINY = TextConfig(dim=16, num_layers=2, num_heads=2, ffn_dim=32, position_kernel=5)


@pytest.fixture
def teacher():
    return SmallTextEncoder(TINY).eval().requires_grad_(False)


def test_pieces_are_letters_between_spaces():
    pieces, places = pieces_of(["It's", "Café,", "10:45"])
    signs = [*SPECIAL[:-1], "_", *LETTERS]
    assert "".join(signs[piece] for piece in pieces.tolist()) == "[CLS]it's_cafe_[UNK][SEP]"
    assert places.tolist() == [-1, 0, 0, 0, 0, -1, 1, 1, 1, 1, -1, 2, -1]
    assert int(pieces[0]) == CLS and int(pieces[5]) == SPACE and int(pieces[11]) == UNKNOWN
    for words in ([], ["a", ""], [" "]):
        with pytest.raises(ValueError, match="expected at least one, and none of them empty"):
            pieces_of(words)


def test_a_word_is_the_mean_of_its_letters_in_the_whole_sentence(teacher):
    pieces = teacher.hidden_pieces("old men", 1)  # [CLS] o l d _ m e n [SEP]
    words = teacher.encode(["old", "men"], 1)
    assert pieces.shape == (9, 16) and words.shape == (2, 16)
    assert torch.allclose(words[0], pieces[1:4].mean(0), atol=1e-6)
    assert torch.allclose(words[1], pieces[5:8].mean(0), atol=1e-6)
    assert not torch.allclose(teacher.encode(["old"], 1)[0], words[0], atol=1e-4)


def test_average_is_over_all_states(teacher):
    layers = torch.stack([teacher.encode(["old", "men"], layer) for layer in range(3)])
    assert torch.allclose(teacher.encode(["old", "men"]), layers.mean(0), atol=1e-6)
    with pytest.raises(ValueError, match="expected 'avg' or 0 to 2"):
        teacher.encode(["old"], 3)


def test_padding_changes_no_letter_and_cutting_keeps_the_end(teacher):
    plain = teacher.hidden_pieces("old men", 2)
    padded = teacher.hidden_pieces("old men", 2, length=20)
    assert padded.shape == (20, 16) and torch.allclose(padded[:9], plain, atol=1e-5)
    assert not torch.allclose(padded[9], padded[19], atol=1e-4)  # near the text, and far from it
    cut = teacher.hidden_pieces("old men", 0, length=5)  # [CLS] o l d [SEP]
    assert torch.allclose(cut, teacher.hidden_pieces("old", 0), atol=1e-6)
    assert teacher.hidden_pieces("old men", length=9).shape == (9, 16)
    assert teacher.hidden_pieces("old men", length=1).shape == (1, 16)
    with pytest.raises(ValueError, match="got 0, expected at least 1 piece"):
        teacher.hidden_pieces("old men", length=0)


def test_a_batch_is_as_one_by_one(teacher):
    split = [pieces_of(words)[0] for words in (["old", "men"], ["a"])]
    joint = torch.nn.utils.rnn.pad_sequence(split, True, PAD)
    states = teacher.hidden_states(joint)
    assert int(joint[1, 2]) == SEP and len(states) == 3
    for number, one in enumerate(split):
        for ours, alone in zip(states, teacher.hidden_states(one[None]), strict=True):
            assert torch.allclose(ours[number, : len(one)], alone[0], atol=1e-5)


def test_statistics_bring_letters_to_mean_0_and_scale_1(teacher):
    texts = ["the old men", "a village by the sea", "seven of them"]
    teacher.set_statistics(texts)
    for layer in range(3):
        letters = []
        for text in texts:
            places = pieces_of(text.split())[1]
            letters.append(teacher.hidden_pieces(text, layer)[places >= 0])
        joint = torch.cat(letters)
        assert torch.allclose(joint.mean(0), torch.zeros(16), atol=1e-4)
        assert torch.allclose(joint.std(0), torch.ones(16), atol=1e-3)


def test_file_brings_it_back(teacher, tmp_path):
    teacher.set_statistics(["the old men"])
    file = save_text_encoder(teacher, tmp_path / "text.safetensors", {"data": "three words"})
    again = load_text_teacher(file)
    assert again.config == TINY and not any(p.requires_grad for p in again.parameters())
    ours, theirs = teacher.encode(["old", "men"]), again.encode(["old", "men"])
    assert torch.allclose(ours, theirs, atol=2e-2)
    assert load_text_encoder(file).fingerprint == again.fingerprint != teacher.fingerprint


def test_files_of_something_else_are_refused(tmp_path):
    from codec_lib.teachers.hubert import HubertConfig, SmallHubert, save_hubert

    small = SmallHubert(HubertConfig(dim=16, num_layers=1, num_heads=2, ffn_dim=16))
    file = save_hubert(small, tmp_path / "hubert.safetensors")
    with pytest.raises(ValueError, match="weights of something else, expected a text encoder's"):
        load_text_teacher(file)
    file = save_text_encoder(SmallTextEncoder(TINY), tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match="text encoders are loaded by load_text_teacher"):
        load_teacher(file)
    with pytest.raises(ValueError, match="no-such-text"):
        load_text_teacher("no-such-text")
