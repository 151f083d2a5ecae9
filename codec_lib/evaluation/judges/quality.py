r"""Judges of how it sounds, without an original: DNSMOS.

DNSMOS P.835 [Reddy et al. 2022] is a network that predicts what listeners would say of noisy speech
in calls: of the speech, of the background and of the whole; and, by an older network, of the whole
alone. 1 is bad, 5 excellent. The package ``speechmos`` carries the networks (MIT licence). It was
not trained on codecs: take it as a hint, and beside its score of the original recordings.

Notebooks 30 and 35. Leaves out: UTMOS and others that need a download.
Read next: ``resynthesis.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
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
MEASURES = tuple(_FIELDS)


class QualityJudge(Judge):
    r"""DNSMOS: ``dnsmos``, ``dnsmos_speech``, ``dnsmos_background``, ``dnsmos_p808``; 1 to 5.

    A clip shorter than 9 s is repeated until it is as long, as the published code does; NaN for
    less than a quarter of a second. On one core the first three, which are one network, take 0.3 to
    0.7 s a clip, ``dnsmos_p808`` some hundredths of a second.

    Parameters
    ----------
    measures
        Which of the four; networks that none of them needs do not run.

    Raises
    ------
    ValueError
        If speechmos is not installed, or there is no such measure.
    """

    name: ClassVar[str] = "quality"

    def __init__(self, measures: Sequence[str] = MEASURES) -> None:
        if not measures or not set(measures) <= set(MEASURES):
            raise ValueError(f"measures: got {list(measures)}, expected some of {list(MEASURES)}")
        self.measures = tuple(measures)
        self._run = _speechmos(whole=set(measures) != {"dnsmos_p808"})

    def judge(self, clips: Sequence[JudgedClip]) -> dict[str, Score]:
        """Judge each clip by itself."""
        rows = []
        for clip in clips:
            wav = audio.resample(clip.wav, clip.sample_rate, RATE)[0]
            heard = wav.numel() >= RATE // 4
            rows.append(self._run(wav.clamp(-1, 1).numpy()) if heard else {})
        return {
            name: Score(np.array([row.get(_FIELDS[name], np.nan) for row in rows], dtype=float))
            for name in self.measures
        }


def _speechmos(whole: bool) -> Callable[[np.ndarray], dict[str, float]]:
    """Return the judge of speechmos, with the large network or without, or say how to get it."""
    try:
        from speechmos import dnsmos
    except ImportError as error:
        raise ValueError(
            "quality: got no speechmos or what it needs, expected it to be installed. "
            "Hint: pip install codec-lib[judges]"
        ) from error
    if whole:
        return lambda wav: dnsmos.run(wav, sr=RATE)
    return _P808(dnsmos)


class _P808:
    """The small network of speechmos alone, on the same windows that ``dnsmos.run`` hears."""

    def __init__(self, package: Any) -> None:
        from onnxruntime import InferenceSession

        folder = Path(package.__file__).parent / "dnsmos_models"
        self._session = InferenceSession(folder / "model_v8.onnx")
        self._mel = package.DNSMOS.audio_melspec
        self._seconds = package.INPUT_LENGTH

    def __call__(self, wav: np.ndarray) -> dict[str, float]:
        window, found = int(self._seconds * RATE), []
        while len(wav) < window:
            wav = np.append(wav, wav)
        for second in range(int(len(wav) // RATE - self._seconds) + 1):
            part = wav[second * RATE : int((second + self._seconds) * RATE)]
            if len(part) == window:  # rounding makes some one sample short: theirs skips them
                mel = self._mel(None, part[:-160])
                given = np.asarray(mel, dtype=np.float32)[None]
                found.append(float(self._session.run(None, {"input_1": given})[0][0][0]))
        return {"p808_mos": float(np.mean(found))}
