"""The scheduler: every form against brute force, against the recurrence, and against each other."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_lib.rate import COSTS, distortion, schedule, schedule_by_recurrence, segment_costs
from codec_lib.rate.compiled import _fill_costs, _solve_one

FORMS = ("numba", "torch")


@st.composite
def problems(draw, most=9):
    frames = draw(st.integers(1, most))
    reach = draw(st.integers(1, 8))
    segments = draw(st.integers(-(-frames // reach), frames))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    z = torch.randn(1, frames, draw(st.integers(1, 4)), generator=generator)
    return z + draw(st.sampled_from([0.0, 100.0])), segments, reach


@given(problems(), st.sampled_from(COSTS))
@settings(max_examples=150, deadline=None)
def test_every_form_finds_what_brute_force_finds(problem, cost):
    z, segments, reach = problem
    ways = itertools.product(range(1, reach + 1), repeat=segments)
    if reach**segments > 20_000:
        ways = (  # all ways to choose the segments' ends
            [b - a for a, b in itertools.pairwise((0, *ends, z.shape[1]))]
            for ends in itertools.combinations(range(1, z.shape[1]), segments - 1)
        )
    feasible = (way for way in ways if sum(way) == z.shape[1] and max(way) <= reach)
    best = min(distortion(z, way, cost) for way in feasible)
    found = [schedule(z, segments, reach, cost, solver=form) for form in FORMS]
    found.append(schedule_by_recurrence(z, segments, reach, cost))
    for lengths in found:
        assert lengths.shape == (1, segments) and 1 <= lengths.min() and lengths.max() <= reach
        assert distortion(z, lengths, cost) == pytest.approx(best, rel=1e-4, abs=1e-4)


@given(st.integers(0, 2**31), st.sampled_from(COSTS), st.integers(2, 8))
@settings(max_examples=20, deadline=None)
def test_forms_agree_on_long_padded_batches(seed, cost, reach):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(3, 200, 6, generator=generator).cumsum(dim=1)
    frames = torch.randint(1, 201, (3,), generator=generator)
    least = -(-frames // reach)
    share = torch.rand(3, generator=generator)
    segments = least + ((frames - least + 1) * share).long().clamp_max(frames - least)
    found = [schedule(z, segments, reach, cost, frames, solver=form) for form in FORMS]
    assert torch.equal(found[0].sum(dim=1), frames)
    assert torch.equal((found[0] > 0).sum(dim=1), segments)
    for b in range(3):
        one = z[b : b + 1, : frames[b]]
        best = distortion(one, schedule_by_recurrence(one, int(segments[b]), reach, cost), cost)
        for lengths in found:
            assert distortion(one, lengths[b], cost) == pytest.approx(best, rel=1e-5, abs=1e-4)


@given(st.integers(1, 60), st.integers(1, 8), st.sampled_from(COSTS))
@settings(max_examples=60, deadline=None)
def test_costs_are_those_of_the_definition(frames, reach, cost):
    z = torch.randn(1, frames, 5, generator=torch.Generator().manual_seed(frames)) + 100
    table = segment_costs(z, reach, cost)
    compiled = torch.from_numpy(_fill_costs(z[0].numpy(), reach, COSTS.index(cost)))
    torch.testing.assert_close(compiled, table[0], rtol=1e-4, atol=1e-4)
    for s, j in itertools.product(range(1, reach + 1), range(frames)):
        if j + 1 < s:
            assert table[0, s - 1, j] == torch.inf
        else:
            segment = z[:, j + 1 - s : j + 1]
            exact = distortion(segment, [s], cost)
            assert float(table[0, s - 1, j]) == pytest.approx(exact, rel=1e-4, abs=1e-3)


@given(st.integers(0, 2**31), st.integers(10, 120))
@settings(max_examples=20, deadline=None)
def test_a_table_that_is_computed_twice_gives_the_same_way(seed, segments):
    z = torch.randn(121, 4, generator=torch.Generator().manual_seed(seed)).numpy()
    reach = max(4, -(-121 // segments))
    costs = _fill_costs(z, min(reach, 13), 0)
    if len(costs) * segments < 121:
        return
    assert _solve_one(costs, segments, 64e6).tolist() == _solve_one(costs, segments, 0.0).tolist()


@given(problems(most=12))
@settings(max_examples=40, deadline=None)
def test_the_squared_cost_only_falls_with_more_segments(problem):
    z, segments, reach = problem
    if segments < z.shape[1]:
        costs = [
            distortion(z, schedule(z, k, reach, "squared"), "squared")
            for k in (segments, segments + 1)
        ]
        assert costs[1] <= costs[0] + 1e-4
