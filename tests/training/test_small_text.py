r"""Training of the small text encoder: it learns, resumes exactly, hides what it should."""

import pytest
import torch

from codec_lib.teachers.small_text import PAD, SPACE, UNKNOWN, TextConfig, pieces_of
from codec_lib.teachers.text_training import (
    TextTrainConfig,
    hide,
    masked_accuracy,
    train_text_encoder,
)

TINY = TextConfig(dim=32, num_layers=1, num_heads=2, ffn_dim=64, position_kernel=5, dropout=0.0)
TEXTS = ["the old men of the village", "seven men and a dog", "the dog is old"]
CONFIG = TextTrainConfig(steps=60, batch_size=3, learning_rate=1e-2, log_every=30)


def test_it_learns_to_spell_what_it_does_not_see():
    lines = []
    teacher = train_text_encoder(TEXTS, TINY, CONFIG, log=lines.append)
    assert len(lines) == 2 and not teacher.training
    after = masked_accuracy(teacher, TEXTS)
    untrained = train_text_encoder(TEXTS, TINY, TextTrainConfig(steps=0))
    before = masked_accuracy(untrained, TEXTS)
    assert before["unigram_loss"] == after["unigram_loss"] > 2
    assert after["accuracy"] > after["unigram_accuracy"] + 0.3 > before["accuracy"]
    assert after["loss"] < 0.5 * before["loss"]
    assert float(teacher.feature_scale.std()) > 0  # statistics were measured


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path):
    config = TextTrainConfig(**{**vars(CONFIG), "steps": 6, "save_every": 2, "log_every": 1})
    whole = train_text_encoder(TEXTS, TextConfig(**{**vars(TINY), "dropout": 0.2}), config)

    def stop(line):
        if "step     5/" in line:
            raise KeyboardInterrupt

    arguments = (TEXTS, whole.config, config, tmp_path / "run.safetensors")
    with pytest.raises(KeyboardInterrupt):
        train_text_encoder(*arguments, stop)
    torch.manual_seed(99)
    lines = []
    resumed = train_text_encoder(*arguments, lines.append)
    assert len(lines) == 2 and resumed.fingerprint == whole.fingerprint
    with pytest.raises(ValueError, match="another config"):
        train_text_encoder(TEXTS, TINY, config, tmp_path / "run.safetensors")


def test_training_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    train_text_encoder(TEXTS, TINY, TextTrainConfig(**{**vars(CONFIG), "steps": 1}))
    assert torch.equal(torch.get_rng_state(), state)


def test_whole_words_and_spans_are_hidden_and_never_special_pieces():
    split = [pieces_of(text.split()) for text in TEXTS] * 200
    words = TextTrainConfig(word_share=0.2, mask_start=0.0)
    pieces, mask = hide(split, words, torch.Generator().manual_seed(0))
    assert not mask[pieces < UNKNOWN].any() and not mask[pieces == SPACE].any()
    places = torch.nn.utils.rnn.pad_sequence([one for _, one in split], True, -1)
    share = []
    for row, hidden in zip(places, mask, strict=True):
        for word in range(int(row.max()) + 1):
            assert hidden[row == word].unique().numel() == 1  # all of it or nothing
            share.append(bool(hidden[row == word][0]))
    assert 0.17 < sum(share) / len(share) < 0.23
    spans = TextTrainConfig(word_share=0.0, mask_start=0.1, mask_length=2)
    pieces, mask = hide(split, spans, torch.Generator().manual_seed(0))
    assert not mask[pieces == PAD].any() and mask[pieces == SPACE].any()
    assert 0.16 < float(mask[pieces >= UNKNOWN].float().mean()) < 0.22
    _, mask = hide(split[:1], TextTrainConfig(word_share=0, mask_start=0), torch.Generator())
    assert mask[0].sum() == 3  # never nothing: "the"
