"""Costs of a network: counts by formula, on the meta device, and what an encoder hears."""

from __future__ import annotations

import time

import torch
from torch import nn

from codec_lib.blocks.seanet import SEANetDecoder, SEANetEncoder
from codec_lib.evaluation.costs import count_costs, processor_seconds, samples_heard


def test_counts_follow_the_formula() -> None:
    up = count_costs(nn.ConvTranspose1d(3, 6, 8, 4), torch.zeros(2, 3, 50))
    assert up["multiply_adds"] == 2 * 50 * 3 * 6 * 8
    assert up["written"] == 2 * 6 * (49 * 4 + 8)
    lstm = count_costs(nn.LSTM(4, 5), torch.zeros(7, 1, 4))
    assert lstm["written"] == 7 * 5
    assert lstm["parameters"] == 4 * 5 * (4 + 5 + 2)


def test_meta_and_real_agree_and_nothing_is_left_behind() -> None:
    def network() -> nn.Module:
        sizes = {"latent_dim": 4, "width": 2, "strides": (4, 2)}
        return nn.Sequential(SEANetEncoder(**sizes), SEANetDecoder(**sizes))

    real = network()
    with torch.device("meta"):
        counted = count_costs(network(), torch.zeros(1, 1, 160))
    assert counted == count_costs(real, torch.zeros(1, 1, 160))
    assert not any(layer._forward_hooks for layer in real.modules())


def test_processor_time_does_not_count_sleep() -> None:
    assert processor_seconds(lambda: time.sleep(0.02), 2) < 0.015


def test_a_symmetric_encoder_hears_both_sides() -> None:
    sizes = {"latent_dim": 2, "width": 2, "strides": (2, 2), "lstm_layers": 0}
    gradient, first, last = samples_heard(SEANetEncoder(**sizes), 200)
    assert gradient.shape == (200,)
    assert first < 0 and last > 3
    assert samples_heard(SEANetEncoder(**sizes, causal=True), 200)[2] == 3
