r"""What a unit sounds like: the mean log-mel spectrum of its frames, turned into sound.

A unit has no sound of its own. The mean spectrum of all frames that bear it is the best guess in
the least-squares sense; what such a sequence of spectra lacks is what clustering has taken away.
Phases are guessed [Griffin and Lim 1984]. Notebook 33. Leaves out: vocoders. Read next:
``discrete.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchaudio.transforms import GriffinLim, InverseMelScale, MelSpectrogram

from codec_lib.data import Corpus

_WINDOW, _BINS, _FLOOR = 1024, 80, 1e-5


def log_mel_frames(wav: Tensor, frames: int, hop_length: int = 320) -> Tensor:
    r"""Return a row for each frame of a teacher.

    Parameters
    ----------
    wav
        Shape (1, T), 16 kHz.
    frames
        F.
    hop_length
        Samples from frame to frame.

    Returns
    -------
    Tensor
        Shape (F, 80), natural logarithm of the mel magnitude.
    """
    transform = MelSpectrogram(16_000, _WINDOW, hop_length=hop_length, n_mels=_BINS, power=1.0)
    return transform(wav)[0, :, :frames].clamp_min(_FLOOR).log().T


def unit_spectra(
    corpus: Corpus, units_of: Callable[[int], Tensor], num_units: int, hop_length: int = 320
) -> Tensor:
    r"""Return the mean log-mel spectrum of the frames of each unit.

    Parameters
    ----------
    corpus
        16 kHz.
    units_of
        Function from the number of an utterance to its units (F,).
    num_units
        N.
    hop_length
        Samples from frame to frame.

    Returns
    -------
    Tensor
        Shape (N, 80); for a unit without frames, silence.
    """
    total, count = torch.zeros(num_units, _BINS), torch.zeros(num_units, 1)
    for index in range(len(corpus)):
        units = units_of(index)
        total.index_add_(0, units, log_mel_frames(corpus.load(index), len(units), hop_length))
        count += torch.bincount(units, minlength=num_units)[:, None]
    silence = torch.full_like(total, _FLOOR).log()
    return torch.where(count > 0, total / count.clamp_min(1), silence)


def sound_of(spectra: Tensor, hop_length: int = 320, seed: int = 0) -> Tensor:
    r"""Turn log-mel spectra into sound.

    Parameters
    ----------
    spectra
        Shape (F, 80), as of ``log_mel_frames``.
    hop_length
        Samples from frame to frame.
    seed
        Of the first phases.

    Returns
    -------
    Tensor
        Shape (1, (F - 1) hop_length), 16 kHz.
    """
    linear = InverseMelScale(_WINDOW // 2 + 1, _BINS, 16_000)(spectra.T.exp())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GriffinLim(_WINDOW, hop_length=hop_length, power=1.0)(linear)[None]
