r"""What every training run of a teacher shares: its optimiser, its learning rate, its checkpoint.

A run is a function of its config and of what it is given: everything random depends on seed and
step alone, and a checkpoint holds weights, moments and the step, so a stopped run goes on to the
same weights. It also holds a digest of the first weights and of the data, so that it is never
taken for a run of something else. Optimiser and schedule as published for HuBERT
[Hsu et al. 2021, HuBERT], §IV-C. Used by notebook 20. Leaves out: several devices.
Read next: ``pretraining.py``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from codec_lib.data import Corpus

from .standardised import weights_digest

BETAS, EPSILON = (0.9, 0.98), 1e-6
_HINT = "Hint: name another file, or remove this one to begin anew"


class RunConfig(Protocol):
    r"""What the config of a run has, besides being a dataclass that JSON can hold.

    Attributes
    ----------
    steps
        Optimiser steps.
    learning_rate, warmup
        Peak rate; share of the steps in which it rises.
    weight_decay
        Of matrices.
    """

    steps: int
    learning_rate: float
    warmup: float
    weight_decay: float


def make_optimizer(teacher: nn.Module, config: RunConfig) -> torch.optim.AdamW:
    r"""Make AdamW as published; matrices decay, biases, norms and the mask vector do not."""
    weights = list(teacher.parameters())
    groups = [
        {"params": [one for one in weights if one.ndim > 1]},
        {"params": [one for one in weights if one.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, config.learning_rate, BETAS, EPSILON, config.weight_decay)


def scheduled_rate(step: int, config: RunConfig) -> float:
    r"""Return the learning rate of a step: up linearly over the warm-up, then down linearly to 0.

    Examples
    --------
    >>> from codec_lib.teachers.pretraining import PretrainConfig
    >>> config = PretrainConfig(steps=10, warmup=0.2, learning_rate=1.0)
    >>> [round(scheduled_rate(step, config), 2) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.12]
    """
    rising = max(1, round(config.warmup * config.steps))
    falling = max(1, config.steps - rising)
    return config.learning_rate * min((step + 1) / rising, (config.steps - step) / falling, 1.0)


def run_source(teacher: nn.Module, *given: Corpus | Iterable[Tensor | str]) -> str:
    r"""Return 16 hexadecimal digits that change with where a run begins and what it learns from.

    Parameters
    ----------
    teacher
        Before the first step.
    *given
        Corpora (ids, texts, file names and lengths count, folders do not), targets, texts.
    """
    digest = hashlib.sha256(weights_digest(teacher, "").encode())
    for part in given:
        for index, one in enumerate(part):
            if isinstance(part, Corpus):
                name, length = Path(one.audio_path).name, part.length(index)
                one = f"{one.utterance_id} {name} {length} {one.text}"
            digest.update(f"{one}\n".encode() if isinstance(one, str) else one.numpy().tobytes())
    return digest.hexdigest()[:16]


def check_source(path: str | Path, described: dict[str, Any], source: str) -> None:
    r"""Raise ValueError if a file is of a run with another source.

    Parameters
    ----------
    path, described
        The file and its description.
    source
        See ``run_source``.
    """
    if described.get("source") != source:
        raise ValueError(
            f"{path}: got the file of a run that began with other weights or learns from other "
            f"data, {described.get('source')}, expected {source}. {_HINT}"
        )


def save_run(
    teacher: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: RunConfig,
    step: int,
    path: str | Path,
    source: str,
) -> None:
    r"""Write weights, moments and step, atomically and without pickle.

    Parameters
    ----------
    teacher, optimizer
        What is trained, with its sizes as a dataclass in ``teacher.config``; and by what.
    config
        How it is trained.
    step
        Steps done.
    path
        The .safetensors file.
    source
        See ``run_source``.
    """
    from codec_lib import hub

    tensors = {f"model.{key}": value for key, value in teacher.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": value for key, value in state.items()}
    described = {"step": step, "source": source, **_described(teacher, config)}
    hub.save_tensors(tensors, Path(path), False, described)


def resume_run(
    teacher: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: RunConfig,
    path: str | Path | None,
    source: str,
) -> int:
    r"""Load a checkpoint where there is one.

    Parameters
    ----------
    teacher, optimizer, config
        As in ``save_run``; the first two are filled.
    path
        The file; None or a file that is not there begins at step 0.
    source
        As in ``save_run``, from before anything was loaded.

    Returns
    -------
    int
        The step to go on from.

    Raises
    ------
    ValueError
        If it is the checkpoint of a run with another config, other first weights or other data.
    """
    if path is None or not Path(path).is_file():
        return 0
    from codec_lib import hub

    described, tensors = hub.read_tensors(path)
    defaults = {"pretrain": asdict(type(config)()), "config": asdict(type(teacher.config)())}
    # A file from before an option existed is a run with that option at its default.
    stored = {key: {**value, **described.get(key, {})} for key, value in defaults.items()}
    if json.loads(json.dumps(stored)) != json.loads(json.dumps(_described(teacher, config))):
        raise ValueError(f"{path}: got the checkpoint of a run with another config. {_HINT}")
    check_source(path, described, source)
    model = {key[6:]: value for key, value in tensors.items() if key.startswith("model.")}
    teacher.load_state_dict(model)
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".")
            state.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return int(described["step"])


def _described(teacher: nn.Module, config: RunConfig) -> dict[str, Any]:
    """Say how a run trains, and what: two runs with the same words are the same run."""
    return {"pretrain": asdict(config), "config": asdict(teacher.config)}
