r"""Pre-training of the small HuBERT: it learns, resumes exactly, and iterates."""

import pytest
import torch

from codec_lib import audio
from codec_lib.data import Corpus, Utterance
from codec_lib.teachers import iterations
from codec_lib.teachers.hubert import HubertConfig, SmallHubert
from codec_lib.teachers.iterations import (
    layer_targets,
    mfcc_targets,
    train_hubert,
    with_new_units,
)
from codec_lib.teachers.pretraining import PretrainConfig, pretrain

TINY = HubertConfig(dim=32, num_layers=1, num_heads=2, ffn_dim=64, num_units=8, unit_dim=16)
CONFIG = PretrainConfig(steps=30, batch_size=4, num_samples=6400, log_every=10, learning_rate=3e-3)


@pytest.fixture
def corpus(tmp_path, make_speech):
    utterances = []
    for number in range(6):
        path = tmp_path / f"{number}.wav"
        audio.write(
            path, make_speech(0.3 + 0.1 * number, pitch=90 + 20 * number, seed=number), 16000
        )
        utterances.append(Utterance(str(number), str(path)))
    return Corpus("six", utterances)


def new_teacher():
    torch.manual_seed(1)
    return SmallHubert(TINY)


def test_loss_falls_and_features_change(corpus, speech):
    teacher, lines = new_teacher(), []
    before = teacher.eval().features(speech[None])
    config = PretrainConfig(**{**vars(CONFIG), "log_every": 5})
    history = pretrain(teacher, corpus, mfcc_targets(corpus, 8), config, log=lines.append)
    assert [row["step"] for row in history] == [5, 10, 15, 20, 25, 30] and len(lines) == 6
    late = sum(row["loss"] for row in history[-3:]) / 3
    assert late < 0.6 * history[0]["loss"]
    assert not torch.allclose(teacher.features(speech[None]), before)
    assert not teacher.training


def test_a_stopped_run_goes_on_to_the_same_weights(corpus, tmp_path):
    units = mfcc_targets(corpus, 8)
    config = PretrainConfig(**{**vars(CONFIG), "steps": 6, "save_every": 2, "log_every": 1})
    whole = new_teacher()
    history = pretrain(whole, corpus, units, config)
    file = tmp_path / "run.safetensors"

    def stop(line):
        if "step     4/" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(new_teacher(), corpus, units, config, file, stop)
    resumed = new_teacher()
    torch.manual_seed(99)
    rest = pretrain(resumed, corpus, units, config, file)
    assert rest == history[-len(rest) :] and len(rest) == 4  # from the checkpoint of step 2
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="another config"):
        pretrain(new_teacher(), corpus, units, CONFIG, file)
    with pytest.raises(ValueError, match="other data"):
        pretrain(new_teacher(), corpus, [7 - one for one in units], config, file)
    with pytest.raises(ValueError, match="other data"):
        pretrain(new_teacher(), corpus[1:], units[1:], config, file)


def test_training_leaves_the_global_random_state_alone(corpus):
    units = mfcc_targets(corpus, 8)
    config = PretrainConfig(**{**vars(CONFIG), "steps": 1})
    teacher = new_teacher()
    state = torch.get_rng_state()
    pretrain(teacher, corpus, units, config)
    assert torch.equal(torch.get_rng_state(), state)


def test_second_iteration_learns_units_of_a_layer(corpus):
    teacher = new_teacher()
    units = layer_targets(teacher, corpus, layer=1, num_units=12)
    assert [len(one) for one in units] == [15, 20, 25, 30, 35, 40]
    assert 0 <= min(int(one.min()) for one in units) and max(int(u.max()) for u in units) < 12
    second = with_new_units(teacher, 12)
    assert second.units.shape == (12, 16) and second.config.num_units == 12
    assert torch.equal(second.embed.weight, teacher.embed.weight)
    config = PretrainConfig(**{**vars(CONFIG), "steps": 2})
    assert pretrain(second, corpus, units, config)[-1]["loss"] > 0


def test_parts_that_do_not_fit_are_refused(corpus):
    units = mfcc_targets(corpus, 8)
    with pytest.raises(ValueError, match="got 5 utterances, expected 6"):
        pretrain(new_teacher(), corpus, units[:5], CONFIG)
    with pytest.raises(ValueError, match="got number 9, expected below 8"):
        pretrain(new_teacher(), corpus, [*units[:5], units[5] * 0 + 9], CONFIG)
    with pytest.raises(ValueError, match="multiple of 320"):
        pretrain(new_teacher(), corpus, units, PretrainConfig(num_samples=1000))
    with pytest.raises(ValueError, match="8000 Hz"):
        pretrain(new_teacher(), Corpus("8k", list(corpus), 8000), units, CONFIG)


def test_a_bad_file_does_not_end_a_run(corpus, tmp_path):
    (tmp_path / "bad.wav").write_text("no audio")
    mixed = Corpus("mixed", [*corpus, Utterance("bad", str(tmp_path / "bad.wav"))])
    units = mfcc_targets(mixed, 8)
    assert len(units) == 7 and len(units[6]) == 0
    config = PretrainConfig(**{**vars(CONFIG), "steps": 1})
    assert pretrain(new_teacher(), mixed, units, config)[-1]["step"] == 1
    assert any("bad.wav" in path for path, _ in mixed.bad_files)


def test_a_file_that_breaks_off_does_not_end_a_run(corpus, tmp_path):
    audio.write(tmp_path / "cut.flac", corpus.load(4), 16000)
    whole = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])  # its header promises more
    mixed = Corpus("mixed", [Utterance("cut", str(tmp_path / "cut.flac")), *corpus])
    config = PretrainConfig(**{**vars(CONFIG), "steps": 1})
    teacher = train_hubert(mixed, TINY, config, None, (8, 8))
    assert teacher.feature_mean.abs().max() > 0  # its statistics were measured
    assert any("cut.flac" in path for path, _ in mixed.bad_files)


def test_targets_come_from_the_folder(corpus, tmp_path, monkeypatch):
    short = PretrainConfig(**{**vars(CONFIG), "steps": 1})
    made = train_hubert(corpus, TINY, short, None, (8, 8), folder=tmp_path)
    monkeypatch.setattr(iterations, "mfcc_targets", lambda *_: pytest.fail("clustered again"))
    (tmp_path / "iteration1.safetensors").unlink()
    assert torch.equal(train_hubert(corpus, TINY, short, None, (8, 8), folder=tmp_path).units,
                       made.units)  # fmt: skip


def test_a_teacher_is_made_in_two_iterations_and_again_from_its_checkpoints(corpus, tmp_path):
    short = PretrainConfig(**{**vars(CONFIG), "steps": 2})
    arguments = dict(
        config=TINY, first=short, second=short, num_units=(8, 12), layer=1, folder=tmp_path / "run"
    )
    lines = []
    teacher = train_hubert(corpus, **arguments, log=lines.append)
    assert teacher.config.num_units == 12 and any("clustering layer 1" in line for line in lines)
    features = teacher.features(corpus.load(5)[None], layer=1)
    assert features.abs().mean() < 2  # standardised
    assert torch.equal(train_hubert(corpus, **arguments).units, teacher.units)
    file = tmp_path / "run" / "iteration2.units.safetensors"
    assert file.is_file()  # clustering is not done again, wherever the run goes on
    with pytest.raises(ValueError, match="other data"):
        train_hubert(corpus, **{**arguments, "layer": 0})
    with pytest.raises(ValueError, match="other data"):
        train_hubert(corpus[1:], **arguments)
    one = train_hubert(corpus, **{**arguments, "second": None, "folder": None})
    assert one.config.num_units == 8
