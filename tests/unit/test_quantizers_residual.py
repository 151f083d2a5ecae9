"""The residual quantizer: depth, dropout, subsets and what each loss's gradient is."""

from __future__ import annotations

import pytest
import torch

from codec_lib.quantizers import ResidualVectorQuantizer


def latent(batch: int = 4, dim: int = 6, frames: int = 40) -> torch.Tensor:
    return torch.randn(batch, dim, frames)


def settled(**options) -> ResidualVectorQuantizer:
    """A quantizer after its k-means start."""
    quantizer = ResidualVectorQuantizer(6, 4, 16, **options)
    quantizer(latent())
    return quantizer


def grad(value: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(value.sum(), z, retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(z) if found is None else found


def test_shapes_of_everything():
    out = settled()(latent())
    assert out.z_q.shape == (4, 6, 40) and out.codes.shape == (4, 4, 40)
    assert out.losses["commitment_loss"].shape == (4,) and len(out.layers) == 4
    assert all(layer.shape == (4, 6, 40) for layer in out.layers)


@pytest.mark.parametrize("options", [{}, {"as_published": True}, {"codebook_dim": 3}])
def test_output_is_the_sum_of_layers_and_the_decoded_codes(options):
    quantizer, z = settled(**options).eval(), latent()
    out = quantizer(z)
    assert torch.allclose(out.z_q, sum(out.layers), atol=1e-6)
    assert torch.equal(out.codes, quantizer.encode(z))
    assert torch.allclose(out.z_q, quantizer.decode(out.codes), atol=1e-6)


def test_residual_gradient_is_right():
    """Reconstruction reaches the encoder once, every commitment loss reaches it."""
    quantizer, z = settled(), latent().requires_grad_()
    out = quantizer(z)
    assert torch.equal(grad(out.z_q, z), torch.ones_like(z))
    residual = z.detach()
    for layer, loss in zip(out.layers, out.losses["commitment_loss"], strict=True):
        assert torch.equal(grad(layer, z), torch.ones_like(z))
        residual = residual - layer.detach()
        expected = 2 * residual / residual.numel()  # d/dz mean (r_k - q_k)^2
        assert torch.allclose(grad(loss, z), expected, atol=1e-7)


def test_published_commitment_gradient_dies_after_the_first_layer():
    quantizer, z = settled(as_published=True), latent().requires_grad_()
    out = quantizer(z)
    norms = [grad(loss, z).norm().item() for loss in out.losses["commitment_loss"]]
    assert norms[0] > 0 and norms[1:] == [0.0, 0.0, 0.0]
    assert torch.equal(grad(out.z_q, z), torch.ones_like(z))


def test_factorised_gradients_chain():
    """The Jacobian of chained straight-through layers: I - prod(I - P_k), P = out in."""
    quantizer, z = settled(codebook_dim=3).eval(), latent(1, 6, 1).requires_grad_()
    out = quantizer(z)
    jacobian = torch.stack([grad(out.z_q[:, i], z).flatten() for i in range(6)])
    left = torch.eye(6)
    for layer in quantizer.layers:
        left = (torch.eye(6) - layer.out_proj.weight @ layer.in_proj.weight) @ left
    assert torch.allclose(jacobian, torch.eye(6) - left, atol=1e-5)
    out.z_q.sum().backward()
    assert all(layer.in_proj.weight.grad.norm() > 0 for layer in quantizer.layers)


def test_rotation_acts_once_on_the_sum():
    from codec_lib.quantizers import rotation_trick

    quantizer, z = settled(estimator="rotation").eval(), latent().requires_grad_()
    out, weight = quantizer(z), torch.randn(4, 6, 40)
    rows, target = z.transpose(1, 2), quantizer.decode(out.codes).transpose(1, 2)
    expected = grad(rotation_trick(rows, target) * weight.transpose(1, 2), z)
    assert torch.allclose(grad(out.z_q * weight, z), expected, atol=1e-5)


def test_first_codes_are_a_prefix():
    quantizer, z = settled().eval(), latent()
    full = quantizer.encode(z)
    for n_q in (1, 2, 3):
        assert torch.equal(quantizer.encode(z, n_q), full[:, :n_q])
        out = quantizer(z, n_q)
        assert torch.equal(out.codes, full[:, :n_q]) and len(out.layers) == n_q
        assert out.losses["commitment_loss"].shape == (n_q,)


def test_any_subset_decodes_and_subsets_add_up():
    quantizer, z = settled().eval(), latent()
    codes = quantizer.encode(z)
    parts = quantizer.decode(codes, layers=[0, 2]) + quantizer.decode(codes, layers=[3, 1])
    assert torch.allclose(parts, quantizer.decode(codes), atol=1e-6)
    assert torch.equal(quantizer.decode(codes, layers=[]), torch.zeros(4, 6, 40))
    assert torch.equal(quantizer.decode(codes[:, :2]), quantizer.decode(codes, layers=range(2)))


def test_a_number_of_codebooks_per_item():
    quantizer, z = settled().eval(), latent()
    codes, depths = quantizer.encode(z), torch.tensor([1, 2, 3, 4])
    out = quantizer(z, n_q=depths)
    assert out.codes.shape == (4, 4, 40)
    for item, depth in enumerate(depths):
        expected = quantizer.decode(codes[item : item + 1, :depth])[0]
        assert torch.allclose(out.z_q[item], expected, atol=1e-6)
    full = quantizer(z).losses["commitment_loss"]
    kept = quantizer(z[1:], n_q=torch.tensor([4, 4, 4])).losses["commitment_loss"]
    assert torch.allclose(out.losses["commitment_loss"][0], full[0])
    assert torch.allclose(out.losses["commitment_loss"][1], kept[1] * 3 / 4)  # cut items are zero


def test_dropout_draws_per_item_and_repeats_with_the_seed():
    quantizer, z = settled(quantizer_dropout=0.5), latent(64)
    torch.manual_seed(7)
    depths = quantizer.draw_depths(400)
    assert set(depths.tolist()) == {1, 2, 3, 4}
    assert 0.5 < (depths == 4).float().mean() < 0.75  # half untouched, an eighth drawn full
    outs = []
    for _ in range(2):
        copied = ResidualVectorQuantizer(6, 4, 16, quantizer_dropout=0.5)
        copied.load_state_dict(quantizer.state_dict())
        torch.manual_seed(7)
        outs.append(copied(z).z_q)
    assert torch.equal(*outs)
    assert not torch.allclose(outs[0], quantizer(z, n_q=4).z_q, atol=1e-3)
    quantizer.eval()
    assert torch.equal(quantizer(z).z_q, quantizer(z, n_q=4).z_q)  # training only


def test_dropout_leaves_the_gradient_whole():
    quantizer, z = settled(quantizer_dropout=1.0), latent().requires_grad_()
    assert torch.equal(grad(quantizer(z).z_q, z), torch.ones_like(z))


def test_layers_start_from_different_rows():
    quantizer = ResidualVectorQuantizer(6, 3, 16)
    states = {int(layer.random_state) for layer in quantizer.layers}
    assert len(states) == 3


def test_half_precision_input_keeps_its_type():
    quantizer, z = settled().eval(), latent()
    out = quantizer(z.bfloat16())
    assert out.z_q.dtype == torch.bfloat16 and out.layers[0].dtype == torch.bfloat16
    assert out.losses["commitment_loss"].dtype == torch.float32


def test_wrong_arguments_and_inputs():
    with pytest.raises(ValueError, match="num_quantizers"):
        ResidualVectorQuantizer(6, 0, 16)
    with pytest.raises(ValueError, match="quantizer_dropout"):
        ResidualVectorQuantizer(6, 2, 16, quantizer_dropout=1.5)
    quantizer, z = settled(), latent()
    for n_q in (0, 5):
        with pytest.raises(ValueError, match="expected 1 to 4"):
            quantizer.encode(z, n_q)
    with pytest.raises(ValueError, match="expected numbers from 1 to 4"):
        quantizer(z, n_q=torch.tensor([1, 2, 3, 5]))
    with pytest.raises(ValueError, match="n_q"):
        quantizer(z, n_q=torch.tensor([1, 2]))
    codes = quantizer.encode(z)
    with pytest.raises(ValueError, match="layers: got \\[4\\]"):
        quantizer.decode(codes, layers=[4])
    with pytest.raises(ValueError, match="expected 1 to 4"):
        quantizer.decode(torch.cat([codes, codes], dim=1))
    with pytest.raises(ValueError, match="expected 0 to 15"):
        quantizer.decode(codes + 16)
