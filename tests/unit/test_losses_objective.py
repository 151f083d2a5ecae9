"""Equation (8): the weighted sum, its recipes and its errors."""

import pytest
import torch

from codec_lib.discriminators import build_discriminators
from codec_lib.losses import (
    GeneratorObjective,
    adversarial_loss,
    distillation_loss,
    feature_matching_loss,
    pseudo_label_loss,
    recipe,
    waveform_loss,
)
from codec_lib.losses.objective import check_forms
from codec_lib.shapes import CodecOutput, Codes

TERMS = {
    "recon_loss/wave",
    "recon_loss/mel",
    "adv_loss",
    "feat_loss",
    "commitment_loss",
    "distill_loss",
}


@pytest.fixture
def wav():
    return torch.randn(2, 1, 4800, generator=torch.Generator().manual_seed(0)) * 0.1


@pytest.fixture
def out(wav):
    codes = Codes(torch.zeros(2, 3, 15, dtype=torch.int64), num_samples=4800)
    z = torch.randn(2, 4, 15)
    return CodecOutput(
        wav=(wav * 0.8).requires_grad_(),
        codes=codes,
        z=z,
        z_q=z,
        losses={"commitment_loss": torch.tensor([0.3, 0.2, 0.1], requires_grad=True)},
        projections={"semantic": torch.randn(2, 15, 8, requires_grad=True)},
    )


@pytest.mark.parametrize("name", ["paper", "official", "small"])
def test_total_is_the_weighted_sum_of_all_terms(name, out, wav):
    disc = build_discriminators("smoke")
    teacher = torch.randn(2, 14, 8)
    objective = GeneratorObjective(name)
    result = objective(out, wav, disc(wav), disc(out.wav), {"semantic": teacher})
    assert set(result.terms) == set(result.weighted) == TERMS
    expected = sum(objective.recipe.weight(k) * v.item() for k, v in result.terms.items())
    assert result.total.item() == pytest.approx(expected, rel=1e-5)
    assert result.scalars()["total"] == result.total.item()
    assert result.terms["recon_loss/wave"].item() == pytest.approx(
        waveform_loss(out.wav, wav).item()
    )
    result.total.backward()
    assert out.wav.grad.abs().sum() > 0
    assert out.projections["semantic"].grad.abs().sum() > 0


def test_paper_and_official_recipes_differ_where_the_card_says():
    paper, official = recipe("paper"), recipe("official")
    assert (paper.adversarial_form, official.adversarial_form) == ("hinge", "least_squares")
    assert (paper.feature_form, official.feature_form) == ("relative", "absolute")
    assert (paper.layer_reduction, official.layer_reduction) == ("sum", "mean")
    weights = {k: official.weight(k) for k in TERMS}
    assert weights == {
        "recon_loss/wave": 500,
        "recon_loss/mel": 1,
        "adv_loss": 1,
        "feat_loss": 1,
        "commitment_loss": 10,
        "distill_loss": 120,
    }


@pytest.mark.parametrize(("name", "value"), [("paper", 0.6), ("official", 0.2)])
def test_commitment_reduction_follows_the_recipe(name, value, out, wav):
    result = GeneratorObjective(name)(out, wav)
    assert result.terms["commitment_loss"].item() == pytest.approx(value)


@pytest.mark.parametrize("name", ["paper", "official"])
def test_adversarial_forms_follow_the_recipe(name, out, wav):
    disc = build_discriminators("smoke")
    real, fake = disc(wav), disc(out.wav)
    result = GeneratorObjective(name)(out, wav, real, fake)
    chosen = recipe(name)
    assert result.terms["adv_loss"].item() == pytest.approx(
        adversarial_loss(fake, chosen.adversarial_form).item()
    )
    assert result.terms["feat_loss"].item() == pytest.approx(
        feature_matching_loss(real, fake, chosen.feature_form).item()
    )


def test_without_critics_and_teacher_only_reconstruction_and_commitment(out, wav):
    result = GeneratorObjective("small")(out, wav)
    assert set(result.terms) == {"recon_loss/wave", "recon_loss/mel", "commitment_loss"}


def test_targets_choose_the_form_of_distillation(out, wav):
    objective = GeneratorObjective("paper")
    teacher, units = torch.randn(2, 15, 8), torch.randint(8, (2, 15))
    student = out.projections["semantic"]
    continuous = objective(out, wav, targets={"semantic": teacher}).terms["distill_loss"]
    labels = objective(out, wav, targets={"semantic": units}).terms["distill_loss"]
    assert continuous.item() == pytest.approx(distillation_loss(student, teacher).item())
    assert labels.item() == pytest.approx(pseudo_label_loss(student, units).item())
    frame_wise = GeneratorObjective(recipe("paper", distill_axis="t"))
    value = frame_wise(out, wav, targets={"semantic": teacher}).terms["distill_loss"]
    assert value.item() == pytest.approx(distillation_loss(student, teacher, axis="t").item())


def test_a_second_teacher_shares_the_weight(out, wav):
    out.projections["contextual"] = torch.randn(2, 15, 8)
    target = torch.randn(2, 15, 8)
    result = GeneratorObjective("official")(out, wav, targets={"contextual": target})
    term = result.terms["distill_loss/contextual"]
    assert result.weighted["distill_loss/contextual"].item() == pytest.approx(120 * term.item())


def test_weight_zero_leaves_a_term_out(out, wav):
    disc = build_discriminators("smoke")
    zero = {name: 0.0 for name in TERMS - {"recon_loss/mel"}}
    result = GeneratorObjective("small", weights=zero)(
        out, wav, disc(wav), disc(out.wav), {"semantic": torch.randn(2, 15, 8)}
    )
    assert set(result.terms) == {"recon_loss/mel"}
    assert recipe("small").weight("distill_loss") > 0  # the named recipe is unchanged


def test_an_objective_without_terms_is_refused(out, wav):
    zero = {name: 0.0 for name in recipe("small").weights}
    with pytest.raises(ValueError, match="got 0 for every term, expected one"):
        GeneratorObjective("small", weights=zero)
    later = GeneratorObjective("small", weights={**zero, "adv_loss": 1.0})
    with pytest.raises(ValueError, match=r"'adv_loss': 1.0.*expected one above 0 of a term"):
        later(out, wav)  # critics have not begun
    disc = build_discriminators("smoke")
    assert set(later(out, wav, disc(wav), disc(out.wav)).terms) == {"adv_loss"}


def test_errors_say_what_is_missing(out, wav):
    objective = GeneratorObjective("small")
    with pytest.raises(ValueError, match="expected both or none"):
        objective(out, wav, disc_outputs_fake=[])
    with pytest.raises(ValueError, match=r"contextual.*semantic"):
        objective(out, wav, targets={"contextual": torch.zeros(1)})
    out.losses["entropy_loss"] = torch.zeros(())
    with pytest.raises(ValueError, match="no weight for 'entropy_loss'"):
        objective(out, wav)
    out.losses.clear()
    with pytest.raises(ValueError, match=r"weights: got ..mel.., expected among"):
        GeneratorObjective("small", weights={"mel": 3.0})(out, wav)
    with pytest.raises(ValueError, match="got '1e-3' for 'adv_loss', expected a number"):
        recipe("small", weights={"adv_loss": "1e-3"})
    with pytest.raises(ValueError, match="'papers'"):
        recipe("papers")
    with pytest.raises(ValueError, match="mell"):
        recipe("paper", mell="small")


def test_a_codec_loss_of_its_own_is_added_as_it_is(out, wav):
    out.losses["entropy_loss"] = torch.tensor(2.0)
    result = GeneratorObjective("small", weights={"entropy_loss": 0.5})(out, wav)
    assert result.weighted["entropy_loss"].item() == 1.0


def test_a_quantizer_without_losses_adds_nothing(out, wav):
    """Finite scalar quantization has neither commitment nor codebook."""
    out.losses = {}
    for name in ("small", "sacodec", "ds_codec"):
        result = GeneratorObjective(name)(out, wav)
        assert not {"commitment_loss", "codebook_loss"} & set(result.terms)
        assert result.total.item() == pytest.approx(sum(v.item() for v in result.weighted.values()))


def test_sacodec_weighs_each_quantizer_by_equation_5(out, wav):
    out.losses = {
        "commitment_loss": torch.tensor([0.4, 0.8]),
        "codebook_loss": torch.tensor([0.3, 0.2]),
    }
    result = GeneratorObjective("sacodec", sample_rate=24000)(out, wav)
    first, second = 25 * (0.25 * 0.4 + 0.3), 5 * (0.25 * 0.8 + 0.2)
    mel = 45 * result.terms["recon_loss/mel"].item()
    assert result.total.item() == pytest.approx(mel + first + second, rel=1e-5)
    small = GeneratorObjective("sacodec_small", sample_rate=24000)(out, wav)
    quantizers = small.weighted["commitment_loss"] + small.weighted["codebook_loss"]
    assert quantizers.item() == pytest.approx((first + second) / 11.25, rel=1e-5)
    out.losses["codebook_loss"] = torch.ones(1)  # an ablation has one quantizer
    with pytest.raises(ValueError, match=r"got \[25.0, 5.0\] for 1 quantizers"):
        GeneratorObjective("sacodec")(out, wav)
    alone = recipe("sacodec", layer_weights=(5.0,), weights={"commitment_loss": 0.0})
    assert GeneratorObjective(alone)(out, wav).terms["codebook_loss"].item() == 5.0


@pytest.mark.parametrize("name", ["mrd", "multi_band", "mpd", "ms_stft"])
def test_bigcodec_sums_its_critics_and_compares_hidden_layers_once(out, wav, name):
    """EnCodec's critics never count the score map, the others do."""
    disc = build_discriminators((name,), width=1 / 32)
    real, fake = disc(wav), disc(out.wav)
    result = GeneratorObjective("ds_codec")(out, wav, real, fake)
    distances = torch.stack(
        [
            sum((a - b).abs().mean() for a, b in zip(r.features, f.features, strict=True))
            for r, f in zip(real, fake, strict=True)
        ]
    )
    scores = sum((r.logits - f.logits).abs().mean() for r, f in zip(real, fake, strict=True))
    hidden = distances.sum() - (0 if name == "ms_stft" else scores)
    assert result.weighted["feat_loss"].item() == pytest.approx(hidden.item(), rel=1e-4)
    averaged = feature_matching_loss(real, fake, "averaged")
    assert averaged.item() == pytest.approx(distances.mean().item(), rel=1e-4)
    squares = sum((1 - f.logits).square().mean() for f in fake)
    assert result.weighted["adv_loss"].item() == pytest.approx(squares.item(), rel=1e-4)
    assert result.weighted["recon_loss/mel"].item() == pytest.approx(
        15 * result.terms["recon_loss/mel"].item()
    )


@pytest.mark.parametrize("name", ["adversarial_form", "feature_form", "layer_reduction"])
def test_forms_are_checked_before_critics_begin(name):
    check_forms(recipe("paper"))
    with pytest.raises(ValueError, match=f"{name}: got 'hingee', expected one of"):
        check_forms(recipe("paper", **{name: "hingee"}))
