"""What the benchmark compares does the same work in every package."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from codec_lib.evaluation import peer_bench, peers
from codec_lib.evaluation.peer_training import dac_steps


@pytest.mark.parametrize("name", ["EnCodec", "Vocos"])
def test_every_package_gives_the_same(name: str) -> None:
    with torch.inference_mode():
        found = peers.PEERS[name](0.3)
        for action, runs in found.actions.items():
            ours = runs[peers.OURS]()
            assert ours.numel() > 100 and len(ours.unique()) > 10
            for package, run in runs.items():
                found_same = peer_bench.sameness(action, run(), ours)
                assert found_same.get("same_codes", 1.0) == 1.0, package
                assert found_same.get("largest_difference", 0.0) < 1e-5, package


def test_rows_name_the_packages_and_their_memory() -> None:
    rows = peer_bench.inference_rows("Vocos", 0.2, 2)
    assert [row["measured"] for row in rows] == ["Vocos 24 kHz, decode 0.2 s, against vocos"]
    assert 0 < rows[0]["peak_megabytes"] < 200 and 0 < rows[0]["their_megabytes"] < 200


def test_weights_of_another_shape_are_not_copied() -> None:
    class Parts(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            for part in peers.PARTS:
                setattr(self, part, nn.Linear(width, 2))

    source, target = Parts(3), Parts(3)
    peers.copy_weights(source, target)
    assert torch.equal(source.decoder.weight, target.decoder.weight)
    with pytest.raises(ValueError, match="encoder: got tensors of other shapes"):
        peers.copy_weights(source, Parts(4))


def test_a_package_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="nothing-like-it: not installed"):
        peers.imported("nothing_like_it", "nothing-like-it")


def test_training_rows_of_any_steps(monkeypatch) -> None:
    def steps(*arguments: object) -> dict[str, object]:
        return {"theirs": lambda: {"mel": 2.0}, peers.OURS: lambda: {"mel": 2.02}}

    monkeypatch.setattr(peer_bench, "dac_steps", steps)
    (row,) = peer_bench.training_rows(1.0, 2, batch=8, device="cuda", bf16=True)
    assert row["measured"].endswith("step of 8 x 1 s on cuda, bf16, against theirs")
    assert row["losses_apart"] == pytest.approx(0.01) and "peak_megabytes" not in row


@pytest.mark.slow
def test_training_steps_have_equal_losses_and_gradients() -> None:
    """Two steps each: the second has the losses of what the first has learnt."""
    steps = dac_steps(0.1)
    for tolerance in (1e-4, 2e-2):
        losses = [step() for step in steps.values()]
        for name in losses[0]:
            assert losses[0][name] == pytest.approx(losses[1][name], rel=tolerance), name
