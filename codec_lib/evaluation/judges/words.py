r"""Judges of what is said: a recogniser that nobody here trained writes it down.

==================================  ================================================  ===========
name                                recogniser                                        needs
==================================  ================================================  ===========
``words``                           PocketSphinx with its own US English models       a package
``words=wav2vec2_asr_base_960h``    wav2vec 2.0 by CTC, and others of ``asr.py``      a download
``words=zero|one|two``              PocketSphinx that knows these words alone         a package
``words=FOLDER``                    Whisper in the layout of Hugging Face             a download
==================================  ================================================  ===========

Word and character error rates, lower case, without punctuation. A recogniser's own errors are
large (PocketSphinx) or small (Whisper): its rate on the original recordings always stands beside a
codec's. [Radford et al. 2022, Whisper], [Baevski et al. 2020, wav2vec 2.0], [Huggins-Daines et al.
2006, PocketSphinx]. Notebooks 30 and 31. Leaves out: other languages than English.
Read next: ``speakers.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import edit_distance

from codec_lib import audio
from codec_lib.data.pronunciation import normalise_words

from .base import Judge, JudgedClip, Score, from_folder

RATE = 16_000  # Hz, of all recognisers here
# A fifth less work than PocketSphinx's defaults at the same word errors; see docs/evaluations.md.
_BEAMS = {"maxhmmpf": 6000, "maxwpf": 10}
Listener = Callable[[Sequence[Tensor]], list[str]]  # waveforms (1, T) at RATE -> texts


class WordsJudge(Judge):
    r"""Word and character error rates: ``wer`` and ``cer``, weighed by words and characters.

    Parameters
    ----------
    recogniser
        Empty for PocketSphinx, words between ``|`` for one that knows these alone, a name of
        ``teachers.asr.PUBLISHED_ASR``, or a folder with a Whisper model; or a function from
        waveforms (1, T) at 16 kHz to texts.

    Raises
    ------
    ValueError
        If the package or the weights are not there.
    """

    name: ClassVar[str] = "words"
    needs: ClassVar[tuple[str, ...]] = ("text",)

    def __init__(self, recogniser: str | Listener = "") -> None:
        self._listen = recogniser if callable(recogniser) else listener(recogniser)

    def judge(self, clips: Sequence[JudgedClip]) -> dict[str, Score]:
        """Count the edits between what is heard and what is said."""
        heard = [normalise_words(text) for text in self._listen([_at_rate(c) for c in clips])]
        said = [normalise_words(clip.text) for clip in clips]
        if not all(said):
            raise ValueError(f"words: got a text without a word, {clips[said.index([])].text!r}")
        letters = [(" ".join(h), " ".join(s)) for h, s in zip(heard, said, strict=True)]
        pairs = {"wer": list(zip(heard, said, strict=True)), "cer": letters}
        scores = {}
        for measure, both in pairs.items():
            sizes = np.array([len(right) for _, right in both], dtype=np.float64)
            edits = np.array([edit_distance(found, right) for found, right in both])
            scores[measure] = Score(edits / sizes, sizes, False)
        return scores


def listener(name: str = "") -> Listener:
    r"""Return a recogniser by name; see ``WordsJudge``."""
    from codec_lib.teachers.asr import PUBLISHED_ASR, published_recogniser

    if not name or "|" in name:
        return sphinx_listener(vocabulary=tuple(name.split("|")) if name else ())
    if name in PUBLISHED_ASR:
        recogniser = published_recogniser(name)
        return lambda wavs: [
            "".join(recogniser.transcribe(wav[None])).replace("|", " ") for wav in wavs
        ]
    return whisper_listener(name)


def sphinx_listener(processes: int | None = None, vocabulary: tuple[str, ...] = ()) -> Listener:
    r"""Return PocketSphinx as a recogniser, which listens on several cores.

    Parameters
    ----------
    processes
        By default one per core, at most four, and one for every four clips: each takes seconds to
        start.
    vocabulary
        Words or phrases; said in any number and order, and nothing else. By default those of its
        language model.

    Raises
    ------
    ValueError
        If pocketsphinx is not installed, or its dictionary lacks a word.
    """
    from codec_lib.teachers.sphinx import _pocketsphinx

    _pocketsphinx()  # say now that it is missing
    if vocabulary:
        _decoder(vocabulary)
    count = processes or min(4, os.cpu_count() or 1)

    def listen(wavs: Sequence[Tensor]) -> list[str]:
        raw = [(w[0].clamp(-1, 1) * 32767).round().to(torch.int16).numpy().tobytes() for w in wavs]
        needed = count if processes else min(count, -(-len(wavs) // 4))
        if needed == 1 or len(wavs) == 1:
            return [_sphinx(one, vocabulary) for one in raw]
        with ProcessPoolExecutor(needed, get_context("spawn")) as pool:
            return list(pool.map(partial(_sphinx, vocabulary=vocabulary), raw))

    return listen


@cache
def _decoder(vocabulary: tuple[str, ...]) -> Any:
    """Return PocketSphinx's decoder of this process: a second to make, 60 MB."""
    from pocketsphinx import Decoder

    if not vocabulary:
        return Decoder(loglevel="FATAL", **_BEAMS)
    decoder = Decoder(loglevel="FATAL", lm=None)
    for word in " ".join(vocabulary).split():
        if not decoder.lookup_word(word):
            raise ValueError(f"words: got {word!r}, expected a word of PocketSphinx's dictionary")
    said = " | ".join(phrase for phrase in vocabulary if phrase.strip())
    decoder.add_jsgf_string("said", f"#JSGF V1.0; grammar said; public <said> = ( {said} )+;")
    decoder.activate_search("said")
    return decoder


def _sphinx(raw: bytes, vocabulary: tuple[str, ...] = ()) -> str:
    """Write down what 16-bit samples say."""
    decoder = _decoder(vocabulary)
    decoder.reinit_feat()  # forget the noise of the last recording
    decoder.start_utt()
    decoder.process_raw(raw, full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return found.hypstr if found else ""


def whisper_listener(folder: str | Path, batch_size: int = 8) -> Listener:
    r"""Return a Whisper model as a recogniser.

    Parameters
    ----------
    folder
        With ``config.json``, weights as safetensors and the tokenizer, as ``openai/whisper-small``
        on huggingface.co has them (0.97 GB).
    batch_size
        Clips a batch; each is heard to its 30th second.

    Raises
    ------
    ValueError
        If transformers is not installed, or the folder holds no Whisper.
    """
    expected = (
        "nothing (PocketSphinx), the name of a published recogniser or a folder with a Whisper "
        "model. Hint: the files of https://huggingface.co/openai/whisper-small (0.97 GB)"
    )
    model = from_folder("words", "WhisperForConditionalGeneration", folder, expected)
    from transformers import WhisperProcessor

    processor = WhisperProcessor.from_pretrained(folder, local_files_only=True)

    @torch.no_grad()
    def listen(wavs: Sequence[Tensor]) -> list[str]:
        texts: list[str] = []
        for at in range(0, len(wavs), batch_size):
            batch = [wav[0].numpy() for wav in wavs[at : at + batch_size]]
            inputs = processor(batch, sampling_rate=RATE, return_tensors="pt")
            found = model.generate(inputs.input_features, language="en", task="transcribe")
            texts += processor.batch_decode(found, skip_special_tokens=True)
        return texts

    return listen


def _at_rate(clip: JudgedClip) -> Tensor:
    """Return a clip at 16 kHz."""
    return audio.resample(clip.wav, clip.sample_rate, RATE)
