r"""A language model of continuous speech tokens: text, then one vector after the other.

[Li et al. 2024, Cont-SPT], second stage: embeddings of the text and continuous tokens are
concatenated and run through a causal model, which is trained by the squared error of the next
token, L_LM = MSE. The paper says nothing of how an utterance ends: here a second output says after
each token whether it was the last. A head that draws from what could follow, by flow matching, is
the documented improvement (``heads.py``).

Tokens of unit variance keep the model from lowering its loss by making them small, and a target
carries no gradient to the tokenizer. Noise on the tokens that are read while learning makes the
model used to its own mistakes. Notebook: 41. Leaves out: training the tokenizer along.
Read next: ``continuous_run.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from codec_lib.codecs.config import scaled_config
from codec_lib.shapes import check_shape

from .heads import FlowHead, MeanHead
from .layers import Stack, real
from .prefix import PrefixModel, Writer

HEADS = ("mean", "flow")


@dataclass(frozen=True)
class ContinuousLanguageConfig:
    r"""Sizes. JSON-able.

    Attributes
    ----------
    dim, num_heads, num_layers, hidden_dim, dropout, num_symbols, embedding_scale, pace
        As in ``UnifiedConfig``.
    token_dim
        Width D of a token.
    head
        ``"mean"`` as published, or ``"flow"``.
    flow_width, flow_depth, flow_draws, flow_steps
        See ``heads.FlowHead``.
    input_noise
        Standard deviation of noise on the tokens that are read in training.
    stop_weight
        Of the loss of the second output.
    """

    dim: int = 1024
    num_heads: int = 16
    num_layers: int = 12
    hidden_dim: int = 4096
    dropout: float = 0.1
    num_symbols: int = 512
    embedding_scale: float = 1.0
    token_dim: int = 128
    head: str = "mean"
    flow_width: int = 1024
    flow_depth: int = 6
    flow_draws: int = 4
    flow_steps: int = 16
    input_noise: float = 0.0
    stop_weight: float = 1.0
    pace: float = 1.0


_SMALL = {"num_symbols": 64, "embedding_scale": 0.2, "input_noise": 0.3}
CONTINUOUS_SCALES = {
    "smoke": ContinuousLanguageConfig(
        32, 2, 2, 64, 0.0, **_SMALL, token_dim=8, flow_width=32, flow_depth=1, flow_steps=4
    ),
    "small": ContinuousLanguageConfig(
        128, 4, 4, 512, **_SMALL, token_dim=64, flow_width=128, flow_depth=2, pace=0.6
    ),
    "paper": ContinuousLanguageConfig(),
}


@dataclass(frozen=True)
class TokenBatch:
    r"""Utterances with their tokens, padded behind.

    Attributes
    ----------
    text, text_lengths
        Symbols (B, S) int64 and how many of them are real, (B,).
    tokens, token_lengths
        Tokens (B, F, D) float32 and how many are real, (B,).
    positions, places
        As in ``unified.Batch``.
    """

    text: Tensor
    text_lengths: Tensor
    tokens: Tensor
    token_lengths: Tensor
    positions: Tensor | None = None
    places: Tensor | None = None

    def __post_init__(self) -> None:
        sizes = check_shape(self.text, "B S", name="text")
        check_shape(self.tokens, "B F D", name="tokens", B=sizes["B"])
        for name in ("text_lengths", "token_lengths"):
            check_shape(getattr(self, name), "B", name=name, B=sizes["B"])

    def to(self, device: torch.device | str) -> TokenBatch:
        r"""Return the batch on another device."""
        parts = vars(self).values()
        return TokenBatch(*(None if part is None else part.to(device) for part in parts))


class ContinuousSpeechModel(PrefixModel):
    r"""Text and continuous tokens in, the next token and whether it is the last out.

    Parameters
    ----------
    config
        Sizes.

    Raises
    ------
    ValueError
        If the head is unknown.

    Examples
    --------
    >>> model = build_continuous_model("smoke", head="flow")
    >>> model.config.token_dim
    8
    """

    def __init__(self, config: ContinuousLanguageConfig) -> None:
        if config.head not in HEADS:
            raise ValueError(f"head: got {config.head!r}, expected one of {HEADS}")
        sizes = (config.dim, config.num_heads, config.num_layers, config.hidden_dim)
        stack = Stack(*sizes, config.dropout)
        sizes = (config.num_symbols, config.embedding_scale, config.dropout, config.pace)
        super().__init__(stack, *sizes)
        self.config = config
        self.token_projection = nn.Linear(config.token_dim, config.dim)
        if config.head == "mean":
            self.head: MeanHead | FlowHead = MeanHead(config.dim, config.token_dim)
        else:
            options = (config.flow_width, config.flow_depth, config.flow_draws, config.flow_steps)
            self.head = FlowHead(config.dim, config.token_dim, *options)
        self.stop = nn.Linear(config.dim, 1)

    def embed_frames(self, frames: Tensor) -> Tensor:
        """Map tokens (B, F, D) to (B, F, width)."""
        return self.token_projection(frames)

    def forward(self, batch: TokenBatch) -> dict[str, Tensor]:
        r"""Return losses.

        .. math:: L = L_{token} + \lambda\, \mathrm{BCE}(\text{stop})

        Returns
        -------
        dict[str, Tensor]
            ``token`` (of the head, a mean over tokens and width), ``stop`` (nats a place, a mean
            over the places of tokens and the end), ``reading`` as in ``unified``, and ``loss``.
        """
        tokens, lengths = batch.tokens, batch.token_lengths
        heard = tokens
        if self.training and self.config.input_noise:
            heard = tokens + self.config.input_noise * torch.randn_like(tokens)
        given, reading = (batch.text, batch.text_lengths, heard, batch.positions), {}
        if batch.places is None:
            states = self.states(*given)  # (B, F + 1, width)
        else:
            states, reading["reading"] = self.states_and_reading(*given, batch.places)
        counted = real(lengths, tokens.shape[1])
        found = {"token": self.head.loss(states[:, :-1][counted], tokens[counted].detach()).mean()}
        places = torch.arange(states.shape[1], device=lengths.device)
        asked, last = places <= lengths[:, None], (places == lengths[:, None]).float()
        scores = self.stop(states)[..., 0].float()
        found["stop"] = functional.binary_cross_entropy_with_logits(scores[asked], last[asked])
        loss = found["token"] + self.config.stop_weight * found["stop"] + sum(reading.values())
        return {**found, **reading, "loss": loss}


@torch.no_grad()
def write_tokens(
    model: ContinuousSpeechModel,
    batch: TokenBatch,
    most: Sequence[int],
    seed: int = 0,
    use_cache: bool = True,
    threshold: float = 0.5,
    start: Tensor | None = None,
    temperature: float = 1.0,
) -> list[Tensor]:
    r"""Write tokens behind prompts.

    Parameters
    ----------
    model
        In eval mode.
    batch
        Texts of prompt and target, and prompts as tokens (B, P, D), perhaps none.
    most
        Tokens at most, for each item.
    seed
        Item b draws by seed + b; the mean head draws nothing.
    use_cache
        False runs everything again at each step.
    threshold
        An item ends where the probability that its last token has been said is above it.
    start
        As in ``prefix.Writer``.
    temperature
        As in ``heads.FlowHead.draw_token``.

    Returns
    -------
    list[Tensor]
        Tokens (F, D) of each item, of zero mean and unit variance as the tokenizer's.

    Raises
    ------
    ValueError
        If there is not one ``most`` above 0 for each item.
    """
    if len(most) != len(batch.text) or min(most) < 1:
        raise ValueError(f"most: got {list(most)}, expected a number above 0 for each item")
    generators = [torch.Generator().manual_seed(seed + item) for item in range(len(most))]
    limit = torch.tensor(list(most), device=batch.text.device)
    given = (batch.text, batch.text_lengths, batch.tokens, batch.token_lengths)
    writer = Writer(model, *given, max(most), use_cache, start)
    states, lengths, done, written = writer.first(), torch.zeros_like(limit), limit < 1, []
    for step in range(max(most)):
        done = done | (model.stop(states)[:, 0].sigmoid() > threshold) | (limit <= step)
        if bool(done.all()):
            break
        drawn = model.head.draw_token(states, generators, temperature)
        written.append(functional.layer_norm(drawn, drawn.shape[-1:]))
        lengths = lengths + ~done
        states = writer.following(written[-1])
    if not written:
        return [batch.tokens.new_zeros(0, model.config.token_dim) for _ in most]
    whole = torch.stack(written, dim=1)
    return [row[:length] for row, length in zip(whole, lengths.tolist(), strict=True)]


def build_continuous_model(scale: str = "small", **overrides: Any) -> ContinuousSpeechModel:
    r"""Build a model with random weights.

    Parameters
    ----------
    scale
        ``"smoke"``, ``"small"`` or ``"paper"``.
    **overrides
        Fields of ``ContinuousLanguageConfig``.

    Raises
    ------
    ValueError
        If there is no such scale or field.
    """
    return ContinuousSpeechModel(scaled_config(CONTINUOUS_SCALES, scale, overrides))
