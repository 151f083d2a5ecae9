r"""The symbol set of aligned English: 39 phonemes of ARPAbet and silence.

espeak-ng names sounds finely and by accent (``t#`` is a flapped t, ``@2`` a weak vowel); the table
below maps its names to the 39 phonemes of the CMU pronouncing dictionary plus ``sil``. Vowels with
r-colour count as the vowel (``e@`` in "care" as EH), syllabic l and n as L and N, schwa as AH.
Where an accent merges sounds, the label is what is spoken.

Boundaries are those of the synthesis, with one exception: l and r after a vowel and before a
consonant or a pause ("cold", Scottish "court") are spoken within the vowel's unit, and their own
event comes at its end, followed by at most 50 ms of silence. See ``label``.

Used by notebook 01. Leaves out: stress, tones, other languages (their names pass unmapped).
Read next: ``synthetic.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from .utterances import Phoneme

SILENCE = "sil"

VOWELS = frozenset("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split())
CONSONANTS = frozenset("B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split())
MANNERS = {  # of articulation; affricates count as stops
    "silence": frozenset([SILENCE]),
    "vowel": VOWELS,
    "approximant": frozenset("L R W Y".split()),
    "nasal": frozenset("M N NG".split()),
    "fricative": frozenset("DH F HH S SH TH V Z ZH".split()),
    "stop": frozenset("B CH D G JH K P T".split()),
}
ENGLISH = (*sorted(VOWELS | CONSONANTS), SILENCE)

_NAMES = {
    # ARPAbet: espeak-ng's names for it, without stress marks
    "AA": "A: A@ 0",  # father, start, lot
    "AE": "a aa",  # trap, bath
    "AH": "V @ @- @2 @5 a# a2 3",  # strut, comma; letter (ER in rhotic accents, see below)
    "AO": "O: O O2 O@ o@",  # thought, north, force
    "AW": "aU aU@",
    "AY": "aI aI@ aI2 aI3",
    "B": "b",
    "CH": "tS",
    "D": "d",
    "DH": "D",
    "EH": "E E2 e@",  # dress, square
    "ER": "3: VR IR",  # nurse
    "EY": "eI",
    "F": "f",
    "G": "g",
    "HH": "h x",  # x: loch
    "IH": "I I2 I# i@3",  # kit, near
    "IY": "i: i i@",  # fleece, happy, idea
    "JH": "dZ",
    "K": "k",
    "L": "l @L",
    "M": "m m-",
    "N": "n n-",
    "NG": "N",
    "OW": "oU",
    "OY": "OI",
    "P": "p",
    "R": "r r-",
    "S": "s",
    "SH": "S",
    "T": "t t# t2 t[ ?",  # plain, flapped, dental, glottal
    "TH": "T",
    "UH": "U U@",  # foot, cure
    "UW": "u:",
    "V": "v",
    "W": "w w#",
    "Y": "j ;",  # ; is the glide in "few"
    "Z": "z",
    "ZH": "Z",
    SILENCE: "_ _: _! _^_ _| ",
}
_SYMBOLS = {name: symbol for symbol, names in _NAMES.items() for name in names.split()}
_STRESS = "',%=|"
# Where l begins in a vowel-l unit: from there on F2 (the centroid of 0.7 to 2.6 kHz) is low, in
# "fell" 1.8 kHz up to half of the unit, 1.1 kHz at 0.69 and 0.9 kHz at its end.
_CODA_AT = 0.6


def to_symbol(mnemonic: str, rhotic: bool = True) -> str:
    r"""Map one of espeak-ng's names to the symbol set.

    Parameters
    ----------
    mnemonic
        Name in an event of espeak-ng, with or without stress mark, e.g. ``"'aU"``.
    rhotic
        True where the accent speaks the r in "letter" (``3`` is then ER, otherwise AH).

    Returns
    -------
    str
        One of ``ENGLISH``.

    Raises
    ------
    ValueError
        If the name is unknown, which a new version of espeak-ng would bring about.

    Examples
    --------
    >>> to_symbol("'aU"), to_symbol("_:"), to_symbol("3", rhotic=False)
    ('AW', 'sil', 'AH')
    """
    bare = mnemonic.lstrip(_STRESS)
    if bare == "3" and rhotic:
        return "ER"
    if bare not in _SYMBOLS:
        raise ValueError(
            f"phoneme: got {mnemonic!r}, expected one of {sorted(_SYMBOLS)}. "
            "Hint: add it to the table in data/phonemes.py."
        )
    return _SYMBOLS[bare]


def label(events: Sequence[tuple[str, int]], rhotic: bool = True) -> list[tuple[str, int]]:
    r"""Name espeak-ng's events in the symbol set, and give l and r after vowels their place.

    Such an l or r gets the last 0.4 of the vowel; the short silence that follows goes to the next
    sound.

    Parameters
    ----------
    events
        ``(mnemonic, first sample)`` in order of time.
    rhotic
        As for ``to_symbol``.

    Returns
    -------
    list[tuple[str, int]]
        ``(symbol, first sample)``, as many, in order of time.

    Raises
    ------
    ValueError
        If a name is unknown.

    Examples
    --------
    >>> label([("f", 0), ("'E", 100), ("l", 200), ("_:", 210)])
    [('F', 0), ('EH', 100), ('L', 160), ('sil', 200)]
    """
    starts = [(to_symbol(name, rhotic), at) for name, at in events]
    for index in range(1, len(starts) - 1):
        coda = events[index][0] in ("l", "r")
        if coda and starts[index - 1][0] in VOWELS and starts[index + 1][0] not in VOWELS:
            begin, end = starts[index - 1][1], starts[index][1]
            starts[index] = (starts[index][0], begin + round(_CODA_AT * (end - begin)))
            starts[index + 1] = (starts[index + 1][0], end)
    return starts


def align(starts: Sequence[tuple[str, int]], num_samples: int) -> tuple[Phoneme, ...]:
    r"""Turn starting points into phonemes that cover [0, num_samples) without gaps.

    Sound before the first start is silence; silences that touch become one; a sound that has no
    duration is left out.

    Parameters
    ----------
    starts
        ``(symbol, first sample)`` in order of time.
    num_samples
        Samples of the utterance.

    Returns
    -------
    tuple[Phoneme, ...]
        In order; each begins where the one before ends.

    Raises
    ------
    ValueError
        If the starts go back in time or behind the end.

    Examples
    --------
    >>> [(one.symbol, one.start, one.end) for one in align([("AA", 3), ("sil", 5), ("sil", 7)], 9)]
    [('sil', 0, 3), ('AA', 3, 5), ('sil', 5, 9)]
    """
    points = [(SILENCE, 0), *starts, ("", num_samples)]
    phonemes: list[Phoneme] = []
    for (symbol, start), (_, end) in pairwise(points):
        if end < start:
            raise ValueError(f"starts: got {end} after {start}, expected them in order of time")
        if end == start:
            continue
        if phonemes and symbol == SILENCE == phonemes[-1].symbol:
            phonemes[-1] = Phoneme(SILENCE, phonemes[-1].start, end)
        else:
            phonemes.append(Phoneme(symbol, start, end))
    return tuple(phonemes)
