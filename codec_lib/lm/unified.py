r"""The unified speech language model: codebook 1 from left to right, the others all at once.

[Zhang et al. 2024, SpeechTokenizer], §4: what is said is in the first codebook of SpeechTokenizer,
and how it sounds in the others, so each is left to a model of its own,

.. math:: p(c^1 \mid u; \theta_{AR}) = \prod_t p(c^1_t \mid c^1_{<t}, u; \theta_{AR})
          \qquad (9)

.. math:: p(c^{2:K} \mid u; \theta_{NAR}) = \prod_{k=2}^{K} p(c^k \mid c^{<k}, u; \theta_{NAR})
          \qquad (10)

with u the phonemes and c the codes. A voice is asked for by a prompt: the codes of a few seconds of
it, with their phonemes in front of those to be said. Sizes and details are those of the released
code; where it has a defect, the correct form is built, and ``UnifiedConfig.as_published`` is the
other one.

Notebook: 40. Leaves out: prompts of another language, classifier-free guidance.
Read next: ``generation.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from codec_lib.codecs.config import scaled_config
from codec_lib.shapes import check_shape

from .layers import SinePosition, Stack, real
from .prefix import PrefixModel

IGNORED = -100  # target of a position that no loss counts


@dataclass(frozen=True)
class UnifiedConfig:
    r"""Sizes of both models. JSON-able.

    Attributes
    ----------
    dim, num_heads, hidden_dim, dropout
        Of all layers, see ``layers.Stack``.
    ar_layers, nar_layers
        Layers of each model.
    nar_dim
        Width of the second model, with an inner width in proportion; None: as the first.
    num_symbols
        Size of the table of phonemes; more than there are is allowed.
    num_quantizers, num_codes
        K, and entries N of each.
    embedding_scale
        Standard deviation of new embeddings.
    as_published
        True is the released code: the first code of an utterance is never predicted, so that
        nothing can be said without a prompt, and the output of codebook k shares its weights with
        the embedding of codebook k + 1. False predicts the first code from the end of the text, and
        shares with the embedding of the same codebook, as VALL-E describes.
    pace
        Symbols that a frame counts in positions; 1 as released.
    """

    dim: int = 1024
    num_heads: int = 16
    hidden_dim: int = 4096
    dropout: float = 0.1
    ar_layers: int = 12
    nar_layers: int = 12
    num_symbols: int = 512
    num_quantizers: int = 8
    num_codes: int = 1024
    embedding_scale: float = 1.0
    as_published: bool = False
    nar_dim: int | None = None
    pace: float = 1.0


SCALES = {
    "smoke": UnifiedConfig(32, 2, 64, 0.0, 2, 2, 64, 8, 1024, 0.2),
    "small": UnifiedConfig(144, 4, 576, 0.1, 4, 3, 64, 8, 1024, 0.2, nar_dim=88, pace=0.3),
    "paper": UnifiedConfig(as_published=True),
}


@dataclass(frozen=True)
class Batch:
    r"""Utterances with their codes, padded behind.

    Attributes
    ----------
    text, text_lengths
        Symbols (B, S) int64 and how many of them are real, (B,).
    codes, code_lengths
        Codes (B, K, F) int64 and how many frames are real, (B,).
    positions
        Of the frames, (B, F), counted in symbols: a sentence begins where it does in the text. None
        counts all frames from 0.
    places
        Which symbol is spoken in each frame, (B, F) int64, or -1; None where no head is to be
        shown how to read along.
    """

    text: Tensor
    text_lengths: Tensor
    codes: Tensor
    code_lengths: Tensor
    positions: Tensor | None = None
    places: Tensor | None = None

    def __post_init__(self) -> None:
        sizes = check_shape(self.text, "B S", name="text")
        check_shape(self.codes, "B K F", name="codes", B=sizes["B"])
        for name in ("text_lengths", "code_lengths"):
            check_shape(getattr(self, name), "B", name=name, B=sizes["B"])

    def to(self, device: torch.device | str) -> Batch:
        r"""Return the batch on another device."""
        return Batch(*(None if part is None else part.to(device) for part in vars(self).values()))


class AutoregressiveModel(PrefixModel):
    r"""Model of the first codebook, Eq. (9): phonemes as a prefix, then codes from left to right.

    Parameters
    ----------
    config
        Sizes.
    """

    def __init__(self, config: UnifiedConfig) -> None:
        stack = _stack(config, config.ar_layers, adaptive=False)
        sizes = (config.num_symbols, config.embedding_scale, config.dropout, config.pace)
        super().__init__(stack, *sizes)
        self.end = config.num_codes  # the symbol behind the last code
        self.code_embedding = _embedding(config.num_codes + 1, config)
        self.head = nn.Linear(config.dim, config.num_codes + 1, bias=False)

    def embed_frames(self, frames: Tensor) -> Tensor:
        """Map codes (B, F) to (B, F, width)."""
        return self.code_embedding(frames)

    def forward(self, batch: Batch) -> Tensor:
        r"""Score the next code of codebook 1 after the text and after every code.

        Returns
        -------
        Tensor
            Logits (B, F + 1, N + 1): of code t, and at the last real place + 1 of the end.
        """
        given = batch.text, batch.text_lengths, batch.codes[:, 0], batch.positions
        return self.head(self.states(*given))

    def targets(self, codes: Tensor, lengths: Tensor) -> Tensor:
        r"""Return codes (B, F) with the end behind them, (B, F + 1), ``IGNORED`` after it."""
        places = torch.arange(codes.shape[1] + 1, device=codes.device)
        target = functional.pad(codes, (0, 1), value=IGNORED)
        target = target.masked_fill(places > lengths[:, None], IGNORED)
        return target.masked_fill(places == lengths[:, None], self.end)


class NonAutoregressiveModel(nn.Module):
    r"""Model of codebooks 2 to K, Eq. (10): one codebook at a time, all frames at once.

    Parameters
    ----------
    config
        Sizes.
    """

    def __init__(self, config: UnifiedConfig) -> None:
        super().__init__()
        count = config.num_quantizers
        # The released first table has one entry more, for the end, which never enters here.
        extra = [int(config.as_published), *[0] * (count - 1)]
        self.shift = int(config.as_published)
        self.text_embedding = _embedding(config.num_symbols, config)
        tables = (_embedding(config.num_codes + number, config) for number in extra)
        self.code_embeddings = nn.ModuleList(tables)
        self.stage_embeddings = nn.Parameter(torch.randn(count - 1, config.dim))
        self.text_position = SinePosition(config.dim, learnt=False)
        self.code_position = SinePosition(config.dim, config.dropout, False, config.pace)
        self.decoder = _stack(config, config.nar_layers, adaptive=True)
        self.last_head = None
        if config.as_published:  # no table is left for it to share
            self.last_head = nn.Linear(config.dim, config.num_codes, bias=False)

    def head(self, codebook: int) -> Tensor:
        r"""Return the output weights (N, D) of a codebook, counted from 0."""
        if self.last_head is not None and codebook + 1 == len(self.code_embeddings):
            return self.last_head.weight
        return self.code_embeddings[codebook + self.shift].weight

    def embedded(self, batch: Batch, codebook: int, prompt: Tensor | None = None) -> Tensor:
        r"""Return what enters the layers, (B, S + F, D).

        Parameters
        ----------
        batch
            Of codebooks from ``codebook`` on only the prompt's frames are read.
        codebook
            What is asked for, from 1 (the second).
        prompt
            Frames (B,) at the start that enter with all codebooks; None: they enter as all others.
        """
        codes, spoken = batch.codes, self.code_embeddings[0](batch.codes[:, 0])
        known = None if prompt is None else real(prompt, codes.shape[2])[..., None]
        for number in range(1, codes.shape[1] if prompt is not None else codebook):
            part = self.code_embeddings[number](codes[:, number])
            spoken = spoken + (part if number < codebook else part * known)
        written = self.text_position(self.text_embedding(batch.text))
        return torch.cat([written, self.code_position(spoken, batch.positions)], dim=1)

    def forward(self, batch: Batch, codebook: int, prompt: Tensor | None = None) -> Tensor:
        r"""Score all codes of one codebook.

        Parameters
        ----------
        batch
            Texts, and codes of at least the codebooks before.
        codebook, prompt
            As in ``embedded``.

        Returns
        -------
        Tensor
            Logits (B, F, N).

        Raises
        ------
        ValueError
            If there is no such codebook, or it is the first.
        """
        if not 1 <= codebook < len(self.code_embeddings):
            raise ValueError(
                f"codebook: got {codebook}, expected 1 to {len(self.code_embeddings) - 1}, counted "
                "from 0; the first is not this model's"
            )
        size, frames = batch.text.shape[1], batch.codes.shape[2]
        heard = [real(batch.text_lengths, size), real(batch.code_lengths, frames)]
        x = self.embedded(batch, codebook, prompt)
        mask = torch.cat(heard, dim=1)[:, None, None]
        states = self.decoder(x, mask, self.stage_embeddings[codebook - 1])
        return functional.linear(states[:, size:], self.head(codebook))


class UnifiedSpeechLanguageModel(nn.Module):
    r"""Both models, trained together.

    Parameters
    ----------
    config
        Sizes.

    Examples
    --------
    >>> model = build_unified("smoke")
    >>> model.config.num_quantizers
    8
    """

    def __init__(self, config: UnifiedConfig) -> None:
        super().__init__()
        if config.num_quantizers < 2:
            raise ValueError(f"num_quantizers: got {config.num_quantizers}, expected at least 2")
        self.config = config
        self.ar = AutoregressiveModel(config)
        width = config.nar_dim or config.dim
        inner = config.hidden_dim * width // config.dim
        self.nar = NonAutoregressiveModel(replace(config, dim=width, hidden_dim=inner))

    def forward(
        self, batch: Batch, codebook: int, prompt: Tensor | None = None, part: str = "both"
    ) -> dict[str, Tensor]:
        r"""Return cross entropies in nats a code.

        .. math:: L = \tfrac12 (L_{AR} + L_{NAR}^2 + L_{NAR}^k), \quad k \in \{3, \dots, K\}

        as the released code trains, which has sums over a batch in place of means.

        Parameters
        ----------
        batch
            Texts and codes.
        codebook
            k, counted from 0: another one each step, from 2 on; with two codebooks 1, and no third
            term.
        prompt
            Frames (B,) at the start whose codes are all known and not counted in codebooks 2 to K.
        part
            ``"both"``, or one model's terms alone: ``"first"`` or ``"others"``.

        Returns
        -------
        dict[str, Tensor]
            ``ar``, ``nar_second``, ``nar_later``, and ``loss``, L; where places are given also
            ``reading`` (``PrefixModel.states_and_reading``), which is added to the loss.
        """
        found, reading = {}, {}
        if part != "others":
            found["ar"], reading = self._first(batch)
        if part != "first":
            found["nar_second"] = self._later(batch, 1, prompt)
            if codebook > 1:
                found["nar_later"] = self._later(batch, codebook, prompt)
        return {**found, **reading, "loss": sum(found.values()) / 2 + sum(reading.values())}

    def _first(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of codebook 1, and of reading along where places are known."""
        first = batch.codes[:, 0]
        given = batch.text, batch.text_lengths, first, batch.positions
        targets, reading = self.ar.targets(first, batch.code_lengths), {}
        if self.config.as_published:
            targets[:, 0] = IGNORED
        if batch.places is None:
            states = self.ar.states(*given)
        else:
            states, reading["reading"] = self.ar.states_and_reading(*given, batch.places)
        return _cross_entropy(self.ar.head(states), targets), reading

    def _later(self, batch: Batch, codebook: int, prompt: Tensor | None) -> Tensor:
        """Return the loss of one of codebooks 2 to K."""
        counted = real(batch.code_lengths, batch.codes.shape[2])
        if prompt is not None:
            counted = counted & ~real(prompt, batch.codes.shape[2])
        targets = batch.codes[:, codebook].masked_fill(~counted, IGNORED)
        return _cross_entropy(self.nar(batch, codebook, prompt), targets)

    def load_published(self, state: Mapping[str, Any]) -> None:
        r"""Load the released checkpoint, in its own key layout.

        Parameters
        ----------
        state
            Of ``USLM.pt`` by ``hub.read_published``; bare or under ``"model"``.

        Raises
        ------
        ValueError
            If the config is not ``as_published``, or keys are missing or left over.
        """
        from .published import own_keys

        if not self.config.as_published:
            raise ValueError(
                "as_published: got False, expected True for the released weights. "
                'Hint: build_unified("paper")'
            )
        self.load_state_dict(own_keys(state.get("model", state), self.config))


def build_unified(scale: str = "small", **overrides: Any) -> UnifiedSpeechLanguageModel:
    r"""Build a model with random weights.

    Parameters
    ----------
    scale
        ``"smoke"``, ``"small"`` or ``"paper"`` (367,386,628 parameters, as released).
    **overrides
        Fields of ``UnifiedConfig``.

    Raises
    ------
    ValueError
        If there is no such scale or field.
    """
    return UnifiedSpeechLanguageModel(scaled_config(SCALES, scale, overrides))


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over targets that count; 0 if none does."""
    loss = functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return loss / (targets != IGNORED).sum().clamp_min(1)


def _embedding(size: int, config: UnifiedConfig) -> nn.Embedding:
    """Make an embedding."""
    table = nn.Embedding(size, config.dim)
    nn.init.normal_(table.weight, std=config.embedding_scale)
    return table


def _stack(config: UnifiedConfig, num_layers: int, adaptive: bool) -> Stack:
    """Make the layers of one of the models."""
    sizes = (config.dim, config.num_heads, num_layers, config.hidden_dim)
    return Stack(*sizes, config.dropout, adaptive)
