r"""Transcripts as numbers: phonemes or characters, for connectionist temporal classification.

Number 0 is CTC's blank. Phonemes are the utterance's own where it is aligned (silence left out),
else those of ``pronounce``; ``|`` stands between words in characters and, if wanted, in phonemes.
No paper. Leaves out: word pieces. Read next: ``codec_lib/losses/ctc.py``.
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
        r"""Return the numbers of what is said; None where the letters of a number are not known.

        Raises
        ------
        ValueError
            If the utterance has neither phonemes nor text, or no text where text is needed.
        """
        if self.kind == "characters":
            words = [list(plain_letters(word)) for word in normalise_words(_text(utterance))]
            if any(not word or not set(word) <= set(self.names) for word in words):
                return None
        elif utterance.phonemes and self.kind == "phonemes":
            words = [_own(utterance)]
        else:
            words = [
                list(phones) for _, phones in pronounce(_text(utterance), accent_of(utterance))
            ]
            if utterance.phonemes:
                own = _own(utterance)
                bounds = word_boundaries(words, own)
                words = [own[a:b] for a, b in pairwise(bounds)]
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


def _text(utterance: Utterance) -> str:
    """Return the text of an utterance, or say that there is none."""
    if not utterance.text:
        raise ValueError(
            f"{utterance.utterance_id}: got no text, expected a transcript. "
            "Hint: corpus.select(lambda utterance: utterance.text) keeps those that have one."
        )
    return utterance.text


def _own(utterance: Utterance) -> list[str]:
    """Return an utterance's known phonemes without silence."""
    return [phone.symbol for phone in utterance.phonemes if phone.symbol != SILENCE]
