r"""When each word is spoken, from the phonemes of an utterance and its text.

The phonemes of the synthetic corpus lie exactly in time but do not say which word they belong to.
The text, pronounced word by word, does; a Levenshtein alignment of both parts the phonemes into
words, and connected speech, which drops and changes sounds, moves a boundary by a phoneme at most
where it blurs it. DM-Codec needs these times to put a word's vector on the frames where the word is
said [Ahasan et al. 2024, DM-Codec], whose own code pairs vector i with frame i.

Used by notebook 11. Leaves out: speech without known phonemes (``teachers/alignment.py``).
Read next: ``segments.py``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .phonemes import SILENCE
from .pronunciation import pronounce, word_boundaries
from .synthetic import ACCENTS
from .utterances import Utterance

_ACCENT = re.compile(r"\d-([a-z-]+)\+")  # in a synthetic speaker's name, "Ftrain07-en-us+f2"


@dataclass(frozen=True)
class Word:
    r"""One word and where it is.

    Attributes
    ----------
    text
        In lower case, without punctuation.
    start, end
        First sample, and the sample behind the last, at the utterance's ``sample_rate``.
    """

    text: str
    start: int
    end: int


def word_times(utterance: Utterance, voice: str | None = None) -> list[Word]:
    r"""Find when each word of an aligned utterance is spoken.

    Parameters
    ----------
    utterance
        With text and phonemes, e.g. of the synthetic corpus.
    voice
        Accent, see ``pronounce``; by default that of the synthetic speaker, else ``"en-us"``.

    Returns
    -------
    list[Word]
        All words of the text in order, none empty, none overlapping. A word begins with its first
        phoneme and ends with its last; pauses belong to no word.

    Raises
    ------
    ValueError
        If text or phonemes are missing, or there are more words than phonemes.

    Examples
    --------
    >>> from codec_lib.data import Phoneme
    >>> phones = (Phoneme("sil", 0, 90), Phoneme("AY", 90, 200), Phoneme("S", 200, 300),
    ...           Phoneme("IY", 300, 400))
    >>> word_times(Utterance("a", "a.wav", text="I see!", phonemes=phones))
    [Word(text='i', start=90, end=200), Word(text='see', start=200, end=400)]
    """
    if not utterance.text or not utterance.phonemes:
        missing = "phonemes" if utterance.text else "text"
        raise ValueError(
            f"{utterance.utterance_id}: got no {missing}, expected an utterance with text and "
            "phonemes. Hint: teachers.alignment finds the phonemes of a transcribed recording."
        )
    said = pronounce(utterance.text, voice or accent_of(utterance))
    symbols = [phoneme.symbol for phoneme in utterance.phonemes]
    try:
        bounds = word_boundaries([phones for _, phones in said], symbols)
    except ValueError as error:
        raise ValueError(f"{utterance.utterance_id}: {error}") from error
    words = []
    for (text, _), first, end in zip(said, bounds, bounds[1:], strict=False):
        own = [one for one in utterance.phonemes[first:end] if one.symbol != SILENCE]
        words.append(Word(text, own[0].start, own[-1].end))
    return words


def accent_of(utterance: Utterance) -> str:
    r"""Return the accent of a synthetic speaker, and ``"en-us"`` for any other."""
    found = _ACCENT.search(utterance.speaker_id)
    return found[1] if found and found[1] in ACCENTS else "en-us"


def words_at_frames(
    words: Sequence[Word], num_frames: int, frame_rate: float, sample_rate: int = 16000
) -> Tensor:
    r"""Number the word at the centre of each frame.

    Parameters
    ----------
    words
        In order of time.
    num_frames
        Frames F wanted.
    frame_rate
        Frames per second; frame f is centred on (f + 1/2) / frame_rate seconds.
    sample_rate
        Hz in which the words' times are counted.

    Returns
    -------
    Tensor
        Shape (F,), int64: place in ``words``, -1 where no word is spoken. A word shorter than a
        frame may get none.

    Examples
    --------
    >>> words_at_frames([Word("i", 20, 60), Word("see", 60, 80)], 5, 5, sample_rate=100)
    tensor([-1,  0,  0,  1, -1])
    """
    centres = (torch.arange(num_frames, dtype=torch.float64) + 0.5) / frame_rate * sample_rate
    starts = torch.tensor([word.start for word in words], dtype=torch.float64)
    ends = torch.tensor([word.end for word in words], dtype=torch.float64)
    number = torch.searchsorted(starts, centres, right=True) - 1  # the last that has begun
    inside = (number >= 0) & (centres < ends[number.clamp(min=0)]) if len(words) else number >= 0
    return torch.where(inside, number, -1)
