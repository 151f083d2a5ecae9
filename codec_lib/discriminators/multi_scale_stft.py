r"""Multi-scale STFT discriminator (MS-STFT): the complex spectrogram at several window sizes.

Source: [EnCodec], §3.4, used by [SpeechTokenizer], §3.3. Real and imaginary part are two input
channels, so that this critic sees phase; small two-dimensional convolutions stride over frequency
and dilate over time. Notebook: ``06_losses_and_discriminators``. Left out: the losses. Deviations,
none published for this critic: ``"compressed"`` keeps the phase and raises the magnitude to the
power of 0.3, so that quiet parts count; ``"magnitude"`` is UnivNet's multi-resolution critic with
these layers, ``"log_magnitude"`` the same on logarithms. Read next: ``losses/adversarial.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codec_lib.discriminators.base import Discriminator, DiscriminatorOutput, normed, run_layers

N_FFTS = (1024, 2048, 512, 256, 128)  # in the order of the official SpeechTokenizer code
DILATIONS = (1, 2, 4)  # over time, one convolution each
SLOPE = 0.2  # LeakyReLU, as published
REPRESENTATIONS = ("complex", "compressed", "magnitude", "log_magnitude")
EXPONENT = 0.3  # of the compressed magnitude: 60 dB of range become 18


class STFTDiscriminator(nn.Module):
    r"""One window size of the multi-scale STFT discriminator.

    Parameters
    ----------
    n_fft
        Window and transform size in samples (Hann).
    hop_length
        Samples between frames.
    filters
        Channels of every hidden layer.
    representation
        ``"complex"`` (published), ``"compressed"``, ``"magnitude"`` or ``"log_magnitude"``.
    frequency_stride
        Stride over frequency of the three dilated convolutions; 2 as published.
    """

    window: Tensor

    def __init__(
        self,
        n_fft: int,
        hop_length: int,
        filters: int = 32,
        representation: str = "complex",
        frequency_stride: int = 2,
    ) -> None:
        super().__init__()
        if representation not in REPRESENTATIONS:
            raise ValueError(f"representation: got {representation!r}, expected {REPRESENTATIONS}")
        if filters < 1 or hop_length < 1 or n_fft < 2:
            raise ValueError(
                f"got n_fft {n_fft}, hop_length {hop_length}, filters {filters}; "
                "expected n_fft at least 2, the others at least 1"
            )
        self.n_fft, self.hop_length, self.representation = n_fft, hop_length, representation
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        channels = 2 if representation in ("complex", "compressed") else 1
        layers: list[nn.Module] = [nn.Conv2d(channels, filters, (3, 9), padding=(1, 4))]
        for dilation in DILATIONS:  # the first convolution has no norm, as published
            conv = nn.Conv2d(
                filters,
                filters,
                (3, 9),
                stride=(1, frequency_stride),
                dilation=(dilation, 1),
                padding=(dilation, 4),
            )
            layers.append(normed(conv))
        layers.append(normed(nn.Conv2d(filters, filters, (3, 3), padding=(1, 1))))
        self.convs = nn.ModuleList(layers)
        self.conv_post = normed(nn.Conv2d(filters, 1, (3, 3), padding=(1, 1)))

    def spectrogram(self, wav: Tensor) -> Tensor:
        r"""Return what is convolved: (B, 1, T) -> (B, 2 or 1, F, n_fft/2 + 1), in float32.

        The transform is divided by the window's L2 norm, frames are not padded
        (F = 1 + (T - n_fft) // hop_length).
        """
        with torch.autocast(wav.device.type, enabled=False):
            spectrum = torch.stft(
                wav.float().squeeze(1),
                self.n_fft,
                self.hop_length,
                window=self.window,
                center=False,
                return_complex=True,
            ).transpose(1, 2)  # (B, F, bins)
            spectrum = spectrum / self.window.square().sum().sqrt()
            if self.representation == "compressed":
                power = spectrum.real.square() + spectrum.imag.square()
                spectrum = spectrum * (power + 1e-8) ** ((EXPONENT - 1) / 2)
            if self.representation in ("complex", "compressed"):
                return torch.view_as_real(spectrum).permute(0, 3, 1, 2)  # (B, 2, F, bins)
            magnitude = spectrum.abs().unsqueeze(1)  # (B, 1, F, bins)
            if self.representation == "magnitude":
                return magnitude
            return magnitude.clamp_min(1e-5).log()  # -100 dB: below 16-bit audio's noise

    def forward(self, wav: Tensor) -> DiscriminatorOutput:
        r"""Judge (B, 1, T); logits (B, 1, F, bins/8), 5 feature maps without the logits."""
        spectrum = self.spectrogram(wav)
        return run_layers(spectrum, self.convs, self.conv_post, SLOPE, keep_logits=False)


class MultiScaleSTFTDiscriminator(Discriminator):
    r"""Five window sizes of EnCodec's critic; 472,330 parameters at 32 filters.

    Parameters
    ----------
    n_ffts
        Window sizes in samples.
    hop_lengths
        Samples between frames of each; a quarter of the window by default.
    filters, representation, frequency_stride
        See ``STFTDiscriminator``.

    Examples
    --------
    >>> disc = MultiScaleSTFTDiscriminator(n_ffts=(256, 128), filters=4)
    >>> [tuple(out.logits.shape) for out in disc(torch.zeros(1, 1, 1600))]
    [(1, 1, 22, 17), (1, 1, 47, 9)]
    """

    def __init__(
        self,
        n_ffts: Sequence[int] = N_FFTS,
        hop_lengths: Sequence[int] | None = None,
        filters: int = 32,
        representation: str = "complex",
        frequency_stride: int = 2,
    ) -> None:
        super().__init__()
        hops = [n_fft // 4 for n_fft in n_ffts] if hop_lengths is None else list(hop_lengths)
        if not n_ffts or len(hops) != len(n_ffts):
            raise ValueError(
                f"n_ffts: got {len(n_ffts)} with {len(hops)} hop_lengths, expected as many, not 0"
            )
        self.discriminators = nn.ModuleList(
            STFTDiscriminator(n_fft, hop, filters, representation, frequency_stride)
            for n_fft, hop in zip(n_ffts, hops, strict=True)
        )
        self.min_samples = max(n_ffts)
