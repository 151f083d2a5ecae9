"""A leaderboard's arithmetic: points, places, paired neighbours, agreement of judges."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import codec_lib
from codec_lib.evaluation.judges import JudgedClip, Score
from codec_lib.evaluation.leaderboard import (
    Point,
    in_order,
    nearest_rates,
    paired,
    place_shares,
    points_of,
    rank_correlations,
    steps,
    through,
)


def test_points_are_the_rates_that_a_codec_has():
    found = points_of("st", codec_lib.build("speechtokenizer", "small"), (8, 1, 2, 30))
    assert [(p.n_q, p.bitrate) for p in found] == [(1, 500), (2, 1000), (8, 4000)]
    assert found[0].label == "st, 1 codebook"
    slime = points_of("cs", codec_lib.build("codecslime_vq", "small"), token_rates=(10, 40, 80))
    assert [(p.token_rate, p.bitrate) for p in slime] == [(40, 600), (80, 1040)]  # 15 bits; 13
    assert slime[0].label == "cs, 40 Hz"
    only = points_of("ds", codec_lib.build("ds_codec_vq", "small"))
    assert only == [Point("ds", 1040.0)] and only[0].label == "ds"
    with pytest.raises(ValueError, match="of which it has none"):
        points_of("st", codec_lib.build("speechtokenizer", "smoke"), (99,))


@pytest.mark.parametrize(("name", "point"), [("speechtokenizer", 1), ("codecslime_vq", 2)])
def test_clips_go_through_at_the_point(name, point):
    codec = codec_lib.build(name, "smoke").eval()
    chosen = points_of(name, codec)[-point]
    clip = JudgedClip(0.1 * torch.randn(1, 3217), codec.sample_rate, text="two words")
    (made,) = through(codec, chosen, [clip])
    codes = codec.encode(clip.wav[None], chosen.n_q, None, chosen.token_rate)
    assert torch.equal(made.wav, codec.decode(codes)[0])
    assert torch.equal(made.original, clip.wav) and made.text == "two words"


def test_clips_of_another_rate_are_resampled_both_ways():
    codec = codec_lib.build("sacodec", "smoke").eval()
    assert codec.sample_rate == 24000
    clip = JudgedClip(0.1 * torch.randn(1, 4001), 16000)
    (made,) = through(codec, points_of("sa", codec)[0], [clip])
    assert made.wav.shape == (1, 4001) and made.sample_rate == 16000


def test_nearest_is_by_ratio_and_one_a_codec():
    points = [
        Point("a", 500),
        Point("a", 2000),
        Point("a", 1010),
        Point("b", 750),
        Point("b", 1500),
    ]
    assert [p.bitrate for p in nearest_rates(points, 1000)] == [1010, 750]


def board():
    rng = np.random.default_rng(0)
    clips = rng.normal(0, 1, 12)
    noise = {name: rng.normal(0, 0.01, 12) for name in "abc"}
    means = {"a": 0.5, "b": 0.9, "c": 0.4}
    return {n: Score(clips + means[n] + noise[n], None, higher_is_better=False) for n in means}


def test_neighbours_are_paired_and_count_upwards_from_worse_to_better():
    rows = steps(board())
    assert [row[:2] for row in rows] == [("c", "a"), ("a", "b")]
    for (*_, middle, low, high), true in zip(rows, (0.1, 0.4), strict=True):
        assert 0 < low < middle < high and middle == pytest.approx(true, abs=0.02)
    uneven = board() | {"d": Score(np.ones(3), None, False)}
    with pytest.raises(ValueError, match="expected the same clips for all"):
        steps(uneven)


def test_a_failure_is_left_out_of_the_pair_not_counted_as_bad():
    scores = board()
    values = scores["c"].values.copy()
    values[values.argmin()] = np.nan
    middle, low, _ = paired(Score(values, None, False), scores["a"])
    assert low > 0 and middle == pytest.approx(0.1, abs=0.02)
    nothing = Score(np.full(12, np.nan), None, False)
    assert in_order(scores | {"z": nothing})[-1] == "z"
    assert np.isnan(paired(nothing, scores["a"])[0])


def test_places_are_sure_where_pairs_differ_and_shared_where_they_do_not():
    names, shares = place_shares(board())
    assert names == ["c", "a", "b"] and np.allclose(shares, np.eye(3))
    rng = np.random.default_rng(1)
    same = {name: Score(rng.normal(0, 1, 20)) for name in "wxyz"}
    _, shares = place_shares(same)
    assert np.allclose(shares.sum(axis=0), 1) and np.allclose(shares.sum(axis=1), 1)
    assert shares.max() < 0.99


def test_rank_correlations_are_spearmans():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(4, 9)).round(1)  # with ties
    means[3] = -means[0]
    found = rank_correlations(means)
    for i in range(4):
        for j in range(4):
            assert found[i, j] == pytest.approx(spearmanr(means[i], means[j])[0])
    assert found[0, 3] == pytest.approx(-1)
    assert np.isnan(rank_correlations(np.ones((2, 3)))).all()
