r"""Log-mel and MFCC frames that line up with the codec's frames.

Frame f of the 50 Hz grid stands for samples [320 f, 320 f + 320): two analysis windows of 25 ms,
centred a quarter and three quarters into it. There are ceil(T / 320) frames, as many as a codec of
hop 320 makes, so features and codes need no shifting. Levels are relative to the loudest band of
the utterance, so that a louder recording gives the same features.

MFCC: [Davis & Mermelstein 1980]; as HuBERT's first targets: [Hsu et al. 2021, HuBERT], §III.
Used by notebooks 10 and 20. Leaves out: the convolutional front end on the waveform of the
published HuBERT. With it a training step on 32 s of audio takes 7 s of CPU, with this one 0.5 s.
Read next: ``hubert.py``.
"""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional

from codec_lib.shapes import check_shape

SAMPLE_RATE = 16000
HOP = 320  # samples of a frame: 50 Hz
MEL_HOP = 160  # samples between windows: two windows a frame
WINDOW, N_FFT = 400, 512  # 25 ms
FLOOR = 1e-7  # 70 dB below the loudest band: below it lies noise, or digital silence


def frame_count(num_samples: int) -> int:
    r"""Return the frames of a waveform, ceil(T / 320).

    Examples
    --------
    >>> frame_count(16000), frame_count(16001)
    (50, 51)
    """
    return -(-num_samples // HOP)


class LogMel(nn.Module):
    r"""Normalised log-mel windows at 100 Hz, two for each frame of 50 Hz.

    Parameters
    ----------
    num_mels
        Mel bins M.

    Examples
    --------
    >>> LogMel(80)(torch.randn(2, 1, 16001)).shape
    torch.Size([2, 80, 102])
    """

    def __init__(self, num_mels: int = 80) -> None:
        super().__init__()
        self.num_mels = num_mels
        filters = torchaudio.functional.melscale_fbanks(
            N_FFT // 2 + 1, 20.0, SAMPLE_RATE / 2, num_mels, SAMPLE_RATE
        )
        self.register_buffer("filters", filters, persistent=False)  # (n_fft / 2 + 1, M)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

    def raw(self, wav: Tensor) -> Tensor:
        r"""Return log-mel windows without normalisation.

        Parameters
        ----------
        wav
            Shape (B, 1, T), float32, 16 kHz.

        Returns
        -------
        Tensor
            Shape (B, M, 2 F) with F = ceil(T / 320): natural log of the energy relative to the
            loudest band and window of each item, floored at -70 dB.

        Raises
        ------
        ValueError
            If the shape is another, or there are no samples.
        """
        sizes = check_shape(wav, "B 1 T", name="wav")
        if sizes["T"] == 0:
            raise ValueError("wav: got 0 samples, expected at least 1")
        left = N_FFT // 2 - MEL_HOP // 2  # centres the first window on sample 80
        total = MEL_HOP * (2 * frame_count(sizes["T"]) - 1) + N_FFT
        padded = functional.pad(wav[:, 0], (left, total - left - sizes["T"]))
        spectrum = torch.stft(
            padded, N_FFT, MEL_HOP, WINDOW, self.window, center=False, return_complex=True
        )
        mel = torch.einsum("bkn,km->bmn", spectrum.abs().square(), self.filters)  # (B, M, 2F)
        loudest = mel.amax(dim=(1, 2), keepdim=True).clamp_min(1e-10)
        return torch.log(mel / loudest + FLOOR)

    def forward(self, wav: Tensor, frames: Tensor | None = None) -> Tensor:
        r"""Return log-mel windows with each bin at mean 0 and variance 1 over the utterance.

        Parameters
        ----------
        wav
            Shape (B, 1, T).
        frames
            Frames of each item that are no padding, shape (B,); only they are counted.

        Returns
        -------
        Tensor
            Shape (B, M, 2 F).
        """
        return normalise(self.raw(wav), None if frames is None else 2 * frames)


def normalise(features: Tensor, counts: Tensor | None = None) -> Tensor:
    r"""Remove the mean and scale of each feature over time.

    Parameters
    ----------
    features
        Shape (B, D, F).
    counts
        Frames that count, shape (B,); all by default.

    Returns
    -------
    Tensor
        Shape (B, D, F); the scale is floored at a tenth of the item's mean scale, so that silence
        is not blown up.
    """
    valid = torch.ones_like(features[:, :1])
    if counts is not None:
        steps = torch.arange(features.shape[-1], device=features.device)
        valid = (steps < counts[:, None])[:, None].to(features.dtype)  # (B, 1, F)
    total = valid.sum(-1, keepdim=True).clamp_min(1)
    centred = (features - (features * valid).sum(-1, keepdim=True) / total) * valid
    scale = (centred.square().sum(-1, keepdim=True) / total).sqrt()  # (B, D, 1)
    floor = 0.1 * scale.mean(dim=1, keepdim=True) + 1e-4
    return centred / torch.maximum(scale, floor)


class Mfcc(nn.Module):
    r"""13 MFCC with first and second differences, normalised per utterance, at 50 Hz.

    Parameters
    ----------
    num_coefficients
        Cepstral coefficients, the 0th included; the features have three times as many.

    Examples
    --------
    >>> Mfcc()(torch.randn(1, 1, 32000)).shape
    torch.Size([1, 100, 39])
    """

    def __init__(self, num_coefficients: int = 13) -> None:
        super().__init__()
        self.mel = LogMel(40)
        self.dim = 3 * num_coefficients
        basis = torchaudio.functional.create_dct(num_coefficients, 40, "ortho")
        self.register_buffer("basis", basis, persistent=False)  # (40, coefficients)

    @torch.no_grad()
    def forward(self, wav: Tensor) -> Tensor:
        r"""Return MFCC frames (B, F, 39) of waveforms (B, 1, T)."""
        cepstrum = torch.einsum("bmn,mc->bcn", self.mel.raw(wav), self.basis)  # (B, 13, 2F)
        slope = torchaudio.functional.compute_deltas(cepstrum)
        curve = torchaudio.functional.compute_deltas(slope)
        stacked = torch.cat([cepstrum, slope, curve], dim=1)  # (B, 39, 2F)
        return normalise(functional.avg_pool1d(stacked, 2)).transpose(1, 2)  # (B, F, 39)


def warp_frequency(mel: Tensor, factors: Tensor) -> Tensor:
    r"""Stretch the frequency axis of log-mel frames, as a longer or shorter vocal tract would.

    Vocal tract length perturbation [Jaitly & Hinton 2013], done on the mel axis by linear
    interpolation between bins.

    Parameters
    ----------
    mel
        Shape (B, M, F).
    factors
        Shape (B,); the band at frequency f takes what was at f times the factor.

    Returns
    -------
    Tensor
        Shape (B, M, F).
    """
    bins = mel.shape[1]
    top = 2595 * torch.log10(torch.tensor(1 + SAMPLE_RATE / 2 / 700))  # HTK mel scale
    centres = torch.arange(1, bins + 1, device=mel.device) * (top / (bins + 1))
    hertz = 700 * (10 ** (centres / 2595) - 1)  # (M,)
    moved = 2595 * torch.log10(1 + hertz * factors[:, None] / 700)  # (B, M)
    position = (moved * (bins + 1) / top - 1).clamp(0, bins - 1)
    low = position.floor().long().clamp(max=bins - 2)
    weight = (position - low)[..., None].to(mel.dtype)
    index = low[..., None].expand_as(mel)
    return mel.gather(1, index) * (1 - weight) + mel.gather(1, index + 1) * weight
