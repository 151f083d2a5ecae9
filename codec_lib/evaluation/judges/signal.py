r"""Judges that compare a clip with its original: envelope, waveform, intelligibility, pitch.

Pitch is Praat's autocorrelation [Boersma 1993], 75 to 500 Hz, every 10 ms. Two errors
[Nakatani et al. 2008, gross pitch error]: how far it is off, in cent, where both are voiced, and
how many frames are voiced in one of the two only.

Notebooks 30, 34 and 35. Leaves out: metrics that need a download. Read next: ``words.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from codec_lib.evaluation.reconstruction import METRICS, reconstruction_metrics

from .base import Judge, JudgedClip, Score

FLOOR, CEILING = 75.0, 500.0  # Hz, of the pitch of speech


class SignalJudge(Judge):
    r"""Mel distance, SI-SDR, STOI and wide-band PESQ; see ``evaluation/reconstruction.py``."""

    name: ClassVar[str] = "signal"
    needs: ClassVar[tuple[str, ...]] = ("original",)

    def judge(self, clips: Sequence[JudgedClip]) -> dict[str, Score]:
        """Compare each clip with its original."""
        rows = [
            reconstruction_metrics(clip.original, clip.wav, clip.sample_rate)  # type: ignore[arg-type]
            for clip in clips
        ]
        return {
            name: Score(np.array([row[name] for row in rows]), None, name != "mel_distance")
            for name in METRICS
        }


class PitchJudge(Judge):
    r"""How far pitch and voicing are off: ``f0_cents`` and ``voicing_error``.

    ``f0_cents`` is the root mean square of 1200 log2 of the ratio, over frames voiced in both; a
    semitone is 100, an octave that the tracker jumps 1200. ``voicing_error`` is the share of frames
    voiced in one of the two only.

    Parameters
    ----------
    floor, ceiling
        Hz; below the one and above the other no pitch is found. The synthesiser's lowest voices
        need a floor of 50 Hz.

    Raises
    ------
    ValueError
        If praat-parselmouth is not installed.
    """

    name: ClassVar[str] = "pitch"
    needs: ClassVar[tuple[str, ...]] = ("original",)

    def __init__(self, floor: float = FLOOR, ceiling: float = CEILING) -> None:
        self._praat, self.floor, self.ceiling = _parselmouth(), floor, ceiling

    def judge(self, clips: Sequence[JudgedClip]) -> dict[str, Score]:
        """Compare the pitch of each clip with its original's."""
        cents, voicing = [], []
        for clip in clips:
            right = self.contour(clip.original, clip.sample_rate)  # type: ignore[arg-type]
            found = self.contour(clip.wav, clip.sample_rate)
            both = (right > 0) & (found > 0)
            ratio = 1200 * np.log2(found[both] / right[both])
            cents.append(np.sqrt(np.mean(ratio**2)) if both.any() else np.nan)
            voicing.append(np.mean((right > 0) != (found > 0)) if len(right) else np.nan)
        return {
            "f0_cents": Score(np.array(cents), None, False),
            "voicing_error": Score(np.array(voicing), None, False),
        }

    def contour(self, wav: Tensor, sample_rate: int) -> np.ndarray:
        r"""Return the pitch in Hz every 10 ms, 0 where unvoiced, of wav (1, T).

        Shape (F,); empty where three periods of the floor do not fit: less than 40 ms at 75 Hz.
        """
        if wav.shape[-1] < 3 * sample_rate / self.floor + 1:
            return np.zeros(0)
        sound = self._praat.Sound(wav[0].double().numpy(), sample_rate)
        pitch = sound.to_pitch_ac(
            time_step=0.01, pitch_floor=self.floor, pitch_ceiling=self.ceiling
        )
        return pitch.selected_array["frequency"]


def _parselmouth() -> Any:
    """Import parselmouth, or say how to get it."""
    try:
        import parselmouth
    except ImportError as error:
        raise ValueError(
            "pitch: got no praat-parselmouth, expected it to be installed. "
            "Hint: pip install codec-lib[voices]"
        ) from error
    return parselmouth
