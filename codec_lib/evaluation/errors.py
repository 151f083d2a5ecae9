r"""Error rates of what a recogniser found: phonemes, characters and words.

The rate is the sum of all edits over the sum of all reference symbols; its interval is that of a
ratio, by resampling utterances. No paper. Leaves out: text normalisers (``data/pronunciation.py``
has one rule). Read next: ``ctc_probe.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor
from torchaudio.functional import edit_distance

from codec_lib import audio
from codec_lib.data import Corpus
from codec_lib.data.transcripts import GAP, Symbols, split_at_gaps

from .results import summarise

Recogniser = Callable[[Tensor], list[str]]  # (1, 1, T) -> symbols


def error_rate(pairs: Sequence[tuple[Sequence, Sequence]], name: str) -> dict[str, float]:
    r"""Return edits over reference symbols, with a 95 % interval over utterances.

    Parameters
    ----------
    pairs
        What was found and what is right, one pair per utterance.
    name
        Of the rate, e.g. ``"per"``.

    Returns
    -------
    dict[str, float]
        ``name``, ``name_low``, ``name_high``, ``name_failures``, as ``summarise``.

    Raises
    ------
    ValueError
        If there is no reference symbol at all.

    Examples
    --------
    >>> error_rate([("abc", "abd"), ("a", "a")], "cer")["cer"]
    0.25
    """
    edits = np.array([edit_distance(found, right) for found, right in pairs], dtype=np.float64)
    sizes = np.array([len(right) for _, right in pairs], dtype=np.float64)
    if not sizes.sum():
        raise ValueError(f"{name}: got no reference symbols in {len(pairs)} utterances")
    rate = edits.sum() / sizes.sum()
    # The mean of these is the rate; their spread that of a ratio, to first order.
    return summarise(rate + (edits - rate * sizes) / sizes.mean(), name)


def align_symbols(found: Sequence[str], right: Sequence[str]) -> list[tuple[str, str]]:
    r"""Pair two sequences by their Levenshtein alignment, the fewest edits; ``""`` where one lacks.

    Parameters
    ----------
    found, right
        Symbols read and symbols said; of equally short ways a change is taken before a gap.

    Returns
    -------
    list[tuple[str, str]]
        (read, said) in order: equal, changed, ``("", said)`` left out, ``(read, "")`` put in.

    Examples
    --------
    >>> align_symbols("sad", "sand")
    [('s', 's'), ('a', 'a'), ('', 'n'), ('d', 'd')]
    """
    cost = np.add.outer(np.arange(len(found) + 1), np.arange(len(right) + 1))  # (F + 1, R + 1)
    for i, one in enumerate(found, start=1):
        for j, other in enumerate(right, start=1):
            step = cost[i - 1, j - 1] + (one != other)
            cost[i, j] = min(step, cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    pairs, i, j = [], len(found), len(right)
    while i or j:
        both = i and j and cost[i, j] == cost[i - 1, j - 1] + (found[i - 1] != right[j - 1])
        read = both or (i > 0 and cost[i, j] == cost[i - 1, j] + 1)
        said = both or not read
        pairs.append((found[i - 1] if read else "", right[j - 1] if said else ""))
        i, j = i - bool(read), j - bool(said)
    return pairs[::-1]


def symbol_errors(
    pairs: Sequence[tuple[Sequence[str], Sequence[str]]], symbols: Symbols
) -> dict[str, float]:
    r"""Return the phoneme or character error rate and, where words are told apart, the word's.

    Parameters
    ----------
    pairs
        Symbols found and right, one pair per utterance.
    symbols
        What they are. ``|`` counts among characters, as a space does, not among phonemes.

    Returns
    -------
    dict[str, float]
        ``per``, or ``cer``; ``wer`` where the set has ``|``; each with its interval.
    """
    if symbols.kind == "characters":
        row = error_rate(pairs, "cer")
    else:
        bare = [tuple([s for s in one if s != GAP] for one in pair) for pair in pairs]
        row = error_rate(bare, "per")
    if GAP in symbols.names:
        words = [(split_at_gaps(found), split_at_gaps(right)) for found, right in pairs]
        row |= error_rate(words, "wer")
    return row


def recognition_errors(
    recognise: Recogniser, corpus: Corpus, symbols: Symbols
) -> dict[str, float | int | str]:
    r"""Let a recogniser hear a corpus and count its errors.

    Parameters
    ----------
    recognise
        Function from a waveform (1, 1, T) to symbols, e.g. ``CtcRecogniser.transcribe``.
    corpus
        Aligned or with text.
    symbols
        What the recogniser names.

    Returns
    -------
    dict
        ``test`` (the corpus's name), ``symbols``, ``utterances``, ``left_out`` (bad files and
        texts whose letters are not known) and the fields of ``symbol_errors``.
    """
    pairs = []
    for index, utterance in enumerate(corpus):
        target = symbols.encode(utterance)
        if target is None:
            continue
        try:
            wav = corpus.load(index)[None]  # (1, 1, T)
        except audio.AudioError:
            continue  # the corpus has reported it
        pairs.append((recognise(wav), symbols.decode(target)))
    described = {"test": corpus.name, "symbols": symbols.kind, "utterances": len(pairs)}
    return {**described, "left_out": len(corpus) - len(pairs), **symbol_errors(pairs, symbols)}
