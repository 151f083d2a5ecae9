"""Training a quantizer on bare frames: what it learns and returns, and that runs repeat."""

from __future__ import annotations

import pytest
import torch

from codec_lib.quantizers import ResidualVectorQuantizer, SimVQ, VectorQuantizer
from codec_lib.training.frames import train_on_frames


def trained(quantizer, steps: int = 30, **options) -> dict[str, torch.Tensor]:
    frames = torch.randn(400, 6, generator=torch.Generator().manual_seed(1))
    return train_on_frames(quantizer, frames, frames, steps, **options)


def test_the_record_is_of_the_trained_quantizer():
    torch.manual_seed(0)
    quantizer = SimVQ(4, 16)
    before = quantizer.codebook.detach().clone()
    record = trained(quantizer)
    assert not quantizer.training and not torch.equal(before, quantizer.codebook)
    assert record["usage"].shape == record["perplexity"].shape == (30, 1)
    assert 0 < record["usage"].min() and record["usage"].max() <= 1
    assert torch.equal(record["codes"], quantizer.encode(record["z"].T[None]))


def test_more_steps_lower_the_error_and_a_seed_repeats():
    errors = []
    for steps in (1, 60, 60):
        torch.manual_seed(0)
        errors.append(trained(VectorQuantizer(4, 16), steps, seed=3)["error"])
    assert errors[1] < errors[0] - 0.05 and errors[1] == errors[2]


def test_without_networks_the_frames_are_the_latent():
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(6, 3, 8)  # moving averages: nothing for an optimiser
    record = trained(quantizer, width=0)
    decoded = quantizer.decode(record["codes"])[0].T
    assert record["usage"].shape == (30, 3)
    assert torch.allclose(record["error"], (decoded - record["z"]).pow(2).mean().sqrt())
    with pytest.raises(ValueError, match="width: got 0 with D = 4"):
        trained(SimVQ(4, 16), width=0)


def test_frames_are_checked():
    with pytest.raises(ValueError, match="frames"):
        train_on_frames(SimVQ(4, 16), torch.randn(2, 3, 6), torch.randn(5, 6), 1)
    with pytest.raises(ValueError, match="unheard"):
        train_on_frames(SimVQ(4, 16), torch.randn(5, 6), torch.randn(5, 7), 1)
