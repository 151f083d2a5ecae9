"""Schedule, averaged weights, metrics file, progress and checkpoint files, each alone."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from codec_lib.training import checkpoints
from codec_lib.training.averaging import AveragedWeights
from codec_lib.training.logs import CsvLog, ProgressLine, clock, read_csv
from codec_lib.training.schedule import lr_fraction, set_lr


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 200), st.integers(1, 200), st.integers(0, 50), st.floats(0, 1))
def test_lr_stays_between_its_ends(step, steps, warmup, final):
    value = lr_fraction(step, steps, warmup, final)
    low = min(final, 1 / warmup) if warmup else final
    assert low - 1e-9 <= value <= 1 + 1e-9


def test_lr_rises_then_falls_to_the_final_fraction():
    values = [lr_fraction(step, 100, 10, 0.1) for step in range(101)]
    assert values[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert values[10] == pytest.approx(1.0) and values[55] == pytest.approx(0.55)
    assert values[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(values[10:]))
    assert lr_fraction(1000, 100, 10, 0.1) == pytest.approx(0.1)  # a run made longer, then shorter


def test_set_lr_reaches_every_group():
    parameters = [[nn.Parameter(torch.zeros(1))] for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": group} for group in parameters], lr=1.0)
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_average_trails_the_weights_and_copies_buffers():
    module = nn.BatchNorm1d(1)
    average = AveragedWeights(module, decay=0.75)
    assert not average.module.training
    assert not any(p.requires_grad for p in average.module.parameters())
    with torch.no_grad():
        module.weight.fill_(5.0)
        module.running_mean.fill_(3.0)
    average.update(module, step=0)  # the first update forgets the random start
    assert average.module.weight.item() == 5.0
    with torch.no_grad():
        module.weight.fill_(9.0)
    average.update(module, step=1000)
    assert average.module.weight.item() == pytest.approx(0.75 * 5 + 0.25 * 9)
    assert average.module.running_mean.item() == 3.0
    assert module.weight.requires_grad


def test_csv_grows_columns_and_drops_repeated_rows(tmp_path):
    path = tmp_path / "metrics.csv"
    log = CsvLog(path)
    log.write(0, {"loss": 0.1 + 0.2})
    log.write(1, {"loss": 1.0, "new": 2.0})
    log.write(2, {"loss": 3.0})
    log.close()
    rows = read_csv(path)
    assert float(rows[0]["loss"]) == 0.1 + 0.2 and rows[0]["new"] == "" and rows[2]["new"] == ""
    again = CsvLog(path, first_step=2)
    again.write(2, {"loss": 4.0, "new": 5.0})
    again.close()
    assert [row["loss"] for row in read_csv(path)] == ["0.30000000000000004", "1.0", "4.0"]


@pytest.mark.parametrize("cut", range(1, 9))
def test_csv_survives_a_line_cut_short(tmp_path, cut):
    path = tmp_path / "metrics.csv"
    log = CsvLog(path)
    for step in (9, 10):
        log.write(step, {"loss": 12.5})
    log.close()
    path.write_bytes(path.read_bytes()[:-cut])
    resumed = CsvLog(path, first_step=10)
    resumed.close()
    assert [row["step"] for row in read_csv(path)] == ["9"]


def test_progress_says_speed_and_time_left(capsys, monkeypatch):
    now = iter([0.0, 2.0, 4.0])
    monkeypatch.setattr("codec_lib.training.logs.time.monotonic", lambda: next(now))
    progress = ProgressLine(first_step=10, steps=20, audio_seconds=8.0, every=60)
    progress.update(11, {"train/loss": 1.5})
    progress.update(12, {"train/loss": 1.25})
    progress.close()
    assert capsys.readouterr().out.splitlines() == [
        "step 11/20  loss 1.5  0.50 steps/s (4 s audio/s)  0:00:18 left"
    ]
    assert clock(3599.9) == "0:59:59"


def _fill(folder, step):
    temporary = checkpoints.begin(folder, step)
    checkpoints.save_json(temporary / "state.json", {"step": step})
    return temporary


def test_a_checkpoint_is_there_whole_or_not_at_all(tmp_path):
    temporary = _fill(tmp_path, 5)
    assert checkpoints.latest_checkpoint(tmp_path) is None
    final = checkpoints.commit(temporary)
    assert checkpoints.latest_checkpoint(tmp_path) == final
    _fill(tmp_path, 6)  # never committed
    assert checkpoints.latest_checkpoint(tmp_path) == final
    checkpoints.sweep(tmp_path)
    assert [path.name for path in final.parent.iterdir()] == ["step_00000005"]


def test_checkpoints_sort_by_step_and_old_ones_go(tmp_path):
    for step in (9, 10, 100, 1000):
        checkpoints.commit(_fill(tmp_path, step))
    names = [path.name for path in checkpoints.list_checkpoints(tmp_path)]
    assert names == ["step_00000100", "step_00001000"]
    again = checkpoints.commit(_fill(tmp_path, 1000))  # the same step again
    assert checkpoints.load_json(again / "state.json") == {"step": 1000}


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_optimizers_survive_a_file(tmp_path, kind):
    torch.manual_seed(0)
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.load_state_dict(one.state_dict())
    first, second = kind(one.parameters(), lr=0.1), kind(other.parameters(), lr=0.7)
    for _ in range(3):
        one(torch.randn(4, 3)).sum().backward()
        first.step()
    other.load_state_dict(one.state_dict())
    checkpoints.save_optimizer(tmp_path, "optimizer", first)
    checkpoints.load_optimizer(tmp_path, "optimizer", second)
    for parameter, source in zip(other.parameters(), one.parameters(), strict=True):
        parameter.grad = source.grad.clone()
    first.step()
    second.step()
    for parameter, source in zip(other.parameters(), one.parameters(), strict=True):
        assert torch.equal(parameter, source)


def test_an_optimizer_that_does_not_fit_is_an_error(tmp_path):
    optimizer = torch.optim.AdamW(nn.Linear(3, 2).parameters())
    checkpoints.save_optimizer(tmp_path, "optimizer", optimizer)
    fewer = torch.optim.AdamW(nn.Linear(3, 2, bias=False).parameters())
    with pytest.raises(checkpoints.CheckpointError, match="optimizer"):
        checkpoints.load_optimizer(tmp_path, "optimizer", fewer)


def test_random_state_survives_json():
    random.gauss(0, 1), np.random.randn()  # noqa: NPY002 - both keep a second normal value
    state = json.loads(json.dumps(checkpoints.random_state()))

    def draw():
        numbers = np.random.randn(3).tolist()  # noqa: NPY002
        return torch.rand(3).tolist(), numbers, random.gauss(0, 1), random.random()

    first = draw()
    checkpoints.set_random_state(state)
    assert draw() == first


def test_damaged_files_are_named(tmp_path):
    for name, read in (
        ("a.json", checkpoints.load_json),
        ("a.safetensors", checkpoints.read_tensor_file),
    ):
        (tmp_path / name).write_bytes(b"{")
        with pytest.raises(checkpoints.CheckpointError, match=name):
            read(tmp_path / name)
        with pytest.raises(checkpoints.CheckpointError, match="missing"):
            read(tmp_path / "missing")


def test_atomic_writing_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        checkpoints.write_atomic(path, fail)
    assert path.read_text() == "old"
