"""The decoder layer of transformers' LLaMA and ours, with the same random weights."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from codec_lib.blocks.transformer import TransformerBlock

WIDTH, HEADS, HIDDEN = 24, 3, 40


@pytest.mark.parametrize("causal", [True, False])
def test_same_output(causal: bool) -> None:
    config = LlamaConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        intermediate_size=HIDDEN,
        rms_norm_eps=1e-6,
        attn_implementation="sdpa",
    )
    theirs = LlamaDecoderLayer(config, layer_idx=0).eval()
    theirs.self_attn.is_causal = causal
    state = {name: torch.randn(value.shape) * 0.3 for name, value in theirs.state_dict().items()}
    theirs.load_state_dict(state)
    ours = TransformerBlock(WIDTH, HEADS, HIDDEN, causal)
    ours.load_state_dict(
        {
            "attention_norm.weight": state["input_layernorm.weight"],
            "attention.qkv.weight": torch.cat(
                [state[f"self_attn.{part}_proj.weight"] for part in "qkv"]
            ),
            "attention.out.weight": state["self_attn.o_proj.weight"],
            "feed_forward_norm.weight": state["post_attention_layernorm.weight"],
            "feed_forward.gate_up.weight": torch.cat(
                [state[f"mlp.{part}_proj.weight"] for part in ("gate", "up")]
            ),
            "feed_forward.down.weight": state["mlp.down_proj.weight"],
        }
    )
    x = torch.randn(2, 17, WIDTH)
    positions = torch.arange(17)[None]
    with torch.no_grad():
        rotary = LlamaRotaryEmbedding(config)(x, positions)
        expected = theirs(x, position_embeddings=rotary, position_ids=positions)
        expected = expected[0] if isinstance(expected, tuple) else expected
        assert torch.allclose(ours(x), expected, atol=1e-4)
    assert (expected - x).abs().mean() > 0.1
