r"""Other voices: what changes and what stays, filters, failures, cached copies."""

import logging
import sys

import numpy as np
import pytest
import torch
import torchaudio

from codec_lib import audio
from codec_lib.data import Corpus, Phoneme, Utterance
from codec_lib.teachers.perturbation import (
    PerturbationConfig,
    PerturbationReport,
    VoiceError,
    add_noise,
    biquad,
    change_voice,
    equalise,
    perturb_voice,
    reverberate,
    shift_pitch,
)
from codec_lib.teachers.perturbed import perturbed_copies

parselmouth = pytest.importorskip("parselmouth", reason="needs codec-lib[voices]")
RATE = 16000


def rng(seed=0):
    return np.random.default_rng(seed)


def median_pitch(wav):
    pitch = parselmouth.Sound(wav[0].double().numpy(), RATE).to_pitch(None, 60, 600)
    return float(np.median([one for one in pitch.selected_array["frequency"] if one > 0]))


def band_level(wav, low, high):
    spectrum = torch.fft.rfft(wav[0]).abs().square()
    hertz = torch.arange(len(spectrum)) * RATE / wav.shape[-1]
    return float(10 * spectrum[(hertz >= low) & (hertz < high)].sum().log10())


@pytest.fixture
def corpus(tmp_path, make_speech):
    utterances = []
    for number in range(3):
        path = tmp_path / f"{number}.wav"
        wav = make_speech(0.4 + 0.1 * number, pitch=100 + 30 * number, seed=number)
        audio.write(path, wav, RATE)
        count = wav.shape[-1]
        halves = (Phoneme("AA", 0, count // 2), Phoneme("sil", count // 2, count))
        known = {"sample_rate": RATE, "num_samples": count, "phonemes": halves}
        utterances.append(Utterance(str(number), str(path), **known))
    return Corpus("three", utterances)


@pytest.mark.parametrize("ratio", [1.5, 0.75])
def test_pitch_is_multiplied(speech, ratio):
    changed = change_voice(speech, RATE, pitch_ratio=ratio)
    assert changed.shape == speech.shape and changed.dtype == torch.float32
    assert median_pitch(changed) == pytest.approx(ratio * median_pitch(speech), rel=0.05)


def test_formants_move_and_pitch_stays(make_speech):
    wav = make_speech(0.5, seed=0)  # third formant at 2440 Hz
    changed = change_voice(wav, RATE, formant_ratio=1.3)
    assert median_pitch(changed) == pytest.approx(median_pitch(wav), rel=0.05)
    moved = [band_level(one, 2970, 3370) - band_level(one, 2240, 2640) for one in (wav, changed)]
    assert moved[1] > moved[0] + 6


def test_timing_stays(speech):
    """The silence at the end is where it was."""
    changed = change_voice(speech, RATE, 1.2, 1.5, 1.2)
    voiced, silent = changed[:, 800:6800], changed[:, 7600:]
    assert voiced.square().mean() > 1000 * silent.square().mean()


def test_a_voice_depends_on_the_generator_alone(speech):
    state = torch.get_rng_state()
    one = perturb_voice(speech, RATE, rng(3))
    assert torch.equal(one, perturb_voice(speech, RATE, rng(3)))  # Praat's own draws included
    assert not torch.allclose(one, perturb_voice(speech, RATE, rng(4)), atol=1e-2)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.shape == speech.shape and one.abs().max() <= 1


def test_ratios_lie_in_the_configured_range(speech, monkeypatch):
    seen = []

    def record(wav, sample_rate, *ratios, seed):
        seen.append(ratios)
        return wav

    monkeypatch.setattr("codec_lib.teachers.perturbation.change_voice", record)
    monkeypatch.setattr("codec_lib.teachers.perturbation.equalise", lambda wav, *_: wav)
    for seed in range(200):
        perturb_voice(speech[:, :320], RATE, rng(seed))
    ratios = torch.tensor(seen)  # (200, 3)
    top = torch.tensor([1.4, 2.0, 1.5])
    assert (ratios <= top).all() and (ratios >= 1 / top).all()
    assert ((ratios > 1).float().mean(0) - 0.5).abs().max() < 0.12
    assert (ratios.amax(0) > 0.95 * top).all() and (ratios.amin(0) < 1.05 / top).all()


def test_silence_is_only_equalised_and_said_so(caplog):
    wav = 0.01 * torch.randn(1, 8000)
    report = PerturbationReport()
    with caplog.at_level(logging.WARNING):
        changed = perturb_voice(wav, RATE, rng(), report=report, name="hiss")
    assert changed.shape == wav.shape and not torch.allclose(changed, wav)
    assert report.num_changed == 0 and report.failures == [("hiss", "no voiced frames")]
    assert "hiss: voice not changed" in caplog.text and report.failed_share == 1.0
    short = PerturbationReport()
    perturb_voice(wav[:, :100], RATE, rng(), report=short)
    assert "pitch analysis not performed" in short.failures[0][1]
    with pytest.raises(VoiceError, match="no voiced frames"):
        change_voice(wav, RATE)


def test_parselmouth_is_asked_for_where_it_is_missing(speech, monkeypatch):
    monkeypatch.setitem(sys.modules, "parselmouth", None)
    with pytest.raises(ValueError, match=r"pip install codec-lib\[voices\]"):
        perturb_voice(speech, RATE, rng())


def test_bands_are_those_of_torchaudio(speech):
    filters = torchaudio.functional
    cases = {
        "peak": lambda wav: filters.equalizer_biquad(wav, RATE, 1000.0, -9.0, 3.0),
        "low": lambda wav: filters.bass_biquad(wav, RATE, 7.0, 1000.0, 3.0),
        "high": lambda wav: filters.treble_biquad(wav, RATE, 7.0, 1000.0, 3.0),
    }
    quiet = 0.05 * speech  # torchaudio clips
    for kind, theirs in cases.items():
        b, a = biquad(kind, 1000.0, -9.0 if kind == "peak" else 7.0, 3.0, RATE)
        ours = filters.lfilter(quiet, torch.tensor(a).float(), torch.tensor(b).float(), clamp=False)
        assert torch.allclose(ours, theirs(quiet), atol=1e-5), kind


def test_the_chain_is_the_bands_one_after_the_other(speech):
    gains, qualities = rng().uniform(-12, 12, 10), rng().uniform(2, 5, 10)
    wav = speech.double()
    for number, hertz in enumerate(np.geomspace(60, 7600, 10)):
        kind = {0: "low", 9: "high"}.get(number, "peak")
        b, a = biquad(kind, hertz, gains[number], qualities[number], RATE)
        wav = torchaudio.functional.lfilter(
            wav, torch.from_numpy(a), torch.from_numpy(b), clamp=False
        )
    assert torch.allclose(equalise(speech, RATE, gains, qualities).double(), wav, atol=1e-4)


def test_noise_has_the_asked_level_and_reverberation_follows_the_sound(speech):
    noisy = add_noise(speech, RATE, rng(), snr_db=10)
    noise = noisy - speech
    assert 10 * float((speech.square().mean() / noise.square().mean()).log10()) == pytest.approx(
        10, abs=0.3
    )
    click = torch.zeros(1, RATE)
    click[0, 4000] = 0.5
    room = reverberate(click, RATE, rng(), seconds=0.4)
    assert room[0, :3990].abs().max() < 1e-5  # nothing comes early
    early, late = room[0, 4001:5601].square().sum(), room[0, 8801:10401].square().sum()
    assert 10 * float((early / late).log10()) == pytest.approx(45, abs=4)  # 0.3 s of 60 dB / 0.4 s
    assert room.norm() == pytest.approx(float(click.norm()), rel=1e-3)
    shifted = shift_pitch(speech, RATE, rng(), ratio=1.3)
    factor = median_pitch(shifted) / median_pitch(speech)
    assert min(abs(factor - 1.3), abs(factor - 1 / 1.3)) < 0.06


def test_copies_have_the_corpus_order_lengths_and_phonemes(corpus, tmp_path):
    lines = []
    views, report = perturbed_copies(
        corpus, 2, folder=tmp_path / "v", progress=lambda *done: lines.append(done)
    )
    assert report.num_changed == 6 and not report.failures and lines[-1] == (6, 6)
    for view in views:
        for index, utterance in enumerate(view):
            assert utterance.utterance_id == corpus[index].utterance_id
            assert utterance.phonemes == corpus[index].phonemes
            assert view.load(index).shape == corpus.load(index).shape
            assert not torch.allclose(view.load(index), corpus.load(index), atol=1e-2)
    assert not torch.allclose(views[0].load(0), views[1].load(0), atol=1e-2)


def test_copies_are_made_once_and_again_where_anything_differs(corpus, tmp_path):
    folder = tmp_path / "v"

    def files():
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*.flac")}

    views, _ = perturbed_copies(corpus[:2], folder=folder)
    first, sound = files(), views[0].load(1)
    (lost := sorted(first)[0]).unlink()  # as if the run had been stopped
    again, report = perturbed_copies(corpus, folder=folder)
    assert len(files()) == 3 and all(
        time == first[path] for path, time in files().items() if path in first and path != lost
    )
    assert torch.equal(again[0].load(1), sound) and report.num_changed == 3
    for other in ({"seed": 1}, {"config": PerturbationConfig(gain_db=6.0)}):
        before = len(files())
        perturbed_copies(corpus[:1], folder=folder, **other)
        assert len(files()) == before + 1
    audio.write(corpus[0].audio_path, corpus.load(1), RATE)  # another sound under the same name
    changed = Corpus("new", [Utterance("0", corpus[0].audio_path)])
    assert torch.equal(perturbed_copies(changed, folder=folder)[0][0].load(0), sound)


def test_too_many_failures_end_it_and_few_are_remembered(corpus, tmp_path):
    audio.write(tmp_path / "hiss.wav", 0.01 * torch.randn(1, 6400), RATE)
    (tmp_path / "bad.wav").write_text("no audio")
    hiss = Utterance("hiss", str(tmp_path / "hiss.wav"))
    bad = Utterance("bad", str(tmp_path / "bad.wav"))
    mixed = Corpus("mixed", [*corpus, hiss, bad])
    with pytest.raises(ValueError, match="got 1 voices that could not be changed, expected at mos"):
        perturbed_copies(mixed, folder=tmp_path / "v", max_failed_share=0.1)
    for reason in ("found equalised only", "found equalised only"):
        views, report = perturbed_copies(mixed, folder=tmp_path / "v")
        assert report.failures == [("hiss, 0", reason)] and report.num_changed == 3
    assert views[0].load(3).shape == (1, 6400) and views[0][4] == bad
    with pytest.raises(ValueError, match="copies: got 0"):
        perturbed_copies(corpus, 0)


def test_phonemes_are_counted_at_the_copys_rate(tmp_path, make_speech):
    wav = make_speech(0.4, sample_rate=8000)
    audio.write(tmp_path / "8k.wav", wav, 8000)
    phonemes = (Phoneme("AA", 0, 1000), Phoneme("sil", 1000, 3200))
    one = Utterance("8k", str(tmp_path / "8k.wav"), "", phonemes=phonemes, sample_rate=8000,
                    num_samples=3200)  # fmt: skip
    view = perturbed_copies(Corpus("8k", [one]), folder=tmp_path / "v")[0][0]
    assert [phoneme.end for phoneme in view[0].phonemes] == [2000, 6400]
    assert view[0].frame_symbols(50, 20) == one.frame_symbols(50, 20)
