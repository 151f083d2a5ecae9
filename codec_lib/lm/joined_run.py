r"""What the runs of both language models share: texts with codes or tokens, joined by speaker.

Notebook: 40. Leaves out: what is learnt from them. Read next: ``run.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from codec_lib.data import Corpus
from codec_lib.training.batches import digest_of, training_and_held_out

from .examples import Group, JoinedBatches, Spoken, joined
from .module_run import ModuleRun


class JoinedRun(ModuleRun):
    r"""A run on joined utterances.

    Its config has ``most_frames``, ``most_joined`` and ``guided_steps``.

    Attributes
    ----------
    collated
        Puts joined utterances into a batch.
    frame_rate
        Frames, or tokens, a second.
    """

    collated: ClassVar[Callable[[Sequence[Any]], Any]]
    frame_rate: float

    def hear(
        self, sample_rate: int, encode: Callable[[Corpus], list[Spoken]], fingerprint: str
    ) -> None:
        r"""Encode training and held-out utterances, or find what is on disk.

        Parameters
        ----------
        sample_rate
            Of what encodes, Hz.
        encode
            Function from a corpus to utterances as symbols and codes, or tokens.
        fingerprint
            Of what encodes.
        """
        config: Any = self.config
        with self.fabric.rank_zero_first():  # process 0 encodes what the others then read
            train, held_out = training_and_held_out(config, sample_rate)
            self.spoken, self.held_out = (
                encode(train),
                encode(held_out[: 4 * config.valid_examples]),
            )
        sizes = (config.batch_size, config.most_frames, config.most_joined, config.seed)
        self.batches = JoinedBatches(self.spoken, *sizes)
        said = [f"{one.utterance_id} {one.symbols} {one.places.tolist()}" for one in self.spoken]
        frames = [one.codes.shape[1] for one in self.spoken]
        self.data_print = digest_of(fingerprint, zip(said, frames, strict=True))
        self._data: Iterator[list[Group]] | None = None

    @property
    def audio_seconds(self) -> float:
        """Seconds of speech in a step of all processes, about."""
        config: Any = self.config
        mean = float(self.batches.frames.mean()) * (1 + config.most_joined) / 2
        return config.batch_size * min(mean, config.most_frames) / self.frame_rate

    def open_data(self) -> None:
        """Open the data at the present step."""
        ranks = self.fabric.global_rank, self.fabric.world_size
        self._data = self.batches.from_step(self.step, *ranks)

    def next_batch(self) -> tuple[list[Group], Any]:
        """Return this process's utterances of the present step, and their batch on its device."""
        groups = next(self._data)
        items = [joined(self.spoken, group, self.module.config.pace) for group in groups]
        if self.step >= self.config.guided_steps:
            items = [item[:3] for item in items]  # nobody shows where to read any more
        return groups, type(self).collated(items).to(self.fabric.device)

    def held_out_batch(self) -> Any:
        """Return the held-out utterances that are measured, one by one, on the device."""
        chosen = range(len(self.held_out))[: self.config.valid_examples]
        batch = type(self).collated([joined(self.held_out, (number,))[:2] for number in chosen])
        return batch.to(self.fabric.device)

    def names(self, batch: tuple[list[Group], Any]) -> list[str]:
        """Name the utterances of a batch."""
        return [self.spoken[number].utterance_id for group in batch[0] for number in group]
