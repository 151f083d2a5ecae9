r"""Training of Spin: it learns voices away, resumes exactly, and feeds the next pre-training."""

import pytest
import torch

from codec_lib import audio
from codec_lib.data import Corpus, Utterance
from codec_lib.teachers.hubert import HubertConfig, SmallHubert
from codec_lib.teachers.iterations import with_new_units
from codec_lib.teachers.perturbation import equalise
from codec_lib.teachers.pretraining import PretrainConfig, pretrain
from codec_lib.teachers.spin import Spin, SpinSizes
from codec_lib.teachers.spin_training import PAPER, SMALL, SpinConfig, spin_targets, train_spin

TINY = HubertConfig(dim=32, num_layers=3, num_heads=2, ffn_dim=64, num_units=8, unit_dim=16)
SIZES = SpinSizes(num_codes=8, num_auxiliary=16, code_dim=8)
RECIPE = {"steps": 30, "pairs": 4, "num_samples": 6400, "learning_rate": 3e-3, "warmup": 0.5}
CONFIG = SpinConfig(**RECIPE, log_every=10)
SHORT = SpinConfig(**{**vars(CONFIG), "steps": 6, "save_every": 2, "log_every": 1})


@pytest.fixture
def spoken(tmp_path, make_speech):
    """Function that says five vowels at a multiple of their pitch, in a colour."""

    def say(name, pitch, gain_db):
        utterances = []
        for number in range(5):
            path = tmp_path / name / f"{number}.wav"
            wav = make_speech(0.3 + 0.1 * number, pitch=pitch * (90 + 20 * number), seed=number)
            wav = equalise(0.2 * wav, 16000, [gain_db, 0, -gain_db], [2.0] * 3)
            audio.write(path, wav, 16000, over="limit")
            utterances.append(Utterance(str(number), str(path)))
        return Corpus(name, utterances)

    return say


@pytest.fixture
def corpus(spoken):
    return spoken("plain", 1, 0)


@pytest.fixture
def views(spoken):
    return [spoken("high", 1.25, -12), spoken("low", 0.8, 12)]


def new_spin(sizes=SIZES):
    torch.manual_seed(1)
    return Spin(SmallHubert(TINY), sizes)


def agreement(spin, corpus, view):
    pairs = zip(spin_targets(spin, corpus), spin_targets(spin, view), strict=True)
    return float(torch.cat([one == other for one, other in pairs]).float().mean())


def test_two_voices_come_to_share_their_units(corpus, views):
    spin, lines = new_spin(), []
    before = agreement(spin, corpus, views[0])
    frozen = {name: w.clone() for name, w in spin.named_parameters() if not w.requires_grad}
    history = train_spin(spin, corpus, views, CONFIG, log=lines.append)
    assert [row["step"] for row in history] == [10, 20, 30] and len(lines) == 3
    assert history[-1]["loss"] < history[0]["loss"]
    for name in ("primary", "auxiliary"):
        assert history[-1][f"{name}_loss"] < history[0][f"{name}_loss"]
    after = agreement(spin, corpus, views[0])
    assert after > before + 0.1, (before, after)
    assert history[-1]["primary_perplexity"] > 3  # they did not fall onto one code
    weights = dict(spin.named_parameters())
    assert all(torch.equal(weights[name], value) for name, value in frozen.items())
    codes = torch.cat([head.codes.norm(dim=1) for head in spin.heads.values()])
    assert torch.allclose(codes, torch.ones(24), atol=1e-6) and not spin.training


def test_a_stopped_run_goes_on_to_the_same_weights(corpus, views, tmp_path):
    whole = new_spin()
    history = train_spin(whole, corpus, views, SHORT)
    file = tmp_path / "run.safetensors"

    def stop(line):
        if "step     4/" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_spin(new_spin(), corpus, views, SHORT, file, stop)
    resumed = new_spin()
    torch.manual_seed(99)
    rest = train_spin(resumed, corpus, views, SHORT, file)
    assert rest == history[-len(rest) :] and len(rest) == 4  # from the checkpoint of step 2
    state = resumed.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())
    assert train_spin(new_spin(), corpus, views, SHORT, file) == []  # done
    with pytest.raises(ValueError, match="other weights"):
        train_spin(resumed, corpus, views, SHORT, file)
    with pytest.raises(ValueError, match="other data"):
        train_spin(new_spin(), corpus[1:], [view[1:] for view in views], SHORT, file)
    with pytest.raises(ValueError, match="another config"):
        train_spin(new_spin(), corpus, views, CONFIG, file)
    with pytest.raises(ValueError, match="another config"):
        train_spin(new_spin(SpinSizes(9, 16, 8)), corpus, views, SHORT, file)


def test_the_auxiliary_loss_is_weighed(corpus, views):
    alone = train_spin(new_spin(), corpus, views, SpinConfig(**{**vars(SHORT), "steps": 1}))[0]
    config = SpinConfig(**{**vars(SHORT), "steps": 1, "auxiliary_weight": 0.25})
    row = train_spin(new_spin(), corpus, views, config)[0]
    assert alone["loss"] == pytest.approx(alone["primary_loss"] + alone["auxiliary_loss"])
    assert row["loss"] == pytest.approx(row["primary_loss"] + 0.25 * row["auxiliary_loss"])


def test_the_order_of_an_update(corpus, views, monkeypatch):
    """Clip, step, bring codes to length 1, clear: as in the official code."""
    spin, calls = new_spin(), []
    record = Spin.normalize_codes

    def normalize(self):
        lengths = self.heads["primary"].codes.norm(dim=1)
        has_gradient = self.heads["primary"].codes.grad is not None
        calls.append((bool((lengths - 1).abs().max() > 1e-5), has_gradient))
        record(self)

    monkeypatch.setattr(Spin, "normalize_codes", normalize)
    train_spin(spin, corpus, views, SpinConfig(**{**vars(SHORT), "steps": 2}))
    assert calls == [(True, True)] * 2  # the update has moved them, the gradients are still there
    assert spin.heads["primary"].codes.grad is None


def test_training_leaves_the_global_random_state_alone(corpus, views):
    spin = new_spin()
    state = torch.get_rng_state()
    train_spin(spin, corpus, views, SpinConfig(**{**vars(SHORT), "steps": 1}))
    assert torch.equal(torch.get_rng_state(), state)


def test_both_crops_of_a_pair_come_from_the_same_place(tmp_path, monkeypatch):
    """With the corpus as its own view the two halves of every batch are the same."""
    seen = []
    for length in (5000, 7000, 9000):  # not silent at the end, which padding follows
        audio.write(tmp_path / f"{length}.wav", torch.rand(1, length) - 0.5, 16000)
    files = sorted(tmp_path.glob("*.wav"))
    corpus = Corpus("noise", [Utterance(file.stem, str(file)) for file in files])

    def record(self, wav, frames):
        seen.append((wav, frames))
        return original(self, wav, frames)

    original = Spin.forward
    monkeypatch.setattr(Spin, "forward", record)
    row = train_spin(new_spin(), corpus, [corpus], SpinConfig(**{**vars(SHORT), "steps": 4}))[0]
    for wav, frames in seen:
        one, two = wav.chunk(2)
        assert torch.equal(one, two) and wav.shape == (8, 1, 6400)
        assert torch.equal(*frames.chunk(2)) and int(frames.min()) >= 16
    assert any(int(frames.min()) < 20 for _, frames in seen)  # short ones are padded
    assert row["primary_agreement"] > 0.7  # dropout is all that differs


def test_units_are_targets_of_the_next_pre_training(corpus, views):
    spin = new_spin()
    train_spin(spin, corpus, views, SpinConfig(**{**vars(SHORT), "steps": 1}))
    units = spin_targets(spin, corpus)
    assert [len(one) for one in units] == [15, 20, 25, 30, 35] and units[0].dtype == torch.int16
    assert torch.equal(units[4].long(), spin.units(corpus.load(4)[None])[0])
    assert max(int(one.max()) for one in spin_targets(spin, corpus, "auxiliary")) >= 8
    teacher = with_new_units(SmallHubert(TINY), 8)
    config = PretrainConfig(steps=2, batch_size=4, num_samples=6400, log_every=1)
    assert pretrain(teacher, corpus, units, config)[-1]["loss"] > 0


def test_a_bad_file_does_not_end_a_run(corpus, views, tmp_path):
    (tmp_path / "bad.wav").write_text("no audio")
    audio.write(tmp_path / "cut.flac", corpus.load(4), 16000)
    whole = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])  # its header promises more
    bad = [Utterance(name, str(tmp_path / name)) for name in ("bad.wav", "cut.flac")]
    mixed = Corpus("mixed", [*corpus, *bad])
    spin, config = new_spin(), SpinConfig(**{**vars(SHORT), "steps": 1})
    view = Corpus("changed", [*views[0], *bad])
    assert train_spin(spin, mixed, [view], config)
    assert [len(one) for one in spin_targets(spin, mixed)][5:] == [0, 0]


def test_parts_that_do_not_fit_are_refused(corpus, views, tmp_path):
    with pytest.raises(ValueError, match="at least one view"):
        train_spin(new_spin(), corpus, [], SHORT)
    with pytest.raises(ValueError, match=r"got \[4\] utterances"):
        train_spin(new_spin(), corpus, [views[0][:4]], SHORT)
    with pytest.raises(ValueError, match="as long as the recording"):
        train_spin(new_spin(), corpus, [Corpus("shuffled", list(corpus)[::-1])], SHORT)
    with pytest.raises(ValueError, match="multiple of 320"):
        train_spin(new_spin(), corpus, views, SpinConfig(num_samples=1000))
    with pytest.raises(ValueError, match="8000 Hz"):
        train_spin(new_spin(), Corpus("8k", list(corpus), 8000), views, SHORT)
    (tmp_path / "high" / "2.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"lengths \[0, 8000\] of 2"):
        train_spin(new_spin(), corpus, [Corpus("damaged", list(views[0]))], SHORT)


def test_the_published_recipe_hears_256_s_a_step():
    assert PAPER.pairs * PAPER.num_samples == 4_096_000
    assert (PAPER.steps, PAPER.learning_rate, PAPER.warmup) == (5000, 1e-4, 0.5)
    assert SMALL.pairs * SMALL.num_samples == 32 * 16000 and SMALL.learning_rate == 2e-3
