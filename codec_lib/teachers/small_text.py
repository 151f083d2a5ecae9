r"""A small text encoder, trained on the project's own sentences: it stands in for BERT offline.

[Devlin et al. 2019, BERT], §3.1: pieces of a sentence are hidden and predicted from the others.
DM-Codec takes its language vectors from BERT [DM-Codec], §3; where BERT's weights cannot be had,
this encoder is used behind the same interface (``text.py``).

Pieces are letters. The project has 533 training sentences of 1,742 different words: 1,482 of the
words occur once or twice, and every fifth word of new text is none of them. A vocabulary of words,
or of word parts, would have no vectors for real transcripts; letters always do. So what it knows is
spelling, endings, and which kind of word comes next; of meaning, only what the company of a word in
4,363 words can show.

Used by notebook 11. Leaves out: punctuation, case, the prediction of the next sentence.
Read next: ``text_training.py``.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .hubert import TransformerLayer
from .standardised import check_layer, weights_digest

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", " ")
LETTERS = "'abcdefghijklmnopqrstuvwxyz"
PAD, CLS, SEP, MASK, UNKNOWN, SPACE = range(len(SPECIAL))
_NUMBER = {letter: number for number, letter in enumerate(LETTERS, len(SPECIAL))}
VOCABULARY = len(SPECIAL) + len(LETTERS)


@dataclass(frozen=True)
class TextConfig:
    r"""Sizes of a ``SmallTextEncoder``. JSON-able.

    Attributes
    ----------
    dim, num_layers, num_heads, ffn_dim
        Width D (that of ``hubert-small``: DM-Codec has one projection for both teachers),
        Transformer layers, attention heads, width of the feed-forward part.
    position_kernel, position_groups
        The convolution that tells the Transformer about order.
    dropout
        Share of activations dropped in training.
    """

    dim: int = 192
    num_layers: int = 4
    num_heads: int = 4
    ffn_dim: int = 384
    position_kernel: int = 15
    position_groups: int = 16
    dropout: float = 0.1


def letters_of(word: str) -> list[int]:
    r"""Return the pieces of one word: its letters without case, accents and punctuation.

    Examples
    --------
    >>> "".join(LETTERS[piece - len(SPECIAL)] for piece in letters_of("Café,"))
    'cafe'
    >>> letters_of("10:45") == [UNKNOWN]
    True
    """
    plain = unicodedata.normalize("NFKD", word.lower().replace("’", "'"))
    return [_NUMBER[letter] for letter in plain if letter in _NUMBER] or [UNKNOWN]


def pieces_of(words: Sequence[str]) -> tuple[Tensor, Tensor]:
    r"""Return the pieces of a sentence, [CLS] letters space letters ... [SEP], and their words.

    Returns
    -------
    tuple[Tensor, Tensor]
        Pieces (N,), and the number of the word that each belongs to, (N,), -1 for none.

    Raises
    ------
    ValueError
        If there is no word, or one has no character.
    """
    if not words or not all(word.strip() for word in words):
        raise ValueError(f"words: got {list(words)}, expected at least one, and none of them empty")
    pieces, places = [CLS], [-1]
    for number, word in enumerate(words):
        letters = letters_of(word)
        pieces += [*letters, SPACE]
        places += [number] * len(letters) + [-1]
    pieces[-1] = SEP
    return torch.tensor(pieces), torch.tensor(places)


def check_length(length: int | None) -> None:
    r"""Raise ``ValueError`` unless a number of pieces is None or at least 1."""
    if length is not None and length < 1:
        raise ValueError(f"length: got {length}, expected at least 1 piece, or None for no padding")


class SmallTextEncoder(nn.Module):
    r"""Letters, a Transformer over them, and a probability of every letter.

    Parameters
    ----------
    config
        Sizes.

    Attributes
    ----------
    dim, num_layers, fingerprint
        See ``text.TextTeacher``.

    Examples
    --------
    >>> teacher = SmallTextEncoder(TextConfig(dim=32, num_layers=2, ffn_dim=64)).eval()
    >>> teacher.encode(["two", "words"]).shape, teacher.hidden_pieces("two words").shape
    (torch.Size([2, 32]), torch.Size([11, 32]))
    """

    def __init__(self, config: TextConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TextConfig()
        self.dim, self.num_layers = config.dim, config.num_layers
        self.embed = nn.Embedding(VOCABULARY, config.dim)
        nn.init.normal_(self.embed.weight, std=config.dim**-0.5)
        self.position = nn.Conv1d(
            config.dim,
            config.dim,
            config.position_kernel,
            padding=config.position_kernel // 2,
            groups=config.position_groups,
        )
        self.embed_norm = nn.LayerNorm(config.dim)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.final_norm = nn.LayerNorm(config.dim)
        self.to_letter = nn.Linear(config.dim, VOCABULARY)
        self.register_buffer("feature_mean", torch.zeros(config.num_layers + 1, config.dim))
        self.register_buffer("feature_scale", torch.ones(config.num_layers + 1, config.dim))

    @property
    def fingerprint(self) -> str:
        r"""16 hexadecimal digits that change whenever a weight or a size does."""
        return weights_digest(self, json.dumps(asdict(self.config), sort_keys=True))

    def hidden_states(self, pieces: Tensor) -> list[Tensor]:
        r"""Return what enters the first layer, and what leaves each.

        Parameters
        ----------
        pieces
            Shape (B, N), int64; attention passes over ``PAD``, which gets states all the same.

        Returns
        -------
        list[Tensor]
            ``num_layers + 1`` tensors (B, N, D).
        """
        read = pieces != PAD
        x = self.embed(pieces)  # (B, N, D)
        order = self.position((x * read[..., None]).transpose(1, 2)).transpose(1, 2)
        x = self.embed_norm(x + functional.gelu(order))
        states = [functional.dropout(x, self.config.dropout, self.training)]
        for layer in self.layers:
            states.append(layer(states[-1], read[:, None, None]))
        states[-1] = self.final_norm(states[-1])
        return states

    def logits(self, state: Tensor) -> Tensor:
        r"""Score every piece of the vocabulary: (B, N, D) to (B, N, 33)."""
        return self.to_letter(state)

    @torch.no_grad()
    def hidden_pieces(
        self, text: str, layer: int | str = "avg", length: int | None = None
    ) -> Tensor:
        r"""Return one vector for every piece of a text; see ``text.TextTeacher``."""
        check_layer(layer, self.num_layers)
        check_length(length)
        pieces, _ = pieces_of(text.split())
        if length is not None:
            cut = length < len(pieces)
            pieces = functional.pad(pieces, (0, length - len(pieces)), value=PAD)
            if cut and length > 1:
                pieces[-1] = SEP
        return self._standardised(pieces, layer)

    @torch.no_grad()
    def encode(self, words: Sequence[str], layer: int | str = "avg") -> Tensor:
        r"""Return one vector for every word of a sentence; see ``text.TextTeacher``."""
        check_layer(layer, self.num_layers)
        pieces, places = pieces_of(words)
        states = self._standardised(pieces, layer)
        return torch.stack([states[places == number].mean(0) for number in range(len(words))])

    def _standardised(self, pieces: Tensor, layer: int | str) -> Tensor:
        """Return the states (N, D) of a layer or of all, each dimension without mean and scale."""
        stacked = torch.stack(self.hidden_states(pieces[None].to(self.embed.weight.device)))[:, 0]
        features = (stacked - self.feature_mean[:, None]) / self.feature_scale[:, None]
        return features.mean(0) if layer == "avg" else features[layer]

    @torch.no_grad()
    def set_statistics(self, texts: Sequence[str]) -> None:
        r"""Measure mean and scale of every dimension of every layer over the letters of texts.

        ``encode`` and ``hidden_pieces`` remove them, as ``SmallHubert.features`` does: no layer
        outweighs another in the average, and no constant passes for a match.
        """
        states = []
        for text in texts:
            pieces, places = pieces_of(text.split())
            hidden = torch.stack(self.hidden_states(pieces[None].to(self.embed.weight.device)))
            states.append(hidden[:, 0, places >= 0])  # (L + 1, letters, D)
        joint = torch.cat(states, 1)
        self.feature_mean.copy_(joint.mean(1))
        self.feature_scale.copy_(joint.std(1).clamp_min(1e-4))


def save_text_encoder(
    teacher: SmallTextEncoder, path: str | Path, card: dict[str, Any] | None = None
) -> Path:
    r"""Write an encoder to a .safetensors file in half precision.

    Parameters
    ----------
    teacher, path
        The encoder and its file.
    card
        Anything JSON can hold that says how it was made.
    """
    from codec_lib import hub

    described = {"text": asdict(teacher.config), **(card or {})}
    return hub.save_module(teacher, path, metadata=described)


def build_text_encoder(metadata: dict[str, Any]) -> SmallTextEncoder:
    r"""Make a ``SmallTextEncoder`` from the metadata of its file.

    Raises
    ------
    ValueError
        If the file is of something else.
    """
    if "text" not in metadata:
        raise ValueError("file: got the weights of something else, expected a text encoder's")
    return SmallTextEncoder(TextConfig(**metadata["text"]))


def load_text_encoder(name_or_path: str | Path = "text-small") -> SmallTextEncoder:
    r"""Load an encoder by name (``data/checkpoints``) or path, in eval mode, without gradient."""
    from codec_lib import hub

    return hub.load_module(name_or_path, build_text_encoder).requires_grad_(False)
