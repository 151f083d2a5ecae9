r"""Judges of speech: what hears a clip and scores it, by name.

============  =====================================================  ==========================
name          measures                                               needs
============  =====================================================  ==========================
``signal``    mel distance, SI-SDR, STOI, PESQ                       nothing more
``pitch``     pitch error in cent, voicing error                     extra ``voices``
``words``     word and character error rates, see ``words.py``       extra ``align``, or weights
``phonemes``  phoneme error rate, see ``phonemes.py``                a continuous tokenizer
``speaker``   cosine of speaker embeddings, see ``speakers.py``      extra ``judges``, or weights
``quality``   DNSMOS, see ``quality.py``                             extra ``judges``
============  =====================================================  ==========================

Read next: ``base.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .base import Judge, JudgedClip, Score
from .phonemes import PhonemesJudge
from .quality import QualityJudge
from .resynthesis import (
    clip_through,
    clips_of,
    judge_codec,
    means,
    resynthesised,
    scores_of,
)
from .signal import PitchJudge, SignalJudge
from .speakers import SpeakerJudge, voice_scale
from .words import WordsJudge

JUDGES: dict[str, Callable[..., Judge]] = {
    "signal": SignalJudge,
    "pitch": PitchJudge,
    "words": WordsJudge,
    "phonemes": PhonemesJudge,
    "speaker": SpeakerJudge,
    "quality": QualityJudge,
}
NETWORKS = ("words", "phonemes", "speaker")  # judges that hear with a network one can name


def make_judges(names: Sequence[str]) -> dict[str, Judge]:
    r"""Make judges by name.

    Parameters
    ----------
    names
        Some of ``JUDGES``; ``words=NAME``, ``phonemes=NAME`` and ``speaker=NAME`` name another
        network.

    Returns
    -------
    dict[str, Judge]
        By what comes before the ``=``.

    Raises
    ------
    ValueError
        If there is no such judge, it is asked for twice, or what it needs is not there.

    Examples
    --------
    >>> list(make_judges(["signal"]))
    ['signal']
    """
    made: dict[str, Judge] = {}
    for given in names:
        name, _, network = given.partition("=")
        if name not in JUDGES or (network and name not in NETWORKS):
            raise ValueError(
                f"judge: got {given!r}, expected one of {list(JUDGES)}; "
                f"{', '.join(f'{one}=NAME' for one in NETWORKS)}"
            )
        if name in made:
            raise ValueError(f"judge: got {name!r} twice, expected it once")
        made[name] = JUDGES[name](network) if network else JUDGES[name]()
    return made


def judges_at_hand(names: Sequence[str]) -> tuple[dict[str, Judge], dict[str, str]]:
    r"""Make those judges whose packages and weights are there.

    Parameters
    ----------
    names
        As in ``make_judges``.

    Returns
    -------
    tuple[dict[str, Judge], dict[str, str]]
        Judges by name; and of the others what is lacking.

    Examples
    --------
    >>> judges_at_hand(["signal", "words=/nowhere"])[1]  # doctest: +ELLIPSIS
    {'words=/nowhere': "words: got ...
    """
    made: dict[str, Judge] = {}
    lacking = {}
    for name in names:
        try:
            made |= make_judges([name])
        except ValueError as error:
            lacking[name] = str(error)
    return made, lacking


__all__ = [
    "JUDGES",
    "JudgedClip",
    "Judge",
    "PhonemesJudge",
    "PitchJudge",
    "QualityJudge",
    "Score",
    "SignalJudge",
    "SpeakerJudge",
    "WordsJudge",
    "clips_of",
    "clip_through",
    "judge_codec",
    "judges_at_hand",
    "make_judges",
    "means",
    "resynthesised",
    "scores_of",
    "voice_scale",
]
