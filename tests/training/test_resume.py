"""A run that was interrupted, politely or by SIGKILL, ends as if it had not been."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from codec_lib import hub
from codec_lib.training.batches import training_and_held_out
from codec_lib.training.checkpoints import latest_checkpoint, read_tensor_file
from codec_lib.training.config import TrainConfig, write_config
from codec_lib.training.logs import read_csv
from codec_lib.training.loop import is_finished, train
from codec_lib.training.replacing import ASIDE, MOVING, RUN_FILES, set_aside, settle
from codec_lib.training.stages import FINAL

ROOT = Path(__file__).parents[2]


def _same_end(one: Path, other: Path) -> None:
    """Assert that two runs wrote the same metrics and ended with the same state, exactly."""
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
    last = latest_checkpoint(one)
    assert last.name == latest_checkpoint(other).name
    for path in sorted(last.iterdir()):
        again = latest_checkpoint(other) / path.name
        if path.suffix == ".json":
            assert path.read_text() == again.read_text(), path.name
            continue
        tensors = read_tensor_file(again)
        for name, value in read_tensor_file(path).items():
            assert torch.equal(value, tensors[name]), f"{path.name}: {name}"


def test_resumed_equals_uninterrupted(tiny_config, tmp_path):
    """Critics start after the interruption, so their state and the codec's are both at stake."""
    changes = {"critics": "smoke", "critic_start": 3, "valid_every": 2, "checkpoint_every": 2}
    dropout = {"overrides.quantizer": {"quantizer_dropout": 0.5}}  # draws from the random state
    config = tiny_config(steps=8, **changes, **dropout)
    whole = train(replace(config, out_dir=str(tmp_path / "whole")))

    class Stopped(Exception):
        pass

    def stop_at(step: int) -> None:
        from codec_lib.training.run import Run

        original = Run.next_batch

        def next_batch(self: Run) -> dict:
            if self.step == step:
                raise Stopped
            return original(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Run, "next_batch", next_batch)
            with pytest.raises(Stopped):
                train(config)

    stop_at(3)  # one step after a checkpoint
    torch.randn(7)  # the process's random state is another one now
    stop_at(6)
    train(config)
    _same_end(whole, Path(config.out_dir))


def _kill(config: TrainConfig, out: Path) -> int:
    """Take a run twice, once killed again and again; return how often it was."""
    write_config(config, out / "config.yml")
    command = [sys.executable, str(Path(__file__).with_name("killer.py"))]
    done = subprocess.run(
        [*command, str(out / "config.yml"), str(out)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    return int(re.search(r"kills (\d+)", done.stdout).group(1))


def test_killed_equals_uninterrupted(tiny_config, tmp_path):
    """SIGKILL at random times and in the middle of writing checkpoints changes nothing."""
    changes = {"critics": "smoke", "critic_start": 5, "valid_every": 7, "checkpoint_every": 2}
    assert _kill(tiny_config(steps=30, **changes), tmp_path) >= 6
    _same_end(tmp_path / "peace", tmp_path / "killed")
    assert not [p for p in (tmp_path / "killed" / "checkpoints").iterdir() if p.name[:3] != "ste"]


DECODER = {"freeze": ["encoder", "quantizer"], "critic_start": 1}
HALF_RATE = {"max_length": 4, "token_rate": 25}


@pytest.mark.parametrize(
    ("first", "second", "overrides"),
    [({}, DECODER, {}), ({"rate": "melt"}, {"rate": "cool", "freeze": ["encoder"]}, HALF_RATE)],
    ids=["ds_codec", "codecslime"],
)
def test_killed_between_two_stages_equals_uninterrupted(
    tiny_config, tmp_path, first, second, overrides
):
    """SIGKILL at every operation around the end of a stage and the start of the next one."""
    stages = [{"name": "first", "steps": 6, **first}, {"name": "second", "steps": 4, **second}]
    changes = {"critics": "smoke", "critic_start": 4, "valid_every": 3, "checkpoint_every": 2}
    config = tiny_config(stages=stages, **changes, **{"overrides": overrides})
    assert _kill(config, tmp_path) >= 7
    for stage in ("1_first", "2_second"):
        one, other = tmp_path / "peace" / stage, tmp_path / "killed" / stage
        _same_end(one, other)
        for name in ("best.safetensors", "final.safetensors"):
            card, weights = hub.read_tensors(one / name)
            again = hub.read_tensors(other / name)
            assert card == again[0]
            assert all(torch.equal(value, again[1][key]) for key, value in weights.items())


def test_a_longer_run_goes_on_and_another_config_does_not(tiny_config):
    config = tiny_config(steps=2)
    folder = train(config)
    train(replace(config, steps=3, log_every=1))
    assert [row["step"] for row in read_csv(folder / "metrics.csv")] == ["0", "1", "2"]
    with pytest.raises(ValueError, match=r"lr was 0.0005 and is 0.1.*--fresh"):
        train(replace(config, lr=0.1))
    train(replace(config, lr=0.1, steps=1), fresh=True)
    assert len(read_csv(folder / "metrics.csv")) == 1
    assert latest_checkpoint(folder).name == "step_00000001"


def test_a_mistake_that_the_first_batch_shows_costs_no_earlier_run(tiny_config):
    config = tiny_config(steps=2)
    folder = train(config)
    (folder / "notes.txt").write_text("mine")

    def files() -> dict[str, int]:
        found = {str(path.relative_to(folder)): path for path in folder.rglob("*.*")}
        return {name: p.stat().st_size for name, p in found.items() if "tensorboard" not in name}

    before = files()
    for changes in ({"segment_seconds": 0.03}, {"recipe_overrides": {"layer_weights": [1.0] * 5}}):
        with pytest.raises(ValueError, match="expected"):
            train(replace(config, **changes), fresh=True)
        assert files() == before
    # Killed before the first checkpoint: the earlier run comes back at the next start.
    set_aside(folder, RUN_FILES)
    (folder / "metrics.csv").write_text("step\n")
    assert train(config) == folder  # finished: nothing left to do
    assert files() == before
    assert (folder / "notes.txt").read_text() == "mine"
    # Killed later: the new run stays.
    (folder / "notes.txt").unlink()
    set_aside(folder, RUN_FILES)
    changed = replace(config, lr=0.1)
    (folder / ASIDE).rename(folder.with_name("aside"))
    train(replace(changed, time_limit_minutes=1e-6))
    folder.with_name("aside").rename(folder / ASIDE)
    train(changed)
    assert not (folder / ASIDE).exists() and len(read_csv(folder / "metrics.csv")) == 2


@pytest.mark.parametrize("moved", range(1, 5))
def test_a_kill_in_the_midst_of_moving_costs_nothing(tmp_path, monkeypatch, moved):
    """Set aside, or brought back: after the next start every file is where it was."""
    files = dict.fromkeys(("metrics.csv", "config.yml", "best.safetensors", FINAL), b"old")
    original = Path.rename

    def killed(after: int):
        left = [after]

        def rename(self, target):
            if self.parent.name == MOVING or Path(target).parent.name == MOVING:
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
            return original(self, target)

        return rename

    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed(moved))
        set_aside(tmp_path, RUN_FILES)
    settle(tmp_path)
    set_aside(tmp_path, RUN_FILES)
    (tmp_path / "metrics.csv").write_bytes(b"new")
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed(moved))
        settle(tmp_path)
    settle(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_fewer_steps_than_were_taken_are_refused(tiny_config):
    config = tiny_config(steps=2)
    train(config)
    with pytest.raises(ValueError, match=r"steps: got 1, but .* has taken 2; expected as many"):
        train(replace(config, steps=1))


@pytest.mark.skipif(os.name == "nt", reason="process groups")
def test_a_stop_of_the_whole_group_leaves_the_workers_to_the_run(tiny_config, capsys):
    """What a scheduler does: every process is told, the workers of the loader, too."""
    config = tiny_config(steps=10_000, num_workers=2)
    write_config(config, Path(config.out_dir).with_suffix(".yml"))
    code = (
        "import sys; from codec_lib.training.config import load_config;"
        "from codec_lib.training.loop import train; train(load_config(None, sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(Path(config.out_dir).with_suffix(".yml"))]
    run = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True)
    said = ""
    while "step 1/" not in said:
        line = run.stdout.readline()
        assert line, said
        said += line
    os.killpg(run.pid, signal.SIGTERM)
    said += run.communicate(timeout=120)[0]
    assert run.returncode == 0 and "SIGTERM; run again to go on" in said
    assert latest_checkpoint(config.out_dir) is not None


def test_a_run_goes_on_with_its_own_data_alone(tiny_config, tiny_corpus, tmp_path):
    shutil.copytree(tiny_corpus, tmp_path / "corpus")
    config = tiny_config(corpus=str(tmp_path / "corpus"), steps=3)
    folder = train(replace(config, time_limit_minutes=1e-6))
    manifest = tmp_path / "corpus" / "manifest.csv"
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([lines[0], *lines[2:]]) + "\n")  # one utterance fewer
    with pytest.raises(ValueError, match="on other data or of another teacher"):
        train(config)
    assert latest_checkpoint(folder).name == "step_00000001"
    manifest.write_text("\n".join(lines) + "\n")
    train(config)


def test_what_a_run_has_learnt_is_not_overwritten_by_another(tiny_config):
    config = tiny_config(steps=1)
    folder = train(config)
    with pytest.raises(ValueError, match="would replace, expected other weights"):
        train(replace(config, init_from=str(folder)), fresh=True)
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(ValueError, match="holds another run"):
        train(replace(config, seed=7))
    assert (folder / "final.safetensors").exists()


def test_weights_of_a_shorter_run_do_not_finish_a_longer_one(tiny_config):
    config = tiny_config(steps=1)
    folder = train(config)
    short = (folder / "final.safetensors").read_bytes()
    longer = replace(config, steps=2)
    train(longer)
    assert is_finished(longer)
    (folder / "final.safetensors").write_bytes(short)  # killed before it was written
    assert not is_finished(longer)


def test_sigterm_and_time_limit_save_and_end(tiny_config, monkeypatch, capsys):
    from codec_lib.training.run import Run

    original = Run.count_codes

    def count_codes(self: Run, codes: torch.Tensor) -> None:
        if self.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, codes)

    monkeypatch.setattr(Run, "count_codes", count_codes)
    folder = train(tiny_config(steps=50))
    assert latest_checkpoint(folder).name == "step_00000002"
    assert "SIGTERM" in capsys.readouterr().out
    train(tiny_config(steps=50, time_limit_minutes=1e-6))
    assert latest_checkpoint(folder).name == "step_00000003"
    assert "time limit" in capsys.readouterr().out


def test_a_folder_with_other_things_is_left_alone(tiny_config, tmp_path):
    (tmp_path / "thesis.txt").write_text("keep me")
    for fresh in (False, True):
        with pytest.raises(ValueError, match=r"holds thesis.txt but no run"):
            train(tiny_config(out_dir=str(tmp_path)), fresh=fresh)
    assert (tmp_path / "thesis.txt").read_text() == "keep me"


def test_a_damaged_checkpoint_is_named(tiny_config):
    config = tiny_config(steps=2)
    last = latest_checkpoint(train(config))
    (last / "codec.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"codec.safetensors: not a readable"):
        train(replace(config, steps=3))


def test_a_valid_corpus_holds_nothing_that_is_trained_on(tiny_config, tiny_corpus, tmp_path):
    config = tiny_config(valid_corpus=str(tiny_corpus))
    train_part, held_out = training_and_held_out(config, 16000)
    assert {one.split for one in held_out} == {"dev"} and len(train_part) == 10
    lines = (tiny_corpus / "manifest.csv").read_text().replace(",dev,", ",,")
    shutil.copytree(tiny_corpus, tmp_path / "all")
    (tmp_path / "all" / "manifest.csv").write_text(lines)
    again = replace(config, corpus=str(tmp_path / "all"), valid_corpus=str(tmp_path / "all"))
    with pytest.raises(ValueError, match="that are trained on, expected none"):
        training_and_held_out(again, 16000)
