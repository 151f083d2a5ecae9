r"""Waveform to log-mel frames and complex spectrum to waveform, with exact lengths.

Both centre frame f on its hop ("same" padding, as in Vocos [Siuzdak 2024]), so T samples give
ceil(T / hop) frames, F frames give F * hop samples, and a chunk gives the frames of the whole.
Notebook: 01_speech_and_spectrograms. Leaves out: the mel spectrograms of losses and metrics
(``losses/mel.py``). Read next: ``blocks/spectral.py``.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

LOG_FLOOR = 1e-5  # -100 dB relative to a full-scale sine: below the noise of 16-bit audio
MEL_CENTRE, MEL_SCALE = -7.0, 2.5  # brings log-mel values of speech to about zero mean, unit range


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast; the meta device, where networks are counted, has none."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def polar_spectrum(log_magnitude: Tensor, phase: Tensor, max_magnitude: float) -> Tensor:
    r"""Return min(exp(a), limit) (cos p + i sin p) [Siuzdak 2024], complex, of the inputs' shape.

    Parameters
    ----------
    log_magnitude, phase
        a and p (radians), float32, of equal shape.
    max_magnitude
        Limit: an untrained network or a loud frame must not overflow.

    Examples
    --------
    >>> polar_spectrum(torch.tensor([0.0, 9.0]), torch.zeros(2), max_magnitude=2.0)
    tensor([1.+0.j, 2.+0.j])
    """
    # limited before exp, whose gradient would be infinity times 0 where it overflows
    magnitude = log_magnitude.clamp_max(math.log(max_magnitude)).exp()
    return torch.complex(magnitude * phase.cos(), magnitude * phase.sin())


class LogMelFrames(nn.Module):
    r"""Log-mel frames, exactly ceil(T / hop) of them, whatever T is.

    .. math:: m_f = \left(\ln \max(|\mathrm{STFT}(x)|_f\, M, 10^{-5}) + 7\right) / 2.5

    Frames are centred on their hop ("same" padding with zeros), so frame f of a chunk that starts
    at sample a * hop is frame a + f of the whole file. A sine of amplitude 1 has magnitude 0.5.

    Parameters
    ----------
    sample_rate, hop_length
        Hz, samples between frames.
    n_fft
        Window and transform length, samples; ``n_fft - hop_length / subframes`` must be even.
    num_mels
        Mel bins M (HTK scale, unnormalised triangles).
    subframes
        Spectra per frame, taken at hop_length / subframes and stacked: a finer time grid at the
        same frame rate.

    Examples
    --------
    >>> LogMelFrames(16000, 320, num_mels=40)(torch.zeros(2, 1, 16001)).shape
    torch.Size([2, 51, 40])
    """

    def __init__(
        self,
        sample_rate: int,
        hop_length: int,
        n_fft: int = 1024,
        num_mels: int = 80,
        subframes: int = 1,
    ) -> None:
        super().__init__()
        self.hop_length, self.n_fft, self.subframes = hop_length, n_fft, subframes
        self.step = substep(hop_length, n_fft, subframes)
        self.out_dim = num_mels * subframes
        window = torch.hann_window(n_fft)
        self.register_buffer("window", window / window.sum(), persistent=False)
        with torch.device("cpu"):  # torchaudio reads values, which the meta device has not
            filters = torchaudio.functional.melscale_fbanks(
                n_fft // 2 + 1, 0.0, sample_rate / 2, num_mels, sample_rate
            )  # (n_fft / 2 + 1, M)
        self.register_buffer("filters", filters.to(window.device), persistent=False)
        self.context = -(-(n_fft - self.step) // (2 * hop_length))  # frames on each side

    def forward(self, wav: Tensor) -> Tensor:
        """Map (B, 1, T) to (B, F, subframes * M)."""
        frames = -(-wav.shape[-1] // self.hop_length)  # ceil(T / hop)
        side = (self.n_fft - self.step) // 2
        with full_precision(wav):  # no complex numbers in bf16
            x = wav.float().squeeze(1)
            x = F.pad(x, (side, side + frames * self.hop_length - x.shape[-1]))
            spectrum = torch.stft(
                x, self.n_fft, self.step, window=self.window, center=False, return_complex=True
            )  # (B, n_fft / 2 + 1, F * subframes)
            mel = spectrum.abs().transpose(1, 2) @ self.filters  # (B, F * subframes, M)
            mel = (mel.clamp_min(LOG_FLOOR).log() - MEL_CENTRE) / MEL_SCALE
        return mel.reshape(x.shape[0], frames, self.out_dim)


class InverseSTFT(nn.Module):
    r"""Inverse short-time Fourier transform with "same" padding: F frames give F * step samples.

    Windowed inverse transforms are overlap-added, divided by the summed squared windows, and
    trimmed by (n_fft - step) / 2 on each side, so frame f is centred on its step (Vocos).

    Parameters
    ----------
    n_fft
        Transform and Hann window length, samples, a multiple of ``step``.
    step
        Samples between frames.
    padding
        ``"same"``, or ``"center"``: trim n_fft / 2 on each side, so that frame f is centred on
        sample f * step and F frames give (F - 1) * step samples (``torch.istft``).

    Examples
    --------
    >>> InverseSTFT(1280, 320)(torch.zeros(2, 5, 641, dtype=torch.complex64)).shape
    torch.Size([2, 1600])
    """

    def __init__(self, n_fft: int, step: int, padding: str = "same") -> None:
        super().__init__()
        if padding not in ("same", "center"):
            raise ValueError(f"padding: got {padding!r}, expected 'same' or 'center'")
        if n_fft % step or (n_fft - step) % 2 or n_fft < 2 * step:
            raise ValueError(
                f"n_fft: got {n_fft} with a step of {step}, expected a multiple of the step, at "
                "least twice it, with n_fft - step even; hint: 4 * step"
            )
        self.n_fft, self.step, self.padding = n_fft, step, padding
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """Sum frames (B, F, n_fft), each moved by its step: (B, (F - 1) * step + n_fft)."""
        pieces = frames.unflatten(-1, (-1, self.step))  # (B, F, n_fft / step, step)
        overlap = pieces.shape[2]
        padded = [
            F.pad(pieces[:, :, i], (0, 0, i, overlap - 1 - i)) for i in range(overlap)
        ]  # each (B, F + overlap - 1, step)
        return torch.stack(padded).sum(0).flatten(1)

    def forward(self, spectrum: Tensor) -> Tensor:
        """Map complex (B, F, n_fft / 2 + 1) to (B, F * step), or (F - 1) * step if centred."""
        num_frames = spectrum.shape[1]
        frames = torch.fft.irfft(spectrum, n=self.n_fft, dim=-1) * self.window  # (B, F, n_fft)
        squares = (self.window**2).expand(1, num_frames, -1)
        envelope = self._overlap_add(squares)
        side = (self.n_fft - (self.step if self.padding == "same" else 0)) // 2
        inner = slice(side, envelope.shape[1] - side)
        return self._overlap_add(frames)[:, inner] / envelope[:, inner]


def substep(hop_length: int, n_fft: int, subframes: int) -> int:
    r"""Return hop_length / subframes, the samples between spectra.

    Parameters
    ----------
    hop_length, n_fft
        Samples.
    subframes
        Spectra per frame.

    Raises
    ------
    ValueError
        If it is no integer, or windows cannot be centred on their step.

    Examples
    --------
    >>> substep(320, 1024, 2)
    160
    """
    step, rest = divmod(hop_length, subframes)
    if rest or step < 1 or (n_fft - step) % 2 or n_fft < step:
        raise ValueError(
            f"hop_length, n_fft, subframes: got {hop_length}, {n_fft}, {subframes}; expected "
            "subframes to divide hop_length and n_fft - hop_length / subframes to be even and >= 0"
        )
    return step
