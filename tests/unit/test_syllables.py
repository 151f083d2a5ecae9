"""Probes on the same syllables, shares of variance, pairs that differ in one thing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from codec_lib.evaluation.results import bootstrap_interval
from codec_lib.evaluation.syllables import SyllableProbes, omega_squared, pair_means, taken
from codec_lib.evaluation.tone import Syllables


def tokens(count: int, seed: int) -> Syllables:
    """Tone is the level of column 0, the vowel that of column 1; two voices, five syllables."""
    rng = np.random.default_rng(seed)
    tones, vowels = (torch.from_numpy(rng.integers(k, size=count)) for k in (4, 2))
    level = torch.stack([tones.float(), 2 * vowels.float()], -1)[:, None]
    features = level + 0.1 * torch.from_numpy(rng.normal(size=(count, 6, 2))).float()
    voices = [f"v{n % 2}" for n in range(count)]
    words = [f"w{seed}{n % 5}" for n in range(count)]
    return Syllables(features, tones, vowels, voices, "1234", "ae", words)


def test_probes_are_scored_item_by_item_with_intervals_over_syllables():
    known, tested = tokens(300, 0), tokens(100, 1)
    probes = SyllableProbes(known, tested, (0, 1), epochs=8, batch_size=32, learning_rate=3e-3)
    probes.ask("features", known.features, tested.features)
    probes.ask("noise", torch.zeros(300, 6, 1), torch.zeros(100, 6, 1), labels=["tones"])
    assert probes.named["features", "tones"].shape == (2, 100)
    middle, low, high = probes.accuracy("features")
    assert low <= middle <= high and middle > 90 > 50 > probes.chance()
    assert probes.right("features", "vowels").shape == (100,)
    gain = probes.gain("features", "noise")
    assert gain[1] > 30 and gain[0] == pytest.approx(middle - probes.accuracy("noise")[0])
    table = probes.confusion("features")
    assert torch.allclose(table.sum(1), torch.full((4,), 100.0)) and (table.diagonal() > 80).all()


def test_an_interval_is_of_the_mean_that_stands_beside_it():
    """One syllable of many tokens: tokens count alike, and syllables are what is drawn."""
    some = tokens(100, 1)
    words = ["long"] * 60 + [f"w{n}" for n in range(40)]
    uneven = replace(some, syllables=words)
    values = np.where(np.array(words) == "long", 0.0, 100.0)
    middle, low, high = SyllableProbes(some, uneven).spread(values)
    assert middle == pytest.approx(40) and low < middle < high
    even = SyllableProbes(some, some).spread(values)  # five syllables of twenty tokens
    means = [values[np.array(some.syllables) == one].mean() for one in sorted(set(some.syllables))]
    assert even == pytest.approx((np.mean(means), *bootstrap_interval(means)))


def test_a_share_of_variance_is_one_for_the_cause_and_zero_for_chance():
    some = tokens(400, 2)
    assert omega_squared(some.features[..., :1], some.tones.tolist()) > 0.98
    assert abs(omega_squared(some.features[..., :1], some.speakers)) < 0.01
    rng = np.random.default_rng(0)  # many groups of few: without the correction it would be 0.25
    assert abs(omega_squared(torch.randn(400, 5), rng.integers(100, size=400).tolist())) < 0.05


def test_pairs_are_sorted_by_what_is_another():
    grid = [(t, v, s) for t in range(2) for v in range(2) for s in range(2)]
    tones = torch.tensor([t for t, _, _ in grid])
    voices, words = [f"v{v}" for _, v, _ in grid], [f"s{s}" for _, _, s in grid]
    eight = Syllables(torch.zeros(8, 1, 1), tones, tones, voices, "12", "ae", words)
    x = torch.tensor([[float(t), 10.0 * v, 100.0 * s] for t, v, s in grid])
    found = pair_means(torch.cdist(x, x, p=1), eight)
    assert list(found.values()) == [1.0, 10.0, 100.0, 111.0]


def test_taken_tokens_keep_their_labels():
    some = tokens(20, 3)
    two = taken(some, torch.tensor([7, 2]))
    assert two.features.shape == (2, 6, 2) and two.syllables == [some.syllables[7], "w32"]
    assert two.tones.tolist() == [int(some.tones[7]), int(some.tones[2])]
