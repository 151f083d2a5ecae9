"""Mean spectra of units, and the sound they make."""

import numpy as np
import torch

from codec_lib import audio
from codec_lib.data import Corpus, Utterance
from codec_lib.evaluation.unit_sound import log_mel_frames, sound_of, unit_spectra


def tone(hertz: float, seconds: float = 0.5) -> torch.Tensor:
    return 0.3 * torch.sin(2 * np.pi * hertz * torch.arange(int(16_000 * seconds)) / 16_000)[None]


def test_units_sound_like_the_frames_that_bear_them(tmp_path):
    said = []
    for name, hertz in (("low", 300.0), ("high", 2000.0)):
        audio.write(tmp_path / f"{name}.wav", tone(hertz), 16_000)
        said.append(Utterance(name, str(tmp_path / f"{name}.wav")))
    corpus = Corpus("tones", said, 16_000)
    table = unit_spectra(corpus, lambda index: torch.full((25,), index), 3)
    assert table.shape == (3, 80) and (table[2] == table.min()).all()  # the third has no frames
    low, high = table[0].argmax(), table[1].argmax()
    assert low < high - 20
    wav = sound_of(table[torch.tensor([0] * 20 + [1] * 20)])
    assert wav.shape == (1, 39 * 320)
    again = log_mel_frames(wav, 39)
    assert abs(int(again[8].argmax()) - low) <= 1 and abs(int(again[30].argmax()) - high) <= 1
    assert torch.equal(sound_of(table[:2].repeat(9, 1)), sound_of(table[:2].repeat(9, 1)))
