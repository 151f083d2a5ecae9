"""Critics: published sizes, layer tables, shapes computed by hand, errors."""

import pytest
import torch

from codec_lib.discriminators import (
    DiscriminatorConfig,
    MultiBandDiscriminator,
    MultiPeriodDiscriminator,
    MultiResolutionDiscriminator,
    MultiScaleDiscriminator,
    MultiScaleSTFTDiscriminator,
    build_discriminators,
)
from codec_lib.discriminators.base import normed, scaled
from codec_lib.discriminators.multi_period import PeriodDiscriminator
from codec_lib.losses import adversarial_loss, discriminator_loss


def count(module):
    return sum(p.numel() for p in module.parameters())


def table(disc):
    """Rows of (out, in / groups, kernel, stride, padding, dilation, groups) of a stack."""
    return [
        (*c.weight.shape, c.stride, c.padding, c.dilation, c.groups)
        for c in [*disc.convs, disc.conv_post]
    ]


@pytest.fixture(scope="module")
def published():
    return build_discriminators("paper")


def test_published_parameter_counts(published):
    sizes = {name: count(family) for name, family in published.families.items()}
    assert sizes == {"mpd": 41_105_770, "msd": 29_618_821, "ms_stft": 472_330}
    mpd = published.families["mpd"].discriminators
    assert [count(d) for d in mpd] == [8_221_154] * 5
    assert [count(d) for d in published.families["ms_stft"].discriminators] == [94_466] * 5
    assert published.num_discriminators == 13


def test_thirteen_critics_give_79_feature_maps():
    disc = build_discriminators("paper", width=1 / 32)
    outputs = disc(torch.zeros(1, 1, 2100))
    assert [len(out.features) for out in outputs] == [6] * 5 + [8] * 3 + [5] * 5
    assert sum(len(out.features) for out in outputs) == 79


def test_layer_table_of_the_period_critic(published):
    one, kept = (1, 1), 1
    assert table(published.families["mpd"].discriminators[0]) == [
        (32, 1, 5, 1, (3, 1), (2, 0), one, kept),
        (128, 32, 5, 1, (3, 1), (2, 0), one, kept),
        (512, 128, 5, 1, (3, 1), (2, 0), one, kept),
        (1024, 512, 5, 1, (3, 1), (2, 0), one, kept),
        (1024, 1024, 5, 1, one, (2, 0), one, kept),
        (1, 1024, 3, 1, one, (1, 0), one, kept),
    ]


def test_layer_table_of_the_scale_critic(published):
    assert table(published.families["msd"].discriminators[1]) == [
        (128, 1, 15, (1,), (7,), (1,), 1),
        (128, 32, 41, (2,), (20,), (1,), 4),
        (256, 8, 41, (2,), (20,), (1,), 16),
        (512, 16, 41, (4,), (20,), (1,), 16),
        (1024, 32, 41, (4,), (20,), (1,), 16),
        (1024, 64, 41, (1,), (20,), (1,), 16),
        (1024, 1024, 5, (1,), (2,), (1,), 1),
        (1, 1024, 3, (1,), (1,), (1,), 1),
    ]


def test_only_the_first_scale_has_spectral_norm():
    disc = MultiScaleDiscriminator(width=1 / 32)
    spectral = [
        "parametrizations.weight.original" in d.convs[0].state_dict() for d in disc.discriminators
    ]
    assert spectral == [True, False, False]
    weight = disc.discriminators[0].convs[1].weight.flatten(1)
    disc.train()
    for _ in range(30):  # power iteration runs at every training-mode access
        weight = disc.discriminators[0].convs[1].weight.flatten(1)
    assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1.0, abs=0.02)


def test_layer_table_of_the_stft_critic(published):
    first = published.families["ms_stft"].discriminators[0]
    dilated = [(32, 32, 3, 9, (1, 2), (dilation, 4), (dilation, 1), 1) for dilation in (1, 2, 4)]
    assert table(first) == [
        (32, 2, 3, 9, (1, 1), (1, 4), (1, 1), 1),
        *dilated,
        (32, 32, 3, 3, (1, 1), (1, 1), (1, 1), 1),
        (1, 32, 3, 3, (1, 1), (1, 1), (1, 1), 1),
    ]
    assert not hasattr(first.convs[0], "parametrizations")
    pairs = [(d.n_fft, d.hop_length) for d in published.families["ms_stft"].discriminators]
    assert pairs == [(1024, 256), (2048, 512), (512, 128), (256, 64), (128, 32)]


def test_shapes_of_the_period_maps_by_hand():
    out = MultiPeriodDiscriminator(periods=(7,), width=1 / 32)(torch.zeros(2, 1, 1600))[0]
    rows = [229, 77, 26, 9, 3, 3, 3]  # ceil(1600 / 7), then ceil(rows / 3) four times
    channels = [1, 4, 16, 32, 32, 1]
    assert [f.shape for f in out.features] == [
        (2, c, r, 7) for c, r in zip(channels, rows[1:], strict=True)
    ]
    assert out.logits is out.features[-1]


def test_the_fold_puts_samples_a_period_apart_below_each_other():
    folded = PeriodDiscriminator(3, width=1 / 32).fold(torch.arange(7.0)[None, None])
    assert folded[0, 0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 5, 4]]  # tail reflected


def test_shapes_of_the_scales_by_hand():
    outs = MultiScaleDiscriminator(width=1 / 32)(torch.zeros(1, 1, 1600))
    assert [out.features[0].shape[-1] for out in outs] == [1600, 801, 401]
    assert [out.logits.shape for out in outs] == [(1, 1, 25), (1, 1, 13), (1, 1, 7)]


def test_shapes_of_the_spectrogram_maps_by_hand():
    disc = MultiScaleSTFTDiscriminator(n_ffts=(512,), filters=4)
    out = disc(torch.zeros(1, 1, 1600))[0]
    frames = 1 + (1600 - 512) // 128
    assert [f.shape for f in out.features] == [(1, 4, frames, b) for b in (257, 129, 65, 33, 33)]
    assert out.logits.shape == (1, 1, frames, 33)


def test_complex_critics_see_phase_and_magnitude_critics_do_not():
    wav = torch.randn(1, 1, 2048) * 0.1
    sees_phase = {"complex": True, "compressed": True, "magnitude": False, "log_magnitude": False}
    for representation, sees in sees_phase.items():
        disc = MultiScaleSTFTDiscriminator((256,), filters=4, representation=representation)
        moved = (disc(-wav)[0].logits - disc(wav)[0].logits).abs().max().item()
        assert (moved > 1e-4) == sees


@pytest.mark.parametrize("name", ["mpd", "msd", "ms_stft"])
def test_gradients_reach_all_weights_and_the_waveform(name):
    disc = build_discriminators(name, width=1 / 16)
    fake = torch.randn(2, 1, 2100, requires_grad=True)
    discriminator_loss(
        disc(torch.randn(2, 1, 2100)), disc(fake.detach()), "least_squares"
    ).backward()  # the hinge gives the last bias nothing while all scores are inside the margin
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in disc.parameters())
    assert fake.grad is None
    disc.requires_grad_(False)
    disc.zero_grad(set_to_none=True)
    adversarial_loss(disc(fake)).backward()
    assert fake.grad.abs().sum() > 0
    assert all(p.grad is None for p in disc.parameters())


def test_compression_keeps_phase_and_raises_the_magnitude_to_a_power():
    plain, compressed = (
        MultiScaleSTFTDiscriminator((256,), filters=2, representation=name).discriminators[0]
        for name in ("complex", "compressed")
    )
    wav = torch.randn(1, 1, 1024)
    before, after = (
        torch.view_as_complex(critic.spectrogram(wav).permute(0, 2, 3, 1).contiguous())
        for critic in (plain, compressed)
    )
    assert torch.allclose(after.abs(), before.abs() ** 0.3, rtol=1e-3)
    turned = before.abs() * after - after.abs() * before
    assert turned.abs().max().item() < 1e-4


@pytest.mark.parametrize("representation", ["complex", "compressed", "magnitude", "log_magnitude"])
def test_silence_gives_finite_gradients(representation):
    disc = MultiScaleSTFTDiscriminator((256,), filters=2, representation=representation)
    wav = torch.zeros(1, 1, 512, requires_grad=True)
    adversarial_loss(disc(wav)).backward()
    assert torch.isfinite(wav.grad).all()


@pytest.mark.parametrize("name", ["mpd", "msd", "ms_stft"])
def test_a_batch_is_judged_clip_by_clip(name):
    disc = build_discriminators(name, width=1 / 16).eval()
    wav = torch.randn(3, 1, 2100)
    together, alone = disc(wav), disc(wav[1:2])
    for a, b in zip(together, alone, strict=True):
        assert torch.allclose(a.logits[1:2], b.logits, atol=1e-5)


def test_a_few_steps_teach_a_small_critic_to_tell_noise_from_a_tone():
    torch.manual_seed(0)
    disc = build_discriminators("smoke")
    optimizer = torch.optim.Adam(disc.parameters(), lr=1e-2)
    time = torch.arange(1600) / 16000
    real = torch.sin(2 * torch.pi * torch.tensor([[200.0], [400.0]]) * time)[:, None]
    fake = real + 0.1 * torch.randn(2, 1, 1600)
    first = discriminator_loss(disc(real), disc(fake)).item()
    for _ in range(15):
        optimizer.zero_grad()
        loss = discriminator_loss(disc(real), disc(fake))
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.7 * first


def test_named_sets_and_overrides():
    small = build_discriminators("small", periods=[2, 3])
    assert small.config.periods == (2, 3)
    assert small.num_discriminators == 5
    assert count(build_discriminators("small")) < 250_000
    assert list(build_discriminators(["mpd"], width=1 / 32).families) == ["mpd"]
    config = DiscriminatorConfig(names=["ms_stft"], n_ffts=[256], filters=4)
    assert count(build_discriminators(config)) == count(
        MultiScaleSTFTDiscriminator((256,), filters=4)
    )
    assert build_discriminators(config).min_samples == 256


def test_short_clips_are_refused_with_the_least_length():
    disc = build_discriminators("smoke")
    assert disc.min_samples == 512
    assert len(disc(torch.zeros(1, 1, 512))) == 2
    with pytest.raises(ValueError, match="511 samples, expected at least 512"):
        disc(torch.zeros(1, 1, 511))


@pytest.mark.parametrize(
    "call",
    [
        lambda: build_discriminators("mdp"),
        lambda: build_discriminators(["mpd", "unknown"]),
        lambda: build_discriminators([]),
        lambda: build_discriminators("mpd", widht=0.5),
        lambda: build_discriminators("mpd", width=0.0),
        lambda: build_discriminators("smoke")(torch.zeros(1, 2, 512)),
        lambda: MultiPeriodDiscriminator(periods=()),
        lambda: MultiPeriodDiscriminator(periods=(0,)),
        lambda: MultiScaleDiscriminator(num_scales=0),
        lambda: MultiScaleSTFTDiscriminator(n_ffts=(256,), hop_lengths=(64, 64)),
        lambda: MultiScaleSTFTDiscriminator(n_ffts=(256,), filters=0),
        lambda: MultiScaleSTFTDiscriminator(n_ffts=(256,), representation="phase"),
        lambda: normed(torch.nn.Conv1d(1, 1, 1), "batch"),
        lambda: scaled((2,), -1.0),
    ],
)
def test_errors_say_what_was_got(call):
    with pytest.raises(ValueError, match="got"):
        call()


def test_sets_of_bigcodec_and_wavtokenizer_have_the_published_sizes():
    with torch.device("meta"):
        bigcodec = build_discriminators("bigcodec").families
        sacodec = build_discriminators("sacodec").families
        wavtokenizer = build_discriminators(("mpd", "mrd", "multi_band")).families
    assert {name: count(f) for name, f in bigcodec.items()} == {
        "mpd": 10_287_290,
        "mrd": 11_311_210,
    }
    assert {name: count(f) for name, f in wavtokenizer.items()} == {
        "mpd": 41_105_770,
        "mrd": 600_198,
        "multi_band": 1_413_990,
    }
    assert list(sacodec) == ["mpd", "multi_band"]  # what SACodec's paper names


def test_multi_band_ignores_level_and_offset():
    disc = MultiBandDiscriminator((128,), filters=4)
    wav = torch.randn(1, 1, 640)
    first, second = disc(wav)[0], disc(0.1 * wav + 0.3)[0]
    assert torch.allclose(first.logits, second.logits, atol=1e-5)
    assert not torch.allclose(first.logits, disc(wav.flip(-1))[0].logits, atol=1e-3)


@pytest.mark.parametrize("n_ffts", [(), (100,), (16,)])
def test_multi_resolution_refuses_windows_without_a_quarter(n_ffts):
    for family in (MultiResolutionDiscriminator, MultiBandDiscriminator):
        with pytest.raises(ValueError, match="multiples of 8"):
            family(n_ffts)
    with pytest.raises(ValueError, match="'univnet', 'bigcodec'"):
        MultiResolutionDiscriminator((128,), layout="vocos")


def test_multi_resolution_critics_teach_the_generator():
    disc = build_discriminators(
        ("mrd", "multi_band"), mrd_n_ffts=(128,), mrd_filters=4, band_n_ffts=[128], filters=4
    )
    real, fake = torch.randn(2, 1, 800), torch.randn(2, 1, 800, requires_grad=True)
    loss = adversarial_loss(disc(fake)) + discriminator_loss(disc(real), disc(fake))
    loss.backward()
    assert fake.grad.abs().sum() > 0
    assert all(p.grad is not None for p in disc.parameters())
