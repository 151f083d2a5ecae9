"""Two CPU processes learn the Spin that one process learns from the joint batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from codec_lib import audio
from codec_lib.data import Corpus, Utterance
from codec_lib.teachers.hubert import HubertConfig, SmallHubert
from codec_lib.teachers.sinkhorn import sinkhorn
from codec_lib.teachers.spin import Spin, SpinSizes
from codec_lib.teachers.spin_training import SpinConfig, train_spin

SIZES = HubertConfig(dim=16, num_layers=3, num_heads=2, ffn_dim=32, num_units=4, dropout=0.0)
CONFIG = SpinConfig(steps=4, pairs=4, num_samples=6400, log_every=1, learning_rate=3e-3)
FRAMES, CODES, SPLIT = 60, 7, 45  # frames of rank 0; rank 1 has the rest


def targets(part: slice) -> Tensor:
    """Balance one part of a batch, some frames of which do not count."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.rand(FRAMES, CODES, generator=generator)
    scores += torch.linspace(0, 0.4, FRAMES)[:, None] * torch.linspace(0, 1, CODES)  # parts differ
    valid = torch.arange(FRAMES) % 5 > 0
    return sinkhorn(scores[part], 0.05, 3, valid[part])


def run(folder: Path, checkpoint: Path | None) -> dict[str, Tensor]:
    """Train on noise in two voices; return the weights and what was logged."""
    names = sorted(folder.glob("*.wav"))
    one, two = (
        Corpus(kind, [Utterance(str(n), str(n)) for n in names if n.name.startswith(kind)])
        for kind in ("one", "two")
    )
    torch.manual_seed(0)
    spin = Spin(SmallHubert(SIZES), SpinSizes(6, 12, 8))
    history = train_spin(spin, one, [two], CONFIG, checkpoint)
    logged = torch.tensor([[value for value in row.values()] for row in history])
    return dict(spin.state_dict()) | {"logged": logged}


def worker(rank: int, folder: Path) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    part = slice(0, SPLIT) if rank == 0 else slice(SPLIT, FRAMES)
    results = {"targets": targets(part), **run(folder, folder / "run.safetensors")}
    torch.save(results, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Recordings of different lengths in two voices, so that frames that count differ by rank."""
    place, generator = tmp_path_factory.mktemp("spin"), torch.Generator().manual_seed(5)
    for number, length in enumerate((4000, 6400, 9000, 3000)):
        wav = 0.1 * torch.randn(1, length, generator=generator)
        audio.write(place / f"one{number}.wav", wav, 16000)
        audio.write(place / f"two{number}.wav", 0.5 * wav + 0.01, 16000)
    return place


@pytest.fixture(scope="module")
def ranks(folder) -> list[dict[str, Tensor]]:
    """Results of two processes."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder)], env=env,
                         stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]  # fmt: skip
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_targets_are_balanced_over_the_joint_batch(ranks):
    joint = targets(slice(None))
    assert torch.allclose(torch.cat([rank["targets"] for rank in ranks]), joint, atol=1e-5)
    alone = torch.cat([targets(slice(0, SPLIT)), targets(slice(SPLIT, FRAMES))])
    assert not torch.allclose(alone, joint, atol=1e-2)  # it would show


def test_two_ranks_learn_what_one_learns_from_the_joint_batch(ranks, folder):
    joint = run(folder, None)
    for name, expected in joint.items():
        for rank in ranks:
            found, wanted = rank[name].float(), expected.float()
            if name.endswith("query_key_value.bias"):  # softmax takes no notice of the keys' bias,
                found, wanted = (one.view(3, -1)[::2] for one in (found, wanted))  # Adam does
            assert torch.allclose(found, wanted, atol=1e-5), name


def test_ranks_agree_to_the_last_bit(ranks):
    for name, value in ranks[0].items():
        assert name == "targets" or torch.equal(value, ranks[1][name]), name


def test_one_rank_writes_the_checkpoint(ranks, folder):
    assert (folder / "run.safetensors").is_file() and not list(folder.glob(".*partial"))


if __name__ == "__main__":
    worker(int(sys.argv[1]), Path(sys.argv[2]))
