"""Two processes train as one process with the joint batch does."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from codec_lib.training.checkpoints import latest_checkpoint, read_tensor_file
from codec_lib.training.config import write_config
from codec_lib.training.logs import read_csv
from codec_lib.training.loop import train

ROOT = Path(__file__).parents[2]
STEPS = 6


def _launch(arguments: list[str]) -> None:
    """Run ``python`` with arguments in a process of its own; fail with what it said."""
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]


def _compare(joint: Path, split: Path) -> None:
    """Assert equal metrics (1e-5 relative) and equal codebooks of two runs."""
    rows, others = read_csv(joint / "metrics.csv"), read_csv(split / "metrics.csv")
    assert len(rows) == len(others) > 0
    for row, other in zip(rows, others, strict=True):
        assert list(row) == list(other)
        for name, value in row.items():
            if value or other[name]:
                expected = pytest.approx(float(value), rel=1e-5, abs=1e-5)
                assert float(other[name]) == expected, f"step {row['step']}: {name}"
    one, two = (
        read_tensor_file(latest_checkpoint(folder) / "codec.safetensors")
        for folder in (joint, split)
    )
    for name in one:
        if name.endswith(("codebook", "cluster_size", "codebook_sum")):
            assert (one[name] - two[name]).abs().max() < 1e-4, name


MELT = {"rate": "melt", "overrides.max_length": 4, "overrides.token_rate": 25}


@pytest.mark.parametrize(
    ("launcher", "changes"),
    [
        ("fabric", {}),
        ("fabric", MELT),
        pytest.param("torchrun", {}, marks=pytest.mark.slow),
    ],
)
def test_two_processes_equal_one_with_the_joint_batch(tiny_config, tmp_path, launcher, changes):
    config = tiny_config(
        **changes,
        steps=STEPS,
        critics="smoke",
        critic_start=2,  # no critics first: the wrapper must not wait for them
        checkpoint_every=3,
        valid_every=3,
        accelerator="cpu",
        # Adam's first updates are signs of gradients; a larger epsilon keeps rounding small
        epsilon=1e-1,
    )
    joint = train(replace(config, out_dir=str(tmp_path / "joint")))
    write_config(replace(config, out_dir=str(tmp_path / "split")), tmp_path / "split.yml")
    command = ["codec_lib.cli", "train", "speechtokenizer", "--config", str(tmp_path / "split.yml")]
    if launcher == "fabric":
        _launch(["-m", *command, "--devices", "2"])
    else:
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
        _launch([*start, *command, "--time-limit-minutes", "1e-6"])  # ends after one step
        _launch([*start, *command])  # and goes on from its checkpoint
    _compare(joint, tmp_path / "split")
    assert latest_checkpoint(tmp_path / "split").name == f"step_{STEPS:08d}"


@pytest.mark.slow
def test_two_processes_take_stages_and_wait_for_no_frozen_part(tiny_config, tmp_path):
    decoder = {"name": "decoder", "steps": 2, "freeze": ["encoder", "quantizer"]}
    stages = [{"name": "all", "steps": 2}, decoder, {"name": "encoder", "freeze": ["decoder"]}]
    shared = {"critics": "smoke", "accelerator": "cpu", "epsilon": 1e-2, "valid_every": 2}
    config = tiny_config(stages=stages, steps=2, **shared)
    joint = train(replace(config, out_dir=str(tmp_path / "joint")))
    write_config(replace(config, out_dir=str(tmp_path / "split")), tmp_path / "split.yml")
    command = ["codec_lib.cli", "train", "speechtokenizer", "--config", str(tmp_path / "split.yml")]
    _launch(["-m", *command, "--devices", "2"])
    for stage in ("1_all", "2_decoder", "3_encoder"):
        _compare(joint / stage, tmp_path / "split" / stage)
        assert latest_checkpoint(tmp_path / "split" / stage).name == "step_00000002"
