r"""Everything that decides a training run, in one frozen dataclass.

A run is described by data, not by code: a preset gives the starting point, a YAML file and
``--set key=value`` change it, and what results is written next to the run's checkpoints, so that a
run can be repeated and resumed. Unknown names are errors, with the nearest known one as a hint.

A run in stages is described by one config too: each stage is a name and the fields it changes, and
``stage_runs`` turns it into as many ordinary runs, each of which starts from the one before.

Notebook 06 shows a run. Left out: sweeps and conditional values; a shell loop over ``--set`` does.

Read next: ``steps.py``.
"""

from __future__ import annotations

import typing
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from codec_lib.codecs.config import coerce, known
from codec_lib.losses.objective import TERMS
from codec_lib.training.presets import PRESETS
from codec_lib.training.stages import change_stage, merged, stage_runs

PRECISIONS = ("32-true", "bf16-mixed")
DISTILLATIONS = ("none", "continuous", "pseudo_label")
RATES = ("codec", "melt", "cool")
TEXT_FORMS = ("aligned", "padded")

# What may differ between a run and its continuation: none of it changes the value of a step that
# was already taken.
MAY_CHANGE = frozenset(
    (
        "steps time_limit_minutes log_every valid_every audio_every checkpoint_every out_dir "
        "num_workers cache_audio accelerator devices num_nodes strategy compile progress_seconds "
        "feature_disk_gb"
    ).split()
)


@dataclass(frozen=True)
class TrainConfig:
    r"""Describe one training run.

    Attributes
    ----------
    codec, scale, overrides
        Registry name, scale and changed fields of the codec's own config.
    init_from
        A run folder, a ``.safetensors`` file or a shipped name whose weights start this run.
    freeze
        Parts of the codec that stay as they are, e.g. ``("encoder", "quantizer")``: eval mode, no
        gradient, compared bit for bit before every checkpoint.
    stages
        Empty for an ordinary run. Else mappings, each with a ``name`` and the fields it changes;
        a stage starts from the averaged weights at the end of the one before, with new critics and
        optimisers (``stage_runs``).
    rate, rate_overrides
        Which frames share a code in a step: ``"codec"`` (as ``encode`` would cut), ``"melt"`` or
        ``"cool"``, and changed fields of ``rate.Melt`` or ``rate.Cool``.
    compile
        True compiles encoder, decoder and critics (minutes at the start; worth it on a GPU).
    corpus, valid_corpus
        Names for ``data.corpora.corpus``, joined by commas. Without ``valid_corpus`` the corpus's
        own ``dev`` split is used, or else every 50th utterance is held out of training.
    segment_seconds, batch_size, num_workers
        Crop length in s; crops per step **over all processes**; loader workers per process.
    cache_audio
        True decodes the corpus into memory first (115 MB per hour at 16 kHz).
    recipe, weights, recipe_overrides
        Loss recipe by name; changed weights by term; other changed fields of the recipe.
    teacher, teacher_layer, distill
        Teacher by name; hidden layer, ``"avg"`` or a number; how to distil: ``"none"``,
        ``"continuous"`` (SpeechTokenizer, Eq. 2), ``"pseudo_label"`` (Eq. 3).
    units
        Number of k-means units of the pseudo-label form.
    feature_disk_gb
        Most that each teacher's files may take on disk, in GB; 0 is no limit but the disk's.
    text_teacher, text_layer, text_form, text_aligner
        Language model by name, e.g. ``text-small`` or ``bert_base`` (DM-Codec only); its layer;
        its vectors ``"aligned"`` with the words or ``"padded"`` as published; a recogniser that
        finds the words' times where the corpus does not know its phonemes.
    critics, critic_overrides, critic_start, critic_batch_size
        Discriminators: a named set (``"small"``, ``"paper"``), families joined by commas, or empty
        for none; changed fields of their config, e.g. ``width``; step at which they begin; crops of
        each batch that they hear (they cost more than the codec), 0 for all.
    lr, betas, weight_decay, epsilon, critic_lr, critic_betas
        AdamW of the codec and of all critics together.
    warmup_steps, final_lr_fraction
        Linear warm-up, then cosine from ``lr`` to ``final_lr_fraction * lr`` at ``steps``.
    clip_norm
        Largest norm of the codec's gradient and of the critics' gradient; 0 clips nothing.
    average_decay
        Decay per step of the averaged weights; 0 turns averaging off.
    steps, seed
        Length of the run in steps; seed of weights, crops and dropout.
    precision, accelerator, devices, num_nodes, strategy
        As in Lightning Fabric; precision is ``"32-true"`` or ``"bf16-mixed"``.
    log_every, valid_every, audio_every, checkpoint_every
        Steps between TensorBoard points, validations, TensorBoard sounds and checkpoints. The CSV
        has every step. Audio is written at validations that fall on ``audio_every``.
    valid_crops, valid_seconds
        Held-out crops reconstructed at each validation, and their length in s.
    progress_seconds
        Seconds between progress lines where there is no terminal.
    time_limit_minutes
        Wall time after which this process writes a checkpoint and ends; 0 is no limit.
    out_dir
        Folder of the run.

    Raises
    ------
    ValueError
        If a value is out of range; the message names the field.

    Examples
    --------
    >>> TrainConfig(steps=10).batch_size
    16
    """

    codec: str = "speechtokenizer"
    scale: str = "small"
    overrides: dict[str, Any] = field(default_factory=dict)
    init_from: str | None = None
    freeze: tuple[str, ...] = ()
    stages: tuple[dict, ...] = ()
    rate: str = "codec"
    rate_overrides: dict[str, Any] = field(default_factory=dict)
    compile: bool = False
    # data
    corpus: str = "synthetic"
    valid_corpus: str | None = None
    segment_seconds: float = 1.0
    batch_size: int = 16
    num_workers: int = 0
    cache_audio: bool = False
    # objective
    recipe: str = "small"
    weights: dict[str, float] = field(default_factory=dict)
    recipe_overrides: dict[str, Any] = field(default_factory=dict)
    teacher: str | None = None
    teacher_layer: str | int = "avg"
    distill: str = "none"
    units: int = 128
    feature_disk_gb: float = 0.0
    text_teacher: str | None = None
    text_layer: str | int = "avg"
    text_form: str = "aligned"
    text_aligner: str | None = None
    critics: str = ""
    critic_overrides: dict[str, Any] = field(default_factory=dict)
    critic_start: int = 0
    critic_batch_size: int = 0
    # optimisation
    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    epsilon: float = 1e-8
    critic_lr: float = 5e-4
    critic_betas: tuple[float, float] = (0.9, 0.99)
    warmup_steps: int = 50
    final_lr_fraction: float = 0.05
    clip_norm: float = 1.0
    average_decay: float = 0.999
    # run
    steps: int = 1000
    seed: int = 0
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    log_every: int = 10
    valid_every: int = 500
    audio_every: int = 1000
    checkpoint_every: int = 250
    valid_crops: int = 16
    valid_seconds: float = 2.0
    progress_seconds: float = 30.0
    time_limit_minutes: float = 0.0
    out_dir: str = "runs/train"

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(type(self)).items():
            object.__setattr__(self, name, coerce(name, kind, getattr(self, name)))
        _check_ranges(self)
        stage_runs(self)


def _check_ranges(config: TrainConfig) -> None:
    """Raise ValueError for a value out of range or at odds with another one."""
    positive = "batch_size steps devices num_nodes log_every valid_every audio_every"
    positive += (
        " checkpoint_every valid_crops segment_seconds valid_seconds lr critic_lr epsilon units"
    )
    for name in positive.split():
        if not getattr(config, name) > 0:
            raise ValueError(f"{name}: got {getattr(config, name)}, expected more than 0")
    at_least_zero = "num_workers critic_start critic_batch_size warmup_steps clip_norm weight_decay"
    at_least_zero += " time_limit_minutes feature_disk_gb seed"
    for name in at_least_zero.split():
        if getattr(config, name) < 0:
            raise ValueError(f"{name}: got {getattr(config, name)}, expected at least 0")
    choices_of = {"precision": PRECISIONS, "distill": DISTILLATIONS, "rate": RATES}
    choices_of["text_form"] = TEXT_FORMS
    for name, choices in choices_of.items():
        if getattr(config, name) not in choices:
            raise ValueError(f"{name}: got {getattr(config, name)!r}, expected one of {choices}")
    for name in ("average_decay", "final_lr_fraction"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name}: got {getattr(config, name)}, expected between 0 and 1")
    for name in ("betas", "critic_betas"):
        betas = getattr(config, name)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"{name}: got {betas}, expected two from 0 to below 1")
    if config.critic_batch_size > config.batch_size:
        raise ValueError(
            f"critic_batch_size: got {config.critic_batch_size}, expected at most batch_size, "
            f"{config.batch_size}"
        )
    for term in config.weights:
        known(term, TERMS, "loss term in weights")
    if config.distill != "none" and config.teacher is None:
        raise ValueError(
            f"distill: got {config.distill!r} without a teacher; set teacher=hubert-small"
        )


def load_config(
    preset: str | None = "small",
    file: str | Path | None = None,
    changes: dict[str, Any] | None = None,
) -> TrainConfig:
    r"""Build a config from a preset, then a file, then single changes; the later one wins.

    Parameters
    ----------
    preset
        A name in ``PRESETS``; None starts from the defaults, e.g. to read what a run wrote.
    file
        YAML or JSON mapping of field to value.
    changes
        Field to value; ``"weights.adv_loss"`` and ``"overrides.width"`` reach into a mapping,
        ``"stages.decoder.steps"`` into a stage. Mappings are merged, also the inner ones. A teacher
        without ``distill`` is distilled in the continuous form.

    Returns
    -------
    TrainConfig

    Raises
    ------
    ValueError
        For an unknown preset or field (with a suggestion) or a value out of range.

    Examples
    --------
    >>> load_config("smoke", changes={"lr": "1e-3", "weights.adv_loss": 5}).weights
    {'adv_loss': 5.0}
    """
    values = dict(PRESETS[known(preset, PRESETS, "preset")]) if preset else {}
    for source in (read_mapping(file) if file is not None else {}, changes or {}):
        for key, value in source.items():
            name, _, inner = key.partition(".")
            if name == "stages" and inner:
                values[name] = change_stage(values.get(name, ()), inner, value)
            else:
                values = merged(values, {key: value})
        if source.get("teacher") and values.get("distill", "none") == "none":
            values["distill"] = source.get("distill", "continuous")
    names = [spec.name for spec in fields(TrainConfig)]
    for key in values:
        known(key, names, "training option")
    config = TrainConfig(**values)
    for key in changes or {}:
        if config.stages and all(key in stage for stage in config.stages):
            hint = f"hint: stages.{config.stages[0]['name']}.{key}, or stages=[] for one stage"
            raise ValueError(f"{key}: every stage sets its own, so this changes nothing; {hint}")
    return config


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Read a YAML (or JSON) file that holds one mapping; anything else is a ValueError."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"config file {path}: {error.strerror or error}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"config file {path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"config file {path}: got {type(values).__name__}, expected a mapping")
    return values


def to_dict(config: Any) -> dict[str, Any]:
    """Return the config as plain dicts, lists and numbers, ready for JSON or YAML."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(config).items()
    }


def write_config(config: Any, path: str | Path) -> None:
    """Write the config as YAML; ``load_config(file=path)`` reads it back unchanged."""
    Path(path).write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")


def differences(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    r"""Compare the fields that decide the value of a step.

    Returns
    -------
    dict
        Field to (old, new) where they differ, without the fields of ``MAY_CHANGE``.
    """
    pairs = {spec.name: (getattr(old, spec.name), getattr(new, spec.name)) for spec in fields(old)}
    return {
        name: pair for name, pair in pairs.items() if pair[0] != pair[1] and name not in MAY_CHANGE
    }


def last_stage(folder: str | Path) -> Path:
    r"""Return the folder whose weights a run's folder stands for: its last stage's, or itself."""
    written = Path(folder) / "config.yml"
    if not written.exists():
        return Path(folder)
    config = replace(load_config(None, written), out_dir=str(folder))  # it may have been moved
    return Path(stage_runs(config)[-1].out_dir)
