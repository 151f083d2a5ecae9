"""Retention by band: known filters, an invented phase, silence."""

from __future__ import annotations

import math

import pytest
import torch
import torchaudio
from scipy import signal
from typer.testing import CliRunner

from codec_lib.cli import app
from codec_lib.codecs.continuous import build_continuous
from codec_lib.data import corpus
from codec_lib.evaluation.bands import EDGES, band_retention, retention_rows
from codec_lib.evaluation.results import read_results
from codec_lib.lm.tokenizer_run import save_tokenizer


@pytest.fixture
def noise():
    """Noise whose loudness changes, so that envelopes have something to follow."""
    level = 0.55 + 0.45 * torch.sin(2 * math.pi * 4 * torch.arange(32000) / 16000)
    return (0.1 * level * torch.randn(32000))[None]


def test_nothing_is_lost_where_nothing_changes(noise):
    for row in band_retention(noise, noise, 16000):
        for name in ("transfer", "coherence", "envelope"):
            assert row[name] == pytest.approx(1, abs=1e-6)


def test_a_gain_is_a_transfer_and_no_loss(noise):
    for row in band_retention(noise, 0.5 * noise, 16000):
        assert row["transfer"] == pytest.approx(0.5, abs=1e-6)
        assert row["coherence"] == pytest.approx(1, abs=1e-6)


def test_a_low_pass_loses_the_upper_bands(noise):
    low = torchaudio.functional.lowpass_biquad(noise, 16000, 1500)
    rows = band_retention(noise, low, 16000)
    transfers = [row["transfer"] for row in rows]
    assert transfers[0] > 0.95 and transfers[-1] < 0.05
    assert transfers == sorted(transfers, reverse=True)


def test_an_invented_phase_keeps_the_envelope_alone(noise):
    window = torch.hann_window(512)
    spectrum = torch.stft(noise, 512, 128, window=window, return_complex=True)
    turned = spectrum * torch.exp(2j * math.pi * torch.rand(spectrum.shape))
    made = torch.istft(turned, 512, 128, window=window, length=32000)
    rows = band_retention(noise, made, 16000)
    assert max(row["coherence"] for row in rows) < 0.2
    assert min(row["envelope"] for row in rows) > 0.5


def test_independent_noise_has_nothing_in_common(noise):
    rows = band_retention(noise, 0.1 * torch.randn(1, 32000), 16000)
    assert max(row["coherence"] for row in rows) < 0.1
    assert max(abs(row["envelope"]) for row in rows) < 0.3


def test_phases_that_know_nothing_stand_on_the_floor(noise):
    """Means of few windows are not 0; a filtered copy stands far above what is left of nothing."""
    level = 0.55 + 0.45 * torch.sin(2 * math.pi * 4 * torch.arange(32000) / 16000)
    rows = band_retention(noise, 0.1 * level * torch.randn(1, 32000), 16000)
    for name in ("transfer", "coherence"):
        measured, floor = ([row[name + end] for row in rows] for end in ("", "_floor"))
        assert sum(measured) == pytest.approx(sum(floor), rel=0.4)
    whole, short = (band_retention(one, one, 16000) for one in (noise, noise[:, :8000]))
    assert max(row["coherence_floor"] for row in whole) < 0.05
    windows = (8000 - 512) // 256 + 1  # equally loud ones would leave 1 / windows
    assert all(1 / windows < row["coherence_floor"] < 0.3 for row in short)
    again = band_retention(noise, noise, 16000)
    assert [row["transfer_floor"] for row in again] == [row["transfer_floor"] for row in whole]


def test_spectra_are_those_of_scipy(noise):
    """One band as wide as all: sums over frequencies, from scipy's cross- and power spectra."""
    made = torchaudio.functional.lowpass_biquad(noise, 16000, 1500) + 0.01 * torch.randn(1, 32000)
    options = {"nperseg": 512, "window": "hann", "detrend": False, "scaling": "spectrum"}
    x, y = noise[0].double().numpy(), made[0].double().numpy()
    cross, power = signal.csd(x, y, **options)[1][1:256], signal.welch(x, **options)[1][1:256]
    (row,) = band_retention(noise, made, 16000, (31, 8000))
    assert row["transfer"] == pytest.approx(float(abs(cross).sum() / power.sum()), rel=1e-6)
    coherence = signal.coherence(x, y, **{k: options[k] for k in ("nperseg", "window", "detrend")})
    expected = float((coherence[1][1:256] * power).sum() / power.sum())
    assert row["coherence"] == pytest.approx(expected, rel=1e-6)


def test_silence_is_not_a_number_and_mistakes_are_explained(noise):
    rows = band_retention(torch.zeros(1, 3200), torch.zeros(1, 3200), 16000)
    assert len(rows) == len(EDGES) - 1
    assert all(math.isnan(row[name]) for row in rows for name in ("transfer", "envelope"))
    with pytest.raises(ValueError, match="edges"):
        band_retention(noise, noise, 16000, (0, 9000))
    with pytest.raises(ValueError, match="made"):
        band_retention(noise, noise[:, 1:], 16000)
    with pytest.raises(ValueError, match="at least"):
        band_retention(noise[:, :99], noise[:, :99], 16000)


def test_the_command_compares_a_codec_and_a_tokenizer(tiny_corpus, codec_file, tmp_path):
    tokenizer = save_tokenizer(build_continuous("smoke"), tmp_path / "t.safetensors", {})
    out = tmp_path / "bands.json"
    options = ["--corpus", str(tiny_corpus), "--max-utterances", "2", "--out", str(out)]
    done = CliRunner().invoke(
        app, ["bands", f"codes={codec_file}", f"tokens={tokenizer}", *options]
    )
    assert done.exit_code == 0, done.output
    rows, conditions = read_results(out)
    assert len(rows) == 2 * (len(EDGES) - 1) and {row["way"] for row in rows} == {"codes", "tokens"}
    assert rows[0]["utterances"] == 1 and set(conditions["fingerprints"]) == {"codes", "tokens"}
    done = CliRunner().invoke(app, ["bands", str(tokenizer), str(tokenizer)])
    assert done.exit_code == 2 and "twice; hint: LABEL=" in done.output


def test_rows_are_means_over_utterances(tiny_corpus, monkeypatch):
    speech = corpus(str(tiny_corpus))
    rows = retention_rows(speech, {"as it is": lambda wav: wav, "half": lambda wav: wav / 2}, 3)
    assert [row["transfer"] for row in rows[:9]] == pytest.approx([1.0] * 9)
    assert [row["transfer"] for row in rows[9:]] == pytest.approx([0.5] * 9)
    assert all(row["utterances"] == 3 for row in rows)
    monkeypatch.setattr(speech, "load", lambda index: torch.ones(1, 1500))
    with pytest.raises(ValueError, match="got no utterance of"):
        retention_rows(speech, {"as it is": lambda wav: wav}, 3)
