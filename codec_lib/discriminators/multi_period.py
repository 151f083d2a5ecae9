r"""Multi-period discriminator (MPD): does every p-th sample look right?

Source: [HiFi-GAN], §2.3, used by [SpeechTokenizer], §3.3. Sub-discriminator p folds the waveform
into rows of p samples and convolves along the columns only, so that it sees T / p samples that are
p apart: periodic structure, hence pitch. Notebook: ``06_losses_and_discriminators``. Left out: the
losses. Read next: ``multi_scale.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from codec_lib.discriminators.base import (
    Discriminator,
    DiscriminatorOutput,
    normed,
    run_layers,
    scaled,
)

PERIODS = (2, 3, 5, 7, 11)  # primes: no period repeats what another one sees
CHANNELS = (32, 128, 512, 1024, 1024)
STRIDES = (3, 3, 3, 3, 1)
SLOPE = 0.1  # LeakyReLU, as published


class PeriodDiscriminator(nn.Module):
    r"""One period p of the multi-period discriminator.

    Parameters
    ----------
    period
        Distance in samples between neighbours of one column.
    width
        Factor on the published channels 32, 128, 512, 1024, 1024.
    """

    def __init__(self, period: int, width: float = 1.0) -> None:
        super().__init__()
        if period < 1:
            raise ValueError(f"period: got {period}, expected at least 1 sample")
        self.period = period
        sizes = (1, *scaled(CHANNELS, width))
        self.convs = nn.ModuleList(
            normed(nn.Conv2d(c_in, c_out, (5, 1), (stride, 1), padding=(2, 0)))
            for c_in, c_out, stride in zip(sizes, sizes[1:], STRIDES, strict=False)
        )
        self.conv_post = normed(nn.Conv2d(sizes[-1], 1, (3, 1), padding=(1, 0)))

    def fold(self, wav: Tensor) -> Tensor:
        r"""Fold (B, 1, T) into (B, 1, ceil(T / p), p), the tail filled by reflection."""
        wav = F.pad(wav, (0, -wav.shape[-1] % self.period), mode="reflect")
        return wav.unflatten(-1, (-1, self.period))  # (B, 1, T/p, p)

    def forward(self, wav: Tensor) -> DiscriminatorOutput:
        r"""Judge (B, 1, T); logits (B, 1, rows, p), 6 feature maps with the logits among them."""
        return run_layers(self.fold(wav), self.convs, self.conv_post, SLOPE, keep_logits=True)


class MultiPeriodDiscriminator(Discriminator):
    r"""The five period discriminators of HiFi-GAN; 41,105,770 parameters at ``width=1``.

    Parameters
    ----------
    periods
        Periods in samples.
    width
        Factor on the channels; 0.125 is cheap on a CPU.

    Examples
    --------
    >>> import torch
    >>> disc = MultiPeriodDiscriminator(periods=(2, 3), width=0.125)
    >>> [tuple(out.logits.shape) for out in disc(torch.zeros(1, 1, 1600))]
    [(1, 1, 10, 2), (1, 1, 7, 3)]
    """

    def __init__(self, periods: Sequence[int] = PERIODS, width: float = 1.0) -> None:
        super().__init__()
        if not periods:
            raise ValueError("periods: got none, expected at least one")
        self.discriminators = nn.ModuleList(PeriodDiscriminator(p, width) for p in periods)
        self.min_samples = max(periods)  # the reflected tail is at most p - 1 samples
