r"""One way to speak, whatever a file holds: a model of codes with its codec, or one of tokens.

No paper. Leaves out: models in memory (``speaking.py``, ``continuous_run.py``).
Read next: ``evaluation/synthesis.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codec_lib import hub
from codec_lib.training.config import read_mapping

from .continuous_run import load_continuous_model, synthesise_continuous
from .files import load_language_model
from .sampling import FRAME_RATE, Sampling
from .speaking import Prompt, synthesise
from .tokenizer_run import load_codes_of, load_tokenizer


@dataclass(frozen=True)
class SpeakingModel:
    r"""A language model with what decodes its tokens.

    Attributes
    ----------
    sample_rate
        Hz, of prompts and of what is said.
    say
        Function from texts and prompts (or None) to waveforms (1, T).
    fingerprint
        Of the model's file.
    """

    sample_rate: int
    say: Callable[[Sequence[str], Sequence[Prompt | None]], list[Tensor]]
    fingerprint: str


def round_trip(name_or_path: str | Path) -> tuple[Callable[[Tensor], Tensor], int]:
    r"""Return a codec or tokenizer as a function of waveforms (1, 1, T), and its rate in Hz.

    Raises
    ------
    ValueError
        If there is no such file, or it holds something else.
    """
    path = hub.resolve(name_or_path)
    card = hub.read_tensors(path)[0].get("card", {})
    one: Any = load_tokenizer(path) if "continuous" in card else hub.load(path)

    @torch.no_grad()
    def through(wav: Tensor) -> Tensor:
        tokens = one.encode(wav)
        if isinstance(tokens, Tensor):
            return one.decode(tokens, wav.shape[-1])
        return one.decode(tokens)

    return through, one.sample_rate


def load_speaking_model(
    name_or_path: str | Path,
    codec: str | Path | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> SpeakingModel:
    r"""Load a language model by name or path, and the codec or tokenizer that its file names.

    Parameters
    ----------
    name_or_path
        Of a unified model or of one of continuous tokens.
    codec
        Instead of what the file names; where that is a file of one's own, the settings of the run,
        which lie beside the model, say where.
    sampling
        How codes are drawn; continuous tokens take its ``temperature``, and its
        ``frames_per_symbol`` in frames of 20 ms.
    seed
        Of what is drawn.
    device
        Where to speak.

    Raises
    ------
    ValueError
        If there is no such file, it holds something else, the codec or tokenizer is not the one
        whose codes or tokens the model learnt, or continuous tokens are asked for top-k or top-p.
    """
    path, sampling = hub.resolve(name_or_path), sampling or Sampling()
    card = hub.read_tensors(path)[0].get("card", {})
    print_ = hub.sha256(path)[:16]
    if "continuous_language" in card:
        if sampling.top_k or sampling.top_p < 1:
            raise ValueError(
                f"sampling: got top_k={sampling.top_k}, top_p={sampling.top_p}, but continuous "
                "tokens are no list to choose from; expected a temperature alone"
            )
        model: Any = load_continuous_model(path).to(device)
        source = codec or _learnt_from(path, card, "tokenizer")
        tokenizer: Any = load_tokenizer(source).to(device)
        _check_print(card.get("tokenizer_fingerprint"), tokenizer.fingerprint, source)
        most = sampling.frames_per_symbol * tokenizer.token_rate / FRAME_RATE

        def say(texts: Sequence[str], prompts: Sequence[Prompt | None]) -> list[Tensor]:
            asked = texts, prompts, seed, most, sampling.temperature
            return synthesise_continuous(model, tokenizer, *asked)

        return SpeakingModel(tokenizer.sample_rate, say, print_)
    model = load_language_model(path).to(device)
    source = codec or _learnt_from(path, card, "codec")
    tokenizer = load_codes_of(source, device)
    _check_print(card.get("codec_fingerprint"), tokenizer.fingerprint, source)

    def write(texts: Sequence[str], prompts: Sequence[Prompt | None]) -> list[Tensor]:
        return synthesise(model, tokenizer, texts, prompts, sampling, seed)

    return SpeakingModel(tokenizer.sample_rate, write, print_)


def _check_print(expected: str | None, found: str, source: str | Path) -> None:
    """Raise ValueError if a model is known to have learnt from something else."""
    if expected not in (None, found):
        raise ValueError(
            f"codec: got {source}, fingerprint {found}, expected {expected}, from whose codes or "
            "tokens the model learnt. Hint: was it trained anew in the same place?"
        )


def _learnt_from(path: Path, card: dict[str, Any], field: str) -> str:
    """Return what a model learnt from: a shipped name, or the path in its run's settings."""
    if field not in card:
        raise ValueError(f"{path}: got a file that names no {field}, expected one. Hint: --codec")
    named = card[field]
    settings = path.with_name("config.yml")
    if named in hub.known_names() or not settings.exists():
        return named
    return read_mapping(settings).get(field, named)
