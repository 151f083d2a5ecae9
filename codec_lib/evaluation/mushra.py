r"""A listening test with a hidden reference and anchors: who hears what when, and what is kept.

MUSHRA [ITU-R BS.1534-3]: a listener compares several versions of one utterance with the original,
which is named, and scores each from 0 to 100. Among the versions, under letters that say nothing,
are the original once more (the hidden reference) and low-passed copies of it (the anchors). Each
finished trial goes to a file at once, so that a kernel that dies takes nothing with it.

Notebook 35. Leaves out: sliders and players (``listening.py``), training
of listeners, loudness in LUFS. Read next: ``listeners.py``.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from string import ascii_uppercase
from zlib import crc32

import numpy as np
import torch
import torchaudio
from torch import Tensor

REFERENCE = "hidden reference"
LOW_ANCHOR, MID_ANCHOR = "low anchor, 3.5 kHz", "mid anchor, 7 kHz"
ANCHORS = {LOW_ANCHOR: 3500.0, MID_ANCHOR: 7000.0}  # Hz
BANDS = {"Excellent": (80, 100), "Good": (60, 80), "Fair": (40, 60), "Poor": (20, 40)}
BANDS |= {"Bad": (0, 20)}
COLUMNS = ("listener", "trial", "utterance", "condition", "letter", "score", "time", "revision")
_WIDTH, _STOP = 500.0, 60.0  # Hz from pass to stop band, dB down in the stop band


@dataclass(frozen=True)
class Rating:
    r"""One score: what a row of the file holds.

    Attributes
    ----------
    listener, utterance, condition
        Names.
    trial
        Place in the listener's own order, from 0.
    letter
        Under which the condition was heard.
    score
        0 to 100.
    time
        When the trial was finished, UTC, ISO 8601.
    revision
        Of the code that made the sounds.
    """

    listener: str
    trial: int
    utterance: str
    condition: str
    letter: str
    score: int
    time: str = ""
    revision: str = ""


@dataclass(frozen=True)
class Trial:
    r"""One page of the test: its place, its utterance, and which letter hides which condition."""

    number: int
    utterance: str
    letters: Mapping[str, str]


@dataclass(frozen=True)
class Design:
    r"""What is compared on what.

    Attributes
    ----------
    utterances, conditions
        Names; among the conditions is ``REFERENCE``.
    seed
        Of all orders; the same test for everybody has one seed.

    Raises
    ------
    ValueError
        If there are none, a name is empty, twice there or holds a line break, the hidden reference
        is missing, or there are more conditions than letters.
    """

    utterances: tuple[str, ...]
    conditions: tuple[str, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        for what in ("utterances", "conditions"):
            names = tuple(getattr(self, what))
            object.__setattr__(self, what, names)
            if not names or len(set(names)) != len(names):
                raise ValueError(f"{what}: got {list(names)}, expected different names, at least 1")
            for name in names:
                check_name(name, what)
        if REFERENCE not in self.conditions:
            raise ValueError(f"conditions: got {list(self.conditions)}, expected {REFERENCE!r} too")
        if len(self.conditions) > len(ascii_uppercase):
            raise ValueError(f"conditions: got {len(self.conditions)}, expected at most 26 letters")

    def trials(self, listener: str) -> list[Trial]:
        r"""Return a listener's trials: utterances in an order of their own, letters drawn anew.

        The same name always gets the same trials, whatever was finished before.

        Examples
        --------
        >>> design = Design(("u1", "u2"), (REFERENCE, "codec"))
        >>> design.trials("Ada") == design.trials("Ada")
        True
        """
        check_name(listener, "listener")
        rng = np.random.default_rng(crc32(f"{self.seed} {listener}".encode()))
        trials = []
        for number, place in enumerate(rng.permutation(len(self.utterances))):
            hidden = [self.conditions[i] for i in rng.permutation(len(self.conditions))]
            letters = dict(zip(ascii_uppercase, hidden, strict=False))
            trials.append(Trial(number, self.utterances[place], letters))
        return trials


class Session:
    r"""One listener's way through a test, which starts where it stopped.

    Parameters
    ----------
    design
        What is compared.
    listener
        A name or number; decides the order.
    path
        File of ratings; made with the first finished trial. Several listeners may share it.
    revision
        Kept with each rating.

    Raises
    ------
    ValueError
        If the name is empty, or the file holds another test.
    """

    def __init__(self, design: Design, listener: str, path: str | Path, revision: str = "") -> None:
        self.design, self.listener, self.path, self.revision = (
            design,
            listener,
            Path(path),
            revision,
        )
        self.trials = design.trials(listener)
        done = {one.trial for one in read_ratings(path, design) if one.listener == listener}
        self._left = [trial for trial in self.trials if trial.number not in done]
        self._scores: dict[str, int] = {}

    @property
    def trial(self) -> Trial | None:
        """The trial to be heard now; None when all are finished."""
        return self._left[0] if self._left else None

    @property
    def finished(self) -> int:
        """Number of finished trials."""
        return len(self.trials) - len(self._left)

    @property
    def unmoved(self) -> list[str]:
        """Letters of this trial whose slider has not been moved yet."""
        return [one for one in self._now().letters if one not in self._scores]

    def rate(self, letter: str, score: float) -> None:
        r"""Note a score; nothing is saved before ``next_trial``.

        Raises
        ------
        ValueError
            If there is no such letter, or the score is no number from 0 to 100.
        """
        if letter not in self._now().letters:
            raise ValueError(f"letter: got {letter!r}, expected one of {list(self._now().letters)}")
        if not (isinstance(score, (int, float, np.number)) and 0 <= score <= 100):
            raise ValueError(f"score of {letter}: got {score!r}, expected a number from 0 to 100")
        self._scores[letter] = round(float(score))

    def next_trial(self) -> Trial | None:
        r"""Save this trial and return the next one, None after the last.

        Raises
        ------
        ValueError
            If a slider has not been moved, which are named; or the trial is in the file already.
        """
        trial, missing = self._now(), self.unmoved
        if missing:
            raise ValueError(f"trial {trial.number + 1}: got no score for {', '.join(missing)}")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [
            Rating(
                self.listener, trial.number, trial.utterance, condition, letter,
                self._scores[letter], now, self.revision,
            )
            for letter, condition in trial.letters.items()
        ]  # fmt: skip
        append_trial(self.path, rows, self.design)
        self._left.pop(0)
        self._scores = {}
        return self.trial

    def _now(self) -> Trial:
        if self.trial is None:
            raise ValueError(f"{self.listener}: got all {len(self.trials)} trials finished already")
        return self.trial


def append_trial(path: str | Path, rows: Sequence[Rating], design: Design) -> None:
    r"""Add a finished trial to a file, whole or not at all.

    All rows go in one write at the end of the file, which is then forced to the disk. What an
    interrupted write has left behind the last whole trial is cut off first.

    Parameters
    ----------
    path
        CSV file with ``COLUMNS``; made if it is not there.
    rows
        One rating for each condition, all of one listener and trial.
    design
        The test that the file belongs to.

    Raises
    ------
    ValueError
        If a condition is missing, or the trial is in the file already.
    """
    if not _is_whole(rows, design):
        got = sorted(row.condition for row in rows)
        raise ValueError(f"rows: got conditions {got}, expected each of {list(design.conditions)}")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([getattr(row, name) for name in COLUMNS] for row in rows)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(handle)
        found, length = _parse(_read_all(handle), design, Path(path).name)
        if any((one.listener, one.trial) == (rows[0].listener, rows[0].trial) for one in found):
            raise ValueError(f"trial {rows[0].trial + 1} of {rows[0].listener}: got it in the file")
        os.ftruncate(handle, length)
        os.lseek(handle, 0, os.SEEK_END)
        header = "" if length else ",".join(COLUMNS) + "\n"
        os.write(handle, (header + text.getvalue()).encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def read_ratings(path: str | Path, design: Design) -> list[Rating]:
    r"""Read all finished trials of a file; a trial that was cut off while it was written is left.

    Parameters
    ----------
    path
        As ``append_trial`` writes it; no such file means no ratings yet.
    design
        The test that it should hold.

    Raises
    ------
    ValueError
        If it is no file of ratings, is damaged elsewhere than at its end, or holds another test.
    """
    path = Path(path)
    return _parse(path.read_bytes(), design, path.name)[0] if path.exists() else []


def _parse(data: bytes, design: Design, name: str) -> tuple[list[Rating], int]:
    """Return the ratings of all whole trials, and the number of bytes up to the last one's end."""
    header = ",".join(COLUMNS) + "\n"
    if header.encode().startswith(data):
        return [], 0 if data != header.encode() else len(data)
    first, *lines = data.splitlines(keepends=True)
    if first != header.encode():
        got = first[:60].decode("utf-8", "replace").strip()
        raise ValueError(f"{name}: got {got!r} as its first line, expected {header.strip()!r}")
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()  # cut off in the middle of a line
    rows = [next(csv.reader([line.decode("utf-8", "replace")]), []) for line in lines]
    found: list[Rating] = []
    taken = 0
    while taken < len(rows):
        size = sum(
            row[:2] == rows[taken][:2] for row in rows[taken : taken + len(design.conditions)]
        )
        group = [_rating(row, name) for row in rows[taken : taken + size]]
        if not _is_whole(group, design):
            if taken + size == len(rows) and _may_be_torn(group, design):
                break
            raise ValueError(
                f"{name}, line {taken + 2}: got a trial on {group[0].utterance!r} with conditions "
                f"{[one.condition for one in group]}, expected {list(design.conditions)}. "
                "Hint: another test needs another file"
            )
        found, taken = found + group, taken + size
    return found, len(first) + sum(len(line) for line in lines[:taken])


def _rating(fields: Sequence[str], name: str) -> Rating:
    """Turn the fields of a line into a rating."""
    if len(fields) != len(COLUMNS) or not (fields[1].isdigit() and fields[5].isdigit()):
        raise ValueError(f"{name}: got the line {','.join(fields)!r}, expected {','.join(COLUMNS)}")
    listener, trial, utterance, condition, letter, score, time, revision = fields
    return Rating(listener, int(trial), utterance, condition, letter, int(score), time, revision)


def _is_whole(rows: Sequence[Rating], design: Design) -> bool:
    """Tell whether ratings are one for each condition, of one listener, trial and utterance."""
    one_trial = len({(one.listener, one.trial, one.utterance) for one in rows}) == 1
    known = one_trial and rows[0].utterance in design.utterances
    return known and sorted(one.condition for one in rows) == sorted(design.conditions)


def _may_be_torn(rows: Sequence[Rating], design: Design) -> bool:
    """Tell whether ratings look like the beginning of a trial of this test."""
    known = all(one.utterance in design.utterances for one in rows)
    return known and {one.condition for one in rows} < set(design.conditions)


def _read_all(handle: int) -> bytes:
    os.lseek(handle, 0, os.SEEK_SET)
    return os.read(handle, os.fstat(handle).st_size + 1)


def _lock(handle: int) -> None:
    """Wait until no other process writes; where a system has no such lock, go on without."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)
    except (ImportError, OSError):
        pass


def check_name(name: str, what: str) -> None:
    """Raise ``ValueError`` unless a name is a non-empty text on one line."""
    if not isinstance(name, str) or not name.strip() or len(name.splitlines()) != 1:
        raise ValueError(f"{what}: got {name!r}, expected a name on one line")


def low_pass(wav: Tensor, sample_rate: int, cutoff: float) -> Tensor:
    r"""Remove what is above a frequency: how an anchor is made.

    A windowed sinc of linear phase, which moves nothing in time: flat within 0.1 dB up to
    ``cutoff``, 60 dB down from 500 Hz above it.

    Parameters
    ----------
    wav
        Shape (..., T), float32.
    sample_rate
        Hz.
    cutoff
        Hz; 3500 for the low and 7000 for the mid anchor.

    Returns
    -------
    Tensor
        Same shape.

    Raises
    ------
    ValueError
        If the rate does not allow it: cutoff + 500 Hz must lie within half of it.
    """
    if not 0 < cutoff <= sample_rate / 2 - _WIDTH:
        limit = sample_rate / 2 - _WIDTH
        raise ValueError(f"cutoff: got {cutoff:g} Hz, expected at most {limit:g} Hz at this rate")
    half = math.ceil((_STOP - 7.95) / (2.285 * 2 * math.pi * _WIDTH / sample_rate) / 2)
    steps = torch.arange(-half, half + 1, dtype=torch.float64)
    middle = 2 * (cutoff + _WIDTH / 2) / sample_rate
    window = torch.kaiser_window(2 * half + 1, False, beta=0.1102 * (_STOP - 8.7)).double()
    taps = middle * torch.sinc(middle * steps) * window
    taps = (taps / taps.sum()).to(wav.dtype).expand(*wav.shape[:-1], -1)
    return torchaudio.functional.fftconvolve(wav, taps)[..., half : half + wav.shape[-1]]


def anchors(wav: Tensor, sample_rate: int) -> dict[str, Tensor]:
    r"""Return those anchors of a waveform (..., T) that its rate allows, by name."""
    allowed = {k: hz for k, hz in ANCHORS.items() if hz <= sample_rate / 2 - _WIDTH}
    return {name: low_pass(wav, sample_rate, hertz) for name, hertz in allowed.items()}
