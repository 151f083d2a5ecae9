"""What holds for every kind of quantizer, at every size and seed: the one protocol."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_lib.quantizers import (
    AnchoredQuantizer,
    AsymmetricDualQuantizer,
    Bottleneck,
    FiniteScalarQuantizer,
    ProductQuantizer,
    ResidualVectorQuantizer,
    SimVQ,
    VectorQuantizer,
    codebook_health,
    nearest,
    random_anchor,
)

RUNS = settings(max_examples=40, deadline=None)
DUAL = {"anchor_size": 5, "anchor_dim": 4, "codebook_size": 7}
KINDS = {
    "vector": lambda dim: VectorQuantizer(dim, 9),
    "weight norm": lambda dim: VectorQuantizer(dim, 9, codebook_dim=dim + 1, weight_norm=True),
    "residual": lambda dim: ResidualVectorQuantizer(dim, 3, 5),
    "product": lambda dim: ProductQuantizer(dim, 2, 3),
    "product apart": lambda dim: ProductQuantizer(dim, 2, 3, joint=False),
    "scalar": lambda dim: FiniteScalarQuantizer(dim, (4, 3, 5)),
    "symmetric": lambda dim: FiniteScalarQuantizer(dim, (2, 3), "symmetric"),
    "simvq": lambda dim: SimVQ(dim, 11, codebook_dim=3),
    "projected codebook": lambda dim: AnchoredQuantizer(dim, random_anchor(6, 4)),
    "projected features": lambda dim: AnchoredQuantizer(
        dim, random_anchor(6, 4), "feature_projection"
    ),
    "direct": lambda dim: AnchoredQuantizer(dim, random_anchor(6, dim), "direct"),
    "dual": lambda dim: AsymmetricDualQuantizer(dim, **DUAL),
    "dual, learnable": lambda dim: AsymmetricDualQuantizer(dim, first="learnable", **DUAL),
}
kinds = st.sampled_from(sorted(KINDS))
shapes = st.tuples(st.integers(1, 3), st.sampled_from([2, 4, 6]), st.integers(1, 20))
seeds = st.integers(0, 2**31 - 1)


def make(kind: str, shape: tuple[int, int, int], seed: int) -> tuple[Bottleneck, torch.Tensor]:
    """Return a quantizer that has seen a batch, in eval mode, and a new latent."""
    torch.manual_seed(seed)
    quantizer = KINDS[kind](shape[1])
    quantizer(torch.randn(shape))
    return quantizer.eval(), torch.randn(shape)


@RUNS
@given(kinds, shapes, seeds)
def test_the_protocol(kind, shape, seed):
    quantizer, z = make(kind, shape, seed)
    out, codes = quantizer(z), quantizer.encode(z)
    sizes, (batch, dim, frames) = quantizer.codebook_sizes, shape
    assert quantizer.latent_dim == dim and quantizer.num_quantizers == len(sizes)
    assert codes.shape == (batch, len(sizes), frames) and codes.dtype == torch.int64
    assert torch.equal(out.codes, codes) and torch.equal(quantizer.train()(z).codes, codes)
    assert all(
        0 <= row.min() and row.max() < n for row, n in zip(codes.unbind(1), sizes, strict=True)
    )
    assert out.z_q.shape == z.shape and out.z_q.dtype == z.dtype
    assert [layer.shape for layer in out.layers] == [z.shape] * len(sizes)
    assert all(values.shape == (len(sizes),) for values in out.losses.values())
    assert all((values >= 0).all() for values in out.losses.values())


@RUNS
@given(kinds, shapes, seeds)
def test_decoding_gives_what_training_saw_and_adds_up(kind, shape, seed):
    quantizer, z = make(kind, shape, seed)
    out = quantizer(z)
    streams = range(quantizer.num_quantizers)
    with torch.no_grad():
        decoded = quantizer.decode(out.codes)
        parts = [quantizer.decode(out.codes, layers=[k]) for k in streams]
    assert decoded.dtype == torch.float32 and torch.allclose(decoded, out.z_q, atol=1e-5)
    assert torch.allclose(sum(parts), decoded, atol=1e-5)
    for part, layer in zip(parts, out.layers, strict=True):
        assert torch.allclose(part, layer, atol=1e-5)
    assert torch.equal(quantizer.decode(out.codes, layers=[]), torch.zeros(shape))


@RUNS
@given(kinds, shapes, seeds)
def test_fewer_streams_are_a_prefix(kind, shape, seed):
    quantizer, z = make(kind, shape, seed)
    codes = quantizer.encode(z)
    for n_q in range(1, quantizer.num_quantizers + 1):
        out = quantizer(z, n_q=n_q)
        assert torch.equal(quantizer.encode(z, n_q), codes[:, :n_q])
        assert torch.equal(out.codes, codes[:, :n_q])
        each = quantizer(z, n_q=torch.full((shape[0],), n_q))
        assert torch.allclose(each.z_q, out.z_q, atol=1e-6)
        assert torch.allclose(out.z_q, quantizer.decode(codes[:, :n_q]), atol=1e-5)


@RUNS
@given(kinds, shapes, seeds)
def test_frames_do_not_see_each_other(kind, shape, seed):
    quantizer, z = make(kind, shape, seed)
    order = torch.randperm(shape[2])
    shuffled = quantizer.encode(z[:, :, order])
    assert (shuffled == quantizer.encode(z)[:, :, order]).float().mean() > 0.98


@RUNS
@given(kinds, shapes, seeds)
def test_gradient_is_finite_and_state_dicts_carry_everything(kind, shape, seed):
    quantizer, z = make(kind, shape, seed)
    z.requires_grad_()
    out = quantizer(z)
    (out.z_q.pow(2).sum() + sum(values.sum() for values in out.losses.values())).backward()
    assert torch.isfinite(z.grad).all()
    torch.manual_seed(seed + 1)
    copied = KINDS[kind](shape[1]).eval()
    copied.load_state_dict(quantizer.state_dict())
    assert torch.equal(copied.encode(z), out.codes)


@RUNS
@given(st.integers(1, 5), st.integers(1, 300), st.integers(1, 80), seeds)
def test_the_blocked_search_finds_the_nearest(dim, size, rows, seed):
    torch.manual_seed(seed)
    x, codebook = torch.randn(rows, dim), torch.randn(size, dim)
    distance = (x[:, None].double() - codebook[None].double()).norm(dim=2)  # what it never makes
    chosen = distance.gather(1, nearest(x, codebook)[:, None])[:, 0]
    assert torch.allclose(chosen, distance.min(dim=1).values, atol=1e-3)


@RUNS
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 60), seeds)
def test_health_of_each_size_is_that_of_the_codebook_alone(sizes, frames, seed):
    torch.manual_seed(seed)
    rows = [torch.randint(0, size, (2, 1, frames)) for size in sizes]
    together = codebook_health(torch.cat(rows, dim=1), sizes, bigram=True)
    for k, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        alone = codebook_health(row, size, bigram=True)
        for name, value in alone.items():
            assert math.isclose(
                float(together[name][k]), float(value), rel_tol=1e-5, abs_tol=1e-5
            ), name
