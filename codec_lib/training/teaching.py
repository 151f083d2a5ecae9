r"""The teacher of a run: what it says of every utterance, and which projection must agree.

SpeechTokenizer distils features (Eq. 2) into the projection ``semantic`` or k-means units (Eq. 3)
into ``units``. Features of whole utterances are computed once and cached; crops cut them.

Read next: ``run.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from codec_lib.data.utterances import Corpus
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


def make_teaching(config: TrainConfig, corpus: Corpus, device: torch.device) -> Teaching:
    r"""Load the teacher and let it say something of every utterance.

    Parameters
    ----------
    config
        Teacher, layer and kind of distillation.
    corpus
        Training utterances.
    device
        Where the teacher runs.

    Returns
    -------
    Teaching
        Empty where ``config.distill`` is ``"none"``.

    Raises
    ------
    ValueError
        If the teacher is unknown or its weights are not there.
    """
    if config.distill == "none":
        return Teaching()
    raise NotImplementedError
