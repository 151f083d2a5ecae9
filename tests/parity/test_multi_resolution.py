"""Multi-resolution critics against the packages of Vocos and DAC, with the same random weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dac.model import discriminator as dac
from torch import nn
from vocos import discriminators as vocos

from codec_lib.discriminators import (
    MultiBandDiscriminator,
    MultiPeriodDiscriminator,
    MultiResolutionDiscriminator,
)

N_FFTS = (256, 128)


def clip(num_samples: int = 1601) -> torch.Tensor:
    return torch.randn(2, 1, num_samples) * 0.3 + 0.1  # an offset that the critic must remove


@torch.no_grad()
def test_multi_band_equals_dac() -> None:
    theirs = dac.Discriminator(periods=[], fft_sizes=list(N_FFTS))
    ours = MultiBandDiscriminator(N_FFTS)
    ours.load_published(theirs.state_dict())
    for num_samples in (1600, 1601, 1727):
        wav = clip(num_samples)
        for mine, maps in zip(ours(wav), theirs(wav), strict=True):
            assert len(mine.features) == len(maps) == 26
            for a, b in zip(mine.features, maps, strict=True):
                assert torch.allclose(a, b, atol=1e-5)
            assert torch.equal(mine.logits, mine.features[-1])


@torch.no_grad()
def test_multi_period_equals_dac() -> None:
    """DAC's fold adds a whole period where none is missing; elsewhere the two are the same."""
    theirs = dac.MPD(3)
    ours = MultiPeriodDiscriminator((3,))
    ours.load_published({f"discriminators.0.{k}": v for k, v in theirs.state_dict().items()})
    wav = clip(1600)
    for a, b in zip(ours(wav)[0].features, theirs(wav), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@torch.no_grad()
def test_multi_band_equals_vocos() -> None:
    theirs = vocos.MultiResolutionDiscriminator(N_FFTS)
    ours = MultiBandDiscriminator(N_FFTS, aligned=False)
    ours.load_published(theirs.state_dict())
    wav = clip()
    scores, _, maps, _ = theirs(wav.squeeze(1), wav.squeeze(1))
    for mine, score, features in zip(ours(wav), scores, maps, strict=True):
        assert torch.allclose(mine.logits, score, atol=1e-5)
        kept = [f for i, f in enumerate(mine.features[:-1]) if i % 5]  # Vocos skips first layers
        for a, b in zip([*kept, mine.logits], features, strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_multi_band_gradient_equals_dac() -> None:
    theirs = dac.Discriminator(periods=[], fft_sizes=[128])
    ours = MultiBandDiscriminator((128,))
    ours.load_published(theirs.state_dict())
    wav = clip(640).requires_grad_()
    mine = torch.autograd.grad(ours(wav)[0].logits.square().sum(), wav)[0]
    expected = torch.autograd.grad(theirs(wav)[0][-1].square().sum(), wav)[0]
    assert expected.abs().max() > 0
    assert torch.allclose(mine, expected, atol=1e-5)


def restated(rows: list[tuple], window: torch.Tensor, slope: float, power) -> nn.Module:
    """A magnitude critic written out from the published table: (in, out, kernel, stride, pad)."""
    layers = nn.ModuleList(nn.Conv2d(*row[:4], padding=row[4]) for row in rows)

    def judge(wav: torch.Tensor, n_fft: int) -> list[torch.Tensor]:
        spectrum = torch.stft(
            wav.squeeze(1), n_fft, n_fft // 4, n_fft, window, center=True, return_complex=True
        )
        x = power(spectrum.real**2 + spectrum.imag**2).sqrt().unsqueeze(1)
        maps = []
        for layer in layers[:-1]:
            x = F.leaky_relu(layer(x), slope)
            maps.append(x)
        return [*maps, layers[-1](x)]

    layers.judge = judge
    return layers


UNIVNET = [
    (1, 8, (7, 5), (2, 2), (3, 2)),
    (8, 8, (5, 3), (2, 1), (2, 1)),
    (8, 8, (5, 3), (2, 2), (2, 1)),
    (8, 8, 3, (2, 1), 1),
    (8, 8, 3, (2, 2), 1),
    (8, 1, 3, 1, 1),
]
BIGCODEC = [
    (1, 8, 5, 2, 2),
    (8, 16, 5, 2, 2),
    (16, 32, 5, 2, 2),
    (32, 64, 5, 2, 2),
    (64, 128, 3, 1, 1),
    (128, 1, 3, 1, 1),
]


@pytest.mark.parametrize(
    ("layout", "rows", "window", "slope", "power"),
    [
        ("univnet", UNIVNET, torch.ones(256), 0.1, lambda p: p),
        ("bigcodec", BIGCODEC, torch.hann_window(256), 0.2, lambda p: p.clamp(1e-7, 1e3)),
    ],
)
@torch.no_grad()
def test_magnitude_equals_the_published_table(layout, rows, window, slope, power) -> None:
    theirs = restated(rows, window, slope, power)
    ours = MultiResolutionDiscriminator((256,), filters=8, layout=layout)
    for mine, layer in zip(
        [*ours.discriminators[0].convs, ours.discriminators[0].conv_post], theirs, strict=True
    ):
        mine.weight = layer.weight.data  # through the weight norm
        mine.bias.copy_(layer.bias)
    wav = torch.cat([clip(), 20 * clip()])  # loud enough for BigCodec's clip
    for a, b in zip(ours(wav)[0].features, theirs.judge(wav, 256), strict=True):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-4)
