r"""Fixtures for every test: a voiced signal, a corpus, seeds, one thread, slow and GPU marks."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import codec_lib
from codec_lib import hub
from codec_lib.data import make_synthetic

torch.set_num_threads(1)  # xdist runs several workers; OpenMP threads would fight over the cores

SAMPLE_RATE = 16_000
FORMANTS = ((730.0, 1090.0, 2440.0), (270.0, 2290.0, 3010.0), (300.0, 870.0, 2240.0))  # /ɑ i u/, Hz


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that run what a plain run leaves out."""
    parser.addoption("--run-slow", action="store_true", help="run tests marked slow")
    parser.addoption("--run-gpu", action="store_true", help="run tests marked gpu")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip slow and GPU tests, with the reason, unless they were asked for and can run."""
    reasons = {}
    if not config.getoption("--run-slow"):
        reasons["slow"] = "slow; run with --run-slow"
    if not config.getoption("--run-gpu"):
        reasons["gpu"] = "needs a GPU; run with --run-gpu"
    elif not torch.cuda.is_available():
        reasons["gpu"] = "needs a GPU, and torch sees none"
    for item in items:
        for mark, reason in reasons.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Start every test from the same random state."""
    torch.manual_seed(0)


def voiced(
    seconds: float = 0.5, sample_rate: int = SAMPLE_RATE, pitch: float = 120.0, seed: int = 0
) -> Tensor:
    r"""Make a vowel-like signal: a gliding pulse train through three formants, breath and silence.

    Parameters
    ----------
    seconds
        Length in s.
    sample_rate
        Samples per second, Hz.
    pitch
        Fundamental frequency at the start, Hz; it falls by a fifth to the end.
    seed
        Chooses the vowel, its vibrato and the breath noise.

    Returns
    -------
    Tensor
        Shape (1, T), float32, peak 0.5; the last tenth is silent, as at the end of a sentence.
    """
    generator = torch.Generator().manual_seed(seed)
    num_samples = round(seconds * sample_rate)
    time = torch.arange(num_samples, dtype=torch.float64) / sample_rate  # (T,)
    frequency = pitch * (1.0 - 0.2 * time / max(seconds, 1e-9))
    frequency = frequency * (1.0 + 0.01 * torch.sin(2 * math.pi * (5.0 + seed % 3) * time))
    phase = 2 * math.pi * torch.cumsum(frequency, 0) / sample_rate
    wav = torch.zeros_like(time)
    for harmonic in range(1, int(0.45 * sample_rate / pitch)):
        hertz = harmonic * pitch
        gain = sum(1.0 / (1.0 + ((hertz - f) / 90.0) ** 2) for f in FORMANTS[seed % 3])
        wav = wav + (gain + 0.01 / harmonic) * torch.sin(harmonic * phase)
    wav = wav + 0.02 * torch.randn(num_samples, generator=generator, dtype=torch.float64)
    wav[num_samples - num_samples // 10 :] = 0.0
    peak = wav.abs().max() if num_samples else torch.tensor(1.0)
    return (0.5 * wav / peak.clamp_min(1e-9)).float().unsqueeze(0)


@pytest.fixture
def make_speech() -> Callable[..., Tensor]:
    """Return :func:`voiced`, for tests that choose length, rate, pitch or seed."""
    return voiced


@pytest.fixture
def speech() -> Tensor:
    """Half a second of voiced signal at 16 kHz, shape (1, T)."""
    return voiced()


@pytest.fixture
def speech_batch() -> Tensor:
    """Four different voices, half a second each at 16 kHz, shape (B, 1, T)."""
    return torch.stack([voiced(pitch=90.0 + 40.0 * i, seed=i) for i in range(4)])


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a corpus with a train, a dev and a test split."""
    folder = tmp_path_factory.mktemp("corpus")
    make_synthetic(folder, num_utterances=12)
    return folder


@pytest.fixture
def codec_file(tmp_path: Path) -> Path:
    """An untrained codec of a test's size as a file."""
    file = tmp_path / "codec.safetensors"
    hub.save_codec(codec_lib.build("speechtokenizer", "smoke"), file)
    return file
