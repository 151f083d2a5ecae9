r"""A prefix language model of frames: text in front, then frames from left to right.

What the model of codes and the model of continuous tokens have in common: text hears all of the
text, a frame hears the text and the frames before it, and what follows a frame is read from the
state at its place; what comes first is read from the end of the text. ``Writer`` continues a batch
of texts and prompts frame by frame.

The text is read once; after that each step runs one frame through the layers, which find what came
before in a cache. Without the cache every step runs everything again and comes to the same;
``make bench`` has the ratio. Items may have texts and prompts of different lengths; each goes on
as it would alone.

[Wang et al. 2023, VALL-E]. Notebook: 40. Leaves out: streaming. Read next: ``unified.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .layers import KeyValueCache, SinePosition, Stack, prefix_mask, real


class PrefixModel(nn.Module):
    r"""Base of both models; a subclass embeds frames and reads states.

    Parameters
    ----------
    stack
        The layers.
    num_symbols, embedding_scale
        Size of the table of phonemes, standard deviation of its entries.
    dropout
        Behind positions.
    pace
        Symbols that a frame counts, see ``layers.SinePosition``.
    """

    def __init__(
        self,
        stack: Stack,
        num_symbols: int,
        embedding_scale: float = 1.0,
        dropout: float = 0.0,
        pace: float = 1.0,
    ) -> None:
        super().__init__()
        self.text_embedding = nn.Embedding(num_symbols, stack.dim)
        nn.init.normal_(self.text_embedding.weight, std=embedding_scale)
        self.text_position = SinePosition(stack.dim, dropout)
        self.frame_position = SinePosition(stack.dim, dropout, pace=pace)
        self.decoder = stack

    def embed_frames(self, frames: Tensor) -> Tensor:
        """Map frames (B, F) or (B, F, D) to (B, F, width)."""
        raise NotImplementedError

    def embedded(self, text: Tensor, frames: Tensor, positions: Tensor | None = None) -> Tensor:
        r"""Return what enters the layers, (B, S + F, width).

        Parameters
        ----------
        text
            Shape (B, S).
        frames
            Shape (B, F) or (B, F, D).
        positions
            Of the frames, (B, F), see ``unified.Batch``.
        """
        written = self.text_position(self.text_embedding(text))
        spoken = self.frame_position(self.embed_frames(frames), positions)
        return torch.cat([written, spoken], dim=1)

    def states(
        self,
        text: Tensor,
        text_lengths: Tensor,
        frames: Tensor,
        positions: Tensor | None = None,
        watch: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        r"""Return the states from which every frame, and what follows the last, is read.

        Parameters
        ----------
        text, text_lengths
            Symbols (B, S) and how many are real, (B,).
        frames
            Shape (B, F) or (B, F, D); what lies behind the real ones changes nothing before it.
        positions
            Of the frames, (B, F), see ``unified.Batch``.
        watch
            As in ``layers.Stack``.

        Returns
        -------
        Tensor
            Shape (B, F + 1, width).
        """
        size = text.shape[1]
        mask = prefix_mask(real(text_lengths, size), frames.shape[1])
        states = self.decoder(self.embedded(text, frames, positions), mask, watch=watch)
        last = states[torch.arange(len(text), device=text.device), text_lengths - 1]
        return torch.cat([last[:, None], states[:, size:]], dim=1)

    @torch.no_grad()
    def reading(self, text: Tensor, frames: Tensor, positions: Tensor | None = None) -> Tensor:
        r"""Return what frames listen to in the text, of every head, for pictures.

        Parameters
        ----------
        text, frames
            Of one item, without padding: (S,) and (F,) or (F, D).
        positions
            Of the frames (F,), see ``unified.Batch``.

        Returns
        -------
        Tensor
            Shape (layers, heads, F, S).
        """
        heard = torch.ones(1, len(text), dtype=torch.bool, device=text.device)
        mask = prefix_mask(heard, len(frames))
        where = None if positions is None else positions[None]
        maps = self.decoder.attention_maps(self.embedded(text[None], frames[None], where), mask)
        return torch.stack(maps)[:, 0, :, len(text) :, : len(text)]

    def states_and_reading(
        self,
        text: Tensor,
        text_lengths: Tensor,
        frames: Tensor,
        positions: Tensor | None,
        places: Tensor,
    ) -> tuple[Tensor, Tensor]:
        r"""Return the states, and how far some heads are from reading along: guided attention.

        .. math:: L = -\frac{1}{|V|} \sum_{f \in V} \ln \sum_{|s - p_f| \le 1} \alpha_{fs}

        with :math:`\alpha` the weights from frames to symbols of a head and V the frames whose
        symbol p is known, after [Tachibana et al. 2018, DCTTS], who know the diagonal only. L is
        the mean over the first heads of all layers but the first: each can see what those below
        have read in earlier frames, and correct it.

        Parameters
        ----------
        text, text_lengths, frames, positions
            As in ``states``.
        places
            Which symbol is spoken in each frame, (B, F) int64, or -1.
        """
        seen: list[Tensor] = []
        size, layers = text.shape[1], self.decoder.layers
        mask = prefix_mask(real(text_lengths, size), frames.shape[1])

        def watch(number: int, x: Tensor) -> None:
            if number >= min(1, len(layers) - 1):
                entered = layers[number].attention_norm(x)
                weights = layers[number].attention.weights(entered, mask, 1)
                seen.append(weights[:, 0, size:, :size])

        states = self.states(text, text_lengths, frames, positions, watch)
        near = (torch.arange(size, device=text.device) - places[..., None]).abs() <= 1
        known = places >= 0
        found = (torch.stack(seen) * near).sum(-1)[:, known].clamp_min(1e-6)
        return states, -found.log().sum() / (len(seen) * known.sum().clamp_min(1))


class Writer:
    r"""Frames of a batch, as far as they are written.

    Columns are those of the model: text, padded; prompt, padded; then a column for every frame
    that is written.

    Parameters
    ----------
    model
        In eval mode.
    text, text_lengths
        Symbols (B, S) and how many are real.
    frames, frame_lengths
        Prompts (B, P) or (B, P, D) and how many of their frames are real; P may be 0.
    most
        Frames that will be written at most.
    use_cache
        False runs everything again at each step.
    start
        Position (B,) of the first frame that is written: where its sentence begins in the text;
        None counts on from the prompt.
    """

    def __init__(
        self,
        model: PrefixModel,
        text: Tensor,
        text_lengths: Tensor,
        frames: Tensor,
        frame_lengths: Tensor,
        most: int,
        use_cache: bool = True,
        start: Tensor | None = None,
    ) -> None:
        self.model, self.text, self.frames = model, text, frames
        self.text_lengths, self.prompt_lengths = text_lengths, frame_lengths
        self.prompt_columns = frames.shape[1]
        self.pace = model.frame_position.pace
        count = self.pace * torch.arange(self.prompt_columns, device=text.device)
        self.positions = count.expand(len(text), -1)
        self.start = self.pace * frame_lengths if start is None else start
        heard = real(text_lengths, text.shape[1]), real(frame_lengths, self.prompt_columns)
        self.valid = torch.cat(heard, dim=1)
        self.cache = None
        if use_cache:
            columns = self.valid.shape[1] + most
            self.cache = KeyValueCache(model.decoder, len(text), columns, text.device)

    def first(self) -> Tensor:
        r"""Read text and prompt; return the states (B, width) from which what follows is read."""
        states = self._run(self.cache)
        behind = self.text.shape[1] + self.prompt_lengths
        last = torch.where(self.prompt_lengths > 0, behind, self.text_lengths) - 1
        return states[torch.arange(len(last), device=last.device), last]

    def following(self, frames: Tensor) -> Tensor:
        r"""Write a frame (B,) or (B, D) behind each item; return the states (B, width) after it."""
        written = self.frames.shape[1] - self.prompt_columns
        place = (self.start + self.pace * written)[:, None]
        self.frames = torch.cat([self.frames, frames[:, None]], dim=1)
        self.positions = torch.cat([self.positions, place], dim=1)
        self.valid = torch.cat([self.valid, torch.ones_like(place, dtype=torch.bool)], dim=1)
        if self.cache is None:
            return self._run(None)[:, -1]
        x = self.model.frame_position(self.model.embed_frames(frames[:, None]), place)
        mask = self.cache.mark(self.valid[:, -1:])
        return self.model.decoder(x, mask, cache=self.cache)[:, -1]

    def _run(self, cache: KeyValueCache | None) -> Tensor:
        """Run all columns that there are."""
        size = self.text.shape[1]
        mask = prefix_mask(self.valid[:, :size], self.frames.shape[1]) & self.valid[:, None, None]
        if cache is not None:
            cache.mark(self.valid)
        x = self.model.embedded(self.text, self.frames, self.positions)
        return self.model.decoder(x, mask, cache=cache)
