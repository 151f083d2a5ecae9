r"""Reconstruction metrics: known values, failures that are counted, tables of a codec."""

import math
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import codec_lib
from codec_lib import audio
from codec_lib.data import Corpus, Utterance
from codec_lib.data.synthetic import speak_utterance
from codec_lib.evaluation import (
    bootstrap_interval,
    codec_scores,
    evaluate_codec,
    mel_distance,
    pesq_wideband,
    read_results,
    reconstruction_metrics,
    si_sdr,
    stoi,
    summarise,
    write_results,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    return codec_lib.build("speechtokenizer", "smoke").eval()


@pytest.fixture
def corpus(tmp_path, make_speech):
    utterances = []
    for number in range(3):
        path = tmp_path / f"{number}.wav"
        audio.write(path, make_speech(1.0, seed=number), 16000)
        utterances.append(Utterance(str(number), str(path)))
    return Corpus("three", utterances)


def test_mel_distance_of_a_gain_is_its_logarithm(make_speech):
    wav = make_speech(1.0) + 0.01 * torch.randn(1, 16000)  # no bin at the floor
    assert mel_distance(wav, wav, 16000) == 0
    assert mel_distance(wav, 2 * wav, 16000) == pytest.approx(math.log(2), rel=1e-3)
    assert mel_distance(wav[:, :100], wav[:, :100] * 2, 16000) > 0  # shorter than the window


def test_si_sdr_of_orthogonal_noise_is_its_level():
    time = torch.arange(16000) / 16000
    tone = torch.sin(2 * math.pi * 100 * time)[None]
    noise = torch.sin(2 * math.pi * 200 * time)[None]
    assert si_sdr(tone, tone + 0.1 * noise) == pytest.approx(20.0, abs=1e-3)
    assert si_sdr(tone, 0.3 * (tone + 0.1 * noise) + 0.5) == pytest.approx(20.0, abs=1e-3)
    assert si_sdr(tone, tone) == math.inf
    assert si_sdr(tone, 0 * tone) == -math.inf
    assert math.isnan(si_sdr(0 * tone, tone))


def test_si_sdr_equals_audiotools(make_speech):
    from audiotools.metrics.distance import SISDRLoss

    wav = make_speech(0.5)
    made = wav + 0.1 * torch.randn_like(wav) + 0.05
    published = -SISDRLoss()(made[None], wav[None])
    assert si_sdr(wav, made) == pytest.approx(float(published), abs=1e-3)


def test_metrics_fall_with_noise():
    wav = speak_utterance(0)[1].float()  # PESQ finds no speech in a tone
    noise = torch.randn_like(wav)
    rows = [reconstruction_metrics(wav, wav + level * noise, 16000) for level in (0.002, 0.1)]
    for name in ("si_sdr", "stoi", "pesq"):
        assert rows[0][name] > rows[1][name], name
    assert rows[0]["mel_distance"] < rows[1]["mel_distance"]
    assert 1.0 <= rows[1]["pesq"] <= 4.65 and 0 <= rows[1]["stoi"] <= 1


def test_what_cannot_be_measured_is_nan_not_a_bad_value(make_speech):
    wav = make_speech(1.0)
    silence, short = torch.zeros_like(wav), wav[:, :1600]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # pesq divides by the peak of silence; nobody need see it
        assert math.isnan(pesq_wideband(silence, wav, 16000))
        assert math.isnan(pesq_wideband(silence, silence, 16000))
    assert math.isnan(pesq_wideband(wav, silence, 16000))
    assert math.isnan(pesq_wideband(short, short, 16000))
    assert math.isnan(stoi(short, short, 16000))
    assert stoi(wav, wav, 16000) == pytest.approx(1.0, abs=1e-6)


def test_pesq_is_resampled_from_other_rates():
    wav = speak_utterance(0, sample_rate=24000)[1].float()
    assert pesq_wideband(wav, wav, 24000) > 4.5


def test_wrong_calls_are_named(speech):
    with pytest.raises(ValueError, match="estimate: got shape"):
        reconstruction_metrics(speech, speech[:, 1:], 16000)
    with pytest.raises(ValueError, match=r"got \['mos'\], expected some of"):
        reconstruction_metrics(speech, speech, 16000, ["mos"])
    with pytest.raises(ValueError, match="NaN or infinite"):
        reconstruction_metrics(speech, speech * math.nan, 16000)


def test_codec_table_has_a_row_per_rate(codec, corpus):
    rows = evaluate_codec(codec, corpus, n_q=[1, 2], metrics=["mel_distance", "si_sdr", "stoi"])
    assert [row["n_q"] for row in rows] == [1, 2]
    for row in rows:
        assert row["bitrate"] == codec.bitrate(row["n_q"]) and row["utterances"] == 3
        assert row["mel_distance_low"] <= row["mel_distance"] <= row["mel_distance_high"]
        assert row["si_sdr_failures"] == 0
    direct = codec.decode(codec.encode(corpus.load(0)[None], n_q=2))[0]
    scores = codec_scores(codec, corpus, [2], metrics=["mel_distance"])
    expected = mel_distance(corpus.load(0), direct, 16000)
    assert scores[2]["mel_distance"][0] == pytest.approx(expected, rel=1e-4)


def test_codec_table_is_bounded_and_leaves_bad_files_out(codec, corpus, tmp_path):
    few = codec_scores(codec, corpus, [1], max_utterances=2, max_seconds=0.1, metrics=["si_sdr"])
    assert len(few[1]["si_sdr"]) == 2
    bad = Corpus("bad", [*corpus, Utterance("gone", str(tmp_path / "gone.wav"))])
    rows = evaluate_codec(codec, bad, [1], max_seconds=0.1, metrics=["mel_distance"])
    assert rows[0]["utterances"] == 3 and len(bad.bad_files) == 1
    for arguments in ({"n_q": [0]}, {"n_q": [99]}, {"n_q": []}, {"n_q": [1], "max_utterances": 0}):
        with pytest.raises(ValueError, match="got"):
            evaluate_codec(codec, corpus, **arguments)
    with pytest.raises(ValueError, match="got 8000 Hz"):
        evaluate_codec(codec, Corpus("8k", list(corpus), 8000), [1])


def test_failures_are_counted_and_left_out():
    summary = summarise([1.0, 3.0, math.nan, math.inf], "pesq")
    assert summary["pesq"] == 2 and summary["pesq_failures"] == 2
    assert math.isnan(summarise([math.nan], "pesq")["pesq"])


def test_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(size=50), resamples=300)
        inside += low <= 0 <= high
    assert 0.88 <= inside / 200 <= 0.99
    assert all(math.isnan(bound) for bound in bootstrap_interval([1.0]))


def test_result_files_keep_conditions_and_are_plain_json(tmp_path, monkeypatch):
    rows = [{"n_q": 1, "stoi": np.float64(0.5), "pesq": math.nan}]
    path = write_results(tmp_path / "new" / "r.json", rows, {"corpus": "three", "seed": 0})
    read, conditions = read_results(path)
    assert read == [{"n_q": 1, "stoi": 0.5, "pesq": None}]
    assert conditions["corpus"] == "three" and "torch" in conditions["versions"]
    command = ["git", "rev-parse", "--short", "HEAD"]
    head = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert conditions["versions"]["revision"].startswith(head or "unknown")
    assert conditions["machine"]["threads"] == torch.get_num_threads()
    assert conditions["command"] == ""  # pytest is none of ours
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/codec-lib", "judge", "a b"])
    write_results(path, rows, {})
    assert read_results(path)[1]["command"] == "codec-lib judge 'a b'"
    assert [file.name for file in path.parent.iterdir()] == ["r.json"]
