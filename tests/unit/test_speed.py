r"""The benchmark's own arithmetic, and memory measured in a process of its own."""

from __future__ import annotations

import sys
import time

import pytest
import torch

from codec_lib import audio
from codec_lib.evaluation import (
    language_bench,
    memory,
    peers,
    quantizer_bench,
    schedule_bench,
    speed,
    teacher_bench,
    timing,
)


def test_runs_take_turns_and_ratios_compare_turn_by_turn():
    calls = []
    functions = {name: (lambda name=name: calls.append(name)) for name in ("a", "b")}
    seconds = timing.in_turns(functions, repetitions=2)
    assert "".join(calls) == "ab" + "ab" * 2
    assert all(len(runs) == 2 for runs in seconds.values())
    slow = {"a": [2.0, 20.0, 8.0], "b": [1.0, 10.0, 1.0]}
    assert timing.ratio(slow, "a", "b") == 2.0


def test_seconds_are_wall_clock():
    seconds = timing.in_turns({"sleep": lambda: time.sleep(0.01)}, 1)
    assert 0.009 < seconds["sleep"][0] < 5


def test_pair_has_the_same_weights():
    theirs, ours = peers.official_pair()
    codebook = theirs.quantizer.vq.layers[3]._codebook.embed
    assert torch.equal(ours.quantizer.layers[3].codebook, codebook)
    assert not ours.training


def test_long_file_has_its_length(tmp_path):
    path = tmp_path / "noise.wav"
    memory.write_long_file(path, 12.5)
    info = audio.read_info(path)
    assert (info.num_samples, info.sample_rate) == (200_000, 16_000)


def test_a_task_reports_its_own_peak():
    row = memory.in_own_process(memory.kmeans_task, 1200)
    assert row["codes_in_use"] > 900
    assert 5 < row["peak_megabytes"] < 1000, "5 MB are the latents themselves"


def test_a_task_of_another_file_is_found_there():
    row = memory.in_own_process(schedule_bench.long_task, 1)
    assert row["segments"] == 60 * 80 // 2 and row["peak_megabytes"] > 0


def test_each_codec_is_measured_in_a_child_of_its_own():
    found = memory.codec_megabytes(["ds_codec_vq-small", "speechtokenizer-small"], 4)
    assert list(found) == ["ds_codec_vq-small", "speechtokenizer-small"]
    assert all(1 < megabytes < 300 for megabytes in found.values())
    with pytest.raises(RuntimeError, match="no_such_codec"):
        memory.codec_megabytes(["no_such_codec"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_what_was_freed_before_counts_again():
    kept = [torch.ones(2000) for _ in range(10_000)]  # 80 MB in small pieces
    kept = kept[-1:]  # at the end of the heap: nothing below it goes back by itself
    grown = memory.in_a_fork(lambda: [torch.ones(2000) for _ in range(8000)])
    assert 55 < grown < 90, "64 MB"
    assert len(kept) == 1


@pytest.mark.slow
def test_a_failing_task_says_why():
    with pytest.raises(RuntimeError, match="no_such_file"):
        memory.in_own_process(memory.encode_task, "no_such_file.wav")


@pytest.mark.parametrize("name", quantizer_bench.PAIRS)
def test_quantizer_pairs_do_the_same_work(name, monkeypatch):
    monkeypatch.setattr(quantizer_bench, "BATCH", 2)
    monkeypatch.setattr(quantizer_bench, "FRAMES", 10)
    ours, theirs = quantizer_bench.build_pair(name)
    mine, other = (quantizer_bench.training_step(q, ours.latent_dim) for q in (ours, theirs))
    assert torch.equal(mine(), other().long())
    for quantizer in (ours, theirs):
        trained = [p.grad is not None for p in quantizer.parameters()]
        assert all(trained), "both packages must do the whole backward pass"


def test_units_are_compared_with_the_same_work_of_others(monkeypatch):
    monkeypatch.setattr(teacher_bench, "CENTRES", 20)
    threads = torch.get_num_threads()
    row = teacher_bench.assignment_speed(width=8, repetitions=2, frames=3000)
    assert row["measured"] == "k-means units of 0.0166667 h, width 8, 20 centres"
    assert row["same_units"] > 0.999, "both packages must name the nearest centre"
    assert row["times_product"] > 0 and row["ratio"] > 0
    assert torch.get_num_threads() == threads


def test_one_core_is_one_core_and_only_inside():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with timing.one_core():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_sinkhorn_is_compared_with_the_product_before_it(monkeypatch):
    seen = []
    monkeypatch.setattr(teacher_bench, "sinkhorn", lambda scores: seen.append(scores) or scores)
    row = teacher_bench.sinkhorn_speed(2, frames=30, codes=50, width=4)
    assert len(seen) == 3 and seen[0].shape == (30, 50) and seen[0].abs().max() <= 1.001
    assert row["ratio"] > 0 and row["times_product"] > 0


def test_table_prints_every_row(capsys):
    speed.print_table([{"measured": "x", "ratio": 1.5, "frames": 7}])
    printed = capsys.readouterr().out
    assert "1.50" in printed and "frames 7" in printed


def test_generation_is_timed_on_the_same_codes():
    row = language_bench.cache_speed("smoke", repetitions=1, frames=12)
    assert row["same_codes"] == 1 and row["ratio"] > 0 and row["times_real_time"] > 0
    heads = language_bench.head_speed(repetitions=1, tokens=3)
    assert [row["ratio"] == 1 for row in heads] == [True, False]
