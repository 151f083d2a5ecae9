"""Hinge, least squares and feature matching: values computed by hand."""

import pytest
import torch

from codec_lib.discriminators import DiscriminatorOutput
from codec_lib.losses import adversarial_loss, discriminator_loss, feature_matching_loss


def outputs(*scores, features=()):
    """One output per list of scores."""
    maps = list(features) or [torch.ones(1, 2, 3)]
    return [DiscriminatorOutput(torch.tensor(s)[None, None], maps) for s in scores]


REAL = outputs([2.0, 0.5], [0.0, 0.0])  # D_1, D_2
FAKE = outputs([-2.0, 0.5], [1.0, 3.0])


def test_hinge_is_equation_5_averaged_over_critics():
    generator = ((3 + 0.5) / 2 + 0) / 2
    critics = ((0 + 0.5) / 2 + (0 + 1.5) / 2 + 1 + (2 + 4) / 2) / 2
    assert adversarial_loss(FAKE, "hinge").item() == pytest.approx(generator)
    assert discriminator_loss(REAL, FAKE, "hinge").item() == pytest.approx(critics)


def test_least_squares_is_summed_over_critics():
    generator = (9 + 0.25) / 2 + (0 + 4) / 2
    critics = (1 + 0.25) / 2 + (4 + 0.25) / 2 + 1 + (1 + 9) / 2
    assert adversarial_loss(FAKE, "least_squares").item() == pytest.approx(generator)
    assert discriminator_loss(REAL, FAKE, "least_squares").item() == pytest.approx(critics)


@pytest.mark.parametrize("form", ["hinge", "least_squares"])
def test_reduction_can_be_chosen(form):
    mean = discriminator_loss(REAL, FAKE, form, reduction="mean")
    total = discriminator_loss(REAL, FAKE, form, reduction="sum")
    assert total.item() == pytest.approx(2 * mean.item())
    with pytest.raises(ValueError, match="reduction"):
        adversarial_loss(FAKE, form, reduction="median")


def test_values_at_the_optimum_and_when_undecided():
    perfect_real, perfect_fake = outputs([1.0]), outputs([-1.0])
    assert discriminator_loss(perfect_real, perfect_fake, "hinge").item() == 0.0
    assert discriminator_loss(outputs([0.0]), outputs([0.0]), "hinge").item() == 2.0
    assert discriminator_loss(outputs([1.0]), outputs([0.0]), "least_squares").item() == 0.0
    assert discriminator_loss(outputs([0.5]), outputs([0.5]), "least_squares").item() == 0.5


def test_hinge_stops_pushing_beyond_the_margin():
    score = torch.tensor([[[1.5, 0.5]]], requires_grad=True)
    adversarial_loss([DiscriminatorOutput(score, [])], "hinge").backward()
    assert score.grad.tolist() == [[[0.0, -0.5]]]


def maps(*means):
    return [torch.full((2, 3, 4), mean) for mean in means]


def test_relative_feature_matching_is_equation_6():
    real = [
        DiscriminatorOutput(torch.zeros(1), maps(4.0, -2.0)),
        DiscriminatorOutput(torch.zeros(1), maps(10.0)),
    ]
    fake = [
        DiscriminatorOutput(torch.zeros(1), maps(3.0, -1.0)),
        DiscriminatorOutput(torch.zeros(1), maps(5.0)),
    ]
    first = (1 / 4 + 1 / 2) / 2  # over L = 2 maps
    assert feature_matching_loss(real, fake).item() == pytest.approx((first + 0.5) / 2)
    assert feature_matching_loss(real, fake, "absolute").item() == pytest.approx(2 * (1 + 1 + 5))


def test_relative_feature_matching_does_not_depend_on_the_critics_scale():
    real, fake = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    values = [
        feature_matching_loss(
            [DiscriminatorOutput(real, [gain * real])], [DiscriminatorOutput(fake, [gain * fake])]
        ).item()
        for gain in (1.0, 100.0)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


@pytest.mark.parametrize("form", ["relative", "absolute"])
def test_feature_matching_gives_gradient_to_the_fake_side_only(form):
    real, fake = torch.randn(1, 2, requires_grad=True), torch.randn(1, 2, requires_grad=True)
    loss = feature_matching_loss(
        [DiscriminatorOutput(real, [real])], [DiscriminatorOutput(fake, [fake])], form
    )
    loss.backward()
    assert real.grad is None
    assert (fake.grad != 0).all()


def test_a_silent_map_gives_a_finite_value():
    silent = [DiscriminatorOutput(torch.zeros(1), maps(0.0))]
    assert feature_matching_loss(silent, silent).item() == 0.0


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: adversarial_loss([]), "at least 1"),
        (lambda: adversarial_loss(FAKE, "wasserstein"), "wasserstein"),
        (lambda: discriminator_loss(REAL, FAKE[:1]), r"\[2, 1\]"),
        (lambda: feature_matching_loss(REAL, FAKE, "l2"), "l2"),
        (lambda: feature_matching_loss([DiscriminatorOutput(torch.ones(1), [])] * 2, FAKE), "maps"),
    ],
)
def test_errors_say_what_was_got(call, match):
    with pytest.raises(ValueError, match=match):
        call()
