r"""Multi-resolution discriminators (MRD): the spectrogram at several window sizes, two kinds.

``MagnitudeDiscriminator`` sees |STFT|: UnivNet's critic, which Vocos and WavTokenizer train with,
and BigCodec's, which its paper calls MS-STFT. ``BandDiscriminator`` sees the complex STFT in five
bands, each with convolutions of its own: DAC's critic, and Vocos's in the released package. SACodec
names a "multi-band multi-scale STFT" critic without figures; its nearest public relative,
WavTokenizer, trains both kinds.

Notebook: ``06_losses_and_discriminators``. Left out: conditions on the bit rate; WavTokenizer's
transform without a window. Read next: ``losses/adversarial.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec_lib.discriminators.base import (
    Discriminator,
    DiscriminatorOutput,
    normed,
    run_layers,
    scaled,
)

MRD_N_FFTS = (1024, 2048, 512)  # UnivNet's, in the order of the official Vocos code
BAND_N_FFTS = (2048, 1024, 512)  # DAC's
BAND_EDGES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # as shares of the bins
BAND_SLOPE = 0.1
PEAK = 0.8  # DAC's critic hears every clip at this level


@dataclass(frozen=True)
class MagnitudeLayout:
    r"""Published layers of a magnitude critic, axes (bins, frames).

    Attributes
    ----------
    growth
        Channels of each layer as multiples of the first one's.
    kernels, strides
        Of each layer; padding keeps the centre.
    slope
        Of the LeakyReLU.
    hann
        False multiplies by no window at all, as UnivNet's descendants do.
    clip
        Range of the magnitude, or None.
    """

    growth: tuple[int, ...]
    kernels: tuple[tuple[int, int], ...]
    strides: tuple[tuple[int, int], ...]
    slope: float
    hann: bool
    clip: tuple[float, float] | None


LAYOUTS = {
    "univnet": MagnitudeLayout(
        growth=(1, 1, 1, 1, 1),
        kernels=((7, 5), (5, 3), (5, 3), (3, 3), (3, 3)),
        strides=((2, 2), (2, 1), (2, 2), (2, 1), (2, 2)),
        slope=0.1,
        hann=False,
        clip=None,
    ),
    "bigcodec": MagnitudeLayout(
        growth=(1, 2, 4, 8, 16),
        kernels=((5, 5), (5, 5), (5, 5), (5, 5), (3, 3)),
        strides=((2, 2), (2, 2), (2, 2), (2, 2), (1, 1)),
        slope=0.2,
        hann=True,
        clip=(1e-7**0.5, 1e3**0.5),  # the power is kept within [1e-7, 1e3]
    ),
}


class MagnitudeDiscriminator(nn.Module):
    r"""One window size of a magnitude critic; the hop is a quarter of the window.

    Parameters
    ----------
    n_fft
        Window and transform size, samples.
    filters
        Channels of the first layer.
    layout
        ``"univnet"`` or ``"bigcodec"``.
    """

    window: Tensor

    def __init__(self, n_fft: int, filters: int = 64, layout: str = "univnet") -> None:
        super().__init__()
        if layout not in LAYOUTS:
            raise ValueError(f"layout: got {layout!r}, expected one of {list(LAYOUTS)}")
        self.n_fft, self.layout = n_fft, LAYOUTS[layout]
        window = torch.hann_window(n_fft) if self.layout.hann else torch.ones(n_fft)
        self.register_buffer("window", window, persistent=False)
        channels = (1, *scaled(self.layout.growth, filters))
        layers = zip(self.layout.kernels, self.layout.strides, strict=True)
        self.convs = nn.ModuleList(
            normed(nn.Conv2d(channels[i], channels[i + 1], kernel, stride, _centre(kernel)))
            for i, (kernel, stride) in enumerate(layers)
        )
        self.conv_post = normed(nn.Conv2d(channels[-1], 1, 3, padding=1))

    def spectrogram(self, wav: Tensor) -> Tensor:
        r"""Return the magnitude, (B, 1, T) -> (B, 1, n_fft/2 + 1, F), centred frames."""
        magnitude = _stft(wav, self.window).abs()
        return magnitude if self.layout.clip is None else magnitude.clamp(*self.layout.clip)

    def forward(self, wav: Tensor) -> DiscriminatorOutput:
        r"""Judge (B, 1, T); 6 feature maps with the logits among them."""
        spectrum = self.spectrogram(wav)
        return run_layers(spectrum, self.convs, self.conv_post, self.layout.slope, keep_logits=True)


class MultiResolutionDiscriminator(Discriminator):
    r"""Magnitude critics at several window sizes.

    UnivNet's three have 600,198 parameters, BigCodec's five (128 to 2048, 32 filters) 11,311,210.

    Parameters
    ----------
    n_ffts
        Window sizes, samples.
    filters, layout
        See ``MagnitudeDiscriminator``.

    Examples
    --------
    >>> disc = MultiResolutionDiscriminator((256, 128), filters=4)
    >>> [tuple(out.logits.shape) for out in disc(torch.zeros(1, 1, 1600))]
    [(1, 1, 5, 4), (1, 1, 3, 7)]
    """

    def __init__(
        self, n_ffts: Sequence[int] = MRD_N_FFTS, filters: int = 64, layout: str = "univnet"
    ) -> None:
        super().__init__()
        _check_n_ffts(n_ffts)
        self.discriminators = nn.ModuleList(
            MagnitudeDiscriminator(n_fft, filters, layout) for n_fft in n_ffts
        )
        self.min_samples = max(n_ffts)


class BandDiscriminator(nn.Module):
    r"""One window size of the complex multi-band critic; the hop is a quarter of the window.

    A clip is freed of its mean and scaled to a peak of 0.8 first, so level is not judged.

    Parameters
    ----------
    n_fft
        Window (Hann) and transform size, samples.
    filters
        Channels of every hidden layer.
    aligned
        True centres frame f on its hop, T / hop frames (DAC); False centres it on sample f hop,
        one frame more (Vocos).
    """

    window: Tensor

    def __init__(self, n_fft: int, filters: int = 32, aligned: bool = True) -> None:
        super().__init__()
        self.aligned = aligned
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        edges = [int(edge * (n_fft // 2 + 1)) for edge in BAND_EDGES]
        self.bands = list(pairwise(edges))
        self.band_convs = nn.ModuleList(_band_layers(filters) for _ in self.bands)
        self.conv_post = normed(nn.Conv2d(filters, 1, 3, padding=1))

    def spectrogram(self, wav: Tensor) -> Tensor:
        r"""Return real and imaginary part, (B, 1, T) -> (B, 2, F, n_fft/2 + 1)."""
        wav = wav.float() - wav.float().mean(-1, keepdim=True)
        wav = PEAK * wav / (wav.abs().amax(-1, keepdim=True) + 1e-9)
        n_fft = len(self.window)
        if self.aligned:  # whole hops, reflected; two frames on each side see nothing else
            hop = n_fft // 4
            side = (n_fft - hop) // 2
            wav = F.pad(wav, (side, side - wav.shape[-1] % -hop), mode="reflect")
        spectrum = _stft(wav, self.window)[:, 0]  # (B, bins, F)
        spectrum = spectrum[..., 2:-2] if self.aligned else spectrum
        return torch.view_as_real(spectrum).permute(0, 3, 2, 1)

    def forward(self, wav: Tensor) -> DiscriminatorOutput:
        r"""Judge (B, 1, T); 26 feature maps: five of each band, and the logits."""
        spectrum = self.spectrogram(wav)
        features, last = [], []
        for (low, high), convs in zip(self.bands, self.band_convs, strict=True):
            hidden = spectrum[..., low:high]
            for conv in convs:
                hidden = F.leaky_relu(conv(hidden), BAND_SLOPE)
                features.append(hidden)
            last.append(hidden)
        logits = self.conv_post(torch.cat(last, dim=-1))  # (B, 1, F, bins / 8)
        return DiscriminatorOutput(logits, [*features, logits], has_logits=True)


class MultiBandDiscriminator(Discriminator):
    r"""DAC's complex multi-band critics; 1,413,990 parameters at three window sizes.

    Parameters
    ----------
    n_ffts
        Window sizes, samples.
    filters, aligned
        See ``BandDiscriminator``.

    Examples
    --------
    >>> disc = MultiBandDiscriminator((256, 128), filters=4)
    >>> [tuple(out.logits.shape) for out in disc(torch.randn(1, 1, 1600))]
    [(1, 1, 25, 18), (1, 1, 50, 10)]
    """

    def __init__(
        self, n_ffts: Sequence[int] = BAND_N_FFTS, filters: int = 32, aligned: bool = True
    ) -> None:
        super().__init__()
        _check_n_ffts(n_ffts)
        self.discriminators = nn.ModuleList(
            BandDiscriminator(n_fft, filters, aligned) for n_fft in n_ffts
        )
        self.min_samples = max(n_ffts)


def _check_n_ffts(n_ffts: Sequence[int]) -> None:
    """Raise where a window has no quarter for a hop, or a band would be empty."""
    if not n_ffts or any(n_fft % 8 or n_fft < 32 for n_fft in n_ffts):
        raise ValueError(f"n_ffts: got {tuple(n_ffts)}, expected multiples of 8, 32 or more")


def _stft(wav: Tensor, window: Tensor) -> Tensor:
    """Return the centred complex transform in float32: (B, 1, T) -> (B, 1, bins, F)."""
    with torch.autocast(wav.device.type, enabled=False):
        x = wav.float().squeeze(1)
        n_fft = len(window)
        return torch.stft(x, n_fft, n_fft // 4, window=window, return_complex=True)[:, None]


def _centre(kernel: tuple[int, int]) -> tuple[int, int]:
    """Return the padding that keeps the centre."""
    return kernel[0] // 2, kernel[1] // 2


def _band_layers(filters: int) -> nn.ModuleList:
    """Return the five convolutions of one band over (frames, bins)."""
    layers = [nn.Conv2d(2, filters, (3, 9), padding=(1, 4))]
    layers += [nn.Conv2d(filters, filters, (3, 9), (1, 2), padding=(1, 4)) for _ in range(3)]
    layers.append(nn.Conv2d(filters, filters, 3, padding=1))
    return nn.ModuleList(normed(layer) for layer in layers)
