r"""Everything that decides a training run of this package, in one frozen dataclass for each kind.

As ``training/config.py`` for codecs: a preset, then single changes; what results is written beside
the run's checkpoints. What all kinds share is ``ModuleConfig``. Notebook: 40. Leaves out: stages.
Read next: ``module_run.py``.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from codec_lib.codecs.config import coerce, known
from codec_lib.training.config import PRECISIONS
from codec_lib.training.stages import merged

Kind = TypeVar("Kind", bound="ModuleConfig")
PARTS = ("both", "first", "others")  # of the unified model


@dataclass(frozen=True)
class ModuleConfig:
    r"""What every run has.

    Attributes
    ----------
    scale, overrides
        Of the model, and changed fields of its config.
    init_from
        File of a model whose weights start this run.
    corpus, valid_corpus
        As in ``training.TrainConfig``.
    batch_size
        Examples per step over all processes.
    lr, betas, weight_decay, epsilon, warmup_steps, final_lr_fraction, clip_norm, average_decay
        As in ``training.TrainConfig``.
    steps, seed, precision, accelerator, devices, num_nodes, strategy
        As in ``training.TrainConfig``.
    log_every, valid_every, checkpoint_every, progress_seconds, time_limit_minutes, out_dir
        As in ``training.TrainConfig``.
    valid_examples
        Held-out examples that are measured at each validation.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    positive: ClassVar[str] = "batch_size lr epsilon steps devices num_nodes log_every"
    from_zero: ClassVar[str] = ""
    scale: str = "small"
    overrides: dict[str, Any] = field(default_factory=dict)
    init_from: str | None = None
    corpus: str = "synthetic"
    valid_corpus: str | None = None
    batch_size: int = 16
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
    out_dir: str = "runs/module"

    def __post_init__(self) -> None:
        for spec in fields(self):
            kind = typing.get_type_hints(type(self))[spec.name]
            object.__setattr__(self, spec.name, coerce(spec.name, kind, getattr(self, spec.name)))
        own = f"{ModuleConfig.positive} valid_every checkpoint_every valid_examples"
        for name in f"{own} {self.positive}".split():
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected more than 0")
        others = f"weight_decay warmup_steps clip_norm time_limit_minutes {self.from_zero}"
        for name in others.split():
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected at least 0")
        for name in ("average_decay", "final_lr_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected between 0 and 1")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: got {self.precision!r}, expected one of {PRECISIONS}")


SMOKE_RUN: dict[str, Any] = {
    "scale": "smoke",
    "corpus": "synthetic/small",
    "batch_size": 4,
    "steps": 20,
    "warmup_steps": 2,
    "valid_every": 10,
    "checkpoint_every": 10,
    "valid_examples": 4,
}


@dataclass(frozen=True)
class LanguageConfig(ModuleConfig):
    r"""Describe one training run of the unified speech language model.

    Attributes
    ----------
    codec
        Name or file of the codec whose codes are learnt. Utterances of the corpus need texts.
    most_frames, most_joined
        Frames of an example at most; utterances of one speaker joined in it at most.
    guided_steps
        Steps at the beginning in which some heads are shown where in the text each frame is, as far
        as that is known; see ``prefix.PrefixModel.states_and_reading``.
    part
        ``"both"`` models, or the ``"first"`` (codebook 1) or the ``"others"`` (codebooks 2 to K)
        alone: they share nothing, so that each may have its own steps, or its own machine.
    start_from_codec
        True starts the embeddings of codes at the codec's own vectors, see
        ``run.start_from_codec``; not where ``init_from`` has weights.

    Examples
    --------
    >>> LanguageConfig(steps=10).scale
    'small'
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {**SMOKE_RUN, "most_frames": 300},
        "small": {},
        # As far as it is known: 7,500 tokens a step on each of eight GPUs, 500,000 steps.
        "paper": {
            "scale": "paper",
            "codec": "speechtokenizer-paper",
            "corpus": "librispeech/train-clean-100",
            "batch_size": 128,
            "most_frames": 700,
            "most_joined": 1,
            "guided_steps": 0,
            "start_from_codec": False,
            "lr": 5e-4,
            "steps": 500_000,
            "precision": "bf16-mixed",
            "devices": 8,
        },
    }
    positive: ClassVar[str] = "most_frames most_joined"
    from_zero: ClassVar[str] = "guided_steps"
    codec: str = "speechtokenizer-small"
    most_frames: int = 500
    most_joined: int = 3
    guided_steps: int = 5000
    part: str = "both"
    start_from_codec: bool = True
    out_dir: str = "runs/language"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.part not in PARTS:
            raise ValueError(f"part: got {self.part!r}, expected one of {PARTS}")


def module_config(
    kind: type[Kind], preset: str | None = "small", changes: Mapping[str, Any] | None = None
) -> Kind:
    r"""Build a config from a preset and single changes; the later one wins.

    Parameters
    ----------
    kind
        Class of the config.
    preset
        A name in its ``presets``; None starts from the defaults.
    changes
        Field to value; ``"overrides.dim"`` reaches into a mapping.

    Raises
    ------
    ValueError
        For an unknown preset or field (with a suggestion) or a value out of range.

    Examples
    --------
    >>> module_config(LanguageConfig, "smoke", {"overrides.dim": 64}).overrides
    {'dim': 64}
    """
    values = dict(kind.presets[known(preset, kind.presets, "preset")]) if preset else {}
    for key, value in (changes or {}).items():
        values = merged(values, {key: value})
    names = [spec.name for spec in fields(kind)]
    for key in values:
        known(key, names, "training option")
    return kind(**values)
