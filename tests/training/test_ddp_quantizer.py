"""Two CPU processes learn the codebooks that one process learns from the joint batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from codec_lib.quantizers import HealthTracker, ResidualVectorQuantizer

STEPS, ITEMS, DIM = 6, 4, 5
SPLIT = 3  # items of rank 0; rank 1 has the one left, so that ranks differ in size
FORMS = {
    "ema": {},
    "revival": {"dead_code_threshold": 0.8},
    "gradient": {"update": "gradient", "dead_code_threshold": 0.8},
    "factorised": {"codebook_dim": 3, "l2_normalize": True},
    "published": {"as_published": True},
    "published gradient": {"as_published": True, "update": "gradient"},
}


def run(form: str, part: slice) -> dict[str, Tensor]:
    """Train on one part of every batch; return the state, the codes and how many codes revived."""
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(DIM, 3, 16, **FORMS[form])
    tracker = HealthTracker(3, 16)
    generator, codes, revived = torch.Generator().manual_seed(1), [], 0
    for _ in range(STEPS):
        z = torch.randn(ITEMS, DIM, 30, generator=generator)[part]
        codes.append(quantizer(z).codes)
        tracker.update(codes[-1])
        revived += sum(int(layer.num_revived) for layer in quantizer.layers)
    state = {name: value.detach() for name, value in quantizer.state_dict().items()}
    usage = tracker.compute("cpu")["perplexity"]
    return state | {"codes": torch.cat(codes), "revived": torch.tensor(revived), "usage": usage}


def worker(rank: int, folder: Path) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    part = slice(0, SPLIT) if rank == 0 else slice(SPLIT, ITEMS)
    results = {form: run(form, part) for form in FORMS}
    torch.save(results, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, dict[str, Tensor]]]:
    """Results of two processes, by form."""
    folder = tmp_path_factory.mktemp("ranks")
    root = str(Path(__file__).parents[2])
    command = [sys.executable, __file__]
    env = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [*command, str(r), str(folder)], env=env, stderr=subprocess.PIPE, text=True
        )
        for r in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return [torch.load(folder / f"{r}.pt", weights_only=True) for r in range(2)]


@pytest.mark.parametrize("form", ["ema", "revival", "gradient", "factorised"])
def test_two_ranks_learn_what_one_learns_from_the_joint_batch(ranks, form):
    joint = run(form, slice(None))
    for name, expected in joint.items():
        for rank in ranks:
            if name == "codes":
                continue
            assert torch.allclose(rank[form][name].float(), expected.float(), atol=1e-4), name
    # torch.cat put step after step; items are in rank order within each step
    steps = [rank[form]["codes"].unflatten(0, (STEPS, -1)) for rank in ranks]
    codes = torch.cat(steps, dim=1).flatten(0, 1)
    assert torch.equal(codes, joint["codes"])


def test_revival_was_at_work(ranks):
    assert ranks[0]["revival"]["revived"] > 0 and ranks[0]["gradient"]["revived"] > 0


def test_ranks_agree_to_the_last_bit(ranks):
    for form in ("ema", "revival", "gradient", "factorised"):
        for name, value in ranks[0][form].items():
            assert name == "codes" or torch.equal(value, ranks[1][form][name]), (form, name)


LEARNT = ("codebook", "codebook_sum", "cluster_size", "initialized")


@pytest.mark.parametrize("form", ["published", "published gradient"])
def test_the_published_form_learns_from_rank_0_alone(ranks, form):
    """DDP's broadcast before each forward: statistics are each rank's own, codebooks rank 0's."""
    first, second = (rank[form] for rank in ranks)
    alone = run(form, slice(0, SPLIT))  # what one process learns from the rows of rank 0
    for name, value in alone.items():
        if name.rpartition(".")[2] in LEARNT:
            assert torch.equal(first[name], value), name
            assert torch.equal(second[name], value), name
    assert torch.equal(first["codes"], alone["codes"])


if __name__ == "__main__":
    worker(int(sys.argv[1]), Path(sys.argv[2]))
