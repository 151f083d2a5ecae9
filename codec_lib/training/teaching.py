r"""The teacher of a run: what it says of every utterance, and which projection must agree.

SpeechTokenizer distils features (Eq. 2) into the projection ``semantic`` or k-means units (Eq. 3)
into ``units``. Features of whole utterances are computed once and cached; crops cut them.

Read next: ``run.py``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from codec_lib import paths
from codec_lib.codecs.base import Codec
from codec_lib.data.utterances import Corpus
from codec_lib.teachers import load_teacher
from codec_lib.teachers.features import FeatureCache
from codec_lib.teachers.kmeans import KMeans, fit_kmeans, load_kmeans, save_kmeans
from codec_lib.training.config import TrainConfig


@dataclass
class Teaching:
    r"""What training needs to know about distillation; empty where there is none.

    Attributes
    ----------
    features
        Utterance index to what the teacher says of it, (F, D_S), or units as (F, 1).
    projections
        Names of the codec's projections that a loss reads.
    overrides
        Fields of the codec's config that the teacher decides.
    """

    features: Callable[[int], Tensor] | None = None
    projections: tuple[str, ...] = ()
    overrides: dict[str, Any] = field(default_factory=dict)

    def targets(self, batch: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """Return projection name to target for a batch with ``features`` (B, F, D_S)."""
        if not self.projections:
            return None
        features = batch["features"]
        name = self.projections[0]
        return {name: features[..., 0].long() if name == "units" else features}


def make_teaching(
    config: TrainConfig,
    corpus: Corpus,
    codec: Codec,
    device: torch.device,
    say: Callable[[str], None] | None = None,
) -> Teaching:
    r"""Load the teacher and let it hear every utterance.

    Parameters
    ----------
    config
        Teacher, layer and kind of distillation.
    corpus
        Training utterances.
    codec
        Its frames must be the teacher's.
    device
        Where the teacher runs.
    say
        Called with lines about the progress.

    Returns
    -------
    Teaching
        Empty where ``config.distill`` is ``"none"``.

    Raises
    ------
    ValueError
        If the teacher is unknown, its weights are not there, or its frames are not the codec's.
    """
    if config.distill == "none":
        return Teaching()
    teacher = load_teacher(config.teacher)
    if (teacher.sample_rate, teacher.hop_length) != (codec.sample_rate, codec.hop_length):
        raise ValueError(
            f"teacher {config.teacher}: got {teacher.hop_length} samples a frame at "
            f"{teacher.sample_rate} Hz, expected the codec's {codec.hop_length} at "
            f"{codec.sample_rate} Hz"
        )
    features = FeatureCache(teacher.to(device), corpus, config.teacher_layer)
    features.fill(_progress(say))
    teacher.to("cpu")  # loader workers are forked, and a fork cannot use a GPU
    if config.distill == "continuous":
        return Teaching(features, ("semantic",), {"teacher_dim": teacher.dim})
    kmeans = _units(config, corpus, features, f"{teacher.fingerprint}-{config.teacher_layer}")

    def units(index: int) -> Tensor:
        return kmeans(features(index).float()).unsqueeze(-1)  # (F, 1)

    overrides = {"teacher_dim": teacher.dim, "num_units": kmeans.num_units}
    return Teaching(units, ("units",), overrides)


def _units(config: TrainConfig, corpus: Corpus, features: FeatureCache, source: str) -> KMeans:
    """Return the k-means units of a corpus; they are fitted once and cached by what they are of."""
    of = [source, config.units, config.seed, *(one.utterance_id for one in corpus)]
    digest = hashlib.sha256(repr(of).encode()).hexdigest()[:16]
    path = paths.cache_root() / "units" / f"{digest}.safetensors"
    if not path.exists():
        usable = (features(index) for index in range(len(corpus)) if corpus.length(index))
        kmeans = fit_kmeans(usable, config.units, seed=config.seed)
        save_kmeans(kmeans, path, {"source": source, "corpus": corpus.name})
    return load_kmeans(path)


def _progress(say: Callable[[str], None] | None) -> Callable[[int, int], None] | None:
    """Return a callback that says every 10 s how many utterances the teacher has heard."""
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 10:
            last = time.monotonic()
            say(f"teacher: {done} of {total} utterances")

    return report if say is not None else None
