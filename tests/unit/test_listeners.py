"""A panel's analysis: screening, intervals that cover, paired differences, made-up listeners."""

import numpy as np
import pytest

from codec_lib.evaluation.listeners import (
    Panel,
    Simulated,
    condition_differences,
    condition_means,
    panel_of,
    screen,
    simulate,
    two_way_interval,
    variance_parts,
)
from codec_lib.evaluation.mushra import REFERENCE, Design, Rating, read_ratings
from codec_lib.evaluation.results import bootstrap_interval

DESIGN = Design(tuple(f"u{n}" for n in range(8)), (REFERENCE, "good", "bad"))


def panel(reference):
    """Return a panel with the scores (L, U) of the hidden reference."""
    reference = np.asarray(reference, dtype=float)
    names = tuple(f"l{n}" for n in range(len(reference)))
    scores = np.stack([reference, np.full_like(reference, 60), np.full_like(reference, 30)], axis=2)
    return Panel(names, DESIGN.utterances, DESIGN.conditions, scores, {})


def test_screening_counts_trials_below_90():
    sure, once, twice = np.full(8, 100.0), np.full(8, 90.0), np.full(8, 95.0)
    once[3], twice[[0, 1]] = 20, 89
    kept = screen(panel([sure, once, twice]))
    assert kept.listeners == ("l0", "l1")  # 1 of 8 is 12.5 %, 2 of 8 are 25 %
    assert kept.excluded == {
        "l2": "scored the hidden reference below 90 on 2 of 8 trials, more than 15%"
    }
    assert kept.scores.shape == (2, 8, 3)
    unfinished = np.array([100.0] * 3 + [np.nan] * 5)
    assert screen(panel([sure, unfinished])).listeners == ("l0", "l1")
    with pytest.raises(ValueError, match="got all 1 excluded"):
        screen(panel([twice]))


def test_a_panel_holds_each_rating_in_its_place():
    rows = [
        Rating("Ada", 0, "u2", name, letter, 10 * place)
        for place, (name, letter) in enumerate(zip(DESIGN.conditions, "BCA", strict=True))
    ]
    found = panel_of(rows, DESIGN)
    assert found.listeners == ("Ada",) and np.isfinite(found.scores).sum() == 3
    assert [found.of(name)[0, 2] for name in DESIGN.conditions] == [0, 10, 20]
    with pytest.raises(ValueError, match="condition: got 'other'"):
        found.of("other")
    with pytest.raises(ValueError, match="ratings: got none"):
        panel_of([], DESIGN)


def test_the_two_way_interval_covers_and_the_naive_one_does_not():
    rng, two_way, naive, true = np.random.default_rng(0), 0, 0, 5.0
    for run in range(150):
        data = true + rng.normal(0, 4, (12, 1)) + rng.normal(0, 4, (1, 10))
        data = data + rng.normal(0, 2, (12, 10))
        _, low, high = two_way_interval(data, resamples=500, seed=run)
        two_way += low <= true <= high
        low, high = bootstrap_interval(data.ravel(), resamples=500, seed=run)
        naive += low <= true <= high
    assert two_way >= 130 and naive < 100


def test_the_two_way_interval_without_a_second_listener_or_with_holes():
    assert np.isnan(two_way_interval(np.ones((1, 5)))[1])
    full = np.random.default_rng(1).normal(size=(6, 7))
    holes = np.concatenate([full, np.full((6, 1), np.nan)], axis=1)
    assert two_way_interval(holes)[0] == pytest.approx(full.mean())
    for bad in (np.full((2, 2), np.nan), np.zeros(3)):
        with pytest.raises(ValueError, match="values: got shape"):
            two_way_interval(bad)


def test_parts_of_the_variance_are_found_and_add_up():
    rng, found = np.random.default_rng(0), []
    for _ in range(200):
        data = rng.normal(0, 3, (10, 1)) + rng.normal(0, 2, (1, 12)) + rng.normal(0, 1, (10, 12))
        found.append(variance_parts(data))
    assert np.mean(found, axis=0) == pytest.approx([9, 4, 1], rel=0.15)
    for bad in (np.ones((1, 4)), np.full((3, 3), np.nan)):
        with pytest.raises(ValueError, match="at least 2 by 2"):
            variance_parts(bad)


def test_differences_are_paired():
    """What listeners and utterances share cancels."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 20, (6, 8))
    scores = np.stack([np.full((6, 8), 100.0), 60 + shared, 57 + shared], axis=2)
    found = Panel(tuple("abcdef"), DESIGN.utterances, DESIGN.conditions, scores, {})
    assert list(condition_means(found)) == [REFERENCE, "good", "bad"]
    rows = condition_differences(found)
    assert list(rows) == [(REFERENCE, "good"), ("good", "bad")]
    assert rows["good", "bad"] == pytest.approx((3, 3, 3))
    asked = condition_differences(found, [("bad", "good")])
    assert asked["bad", "good"] == pytest.approx((-3, -3, -3))


def test_made_up_listeners_are_analysed_end_to_end(tmp_path):
    quality = np.tile([100.0, 65.0, 40.0], (8, 1))
    path = tmp_path / "made_up.csv"
    names = simulate(DESIGN, quality, path, attentive=10, careless=3, seed=1)
    assert names == [f"simulated {n:02d}" for n in range(1, 14)]
    ratings = read_ratings(path, DESIGN)
    assert len(ratings) == 13 * 8 * 3 and {one.revision for one in ratings} == {"simulated"}
    found = screen(panel_of(ratings, DESIGN))
    assert set(found.excluded) == {"simulated 11", "simulated 12", "simulated 13"}
    means = condition_means(found)
    assert list(means) == [REFERENCE, "good", "bad"] and means[REFERENCE][0] > 97
    middle, low, high = condition_differences(found, [("good", "bad")])["good", "bad"]
    assert low < 25 * 0.9 < high  # 25 times the mean gain
    assert low > 0 and low < middle < high


def test_without_spread_listeners_say_what_is_true(tmp_path):
    quality = np.tile([100.0, 70.0, 20.0], (8, 1))
    still = Simulated(gain=(1, 1), bias=0, mood=0, noise=0, missed=0)
    simulate(DESIGN, quality, tmp_path / "r.csv", 2, 0, still)
    found = panel_of(read_ratings(tmp_path / "r.csv", DESIGN), DESIGN)
    assert np.array_equal(found.scores, np.broadcast_to(quality, (2, 8, 3)))


@pytest.mark.parametrize(
    "quality", [np.zeros((8, 2)), np.full((8, 3), 101.0), np.full((8, 3), np.nan)]
)
def test_qualities_that_are_none(tmp_path, quality):
    with pytest.raises(ValueError, match="quality: got shape"):
        simulate(DESIGN, quality, tmp_path / "r.csv")
