r"""Text teachers through transformers, from a folder: states, words, pieces, messages."""

import sys

import pytest
import torch

from codec_lib.teachers.text import PUBLISHED_TEXT, load_text_teacher, pretrained_text

transformers = pytest.importorskip("transformers")

VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "vill",
    "##age",
    "is",
    "old",
    ".",
]
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 24,
}


@pytest.fixture
def make_folder(tmp_path):
    """Return a function that writes a tiny model of one kind with its vocabulary to a folder."""

    def make(kind="bert", place=None):
        folder = place or tmp_path / kind
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
        tokenizer = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"))
        tokenizer.save_pretrained(folder)
        if kind == "bert":
            model = transformers.BertModel(transformers.BertConfig(**SIZES))
        else:
            config = transformers.ElectraConfig(**SIZES, embedding_size=8)
            model = transformers.ElectraModel(config)
        model.save_pretrained(folder)
        return folder, model.eval(), tokenizer

    return make


@pytest.mark.parametrize("kind", ["bert", "electra"])
def test_states_are_those_of_the_model(make_folder, kind):
    folder, model, tokenizer = make_folder(kind)
    teacher = load_text_teacher(folder)
    assert (teacher.dim, teacher.num_layers) == (16, 3)
    with torch.no_grad():
        theirs = model(
            **tokenizer("The village is old.", return_tensors="pt"), output_hidden_states=True
        )
    assert len(theirs.hidden_states) == 4
    pieces = [teacher.hidden_pieces("The village is old.", layer) for layer in range(4)]
    for ours, state in zip(pieces, theirs.hidden_states, strict=True):
        assert ours.shape == (8, 16) and torch.allclose(ours, state[0], atol=1e-6)
    # BERT normalises behind every layer: the last state is the output.
    assert torch.allclose(pieces[3], theirs.last_hidden_state[0], atol=1e-6)
    mean = teacher.hidden_pieces("The village is old.")
    assert torch.allclose(mean, torch.stack(pieces).mean(0), atol=1e-6)


def test_a_word_is_the_mean_of_its_pieces_in_the_whole_sentence(make_folder):
    teacher = load_text_teacher(make_folder()[0])
    pieces = teacher.hidden_pieces("the village is old", 2)  # [CLS] the vill ##age is old [SEP]
    words = teacher.encode(["the", "village", "is", "old"], 2)
    assert words.shape == (4, 16) and words.dtype == torch.float32
    assert torch.allclose(words[0], pieces[1], atol=1e-6)
    assert torch.allclose(words[1], pieces[2:4].mean(0), atol=1e-6)
    assert torch.allclose(words[3], pieces[5], atol=1e-6)
    assert not torch.allclose(teacher.encode(["the"], 2)[0], words[0], atol=1e-3)


def test_padded_pieces_are_the_published_form(make_folder):
    folder, model, tokenizer = make_folder()
    teacher = load_text_teacher(folder)
    padded = tokenizer(
        "the village", padding="max_length", max_length=12, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        theirs = model(**padded, output_hidden_states=True).hidden_states[3][0]
    ours = teacher.hidden_pieces("the village", 3, length=12)
    assert ours.shape == (12, 16) and torch.allclose(ours, theirs, atol=1e-6)
    assert torch.allclose(ours[:5], teacher.hidden_pieces("the village", 3), atol=1e-5)
    cut = teacher.hidden_pieces("the village is old", 0, length=4)  # [CLS] the vill [SEP]
    whole = teacher.hidden_pieces("the vill", 0)
    assert cut.shape == (4, 16) and torch.allclose(cut, whole, atol=1e-6)
    assert teacher.hidden_pieces("the village", 3, length=1).shape == (1, 16)
    with pytest.raises(ValueError, match="got 0, expected at least 1 piece"):
        teacher.hidden_pieces("the village", 3, length=0)


def test_what_cannot_be_read_is_refused(make_folder):
    teacher = load_text_teacher(make_folder()[0])
    with pytest.raises(ValueError, match=r"each with pieces \(none: \[1\]\)"):
        teacher.encode(["the", " ", "old"])
    with pytest.raises(ValueError, match="expected at least one"):
        teacher.encode([])
    with pytest.raises(ValueError, match="got 32 pieces, expected at most 24"):
        teacher.encode(["old"] * 30)
    with pytest.raises(ValueError, match="expected 'avg' or 0 to 3"):
        teacher.encode(["old"], 4)


def test_fingerprint_follows_weights_and_vocabulary(make_folder):
    folder, _, _ = make_folder()
    one, other = load_text_teacher(folder), load_text_teacher(folder)
    assert one.fingerprint == other.fingerprint
    other.tokenizer.add_tokens(["new"])
    changed = other.fingerprint
    assert changed != one.fingerprint
    with torch.no_grad():
        next(other.model.parameters()).add_(1)
    assert other.fingerprint not in (changed, one.fingerprint)


@pytest.mark.parametrize("name", PUBLISHED_TEXT)
def test_missing_weights_are_named_with_size_address_and_place(monkeypatch, tmp_path, name):
    monkeypatch.setattr(transformers.utils.hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ValueError) as caught:
        load_text_teacher(name)
    message = str(caught.value)
    assert str(tmp_path / "hub" / f"models--{PUBLISHED_TEXT[name].replace('/', '--')}") in message
    assert f"https://huggingface.co/{PUBLISHED_TEXT[name]}" in message
    assert "440 MB" in message and "vocab.txt" in message and "download=True" in message


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="whose files are not at"):
        load_text_teacher(tmp_path)


def test_without_transformers_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install codec-lib\[text\]"):
        pretrained_text("bert_base")
