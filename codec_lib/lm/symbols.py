r"""What the language model reads: phonemes, the ends of words, punctuation.

espeak-ng turns a text into the 39 phonemes of ``data/phonemes.py``, read as a whole sentence, in
American English, whoever says it; without stress, punctuation kept, a sign between words, as the
released model has it (``ipa.py`` has its own names). Notebook: 40. Leaves out: other languages.
Read next: ``unified.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codec_lib.data.phonemes import CONSONANTS, VOWELS
from codec_lib.data.pronunciation import pronounce, split_words

PAD, BEGIN, END, GAP = "<pad>", "<bos>", "<eos>", "_"
MARKS = tuple(",;:.!?")
SYMBOLS = (PAD, BEGIN, END, GAP, *MARKS, *sorted(VOWELS | CONSONANTS))
_NUMBER = {symbol: number for number, symbol in enumerate(SYMBOLS)}


def spoken_symbols(text: str) -> list[str]:
    r"""Return the symbols of a text, without begin and end.

    Parameters
    ----------
    text
        English; see ``data/pronunciation.py``.

    Returns
    -------
    list[str]
        Phonemes, ``_`` between words, marks behind the word they follow.

    Raises
    ------
    ValueError
        If there is no word in it.

    Examples
    --------
    >>> spoken_symbols("The sea.")
    ['DH', 'AH', '_', 'S', 'IY', '.']
    """
    symbols: list[str] = []
    pairs = zip(pronounce(text), split_words(text), strict=True)
    for (_, phones), (_, mark) in pairs:
        symbols += [GAP] if symbols else []
        symbols += [*phones, *mark]
    return symbols


@dataclass(frozen=True)
class Spelling:
    r"""A way to write a text down for a model.

    Attributes
    ----------
    symbols
        Function from a text to symbols, without begin and end.
    numbers
        Function from symbols to numbers (S,), with begin and end.
    """

    symbols: Callable[[str], Sequence[str]]
    numbers: Callable[[Sequence[str]], Tensor]


def numbers_of(symbols: Sequence[str]) -> Tensor:
    r"""Return the numbers (S,) of symbols, with begin and end.

    Raises
    ------
    ValueError
        If a symbol is unknown.

    Examples
    --------
    >>> numbers_of(["AA"]).tolist()
    [1, 10, 2]
    """
    unknown = sorted(set(symbols) - set(SYMBOLS))
    if unknown:
        raise ValueError(f"symbols: got {unknown}, expected some of {list(SYMBOLS)}")
    return torch.tensor([_NUMBER[one] for one in (BEGIN, *symbols, END)])


PHONEMES = Spelling(spoken_symbols, numbers_of)
