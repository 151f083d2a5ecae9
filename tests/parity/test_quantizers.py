"""The quantizers against ``encodec`` and ``vector-quantize-pytorch`` on the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codec_lib.quantizers import (
    ResidualVectorQuantizer,
    VectorQuantizer,
    kmeans,
    rotation_trick,
)

core_vq = pytest.importorskip("encodec.quantization.core_vq")
lucid = pytest.importorskip("vector_quantize_pytorch")

DIM, SIZE, DEPTH = 8, 16, 4
NAMES = {
    "codebook": "embed",
    "codebook_sum": "embed_avg",
    "cluster_size": "cluster_size",
    "initialized": "inited",
}


def latent(batch: int = 3, frames: int = 40) -> Tensor:
    return torch.randn(batch, DIM, frames)


def grad(value: Tensor, z: Tensor) -> Tensor:
    found = torch.autograd.grad(value.sum(), z, retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(z) if found is None else found


# --- encodec -------------------------------------------------------------------------------------


def copy_to_encodec(layer: VectorQuantizer, official) -> None:
    for ours, theirs in NAMES.items():
        buffer = getattr(official._codebook, theirs)
        buffer.copy_(getattr(layer, ours).reshape(buffer.shape))


def encodec_pair(started: bool = True):
    """Return our published form and EnCodec's quantizer with the same buffers."""
    ours = ResidualVectorQuantizer(DIM, DEPTH, SIZE, as_published=True)
    official = core_vq.ResidualVectorQuantization(
        num_quantizers=DEPTH, dim=DIM, codebook_size=SIZE, kmeans_init=True, kmeans_iters=50
    )
    for layer, theirs in zip(ours.layers, official.layers, strict=True):
        if started:
            layer.codebook.normal_()
            layer.cluster_size.uniform_(3, 9)
            layer.codebook_sum.copy_(layer.codebook * layer.cluster_size.unsqueeze(1))
            layer.initialized.fill_(True)
        copy_to_encodec(layer, theirs)
    return ours, official


def assert_same_buffers(ours: ResidualVectorQuantizer, official, tolerance: float = 1e-5) -> None:
    for layer, theirs in zip(ours.layers, official.layers, strict=True):
        for name, their_name in NAMES.items():
            mine, expected = getattr(layer, name), getattr(theirs._codebook, their_name)
            assert torch.allclose(
                mine.float(), expected.float().reshape(mine.shape), atol=tolerance
            ), name


def test_encodec_eval_codes_output_and_decoding():
    ours, official = encodec_pair()
    ours.eval(), official.eval()
    z = latent()
    for n_q in (1, DEPTH):
        z_q, codes, _ = official(z, n_q)
        out = ours(z, n_q)
        assert torch.equal(out.codes, codes.transpose(0, 1))
        assert torch.allclose(out.z_q, z_q, atol=1e-6)
        assert torch.equal(ours.encode(z, n_q), official.encode(z, n_q).transpose(0, 1))
    assert torch.allclose(ours.decode(out.codes), official.decode(codes), atol=1e-6)


def test_encodec_training_steps():
    """Codes, outputs, losses, gradients and moving averages over several steps."""
    ours, official = encodec_pair()
    for _ in range(6):
        z = latent().requires_grad_()
        z_q, codes, losses = official(z)
        out = ours(z)
        assert torch.equal(out.codes, codes.transpose(0, 1))
        assert torch.allclose(out.z_q, z_q, atol=1e-5)
        assert torch.allclose(out.losses["commitment_loss"], losses.flatten(), atol=1e-6)
        assert torch.allclose(grad(out.z_q, z), grad(z_q, z), atol=1e-6)
        for mine, theirs in zip(out.losses["commitment_loss"], losses, strict=True):
            assert torch.allclose(grad(mine, z), grad(theirs, z), atol=1e-7)
        assert_same_buffers(ours, official)


def test_encodec_kmeans_start_and_the_steps_after(monkeypatch):
    ours, official = encodec_pair(started=False)
    chosen = [torch.Generator().manual_seed(int(v.random_state)) for v in ours.layers]
    starts = [torch.randperm(120, generator=g)[:SIZE] for g in chosen]
    queue = iter(starts)  # the same first means; dead codes then draw what they like: no effect
    original = core_vq.sample_vectors

    def sample(samples: Tensor, num: int) -> Tensor:
        first = next(queue, None)
        return original(samples, num) if first is None else samples[first]

    monkeypatch.setattr(core_vq, "sample_vectors", sample)
    z = latent()
    ours.eval(), official.eval()  # the published start also runs in eval mode
    assert torch.equal(ours(z).codes, official(z)[1].transpose(0, 1))
    assert_same_buffers(ours, official)
    ours.train(), official.train()
    for _ in range(4):
        z = latent()
        assert torch.equal(ours(z).codes, official(z)[1].transpose(0, 1))
        assert_same_buffers(ours, official)


def test_encodec_kmeans_alone():
    rows, seed = torch.randn(300, DIM), 5
    torch.manual_seed(seed)
    means, counts = core_vq.kmeans(rows, SIZE, 50)
    mine = kmeans(rows, SIZE, 50, torch.Generator().manual_seed(seed))
    assert torch.allclose(mine[0], means, atol=1e-5) and torch.equal(mine[1].long(), counts)


def test_encodec_dead_codes_stay_dead_in_both():
    ours, official = encodec_pair()
    far = torch.full((SIZE // 2, DIM), 1000.0)
    for layer, theirs in zip(ours.layers, official.layers, strict=True):
        layer.codebook[: SIZE // 2] = far
        layer.codebook_sum[: SIZE // 2] = far * 1e-2
        layer.cluster_size[: SIZE // 2] = 1e-2
        copy_to_encodec(layer, theirs)
    for _ in range(5):
        z = latent()
        assert torch.equal(ours(z).codes, official(z)[1].transpose(0, 1))
    assert_same_buffers(ours, official, tolerance=1e-2)  # entries of 1000
    assert (official.layers[0]._codebook.embed[: SIZE // 2] > 900).all()


# --- vector-quantize-pytorch ---------------------------------------------------------------------


def copy_to_lucid(layer: VectorQuantizer, official) -> None:
    book = official._codebook
    book.embed.data.copy_(layer.codebook.detach().unsqueeze(0))
    book.embed_avg.copy_((layer.codebook * layer.cluster_size.unsqueeze(1)).detach().unsqueeze(0))
    book.cluster_size.copy_(layer.cluster_size.unsqueeze(0))


def lucid_pair(rotation: bool = False, **options):
    """Return our quantizer, its counts known, and lucidrains' with the same weights."""
    ours = VectorQuantizer(
        DIM,
        SIZE,
        kmeans_init=False,
        dead_code_threshold=0,
        estimator="rotation" if rotation else "straight_through",
        **options,
    )
    with torch.no_grad():
        ours.codebook.normal_()
        ours.cluster_size.uniform_(3, 9)
        if ours.update == "ema":
            ours.codebook_sum.copy_(ours.codebook * ours.cluster_size.unsqueeze(1))
    learns = ours.update == "gradient"
    official = lucid.VectorQuantize(
        dim=DIM,
        codebook_size=SIZE,
        codebook_dim=options.get("codebook_dim"),
        decay=0.99,
        threshold_ema_dead_code=0,
        rotation_trick=rotation,
        learnable_codebook=learns,
        ema_update=not learns,
        channel_last=False,
    )
    copy_to_lucid(ours, official)
    if ours.is_factorised:
        official.project_in.load_state_dict(ours.in_proj.state_dict())
        official.project_out.load_state_dict(ours.out_proj.state_dict())
    return ours, official


@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize("codebook_dim", [None, 3])
def test_lucid_outputs_gradients_and_moving_averages(rotation, codebook_dim):
    ours, official = lucid_pair(rotation, codebook_dim=codebook_dim)
    for _ in range(4):
        z, weight = latent().requires_grad_(), latent()
        z_q, codes, loss = official(z)
        out = ours(z)
        assert torch.equal(out.codes[:, 0], codes)
        assert torch.allclose(out.z_q, z_q, atol=1e-5)
        assert torch.allclose(grad(out.z_q * weight, z), grad(z_q * weight, z), atol=1e-4)
        assert torch.allclose(out.losses["commitment_loss"], loss, atol=1e-6)
        assert torch.allclose(grad(out.losses["commitment_loss"], z), grad(loss, z), atol=1e-6)
        for mine, theirs in (
            (ours.codebook, official._codebook.embed),
            (ours.cluster_size, official._codebook.cluster_size),
            (ours.codebook_sum, official._codebook.embed_avg),
        ):
            assert torch.allclose(mine, theirs[0], atol=1e-5)


def test_lucid_rotation_alone():
    from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

    z, q, weight = torch.randn(50, DIM, requires_grad=True), torch.randn(50, DIM), torch.rand(DIM)
    mine, theirs = rotation_trick(z, q), rotate_to(z, q)
    assert torch.allclose(mine, theirs, atol=1e-5)
    assert torch.allclose(grad(mine * weight, z), grad(theirs * weight, z), atol=1e-5)


def test_lucid_gradient_codebook():
    """Their one loss sums both sides: its gradient at the entries is that of codebook_loss."""
    ours, official = lucid_pair(update="gradient")
    z = latent()
    loss = official(z)[2]
    out = ours(z)
    loss.sum().backward()
    out.losses["codebook_loss"].sum().backward()
    assert torch.allclose(ours.codebook.grad, official._codebook.embed.grad[0], atol=1e-6)


@pytest.mark.parametrize("rotation", [False, True])
def test_lucid_residual(rotation):
    """Same codes, sums and losses; their gradient sums the layers, ours counts it once."""
    estimator = "rotation" if rotation else "straight_through"
    ours = ResidualVectorQuantizer(
        DIM, DEPTH, SIZE, kmeans_init=False, dead_code_threshold=0, estimator=estimator
    )
    official = lucid.ResidualVQ(
        dim=DIM,
        num_quantizers=DEPTH,
        codebook_size=SIZE,
        decay=0.99,
        threshold_ema_dead_code=0,
        rotation_trick=rotation,
    )
    for layer, theirs in zip(ours.layers, official.layers, strict=True):
        layer.cluster_size.uniform_(3, 9)
        layer.codebook_sum.copy_(layer.codebook * layer.cluster_size.unsqueeze(1))
        copy_to_lucid(layer, theirs)
    for _ in range(3):
        z, weight = latent().requires_grad_(), latent()
        rows = z.transpose(1, 2)
        z_q, codes, losses = official(rows)
        out = ours(z)
        assert torch.equal(out.codes, codes.permute(0, 2, 1))
        assert torch.allclose(out.z_q, z_q.transpose(1, 2), atol=1e-5)
        assert torch.allclose(out.losses["commitment_loss"], losses.flatten(), atol=1e-6)
        theirs = grad(z_q * weight.transpose(1, 2), z)
        assert torch.allclose(grad(sum(out.layers) * weight, z), theirs, atol=1e-4)
        if not rotation:
            assert torch.allclose(grad(out.z_q * weight, z) * DEPTH, theirs, atol=1e-4)
