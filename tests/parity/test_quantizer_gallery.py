"""FSQ, SimVQ and residual SimVQ against ``vector-quantize-pytorch`` on the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codec_lib.quantizers import FiniteScalarQuantizer, ResidualQuantizer, SimVQ

lucid = pytest.importorskip("vector_quantize_pytorch")

DIM, SIZE, DEPTH = 8, 16, 3
CODECSLIME = (5, 5, 3, 3, 3, 3, 3, 3)  # FSQ18k


def latent() -> Tensor:
    return (2 * torch.randn(3, DIM, 40)).requires_grad_()


def grads(value: Tensor, wanted: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(value.sum(), wanted, retain_graph=True))


def assert_close(mine: list[Tensor], theirs: list[Tensor]) -> None:
    for ours, official in zip(mine, theirs, strict=True):
        assert torch.allclose(ours, official, atol=1e-5)


@pytest.mark.parametrize("form", ["centred", "symmetric"])
@pytest.mark.parametrize("levels", [(8, 5, 5, 5), CODECSLIME, (7, 4)])
def test_finite_scalar(form, levels):
    ours = FiniteScalarQuantizer(DIM, levels, form)
    official = lucid.FSQ(
        list(levels), dim=DIM, channel_first=True, preserve_symmetry=form == "symmetric"
    )
    official.project_in.load_state_dict(ours.in_proj.state_dict())
    official.project_out.load_state_dict(ours.out_proj.state_dict())
    z, weight = latent(), torch.randn(3, DIM, 40)
    z_q, codes = official(z)
    out = ours(z)
    assert torch.equal(out.codes[:, 0], codes.long())
    assert torch.allclose(out.z_q, z_q, atol=1e-5)
    mine = [z, *ours.parameters()]
    assert_close(grads(out.z_q * weight, mine), grads(z_q * weight, [z, *official.parameters()]))
    everything = torch.arange(ours.codebook_size).view(1, -1)
    assert torch.allclose(
        ours.decode(everything.unsqueeze(1)), official.indices_to_codes(everything), atol=1e-5
    )


def simvq_pair(rotation: bool, width: int = DIM) -> tuple[SimVQ, torch.nn.Module]:
    ours = SimVQ(
        DIM, SIZE, width, bias=False, estimator="rotation" if rotation else "straight_through"
    )
    official = lucid.SimVQ(
        DIM, SIZE, channel_first=True, rotation_trick=rotation, frozen_codebook_dim=width
    )
    official.frozen_codebook.copy_(ours.frozen_codebook)
    official.code_transform.load_state_dict(ours.basis.state_dict())
    return ours, official


@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize("width", [DIM, 5])
def test_simvq(rotation, width):
    """Their one loss is 0.25 commitment + 1 codebook."""
    ours, official = simvq_pair(rotation, width)
    z, weight = latent(), torch.randn(3, DIM, 40)
    z_q, codes, loss = official(z)
    out = ours(z)
    assert torch.equal(out.codes[:, 0], codes)
    assert torch.allclose(out.z_q, z_q, atol=1e-5)
    assert torch.allclose(ours.decode(out.codes), official.indices_to_codes(codes), atol=1e-6)
    assert_close(grads(out.z_q * weight, [z]), grads(z_q * weight, [z]))
    mine = 0.25 * out.losses["commitment_loss"] + out.losses["codebook_loss"]
    assert torch.allclose(mine, loss.reshape(1), atol=1e-6)
    assert_close(
        grads(mine, [z, ours.basis.weight]), grads(loss, [z, official.code_transform.weight])
    )


def test_residual_of_simvq():
    """Same codes, sums and losses; their gradient sums the layers, ours counts it once."""
    pairs = [simvq_pair(rotation=False) for _ in range(DEPTH)]
    ours = ResidualQuantizer([mine for mine, _ in pairs])
    official = lucid.ResidualSimVQ(
        dim=DIM, num_quantizers=DEPTH, codebook_size=SIZE, rotation_trick=False, channel_first=True
    )
    official.layers = torch.nn.ModuleList(theirs for _, theirs in pairs)
    z, weight = latent(), torch.randn(3, DIM, 40)
    z_q, codes, losses = official(z)
    out = ours(z)
    assert torch.equal(out.codes, codes.movedim(-1, 1))
    assert torch.allclose(out.z_q, z_q, atol=1e-5)
    mine = 0.25 * out.losses["commitment_loss"] + out.losses["codebook_loss"]
    assert torch.allclose(mine, losses.flatten(), atol=1e-6)
    bases = [layer.basis.weight for layer in ours.layers]
    theirs = [layer.code_transform.weight for layer in official.layers]
    assert_close(grads(mine, [z, *bases]), grads(losses, [z, *theirs]))
    assert_close([DEPTH * g for g in grads(out.z_q * weight, [z])], grads(z_q * weight, [z]))
