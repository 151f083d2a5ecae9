"""Critics against EnCodec's package, and against HiFi-GAN restated in its published key layout."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import spectral_norm, weight_norm

from codec_lib.discriminators import (
    MultiPeriodDiscriminator,
    MultiScaleDiscriminator,
    MultiScaleSTFTDiscriminator,
)

msstftd = pytest.importorskip("encodec.msstftd")


def assert_same(ours, logits, features, tolerance=1e-5):
    """Compare a list of outputs with lists of scores and of feature maps."""
    assert len(ours) == len(logits) == len(features)
    for output, score, maps in zip(ours, logits, features, strict=True):
        assert torch.allclose(output.logits.reshape(score.shape), score, atol=tolerance)
        assert len(output.features) == len(maps)
        for mine, theirs in zip(output.features, maps, strict=True):
            assert mine.shape == theirs.shape
            assert torch.allclose(mine, theirs, atol=tolerance)


@pytest.mark.parametrize(("filters", "n_ffts"), [(32, (1024, 2048, 512, 256, 128)), (4, (256, 64))])
def test_multi_scale_stft_equals_encodec(filters, n_ffts):
    hops = [n_fft // 4 for n_fft in n_ffts]
    official = msstftd.MultiScaleSTFTDiscriminator(
        filters, n_ffts=list(n_ffts), hop_lengths=hops, win_lengths=list(n_ffts)
    )
    ours = MultiScaleSTFTDiscriminator(n_ffts, filters=filters)
    ours.load_published(official.state_dict())
    wav = torch.randn(2, 1, 2500) * 0.3
    with torch.no_grad():
        assert_same(ours(wav), *official(wav))


def test_multi_scale_stft_gradient_equals_encodec():
    official = msstftd.MultiScaleSTFTDiscriminator(
        4, n_ffts=[256], hop_lengths=[64], win_lengths=[256]
    )
    ours = MultiScaleSTFTDiscriminator((256,), filters=4)
    ours.load_published(official.state_dict())
    wav = torch.randn(1, 1, 800, requires_grad=True)
    mine = torch.autograd.grad(ours(wav)[0].logits.square().sum(), wav)[0]
    theirs = torch.autograd.grad(official(wav)[0][0].square().sum(), wav)[0]
    assert torch.allclose(mine, theirs, atol=1e-5)


class PublishedCritic(nn.Module):
    """HiFi-GAN's critics written out from the paper's tables, with torch's first norm API."""

    def __init__(self, convs, conv_post, prepare):
        super().__init__()
        self.convs, self.conv_post, self.prepare = nn.ModuleList(convs), conv_post, prepare

    def forward(self, wav):
        maps = []
        hidden = self.prepare(wav)
        for conv in self.convs:
            hidden = F.leaky_relu(conv(hidden), 0.1)
            maps.append(hidden)
        score = self.conv_post(hidden)
        return score.flatten(1), [*maps, score]


def published_period(period, c):
    def fold(wav):
        if wav.shape[-1] % period:
            wav = F.pad(wav, (0, period - wav.shape[-1] % period), "reflect")
        return wav.view(wav.shape[0], 1, -1, period)

    rows = [(1, c[0], 3), (c[0], c[1], 3), (c[1], c[2], 3), (c[2], c[3], 3), (c[3], c[4], 1)]
    convs = [weight_norm(nn.Conv2d(i, o, (5, 1), (s, 1), padding=(2, 0))) for i, o, s in rows]
    return PublishedCritic(convs, weight_norm(nn.Conv2d(c[4], 1, (3, 1), 1, (1, 0))), fold)


def published_scale(number, c):
    def smooth(wav):
        for _ in range(number):
            wav = F.avg_pool1d(wav, 4, 2, padding=2)
        return wav

    norm = spectral_norm if number == 0 else weight_norm
    convs = [
        nn.Conv1d(1, c[0], 15, 1, padding=7),
        nn.Conv1d(c[0], c[1], 41, 2, groups=4, padding=20),
        nn.Conv1d(c[1], c[2], 41, 2, groups=16, padding=20),
        nn.Conv1d(c[2], c[3], 41, 4, groups=16, padding=20),
        nn.Conv1d(c[3], c[4], 41, 4, groups=16, padding=20),
        nn.Conv1d(c[4], c[5], 41, 1, groups=16, padding=20),
        nn.Conv1d(c[5], c[6], 5, 1, padding=2),
    ]
    last = norm(nn.Conv1d(c[6], 1, 3, 1, padding=1))
    return PublishedCritic([norm(conv) for conv in convs], last, smooth)


def check_equal(ours, critics):
    """Load the restated critics' weights into ours and compare everything they return."""
    state = {
        f"discriminators.{number}.{key}": value
        for number, critic in enumerate(critics)
        for key, value in critic.state_dict().items()
    }
    ours.load_published(state)
    ours.eval()
    wav = torch.randn(2, 1, 1601) * 0.3
    with torch.no_grad():
        results = [critic.eval()(wav) for critic in critics]
        assert_same(ours(wav), [r[0] for r in results], [r[1] for r in results])


def test_multi_period_equals_hifi_gan():
    critics = [published_period(p, (4, 16, 64, 128, 128)) for p in (2, 3, 5, 7, 11)]
    check_equal(MultiPeriodDiscriminator(width=1 / 8), critics)


def test_multi_scale_equals_hifi_gan():
    critics = [published_scale(number, (16, 16, 32, 64, 128, 128, 128)) for number in range(3)]
    check_equal(MultiScaleDiscriminator(width=1 / 8), critics)


def test_one_published_period_at_full_width():
    critic = published_period(11, (32, 128, 512, 1024, 1024))
    check_equal(MultiPeriodDiscriminator(periods=(11,)), [critic])


def test_a_missing_or_foreign_key_is_refused():
    ours = MultiPeriodDiscriminator(periods=(2,), width=1 / 32)
    state = {
        f"discriminators.0.{key}": value
        for key, value in published_period(2, (1, 4, 16, 32, 32)).state_dict().items()
    }
    ours.load_published(state)
    with pytest.raises(RuntimeError, match=r"conv_post\.bias"):
        ours.load_published({k: v for k, v in state.items() if "conv_post.bias" not in k})
    with pytest.raises(RuntimeError, match="extra"):
        ours.load_published({**state, "extra.weight": torch.zeros(1)})
