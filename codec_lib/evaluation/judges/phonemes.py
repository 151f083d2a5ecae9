r"""A judge of what is said that was trained here: the recogniser of a continuous tokenizer.

No package carries a recogniser that follows synthetic voices, so words said by them are judged by
what reads their phonemes: the network that learnt, by CTC, to hear phonemes in a tokenizer's
reconstructions. It is not impartial: that tokenizer's decoder learnt to please this ear, which
reads what it decodes with fewer errors than recordings. Notebooks 40 and 41. Leaves out: words.
Read next: ``speakers.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import edit_distance

from codec_lib import audio
from codec_lib.data.pronunciation import pronounce
from codec_lib.data.transcripts import Symbols
from codec_lib.losses.ctc import ctc_greedy

from .base import Judge, JudgedClip, Score


class PhonemesJudge(Judge):
    r"""Phoneme error rate ``per``, weighed by phonemes, against espeak-ng's American English.

    Parameters
    ----------
    network
        Name or file of a continuous tokenizer whose recogniser hears waveforms.

    Raises
    ------
    ValueError
        If there is no such file, or its recogniser hears tokens.
    """

    name: ClassVar[str] = "phonemes"
    needs: ClassVar[tuple[str, ...]] = ("text",)

    def __init__(self, network: str = "continuous-small") -> None:
        from codec_lib.lm.tokenizer_run import load_tokenizer

        self.tokenizer = load_tokenizer(network)
        if self.tokenizer.frames is None:
            raise ValueError(
                f"phonemes: got {network!r}, whose recogniser is "
                f"{self.tokenizer.config.listener!r}, expected one that hears the reconstruction"
            )
        self.symbols = Symbols("phonemes")

    def judge(self, clips: Sequence[JudgedClip]) -> dict[str, Score]:
        """Count the edits between the phonemes that are heard and those that are said."""
        said = [[phone for _, phones in pronounce(c.text) for phone in phones] for c in clips]
        heard = [self.hear(audio.resample(c.wav, c.sample_rate, self.tokenizer.sample_rate))
                 for c in clips]  # fmt: skip
        sizes = np.array([len(right) for right in said], dtype=np.float64)
        edits = np.array([edit_distance(*pair) for pair in zip(heard, said, strict=True)])
        return {"per": Score(edits / sizes, sizes, False)}

    def misread(self, wavs: Sequence[Tensor], texts: Sequence[str], sample_rate: int) -> Score:
        r"""Return the phoneme error rates of waveforms (1, T), of any length, also of none."""
        least = sample_rate // 10
        heard = [wav if wav.shape[-1] >= least else torch.zeros(1, least) for wav in wavs]
        pairs = zip(heard, texts, strict=True)
        return self.judge([JudgedClip(wav, sample_rate, text=text) for wav, text in pairs])["per"]

    @torch.no_grad()
    def hear(self, wav: Tensor) -> list[str]:
        r"""Return the phonemes of a waveform (1, T) at the tokenizer's rate."""
        logits = self.tokenizer.listen(wav[None], torch.empty(0))  # (1, F, V)
        return self.symbols.decode(ctc_greedy(logits, torch.tensor([logits.shape[1]]))[0])
