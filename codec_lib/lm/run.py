r"""Train the unified speech language model.

Notebook: 40. Leaves out: what every run shares (``module_run.py``). Read next: ``speaking.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from codec_lib.training.batches import training_and_held_out

from .config import LanguageConfig
from .examples import Group, JoinedBatches, collate, joined, spoken_of
from .files import load_language_model, save_language_model
from .module_run import ModuleRun, train_module
from .tokenizer_run import load_codes_of
from .unified import Batch, UnifiedSpeechLanguageModel, build_unified

PROMPT_SECONDS = 3.0  # of an acoustic prompt at most, as published


class LanguageRun(ModuleRun):
    r"""A run of the unified speech language model; see ``ModuleRun``."""

    title = "unified speech language model"
    shown: ClassVar[tuple[str, ...]] = tuple(
        f"train/{name}" for name in ("loss", "ar", "nar_second", "nar_later")
    )
    config: LanguageConfig

    def build(self) -> UnifiedSpeechLanguageModel:
        """Make the model."""
        model = build_unified(self.config.scale, **self.config.overrides)
        if self.config.init_from is not None:
            model.load_state_dict(load_language_model(self.config.init_from).state_dict())
        return model

    def find_data(self) -> None:
        """Encode the corpora, or find their codes on disk."""
        config, fabric = self.config, self.fabric
        codec = load_codes_of(config.codec, fabric.device)
        self.frame_rate, self.codec_print = codec.frame_rate, codec.fingerprint
        count = self.module.config.num_quantizers
        with fabric.rank_zero_first():  # process 0 encodes what the others then read
            train, held_out = training_and_held_out(config, codec.sample_rate)
            self.spoken = spoken_of(train, codec, count)
            self.held_out = spoken_of(held_out[: 4 * config.valid_examples], codec, count)
        sizes = (config.batch_size, config.most_frames, config.most_joined, config.seed)
        self.batches = JoinedBatches(self.spoken, *sizes)
        self._data: Iterator[list[Group]] | None = None

    @property
    def audio_seconds(self) -> float:
        """Seconds of speech in a step of all processes, about."""
        mean = float(self.batches.frames.mean()) * (1 + self.config.most_joined) / 2
        return self.config.batch_size * min(mean, self.config.most_frames) / self.frame_rate

    def about(self) -> str:
        """Return what the data is, for the log."""
        return f"codes of {Path(self.config.codec).name}, {len(self.spoken)} utterances"

    def open_data(self) -> None:
        """Open the data at the present step."""
        ranks = self.fabric.global_rank, self.fabric.world_size
        self._data = self.batches.from_step(self.step, *ranks)

    def next_batch(self) -> tuple[list[Group], Batch]:
        """Return this process's batch of the present step, on its device, and its utterances."""
        groups = next(self._data)
        batch = collate([joined(self.spoken, group) for group in groups])
        return groups, batch.to(self.fabric.device)

    def losses(self, batch: tuple[list[Group], Batch]) -> dict[str, Tensor]:
        """Return Eqs. (9) and (10) as losses."""
        return self.wrapped(batch[1], *self.asked(batch[1]))

    def asked(self, batch: Batch) -> tuple[int, Tensor | None]:
        r"""Return the codebook of Eq. (10) of this step, and the prompts' frames (B,).

        The codebook is the same in all processes; both depend on seed and step alone.
        """
        rng = np.random.default_rng((self.config.seed, self.step))
        count = self.module.config.num_quantizers
        codebook = int(rng.integers(2, count)) if count > 2 else 1
        if self.module.config.as_published:
            return codebook, None
        size, rank = len(batch.text), self.fabric.global_rank
        drawn = rng.random(self.config.batch_size)[rank * size : (rank + 1) * size]
        share = torch.from_numpy(drawn).to(batch.code_lengths.device)
        most = (batch.code_lengths // 2).clamp_max(round(PROMPT_SECONDS * self.frame_rate))
        return codebook, (share * (most + 1)).long()

    def measure(self, module: UnifiedSpeechLanguageModel) -> dict[str, float]:
        """Measure the losses of held-out utterances, the last codebook as the third."""
        chosen = range(len(self.held_out))[: self.config.valid_examples]
        batch = collate([joined(self.held_out, (number,)) for number in chosen])
        found = module(batch.to(self.fabric.device), module.config.num_quantizers - 1)
        return {name: float(value) for name, value in found.items()}

    def names(self, batch: tuple[list[Group], Batch]) -> list[str]:
        """Name the utterances of a batch."""
        return [self.spoken[number].utterance_id for group in batch[0] for number in group]

    def write(self, path: Path, steps: int) -> None:
        """Write the averaged weights."""
        config = self.config
        card = {"steps": steps, "corpus": config.corpus, "codec": Path(config.codec).name}
        card |= {"codec_fingerprint": self.codec_print, **self.validated}
        save_language_model(self.average.module, path, card, half=False)


def train_language_model(config: LanguageConfig, fresh: bool = False) -> Path:
    r"""Train a unified speech language model, or go on with a run that was interrupted.

    Parameters
    ----------
    config, fresh
        As in ``module_run.train_module``, as is what is returned and raised;
        ``load_language_model`` reads the weights.
    """
    return train_module(LanguageRun, config, fresh)
