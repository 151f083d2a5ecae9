r"""Recognisers: what they hear, what is trained, what fits, and how they are kept."""

import pytest
import torch

from codec_lib import audio, hub
from codec_lib.data import Corpus, Phoneme, Utterance
from codec_lib.teachers.base_hubert import BaseHubert, BaseHubertConfig
from codec_lib.teachers.ctc import (
    CtcRecogniser,
    RecogniserConfig,
    load_recogniser,
    save_recogniser,
)
from codec_lib.teachers.ctc_training import CtcConfig, usable_utterances
from codec_lib.teachers.hubert import HubertConfig, SmallHubert, save_hubert
from codec_lib.teachers.pretrained import PretrainedTeacher

SMALL = HubertConfig(dim=32, num_layers=3, num_heads=2, ffn_dim=64, num_units=8, unit_dim=16)
CONVOLUTIONS = ((8, 10, 5), *((8, 3, 2),) * 4, *((8, 2, 2),) * 2)
BASE = BaseHubertConfig(
    conv_layers=CONVOLUTIONS,
    dim=32,
    num_layers=3,
    num_heads=2,
    ffn_dim=64,
    position_kernel=8,
    position_groups=4,
)


def teachers():
    base = BaseHubert(BASE).eval()
    return {"small": SmallHubert(SMALL).eval(), "base": base, "published": published(base)}


def published(base):
    """The same network as one of torchaudio's published teachers."""
    return PretrainedTeacher(base.model.wav2vec2)


@pytest.mark.parametrize("name", ["small", "base", "published"])
def test_padding_is_not_heard(name, make_speech):
    recogniser = CtcRecogniser(teachers()[name]).eval()
    wavs = [make_speech(0.2, seed=1), make_speech(0.5, seed=2)]
    batch = torch.nn.utils.rnn.pad_sequence([wav[0] for wav in wavs], batch_first=True)[:, None]
    sizes = torch.tensor([wav.shape[-1] for wav in wavs])
    together = recogniser(batch, sizes)
    assert together.shape == (2, 25, 40)
    if name != "base":  # its group norm runs over time, padding included, as published
        assert torch.allclose(
            together[0, :10].log_softmax(-1), recogniser.log_probs(wavs[0][None]), atol=1e-4
        )
    assert torch.allclose(
        together[1].log_softmax(-1), recogniser.log_probs(wavs[1][None]), atol=1e-4
    )


@pytest.mark.parametrize("name", ["small", "base", "published"])
@pytest.mark.parametrize("count", [0, 1, None])
def test_gradient_reaches_what_is_trained_and_nothing_else(name, count, speech):
    recogniser = CtcRecogniser(teachers()[name], RecogniserConfig(trained_layers=count))
    recogniser(speech[None], torch.tensor([8000])).square().sum().backward()
    touched = {key for key, value in recogniser.named_parameters() if value.grad is not None}
    layers = {key.partition(".layers.")[2][:1] for key in touched if "conv_layers" not in key}
    assert layers - {""} == set("012" if count is None else "012"[3 - count :])
    assert "head.to_symbol.weight" in touched
    assert not any("feature_extractor" in key for key in touched)
    front = "teacher.embed.weight" if name == "small" else "feature_projection.projection.weight"
    assert any(key.endswith(front) for key in touched) == (count is None)


def test_too_many_layers_are_refused():
    with pytest.raises(ValueError, match="trained_layers: got 4, expected None or 0 to 3"):
        CtcRecogniser(SmallHubert(SMALL), RecogniserConfig(trained_layers=4))


def test_the_head_depends_on_its_seed_alone():
    one = CtcRecogniser(SmallHubert(SMALL), seed=3).head.to_symbol.weight
    assert torch.equal(one, CtcRecogniser(SmallHubert(SMALL), seed=3).head.to_symbol.weight)
    assert not torch.equal(one, CtcRecogniser(SmallHubert(SMALL), seed=4).head.to_symbol.weight)
    assert one.shape == (40, 32)
    teacher, state = SmallHubert(SMALL), torch.get_rng_state()
    CtcRecogniser(teacher)
    assert torch.equal(torch.get_rng_state(), state)


def test_transcript_is_the_best_path_without_repeats_and_blanks(speech):
    recogniser = CtcRecogniser(SmallHubert(SMALL), RecogniserConfig("characters")).eval()
    recogniser.head.to_symbol.weight.data.zero_()
    recogniser.head.to_symbol.bias.data[5] = 9.0
    assert recogniser.transcribe(speech[None]) == [recogniser.symbols.names[5]] == ["d"]
    recogniser.head.to_symbol.bias.data[0] = 10.0
    assert recogniser.transcribe(speech[None]) == []


@pytest.mark.parametrize("name", ["small", "base"])
def test_a_recogniser_is_kept_whole(name, tmp_path, speech):
    recogniser = CtcRecogniser(teachers()[name], RecogniserConfig("phonemes+words", 2)).eval()
    file = save_recogniser(recogniser, tmp_path / "one.safetensors", {"data": "none"})
    again = load_recogniser(file)
    assert again.config == recogniser.config and type(again.teacher) is type(recogniser.teacher)
    found, expected = again.log_probs(speech[None]), recogniser.log_probs(speech[None])
    assert torch.allclose(found, expected, atol=2e-2)  # half precision
    assert not any(value.requires_grad for value in again.parameters()) and not again.training


def test_a_card_does_not_change_what_a_recogniser_is(tmp_path):
    recogniser = CtcRecogniser(SmallHubert(SMALL))
    card = {"teacher": "hubert-small", "teacher_config": {}, "recogniser": None, "data": "none"}
    file = save_recogniser(recogniser, tmp_path / "one.safetensors", card)
    assert load_recogniser(file).config == recogniser.config
    assert hub.read_tensors(file)[0]["card"]["data"] == "none"


def test_a_file_of_something_else_is_no_recogniser(tmp_path):
    file = save_hubert(SmallHubert(SMALL), tmp_path / "teacher.safetensors")
    with pytest.raises(
        ValueError, match=r"teacher\.safetensors: got the weights of something else"
    ):
        load_recogniser(file)


def test_a_recogniser_is_known_by_its_weights_and_symbols():
    torch.manual_seed(0)
    teacher = SmallHubert(SMALL)
    one, other = (CtcRecogniser(teacher, seed=seed).fingerprint for seed in (0, 1))
    assert one == CtcRecogniser(teacher, seed=0).fingerprint != other


def test_a_published_teachers_recogniser_needs_its_network(tmp_path, speech):
    recogniser = CtcRecogniser(teachers()["published"]).eval()
    file = save_recogniser(recogniser, tmp_path / "one.safetensors")
    with pytest.raises(ValueError, match="expected a teacher of its size"):
        load_recogniser(file)
    again = load_recogniser(file, teachers()["published"])
    assert torch.allclose(
        again.log_probs(speech[None]), recogniser.log_probs(speech[None]), atol=2e-2
    )


def test_what_ctc_cannot_learn_from_is_left_out_and_counted(tmp_path, make_speech):
    def utterance(name, seconds, symbols):
        path = tmp_path / f"{name}.wav"
        audio.write(path, make_speech(seconds), 16000)
        phones = tuple(Phoneme(one, at, at + 1) for at, one in enumerate(symbols))
        return Utterance(name, str(path), phonemes=phones)

    (tmp_path / "bad.wav").write_text("no audio")
    corpus = Corpus(
        "six",
        [
            utterance("good", 0.2, ["AA", "AA", "B"]),
            utterance("short", 0.1, ["AA"] * 4),  # 5 frames, 7 needed
            utterance("long", 0.6, ["AA"]),
            utterance("silent", 0.2, ["sil"]),
            Utterance("bad", str(tmp_path / "bad.wav"), phonemes=(Phoneme("AA", 0, 1),)),
            Utterance("no text", str(tmp_path / "good.wav")),
        ],
    )
    recogniser, lines = CtcRecogniser(SmallHubert(SMALL)), []
    config = CtcConfig(max_seconds=0.5)
    assert usable_utterances(recogniser, corpus, config, lines.append) == ([0], [[1, 1, 16 - 9]])
    reasons = "1 unreadable, 1 longer than max_seconds, 2 not to be spelt, 1 too short"
    assert lines == [f"six: 5 utterances left out: {reasons}"]
    with pytest.raises(ValueError, match="got 0 of 1 utterances to use: 1 too short"):
        usable_utterances(recogniser, corpus[1:2], config)
    with pytest.raises(ValueError, match="8000 Hz"):
        usable_utterances(recogniser, Corpus("8k", list(corpus), 8000), config)
