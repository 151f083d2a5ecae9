r"""CTC training: it learns what is said, resumes exactly, and leaves the rest alone."""

import math
from dataclasses import replace

import pytest
import soundfile
import torch

from codec_lib import audio
from codec_lib.data import Corpus, Phoneme, Utterance
from codec_lib.evaluation.errors import recognition_errors
from codec_lib.teachers.ctc import CtcRecogniser, RecogniserConfig
from codec_lib.teachers.ctc_training import CtcConfig, train_ctc
from codec_lib.teachers.hubert import HubertConfig, SmallHubert

TINY = HubertConfig(dim=32, num_layers=2, num_heads=2, ffn_dim=64, num_units=8, unit_dim=16)
CONFIG = CtcConfig(steps=6, batch_size=4, save_every=2, log_every=1, learning_rate=3e-3)
TONES = {"AA": 300.0, "IY": 900.0, "S": 2500.0}


@pytest.fixture
def corpus(tmp_path):
    """Utterances of two to four "phonemes", each a tone of its own in 0.08 s."""
    generator, utterances = torch.Generator().manual_seed(0), []
    for number in range(10):
        size = 2 + number % 3
        order = torch.randint(1, 3, (size,), generator=generator).cumsum(0) % 3
        names = [list(TONES)[one] for one in order.tolist()]
        time = torch.arange(1280) / 16000
        tones = [torch.sin(2 * math.pi * TONES[name] * time) / 2 for name in names]
        wav = torch.cat([torch.zeros(640), *tones, torch.zeros(640)])
        path = tmp_path / f"{number}.wav"
        audio.write(path, wav[None], 16000)
        phones = tuple(Phoneme(n, 640 + 1280 * i, 1920 + 1280 * i) for i, n in enumerate(names))
        utterances.append(Utterance(str(number), str(path), phonemes=phones))
    return Corpus("tones", utterances)


def new_recogniser(**fields):
    torch.manual_seed(1)
    return CtcRecogniser(SmallHubert(TINY), RecogniserConfig(dropout=0.0, **fields))


def test_it_learns_what_is_said(corpus):
    recogniser, lines = new_recogniser(), []
    config = CtcConfig(
        steps=60, batch_size=5, log_every=10, learning_rate=5e-3, mask_start=0.0, warp=0.0
    )
    history = train_ctc(recogniser, corpus, config, log=lines.append)
    assert [row["step"] for row in history] == list(range(10, 61, 10)) and len(lines) == 6
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    assert recognition_errors(recogniser.transcribe, corpus, recogniser.symbols)["per"] < 0.15
    assert not recogniser.training and recogniser.teacher.feature_mean.abs().sum() > 0


def test_a_stopped_run_goes_on_to_the_same_weights(corpus, tmp_path):
    whole = new_recogniser()
    history = train_ctc(whole, corpus, CONFIG)
    file = tmp_path / "run.safetensors"

    def stop(line):
        if "step     4/" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_ctc(new_recogniser(), corpus, CONFIG, file, stop)
    resumed = new_recogniser()
    torch.manual_seed(99)
    state = torch.get_rng_state()
    rest = train_ctc(resumed, corpus, CONFIG, file)
    assert torch.equal(torch.get_rng_state(), state)
    assert rest == history[-len(rest) :] and len(rest) == 4  # from the checkpoint of step 2
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="another config"):
        train_ctc(new_recogniser(), corpus, CtcConfig(steps=7, batch_size=4), file)
    with pytest.raises(ValueError, match="another config"):
        train_ctc(new_recogniser(trained_layers=1), corpus, CONFIG, file)


def test_only_the_chosen_layers_change_and_they_resume_too(corpus, tmp_path):
    recogniser, before = new_recogniser(trained_layers=1), new_recogniser().teacher.state_dict()
    file = tmp_path / "run.safetensors"
    train_ctc(recogniser, corpus, CONFIG, file)
    after = recogniser.teacher.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    statistics = {"feature_mean", "feature_scale"}
    assert changed - statistics == {
        key for key in before if key.startswith(("layers.1.", "final_norm."))
    }
    again = new_recogniser(trained_layers=1)
    assert train_ctc(again, corpus, CONFIG, file) == []
    assert torch.equal(again.head.to_symbol.weight, recogniser.head.to_symbol.weight)


def broken(utterance, folder):
    """The same utterance in a file whose header is in order and whose samples are not."""
    samples = audio.read(utterance.audio_path, 16000)[0]
    samples[::7] = math.nan
    path = folder / f"broken{utterance.utterance_id}.wav"
    soundfile.write(path, samples.numpy(), 16000, subtype="FLOAT")
    return replace(utterance, audio_path=str(path))


def test_a_file_whose_body_is_broken_ends_nothing(corpus, tmp_path):
    spoilt = [broken(one, tmp_path) if one.utterance_id in "03" else one for one in corpus]
    recogniser, mixed = new_recogniser(), Corpus("mixed", spoilt)
    assert all(mixed.length(number) for number in range(10))
    history = train_ctc(recogniser, mixed, CONFIG)
    assert len(mixed.bad_files) == 2 and len(history) == 6
    assert all(math.isfinite(row["loss"]) for row in history)
    assert recogniser.teacher.feature_mean.abs().sum() > 0


def test_a_batch_without_any_file_takes_no_step(corpus, tmp_path):
    two = Corpus("two", [corpus[1], broken(corpus[0], tmp_path)])
    history = train_ctc(new_recogniser(), two, replace(CONFIG, steps=4, batch_size=1))
    assert sum(math.isnan(row["loss"]) for row in history) == 2


def test_batches_masks_and_warp_come_from_the_seed(corpus):
    config = CtcConfig(**{**vars(CONFIG), "steps": 2})
    one = train_ctc(new_recogniser(), corpus, config)
    assert train_ctc(new_recogniser(), corpus, config) == one
    for change in ({"seed": 1}, {"mask_start": 0.0}, {"warp": 0.0}):
        assert train_ctc(new_recogniser(), corpus, CtcConfig(**{**vars(config), **change})) != one
