"""Equations (2), (3) and (7): bounds, invariances, gradients, errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_lib.losses import distillation_loss, pseudo_label_loss, reduce_layers

LOWEST, HIGHEST = 0.3133, 1.3133  # -log sigmoid(1), -log sigmoid(-1)


def features(batch=2, frames=30, dim=6, seed=0):
    return torch.randn(batch, frames, dim, generator=torch.Generator().manual_seed(seed))


def at_cosine(cosine):
    """Two signals over 4 frames whose cosine over time is the given one, in 3 dimensions."""
    first = torch.tensor([1.0, 1.0, -1.0, -1.0])
    other = torch.tensor([1.0, -1.0, 1.0, -1.0])  # orthogonal to the first
    mixed = cosine * first + math.sqrt(1 - cosine**2) * other
    return mixed[None, :, None].repeat(1, 1, 3), first[None, :, None].repeat(1, 1, 3)


@pytest.mark.parametrize(
    ("cosine", "value"), [(1.0, LOWEST), (0.5, 0.4741), (0.0, 0.6931), (-1.0, HIGHEST)]
)
def test_known_values_of_equation_2(cosine, value):
    assert distillation_loss(*at_cosine(cosine)).item() == pytest.approx(value, abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), frames=st.integers(2, 40), dim=st.integers(1, 16))
def test_bounds_and_permutation_of_time(seed, frames, dim):
    student, teacher = features(1, frames, dim, seed), features(1, frames, dim, seed + 1)
    loss = distillation_loss(student, teacher)
    assert LOWEST - 1e-4 <= loss.item() <= HIGHEST + 1e-4
    order = torch.randperm(frames, generator=torch.Generator().manual_seed(seed))
    assert distillation_loss(student[:, order], teacher[:, order]).item() == pytest.approx(
        loss.item(), abs=1e-5
    )


def test_the_cosine_runs_over_time_not_over_features():
    teacher = features()
    per_dimension = torch.tensor([1.0, 5.0, 0.1, 2.0, 10.0, 3.0])
    assert distillation_loss(teacher * per_dimension, teacher).item() == pytest.approx(
        LOWEST, abs=1e-4
    )
    per_frame = torch.linspace(0.1, 5, 30)[:, None]
    assert distillation_loss(teacher * per_frame, teacher).item() > LOWEST + 0.01


def test_every_frame_receives_gradient():
    student = features().requires_grad_()
    distillation_loss(student, features(seed=1)).backward()
    assert (student.grad.abs().sum(dim=-1) > 0).all()


@pytest.mark.parametrize("options", [{}, {"centred": True}, {"axis": "t"}])
def test_frames_of_which_the_teacher_says_nothing_do_not_count(options):
    """Items with 30, 12 and no such frames: as if each were cut to them, weighed by number."""
    student, teacher = features(3).requires_grad_(), features(3, seed=1)
    heard = torch.zeros(3, 30, dtype=torch.bool)
    heard[0], heard[1, 5:17] = True, True
    loss = distillation_loss(student, teacher, heard=heard, **options)
    whole = distillation_loss(student[:1], teacher[:1], **options)
    part = distillation_loss(student[1:2, 5:17], teacher[1:2, 5:17], **options)
    assert loss.item() == pytest.approx((30 * whole + 12 * part).item() / 42, rel=1e-5)
    loss.backward()
    assert torch.equal(student.grad.abs().sum(-1) > 0, heard)
    nothing = distillation_loss(student, teacher, heard=torch.zeros_like(heard), **options)
    assert nothing.item() == 0 and nothing.requires_grad
    with pytest.raises(ValueError, match="heard"):
        distillation_loss(student, teacher, heard=heard[:, :20])


def test_a_leading_axis_is_refused():
    with pytest.raises(ValueError, match="teacher"):
        distillation_loss(features(), features()[:, None])
    with pytest.raises(ValueError, match="student"):
        distillation_loss(features()[:, None], features())


def test_one_frame_of_difference_is_cut_two_are_refused():
    teacher = features(frames=29)
    cut = distillation_loss(features(frames=29), teacher)
    longer = torch.cat([features(frames=29), torch.full((2, 1, 6), 9.0)], dim=1)
    assert distillation_loss(longer, teacher).item() == pytest.approx(cut.item())
    assert distillation_loss(teacher, longer).item() == pytest.approx(
        distillation_loss(teacher, longer[:, :29]).item()
    )
    with pytest.raises(ValueError, match="31 of the student and 29"):
        distillation_loss(features(frames=31), teacher)


def test_other_widths_and_axes_are_refused():
    with pytest.raises(ValueError, match="D = 6"):
        distillation_loss(features(), features(dim=7))
    with pytest.raises(ValueError, match="axis"):
        distillation_loss(features(), features(), axis="f")


def test_a_constant_scores_well_unless_centred():
    teacher = features(frames=200) * 0.3 + 3.0  # a large offset in every dimension
    constant = teacher.mean(dim=1, keepdim=True).expand_as(teacher)
    assert distillation_loss(constant, teacher).item() < LOWEST + 0.01
    assert distillation_loss(constant, teacher, centred=True).item() == pytest.approx(
        math.log(2), abs=0.02
    )
    assert distillation_loss(teacher + 7, teacher, centred=True).item() == pytest.approx(
        LOWEST, abs=1e-4
    )


def test_frame_wise_form_is_l1_plus_weighted_cosine():
    teacher = features()
    assert distillation_loss(teacher, teacher, axis="t").item() == pytest.approx(LOWEST, abs=1e-4)
    shifted = distillation_loss(teacher * 2, teacher, axis="t").item()
    assert shifted == pytest.approx(teacher.abs().mean().item() + LOWEST, abs=1e-4)
    alone = distillation_loss(teacher * 2, teacher, axis="t", similarity_weight=0.0).item()
    assert alone == pytest.approx(teacher.abs().mean().item(), abs=1e-4)


def test_half_precision_inputs_are_compared_in_float32():
    student, teacher = features() * 300, features(seed=1) * 300  # squares overflow float16
    loss = distillation_loss(student.half(), teacher.half())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(distillation_loss(student, teacher).item(), abs=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert distillation_loss(student, teacher).dtype == torch.float32


def test_pseudo_labels_known_values():
    labels = torch.tensor([[0, 1, 2, 1]])
    assert pseudo_label_loss(torch.zeros(1, 4, 3), labels).item() == pytest.approx(math.log(3))
    sure = torch.nn.functional.one_hot(labels, 3) * 100.0
    assert pseudo_label_loss(sure, labels).item() == pytest.approx(0.0, abs=1e-6)


def test_ignored_frames_do_not_count():
    labels = torch.tensor([[0, 1, -100, -100]])
    logits = features(1, 4, 3).requires_grad_()
    loss = pseudo_label_loss(logits, labels)
    assert loss.item() == pytest.approx(pseudo_label_loss(logits[:, :2], labels[:, :2]).item())
    loss.backward()
    assert (logits.grad[0, 2:] == 0).all() and (logits.grad[0, :2] != 0).all()
    nothing = pseudo_label_loss(logits, torch.full((1, 4), -100))
    assert nothing.item() == 0.0


@pytest.mark.parametrize(
    ("labels", "error", "match"),
    [
        (torch.zeros(1, 4), TypeError, "int64"),
        (torch.zeros(1, 7, dtype=torch.int64), ValueError, "frames"),
        (torch.full((1, 4), 3), ValueError, "0 to 2"),
        (torch.full((1, 4), -1), ValueError, "-1"),
        (torch.zeros(1, 1, 4, dtype=torch.int64), ValueError, "labels"),
    ],
)
def test_bad_labels(labels, error, match):
    with pytest.raises(error, match=match):
        pseudo_label_loss(torch.zeros(1, 4, 3), labels)


def test_commitment_is_summed_or_averaged_over_quantizers():
    values = torch.tensor([0.5, 0.25, 0.25], requires_grad=True)
    assert reduce_layers(values, "sum").item() == 1.0
    assert reduce_layers(values, "mean").item() == pytest.approx(1 / 3)
    reduce_layers(values, "sum").backward()
    assert values.grad.tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="reduction"):
        reduce_layers(values, "max")
    with pytest.raises(ValueError, match="values"):
        reduce_layers(values[None], "sum")
