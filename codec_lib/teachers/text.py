r"""Text teachers of DM-Codec: BERT and ELECTRA through transformers, and the small one by one name.

[DM-Codec], §3: the language vectors are hidden states of ``bert-base-uncased``, the mean of all 13
by default; ELECTRA does as well. [Devlin et al. 2019, BERT]; [Clark et al. 2020, ELECTRA]. Hidden
states are numbered as in transformers: 0 is the sum of embeddings, i leaves layer i.

Weights are read from disk; nothing is downloaded unless asked for. ``encode`` gives a vector for
every word, to be laid over the frames in which the word is heard; ``hidden_pieces(length=F)`` is
the published form, pieces padded to the number of frames, without regard to time.

Used by notebook 11. Leaves out: the transcription. Read next: ``codec_lib/codecs/dm_codec.py``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .small_text import check_length, load_text_encoder
from .standardised import check_layer, weights_digest

PUBLISHED_TEXT = {
    "bert_base": "google-bert/bert-base-uncased",
    "electra_base": "google/electra-base-discriminator",
}
_SIZE = "440 MB"


class TextTeacher(Protocol):
    r"""What every text teacher has.

    Attributes
    ----------
    dim, num_layers
        Width D; layers, numbered from 1 (0 is what enters the first).
    fingerprint
        Text that changes with the weights.
    """

    dim: int
    num_layers: int

    @property
    def fingerprint(self) -> str:
        r"""Text that changes with the weights."""
        ...

    def encode(self, words: Sequence[str], layer: int | str = "avg") -> Tensor:
        r"""Return one vector for every word of a sentence.

        Parameters
        ----------
        words
            The whole sentence, W words; each is heard in the context of all.
        layer
            Hidden state 0 to ``num_layers`` (the last), or ``"avg"`` for the mean of all.

        Returns
        -------
        Tensor
            Shape (W, D), float32: the mean of each word's pieces.

        Raises
        ------
        ValueError
            If there is no word, one has no piece, there are too many, or there is no such layer.
        """
        ...

    def hidden_pieces(
        self, text: str, layer: int | str = "avg", length: int | None = None
    ) -> Tensor:
        r"""Return one vector for every piece of a text, as published.

        Parameters
        ----------
        text
            A sentence.
        layer
            As in ``encode``.
        length
            Number of pieces to pad to or to cut to, [SEP] kept; None leaves it.

        Returns
        -------
        Tensor
            Shape (N, D), float32, N pieces with [CLS] and [SEP], and [PAD] up to ``length``.
        """
        ...


class PretrainedTextTeacher(nn.Module):
    r"""A BERT-like model of transformers with its tokenizer.

    Parameters
    ----------
    model
        ``transformers.BertModel``, ``ElectraModel`` or another encoder.
    tokenizer
        Its fast tokenizer.

    Attributes
    ----------
    dim, num_layers, fingerprint
        See ``TextTeacher``.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.dim, self.num_layers = model.config.hidden_size, model.config.num_hidden_layers
        self.requires_grad_(False).eval()

    @property
    def fingerprint(self) -> str:
        r"""16 hexadecimal digits that change with the weights and the vocabulary."""
        return weights_digest(self, json.dumps(self.tokenizer.get_vocab(), sort_keys=True))

    @torch.no_grad()
    def encode(self, words: Sequence[str], layer: int | str = "avg") -> Tensor:
        r"""Return one vector for every word of a sentence; see ``TextTeacher``."""
        pieces = self.tokenizer(list(words), is_split_into_words=True, return_tensors="pt")
        places = torch.tensor([-1 if one is None else one for one in pieces.word_ids(0)])
        missing = sorted(set(range(len(words))) - set(places.tolist()))
        if not words or missing:
            raise ValueError(
                f"words: got {list(words)}, expected at least one, each with pieces "
                f"(none: {missing}); leave out what is no word"
            )
        states = self._states(pieces, layer)
        return torch.stack([states[places == number].mean(0) for number in range(len(words))])

    @torch.no_grad()
    def hidden_pieces(
        self, text: str, layer: int | str = "avg", length: int | None = None
    ) -> Tensor:
        r"""Return one vector for every piece of a text; see ``TextTeacher``."""
        check_length(length)
        padded = {"padding": "max_length", "max_length": max(2, length or 2), "truncation": True}
        pieces = self.tokenizer(text, return_tensors="pt", **(padded if length else {}))
        return self._states(pieces, layer)[:length]

    def _states(self, pieces: Any, layer: int | str) -> Tensor:
        """Return the states (N, D) of a layer or the mean of all."""
        check_layer(layer, self.num_layers)
        limit, got = self.model.config.max_position_embeddings, pieces["input_ids"].shape[1]
        if got > limit:
            raise ValueError(f"text: got {got} pieces, expected at most {limit}; cut it in two")
        device = next(self.model.parameters()).device
        states = self.model(**pieces.to(device), output_hidden_states=True).hidden_states
        chosen = torch.stack(states).mean(0) if layer == "avg" else states[layer]
        return chosen[0].float()


def pretrained_text(
    name_or_path: str | Path = "bert_base", download: bool = False
) -> PretrainedTextTeacher:
    r"""Load BERT or ELECTRA from disk.

    Parameters
    ----------
    name_or_path
        One of ``PUBLISHED_TEXT``, or a folder with config, vocabulary and weights.
    download
        True fetches what is missing.

    Returns
    -------
    PretrainedTextTeacher
        In eval mode, without gradient.

    Raises
    ------
    ValueError
        If transformers is not installed, or the files are not there or do not fit (the message
        names them, their size, address and place).
    """
    try:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import hub
    except ImportError as error:
        raise ValueError(
            "transformers: not installed, expected for text teachers. "
            "Hint: pip install codec-lib[text], or use 'text-small'"
        ) from error
    repository = PUBLISHED_TEXT.get(str(name_or_path))
    source = repository or str(name_or_path)
    local = {"local_files_only": not download or repository is None, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True, **local)
        model = AutoModel.from_pretrained(source, dtype=torch.float32, **local)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        cached = Path(hub.constants.HF_HUB_CACHE) / f"models--{source.replace('/', '--')}"
        raise ValueError(
            f"text teacher: got {str(name_or_path)!r}, whose files are not at "
            f"{cached if repository else source} or cannot be read ({_first_line(error)}), "
            f"expected config.json, the weights ({_SIZE}) and vocab.txt or tokenizer.json. Hint: "
            f"download them from https://huggingface.co/{repository or PUBLISHED_TEXT['bert_base']}"
            " and pass their folder, call with download=True, or use 'text-small'"
        ) from error
    return PretrainedTextTeacher(model, tokenizer)


def _first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def load_text_teacher(name_or_path: str | Path = "text-small") -> TextTeacher:
    r"""Load a text teacher by name or path.

    Parameters
    ----------
    name_or_path
        A published one (``"bert_base"``, ``"electra_base"``), a folder in transformers' form, one
        of ``data/checkpoints`` (``"text-small"``), or a file that ``save_text_encoder`` wrote.

    Returns
    -------
    TextTeacher
        In eval mode, without gradient.

    Raises
    ------
    ValueError
        If there is no such teacher or its weights are not on disk.
    """
    if str(name_or_path) in PUBLISHED_TEXT or Path(name_or_path).is_dir():
        return pretrained_text(name_or_path)
    return load_text_encoder(name_or_path)
