"""Codebook health: known values, windows and the alarm."""

from __future__ import annotations

import math

import pytest
import torch

from codec_lib.quantizers import HealthTracker, codebook_health, usage_alarms
from codec_lib.quantizers import health as health_module
from codec_lib.quantizers.health import (
    CountWindow,
    code_counts,
    entropy_bits,
    health_from_counts,
)


def test_even_use_is_full_health():
    health = codebook_health(torch.arange(16).view(1, 1, 16), 16)
    assert health["usage"].item() == 1 and health["dead_codes"].item() == 0
    assert health["perplexity"].item() == pytest.approx(16, rel=1e-5)
    assert health["entropy_rate"].item() == pytest.approx(4, rel=1e-5)


def test_known_entropy_per_codebook():
    codes = torch.tensor([[[0, 0, 0, 1], [2, 2, 2, 2]]])
    health = codebook_health(codes, 4)
    expected = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert health["entropy_rate"].tolist() == pytest.approx([expected, 0.0])
    assert health["usage"].tolist() == [0.5, 0.25] and health["dead_codes"].tolist() == [2, 3]
    assert health["perplexity"].tolist() == pytest.approx([2**expected, 1.0])


def test_counts_of_two_shapes_and_errors():
    codes = torch.tensor([[0, 1], [1, 1]])
    assert code_counts(codes, 3).tolist() == [[1, 3, 0]]
    assert torch.equal(code_counts(codes, 3), code_counts(codes.unsqueeze(1), 3))
    with pytest.raises(ValueError, match="expected \\(B, K, F\\)"):
        code_counts(torch.zeros(3, dtype=torch.int64), 4)
    with pytest.raises(ValueError, match="expected 0 to 2"):
        code_counts(torch.tensor([[3]]), 3)
    assert entropy_bits(torch.zeros(4)).item() == 0


def test_bigram_rate_sees_what_frequencies_do_not():
    alternating = torch.tensor([0, 1] * 500).view(1, 1, -1)
    health = codebook_health(alternating, 2, bigram=True)
    assert health["entropy_rate"].item() == pytest.approx(1, rel=1e-3)
    assert health["bigram_entropy_rate"].item() < 1e-3
    random = torch.randint(0, 2, (1, 1, 20000))
    assert codebook_health(random, 2, bigram=True)["bigram_entropy_rate"] > 0.99


def test_tracker_looks_back_over_its_window():
    tracker = HealthTracker(num_quantizers=2, codebook_size=4, window=2)
    assert tracker.compute()["usage"].tolist() == [0, 0]
    for code in (0, 1, 2):
        tracker.update(torch.full((1, 2, 3), code))
    assert tracker.counts().tolist() == [[0, 3, 3, 0]] * 2  # the first batch is forgotten
    tracker.update(torch.full((1, 1, 3), 3))  # one codebook in use
    assert tracker.counts().tolist() == [[0, 0, 3, 3], [0, 0, 3, 0]]
    assert tracker.compute("cpu")["usage"].tolist() == [0.5, 0.25]
    with pytest.raises(ValueError, match="at most 2"):
        tracker.update(torch.zeros(1, 3, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="window"):
        HealthTracker(1, 4, window=0)


def test_alarm_fires_on_a_collapsed_codebook_only():
    tracker = HealthTracker(num_quantizers=3, codebook_size=64)
    codes = torch.stack([torch.arange(64), torch.zeros(64).long(), torch.arange(64) % 6])
    tracker.update(codes.unsqueeze(0))
    alarms = tracker.alarms()
    assert len(alarms) == 2
    assert alarms[0].startswith("codebook 1: usage 1.6 % (1 of 64 codes over 64 vectors)")
    assert alarms[1].startswith("codebook 2: usage 9.4 %")


def test_alarm_waits_until_it_can_judge():
    few = torch.zeros(1, 1000)
    few[0, :20] = 1  # 20 vectors on 20 codes of 1000: nothing wrong
    assert usage_alarms(few) == []
    assert usage_alarms(torch.zeros(1, 1000)) == []
    few[0] = 0
    few[0, 3] = 20  # all 20 on one code
    assert len(usage_alarms(few)) == 1


def test_a_window_of_counts_is_the_sum_of_its_steps_and_survives_a_file():
    steps = torch.randint(0, 3, (7, 2, 50)) * (torch.rand(7, 2, 50) < 0.1)
    recent, again, dense = CountWindow(4), CountWindow(4), CountWindow(4)
    again.load(recent.state())  # nothing yet
    dense.load({"recent": torch.empty(0)})
    for step in steps[:5]:
        recent.add(step)
        again.add(step)
    assert torch.equal(recent.counts(), steps[1:5].sum(0))
    again.load(recent.state())
    dense.load({"recent": steps[1:5].int()})  # as older checkpoints hold it
    for step in steps[5:]:
        for window in (recent, again, dense):
            window.add(step)
    for window in (recent, again, dense):
        assert torch.equal(window.counts(), steps[3:].sum(0))


def test_codes_are_counted_as_counts_are(monkeypatch):
    codes = torch.randint(0, 40, (7, 2, 3, 30))
    codes[:, :, 1] //= 4  # the second codebook has 10 entries
    by_counts, by_codes, sparse = CountWindow(4), CountWindow(4), CountWindow(4)
    for step in codes:
        by_counts.add(code_counts(step, (40, 10, 40)))
        by_codes.add_codes(step, (40, 10, 40))
    assert torch.equal(by_codes.counts(), by_counts.counts())
    assert all(torch.equal(v, by_counts.state()[k]) for k, v in by_codes.state().items())
    monkeypatch.setattr(health_module, "_ALL", 39)  # as if 40 were too many
    for step in codes:
        sparse.add_codes(step, (40, 10, 40))
    expected = health_from_counts(by_counts.counts(), (40, 10, 40))
    for name, values in health_from_counts(sparse.counts(), (40, 10, 40)).items():
        assert values.tolist() == pytest.approx(expected[name].tolist()), name
    assert sparse.counts()[1].count_nonzero() <= 10


def test_joint_codes_beyond_all_memory_are_counted():
    """256^4 counts would be 34 GB."""
    many, recent, again = 256**4, CountWindow(2), CountWindow(2)
    for step in ([[5, 5, 5, 5]], [[0, 7, 7, many - 1]], [[7, 7, many - 1, 9]]):
        recent.add_codes(torch.tensor([step]), many)
    again.load(recent.state())
    for window in (recent, again):
        assert window.counts().tolist() == [[1, 4, 1, 2]]
        health = health_from_counts(window.counts(), many)
        assert health["perplexity"].item() == pytest.approx(2**1.75)
        assert health["dead_codes"].item() == many - 4
        assert health["usage"].item() == pytest.approx(4 / many)
        assert usage_alarms(window.counts(), codebook_size=many) == []
    one = codebook_health(torch.full((1, 1, 9), many - 1), many, bigram=True)
    assert one["perplexity"] == 1 and one["bigram_entropy_rate"] == 0


def test_a_window_over_many_codes_is_small():
    recent = CountWindow(100)
    for _ in range(100):
        recent.add(code_counts(torch.randint(0, 65536, (2, 1, 80)), 65536))
    assert sum(value.numel() for value in recent.state().values()) < 100 * 160 * 4 + 10
