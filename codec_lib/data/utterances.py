r"""Utterances, their phonemes, and the corpus they make up.

A corpus is a sequence of descriptions; audio is read only on ``load``. No paper. Used by notebook
01. Leaves out: finding corpora (``corpora.py``) and cutting crops (``segments.py``).
Read next: ``corpora.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from torch import Tensor

from codec_lib import audio

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phoneme:
    r"""One speech sound and where it is.

    Attributes
    ----------
    symbol
        Name in the symbol set of ``data/phonemes.py``; ``"sil"`` for silence.
    start, end
        First sample, and the sample behind the last, at the utterance's ``sample_rate``.
    """

    symbol: str
    start: int
    end: int


@dataclass(frozen=True)
class Utterance:
    r"""One recording and what is known about it; an empty field is unknown.

    Attributes
    ----------
    utterance_id
        Name, unique in its corpus.
    audio_path
        File of the audio.
    speaker_id, language, text, label, tone, sex
        Speaker; language such as ``"en"``; what is said; keyword, intent or syllable; lexical tone
        1 to 5; ``"F"`` or ``"M"``.
    split
        ``"train"``, ``"dev"`` or ``"test"``.
    sample_rate, num_samples
        Hz and samples of the file; 0 until its header has been read.
    phonemes
        Phonemes that cover [0, num_samples) without gaps, or none.
    """

    utterance_id: str
    audio_path: str
    speaker_id: str = ""
    language: str = ""
    text: str = ""
    label: str = ""
    tone: str = ""
    split: str = ""
    sample_rate: int = 0
    num_samples: int = 0
    phonemes: tuple[Phoneme, ...] = ()
    sex: str = ""

    def frame_symbols(self, frame_rate: float, num_frames: int) -> list[str]:
        r"""Name the phoneme at the centre of each frame.

        Parameters
        ----------
        frame_rate
            Frames per second; frame f is centred on (f + 1/2) / frame_rate seconds.
        num_frames
            Frames F wanted; those behind the end are ``"sil"``.

        Returns
        -------
        list[str]
            F symbols.

        Raises
        ------
        ValueError
            If the utterance carries no phonemes, or its sample rate is not known.

        Examples
        --------
        >>> said = Utterance("a", "a.wav", sample_rate=100, num_samples=100,
        ...                  phonemes=(Phoneme("sil", 0, 40), Phoneme("AA", 40, 100)))
        >>> said.frame_symbols(frame_rate=5, num_frames=6)
        ['sil', 'sil', 'AA', 'AA', 'AA', 'sil']
        """
        if not self.phonemes:
            raise ValueError(
                f"{self.utterance_id}: got no phonemes, expected an aligned utterance. "
                "Hint: the synthetic corpus carries them."
            )
        if self.sample_rate < 1:
            raise ValueError(
                f"{self.utterance_id}: got phonemes at {self.sample_rate} Hz, expected the sample "
                "rate that they are counted at"
            )
        symbols, position = [], 0
        for frame in range(num_frames):
            centre = (frame + 0.5) / frame_rate * self.sample_rate
            while position < len(self.phonemes) and self.phonemes[position].end <= centre:
                position += 1
            inside = position < len(self.phonemes)
            symbols.append(self.phonemes[position].symbol if inside else "sil")
        return symbols


class Corpus(Sequence[Utterance]):
    r"""A named sequence of utterances that are heard at one sample rate.

    Parameters
    ----------
    name
        What to call it in messages.
    utterances
        The utterances, in a fixed order.
    sample_rate
        Hz at which ``load`` returns audio; files at another rate are resampled.

    Attributes
    ----------
    bad_files
        Files that could not be used so far, as ``(audio_path, reason)``; each was logged once.

    Raises
    ------
    ValueError
        If there is no utterance.
    """

    def __init__(
        self, name: str, utterances: Sequence[Utterance], sample_rate: int = 16000
    ) -> None:
        if not utterances:
            raise ValueError(f"{name}: got 0 utterances, expected at least one")
        self.name = name
        self.sample_rate = sample_rate
        self.bad_files: list[tuple[str, str]] = []
        self._utterances = list(utterances)
        self._lengths: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._utterances)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...
    @overload
    def __getitem__(self, index: slice) -> Corpus: ...
    def __getitem__(self, index: int | slice) -> Utterance | Corpus:
        if isinstance(index, slice):
            return Corpus(self.name, self._utterances[index], self.sample_rate)
        return self._utterances[index]

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self._utterances)

    def __repr__(self) -> str:
        return f"Corpus({self.name!r}, {len(self)} utterances, {self.sample_rate} Hz)"

    def load(self, index: int, start: int = 0, num_samples: int | None = None) -> Tensor:
        r"""Read the audio of one utterance, or a part of it.

        Parameters
        ----------
        index
            Utterance.
        start, num_samples
            Part to read, in samples at the corpus's rate; the whole by default.

        Returns
        -------
        Tensor
            Shape (1, T), float32, at ``self.sample_rate``.

        Raises
        ------
        codec_lib.audio.AudioError
            If the file cannot be used; it is then listed in ``bad_files``.
        """
        path = self._utterances[index].audio_path
        try:
            return audio.read(path, self.sample_rate, start, num_samples)
        except audio.AudioError as error:
            self.report(path, str(error))
            raise
        except ValueError as error:
            if not 0 < start < self.length(index):
                raise
            reason = f"{error}. Hint: the manifest says that it is longer"
            self.report(path, reason)
            raise audio.AudioError(reason) from error

    def load_or_none(self, index: int) -> Tensor | None:
        r"""Read the audio of one utterance as ``load`` does; None, listed, where it is bad."""
        try:
            return self.load(index)
        except audio.AudioError:
            return None

    def report(self, path: str, reason: str) -> None:
        r"""List a file as bad and log it by name, the first time only."""
        if all(path != known for known, _ in self.bad_files):
            self.bad_files.append((path, reason))
            _log.warning("%s: bad file left out: %s", self.name, reason)

    def length(self, index: int) -> int:
        r"""Return the samples of one utterance at the corpus's rate; 0 where the file is bad."""
        if index not in self._lengths:
            utterance = self._utterances[index]
            count, rate = utterance.num_samples, utterance.sample_rate
            try:
                if count < 1 or rate < 1:
                    info = audio.read_info(utterance.audio_path)
                    count, rate = info.num_samples, info.sample_rate
                self._lengths[index] = audio.resampled_length(count, rate, self.sample_rate)
            except audio.AudioError as error:
                self.report(utterance.audio_path, str(error))
                self._lengths[index] = 0
        return self._lengths[index]

    @property
    def hours(self) -> float:
        r"""Duration in hours; reads the headers of files whose length is not known yet."""
        return sum(self.length(index) for index in range(len(self))) / self.sample_rate / 3600

    @property
    def speakers(self) -> list[str]:
        r"""Names of the speakers, sorted; unknown ones left out."""
        return sorted({utterance.speaker_id for utterance in self} - {""})

    @property
    def splits(self) -> list[str]:
        r"""Names of the splits, sorted; empty where the corpus has none."""
        return sorted({utterance.split for utterance in self} - {""})

    @property
    def phoneme_set(self) -> list[str]:
        r"""Symbols of the phonemes, sorted; empty where the corpus is not aligned."""
        return sorted({phoneme.symbol for utterance in self for phoneme in utterance.phonemes})

    def select(self, predicate: Callable[[Utterance], bool]) -> Corpus:
        r"""Return the utterances for which a predicate is true.

        Parameters
        ----------
        predicate
            Called with each utterance.

        Returns
        -------
        Corpus
            In the same order, under the same name.

        Raises
        ------
        ValueError
            If none is left.
        """
        chosen = [utterance for utterance in self if predicate(utterance)]
        if not chosen:
            raise ValueError(f"{self.name}: got a selection of 0 of {len(self)} utterances")
        return Corpus(self.name, chosen, self.sample_rate)

    def split(self, name: str) -> Corpus:
        r"""Return the utterances of one split.

        Parameters
        ----------
        name
            ``"train"``, ``"dev"`` or ``"test"``.

        Raises
        ------
        ValueError
            If the corpus has no such split; those that it has are named.
        """
        if name not in self.splits:
            raise ValueError(f"{self.name}: got split {name!r}, expected one of {self.splits}")
        chosen = self.select(lambda utterance: utterance.split == name)
        chosen.name = f"{self.name}[{name}]"
        return chosen
