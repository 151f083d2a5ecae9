r"""The spectral backbone: an encoder and a decoder that work at the frame rate.

Log-mel frames -> ConvNeXt blocks -> latent, and latent -> ConvNeXt blocks -> complex spectrum ->
inverse STFT. The decoder is Vocos [Siuzdak 2024]; the encoder is its mirror. No layer runs at the
sample rate, so a codec of 1 to 3 M parameters trains on a CPU within a lesson. Every normalisation
is per frame, so an output depends on finitely many frames (``receptive_field``), and encoding a
long file in chunks is exact.

Leaves out: causal forms. Notebook: 05_encoders_and_decoders. Read next: ``codecs/base.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec_lib.blocks.convnext import ConvNeXtStack
from codec_lib.blocks.stft import (
    InverseSTFT,
    LogMelFrames,
    full_precision,
    polar_spectrum,
    substep,
)
from codec_lib.shapes import check_shape


class SpectralEncoder(nn.Module):
    r"""Encode a waveform into latent frames through log-mel frames and ConvNeXt blocks.

    Parameters
    ----------
    sample_rate, hop_length
        Hz, samples per frame: 320 at 16 kHz is 50 Hz, 300 at 24 kHz is 80 Hz.
    latent_dim
        Latent width D.
    width, depth, expansion, kernel_size
        Of the ConvNeXt blocks.
    n_fft, num_mels, subframes
        Of the log-mel frames.

    Examples
    --------
    >>> encoder = SpectralEncoder(16000, 320, latent_dim=8, width=16, depth=1)
    >>> encoder(torch.zeros(2, 1, 1000)).shape
    torch.Size([2, 8, 4])
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        hop_length: int = 320,
        latent_dim: int = 64,
        width: int = 192,
        depth: int = 4,
        expansion: int = 3,
        kernel_size: int = 7,
        n_fft: int = 1024,
        num_mels: int = 80,
        subframes: int = 1,
    ) -> None:
        super().__init__()
        self.hop_length = hop_length
        self.frames = LogMelFrames(sample_rate, hop_length, n_fft, num_mels, subframes)
        self.stack = ConvNeXtStack(
            self.frames.out_dim, latent_dim, width, depth, expansion, kernel_size
        )
        self.receptive_field = self.stack.receptive_field + self.frames.context

    def forward(self, wav: Tensor) -> Tensor:
        r"""Encode.

        Parameters
        ----------
        wav
            Waveform, shape (B, 1, T).

        Returns
        -------
        Tensor
            Latent, shape (B, D, F) with F = ceil(T / hop_length).
        """
        check_shape(wav, "B 1 T", name="wav")
        return self.stack(self.frames(wav)).transpose(1, 2)


class SpectralDecoder(nn.Module):
    r"""Decode latent frames into a waveform through ConvNeXt blocks and an inverse STFT.

    .. math:: \hat{x} = \mathrm{iSTFT}\big(\min(e^{a}, n)\,(\cos p + i \sin p)\big)

    with a and p linear in the last block's output and n the transform length (Vocos clips at 100,
    which a loud vowel reaches); the ``"real_imag"`` head gives the two
    parts of the spectrum directly.

    Parameters
    ----------
    hop_length
        Samples per frame.
    latent_dim
        Latent width D.
    width, depth, expansion, kernel_size
        Of the ConvNeXt blocks.
    n_fft
        Window of the inverse STFT, samples; by default 4 * hop_length / subframes.
    subframes
        Spectra per frame, at hop_length / subframes: finer time resolution at the same frame rate.
    head
        ``"magnitude_phase"`` or ``"real_imag"``.

    Examples
    --------
    >>> decoder = SpectralDecoder(320, latent_dim=8, width=16, depth=1)
    >>> decoder(torch.zeros(2, 8, 4)).shape
    torch.Size([2, 1, 1280])
    """

    def __init__(
        self,
        hop_length: int = 320,
        latent_dim: int = 64,
        width: int = 192,
        depth: int = 5,
        expansion: int = 3,
        kernel_size: int = 7,
        n_fft: int | None = None,
        subframes: int = 1,
        head: str = "magnitude_phase",
    ) -> None:
        super().__init__()
        if head not in ("magnitude_phase", "real_imag"):
            raise ValueError(f"head: got {head!r}, expected 'magnitude_phase' or 'real_imag'")
        n_fft = 4 * (hop_length // subframes) if n_fft is None else n_fft
        step = substep(hop_length, n_fft, subframes)
        self.hop_length, self.subframes, self.head = hop_length, subframes, head
        self.stack = ConvNeXtStack(
            latent_dim, subframes * (n_fft + 2), width, depth, expansion, kernel_size
        )
        self.istft = InverseSTFT(n_fft, step)
        self.max_magnitude = float(n_fft)  # four times that of a full-scale sine (n_fft / 4)
        context = -(-(n_fft - step) // (2 * hop_length))
        self.receptive_field = self.stack.receptive_field + context

    def forward(self, z_q: Tensor) -> Tensor:
        r"""Decode.

        Parameters
        ----------
        z_q
            Latent, shape (B, D, F).

        Returns
        -------
        Tensor
            Waveform, shape (B, 1, F * hop_length).
        """
        x = self.stack(z_q.transpose(1, 2))  # (B, F, subframes * (n_fft + 2))
        with full_precision(x):
            x = x.float().reshape(x.shape[0], x.shape[1] * self.subframes, -1)
            first, second = x.chunk(2, dim=-1)  # each (B, F * subframes, n_fft / 2 + 1)
            if self.head == "magnitude_phase":
                spectrum = polar_spectrum(first, second, self.max_magnitude)
            else:
                spectrum = torch.complex(first, second)
            return self.istft(spectrum).unsqueeze(1)
