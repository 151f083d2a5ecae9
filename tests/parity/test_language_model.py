"""The unified language model against torch's own Transformer, in the released key layout."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from codec_lib.lm.layers import prefix_mask, real
from codec_lib.lm.unified import Batch, build_unified

SIZES = {"dim": 16, "num_heads": 2, "hidden_dim": 64, "ar_layers": 2, "nar_layers": 2}
K, N, S, F = 4, 20, 7, 9


class ReleasedNorm(nn.Module):
    """The adaptive norm as the released code has it; the condition is set from outside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project_layer, self.norm = nn.Linear(dim, 2 * dim), nn.LayerNorm(dim)
        self.condition = torch.zeros(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift."""
        weight, bias = self.project_layer(self.condition).split(self.norm.normalized_shape[0], -1)
        return weight * self.norm(x) + bias


def _encoder(norm: type[nn.Module]) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(16, 2, 64, dropout=0, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, norm(16), enable_nested_tensor=False)
    for one in encoder.layers:
        one.norm1, one.norm2 = norm(16), norm(16)
    return encoder  # in training mode: its shortcut for inference wants its own norms


def _sines(length: int) -> Tensor:
    """Return the positions as the released code writes them."""
    table, place = torch.zeros(length, 16), torch.arange(length)[:, None].float()
    step = torch.exp(torch.arange(0, 16, 2).float() * -(math.log(10000.0) / 16))
    table[:, 0::2], table[:, 1::2] = torch.sin(place * step), torch.cos(place * step)
    return table


@pytest.fixture
def batch() -> Batch:
    text, codes = torch.randint(4, 30, (2, S)), torch.randint(N, (2, K, F))
    return Batch(text, torch.tensor([S, 4]), codes, torch.tensor([F, 6]))


@pytest.fixture
def released() -> dict[str, Tensor]:
    """Random weights in the released layout."""
    state = {f"ar_decoder.{k}": v for k, v in _encoder(nn.LayerNorm).state_dict().items()}
    state |= {f"nar_decoder.{k}": v for k, v in _encoder(ReleasedNorm).state_dict().items()}
    for model in ("ar", "nar"):
        state[f"{model}_text_embedding.word_embeddings.weight"] = torch.randn(30, 16)
        for part in ("text", "audio"):
            state[f"{model}_{part}_position.alpha"] = torch.rand(1)
    state["ar_audio_embedding.word_embeddings.weight"] = torch.randn(N + 1, 16)
    state["ar_predict_layer.weight"] = torch.randn(N + 1, 16)
    for k in range(K):
        table = torch.randn(N + (k == 0), 16)
        state[f"nar_audio_embeddings.{k}.word_embeddings.weight"] = table
    for k in range(K - 1):
        state[f"nar_stage_embeddings.{k}.word_embeddings.weight"] = torch.randn(1, 16)
        shared = state.get(f"nar_audio_embeddings.{k + 2}.word_embeddings.weight")
        state[f"nar_predict_layers.{k}.weight"] = torch.randn(N, 16) if shared is None else shared
    return state


@pytest.fixture
def model(released):
    config = {**SIZES, "num_symbols": 30, "num_quantizers": K, "num_codes": N}
    model = build_unified("paper", **config)
    model.load_published({"model": released})
    return model.eval()


def _embedded(state: dict[str, Tensor], model: str, text: Tensor, spoken: Tensor) -> Tensor:
    """Return text and frames with their positions, as the released code puts them together."""
    written = state[f"{model}_text_embedding.word_embeddings.weight"][text]
    written = written + state[f"{model}_text_position.alpha"] * _sines(text.shape[1])
    spoken = spoken + state[f"{model}_audio_position.alpha"] * _sines(spoken.shape[1])
    return torch.cat([written, spoken], dim=1)


def test_first_codebook_is_that_of_torchs_encoder(released, model, batch):
    encoder = _encoder(nn.LayerNorm)
    encoder.load_state_dict(_part(released, "ar_decoder."))
    codes = batch.codes[:, 0]
    spoken = released["ar_audio_embedding.word_embeddings.weight"][codes]
    x = _embedded(released, "ar", batch.text, spoken)
    blocked = ~prefix_mask(real(batch.text_lengths, S), F)[:, 0]
    states = encoder(x, mask=blocked.repeat_interleave(2, 0))
    expected = states[:, S:] @ released["ar_predict_layer.weight"].T
    found = model.ar(replace(batch, codes=codes[:, None]))
    torch.testing.assert_close(found[:, 1:], expected, atol=1e-5, rtol=1e-4)
    last = states[torch.arange(2), batch.text_lengths - 1] @ released["ar_predict_layer.weight"].T
    torch.testing.assert_close(found[:, 0], last, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("codebook", [1, 2, 3])
def test_later_codebooks_are_those_of_torchs_encoder(released, model, batch, codebook):
    encoder = _encoder(ReleasedNorm)
    encoder.load_state_dict(_part(released, "nar_decoder."))
    stage = released[f"nar_stage_embeddings.{codebook - 1}.word_embeddings.weight"][0]
    for module in encoder.modules():
        if isinstance(module, ReleasedNorm):
            module.condition = stage
    tables = [released[f"nar_audio_embeddings.{k}.word_embeddings.weight"] for k in range(K)]
    spoken = sum(tables[k][batch.codes[:, k]] for k in range(codebook))
    x = _embedded(released, "nar", batch.text, spoken)
    lengths = real(batch.text_lengths, S), real(batch.code_lengths, F)
    states = encoder(x, src_key_padding_mask=~torch.cat(lengths, dim=1))
    expected = states[:, S:] @ released[f"nar_predict_layers.{codebook - 1}.weight"].T
    found = model.nar(batch, codebook)
    for item, length in enumerate(batch.code_lengths):
        torch.testing.assert_close(
            found[item, :length], expected[item, :length], atol=1e-5, rtol=1e-4
        )


def test_the_released_loss(model, batch):
    """Half the sum of three cross entropies; the first code is never a target."""
    found = model(batch, 3)
    logits, total = model.ar(batch), 0.0
    for item, length in enumerate(batch.code_lengths.tolist()):
        targets = torch.cat([batch.codes[item, 0, 1:length], torch.tensor([N])])
        total += functional.cross_entropy(logits[item, 1 : length + 1], targets, reduction="sum")
    count = float(batch.code_lengths.sum())
    torch.testing.assert_close(found["ar"], total / count)
    joint = (found["ar"] + found["nar_second"] + found["nar_later"]) / 2
    torch.testing.assert_close(found["loss"], joint)


def test_files_that_are_not_the_released_ones_are_refused(released, model):
    with pytest.raises(ValueError, match="as_published"):
        build_unified("smoke").load_published(released)
    other = {**released, "nar_predict_layers.0.weight": torch.randn(N, 16)}
    with pytest.raises(ValueError, match="shares"):
        model.load_published(other)
    fewer = {k: v for k, v in released.items() if "stage_embeddings.2" not in k}
    with pytest.raises(ValueError, match="one for each"):
        model.load_published(fewer)
    with pytest.raises(RuntimeError, match="Missing"):
        model.load_published({k: v for k, v in released.items() if k != "ar_predict_layer.weight"})


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
