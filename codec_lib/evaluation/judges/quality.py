r"""Judges of how it sounds, without an original: DNSMOS.

DNSMOS P.835 [Reddy et al. 2022] is a network that predicts what listeners would say of noisy speech
in calls: of the speech, of the background and of the whole; and, by an older network, of the whole
alone. 1 is bad, 5 excellent. The package ``speechmos`` carries the networks (MIT licence). It was
not trained on codecs: take it as a hint, and beside its score of the original recordings.

No notebook yet. Leaves out: UTMOS and others that need a download. Read next:
``resynthesis.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from codec_lib import audio

from .base import Judge, JudgedClip, Score

RATE = 16_000  # Hz
_FIELDS = {
    "dnsmos": "ovrl_mos",
    "dnsmos_speech": "sig_mos",
    "dnsmos_background": "bak_mos",
    "dnsmos_p808": "p808_mos",
}


class QualityJudge(Judge):
    r"""DNSMOS: ``dnsmos``, ``dnsmos_speech``, ``dnsmos_background``, ``dnsmos_p808``; 1 to 5.

    A clip shorter than 9 s is repeated until it is as long, as the published code does; NaN for
    less than a quarter of a second. About 0.1 s a clip on one core.

    Raises
    ------
    ValueError
        If speechmos is not installed.
    """

    name: ClassVar[str] = "quality"

    def __init__(self) -> None:
        self._run = _speechmos()

    def judge(self, clips: Sequence[JudgedClip]) -> dict[str, Score]:
        """Judge each clip by itself."""
        rows = []
        for clip in clips:
            wav = audio.resample(clip.wav, clip.sample_rate, RATE)[0]
            heard = wav.numel() >= RATE // 4
            rows.append(self._run(wav.clamp(-1, 1).numpy(), sr=RATE) if heard else {})
        return {
            name: Score(np.array([row.get(field, np.nan) for row in rows], dtype=np.float64))
            for name, field in _FIELDS.items()
        }


def _speechmos() -> Any:
    """Import the judge of speechmos, or say how to get it."""
    try:
        from speechmos import dnsmos
    except ImportError as error:
        raise ValueError(
            "quality: got no speechmos or what it needs, expected it to be installed. "
            "Hint: pip install codec-lib[judges]"
        ) from error
    return dnsmos.run
