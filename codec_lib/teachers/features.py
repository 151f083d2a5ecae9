r"""Keep what a teacher says of every utterance on disk, and hand it to the training crops.

A file is found by the sha256 of the audio file, the teacher's fingerprint and the layer, so
nothing stale is ever read: a renamed file is found again, a changed file or teacher is computed
again. Frames are float16: 69 MB per hour at width 192, 276 MB at 768.

SpeechTokenizer computes features once, on whole utterances, and cuts them with the audio [Zhang et
al. 2024, SpeechTokenizer], official code. Used by notebook 10. Leaves out: several devices.
Read next: ``pretrained.py``.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from codec_lib import audio, paths
from codec_lib.data import Corpus

from .standardised import check_layer

_log = logging.getLogger(__name__)
_WINDOW, _MARGIN = 1500, 100  # frames (30 s and 2 s): attention over more costs time and memory


class Teacher(Protocol):
    r"""What every teacher has.

    Attributes
    ----------
    sample_rate, hop_length
        Hz; samples per frame.
    dim, num_layers
        Width D; layers, numbered from 1 (0 is what enters the first).
    fingerprint
        Text that changes with the weights.
    """

    sample_rate: int
    hop_length: int
    dim: int
    num_layers: int

    @property
    def fingerprint(self) -> str:
        r"""Text that changes with the weights."""
        ...

    def features(self, wav: Tensor, layer: int | str = "avg") -> Tensor:
        r"""Return (B, F, D) of a waveform (B, 1, T), F = ceil(T / hop_length)."""
        ...


def loaded(corpus: Corpus, index: int) -> Tensor | None:
    r"""Decode an utterance, (1, T); None for a bad file, which the corpus has reported."""
    try:
        return corpus.load(index)
    except audio.AudioError:
        return None


def spread(corpus: Corpus, utterances: int = 150) -> Iterator[Tensor]:
    r"""Return the first 30 s, (1, 1, T), of utterances spread over a corpus: enough to measure on.

    Parameters
    ----------
    corpus
        Bad files are left out.
    utterances
        About how many.
    """
    for index in range(0, len(corpus), max(1, len(corpus) // utterances)):
        wav = loaded(corpus, index)
        if wav is not None:
            yield wav[None, :, : 30 * corpus.sample_rate]


def long_features(teacher: Teacher, wav: Tensor, layer: int | str = "avg") -> Tensor:
    r"""Return features of audio of any length, 30 s at a time with 2 s around each piece.

    Parameters
    ----------
    teacher
        Any.
    wav
        Shape (1, 1, T) at the teacher's rate.
    layer
        See the teacher's ``features``.

    Returns
    -------
    Tensor
        Shape (F, D). Up to 30 s the same as ``features``.
    """
    hop = teacher.hop_length
    total = -(-wav.shape[-1] // hop)
    if total <= _WINDOW:
        return teacher.features(wav, layer)[0]
    pieces = []
    for first in range(0, total, _WINDOW - 2 * _MARGIN):
        begin, end = max(0, first - _MARGIN), min(total, first + _WINDOW - _MARGIN)
        piece = teacher.features(wav[..., begin * hop : end * hop], layer)[0]
        pieces.append(piece[first - begin : first - begin + _WINDOW - 2 * _MARGIN])
    return torch.cat(pieces)[:total]


class FeatureCache:
    r"""Function from utterance index to teacher features (F, D), for ``CropDataset(features=...)``.

    Parameters
    ----------
    teacher
        Any; put in eval mode.
    corpus
        The utterances, at the teacher's sample rate.
    layer
        Hidden state, or ``"avg"``.
    root
        Folder of the cache; ``cache_root() / "features"`` by default.
    memory_bytes
        Features kept in memory at most.
    disk_bytes
        Size of this teacher's files at most; None is as much as the disk has. ``fill`` refuses a
        corpus that does not fit. Who calls without it gets the rest computed at every call.

    Raises
    ------
    ValueError
        If the sample rates differ or there is no such layer.

    Notes
    -----
    Several processes may fill one cache: files are written under another name and renamed. A file
    that is damaged is logged, removed and computed again.
    """

    def __init__(
        self,
        teacher: Teacher,
        corpus: Corpus,
        layer: int | str = "avg",
        root: str | Path | None = None,
        memory_bytes: int = 1 << 29,
        disk_bytes: int | None = None,
    ) -> None:
        if teacher.sample_rate != corpus.sample_rate:
            raise ValueError(
                f"{corpus.name}: got {corpus.sample_rate} Hz, expected the teacher's "
                f"{teacher.sample_rate} Hz; hint: corpus(name, sample_rate={teacher.sample_rate})"
            )
        check_layer(layer, teacher.num_layers)
        self.teacher, self.corpus, self.layer, self.dim = teacher, corpus, layer, teacher.dim
        if isinstance(teacher, nn.Module):
            teacher.eval()
        self.folder = Path(root or paths.cache_root() / "features") / (
            f"{teacher.fingerprint}-{layer}"
        )
        self._memory: OrderedDict[int, Tensor] = OrderedDict()
        self._memory_bytes, self._memory_used = memory_bytes, 0
        self._disk_bytes, self._disk_used, self._is_full = disk_bytes, 0, False
        if disk_bytes is not None:
            self._disk_used = sum(file.stat().st_size for file in self.folder.glob("*/*.npy"))
        self._files: dict[int, Path] = {}

    def __call__(self, index: int) -> Tensor:
        r"""Return the features of one utterance.

        Parameters
        ----------
        index
            Utterance in the corpus.

        Returns
        -------
        Tensor
            Shape (F, D), float16, on the CPU, F = ceil(T / hop_length).

        Raises
        ------
        codec_lib.audio.AudioError
            If the audio cannot be read.
        """
        if index in self._memory:
            self._memory.move_to_end(index)
            return self._memory[index]
        file = self._file(index)
        found = self._read(file, index)
        if found is None:
            found = self._compute(index)
            self._write(file, found)
        self._keep(index, found)
        return found

    def fill(self, progress: Callable[[int, int], None] | None = None) -> None:
        r"""Compute what is not on disk, so that crops never wait for the teacher.

        Files that are there are not opened: a damaged one is found when it is read.

        Parameters
        ----------
        progress
            Called with (utterances done, utterances).

        Raises
        ------
        ValueError
            If what is missing takes more than the disk or the limit has; nothing is computed then.
        """
        self.check_room()
        for index in range(len(self.corpus)):
            try:
                if not self._is_done(index):
                    self(index)
            except audio.AudioError:
                continue  # the corpus has reported it
            if progress is not None:
                progress(index + 1, len(self.corpus))

    def check_filled(self) -> None:
        r"""Raise ValueError unless another process has filled the cache, as far as is seen here."""
        wanted = filter(self._is_wanted, range(len(self.corpus)))
        first = [self._is_done(index) for index in islice(wanted, 20)]
        if first and not any(first):
            raise ValueError(
                f"{self.folder}: got no features of {self.corpus.name}, expected those that "
                "process 0 has made. Hint: CODEC_LIB_CACHE on a disk that all machines share"
            )

    def _is_wanted(self, index: int) -> bool:
        """Return whether an utterance has features to be kept."""
        return self.corpus.length(index) > 0

    def _is_done(self, index: int) -> bool:
        """Return whether nothing is to be computed of an utterance: kept, or not to be had."""
        try:
            return not self._is_wanted(index) or self._file(index).exists()
        except audio.AudioError:
            return True

    def _size(self, index: int) -> int:
        """Return the bytes that an utterance takes on disk, about."""
        return -(-self.corpus.length(index) // self.teacher.hop_length) * self.dim * 2

    def check_room(self) -> None:
        r"""Raise ValueError if what is missing does not fit on the disk or within the limit."""
        folder = next(one for one in (self.folder, *self.folder.parents) if one.exists())
        room = shutil.disk_usage(folder).free
        if self._disk_bytes is not None:
            room = min(room, max(0, self._disk_bytes - self._disk_used))
        wanted = list(filter(self._is_wanted, range(len(self.corpus))))
        needed = sum(map(self._size, wanted))
        if needed > room:  # only now see what is there: a file's name is a digest of its recording
            wanted = [index for index in wanted if not self._is_done(index)]
            needed = sum(map(self._size, wanted))
        if needed > room:
            hours = sum(map(self.corpus.length, wanted)) / self.corpus.sample_rate / 3600
            raise ValueError(
                f"features of {self.corpus.name}: got {needed / 1e9:.3g} GB to write (what a "
                f"teacher of width {self.dim} says of {hours:.3g} h), expected at most "
                f"{room / 1e9:.3g} GB, which is what {folder} has left or the limit "
                "allows. Hint: CODEC_LIB_CACHE on a larger disk, a larger feature_disk_gb, or "
                "less speech"
            )

    def _file(self, index: int) -> Path:
        """Name the file of an utterance by the content of its audio."""
        if index not in self._files:
            path = self.corpus[index].audio_path
            try:
                with open(path, "rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                raise audio.AudioError(
                    f"{path}: got a file that cannot be read: {error}"
                ) from error
            self._files[index] = self.folder / digest[:2] / f"{digest}.npy"
        return self._files[index]

    def _read(self, file: Path, index: int) -> Tensor | None:
        """Read features from disk; None where there are none or they are damaged."""
        expected = (-(-self.corpus.length(index) // self.teacher.hop_length), self.dim)
        try:
            stored = np.load(file, allow_pickle=False)
            if stored.dtype != np.float16 or stored.ndim != 2 or stored.shape[1] != self.dim:
                raise ValueError(f"got {stored.dtype} {stored.shape}, expected float16 {expected}")
            if abs(stored.shape[0] - expected[0]) > 1 or not np.isfinite(stored).all():
                raise ValueError(f"got {stored.shape} or values not finite, expected {expected}")
        except FileNotFoundError:
            return None
        except (ValueError, OSError, EOFError) as error:
            _log.warning("%s: damaged features removed, computed again: %s", file, error)
            file.unlink(missing_ok=True)
            return None
        return torch.from_numpy(stored)

    @torch.no_grad()
    def _compute(self, index: int) -> Tensor:
        """Let the teacher hear a whole utterance: (F, D) float16."""
        parameters = getattr(self.teacher, "parameters", None)
        device = next(parameters()).device if parameters is not None else torch.device("cpu")
        wav = self.corpus.load(index)[None].to(device)  # (1, 1, T)
        return long_features(self.teacher, wav, self.layer).half().cpu().clone()

    def _write(self, file: Path, features: Tensor) -> None:
        """Write features under another name, then rename."""
        size = features.numel() * 2
        if self._disk_bytes is not None and self._disk_used + size > self._disk_bytes:
            if not self._is_full:
                _log.warning("%s: full; the rest is computed at every call", self.folder)
            self._is_full = True
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.stem}.{os.getpid()}.partial")
        try:
            with open(partial, "wb") as stream:
                np.save(stream, features.numpy(), allow_pickle=False)
            os.replace(partial, file)
            self._disk_used += size
        finally:
            partial.unlink(missing_ok=True)

    def _keep(self, index: int, features: Tensor) -> None:
        """Keep features in memory; let go of those not used for longest."""
        self._memory[index] = features
        self._memory_used += features.numel() * 2
        while self._memory_used > self._memory_bytes and len(self._memory) > 1:
            self._memory_used -= self._memory.popitem(last=False)[1].numel() * 2
