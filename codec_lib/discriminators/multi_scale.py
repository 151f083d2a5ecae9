r"""Multi-scale discriminator (MSD): the waveform itself, and twice and four times smoothed.

Source: [HiFi-GAN], §2.3 (from MelGAN), used by [SpeechTokenizer], §3.3. Grouped one-dimensional
convolutions with long kernels; each further scale sees the waveform averaged over 4 samples at half
the rate. Notebook: ``06_losses_and_discriminators``. Left out: the losses. Read next:
``multi_scale_stft.py``.
"""

from __future__ import annotations

from math import gcd

import torch.nn.functional as F
from torch import Tensor, nn

from codec_lib.discriminators.base import (
    Discriminator,
    DiscriminatorOutput,
    normed,
    run_layers,
    scaled,
)

CHANNELS = (128, 128, 256, 512, 1024, 1024, 1024)
KERNELS = (15, 41, 41, 41, 41, 41, 5)
STRIDES = (1, 2, 2, 4, 4, 1, 1)
GROUPS = (1, 4, 16, 16, 16, 16, 1)
SLOPE = 0.1  # LeakyReLU, as published


class ScaleDiscriminator(nn.Module):
    r"""One scale: seven convolutions over time and one to the score.

    Parameters
    ----------
    width
        Factor on the published channels; groups shrink to what still divides them.
    norm
        ``"weight"`` or ``"spectral"`` (the first scale, as published).
    """

    def __init__(self, width: float = 1.0, norm: str = "weight") -> None:
        super().__init__()
        sizes = (1, *scaled(CHANNELS, width))
        layers = []
        for i, (kernel, stride, groups) in enumerate(zip(KERNELS, STRIDES, GROUPS, strict=True)):
            c_in, c_out = sizes[i], sizes[i + 1]
            groups = gcd(groups, c_in, c_out)
            conv = nn.Conv1d(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups)
            layers.append(normed(conv, norm))
        self.convs = nn.ModuleList(layers)
        self.conv_post = normed(nn.Conv1d(sizes[-1], 1, 3, padding=1), norm)

    def forward(self, wav: Tensor) -> DiscriminatorOutput:
        r"""Judge (B, 1, T); logits (B, 1, T/64), 8 feature maps with the logits among them."""
        return run_layers(wav, self.convs, self.conv_post, SLOPE, keep_logits=True)


class MultiScaleDiscriminator(Discriminator):
    r"""The three scales of HiFi-GAN; 29,618,821 parameters at ``width=1``.

    Parameters
    ----------
    num_scales
        Scales; scale i sees the waveform at 1 / 2^i of the rate.
    width
        Factor on the channels.

    Examples
    --------
    >>> import torch
    >>> disc = MultiScaleDiscriminator(num_scales=2, width=0.125)
    >>> [tuple(out.logits.shape) for out in disc(torch.zeros(1, 1, 1600))]
    [(1, 1, 25), (1, 1, 13)]
    """

    def __init__(self, num_scales: int = 3, width: float = 1.0) -> None:
        super().__init__()
        if num_scales < 1:
            raise ValueError(f"num_scales: got {num_scales}, expected at least 1")
        self.discriminators = nn.ModuleList(
            ScaleDiscriminator(width, "spectral" if i == 0 else "weight") for i in range(num_scales)
        )
        self.min_samples = 2**num_scales

    def views(self, wav: Tensor) -> list[Tensor]:
        r"""Return the waveform at each scale: (B, 1, T), (B, 1, T/2 + 1), ..."""
        views = [wav]
        while len(views) < len(self.discriminators):
            views.append(F.avg_pool1d(views[-1], kernel_size=4, stride=2, padding=2))
        return views
