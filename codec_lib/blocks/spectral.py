r"""The spectral backbone: an encoder and a decoder that work at the frame rate.

Log-mel frames -> ConvNeXt blocks -> latent, and latent -> ConvNeXt blocks -> complex spectrum ->
inverse STFT. The decoder is Vocos [Siuzdak 2024]; the encoder is its mirror. No layer runs at the
sample rate, so a codec of 1 to 3 M parameters trains on a CPU within a lesson. Every normalisation
is per frame, so an output depends on finitely many frames (``receptive_field``), and encoding a
long file in chunks is exact.

Inside, tensors are channels-last (B, F, D): linear layers then need no transpose.

Leaves out: causal forms. Notebook: 05_encoders_and_decoders. Read next: ``codecs/base.py``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from codec_lib.shapes import check_shape

LOG_FLOOR = 1e-5  # -100 dB relative to a full-scale sine: below the noise of 16-bit audio
MEL_CENTRE, MEL_SCALE = -7.0, 2.5  # brings log-mel values of speech to about zero mean, unit range


class DepthwiseConv(nn.Module):
    r"""Convolve each channel of a channels-last tensor along the frames, zero-padded.

    Runs as a 1 x k convolution of a channels-last image, which on a CPU is four times faster
    than ``Conv1d`` between two transposes.

    Parameters
    ----------
    width
        Channels D.
    kernel_size
        Taps, odd.

    Examples
    --------
    >>> DepthwiseConv(8, 7)(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, width: int, kernel_size: int = 7) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: got {kernel_size}, expected an odd number")
        self.conv = nn.Conv2d(
            width, width, (1, kernel_size), padding=(0, kernel_size // 2), groups=width
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, D) to (B, F, D)."""
        image = x.transpose(1, 2).unsqueeze(2)  # (B, D, 1, F), channels-last in memory
        return self.conv(image).squeeze(2).transpose(1, 2)  # (B, F, D)


class ConvNeXtBlock(nn.Module):
    r"""Depthwise convolution, layer norm, two linear layers, scaled residual.

    .. math:: y = x + \gamma \odot W_2\, \mathrm{GELU}(W_1\, \mathrm{LN}(\mathrm{conv}_k(x)))

    [Liu 2022], in one dimension as in Vocos.

    Parameters
    ----------
    width
        Channels D.
    expansion
        Hidden width as a multiple of ``width``.
    kernel_size
        Taps of the depthwise convolution, odd, in frames.
    layer_scale
        Initial value of gamma; 1 / depth keeps a deep stack close to the identity at the start.

    Examples
    --------
    >>> ConvNeXtBlock(8)(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self, width: int, expansion: int = 3, kernel_size: int = 7, layer_scale: float = 0.25
    ) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv(width, kernel_size)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, expansion * width)
        self.reduce = nn.Linear(expansion * width, width)
        self.gamma = nn.Parameter(torch.full((width,), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, D) to (B, F, D)."""
        hidden = F.gelu(self.expand(self.norm(self.depthwise(x))), approximate="tanh")
        return torch.addcmul(x, self.gamma, self.reduce(hidden))


class ConvNeXtStack(nn.Module):
    r"""Embedding, ``depth`` ConvNeXt blocks and a linear head, all at one rate.

    Parameters
    ----------
    in_dim, out_dim
        Channels in and out.
    width, depth, expansion, kernel_size
        Of the blocks.

    Examples
    --------
    >>> ConvNeXtStack(4, 6, width=8, depth=2)(torch.zeros(2, 5, 4)).shape
    torch.Size([2, 5, 6])
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        width: int,
        depth: int,
        expansion: int = 3,
        kernel_size: int = 7,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(in_dim, width)
        self.embed_conv = DepthwiseConv(width, kernel_size)
        self.embed_norm = nn.LayerNorm(width, eps=1e-6)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(width, expansion, kernel_size, layer_scale=1 / max(depth, 1))
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, out_dim)
        self.receptive_field = (kernel_size // 2) * (depth + 1)  # frames on each side

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, in_dim) to (B, F, out_dim)."""
        x = self.embed(x)
        x = self.embed_norm(x + self.embed_conv(x))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


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
        self.step = _substep(hop_length, n_fft, subframes)
        self.out_dim = num_mels * subframes
        window = torch.hann_window(n_fft)
        self.register_buffer("window", window / window.sum(), persistent=False)
        filters = torchaudio.functional.melscale_fbanks(
            n_fft // 2 + 1, 0.0, sample_rate / 2, num_mels, sample_rate
        )
        self.register_buffer("filters", filters, persistent=False)  # (n_fft / 2 + 1, M)
        self.context = -(-(n_fft - self.step) // (2 * hop_length))  # frames on each side

    def forward(self, wav: Tensor) -> Tensor:
        """Map (B, 1, T) to (B, F, subframes * M)."""
        frames = -(-wav.shape[-1] // self.hop_length)  # ceil(T / hop)
        side = (self.n_fft - self.step) // 2
        with torch.autocast(wav.device.type, enabled=False):  # no complex numbers in bf16
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

    Examples
    --------
    >>> InverseSTFT(1280, 320)(torch.zeros(2, 5, 641, dtype=torch.complex64)).shape
    torch.Size([2, 1600])
    """

    def __init__(self, n_fft: int, step: int) -> None:
        super().__init__()
        if n_fft % step or (n_fft - step) % 2 or n_fft < 2 * step:
            raise ValueError(
                f"n_fft: got {n_fft} with a step of {step}, expected a multiple of the step, at "
                "least twice it, with n_fft - step even; hint: 4 * step"
            )
        self.n_fft, self.step = n_fft, step
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
        """Map complex (B, F, n_fft / 2 + 1) to (B, F * step)."""
        num_frames = spectrum.shape[1]
        frames = torch.fft.irfft(spectrum, n=self.n_fft, dim=-1) * self.window  # (B, F, n_fft)
        squares = (self.window**2).expand(1, num_frames, -1)
        envelope = self._overlap_add(squares)
        side = (self.n_fft - self.step) // 2
        inner = slice(side, side + num_frames * self.step)
        return self._overlap_add(frames)[:, inner] / envelope[:, inner]


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
        step = _substep(hop_length, n_fft, subframes)
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
        with torch.autocast(x.device.type, enabled=False):
            x = x.float().reshape(x.shape[0], x.shape[1] * self.subframes, -1)
            first, second = x.chunk(2, dim=-1)  # each (B, F * subframes, n_fft / 2 + 1)
            if self.head == "magnitude_phase":
                magnitude = first.exp().clamp_max(self.max_magnitude)
                first, second = magnitude * second.cos(), magnitude * second.sin()
            return self.istft(torch.complex(first, second)).unsqueeze(1)


def _substep(hop_length: int, n_fft: int, subframes: int) -> int:
    """Return hop_length / subframes after checking that frames can be centred."""
    step, rest = divmod(hop_length, subframes)
    if rest or step < 1 or (n_fft - step) % 2 or n_fft < step:
        raise ValueError(
            f"hop_length, n_fft, subframes: got {hop_length}, {n_fft}, {subframes}; expected "
            "subframes to divide hop_length and n_fft - hop_length / subframes to be even and >= 0"
        )
    return step
