"""A language model's run: it learns, goes on after a kill, and two processes equal one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import codec_lib
from codec_lib.lm.config import LanguageConfig, module_config
from codec_lib.lm.continuous_run import ContinuousRunConfig, train_continuous_model
from codec_lib.lm.files import load_language_model
from codec_lib.lm.loading import load_speaking_model
from codec_lib.lm.run import train_language_model
from codec_lib.lm.sampling import Sampling
from codec_lib.lm.tokenizer_run import TokenizerConfig, TokenizerRun, train_tokenizer
from codec_lib.training.checkpoints import latest_checkpoint, read_tensor_file
from codec_lib.training.launch import make_fabric
from codec_lib.training.logs import read_csv

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tiny_corpus, tmp_path, monkeypatch) -> LanguageConfig:
    monkeypatch.setenv("CODEC_LIB_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    codec = codec_lib.build("speechtokenizer", "smoke", codebook_size=16)
    saved = codec_lib.hub.save_codec(codec, tmp_path / "codec.safetensors")
    changes = {"codec": str(saved), "corpus": str(tiny_corpus), "batch_size": 2, "steps": 12}
    changes |= {"overrides.num_codes": 16, "overrides.dropout": 0.1, "accelerator": "cpu"}
    changes |= {"checkpoint_every": 3, "valid_every": 6, "valid_examples": 2}
    changes |= {"out_dir": str(tmp_path / "run"), "progress_seconds": 1000, "epsilon": 1e-4}
    return module_config(LanguageConfig, "smoke", changes)


def _command(config: LanguageConfig, out: Path, *more: str) -> list[str]:
    """Return the command that runs a config's like in a process of its own."""
    settings = ["codec", "corpus", "batch_size", "steps", "checkpoint_every", "valid_every"]
    settings += ["valid_examples", "accelerator", "progress_seconds", "epsilon"]
    pairs = [f"{name}={getattr(config, name)}" for name in settings]
    pairs += [f"overrides.{name}={value}" for name, value in config.overrides.items()]
    options = [part for pair in pairs for part in ("--set", pair)]
    start = [sys.executable, "-m", "codec_lib.cli", "train-lm", "unified", "--preset", "smoke"]
    return [*start, "--out", str(out), *options, *more]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def _same_end(one: Path, other: Path) -> None:
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
    for name in ("model", "average", "optimizer"):
        first, second = (
            read_tensor_file(latest_checkpoint(run) / f"{name}.safetensors") for run in (one, other)
        )
        assert all(torch.equal(value, second[key]) for key, value in first.items()), name


def test_a_run_learns_and_its_weights_are_those_measured(config):
    run = train_language_model(replace(config, steps=60, valid_every=20, lr=5e-3))
    rows = read_csv(run / "metrics.csv")
    first, last = (float(row["train/ar"]) for row in (rows[0], rows[-1]))
    assert last < first - 0.2
    model = load_language_model(run / "final.safetensors")
    assert model.card["steps"] == 60 and model.card["valid/loss"] > 0
    # It speaks by the codec of its run, whose place only the run's settings know.
    assert model.card["codec"] == "codec.safetensors"
    speaker = load_speaking_model(run / "final.safetensors", None, Sampling(frames_per_symbol=1))
    assert speaker.say(["Two."], [None])[0].shape[0] == 1
    with pytest.raises(ValueError, match="another run"):
        train_language_model(replace(config, steps=60, seed=5))
    assert train_language_model(replace(config, steps=60, lr=5e-3)) == run  # nothing left to do


def test_a_folder_that_is_no_run_is_left_alone(config):
    folder = Path(config.out_dir)
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="thesis"):
        train_language_model(config, fresh=True)
    assert (folder / "thesis.txt").read_text() == "mine"


def test_a_mistake_costs_no_earlier_run(config):
    run = train_language_model(config)
    before = sorted(path.name for path in run.rglob("*"))
    codec = codec_lib.build("speechtokenizer", "smoke", codebook_size=8)
    other = codec_lib.hub.save_codec(codec, Path(config.codec).with_name("other.safetensors"))
    for changes, message in (
        ({"batch_size": 64}, "batch_size: got 64, expected at most"),
        ({"codec": str(other)}, "codec: got codebooks of .*, expected 8 of 16"),
        ({"codec": str(other), "start_from_codec": False}, "codec: got codebooks"),
    ):
        with pytest.raises(ValueError, match=message):
            train_language_model(replace(config, **changes), fresh=True)
    with pytest.raises(ValueError, match=r"which the run in .* would replace"):
        own = str(run / "best.safetensors")
        train_language_model(replace(config, init_from=own), fresh=True)
    assert sorted(path.name for path in run.rglob("*")) == before


def test_a_run_goes_on_with_the_codec_it_began_with_alone(config):
    train_language_model(replace(config, time_limit_minutes=1e-9))  # one step
    torch.manual_seed(1)
    codec = codec_lib.build("speechtokenizer", "smoke", codebook_size=16)
    codec_lib.hub.save_codec(codec, config.codec)  # trained anew in the same place
    with pytest.raises(ValueError, match="run on other data, expected the same utterances and"):
        train_language_model(config)
    assert latest_checkpoint(config.out_dir).name == "step_00000001"


def test_a_run_goes_on_with_the_transcripts_it_began_with_alone(config, monkeypatch):
    train_language_model(replace(config, time_limit_minutes=1e-9))  # one step
    monkeypatch.setattr("codec_lib.lm.examples.spoken_symbols", lambda text: ["AA"])
    with pytest.raises(ValueError, match="run on other data, expected the same utterances and"):
        train_language_model(config)


def test_a_killed_run_ends_as_if_it_had_not_been(config, tmp_path):
    peace, killed = tmp_path / "peace", tmp_path / "killed"  # sums round alike in like processes
    subprocess.run(_command(config, peace), env=_environment(), check=True, capture_output=True)
    command = _command(config, killed)
    process = subprocess.Popen(command, env=_environment(), stdout=subprocess.DEVNULL)
    while latest_checkpoint(killed) is None and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert latest_checkpoint(killed).name < "step_00000012"
    subprocess.run(command, env=_environment(), check=True, capture_output=True)
    _same_end(peace, killed)


def test_two_processes_equal_one_with_the_joint_batch(config, tmp_path):
    config = replace(config, steps=4, epsilon=1e-2, overrides={**config.overrides, "dropout": 0.0})
    joint, split = train_language_model(config), tmp_path / "split"
    command = _command(config, split, "--devices", "2")
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    first, second = (
        read_tensor_file(latest_checkpoint(run) / "model.safetensors") for run in (joint, split)
    )
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=2e-4, rtol=0, msg=name)


def test_a_tokenizer_and_its_language_model_learn_and_go_on(tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("CODEC_LIB_CACHE", str(tmp_path / "cache"))
    common = {"corpus": str(tiny_corpus), "accelerator": "cpu", "batch_size": 2, "steps": 40}
    common |= {"progress_seconds": 1000, "checkpoint_every": 10, "valid_every": 20, "lr": 3e-3}
    first = module_config(TokenizerConfig, "smoke", {**common, "out_dir": str(tmp_path / "t")})
    run = train_tokenizer(first)
    rows = read_csv(run / "metrics.csv")
    assert float(rows[-1]["train/mel"]) < 0.8 * float(rows[0]["train/mel"])
    assert {"valid/per", "valid/ctc", "valid/wave"} <= set(rows[-1])
    tokenizer = str(run / "final.safetensors")
    for head in ("mean", "flow"):
        changes = {**common, "tokenizer": tokenizer, "overrides.head": head, "batch_size": 4}
        changes["out_dir"] = str(tmp_path / head)
        config = module_config(ContinuousRunConfig, "smoke", changes)
        whole = train_continuous_model(config)
        rows = read_csv(whole / "metrics.csv")
        losses = [float(row["train/loss"]) for row in rows]
        assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
        parts = replace(config, out_dir=str(tmp_path / f"{head}-parts"))
        train_continuous_model(
            replace(parts, time_limit_minutes=1e-9)
        )  # one step, then a checkpoint
        assert latest_checkpoint(parts.out_dir).name == "step_00000001"
        _same_end(whole, train_continuous_model(parts))


def test_codebooks_of_a_tokenizer_that_learn_by_gradient_do(tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("CODEC_LIB_CACHE", str(tmp_path / "cache"))
    changes = {"corpus": str(tiny_corpus), "accelerator": "cpu", "batch_size": 2, "steps": 3}
    changes |= {"overrides.discrete": True, "overrides.quantizer": {"update": "gradient"}}
    changes["overrides.codebook_size"] = 4  # fewer than frames, so that something is lost
    config = module_config(TokenizerConfig, "smoke", {**changes, "out_dir": str(tmp_path / "t")})
    rows = read_csv(train_tokenizer(config) / "metrics.csv")
    assert all(float(row["train/codebook"]) > 0 < float(row["train/commitment"]) for row in rows)
    run = TokenizerRun(config, make_fabric(config))
    run.open_data()
    run.losses(run.next_batch())["loss"].backward()
    assert all(layer.codebook.grad.norm() > 0 for layer in run.module.quantizer.layers)
