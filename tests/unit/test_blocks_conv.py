"""Convolutions, activations, recurrent layers: lengths, norms, causality."""

from __future__ import annotations

import pytest
import torch

from codec_lib.blocks.activations import (
    ALPHA_EPSILON,
    Snake,
    SnakeFunction,
    activation,
    snake_,
)
from codec_lib.blocks.conv import Conv1d, ConvTranspose1d, fold_weight_norm, num_frames, pad
from codec_lib.blocks.recurrent import SkipLSTM


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(7, 1, 1), (10, 5, 1), (3, 1, 4), (4, 4, 1)]
)
def test_conv_gives_ceil_frames(kernel: int, stride: int, dilation: int, causal: bool) -> None:
    conv = Conv1d(2, 3, kernel, stride, dilation, causal=causal)
    for length in range(1, 24):
        assert conv(torch.randn(1, 2, length)).shape == (1, 3, num_frames(length, stride))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), [(10, 5), (16, 8), (3, 3), (7, 2)])
def test_transposed_conv_gives_exact_samples(kernel: int, stride: int, causal: bool) -> None:
    conv = ConvTranspose1d(2, 3, kernel, stride, causal=causal)
    for frames in (1, 2, 7):
        assert conv(torch.randn(1, 2, frames)).shape == (1, 3, frames * stride)


def test_kernel_shorter_than_stride_is_rejected() -> None:
    with pytest.raises(ValueError, match="samples would be skipped"):
        Conv1d(1, 1, 3, stride=4)
    with pytest.raises(ValueError, match="holes"):
        ConvTranspose1d(1, 1, 3, stride=4)
    with pytest.raises(ValueError, match="norm: got 'batch'"):
        Conv1d(1, 1, 3, norm="batch")


def test_odd_padding_goes_left() -> None:
    conv = Conv1d(1, 1, 5, stride=2, bias=False, norm="none")  # 3 in all: 2 left, 1 right
    torch.nn.init.zeros_(conv.conv.weight)
    conv.conv.weight.data[0, 0, 2] = 1.0
    x = torch.arange(1.0, 7.0).reshape(1, 1, 6)
    assert conv(x).flatten().tolist() == [1.0, 3.0, 5.0]


def test_reflection_of_a_short_signal() -> None:
    x = torch.tensor([[[1.0, 2.0]]])
    padded = pad(x, 3, 2)
    assert padded.shape == (1, 1, 7)
    assert padded[0, 0, 3:5].tolist() == [1.0, 2.0]
    assert pad(x, 1, 1).flatten().tolist() == [2.0, 1.0, 2.0, 1.0]


def test_causal_conv_ignores_the_future() -> None:
    down, up = Conv1d(1, 4, 8, stride=4, causal=True), ConvTranspose1d(4, 1, 8, 4, causal=True)
    x = torch.randn(1, 1, 64)
    changed = x.clone()
    changed[..., 32:] += 1.0
    before, after = up(down(x)), up(down(changed))
    assert torch.allclose(before[..., :32], after[..., :32], atol=1e-6)
    assert not torch.allclose(before[..., 32:], after[..., 32:])


def test_folding_keeps_the_output() -> None:
    block = torch.nn.Sequential(Conv1d(1, 4, 7), ConvTranspose1d(4, 2, 8, 4))
    x = torch.randn(2, 1, 33)
    before = block(x)
    assert len(block.state_dict()) == 6  # g, v and bias of each
    assert fold_weight_norm(block) is block
    assert sorted(block.state_dict()) == [
        "0.conv.bias",
        "0.conv.weight",
        "1.conv.bias",
        "1.conv.weight",
    ]
    assert torch.allclose(block(x), before, atol=1e-6)
    fold_weight_norm(block)  # again is harmless


def test_snake_formula_and_gradient() -> None:
    snake = Snake(2)
    snake.alpha.data[0, :, 0] = torch.tensor([1.0, 3.0])
    x = torch.randn(1, 2, 5)
    expected = x + torch.sin(snake.alpha * x) ** 2 / snake.alpha
    assert torch.allclose(snake(x), expected, atol=1e-6)
    snake(x).sum().backward()
    assert snake.alpha.grad.abs().min() > 0


def test_snakes_own_gradient_is_the_derivative() -> None:
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    alpha = (torch.rand(1, 3, 1, dtype=torch.float64) + 0.5).requires_grad_()
    assert torch.autograd.gradcheck(SnakeFunction.apply, (x, alpha))
    by_hand = x + (alpha * x).sin().square() / (alpha + ALPHA_EPSILON)
    assert torch.allclose(SnakeFunction.apply(x, alpha), by_hand, atol=1e-12)


def test_snake_in_place_and_under_autocast() -> None:
    snake = Snake(70)
    snake.alpha.data.uniform_(0.3, 3.0)
    x = torch.randn(2, 1500, 70)  # several blocks
    expected = snake(x.transpose(1, 2)).transpose(1, 2)
    assert snake_(x, snake.alpha.flatten()) is x
    assert torch.allclose(x, expected, atol=1e-6)
    half = torch.randn(1, 70, 9).bfloat16().requires_grad_()
    snake(half).sum().backward()
    assert half.grad.dtype == torch.bfloat16 and snake.alpha.grad.dtype == torch.float32


def test_activation_by_name() -> None:
    assert isinstance(activation("snake", 3), Snake)
    for name in ("elu", "relu", "gelu", "leaky_relu"):
        assert activation(name, 3)(torch.zeros(1)).item() == 0.0
    with pytest.raises(ValueError, match="activation: got 'swish'"):
        activation("swish", 3)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_skip_lstm_adds_its_input(bidirectional: bool) -> None:
    layer = SkipLSTM(3, bidirectional=bidirectional)
    x = torch.randn(2, 3, 6)
    y, _ = layer.lstm(x.permute(2, 0, 1))
    copies = 2 if bidirectional else 1
    assert torch.allclose(layer(x), y.permute(1, 2, 0) + x.repeat(1, copies, 1))
    assert layer(x).shape == (2, 3 * copies, 6)
