"""What is read off a map: on maps whose truth is known."""

import numpy as np
import pytest

from codec_lib.evaluation.map_reading import clump_silhouette, read_map

RNG = np.random.default_rng(0)
CENTRES = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 30.0], [40.0, 40.0]])
NAMES = list("abcd") * 10
POINTS = np.tile(CENTRES, (10, 1)) + RNG.normal(size=(40, 2))


def test_clumps_are_seen_where_they_are():
    assert clump_silhouette(POINTS, 4) > 0.7 > 0.55 > clump_silhouette(RNG.normal(size=(200, 2)), 4)
    with pytest.raises(ValueError, match="more than the 6"):
        clump_silhouette(POINTS[:6])


def test_a_true_map_keeps_neighbours_and_distances_and_a_false_one_does_not():
    true = read_map(POINTS, np.pad(POINTS, ((0, 0), (0, 5))), NAMES)
    assert true["neighbour"] == 1 and true["distances"] == pytest.approx(1)
    moved = POINTS + 200 * CENTRES[[2, 0, 3, 1]][[ord(n) - ord("a") for n in NAMES]]
    torn = read_map(moved, POINTS, NAMES)  # the same groups, put elsewhere
    assert torn["neighbour"] == 1 and torn["distances"] < 0.9
    assert read_map(RNG.permutation(POINTS), POINTS, NAMES)["neighbour"] < 0.6
    with pytest.raises(ValueError, match="three names"):
        read_map(POINTS[:2], POINTS[:2], ["a", "b"])
