r"""From text to phonemes, word by word, as espeak-ng reads them.

A sentence is read as a whole, so "the" is not spelt out and "of the" runs together as in speech;
espeak-ng's word events say where each word begins. Words that it speaks as one are parted by
comparison with how each sounds alone. The phonemes are the 39 of ``phonemes.py``, mapped as in the
synthetic corpus.

Rules for text: words are runs of letters (with apostrophes inside) or numbers; hyphens part words;
``&`` and ``%`` are read; other signs are dropped; text without a lower-case letter, as
LibriSpeech's, is lowered, otherwise capitals stay and espeak-ng spells what it takes for an
abbreviation. A number with its currency or ordinal ending is one word.

No paper. Used by notebook 11. Leaves out: stress, other languages than English.
Read next: ``words.py``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from . import espeak
from .phonemes import SILENCE, VOWELS, to_symbol
from .synthetic import ACCENTS

_LETTERS = r"[^\W\d_]+"
_NUMBER = r"[$£€]?\d+(?:[.,]\d+)*(?:st|nd|rd|th)?"
_WORD = rf"(?P<word>{_LETTERS}(?:'{_LETTERS})*|{_NUMBER})"
_TOKEN = re.compile(_WORD + r"|(?P<pause>[,;:!?]|\.(?=\s|$))")  # no pause inside "e.g."


def normalise_words(text: str) -> list[str]:
    r"""Split a text into words, in lower case, without punctuation.

    Parameters
    ----------
    text
        Any; typographic apostrophes count as apostrophes.

    Returns
    -------
    list[str]
        In order.

    Examples
    --------
    >>> normalise_words("MISTER QUILTER'S well-known R&B, 12 times!")
    ['mister', "quilter's", 'well', 'known', 'r', 'and', 'b', '12', 'times']
    """
    return [word.lower() for word, _ in split_words(text)]


def pronounce(text: str, voice: str = "en-us") -> list[tuple[str, tuple[str, ...]]]:
    r"""Return the words of a text and how they are spoken in this sentence.

    Parameters
    ----------
    text
        English; see the rules at the top of this file.
    voice
        Accent, one of ``synthetic.ACCENTS``.

    Returns
    -------
    list[tuple[str, tuple[str, ...]]]
        Words as of ``normalise_words``, each with at least one of the 39 phonemes.

    Raises
    ------
    ValueError
        If the text has no word, or the accent is unknown.

    Notes
    -----
    6 ms a sentence, kept for 20,000 of them. Not thread-safe, as espeak-ng is not.

    Examples
    --------
    >>> pronounce("Of the sea")
    [('of', ('AH', 'V')), ('the', ('DH', 'AH')), ('sea', ('S', 'IY'))]
    """
    if voice not in ACCENTS:
        raise ValueError(f"voice: got {voice!r}, expected one of {sorted(ACCENTS)}")
    return list(_pronounced(text, voice))


def word_boundaries(words: Sequence[Sequence[str]], heard: Sequence[str]) -> list[int]:
    r"""Part a sequence of phonemes into words, by the Levenshtein alignment with what is expected.

    A phoneme put in between two words goes to the first, but not across silence; every word gets at
    least one phoneme, if need be its neighbour's.

    Parameters
    ----------
    words
        Phonemes expected of each of W words.
    heard
        Phonemes to part; may hold ``"sil"``, which aligns with nothing.

    Returns
    -------
    list[int]
        W + 1 numbers, rising: word w is ``heard[b[w]:b[w + 1]]``, with silence in it and around.

    Raises
    ------
    ValueError
        If fewer phonemes are heard than there are words.

    Examples
    --------
    >>> word_boundaries([["K", "AY", "N", "D"], ["AH", "V"]], ["K", "AY", "N", "AH"])
    [0, 3, 4]
    """
    sounds = [place for place, symbol in enumerate(heard) if symbol != SILENCE]
    if len(sounds) < len(words) or not words:
        raise ValueError(
            f"words: got {len(words)} words for {len(sounds)} phonemes, expected at least one "
            "word, and a phoneme for each. Hint: does the text belong to this recording?"
        )
    expected = [(symbol, number) for number, word in enumerate(words) for symbol in word]
    pairs = _aligned([symbol for symbol, _ in expected], [heard[place] for place in sounds])
    owner = [None if pair is None else expected[pair][1] for pair in pairs]
    bounds = [0]
    for number in range(1, len(words)):
        before = [at for at, one in enumerate(owner) if one is not None and one < number]
        behind = [at for at, one in enumerate(owner) if one is not None and one >= number]
        last, first = max(before, default=-1) + 1, min(behind, default=len(sounds))
        inner = range(max(1, last), min(first, len(sounds) - 1) + 1)
        pauses = [at for at in inner if sounds[at] - sounds[at - 1] > 1]
        bounds.append(pauses[0] if pauses else first)
    for number in range(1, len(words)):  # one phoneme at least, from the left and from the right
        bounds[number] = max(bounds[number], bounds[number - 1] + 1)
    for number in range(len(words) - 1, 0, -1):
        following = bounds[number + 1] if number + 1 < len(words) else len(sounds)
        bounds[number] = min(bounds[number], following - 1)
    return [0, *(sounds[at] for at in bounds[1:]), len(heard)]


def _aligned(expected: Sequence[str], heard: Sequence[str]) -> list[int | None]:
    """Align two sequences; return for each symbol heard which expected one it is, or None."""
    rows, columns = len(heard) + 1, len(expected) + 1
    costs = [list(range(columns))]
    for row in range(1, rows):
        line, above = [row], costs[-1]
        for column in range(1, columns):
            changed = above[column - 1] + _difference(heard[row - 1], expected[column - 1])
            line.append(min(changed, above[column] + 1, line[-1] + 1))
        costs.append(line)
    pairs: list[int | None] = [None] * len(heard)
    row, column = rows - 1, columns - 1
    while row and column:
        here = costs[row][column]
        changed = costs[row - 1][column - 1] + _difference(heard[row - 1], expected[column - 1])
        if here == changed:
            row, column = row - 1, column - 1
            pairs[row] = column
        elif here == costs[row - 1][column] + 1:
            row -= 1
        else:
            column -= 1
    return pairs


def _difference(one: str, other: str) -> int:
    """Return 0 for the same sound, 1 for another vowel or consonant, 2 (never taken) across."""
    return 0 if one == other else 1 + ((one in VOWELS) != (other in VOWELS))


def split_words(text: str) -> list[tuple[str, str]]:
    r"""Split a text into words as ``pronounce`` reads them, each with the mark that follows it.

    Examples
    --------
    >>> split_words("Well, I see.")
    [('Well', ','), ('I', ''), ('see', '.')]
    """
    text = text.replace("’", "'").replace("&", " and ").replace("%", " percent ")
    if text == text.upper():
        text = text.lower()
    tokens: list[tuple[str, str]] = []
    for found in _TOKEN.finditer(text):
        if found["word"]:
            tokens.append((found["word"], ""))
        elif tokens:
            tokens[-1] = (tokens[-1][0], found["pause"])
    return tokens


@lru_cache(maxsize=20_000)
def _pronounced(text: str, voice: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Read a sentence, and part it into words at the word events."""
    tokens = split_words(text)
    if not tokens:
        raise ValueError(f"text: got {text!r}, expected at least one word")
    said = espeak.speak(" ".join(word + pause for word, pause in tokens), voice)
    symbols = [to_symbol(name, ACCENTS[voice]) for name, _ in said.phonemes]
    starts, at = [], 0  # first character of each word in what was spoken
    for word, pause in tokens:
        starts.append(at)
        at += len(word + pause) + 1
    begins = {0: 0}  # word: its first phoneme
    for place, phoneme in said.words:
        number = sum(start <= place for start in starts) - 1
        if number > max(begins):
            begins[number] = phoneme
    groups = [*sorted(begins), len(tokens)]
    words = [word for word, _ in tokens]
    spoken: list[tuple[str, ...]] = []
    for first, end in pairwise(groups):
        stop = begins.get(end, len(symbols))
        heard = [one for one in symbols[begins[first] : stop] if one != SILENCE]
        spoken += _parted(words[first:end], heard, voice)
    return tuple((word.lower(), phones) for word, phones in zip(words, spoken, strict=True))


def _parted(words: list[str], heard: list[str], voice: str) -> list[tuple[str, ...]]:
    """Part what is heard of words that are spoken as one; where that cannot be, say each alone."""
    if len(words) == 1 and heard:
        return [tuple(heard)]
    alone = [_alone(word, voice) for word in words]
    if len(heard) < len(words):
        return alone
    bounds = word_boundaries(alone, heard)
    return [tuple(heard[first:end]) for first, end in pairwise(bounds)]


@lru_cache(maxsize=100_000)
def _alone(word: str, voice: str) -> tuple[str, ...]:
    """Return the phonemes of a word said by itself."""
    said = espeak.speak(word, voice)
    symbols = (to_symbol(name, ACCENTS[voice]) for name, _ in said.phonemes)
    return tuple(symbol for symbol in symbols if symbol != SILENCE)
