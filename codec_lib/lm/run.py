r"""Train the unified speech language model.

Notebook: 40. Leaves out: what runs share (``joined_run.py``). Read next: ``speaking.py``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from codec_lib.codecs.base import Codec
from codec_lib.codecs.continuous import DiscreteTwin

from .config import LanguageConfig
from .examples import Group, collate, entry_vectors, spoken_of
from .files import load_language_model, save_language_model
from .joined_run import JoinedRun
from .module_run import train_module
from .speaking import check_codec
from .tokenizer_run import load_codes_of
from .unified import Batch, UnifiedSpeechLanguageModel, build_unified

PROMPT_SECONDS = 3.0  # of an acoustic prompt at most, as published


class LanguageRun(JoinedRun):
    r"""A run of the unified speech language model; see ``ModuleRun``."""

    title, collated = "unified speech language model", staticmethod(collate)
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
        codec = load_codes_of(self.config.codec, self.fabric.device)
        self.frame_rate, self.codec_print = codec.frame_rate, codec.fingerprint
        check_codec(self.module, codec)
        count = self.module.config.num_quantizers
        if self.config.start_from_codec and self.config.init_from is None:
            start_from_codec(self.module, codec)
        encode = partial(spoken_of, codec=codec, num_quantizers=count)
        self.hear(codec.sample_rate, encode, codec.fingerprint)

    def about(self) -> str:
        """Return what the data is, for the log."""
        return f"codes of {Path(self.config.codec).name}, {len(self.spoken)} utterances"

    def losses(self, batch: tuple[list[Group], Batch]) -> dict[str, Tensor]:
        """Return Eqs. (9) and (10) as losses."""
        return self.wrapped(batch[1], *self.asked(batch[1]), self.config.part)

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
        last = module.config.num_quantizers - 1
        found = module(self.held_out_batch(), last, part=self.config.part)
        return {name: float(value) for name, value in found.items()}

    def write(self, path: Path, steps: int) -> None:
        """Write the averaged weights."""
        config = self.config
        card = {"steps": steps, "corpus": config.corpus, "codec": Path(config.codec).name}
        card |= {"codec_fingerprint": self.codec_print, **self.validated}
        save_language_model(self.average.module, path, card, half=False)


@torch.no_grad()
def start_from_codec(model: UnifiedSpeechLanguageModel, codec: Codec | DiscreteTwin) -> None:
    r"""Start the embeddings of codes at the vectors that they stand for, turned and scaled.

    Codes that sound alike then lie side by side, and what the second model reads, a sum of
    embeddings, is what has been decoded so far. Tables of random rows have to find that out from
    the company that codes keep, for which there is little speech at small scale.

    Parameters
    ----------
    model
        New; its embeddings of codes, and the output of codebook 1, are overwritten.
    codec
        Whose codes it is to learn.
    """
    config = model.config
    vectors = entry_vectors(codec, config.num_quantizers).cpu()
    first = [model.ar.code_embedding.weight, model.ar.head.weight]
    others = [table.weight for table in model.nar.code_embeddings]
    for tables, sources in ((first, vectors[[0, 0]]), (others, vectors)):
        turn = nn.init.orthogonal_(torch.empty(vectors.shape[2], tables[0].shape[1]))
        scale = config.embedding_scale / (sources @ turn).std()
        for table, source in zip(tables, sources, strict=True):
            table[: config.num_codes] = scale * source @ turn


def train_language_model(config: LanguageConfig, fresh: bool = False) -> Path:
    r"""Train a unified speech language model, or go on with a run that was interrupted.

    Parameters
    ----------
    config, fresh
        As in ``module_run.train_module``, as is what is returned and raised;
        ``load_language_model`` reads the weights.
    """
    return train_module(LanguageRun, config, fresh)
