r"""Transcripts as numbers: phonemes or characters, for connectionist temporal classification.

Number 0 is CTC's blank. Phonemes are the utterance's own where it is aligned (silence left out),
else those of ``pronounce``; ``|`` stands between words in characters and, if wanted, in phonemes.
No paper. Used by notebooks 11 and 21. Leaves out: word pieces. Read next:
``codec_lib/losses/ctc.py``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from .phonemes import CONSONANTS, SILENCE, VOWELS
from .pronunciation import normalise_words, pronounce, word_boundaries
from .utterances import Utterance
from .words import accent_of

BLANK, GAP = "-", "|"
_PHONEMES = tuple(sorted(VOWELS | CONSONANTS))
KINDS = {
    "phonemes": (BLANK, *_PHONEMES),
    "phonemes+words": (BLANK, GAP, *_PHONEMES),
    "characters": (BLANK, GAP, *"abcdefghijklmnopqrstuvwxyz'"),
}


class Symbols:
    r"""A set of symbols, and the way from an utterance to their numbers.

    Parameters
    ----------
    kind
        ``"phonemes"`` (39), ``"phonemes+words"`` (39 and ``|``) or ``"characters"`` (26 letters,
        apostrophe and ``|``).

    Attributes
    ----------
    names
        Symbols in order, the blank first.

    Raises
    ------
    ValueError
        If there is no such kind.

    Examples
    --------
    >>> symbols = Symbols("characters")
    >>> symbols.decode(symbols.encode(Utterance("a", "a.wav", text="I SEE")))
    ['i', '|', 's', 'e', 'e']
    """

    def __init__(self, kind: str = "phonemes") -> None:
        if kind not in KINDS:
            raise ValueError(f"symbols: got {kind!r}, expected one of {sorted(KINDS)}")
        self.kind, self.names = kind, KINDS[kind]
        self._number = {name: number for number, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, utterance: Utterance) -> list[int] | None:
        r"""Return the numbers of what is said, or None where that cannot be spelt.

        Parameters
        ----------
        utterance
            With phonemes, or with text where the kind has words or no phonemes are known.

        Returns
        -------
        list[int] or None
            None where text is needed and there is none or no word in it, where the letters of a
            number are not known, and where there are fewer phonemes than words. Empty where the
            phonemes are silence alone.
        """
        if utterance.phonemes and self.kind == "phonemes":
            return self.join([_own(utterance)])
        said = normalise_words(utterance.text)
        if not said:
            return None
        if self.kind == "characters":
            words = [list(plain_letters(word)) for word in said]
            if any(not word or not set(word) <= set(self.names) for word in words):
                return None
            return self.join(words)
        words = [list(phones) for _, phones in pronounce(utterance.text, accent_of(utterance))]
        if utterance.phonemes:
            own = _own(utterance)
            if len(own) < len(words):
                return None
            words = [own[a:b] for a, b in pairwise(word_boundaries(words, own))]
        return self.join(words)

    def join(self, words: Sequence[Sequence[str]]) -> list[int]:
        r"""Return the numbers of the symbols of words, with ``|`` between where the set has it."""
        gap = [self._number[GAP]] if GAP in self._number else []
        numbers: list[int] = []
        for word in words:
            numbers += (gap if numbers else []) + [self._number[symbol] for symbol in word]
        return numbers

    def decode(self, numbers: Sequence[int]) -> list[str]:
        r"""Return the symbols of numbers."""
        return [self.names[number] for number in numbers]


def split_at_gaps(symbols: Sequence[str]) -> list[tuple[str, ...]]:
    r"""Return the words between ``|``.

    Examples
    --------
    >>> split_at_gaps(["a", "|", "b", "c", "|"])
    [('a',), ('b', 'c')]
    """
    words: list[list[str]] = [[]]
    for symbol in symbols:
        if symbol == GAP:
            words.append([])
        else:
            words[-1].append(symbol)
    return [tuple(word) for word in words if word]


def plain_letters(word: str) -> str:
    r"""Return a word without accents on its letters, e.g. ``"cafe"``."""
    return "".join(
        one for one in unicodedata.normalize("NFD", word) if not unicodedata.combining(one)
    )


def _own(utterance: Utterance) -> list[str]:
    """Return an utterance's known phonemes without silence."""
    return [phone.symbol for phone in utterance.phonemes if phone.symbol != SILENCE]
