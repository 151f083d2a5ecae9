"""What holds for every size, seed and form of the quantizers."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_lib.quantizers import ResidualVectorQuantizer, VectorQuantizer, codebook_health

RUNS = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31 - 1)
forms = st.sampled_from(
    [
        {},
        {"as_published": True},
        {"update": "gradient"},
        {"estimator": "rotation"},
        {"codebook_dim": 2},
        {"codebook_dim": 3, "l2_normalize": True, "update": "gradient"},
        {"quantizer_dropout": 0.5},
    ]
)
shapes = st.tuples(st.integers(1, 3), st.integers(2, 6), st.integers(1, 30))
depths = st.integers(1, 4)
sizes = st.integers(1, 20)


def make(shape, depth: int, size: int, form: dict, seed: int):
    """Return a quantizer after its start, and a new latent."""
    torch.manual_seed(seed)
    quantizer = ResidualVectorQuantizer(shape[1], depth, size, **form)
    quantizer(torch.randn(shape))
    return quantizer, torch.randn(shape)


@RUNS
@given(shapes, depths, sizes, forms, seeds)
def test_codes_are_in_range_and_the_same_in_training_and_eval(shape, depth, size, form, seed):
    quantizer, z = make(shape, depth, size, form, seed)
    expected = quantizer.eval().encode(z)
    assert expected.min() >= 0 and expected.max() < size
    assert torch.equal(quantizer(z).codes, expected)
    assert torch.equal(quantizer.train()(z).codes, expected)


@RUNS
@given(shapes, depths, sizes, forms, seeds)
def test_codes_of_fewer_codebooks_are_a_prefix(shape, depth, size, form, seed):
    quantizer, z = make(shape, depth, size, form, seed)
    full = quantizer.eval().encode(z)
    for n_q in range(1, depth + 1):
        assert torch.equal(quantizer.encode(z, n_q), full[:, :n_q])
        assert torch.equal(quantizer(z, n_q).codes, full[:, :n_q])


@RUNS
@given(shapes, depths, sizes, forms, seeds, st.data())
def test_decoding_adds_up_over_any_partition(shape, depth, size, form, seed, data):
    quantizer, z = make(shape, depth, size, form, seed)
    codes = quantizer.eval().encode(z)
    left = data.draw(st.sets(st.integers(0, depth - 1)))
    right = set(range(depth)) - left
    with torch.no_grad():
        whole = quantizer.decode(codes)
        parts = quantizer.decode(codes, left) + quantizer.decode(codes, right)
    assert torch.allclose(whole, parts, atol=1e-5)
    assert torch.allclose(whole, quantizer(z).z_q, atol=1e-5)


@RUNS
@given(st.integers(1, 8), st.integers(1, 40), seeds, st.booleans())
def test_every_entry_encodes_to_its_own_index(dim, size, seed, gradient):
    torch.manual_seed(seed)
    quantizer = VectorQuantizer(dim, size, update="gradient" if gradient else "ema").eval()
    with torch.no_grad():  # float32 scores tell entries apart that differ by 1e-3 of their length
        quantizer.codebook[:, 0] += 3 * torch.arange(size) * (-1) ** torch.arange(size)
    codes = torch.randperm(size).view(1, 1, size)
    vectors = quantizer.decode(codes)
    far_apart = torch.cdist(quantizer.codebook.detach(), quantizer.codebook.detach())
    far_apart.fill_diagonal_(1)
    if far_apart.min() > 0.1:
        assert torch.equal(quantizer.encode(vectors), codes)
        assert torch.equal(quantizer.decode(quantizer.encode(vectors)), vectors)


@settings(max_examples=10, deadline=None)
@given(seeds, st.sampled_from([{}, {"as_published": True}]), st.integers(2, 5))
def test_residuals_shrink_with_depth_after_the_start(seed, form, depth):
    torch.manual_seed(seed)
    quantizer = ResidualVectorQuantizer(6, depth, 16, **form)
    z = torch.randn(2, 6, 100) * torch.rand(1, 6, 1) + torch.randn(1, 6, 1)
    residual, norms = z, [z.norm().item()]
    for layer in quantizer(z).layers:
        residual = residual - layer.detach()
        norms.append(residual.norm().item())
    assert all(after < before for before, after in pairwise(norms))
    with torch.no_grad():  # unseen vectors of the same kind: on average too
        errors = [(quantizer.eval()(z.flip(2), n_q).z_q - z.flip(2)).norm() for n_q in (1, depth)]
    if not form:  # the released code shrinks its entries in the first step
        assert errors[1] < errors[0]


@RUNS
@given(shapes, sizes, forms, seeds)
def test_the_reconstruction_gradient_does_not_grow_with_depth(shape, size, form, seed):
    if "codebook_dim" in form or "estimator" in form:
        return
    quantizer, z = make(shape, 4, size, form, seed)
    z.requires_grad_()
    quantizer(z).z_q.sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))


@RUNS
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 50), st.integers(1, 30), seeds)
def test_health_stays_in_its_bounds(batch, depth, frames, size, seed):
    codes = torch.randint(
        0, size, (batch, depth, frames), generator=torch.Generator().manual_seed(seed)
    )
    health = codebook_health(codes, size, bigram=True)
    seen = (1 - health["dead_codes"] / size) * size
    assert torch.allclose(health["usage"], seen / size, atol=1e-6)
    assert (health["usage"] > 0).all() and (health["usage"] <= 1).all()
    assert (health["perplexity"] <= seen + 1e-3).all() and (health["perplexity"] > 0.999).all()
    assert torch.allclose(health["perplexity"].log2(), health["entropy_rate"], atol=1e-5)
    assert (
        health["bigram_entropy_rate"] <= torch.tensor(float(frames * batch)).log2() + 1e-5
    ).all()
