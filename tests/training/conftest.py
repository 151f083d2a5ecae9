"""The config of a run that takes a second, on a corpus of a dozen utterances."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from codec_lib.training.config import TrainConfig, load_config

TINY = {
    "overrides.num_quantizers": 3,
    "overrides.codebook_size": 16,
    "overrides.teacher_dim": 8,
    "segment_seconds": 0.2,
    "valid_crops": 2,
    "valid_seconds": 0.5,
    "progress_seconds": 1000,
    "average_decay": 0.9,
}


@pytest.fixture
def tiny_config(tiny_corpus: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Function that makes a config, with changes by keyword."""

    def make(**changes: object) -> TrainConfig:
        fixed = {**TINY, "corpus": str(tiny_corpus), "out_dir": str(tmp_path / "run")}
        return load_config("smoke", changes={**fixed, **changes})

    return make
