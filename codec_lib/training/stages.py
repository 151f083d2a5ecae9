r"""Changes of a config, and the stages of a run: what one config becomes.

A run in stages is a sequence of ordinary runs. Each has a folder, starts from the averaged weights
at the end of the one before and has critics, optimisers and averages of its own, so everything that
holds for a run (checkpoints, resuming, logs) holds for a stage.

The stages of DS-Codec and CodecSlime are in ``presets.py``. Left out: weights that a stage takes
from anywhere but the stage before. Read next: ``config.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from codec_lib.codecs.config import known

if TYPE_CHECKING:
    from codec_lib.training.config import TrainConfig

MAPPINGS = ("overrides", "weights", "recipe_overrides", "critic_overrides", "rate_overrides")
FINAL = "final.safetensors"  # the averaged weights after a run's last step

# What a stage cannot change: where it lies and starts follows from the stages before it, and all
# stages run in the same processes.
PER_RUN = frozenset(
    (
        "stages out_dir init_from accelerator devices num_nodes strategy precision "
        "time_limit_minutes"
    ).split()
)


def stage_runs(config: TrainConfig) -> tuple[TrainConfig, ...]:
    r"""Return the ordinary runs that a config stands for: one per stage, or itself.

    Stage i of 1, 2, ... lies in ``out_dir/i_name``, starts from the last averaged weights of stage
    i - 1 and, unless it names a seed, draws its crops with ``seed + i - 1``: others than before.

    Parameters
    ----------
    config
        Its ``stages`` change its other fields; mappings are merged. A stage that names a teacher
        without ``distill`` is taught in the continuous form.

    Raises
    ------
    ValueError
        If a stage has no proper name, or changes a field that is not there or none of its own.

    Examples
    --------
    >>> from codec_lib.training.config import TrainConfig
    >>> stages = [{"name": "all"}, {"name": "decoder", "freeze": ["encoder"]}]
    >>> [run.out_dir for run in stage_runs(TrainConfig(stages=stages))]
    ['runs/train/1_all', 'runs/train/2_decoder']
    """
    runs: list[TrainConfig] = []
    for index, stage in enumerate(config.stages):
        name, own = stage.get("name"), {k: v for k, v in stage.items() if k != "name"}
        if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
            raise ValueError(f"stages[{index}]: got name {name!r}, expected letters, e.g. decoder")
        if any(name == other.get("name") for other in config.stages[:index]):
            raise ValueError(f"stages[{index}]: got name {name!r} a second time")
        if PER_RUN & set(own):
            wrong = ", ".join(sorted(PER_RUN & set(own)))
            raise ValueError(f"stage {name}: got {wrong}, which all stages share")
        try:
            runs.append(_stage_run(config, index, own, runs[-1].out_dir if runs else None))
        except ValueError as error:
            raise ValueError(f"stage {name}: {error}") from None
    return tuple(runs) or (config,)


def _stage_run(
    config: TrainConfig, index: int, own: dict[str, Any], previous: str | None
) -> TrainConfig:
    """Return the run of one stage, given the fields it changes and the folder before it."""
    names = [spec.name for spec in fields(config)]
    for key in own:
        known(key.partition(".")[0], names, "training option")
    place = {
        "stages": (),
        "out_dir": f"{config.out_dir}/{stage_folder(index, config.stages[index])}",
        "init_from": config.init_from if previous is None else f"{previous}/{FINAL}",
    }
    plain = {name: getattr(config, name) for name in names} | {"seed": config.seed + index}
    if own.get("teacher") and config.distill == "none":
        plain["distill"] = "continuous"  # a teacher teaches, also one that comes later
    return replace(config, **{**merged(plain, own), **place})


def stage_folder(index: int, stage: dict[str, Any]) -> str:
    """Return the name of the folder of a stage; ``index`` counts from 0."""
    return f"{index + 1}_{stage['name']}"


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    r"""Return fields with some of them changed, those of ``MAPPINGS`` entry by entry.

    Examples
    --------
    >>> merged({"weights": {"adv_loss": 1}}, {"weights.feat_loss": 2, "steps": 3})
    {'weights': {'adv_loss': 1, 'feat_loss': 2}, 'steps': 3}
    """
    values = dict(values)
    for key, value in changes.items():
        name, *inner = key.split(".")
        if name not in MAPPINGS:
            values[key] = value
            continue
        for part in reversed(inner):
            value = {part: value}
        values[name] = _deep(values.get(name, {}), value)
    return values


def _deep(old: Any, new: Any) -> Any:
    """Return ``new``, or where both are mappings their union, in which ``new`` wins."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{key: _deep(old.get(key), value) for key, value in new.items()}}


def change_stage(stages: Iterable[dict[str, Any]], path: str, value: Any) -> list[dict[str, Any]]:
    r"""Return stages with a field of one of them changed.

    Parameters
    ----------
    stages
        Mappings with a ``name``.
    path
        Stage and field, e.g. ``decoder.steps`` or ``decoder.overrides.width``.
    value
        Of the field.

    Raises
    ------
    ValueError
        If there is no such stage, or the path names no field.
    """
    name, _, key = path.partition(".")
    stages = list(stages)
    known(name, [stage.get("name", "") for stage in stages], "stage")
    if not key:
        raise ValueError(f"stages.{name}: got no field, expected e.g. stages.{name}.steps")
    return [merged(one, {key: value}) if one.get("name") == name else one for one in stages]
