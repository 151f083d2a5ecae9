"""Transformer blocks: the identity at the start, positions, causality."""

from __future__ import annotations

import pytest
import torch

from codec_lib.blocks.transformer import Transformer, rotate


def trained(**options: object) -> Transformer:
    """Return a block whose output projections are no longer zero."""
    block = Transformer(16, num_heads=2, **options)
    for name, parameter in block.named_parameters():
        if name.endswith(("out.weight", "down.weight")):
            torch.nn.init.normal_(parameter, std=0.2)
    return block


def test_starts_as_an_identity_and_learns() -> None:
    block = Transformer(16, num_layers=3, num_heads=4)
    z = torch.randn(2, 16, 9)
    assert torch.equal(block(z), z)
    block(z).square().sum().backward()
    for name, parameter in block.named_parameters():
        learns_first = name.endswith(("out.weight", "down.weight"))
        assert (parameter.grad.abs().max() > 0) == learns_first, name
    optimizer = torch.optim.SGD(block.parameters(), 0.01)
    optimizer.step()
    optimizer.zero_grad()
    block(z).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in block.parameters())


def test_size_is_llamas() -> None:
    with torch.device("meta"):
        block = Transformer(1024, num_heads=16)
        hidden = 2736  # 8/3 of 1024, up to a multiple of 8
        assert block.layers[0].feed_forward.down.in_features == hidden
        weights = sum(p.numel() for p in block.parameters())
        assert weights == 4 * 1024**2 + 3 * 1024 * hidden + 2 * 1024
        assert Transformer(16, hidden_dim=20).layers[0].feed_forward.down.in_features == 20


def test_rotation_keeps_lengths_and_shows_distances_only() -> None:
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    queries, keys = rotate(q.expand(1, 1, 20, 8)), rotate(k.expand(1, 1, 20, 8))
    assert torch.allclose(queries.norm(dim=-1), q.norm().expand(20), atol=1e-5)
    products = (queries @ keys.transpose(2, 3))[0, 0]  # (F, F)
    for distance in (-3, 0, 5):
        diagonal = products.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-4)
    assert (products.diagonal(1)[0] - products.diagonal(2)[0]).abs() > 1e-3


def test_order_matters() -> None:
    block, z = trained(), torch.randn(1, 16, 12)
    assert not torch.allclose(block(z.flip(2)).flip(2), block(z), atol=1e-3)


@pytest.mark.parametrize("causal", [False, True])
def test_causal_form_ignores_the_future(causal: bool) -> None:
    block, z = trained(causal=causal), torch.randn(1, 16, 12)
    changed = z.clone()
    changed[..., 6:] += 1.0
    same = torch.allclose(block(z)[..., :6], block(changed)[..., :6], atol=1e-6)
    assert same == causal


@pytest.mark.parametrize("heads", [0, 3, 16])
def test_heads_of_odd_width_are_refused(heads: int) -> None:
    with pytest.raises(ValueError, match=f"num_heads: got {heads} for a width of 16"):
        Transformer(16, num_heads=heads)


@pytest.mark.filterwarnings("error")
def test_autocast_keeps_the_sum_and_the_positions_in_float32() -> None:
    block, z = trained(), torch.randn(1, 16, 300)
    with torch.autocast("cpu", torch.bfloat16):
        found = block(z.bfloat16())
    assert found.dtype == torch.float32
    assert (found - block(z.bfloat16().float())).abs().max() < 0.05
    far = torch.tensor([1.0, 0.0]).expand(1, 1, 300, 2).bfloat16()  # turned by 299 rad at most
    exact = torch.stack([torch.arange(300.0).cos(), torch.arange(300.0).sin()], dim=1)
    assert torch.equal(rotate(far)[0, 0], exact.bfloat16())
