r"""What a judge is: something that hears clips and gives each a score.

A judge is told what it hears, and, if it needs them, how the clip should sound, what is said, and
whose voice it should be. It returns a score per clip, so that two codecs, or a codec and the
original recordings, are compared clip by clip. Some scores are ratios: a word error rate is a sum
of edits over a sum of words, so its clips weigh as much as they have words.

No paper. Notebooks 30 and 35. Leaves out: what is trained on the spot
(``probes.py``, ``ctc_probe.py``). Read next: ``signal.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from codec_lib.evaluation.results import summarise
from codec_lib.shapes import check_shape


@dataclass(frozen=True)
class JudgedClip:
    r"""What a judge is given.

    Attributes
    ----------
    wav
        Shape (1, T), float32 on the CPU: what is judged.
    sample_rate
        Hz, of all waveforms here.
    original
        Shape (1, T): what ``wav`` should sound like.
    text
        What is said; empty where that is not known.
    voice
        Shape (1, V): any speech of the speaker it should sound like; by default ``original``.
    """

    wav: Tensor
    sample_rate: int
    original: Tensor | None = None
    text: str = ""
    voice: Tensor | None = None

    def __post_init__(self) -> None:
        length = check_shape(self.wav, "1 T", name="wav")["T"]
        if self.original is not None:
            check_shape(self.original, "1 T", name="original", T=length)
        if self.voice is not None:
            check_shape(self.voice, "1 V", name="voice")

    @property
    def target(self) -> Tensor | None:
        r"""Speech of the speaker it should sound like, shape (1, V)."""
        return self.original if self.voice is None else self.voice

    def has(self, needs: Sequence[str]) -> bool:
        r"""Tell whether fields, of ``original``, ``text`` and ``target``, are there."""
        found = (getattr(self, need) for need in needs)
        return all(isinstance(one, Tensor) or bool(one) for one in found)


@dataclass(frozen=True)
class Score:
    r"""What a judge says of clips.

    Attributes
    ----------
    values
        Shape (N,), one per clip; NaN where it could not be judged.
    weights
        Shape (N,): what the mean weighs each clip by, e.g. its words; None for all alike.
    higher_is_better
        True for a quality, False for an error.
    """

    values: np.ndarray
    weights: np.ndarray | None = None
    higher_is_better: bool = True

    def spread(self) -> np.ndarray:
        r"""Return values (N,) whose plain mean is the weighted one, and which vary as it does.

        The mean of ratios weighed by their denominators is a ratio of sums; this is its first-order
        expansion, so that intervals and paired differences can be had by resampling clips.
        """
        if self.weights is None:
            return self.values
        good = np.isfinite(self.values) & (self.weights > 0)
        share = np.where(good, self.weights, 0.0)
        if not share.any():
            return np.full(self.values.shape, np.nan)
        mean = float(np.sum(share * np.where(good, self.values, 0.0)) / share.sum())
        return np.where(good, mean + share * (self.values - mean) / share[good].mean(), np.nan)

    def summary(self, name: str) -> dict[str, float]:
        r"""Return ``name``, ``name_low``, ``name_high`` (95 %), ``name_failures``.

        Examples
        --------
        >>> score = Score(np.array([1.0, 0.0]), np.array([1.0, 3.0]))
        >>> score.summary("wer")["wer"]
        0.25
        """
        return summarise(self.spread(), name)

    def change(self, other: Score, name: str) -> dict[str, float]:
        r"""Return ``name_change`` (this less another, clip by clip), with ``_low`` and ``_high``.

        Examples
        --------
        >>> better, worse = Score(np.array([0.2, 0.4])), Score(np.array([0.3, 0.5]))
        >>> round(better.change(worse, "wer")["wer_change"], 3)
        -0.1
        """
        found = summarise(self.spread() - other.spread(), f"{name}_change")
        return {key: value for key, value in found.items() if not key.endswith("_failures")}


class Judge(ABC):
    r"""Hears clips and gives scores.

    Attributes
    ----------
    name
        As ``judge(name)`` takes it.
    needs
        Fields of ``JudgedClip`` that must be there, of ``original``, ``text`` and ``target``.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def judge(self, clips: Sequence[JudgedClip]) -> dict[str, Score]:
        """Score clips that have what is needed."""

    def __call__(self, clips: Sequence[JudgedClip]) -> dict[str, Score]:
        r"""Score clips.

        Parameters
        ----------
        clips
            At least one, of any lengths and rates.

        Returns
        -------
        dict[str, Score]
            By measure, in the order of ``clips``.

        Raises
        ------
        ValueError
            If there is no clip, or one lacks what the judge needs.
        """
        self.check(clips)
        return self.judge(clips)

    def check(self, clips: Sequence[JudgedClip]) -> None:
        r"""Raise ValueError if there is no clip, or one lacks what the judge needs."""
        if not clips:
            raise ValueError(f"{self.name}: got no clip, expected at least one")
        for need in self.needs:
            lacking = sum(not clip.has([need]) for clip in clips)
            if lacking:
                raise ValueError(
                    f"{self.name}: got {lacking} of {len(clips)} clips without {need}, expected it"
                )


def from_folder(judge: str, network: str, folder: str | Path, expected: str) -> Any:
    r"""Load a network of transformers from a folder, in eval mode; nothing is downloaded.

    Parameters
    ----------
    judge
        Whose it is, for messages.
    network
        Class of transformers.
    folder
        With ``config.json`` and weights as safetensors.
    expected
        What the message says if there is no such network: what was expected, and a hint.

    Raises
    ------
    ValueError
        If transformers is not installed, or the folder holds no network.
    """
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            f"{judge}: got no transformers, expected it to be installed. "
            "Hint: pip install codec-lib[text]"
        ) from error
    if not (Path(folder) / "config.json").exists():
        raise ValueError(f"{judge}: got {str(folder)!r}, expected {expected}")
    made = getattr(transformers, network)
    return made.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
