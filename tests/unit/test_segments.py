"""Averaging and repeating by lengths, Melt's draws and Cool's cuts."""

from __future__ import annotations

import pytest
import torch

from codec_lib.quantizers import VectorQuantizer
from codec_lib.rate import Cool, Melt, average, repeat, schedule, token_index
from codec_lib.rate.segments import to_items, to_row

LENGTHS = torch.tensor([[2, 1, 3, 0], [1, 1, 2, 2]])


def test_means_and_repeats_by_hand():
    z = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    index = token_index(LENGTHS, 6)
    tokens = average(z, index)
    assert tokens.shape == (1, 3, 7)
    by_hand = [part.mean(dim=1) for part in z[0].split([2, 1, 3], dim=1)]
    by_hand += [part.mean(dim=1) for part in z[1].split([1, 1, 2, 2], dim=1)]
    torch.testing.assert_close(tokens[0].T, torch.stack(by_hand))
    wide = repeat(tokens, index)
    assert wide.shape == z.shape and torch.equal(wide[0, :, 0], wide[0, :, 1])
    torch.testing.assert_close(average(wide, index), tokens)  # a projection
    assert torch.equal(to_row(to_items(tokens, LENGTHS), LENGTHS), tokens)


def test_segments_of_one_frame_change_nothing():
    z = torch.randn(3, 4, 9)
    index = token_index(torch.ones(3, 9, dtype=torch.int64), 9)
    assert torch.equal(repeat(average(z, index), index), z)


def test_means_of_half_precision_are_rounded_once():
    z = torch.tensor([[[256.0, 1.0, 1.0, 1.0]]], dtype=torch.bfloat16)  # 256 + 1 = 256 in bfloat16
    mean = average(z, token_index(torch.tensor([[4]]), 4))
    assert mean.dtype == torch.bfloat16 and float(mean) == float(torch.tensor(64.75).bfloat16())


def test_gradient_is_shared_by_a_segments_frames():
    z = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    index = token_index(LENGTHS, 6)
    assert torch.autograd.gradcheck(lambda x: repeat(average(x, index), index), z)
    average(z, index).sum().backward()
    expected = torch.tensor([1 / 2, 1 / 2, 1, 1 / 3, 1 / 3, 1 / 3], dtype=torch.float64)
    torch.testing.assert_close(z.grad[0, 0], expected)


def test_a_row_of_tokens_is_quantized_as_the_items_are():
    quantizer = VectorQuantizer(3, 11).eval()
    z = torch.randn(2, 3, 6)
    index = token_index(LENGTHS, 6)
    row = quantizer.encode(average(z, index))
    apart = [
        quantizer.encode(average(z[b : b + 1], token_index(LENGTHS[b : b + 1], 6))) for b in (0, 1)
    ]
    assert torch.equal(row, torch.cat(apart, dim=2))


@pytest.mark.parametrize(
    "lengths", [[[2, 1]], [[4, -1]], [[3, 0, 0, 1]], [[1, 1, 1]], [[5]]], ids=str
)
def test_lengths_that_do_not_fit_are_refused(lengths):
    with pytest.raises(ValueError, match="lengths: got rows of sums"):
        token_index(torch.tensor(lengths), 4)
    with pytest.raises(TypeError, match=r"expected torch\.int64"):
        token_index(torch.ones(1, 4), 4)


@pytest.mark.parametrize("frames", [1, 3, 80, 81])
@pytest.mark.parametrize("step", [0, 30, 100, 250])
def test_melt_fills_every_frame(frames, step):
    generator = torch.Generator().manual_seed(step)
    for _ in range(20):
        found = Melt(ramp_steps=100, bypass=0).lengths(step, 3, frames, generator)
        assert found.dtype == torch.int64 and 1 <= found.min() and found.max() <= 4
        assert found.sum(dim=1).tolist() == [frames] * 3
        assert torch.equal(*found[:2].sort(dim=1).values)  # the same lengths for every item


def test_melts_rate_falls_along_the_ramp_to_the_published_mean():
    generator, sizes = torch.Generator().manual_seed(0), torch.arange(1, 5).double()
    melt = Melt(ramp_steps=100, bypass=0)
    rates = [80 / float(melt.mixture(step) @ sizes) for step in (0, 25, 50, 75, 100)]
    assert rates == pytest.approx([80, 57.7, 45.1, 37.0, 31.4], abs=0.1)
    printed = Melt(ramp_steps=100, leftover="longest")
    rates = [80 / float(printed.mixture(step) @ sizes) for step in (0, 25, 50, 75, 100)]
    assert rates == pytest.approx([20, 22, 24.4, 27.5, 31.4], abs=0.1)
    drawn = [melt.lengths(100, 1, 800, generator).shape[1] / 10 for _ in range(400)]
    assert sum(drawn) / len(drawn) == pytest.approx(31.4, rel=0.03)
    spread = [
        torch.stack([melt.draw(s, generator) for _ in range(400)]).std(0)[1] for s in (100, 200)
    ]
    assert float(spread[0]) == pytest.approx(0.09, abs=0.02) and spread[1] > 1.5 * spread[0]


def test_melt_keeps_the_share_of_batches_that_it_says():
    generator = torch.Generator().manual_seed(0)
    found = [Melt(bypass=0.5, ramp_steps=1).lengths(5, 1, 40, generator) for _ in range(400)]
    kept = sum(bool((one == 1).all()) for one in found)
    assert 160 < kept < 240
    again = Melt(bypass=0.5, ramp_steps=1).lengths(5, 1, 40, torch.Generator().manual_seed(0))
    assert torch.equal(again, found[0])


def test_cool_cuts_as_the_scheduler_and_lets_some_pass():
    z = torch.randn(64, 5, 40, generator=torch.Generator().manual_seed(0))
    cool = Cool(bypass=0.3)
    kept = cool.kept(64, torch.Generator().manual_seed(0))
    found = cool.cut(z, kept)
    assert torch.equal((found == 1).all(dim=1), kept)
    assert 8 < int(kept.sum()) < 32 and found.sum(dim=1).eq(40).all()
    expected = schedule(z[~kept].transpose(1, 2), 20)
    assert torch.equal(found[~kept][:, :20], expected) and not found[~kept][:, 20:].any()


@pytest.mark.parametrize(
    "options",
    [
        {"target": (0.5, 0.6)},
        {"target": ()},
        {"target": (float("nan"),) * 4},
        {"leftover": "first"},
        {"bypass": 1.5},
        {"ramp_steps": 0},
        {"ramp_steps": float("nan")},
    ],
    ids=str,
)
def test_senseless_melts_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        Melt(**options)
    with pytest.raises(ValueError, match=r"ratio, bypass: got 5\.0"):
        Cool(ratio=5.0)


def test_an_index_of_another_batch_is_refused():
    index = token_index(torch.tensor([[2, 1], [1, 2]]), 3)
    with pytest.raises(ValueError, match="index: got shape"):
        average(torch.zeros(1, 4, 3), index)
