r"""When each phoneme of recorded English is spoken: forced alignment with PocketSphinx.

Phonemes of recorded speech must come from somebody who has heard recorded speech. PocketSphinx is a
recogniser of the classical kind, hidden Markov models of phonemes in context with Gaussian mixtures
on MFCC [Huggins-Daines et al. 2006, PocketSphinx]; its package holds a US English model and the CMU
pronouncing dictionary, so nothing is downloaded and nothing was trained here. Two passes: the first
finds the words, which of their pronunciations is spoken, and the pauses; the second finds the
phonemes within each word.

A word that the dictionary lacks, a number, or a sign gets the pronunciation that espeak-ng gives it
in this sentence (``pronounce``). The dictionary's symbols are those of ``data/phonemes.py``;
silence and noises become silence. How far off it is was measured; see ``sphinx_aligned``.

Used by ``codec-lib units --align``. Leaves out: other languages, recognition, microphones.
Read next: ``asr.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codec_lib.data import Corpus, Phoneme, Word, pronounce
from codec_lib.data.phonemes import SILENCE, align
from codec_lib.data.pronunciation import normalise_words
from codec_lib.shapes import check_shape

from .alignment import align_each

_RATE = 16_000  # Hz, what the acoustic model was trained on
_HOP = 160  # samples, 10 ms between frames
# Frame f hears 26 ms from sample 160 f on, so its middle lies 205 samples in, and the boundary
# before it half a hop earlier, at 160 f + 125. One hop keeps the grid; measured: 166 samples.
_SHIFT = 160
_KEEP_ALL = {"beam": 1e-300, "wbeam": 1e-300, "pbeam": 1e-300}  # the text is known: prune nothing


@dataclass(frozen=True)
class SphinxAlignment:
    r"""Where everything in a recording is.

    Attributes
    ----------
    phonemes
        Cover [0, T) without gaps, silence included; samples at 16 kHz, boundaries every 10 ms.
    words
        In order, in the same samples, spelt as by ``normalise_words``.
    score
        Logarithm of how well the text fits, per frame, in PocketSphinx's own unit: the higher, the
        better. Only scores of the same recording can be compared.
    """

    phonemes: tuple[Phoneme, ...]
    words: list[Word]
    score: float


class SphinxAligner:
    r"""Align recordings with what is said in them. Not thread-safe; 0.2 s to make, 60 MB.

    Raises
    ------
    ValueError
        If pocketsphinx is not installed.
    """

    def __init__(self) -> None:
        # The lattice (bestpath) rewrites what the first pass found, which upsets the second.
        options = {"lm": None, "bestpath": False, "loglevel": "FATAL", **_KEEP_ALL}
        self._decoder = _pocketsphinx().Decoder(**options)

    def __call__(self, wav: Tensor, text: str) -> SphinxAlignment:
        r"""Align one recording.

        Parameters
        ----------
        wav
            Shape (1, T), float32, 16 kHz.
        text
            What is said, all of it, in English.

        Returns
        -------
        SphinxAlignment
            The same whatever was aligned before.

        Raises
        ------
        ValueError
            If the text has no word or takes more time than the recording lasts. That it belongs to
            another recording is not noticed otherwise.
        """
        check_shape(wav, "1 T", name="wav")
        entries = self._entries(text)
        samples = (wav[0].clamp(-1, 1) * 32767).round().to(torch.int16)
        raw = samples.cpu().numpy().tobytes()
        self._decoder.set_align_text(" ".join(entry for _, entry in entries))
        try:
            self._hear(raw)
            self._decoder.set_alignment()
            self._hear(raw)
        except (RuntimeError, IndexError) as error:  # IndexError: no sample at all
            raise ValueError(
                f"text: got {len(entries)} words that do not fit into "
                f"{wav.shape[-1] / _RATE:.2f} s, expected what is said there, 30 ms or more for "
                "each phoneme. "
                "Hint: does the text belong to the recording?"
            ) from error
        return self._result([word for word, _ in entries], wav.shape[-1])

    def _entries(self, text: str) -> list[tuple[str, str]]:
        """Return each word and its entry in the dictionary, which is made where there is none."""
        words = normalise_words(text)
        if not words:
            raise ValueError(f"text: got {text!r}, expected at least one word")
        if all(self._decoder.lookup_word(word) for word in words):
            return [(word, word) for word in words]
        entries = []
        for word, sounds in pronounce(text):
            entry = word
            if self._decoder.lookup_word(word) is None:
                entry = f"{word}/{'-'.join(sounds)}"  # another sentence may say it differently
                if self._decoder.lookup_word(entry) is None:
                    self._decoder.add_word(entry, " ".join(sounds), update=False)
            entries.append((word, entry))
        return entries

    def _hear(self, raw: bytes) -> None:
        """Run one pass over a whole recording, 16-bit samples."""
        self._decoder.start_stream()  # forget the noise of the last recording
        self._decoder.start_utt()
        try:
            self._decoder.process_raw(raw, full_utt=True)
        finally:
            self._decoder.end_utt()

    def _result(self, words: list[str], num_samples: int) -> SphinxAlignment:
        """Read the second pass: frames become samples, fillers silence."""

        def sample(frame: int) -> int:
            return min(frame * _HOP + _SHIFT, num_samples) if frame else 0

        starts, times, score, frames = [], [], 0, 0
        for entry in self._decoder.get_alignment():
            is_filler = entry.name[0] in "<["  # <s>, </s>, <sil>, [NOISE], [SPEECH]
            end = entry.start + entry.duration
            for phone in entry:
                starts.append((SILENCE if is_filler else phone.name, sample(phone.start)))
            if not is_filler:
                times.append((sample(entry.start), sample(end)))
            score, frames = score + entry.score, end
        spoken = [Word(word, *time) for word, time in zip(words, times, strict=True)]
        return SphinxAlignment(align(starts, num_samples), spoken, score / frames)


def _pocketsphinx() -> Any:
    """Import pocketsphinx, or say how to get it."""
    try:
        import pocketsphinx
    except ImportError as error:
        raise ValueError(
            "alignment: got no pocketsphinx, expected it to be installed. "
            "Hint: pip install codec-lib[align]"
        ) from error
    return pocketsphinx


def sphinx_aligned(corpus: Corpus) -> Corpus:
    r"""Return a corpus whose utterances have phonemes, found by alignment with their text.

    As ``alignment.aligned``, but with a recogniser that has heard recorded speech, so that
    ``evaluation.phoneme_probe`` and PNMI can be measured on it.

    Parameters
    ----------
    corpus
        With text, in English; heard at 16 kHz or resampled to it.

    Returns
    -------
    Corpus
        Utterances without text, bad files, and texts that do not fit are left out and logged.

    Raises
    ------
    ValueError
        If none is left, or pocketsphinx is not installed.

    Notes
    -----
    Synthetic speech, 126 utterances of the test part, exact boundaries known: all are aligned, 94 %
    of the phonemes spoken are found (the dictionary is American, half of the voices are British),
    their boundaries are off by 10 ms in the median and 95 % of them by at most 46 ms, and 77 % of
    the frames have the right phoneme (en-us voices: 80 %). No phoneme is shorter than 30 ms.

    LibriSpeech test-other: all 60 utterances are aligned, in 0.5 s each on one core (16 times as
    fast as speech). A linear probe on ``hubert-small``, fitted on three of the six speakers and
    tested on the other three, both ways round, agrees with 34 % of the frames that are not silent;
    with 15 % where transcripts were swapped between utterances of like length. (With a small
    recogniser that heard synthetic speech only, see ``alignment.aligned``: 21 % and 10 %.)

    A text that is not what was said is aligned all the same, and so is silence: of the swapped
    transcripts 54 of 60 were. The score tells: of all right texts it is above -29, of all but one
    of the swapped ones below -31. Right texts of synthetic speech score as low as -52.
    """
    aligner = SphinxAligner()
    return align_each(corpus, lambda wav, text: aligner(wav, text).phonemes)
