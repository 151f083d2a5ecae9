r"""From a text and a few seconds of a voice to speech.

The prompt's text and codes stand before the text to be said, and the model goes on in that voice,
which it may never have heard before: zero-shot synthesis [Zhang et al. 2024, SpeechTokenizer],
§5.4. The codes it writes are decoded by the codec whose codes it learnt. Notebook: 40. Leaves
out: long texts, which are to be cut into sentences. Read next: ``sampling.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codec_lib.codecs.base import Codec
from codec_lib.codecs.continuous import DiscreteTwin
from codec_lib.shapes import Codes, check_shape

from .examples import collate, entry_vectors, position_behind
from .generation import generate
from .sampling import FRAME_RATE, Sampling
from .symbols import GAP, PHONEMES, Spelling
from .unified import UnifiedSpeechLanguageModel


@dataclass(frozen=True)
class Prompt:
    r"""A voice.

    Attributes
    ----------
    wav
        Shape (1, T), at the codec's sample rate; about 3 s.
    text
        What is said in it, all of it.
    """

    wav: Tensor
    text: str

    def __post_init__(self) -> None:
        check_shape(self.wav, "1 T", name="prompt")


@torch.no_grad()
def synthesise(
    model: UnifiedSpeechLanguageModel,
    codec: Codec | DiscreteTwin,
    texts: Sequence[str],
    prompts: Sequence[Prompt | None],
    sampling: Sampling | None = None,
    seed: int = 0,
    spelling: Spelling = PHONEMES,
) -> list[Tensor]:
    r"""Say texts in the voices of prompts.

    Parameters
    ----------
    model
        In eval mode.
    codec
        Whose codes it learnt.
    texts
        English, a sentence or two each.
    prompts
        One for each text; None lets the model choose a voice.
    sampling
        How codes are drawn; ``frames_per_symbol`` is the length guard.
    seed
        Of what is drawn, see ``write_first``.
    spelling
        How texts are written down; the released weights want ``ipa.released_spelling``.

    Returns
    -------
    list[Tensor]
        Waveforms (1, T) without the prompts, on the CPU; of no sample where the model ended at
        once.

    Raises
    ------
    ValueError
        If there is not one prompt for each text, the codec has too few codebooks, a text has no
        word, or the model needs a prompt and has none.
    """
    sampling, count = sampling or Sampling(), model.config.num_quantizers
    check_codec(model, codec)

    def encode(wav: Tensor) -> Tensor:
        return codec.encode(wav.to(codec.device), n_q=count).codes[0].cpu()

    nothing, pace = torch.zeros(count, 0, dtype=torch.int64), model.config.pace
    items, sizes, start = written_down(texts, prompts, encode, nothing, pace, spelling)
    each = sampling.frames_per_symbol * codec.frame_rate / FRAME_RATE
    most = [max(1, int(each * size)) for size in sizes]
    device = model.nar.stage_embeddings.device
    batch, start = collate(items).to(device), start.to(device)
    vectors = None if model.config.as_published else entry_vectors(codec, count).to(device)
    written = generate(model, batch, most, sampling, seed, start=start, vectors=vectors)
    return [_decoded(codec, codes) for codes in written]


def written_down(
    texts: Sequence[str],
    prompts: Sequence[Prompt | None],
    encode: Callable[[Tensor], Tensor],
    nothing: Tensor,
    pace: float,
    spelling: Spelling = PHONEMES,
) -> tuple[list[tuple[Tensor, Tensor]], list[int], Tensor]:
    r"""Write texts down, each behind its prompt.

    Parameters
    ----------
    texts, prompts, spelling
        As in ``synthesise``.
    encode
        Function from a waveform (1, 1, T) to codes or tokens (rows, F).
    nothing
        What stands for no prompt, (rows, 0).
    pace
        Of the model, see ``UnifiedConfig``.

    Returns
    -------
    tuple[list[tuple[Tensor, Tensor]], list[int], Tensor]
        Symbols and frames of each item; symbols of each text alone; positions (B,) at which texts
        begin.

    Raises
    ------
    ValueError
        If there is not one prompt for each text, or a text has no word.
    """
    if len(texts) != len(prompts) or not texts:
        raise ValueError(
            f"texts: got {len(texts)} with {len(prompts)} prompts, expected at least one text, and "
            "a prompt or None for each"
        )
    items, sizes, starts = [], [], []
    for text, prompt in zip(texts, prompts, strict=True):
        symbols, frames, start = [*spelling.symbols(text)], nothing, 0.0
        sizes.append(len(symbols))
        if prompt is not None:
            frames = encode(prompt.wav[None])
            ahead = [*spelling.symbols(prompt.text), GAP]
            start = position_behind(len(ahead), frames.shape[1], pace)
            symbols = [*ahead, *symbols]
        items.append((spelling.numbers(symbols), frames))
        starts.append(start)
    return items, sizes, torch.tensor(starts)


def _decoded(codec: Codec | DiscreteTwin, codes: Tensor) -> Tensor:
    """Turn codes (K, F) into a waveform (1, T)."""
    if not codes.shape[1]:
        return torch.zeros(1, 0)
    samples = codes.shape[1] * codec.hop_length
    return codec.decode(Codes(codes[None].to(codec.device), samples))[0].cpu()


def check_codec(model: UnifiedSpeechLanguageModel, codec: Codec | DiscreteTwin) -> None:
    r"""Raise ValueError if a codec cannot have the model's codes."""
    count = model.config.num_quantizers
    sizes = tuple(codec.codebook_sizes[:count])
    if sizes != (model.config.num_codes,) * count:
        raise ValueError(
            f"codec: got codebooks of {sizes}, expected {count} of {model.config.num_codes}. "
            "Hint: to speak, the codec that the model learnt from; to learn, "
            "overrides.num_quantizers and overrides.num_codes"
        )
