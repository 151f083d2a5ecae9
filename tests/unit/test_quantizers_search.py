"""Nearest entry, k-means, gradient estimators, and entries that are kept between searches."""

from __future__ import annotations

import copy
import resource

import pytest
import torch

from codec_lib.quantizers import (
    AnchoredQuantizer,
    AsymmetricDualQuantizer,
    SimVQ,
    kmeans,
    nearest,
    random_anchor,
    rotation_trick,
    straight_through,
)
from codec_lib.quantizers.search import cluster_sums, half_norms


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nearest_is_brute_force():
    rows, codebook = torch.randn(200, 5), torch.randn(17, 5)
    brute = (rows[:, None] - codebook[None]).pow(2).sum(-1).argmin(1)
    assert torch.equal(nearest(rows, codebook), brute)
    assert torch.equal(nearest(rows, codebook, half_norms(codebook)), brute)


def test_nearest_takes_the_lowest_index_of_ties():
    entry = torch.tensor([[1.0, 2.0]])
    codebook = torch.cat([entry + 5, entry, entry, entry])
    assert nearest(entry.repeat(3, 1), codebook).tolist() == [1, 1, 1]
    middle = torch.tensor([[0.0, 0.0]])
    assert nearest(middle, torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])).item() == 0


def test_nearest_in_blocks_is_nearest_at_once(monkeypatch):
    rows, codebook = torch.randn(101, 4), torch.randn(8, 4)
    whole = nearest(rows, codebook)
    from codec_lib.quantizers import search

    monkeypatch.setattr(search, "SCORES", 8 * 7)  # 7 rows at a time
    assert torch.equal(nearest(rows, codebook), whole)
    monkeypatch.setattr(search, "SCORES", 1)  # less than one row still takes one
    assert torch.equal(nearest(rows, codebook), whole)


def test_nearest_of_no_rows_is_empty():
    codes = nearest(torch.zeros(0, 3), torch.randn(4, 3))
    assert codes.shape == (0,) and codes.dtype == torch.int64


def test_cluster_sums_are_counts_and_sums():
    rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    counts, sums = cluster_sums(rows, torch.tensor([2, 2, 0]), 4)
    assert counts.tolist() == [1, 0, 2, 0]
    assert sums.tolist() == [[0, 3], [0, 0], [3, 0], [0, 0]]


def test_kmeans_finds_separated_clusters():
    centres = 20 * torch.eye(6)
    rows = centres.repeat(40, 1) + 0.1 * torch.randn(240, 6)
    best = min(
        (kmeans(rows, 6, generator=generator(seed)) for seed in range(8)),
        key=lambda found: torch.cdist(rows, found[0]).min(1).values.sum().item(),
    )
    gaps = torch.cdist(centres, best[0]).min(1).values
    assert gaps.max() < 0.2 and best[1].tolist() == [40] * 6


def test_kmeans_stops_when_nothing_changes():
    rows = torch.randn(60, 3)
    few = kmeans(rows, 4, iterations=60, generator=generator())
    many = kmeans(rows, 4, iterations=500, generator=generator())
    assert torch.equal(few[0], many[0]) and torch.equal(few[1], many[1])
    assert few[1].sum() == 60


def test_kmeans_with_fewer_rows_than_clusters():
    means, counts = kmeans(torch.randn(3, 2), 8, generator=generator())
    assert means.shape == (8, 2) and means.isfinite().all() and counts.sum() == 3


def test_kmeans_at_paper_scale_needs_little_memory():
    """900 rows on 1024 entries of width 1024: the published form takes 3.8 GB for differences."""
    rows = torch.randn(900, 1024)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB: the most so far
    means, _ = kmeans(rows, 1024, iterations=2, generator=generator())
    assert means.shape == (1024, 1024)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_straight_through_value_and_gradient():
    z, z_q = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4)
    out, weight = straight_through(z, z_q), torch.randn(5, 4)
    assert torch.equal(out, z_q)  # to the last bit
    (out * weight).sum().backward()
    assert torch.equal(z.grad, weight)


def test_rotation_trick_is_the_explicit_matrix():
    z, q = torch.randn(6, requires_grad=True), torch.randn(6)
    z_hat, q_hat = z.detach() / z.detach().norm(), q / q.norm()
    r = (z_hat + q_hat) / (z_hat + q_hat).norm()
    rotation = torch.eye(6) - 2 * torch.outer(r, r) + 2 * torch.outer(q_hat, z_hat)
    assert torch.allclose(rotation @ rotation.T, torch.eye(6), atol=1e-5)
    assert torch.allclose(rotation @ z_hat, q_hat, atol=1e-5)
    weight = torch.randn(6)
    out = rotation_trick(z, q)
    assert torch.equal(out, q)
    (out * weight).sum().backward()
    scale = q.norm() / z.detach().norm()
    assert torch.allclose(z.grad, scale * rotation.T @ weight, atol=1e-5)


def test_rotation_trick_keeps_the_angle_between_gradient_and_vector():
    z, q = torch.randn(50, 8, requires_grad=True), torch.randn(50, 8)
    weight = torch.randn(50, 8)
    (rotation_trick(z, q) * weight).sum().backward()
    at_entry = torch.cosine_similarity(weight, q, dim=1)
    at_encoder = torch.cosine_similarity(z.grad, z.detach(), dim=1)
    assert torch.allclose(at_entry, at_encoder, atol=1e-4)


@pytest.mark.parametrize("which", ["z", "q"])
def test_rotation_trick_falls_back_without_a_direction(which):
    z = torch.zeros(1, 3) if which == "z" else torch.randn(1, 3)
    q = torch.zeros(1, 3) if which == "q" else torch.randn(1, 3)
    z.requires_grad_()
    rotation_trick(z, q).sum().backward()
    assert torch.equal(z.grad, torch.ones(1, 3))


CHANGES = {
    "nothing": lambda q: None,
    "the map, unseen by autograd": lambda q: q.basis.weight.data.mul_(-1),
    "one number": lambda q: q.basis.bias.data[3].add_(100),
    "the table": lambda q: q.frozen_codebook.data.copy_(q.frozen_codebook.flip(0)),
    "loading": lambda q: q.load_state_dict({n: v.flip(0) for n, v in q.state_dict().items()}),
    "another map": lambda q: setattr(q, "basis", torch.nn.Linear(5, 8, bias=False)),
    "a longer map": lambda q: setattr(q, "basis", torch.nn.Sequential(q.basis, torch.nn.Tanh())),
    "the mode": lambda q: q.train(),
}


@pytest.mark.parametrize("change", list(CHANGES))
@pytest.mark.parametrize(
    "kind", [lambda: SimVQ(8, 16, 5), lambda: AnchoredQuantizer(8, random_anchor(16, 5))]
)
def test_kept_entries_are_those_of_the_table_and_the_map(kind, change):
    quantizer, z = kind().eval(), torch.randn(2, 8, 40)
    for _ in range(2):
        codes = quantizer.encode(z)
    CHANGES[change](quantizer)
    entries = quantizer.basis(quantizer.frozen_codebook).detach()
    expected = nearest(z.transpose(1, 2).flatten(0, 1), entries).view(2, 1, 40)
    assert torch.equal(quantizer.encode(z), expected)
    with torch.no_grad():
        decoded = quantizer.decode(codes).transpose(1, 2)
    assert torch.allclose(decoded, entries[codes[:, 0]], atol=1e-6)
    assert not any("made" in name for name in quantizer.state_dict())


def test_the_map_runs_once_while_nothing_changes():
    quantizer = AsymmetricDualQuantizer(8, anchor_size=10, anchor_dim=12, codebook_size=16)
    calls = []
    for layer in quantizer.layers:
        layer.basis.register_forward_hook(lambda *_: calls.append(1))
    z = torch.randn(2, 8, 40)
    with torch.autocast("cpu", torch.bfloat16):  # entries stay in float32
        codes = [quantizer.encode(z) for _ in range(3)]
    copied = copy.deepcopy(quantizer).to(torch.float64).float()
    assert len(calls) == 2 and torch.equal(codes[0], quantizer(z).codes)
    assert all(torch.equal(again.encode(z), codes[0]) for again in (quantizer, copied))
    weight = quantizer.layers[0].basis.weight
    quantizer.decode(codes[0]).sum().backward()  # with gradient nothing is kept
    assert weight.grad.abs().sum() > 0
