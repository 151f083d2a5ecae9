"""Product, scalar, SimVQ, anchored and dual quantizers: values, gradients, round trips, errors."""

from __future__ import annotations

import pytest
import torch

from codec_lib.quantizers import (
    AnchoredQuantizer,
    AsymmetricDualQuantizer,
    FiniteScalarQuantizer,
    ProductQuantizer,
    ResidualQuantizer,
    SimVQ,
    VectorQuantizer,
    codebook_health,
    random_anchor,
    random_anchor_like,
)

IN = ("in_proj.weight", "in_proj.bias")


def latent(batch: int = 3, dim: int = 8, frames: int = 40) -> torch.Tensor:
    return torch.randn(batch, dim, frames)


def grads(value: torch.Tensor, quantizer: torch.nn.Module, z: torch.Tensor) -> dict[str, float]:
    """Norm of the gradient of a scalar at the latent and at every parameter, by name."""
    wanted = {"z": z, **dict(quantizer.named_parameters())}
    found = torch.autograd.grad(value, list(wanted.values()), retain_graph=True, allow_unused=True)
    norms = (0.0 if g is None else g.norm().item() for g in found)
    return dict(zip(wanted, norms, strict=True))


def reached(value: torch.Tensor, quantizer: torch.nn.Module, z: torch.Tensor) -> set[str]:
    """Names of what gets gradient from a scalar."""
    return {name for name, norm in grads(value, quantizer, z).items() if norm > 0}


# --- product -------------------------------------------------------------------------------------


def test_mixed_radix_by_hand_and_back():
    quantizer = ProductQuantizer(8, num_parts=4, codebook_size=16)
    digits = torch.tensor([[[1], [2], [3], [4]]])  # (1, 4, 1)
    assert quantizer.join(digits).tolist() == [[[((1 * 16 + 2) * 16 + 3) * 16 + 4]]]
    everything = torch.arange(16**4).view(1, 1, -1)
    assert torch.equal(quantizer.join(quantizer.split(everything)), everything)
    with pytest.raises(ValueError, match="expected 0 to 65535"):
        quantizer.split(torch.tensor([[[16**4]]]))
    with pytest.raises(ValueError, match="expected 0 to 15"):
        quantizer.join(digits + 15)


def test_parts_are_quantizers_of_their_channels():
    joint, apart = ProductQuantizer(8), ProductQuantizer(8, joint=False)
    joint.eval(), apart.eval()
    apart.load_state_dict(joint.state_dict())
    z = latent()
    one, four = joint(z), apart(z)
    alone = [part(z[:, 2 * p : 2 * p + 2]) for p, part in enumerate(joint.parts)]
    assert torch.equal(one.z_q, torch.cat([out.z_q for out in alone], dim=1))
    assert torch.equal(joint.split(one.codes), four.codes) and torch.equal(one.z_q, four.z_q)
    assert torch.equal(four.codes, torch.cat([out.codes for out in alone], dim=1))
    losses = torch.cat([out.losses["commitment_loss"] for out in alone])
    assert torch.allclose(four.losses["commitment_loss"], losses)
    assert torch.allclose(one.losses["commitment_loss"], losses.sum().reshape(1))
    assert torch.equal(apart.decode(four.codes, layers=[1])[:, 2:4], one.z_q[:, 2:4])
    assert apart.decode(four.codes, layers=[1])[:, [0, 1, 4, 5, 6, 7]].eq(0).all()


def test_both_utilisations_of_a_product():
    quantizer = ProductQuantizer(8).eval()
    codes = quantizer.encode(latent(frames=200))
    joint = codebook_health(codes, quantizer.codebook_sizes)
    parts = codebook_health(quantizer.split(codes), 16)
    assert joint["usage"].item() == codes.unique().numel() / 16**4
    assert parts["usage"].shape == (4,) and parts["usage"].min() > joint["usage"]


def test_product_arguments():
    with pytest.raises(ValueError, match="multiple of num_parts = 3"):
        ProductQuantizer(8, num_parts=3)
    with pytest.raises(ValueError, match="2\\^63"):
        ProductQuantizer(16, num_parts=16, codebook_size=16)
    factorised = ProductQuantizer(8, num_parts=2, update="gradient", codebook_dim=2)
    z = latent().requires_grad_()
    out = factorised(z)
    assert reached(out.z_q.sum(), factorised, z) >= {"z", "parts.1.out_proj.weight"}
    assert reached(out.losses["codebook_loss"].sum(), factorised, z) == {
        "parts.0.codebook",
        "parts.1.codebook",
    }


# --- finite scalar -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["centred", "published", "symmetric"])
@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (5, 5, 3, 3, 3), (4, 3)])
def test_every_code_decodes_to_a_point_that_encodes_to_it(form, levels):
    quantizer = FiniteScalarQuantizer(len(levels), levels, form)
    codes = torch.arange(quantizer.codebook_size).view(1, 1, -1)
    points = quantizer.decode(codes)  # in [-1, 1], evenly spaced
    assert points.abs().max() <= 1 and len(points[0].T.unique(dim=0)) == codes.numel()
    digits = quantizer.to_digits(codes[:, 0])
    assert torch.equal(quantizer.to_codes(digits), codes[:, 0])
    reach = torch.stack([torch.full((len(levels),), x) for x in (-20.0, 20.0)])  # (2, channels)
    ends = quantizer.to_digits(quantizer.search_rows(reach))
    assert ends[0].eq(0).all() and torch.equal(ends[1] + 1, torch.tensor(levels))


def test_scalar_levels_by_hand():
    quantizer = FiniteScalarQuantizer(1, (5,))
    z = torch.tensor([[[-9.0, -0.6, 0.0, 0.2, 0.3, 9.0]]])  # 2.002 tanh(z): round to -2 .. 2
    assert quantizer(z).z_q.tolist() == [[[-1, -0.5, 0, 0, 0.5, 1]]]
    assert quantizer.encode(z).tolist() == [[[0, 1, 2, 2, 3, 4]]]
    symmetric = FiniteScalarQuantizer(1, (4,), "symmetric")
    assert torch.allclose(symmetric(z).z_q.unique(), torch.tensor([-1, -1 / 3, 1 / 3, 1]))


def test_only_the_centred_form_maps_zero_to_the_middle():
    """For even levels tan does not undo tanh: the printed listing is off, its cure is not."""
    bounds = {
        form: FiniteScalarQuantizer(1, (4,), form).bound(torch.zeros(1)).item()
        for form in ("centred", "published")
    }
    assert abs(bounds["centred"]) < 1e-6 and abs(bounds["published"]) > 1e-4


def test_scalar_gradient_is_that_of_the_bound():
    quantizer, z = FiniteScalarQuantizer(4), latent(dim=4).requires_grad_()
    rows = z.detach().transpose(1, 2).requires_grad_()
    found = torch.autograd.grad(quantizer(z).z_q.sum(), z)[0]
    scaled = quantizer.bound(rows) / torch.tensor([4, 2, 2, 2])
    assert torch.allclose(found.transpose(1, 2), torch.autograd.grad(scaled.sum(), rows)[0])


def test_scalar_projections_learn_and_levels_are_checked():
    quantizer, z = FiniteScalarQuantizer(8), latent().requires_grad_()
    assert reached(quantizer(z).z_q.pow(2).sum(), quantizer, z) == {
        "z", "in_proj.weight", "in_proj.bias", "out_proj.weight", "out_proj.bias",
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"3 to 1000 each\. Hint: form='symmetric'"):
        FiniteScalarQuantizer(8, (8, 2))
    with pytest.raises(ValueError, match="form"):
        FiniteScalarQuantizer(8, form="tan")
    most = FiniteScalarQuantizer(1, (1000,))
    assert most.encode(torch.tensor([[[-20.0, 20.0]]])).tolist() == [[[0, 999]]]
    with pytest.raises(ValueError, match=r"got \(1001,\), expected 3 to 1000 each"):
        FiniteScalarQuantizer(1, (1001,))
    assert FiniteScalarQuantizer(8, (2, 2), "symmetric").codebook_sizes == (4,)


# --- SimVQ ---------------------------------------------------------------------------------------


def test_decode_applies_the_basis():
    quantizer = SimVQ(8, 16, codebook_dim=5)
    codes = torch.arange(16).view(1, 1, 16)
    entries = quantizer.frozen_codebook @ quantizer.basis.weight.T + quantizer.basis.bias
    assert torch.allclose(quantizer.decode(codes)[0].T, entries, atol=1e-6)
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


def test_simvq_gradients():
    quantizer, z = SimVQ(8, 16), latent().requires_grad_()
    out = quantizer(z)
    assert reached(out.z_q.sum(), quantizer, z) == {"z"}
    assert reached(out.losses["commitment_loss"].sum(), quantizer, z) == {"z"}
    basis = {"basis.weight", "basis.bias"}
    assert reached(out.losses["codebook_loss"].sum(), quantizer, z) == basis
    assert "frozen_codebook" in dict(quantizer.named_buffers())
    assert torch.equal(torch.autograd.grad(out.z_q.sum(), z)[0], torch.ones_like(z))


def test_the_basis_moves_entries_that_nothing_chose():
    """Same steps and data: a plain codebook leaves a third dead, SimVQ next to none."""
    z, used = 6 * latent(4, 4, 100), {}
    plain = {"update": "gradient", "kmeans_init": False, "dead_code_threshold": 0}
    for quantizer in (SimVQ(4, 64), VectorQuantizer(4, 64, **plain)):
        optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.2)
        for _ in range(30):
            optimizer.zero_grad()
            quantizer(z).losses["codebook_loss"].sum().backward()
            optimizer.step()
        used[type(quantizer)] = quantizer.encode(z).unique().numel()
    assert used[SimVQ] > 55 and used[VectorQuantizer] < 50


# --- anchored ------------------------------------------------------------------------------------


def test_strategies_look_up_what_they_say():
    table, z = torch.randn(12, 8), latent()
    rows = z.transpose(1, 2).reshape(-1, 8)
    for strategy in ("codebook_projection", "feature_projection", "direct"):
        quantizer = AnchoredQuantizer(8, table, strategy)
        entries, features = table, rows
        if strategy == "codebook_projection":
            entries = quantizer.basis(table)
        elif strategy == "feature_projection":
            features = quantizer.in_proj(rows)
        nearest = torch.cdist(features, entries).argmin(dim=1)
        assert torch.equal(quantizer.encode(z).flatten(), nearest), strategy
        values = quantizer(z).z_q.transpose(1, 2).reshape(-1, 8)
        assert torch.allclose(values, entries[nearest], atol=1e-6), strategy


@pytest.mark.parametrize(
    ("strategy", "width", "commitment", "codebook"),
    [
        ("codebook_projection", 12, {"z"}, {"basis.weight", "basis.bias"}),
        ("feature_projection", 8, {"z", *IN}, set()),
        ("feature_projection", 12, {"z", *IN}, {"basis.weight", "basis.bias"}),
        ("direct", 8, {"z"}, set()),
    ],
)  # fmt: skip
def test_who_learns_under_each_strategy(strategy, width, commitment, codebook):
    quantizer, z = AnchoredQuantizer(8, random_anchor(12, width), strategy), latent()
    z.requires_grad_()
    before = quantizer.frozen_codebook.clone()
    losses = quantizer(z).losses
    assert reached(losses["commitment_loss"].sum(), quantizer, z) == commitment
    if codebook:
        assert reached(losses["codebook_loss"].sum(), quantizer, z) == codebook
    else:
        assert not losses["codebook_loss"].requires_grad
    assert commitment | codebook == {"z", *dict(quantizer.named_parameters())}  # everything learns
    assert torch.equal(quantizer.frozen_codebook, before)


def test_anchor_tables_are_checked():
    with pytest.raises(ValueError, match="expected 8 for direct lookup"):
        AnchoredQuantizer(8, random_anchor(12, 6), "direct")
    with pytest.raises(ValueError, match="expected one of codebook_projection"):
        AnchoredQuantizer(8, random_anchor(12, 8), "nearest")
    with pytest.raises(ValueError, match="table: got NaN"):
        AnchoredQuantizer(8, torch.full((12, 8), torch.nan))
    assert torch.equal(random_anchor(5, 4, seed=1), random_anchor(5, 4, seed=1))
    assert not torch.equal(random_anchor(5, 4, seed=1), random_anchor(5, 4, seed=2))


def test_random_control_keeps_mean_and_covariance_and_nothing_else():
    mixing = torch.randn(6, 6, generator=torch.Generator().manual_seed(3))
    table = 5 * random_anchor(4000, 6, seed=2) @ mixing + torch.arange(6.0)
    control = random_anchor_like(table)
    scale = torch.cov(table.T).diagonal().max()
    assert (torch.cov(control.T) - torch.cov(table.T)).abs().max() < 0.1 * scale
    assert (control.mean(0) - table.mean(0)).abs().max() < 0.1 * scale.sqrt()
    assert torch.cdist(control, table).diagonal().min() > 0  # no row stays
    assert torch.equal(control, random_anchor_like(table))
    assert not torch.equal(control, random_anchor_like(table, seed=1))


def test_random_control_of_fewer_rows_than_width_stays_in_their_span():
    table = random_anchor(5, 12, seed=1) + 1
    control = random_anchor_like(table)
    assert torch.linalg.matrix_rank(torch.cat([table, control]) - table.mean(0), tol=1e-4) == 4
    with pytest.raises(ValueError, match="got 1 row"):
        random_anchor_like(table[:1])


# --- SACodec's pair ------------------------------------------------------------------------------


def dual(**options) -> AsymmetricDualQuantizer:
    sizes = {"anchor_size": 10, "anchor_dim": 12, "codebook_size": 16}
    return AsymmetricDualQuantizer(8, **{**sizes, **options})


def test_dual_equations_by_hand():
    quantizer, z = dual(), latent()
    first, second = quantizer.layers
    h = z.transpose(1, 2).reshape(-1, 8)
    projected = first.basis(first.frozen_codebook)  # Eq. (1)
    e1 = projected[torch.cdist(h, projected).argmin(1)]  # Eq. (2)
    r = h - e1.detach()  # Eq. (3)
    basis = second.basis(second.frozen_codebook)
    e2 = basis[torch.cdist(r, basis).argmin(1)]  # Eq. (4)
    out = quantizer(z)
    assert torch.allclose(out.z_q.transpose(1, 2).reshape(-1, 8), e1 + e2, atol=1e-5)
    for name in ("commitment_loss", "codebook_loss"):
        expected = torch.stack([(h - e1).pow(2).mean(), (r - e2).pow(2).mean()])
        assert torch.allclose(out.losses[name], expected, atol=1e-5)
    assert torch.allclose(quantizer.decode(out.codes), out.z_q, atol=1e-5)


def test_dual_gradient_once_to_the_encoder_each_projector_its_own_and_nothing_frozen():
    quantizer, z = dual(), latent().requires_grad_()
    out = quantizer(z)
    reconstruction = torch.autograd.grad(out.z_q.sum(), z, retain_graph=True)[0]
    assert torch.equal(reconstruction, torch.ones_like(z))  # once, as the identity
    assert reached(out.z_q.sum(), quantizer, z) == {"z"}
    for k, losses in enumerate(out.losses["commitment_loss"]):
        assert reached(losses, quantizer, z) == {"z"}, k
    for k, loss in enumerate(out.losses["codebook_loss"]):
        assert reached(loss, quantizer, z) == {f"layers.{k}.basis.{n}" for n in ("weight", "bias")}
    learnt = {f"layers.{k}.basis.{n}" for k in (0, 1) for n in ("weight", "bias")}
    assert set(dict(quantizer.named_parameters())) == learnt
    frozen = {"layers.0.frozen_codebook", "layers.1.frozen_codebook"}
    assert set(dict(quantizer.named_buffers())) == frozen
    assert not any(buffer.requires_grad for buffer in quantizer.buffers())


def test_second_commitment_reaches_the_encoder_as_the_first_does():
    quantizer, z = dual(), latent().requires_grad_()
    out = quantizer(z)
    residual = z.detach() - out.layers[0].detach() - out.layers[1].detach()
    expected = 2 * residual / residual.numel()
    found = torch.autograd.grad(out.losses["commitment_loss"][1], z)[0]
    assert torch.allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "sizes", "first"),
    [
        ({}, (10, 16), AnchoredQuantizer),
        ({"use_first": False}, (16,), SimVQ),
        ({"use_second": False}, (10,), AnchoredQuantizer),
        ({"first": "learnable"}, (10, 16), VectorQuantizer),
        ({"first": "random"}, (10, 16), AnchoredQuantizer),
        ({"anchor_size": 5, "codebook_size": 32}, (5, 32), AnchoredQuantizer),
        ({"strategy": "feature_projection"}, (10, 16), AnchoredQuantizer),
        ({"strategy": "direct", "anchor_dim": 8}, (10, 16), AnchoredQuantizer),
    ],
)
def test_ablations_are_arguments(options, sizes, first):
    quantizer, z = dual(**options), latent().requires_grad_()
    out = quantizer(z)
    assert quantizer.codebook_sizes == sizes and quantizer.num_quantizers == len(sizes)
    assert type(quantizer.layers[0]) is first
    loss = out.z_q.pow(2).sum() + sum(values.sum() for values in out.losses.values())
    assert reached(loss, quantizer, z) == {"z", *dict(quantizer.named_parameters())}
    assert torch.equal(torch.autograd.grad(out.z_q.sum(), z)[0], torch.ones_like(z))


def test_random_first_keeps_the_sizes_of_the_table_but_not_its_values():
    table = torch.randn(7, 9)
    anchored, control = dual(table=table), dual(table=table, first="random")
    assert torch.equal(anchored.layers[0].frozen_codebook, table)
    assert control.layers[0].frozen_codebook.shape == (7, 9)
    assert not torch.equal(control.layers[0].frozen_codebook, table)
    with pytest.raises(ValueError, match="expected a quantizer"):
        dual(use_first=False, use_second=False)
    with pytest.raises(ValueError, match="first"):
        dual(first="plain")


def test_layers_of_different_kinds_learn_or_are_refused():
    z = latent().requires_grad_()
    mixed = ResidualQuantizer([VectorQuantizer(8, 5), SimVQ(8, 7)])  # moving averages, then SimVQ
    losses = mixed(z).losses["codebook_loss"]
    assert losses[0] == 0 and losses[1] > 0
    assert reached(losses.sum(), mixed, z) == {"layers.1.basis.weight", "layers.1.basis.bias"}
    with pytest.raises(ValueError, match="some with projections and some without"):
        ResidualQuantizer([SimVQ(8, 7), VectorQuantizer(8, 5, codebook_dim=2)])
    with pytest.raises(ValueError, match="got FiniteScalarQuantizer, expected quantizers with an"):
        ResidualQuantizer([SimVQ(8, 7), FiniteScalarQuantizer(8)])


def test_paper_size_of_the_pair():
    with torch.device("meta"):
        quantizer = AsymmetricDualQuantizer(768, torch.zeros(1000, 768))
    assert sum(p.numel() for p in quantizer.parameters()) == 2 * (768 * 768 + 768)


# --- weight norm ---------------------------------------------------------------------------------


def test_weight_normed_projections():
    quantizer = VectorQuantizer(8, 16, codebook_dim=3, weight_norm=True, update="gradient")
    g, v = (getattr(quantizer.in_proj.parametrizations.weight, f"original{i}") for i in (0, 1))
    assert torch.allclose(quantizer.in_proj.weight, g * v / v.norm(dim=1, keepdim=True))
    lengths = torch.tensor([1.0, 2.0, 3.0])
    published = {"weight_g": lengths[:, None], "weight_v": v.clone(), "bias": torch.zeros(3)}
    quantizer.in_proj.load_state_dict(published)  # the old key layout, which BigCodec uses
    assert torch.allclose(quantizer.in_proj.weight.norm(dim=1), lengths)


def test_l2_lookup_passes_and_compares_lengths():
    """DAC, BigCodec: the cosine chooses, but value and losses are those of rows as they are."""
    quantizer = VectorQuantizer(2, 2, l2_normalize=True, update="gradient", kmeans_init=False)
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[10.0, 0.0], [0.0, 0.1]]))
    out = quantizer.eval()(torch.tensor([[[1.0], [0.5]]]))
    assert out.codes.item() == 0 and out.z_q.flatten().tolist() == [10.0, 0.0]
    assert out.losses["codebook_loss"].item() == pytest.approx((9**2 + 0.5**2) / 2)
