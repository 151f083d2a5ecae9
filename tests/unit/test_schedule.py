"""The scheduler's edges: what it refuses, ties, precision, and where it runs."""

from __future__ import annotations

import pytest
import torch

from codec_lib.rate import distortion, num_segments_at, schedule, schedule_by_recurrence


def walk(frames: int = 40, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, frames, 6, generator=torch.Generator().manual_seed(0)).cumsum(dim=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"num_segments": 9},
            "got 9 for the 40 frames of item 0, but segments of at most 4 hold 36",
        ),
        ({"num_segments": 41}, "no segment is shorter than a frame; expected 10 to 40"),
        ({"num_segments": torch.tensor([20, 20])}, r"num_segments: got shape \(2,\)"),
        ({"max_length": 0}, "max_length: got 0, expected 1 to 8"),
        ({"max_length": 9}, "max_length: got 9"),
        ({"cost": "cosine"}, "cost: got 'cosine', expected one of paper"),
        ({"solver": "fast"}, "solver: got 'fast'"),
        ({"lengths": torch.tensor([41])}, "lengths: got 41 for item 0"),
        ({"lengths": torch.tensor([0])}, "lengths: got 0 for item 0"),
        ({"z": walk()[0]}, "z: got shape"),
        ({"z": walk()[:, :0]}, "got no frames"),
        ({"z": walk().masked_fill(torch.arange(40)[:, None] == 39, torch.nan)}, "got NaN"),
        ({"z": walk() * 1e30}, "huge"),
    ],
)
@pytest.mark.parametrize("solver", ["numba", "torch"])
def test_senseless_arguments_are_refused(arguments, message, solver):
    with pytest.raises(ValueError, match=message):
        schedule(**{"z": walk(), "num_segments": 20, "solver": solver, **arguments})


def test_wrong_types_are_refused():
    with pytest.raises(TypeError, match=r"expected floating-point"):
        schedule(torch.zeros(1, 4, 2, dtype=torch.int64), 2)
    with pytest.raises(TypeError, match=r"num_segments: got dtype torch\.float32"):
        schedule(walk(), torch.tensor([20.0]))


def test_nan_beyond_an_items_end_is_nobodys_business():
    z = walk(batch=2)
    z[1, 30:] = torch.nan
    frames = torch.tensor([40, 30])
    found = [schedule(z, 20, lengths=frames, solver=form) for form in ("numba", "torch")]
    assert torch.equal(*found) and found[0].sum(dim=1).tolist() == [40, 30]


@pytest.mark.parametrize("form", ["numba", "torch", "recurrence"])
def test_of_equal_ways_the_shorter_last_segment_is_taken(form):
    z = torch.zeros(1, 6, 2)  # every way costs nothing
    if form == "recurrence":
        found = schedule_by_recurrence(z, 3)
    else:
        found = schedule(z, 3, solver=form)
    assert found.tolist() == [[4, 1, 1]]


@pytest.mark.parametrize("form", ["numba", "torch"])
def test_precision_and_layout_do_not_matter(form):
    z = walk(batch=2).half().float()
    expected = schedule(z, 17, solver=form)
    channels_first = z.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(schedule(channels_first, 17, solver=form), expected)
    assert torch.equal(schedule(z.double(), 17, solver=form), expected)
    assert torch.equal(schedule(z.half(), 17, solver=form), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(schedule(z.requires_grad_(), 17, solver=form), expected)


def test_the_three_costs_prefer_different_shapes():
    """White noise: as printed it mixes fours and ones; as released it spreads twos."""
    z = torch.randn(1, 400, 64, generator=torch.Generator().manual_seed(1))
    shares = {
        cost: torch.bincount(schedule(z, 200, 4, cost)[0], minlength=5)[1:] / 200
        for cost in ("paper", "released")
    }
    assert shares["paper"][3] > 0.2 and shares["paper"][1] < 0.2
    assert shares["released"][1] > 0.6 and shares["released"][3] < 0.1


def test_segments_of_one_frame_and_of_all():
    z = walk(frames=5)
    assert schedule(z, 5).tolist() == [[1] * 5]
    assert schedule(z, 5, max_length=1).tolist() == [[1] * 5]
    assert schedule(z, 1, max_length=5).tolist() == [[5]]
    assert distortion(z, [1] * 5) == 0


def test_number_of_segments_is_the_ceiling_of_the_paper():
    assert num_segments_at(101, 80, 40) == 51
    assert num_segments_at(100, 80, 40) == 50  # and not 51 by rounding noise
    assert num_segments_at(10, 80, 1) == 3  # as few as U = 4 allows
    assert num_segments_at(7, 80, 80) == 7
    with pytest.raises(ValueError, match="wanted: got 81"):
        num_segments_at(10, 80, 81)
    with pytest.raises(ValueError, match="lengths: got"):
        distortion(walk(4), [1, 1])
