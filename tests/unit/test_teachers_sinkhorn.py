r"""Sinkhorn targets: marginals, the textbook's result, masks, numbers that stay finite."""

import pytest
import torch
from torch.nn import functional

from codec_lib.teachers.sinkhorn import sinkhorn


def cosines(frames=200, codes=16, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = functional.normalize(torch.randn(frames, dim, generator=generator), dim=1)
    return rows @ functional.normalize(torch.randn(codes, dim, generator=generator), dim=1).T


def textbook(scores, epsilon, iterations):
    """Rescale the whole matrix in float64, codes first, then frames."""
    matrix = (scores.double() / epsilon).exp().T  # (K, N)
    matrix = matrix / matrix.sum()
    codes, frames = matrix.shape
    for _ in range(iterations):
        matrix = matrix / matrix.sum(1, keepdim=True) / codes
        matrix = matrix / matrix.sum(0, keepdim=True) / frames
    return (matrix * frames).T


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.02, 1), (0.02, 3), (0.05, 3), (0.3, 10)])
def test_result_is_the_textbooks(epsilon, iterations):
    scores = cosines()
    found = sinkhorn(scores, epsilon, iterations)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), textbook(scores, epsilon, iterations), atol=1e-5)


def test_every_frame_sums_to_1_and_codes_come_closer_to_equal_shares():
    scores = cosines() + torch.linspace(0, 0.5, 16)  # late codes are nearer to everything
    gaps = []
    for iterations in (1, 3, 10, 100):
        targets = sinkhorn(scores, 0.05, iterations)
        assert torch.allclose(targets.sum(1), torch.ones(200), atol=1e-5)
        gaps.append(float((targets.sum(0) - 200 / 16).abs().max()))
    assert gaps == sorted(gaps, reverse=True) and gaps[0] > 1 and gaps[-1] < 0.05
    free = functional.softmax(scores / 0.05, dim=1).sum(0)
    assert float((free - 200 / 16).abs().max()) > 2 * gaps[0]  # what nobody balances


def test_small_epsilon_neither_overflows_nor_underflows():
    steep = torch.tensor([[1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])  # exp(2 / 0.02) = 3e43
    for scores in (steep, 10 * torch.randn(50, 7), torch.randn(50, 7).half(), steep - 1000):
        targets = sinkhorn(scores, 0.02)
        assert torch.isfinite(targets).all()
        assert torch.allclose(targets.sum(1), torch.ones(len(scores)), atol=1e-5)
    assert sinkhorn(steep, 0.02).argmax(1).tolist() == [0, 0, 1]


def test_a_constant_added_to_all_scores_changes_nothing():
    scores = cosines()
    assert torch.allclose(sinkhorn(scores), sinkhorn(scores + 5), atol=1e-4)


def test_half_precision_around_it_changes_nothing():
    scores = cosines()
    expected = sinkhorn(scores)
    with torch.autocast("cpu", torch.bfloat16):
        found = sinkhorn(scores)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_frames_that_do_not_count_have_no_target_and_no_weight():
    scores, valid = cosines(), torch.arange(200) % 3 > 0
    spoilt = torch.where(valid[:, None], scores, 50.0)
    targets = sinkhorn(spoilt, valid=valid)
    assert torch.equal(targets[~valid], torch.zeros(int((~valid).sum()), 16))
    assert torch.allclose(targets[valid], sinkhorn(scores[valid]), atol=1e-6)
    assert torch.equal(sinkhorn(scores, valid=torch.zeros(200, dtype=torch.bool)), scores * 0)


def test_scores_stay_as_they_are_and_targets_carry_no_gradient():
    scores = cosines().requires_grad_()
    before = scores.detach().clone()
    assert not sinkhorn(scores).requires_grad and torch.equal(scores, before)


def test_large_batches_are_worked_on_in_blocks():
    scores = cosines(3000, 300)
    assert torch.allclose(sinkhorn(scores).double(), textbook(scores, 0.02, 3), atol=1e-4)


def test_arguments_out_of_range_are_refused():
    for wrong in ({"epsilon": 0.0}, {"iterations": 0}):
        with pytest.raises(ValueError, match="expected both above 0"):
            sinkhorn(cosines(), **wrong)
    with pytest.raises(ValueError, match="valid"):
        sinkhorn(cosines(), valid=torch.ones(3, dtype=torch.bool))
