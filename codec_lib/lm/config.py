r"""Everything that decides a training run of a speech language model, in one frozen dataclass.

As ``training/config.py`` for codecs: a preset, then single changes; what results is written beside
the run's checkpoints. Notebook: 40. Leaves out: stages. Read next: ``run.py``.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from codec_lib.training.config import PRECISIONS, coerce, read_mapping
from codec_lib.training.stages import known, merged


@dataclass(frozen=True)
class LanguageConfig:
    r"""Describe one training run of a language model.

    Attributes
    ----------
    scale, overrides
        Of the model, see ``unified.build_unified``, and changed fields of its config.
    codec
        Name or file of the codec whose codes are learnt.
    init_from
        File of a model whose weights start this run.
    corpus, valid_corpus
        As in ``training.TrainConfig``; utterances need texts.
    batch_size
        Examples per step over all processes.
    most_frames, most_joined
        Frames of an example at most; utterances of one speaker joined in it at most.
    lr, betas, weight_decay, epsilon, warmup_steps, final_lr_fraction, clip_norm, average_decay
        As in ``training.TrainConfig``.
    steps, seed, precision, accelerator, devices, num_nodes, strategy
        As in ``training.TrainConfig``.
    log_every, valid_every, checkpoint_every, progress_seconds, time_limit_minutes, out_dir
        As in ``training.TrainConfig``.
    valid_examples
        Held-out utterances whose loss is measured at each validation.

    Raises
    ------
    ValueError
        If a value is out of range.

    Examples
    --------
    >>> LanguageConfig(steps=10).scale
    'small'
    """

    scale: str = "small"
    overrides: dict[str, Any] = field(default_factory=dict)
    codec: str = "speechtokenizer-small"
    init_from: str | None = None
    corpus: str = "synthetic"
    valid_corpus: str | None = None
    batch_size: int = 16
    most_frames: int = 500
    most_joined: int = 3
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    epsilon: float = 1e-8
    warmup_steps: int = 200
    final_lr_fraction: float = 0.05
    clip_norm: float = 1.0
    average_decay: float = 0.999
    steps: int = 5000
    seed: int = 0
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    log_every: int = 10
    valid_every: int = 500
    checkpoint_every: int = 250
    valid_examples: int = 32
    progress_seconds: float = 30.0
    time_limit_minutes: float = 0.0
    out_dir: str = "runs/language_model"

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(type(self)).items():
            object.__setattr__(self, name, coerce(name, kind, getattr(self, name)))
        positive = "batch_size most_frames most_joined lr epsilon steps devices num_nodes"
        positive += " log_every valid_every checkpoint_every valid_examples"
        for name in positive.split():
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected more than 0")
        for name in "weight_decay warmup_steps clip_norm time_limit_minutes".split():
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected at least 0")
        for name in ("average_decay", "final_lr_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected between 0 and 1")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: got {self.precision!r}, expected one of {PRECISIONS}")


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "scale": "smoke",
        "corpus": "synthetic/small",
        "batch_size": 4,
        "most_frames": 300,
        "steps": 20,
        "warmup_steps": 2,
        "valid_every": 10,
        "checkpoint_every": 10,
        "valid_examples": 4,
    },
    "small": {},
    # As far as it is known: 7,500 tokens a step on each of eight GPUs, 500,000 steps.
    "paper": {
        "scale": "paper",
        "codec": "speechtokenizer-paper",
        "batch_size": 128,
        "most_frames": 700,
        "most_joined": 1,
        "lr": 5e-4,
        "steps": 500_000,
        "precision": "bf16-mixed",
        "devices": 8,
    },
}


def language_config(
    preset: str | None = "small", changes: Mapping[str, Any] | None = None
) -> LanguageConfig:
    r"""Build a config from a preset and single changes; the later one wins.

    Parameters
    ----------
    preset
        A name in ``PRESETS``; None starts from the defaults.
    changes
        Field to value; ``"overrides.dim"`` reaches into a mapping.

    Raises
    ------
    ValueError
        For an unknown preset or field (with a suggestion) or a value out of range.

    Examples
    --------
    >>> language_config("smoke", {"overrides.dim": 64}).overrides
    {'dim': 64}
    """
    values = dict(PRESETS[known(preset, PRESETS, "preset")]) if preset else {}
    for key, value in (changes or {}).items():
        values = merged(values, {key: value})
    names = [spec.name for spec in fields(LanguageConfig)]
    for key in values:
        known(key, names, "training option")
    return LanguageConfig(**values)


def read_config(path: str | Path) -> LanguageConfig:
    r"""Read what ``training.config.write_config`` wrote of a language model's run."""
    return language_config(None, read_mapping(path))
