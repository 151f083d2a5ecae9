r"""Cut random training crops, the same ones however many processes cut them.

A crop is a function of (seed, epoch, item) alone. Workers, their number and their order cannot
change it, because no random state is carried from one item to the next. The epoch is part of the
index, ``epoch * len(dataset) + item``, so a sampler can name any crop of the run: ``batches`` does,
and thereby starts at any step. For a plain ``DataLoader``, ``set_epoch`` writes to a tensor in
shared memory, which persistent workers see too.

No paper. Used by notebook 06. Leaves out: augmentation.
Read next: ``training/loop.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from codec_lib import audio

from .utterances import Corpus

_POOL = 8  # batches among which items are sorted by length: little padding, still shuffled
_ATTEMPTS = 50  # crops drawn in place of bad files before giving up; a corpus half bad passes


class CropDataset(Dataset):
    r"""Random crops of a corpus, deterministic by seed, epoch and item.

    An epoch visits the corpus evenly by duration: its timeline is cut into ``length`` equal parts,
    item i takes the utterance at a random point of one of them (in shuffled order), and the crop
    starts at a random place in that utterance. Shorter utterances are filled up with zeros. A bad
    file is logged by name once, listed in ``bad_files``, and replaced by another draw.

    Parameters
    ----------
    corpus
        What to cut from; crops are at its sample rate.
    num_samples
        Samples T of a crop.
    seed
        Any integer of at least 0.
    length
        Items in an epoch; by default as many as crops fit into the corpus.
    features
        Function from utterance index to frame features (F, D), e.g. a teacher's; cropped with the
        audio. Needs ``hop_length``.
    hop_length
        Samples of a frame. Crops then start at multiples of it, so that frames of the crop are
        frames of the whole.
    cache
        True decodes the corpus once, at construction, into 16-bit shared memory (115 MB an hour at
        16 kHz) that all workers read. Files of more than 16 bits are rounded to 16.

    Raises
    ------
    ValueError
        If ``num_samples``, ``seed`` or ``length`` is out of range, ``features`` comes without a
        ``hop_length`` that divides ``num_samples``, or no file of the corpus is usable.
    """

    def __init__(
        self,
        corpus: Corpus,
        num_samples: int,
        seed: int = 0,
        length: int | None = None,
        features: Callable[[int], Any] | None = None,
        hop_length: int | None = None,
        cache: bool = False,
    ) -> None:
        if num_samples < 1 or seed < 0 or (length is not None and length < 1):
            raise ValueError(
                f"crops: got num_samples={num_samples}, seed={seed}, length={length}, "
                "expected num_samples >= 1, seed >= 0, length >= 1 or None"
            )
        if features is not None and (not hop_length or num_samples % hop_length):
            raise ValueError(
                f"crops: got features with hop_length={hop_length}, num_samples={num_samples}, "
                "expected a hop_length that divides num_samples"
            )
        self.corpus = corpus
        self.num_samples = num_samples
        self.seed = seed
        self.features = features
        self.hop_length = hop_length or 1
        lengths = np.array([corpus.length(index) for index in range(len(corpus))], dtype=np.int64)
        self._store = _decode_all(corpus, lengths) if cache else None  # zeroes lengths of bad files
        if not lengths.any():
            raise ValueError(
                f"{corpus.name}: got {len(corpus)} files, all bad: {corpus.bad_files[:3]}"
            )
        self._lengths = lengths
        self._ends = np.cumsum(lengths)
        self._length = length or max(1, round(int(self._ends[-1]) / num_samples))
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._bad = torch.from_numpy((lengths == 0).astype(np.uint8)).share_memory_()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[item] for item in range(len(self)))

    def set_epoch(self, epoch: int) -> None:
        r"""Choose the epoch that item 0 belongs to, for this process and all workers.

        Parameters
        ----------
        epoch
            At least 0. Call it before iterating a loader, not while one is running.
        """
        self._epoch[0] = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        r"""Cut one crop.

        Parameters
        ----------
        index
            ``epoch * len(self) + item``; the epoch counts from the one of ``set_epoch``.

        Returns
        -------
        dict
            ``wav`` (1, T) float32; ``index`` of the utterance in the corpus; ``start`` in samples;
            ``num_valid``, samples before the zeros; with a provider ``features`` (F, D) float32,
            the last frame repeated where the provider has fewer frames than the crop.

        Raises
        ------
        IndexError
            If ``index`` is negative.
        codec_lib.audio.AudioError
            If bad files come up again and again.
        """
        if index < 0:
            raise IndexError(f"crop: got index {index}, expected at least 0")
        epoch, item = divmod(int(index), self._length)
        epoch += int(self._epoch[0])
        for attempt in range(_ATTEMPTS):
            utterance, start = self._draw(epoch, item, attempt)
            try:
                wav = self._cut(utterance, start)
                crop = {
                    "wav": audio.pad_or_crop(wav, self.num_samples),  # (1, T)
                    "index": utterance,
                    "start": start,
                    "num_valid": wav.shape[-1],
                }
                if self.features is not None:
                    crop["features"] = self._cut_features(utterance, start)  # (F, D)
                return crop
            except audio.AudioError:  # of the crop, or of the whole that a teacher hears
                self._bad[utterance] = 1  # logged by the corpus; seen by all processes
        raise audio.AudioError(
            f"{self.corpus.name}: got {_ATTEMPTS} bad files in a row, e.g. {self.bad_files[:3]}"
        )

    @property
    def bad_files(self) -> list[tuple[str, str]]:
        r"""Files found bad so far, by any process, as ``(audio_path, reason)``."""
        known = dict(self.corpus.bad_files)
        for index in torch.nonzero(self._bad).flatten().tolist():
            known.setdefault(self.corpus[index].audio_path, "found bad by a worker; see its log")
        return list(known.items())

    def _draw(self, epoch: int, item: int, attempt: int) -> tuple[int, int]:
        """Choose (utterance, start) of one item; attempts after the first replace a bad file."""
        rng = np.random.default_rng((self.seed, epoch, item, attempt))
        where = rng.random()
        if attempt == 0:
            where = (_shuffled(self._length, self.seed, epoch)[item] + where) / self._length
        total = int(self._ends[-1])
        point = min(int(where * total), total - 1)
        utterance = int(np.searchsorted(self._ends, point, side="right"))
        room = max(0, int(self._lengths[utterance]) - self.num_samples)
        return utterance, self.hop_length * int(rng.integers(room // self.hop_length + 1))

    def _cut(self, utterance: int, start: int) -> Tensor:
        """Read one crop, from memory or from disk; may be shorter than asked for."""
        if self._store is None:
            if self._bad[utterance]:
                raise audio.AudioError(self.corpus[utterance].audio_path)
            return self.corpus.load(utterance, start, self.num_samples)
        first = int(self._ends[utterance] - self._lengths[utterance]) + start
        last = min(first + self.num_samples, int(self._ends[utterance]))
        return self._store[None, first:last].float() / 32768  # (1, T)

    def _cut_features(self, utterance: int, start: int) -> Tensor:
        """Cut the frames that belong to a crop: (F, D)."""
        assert self.features is not None
        whole = torch.as_tensor(self.features(utterance))  # (F_all, D)
        first, count = start // self.hop_length, self.num_samples // self.hop_length
        frames = torch.arange(first, first + count).clamp(max=whole.shape[0] - 1)
        return whole[frames].float()


class batches:  # reads as a function: for indices in batches(...)
    r"""Name the items of every batch of a run, from any step on, for one rank.

    Step s of the run has the joint batch of items s·B to (s + 1)·B - 1, counted on through the
    epochs; rank r of W takes the r-th of W equal contiguous parts. So ranks together see exactly
    what one process would, and a resumed run sees exactly what was still to come. Give it to
    ``DataLoader(batch_sampler=...)``.

    Parameters
    ----------
    batch_size
        Joint batch size B, over all ranks.
    start_step
        First step to name, e.g. where a checkpoint was taken.
    world_size, rank
        Number of processes W, and which one this is.
    num_steps
        Steps to name; None never ends.

    Raises
    ------
    ValueError
        If ``batch_size`` is no multiple of ``world_size``, or a number is out of range.

    Examples
    --------
    >>> list(batches(4, start_step=2, world_size=2, rank=1, num_steps=2))
    [[10, 11], [14, 15]]
    """

    def __init__(
        self,
        batch_size: int,
        start_step: int = 0,
        world_size: int = 1,
        rank: int = 0,
        num_steps: int | None = None,
    ) -> None:
        if batch_size < 1 or world_size < 1 or batch_size % world_size:
            raise ValueError(
                f"batches: got batch_size={batch_size}, world_size={world_size}, "
                "expected a joint batch that divides evenly among the processes"
            )
        if start_step < 0 or not 0 <= rank < world_size:
            raise ValueError(
                f"batches: got start_step={start_step}, rank={rank}, "
                f"expected start_step >= 0 and 0 <= rank < {world_size}"
            )
        self.batch_size = batch_size
        self.start_step = start_step
        self.world_size = world_size
        self.rank = rank
        self.num_steps = num_steps

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size // self.world_size
        step = self.start_step
        while self.num_steps is None or step < self.start_step + self.num_steps:
            first = step * self.batch_size + self.rank * share
            yield list(range(first, first + share))
            step += 1


def length_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> np.ndarray:
    r"""Put items of similar length together, in an order that depends on seed and epoch alone.

    Parameters
    ----------
    lengths
        Of the items.
    batch_size
        Items in a batch; all items if there are fewer.
    seed, epoch
        Of the order.

    Returns
    -------
    np.ndarray
        Shape (batches, batch_size), int64: every item at most once, fewer than ``batch_size`` of
        them left out.
    """
    rng = np.random.default_rng((seed, epoch))
    size = min(batch_size, len(lengths))
    order = rng.permutation(len(lengths))[: len(lengths) // size * size]
    pools = [order[at : at + _POOL * size] for at in range(0, len(order), _POOL * size)]
    sizes = np.asarray(lengths)
    ordered = np.concatenate([pool[np.argsort(sizes[pool], kind="stable")] for pool in pools])
    return rng.permutation(ordered.reshape(-1, size))


@lru_cache(maxsize=4)
def _shuffled(length: int, seed: int, epoch: int) -> np.ndarray:
    """Return the shuffled order of one epoch's parts, (length,); kept: every item asks for it."""
    return np.random.default_rng((seed, epoch)).permutation(length)


def _decode_all(corpus: Corpus, lengths: np.ndarray) -> Tensor:
    """Decode a corpus into one int16 tensor in shared memory; set the lengths of bad files to 0."""
    parts = []
    for index in range(len(corpus)):
        if lengths[index]:
            try:
                parts.append(torch.from_numpy(audio.to_int16(corpus.load(index), over="limit")))
                lengths[index] = parts[-1].numel()
            except audio.AudioError:
                lengths[index] = 0
    return (torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int16)).share_memory_()
