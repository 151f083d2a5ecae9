r"""The symbols of the released language model: espeak-ng's phonemes as phonemizer writes them.

The released code reads texts through the package phonemizer [Bernard 2021], American English,
punctuation kept, without stress, and numbers symbols by a table that lies beside its weights
(``unique_text_tokens.k2symbols``). Here espeak-ng is asked directly; on 69 sentences the symbols
are those of phonemizer 3.3.0 with the same espeak-ng. Notebook: 40. Leaves out: other languages.
Read next: ``symbols.py``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from codec_lib.data import espeak

from .symbols import BEGIN, END, GAP, PAD, Spelling

MARKS = ';:,.!?¡¿—…"«»“”(){}[]'
_MARK = re.compile(rf"(\s*[{re.escape(MARKS)}]+\s*)+")
_STRESS = re.compile("[ˈˌ'-]+")


@lru_cache(maxsize=20_000)
def ipa_symbols(text: str) -> tuple[str, ...]:
    r"""Return the symbols of a text, without begin and end.

    Raises
    ------
    ValueError
        If nothing in it can be spoken.

    Examples
    --------
    >>> ipa_symbols("Hello, sea!")
    ('h', 'ə', 'l', 'oʊ', ',', '_', 's', 'iː', '!')
    """
    text, place, written = text.strip(), 0, ""
    for mark in [*_MARK.finditer(text), None]:
        chunk = text[place : len(text) if mark is None else mark.start()].strip()
        if chunk:
            words = _STRESS.sub("", espeak.to_ipa(chunk)).split(" ")
            written += GAP.join("|".join(re.findall("[^_]+", word)) for word in words)
        if mark is not None:
            written, place = written + re.sub(r"\s", GAP, mark[0]), mark.end()
    symbols: list[str] = []
    for word in written.strip(GAP).split(GAP):
        found = re.findall(r"\w+|[^\w\s]", word)
        symbols += [*(one for one in found if one != "|"), GAP]
    if not any(one.isalpha() for one in symbols):
        raise ValueError(f"text: got {text!r}, expected at least one word")
    return tuple(symbols[:-1])


class SymbolTable:
    r"""Numbers of symbols, as the released code gives them.

    Parameters
    ----------
    symbols
        All there are; they are sorted behind padding, begin and end.

    Examples
    --------
    >>> SymbolTable(["b", "a"])(["a", "b"]).tolist()
    [1, 3, 4, 2]
    """

    def __init__(self, symbols: Sequence[str]) -> None:
        names = [PAD, BEGIN, END, *sorted(symbols)]
        self.numbers = {name: number for number, name in enumerate(names)}

    @classmethod
    def read(cls, path: str | Path) -> SymbolTable:
        r"""Read a file of lines ``symbol number``; all symbols count, epsilon too, as in k2.

        The numbers of the file are not used: the released code sorts the symbols and counts anew.

        Raises
        ------
        ValueError
            If a line has another form.
        """
        symbols = []
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            name, _, number = line.strip().rpartition(" ")
            if not name or not number.isdecimal():
                raise ValueError(f"{path}: got the line {line!r}, expected a symbol and a number")
            symbols.append(name)
        return cls(symbols)

    def __call__(self, symbols: Sequence[str]) -> Tensor:
        r"""Return the numbers (S,) of symbols, with begin and end.

        A phoneme of several characters that is not in the table counts as these characters:
        published tables of both kinds exist.

        Raises
        ------
        ValueError
            If a symbol is not in the table, in one piece or in characters.
        """
        symbols = [part for one in symbols for part in ([one] if one in self.numbers else one)]
        unknown = sorted(set(symbols) - set(self.numbers))
        if unknown:
            raise ValueError(f"symbols: got {unknown}, expected some of {sorted(self.numbers)}")
        return torch.tensor([self.numbers[one] for one in (BEGIN, *symbols, END)])


def released_spelling(path: str | Path) -> Spelling:
    r"""Return how the released model wants texts, with its table of symbols in a file."""
    return Spelling(ipa_symbols, SymbolTable.read(path))
