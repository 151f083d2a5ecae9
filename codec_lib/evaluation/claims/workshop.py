r"""Where claims are tested: the same data for all, and every codec trained once for each seed.

A claim compares codecs that differ in one thing. Each is a variant: a preset and what it changes.
``Workshop.codec`` trains it, or finds it trained, in a folder of its own, so that claims share
their codecs, and an interrupted measurement goes on where it stopped. No paper. Leaves out: what is
compared (``codec_claims.py`` and after). Read next: ``codec_claims.py``.
"""

from __future__ import annotations

import hashlib
import json
import time
import typing
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codec_lib import hub
from codec_lib.codecs.base import Codec
from codec_lib.codecs.config import coerce, known
from codec_lib.codecs.registry import build
from codec_lib.data import Corpus
from codec_lib.data import corpus as find_corpus
from codec_lib.training.config import TrainConfig, differences, last_stage, load_config
from codec_lib.training.loop import is_finished, train
from codec_lib.training.stages import stage_runs

from ..codec_probe import probe_codebooks
from ..frame_rates import rate_scores
from ..reconstruction import codec_scores

FINAL = "final.safetensors"


class OutOfTime(Exception):
    """The budget is spent; what was trained so far is kept."""


@dataclass(frozen=True)
class ClaimSettings:
    r"""At which size claims are tested.

    Attributes
    ----------
    corpus, heard
        Speech that codecs learn from; speech of other speakers that they are measured on.
    aligned
        Speech with phoneme times, train part and test part, that probes learn from and are tested
        on.
    spoken
        Speech with texts that language models learn from; asked for are sentences and speakers of
        the test part of ``aligned``.
    tones
        Syllables of Mandarin.
    steps
        Of every codec, all its stages together; other networks take shares of it.
    utterances, seconds
        Of ``heard``, spread over it; their beginnings only.
    scale
        Of all networks.
    changes
        Of ``TrainConfig``, for every codec.
    """

    corpus: str = "librispeech/train-clean-100,synthetic/0.8h"
    heard: str = "librispeech/test-other"
    aligned: str = "synthetic"
    spoken: str = "synthetic/many/10h"
    tones: str = "synthetic/mandarin"
    steps: int = 800
    utterances: int = 60
    seconds: float = 6.0
    scale: str = "small"
    changes: dict[str, Any] = field(default_factory=dict)


def check_same(before: Any, config: Any) -> None:
    r"""Raise ValueError where a finished run was not trained as a claim asks now.

    The folder of all runs may have been moved: files in it are compared by their places there.

    Parameters
    ----------
    before, config
        What was trained, as its folder says, and what is asked for; of one kind.
    """

    def placed(value: Any, one: Any) -> Any:
        root = f"{Path(one.out_dir).parent}/"
        return value.removeprefix(root) if isinstance(value, str) else value

    found = differences(before, config)
    if before.steps != config.steps:  # a run may be extended, but codecs are compared at one step
        found["steps"] = before.steps, config.steps
    lines = [
        f"{name} was {old!r} and is {new!r}"
        for name, (old, new) in found.items()
        if placed(old, before) != placed(new, config)
    ]
    if lines:
        raise ValueError(
            f"{config.out_dir}: got a finished run of another config ({', '.join(lines)}), "
            "expected what the claim asks for. Hint: remove it, or name another folder with --runs"
        )


def settings_of(changes: dict[str, Any]) -> ClaimSettings:
    r"""Return settings with some changed.

    Parameters
    ----------
    changes
        Field to value; ``"changes.batch_size"`` reaches into a mapping.

    Raises
    ------
    ValueError
        For an unknown field, with a suggestion, or a value of another kind.

    Examples
    --------
    >>> settings_of({"steps": 100, "changes.batch_size": 4}).changes
    {'batch_size': 4}
    """
    values: dict[str, Any] = {}
    kinds = typing.get_type_hints(ClaimSettings)
    for key, value in changes.items():
        name, _, inner = key.partition(".")
        known(name, list(kinds), "setting")
        values[name] = {**values.get(name, {}), inner: value} if inner else value
    return ClaimSettings(**{name: coerce(name, kinds[name], values[name]) for name in values})


def variants(settings: ClaimSettings) -> dict[str, tuple[str, dict[str, Any]]]:
    r"""Return every codec that claims compare: preset, and changes of it.

    Parameters
    ----------
    settings
        Its steps are shared out among stages.
    """
    whole = settings.steps
    half, quarter = whole // 2, whole // 4
    at_once = {"stages": [], "steps": whole}
    two = {"stages.mirror.steps": whole - quarter, "stages.decoder.steps": quarter}
    slime = {"stages.backbone.steps": half, "stages.melt.steps": quarter}
    slime |= {"stages.cool.steps": quarter}
    plain = {"steps": whole, "codec": "speechtokenizer"}
    taught = {**plain, "teacher": "hubert-small", "distill": "continuous"}
    dm = {"steps": whole}
    # Both teachers speak to codebook 1 alone: what is read is the same codebook in all variants.
    both = {**dm, "overrides.speech_layers": [0]}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "undistilled": ("small", plain),
        "distilled": ("small", taught),
        "pseudo-labels": ("small", {**taught, "distill": "pseudo_label"}),
        "anchors": ("sacodec", dm),
        "learnable": ("sacodec", {**dm, "overrides.first": "learnable"}),
        "random": ("sacodec", {**dm, "overrides.first": "random"}),
        "second alone": ("sacodec", {**dm, "overrides.use_first": False,
                                     "recipe_overrides.layer_weights": [5]}),
        "first alone": ("sacodec", {**dm, "overrides.use_second": False,
                                    "recipe_overrides.layer_weights": [25]}),
        "two stages": ("ds_codec", two),
        "two stages, PQ": ("ds_codec", {**two, "codec": "ds_codec_pq"}),
        "mirror": ("ds_codec", at_once),
        "non-mirror": ("ds_codec", {**at_once, "overrides.transformer_layers": 1}),
        "both teachers": ("dm_codec", both),
        "text alone": ("dm_codec", {**dm, "distill": "none", "weights.distill_loss/text": 2}),
        "speech alone": ("dm_codec", {**both, "text_teacher": None, "weights.distill_loss": 2}),
        "last layers": ("dm_codec", {**both, "teacher_layer": 6, "text_layer": 4}),
        "ninth layers": ("dm_codec", {**both, "teacher_layer": 4, "text_layer": 3}),
    }  # fmt: skip
    for kind in ("VQ", "FSQ"):
        preset = f"codecslime_{kind.lower()}"
        found[f"dynamic {kind}"] = (preset, slime)
        found[f"80 Hz {kind}"] = (preset, {**at_once, "overrides.token_rate": None})
        slow = {"overrides.strides": [10, 5, 4, 2], "overrides.max_length": 1}
        found[f"40 Hz {kind}"] = (preset, {**at_once, **slow, "overrides.token_rate": None})
    return found


class Workshop:
    r"""Data, and codecs that are trained when they are asked for.

    Parameters
    ----------
    root
        Folder of all runs and values; runs of other settings have another folder in it.
    settings
        See ``ClaimSettings``.
    minutes
        Budget, by the clock; infinite by default.
    log
        Called with lines for people.
    """

    def __init__(
        self,
        root: str | Path,
        settings: ClaimSettings | None = None,
        minutes: float = float("inf"),
        log: Callable[[str], None] = print,
    ) -> None:
        self.root, self.settings, self.log = Path(root), settings or ClaimSettings(), log
        written = json.dumps(asdict(self.settings), sort_keys=True).encode()
        self.runs = self.root / f"runs-{hashlib.sha256(written).hexdigest()[:8]}"
        self.deadline = time.monotonic() + 60 * minutes
        self._found: dict[tuple, Any] = {}

    def minutes_left(self) -> float:
        r"""Return what is left of the budget.

        Raises
        ------
        OutOfTime
            If nothing is.
        """
        left = (self.deadline - time.monotonic()) / 60
        if left <= 0:
            raise OutOfTime
        return left

    def once(self, key: tuple, make: Callable[[], Any]) -> Any:
        """Return what was made for a key, or make it now, if there is time."""
        if key not in self._found:
            self.minutes_left()
            self._found[key] = make()
        return self._found[key]

    def heard(self, sample_rate: int) -> Corpus:
        """Return held-out speech."""
        whole = find_corpus(self.settings.heard, sample_rate=sample_rate)
        return whole.split("test") if "test" in whole.splits else whole

    def aligned(self, sample_rate: int = 16_000) -> tuple[Corpus, Corpus]:
        """Return the train and the test part of speech with phoneme times."""
        whole = find_corpus(self.settings.aligned, sample_rate=sample_rate)
        return whole.split("train"), whole.split("test")

    @cached_property
    def variants(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """All variants of codecs."""
        return variants(self.settings)

    def config(self, variant: str, seed: int) -> TrainConfig:
        """Return the whole run of a variant."""
        preset, changes = self.variants[variant]
        name = variant.replace(" ", "_").replace(",", "")
        common = {"corpus": self.settings.corpus, "scale": self.settings.scale, "seed": seed}
        common |= {"out_dir": str(self.runs / f"{name}-{seed}"), "progress_seconds": 120}
        # Codecs are compared at their last step: nothing is chosen by held-out speech.
        common |= {"valid_every": 10**6, "checkpoint_every": 200}
        return load_config(preset, changes={**common, **changes, **self.settings.changes})

    def trained(self, config: TrainConfig) -> Path:
        r"""Train, or go on, and return the weights of the last step.

        Raises
        ------
        OutOfTime
            If the budget ends before the run does.
        ValueError
            If the folder holds a run of another config.
        """
        last = stage_runs(config)[-1]
        if is_finished(last):
            check_same(load_config(None, Path(config.out_dir) / "config.yml"), config)
        else:
            self.log(f"training {Path(config.out_dir).name}")
            left = min(self.minutes_left(), 10**6)
            train(replace(config, time_limit_minutes=left))
            if not is_finished(last):
                raise OutOfTime
        return last_stage(Path(config.out_dir)) / FINAL

    def file(self, variant: str, seed: int) -> Path:
        """Return the weights of a variant, trained if need be."""
        if variant == "decoder anew":
            return self._decoder_anew(seed)
        return self.trained(self.config(variant, seed))

    def _decoder_anew(self, seed: int) -> Path:
        """Train the second stage of "two stages" from a decoder with random weights."""
        both = self.config("two stages", seed)
        self.trained(both)
        first, second = stage_runs(both)
        learnt = Path(first.out_dir) / FINAL
        start = self.runs / f"decoder_anew-{seed}-{hub.sha256(learnt)[:8]}.safetensors"
        if not start.exists():
            codec = hub.load(learnt, fold=False)
            torch.manual_seed(seed)
            codec.decoder = build(first.codec, first.scale, **first.overrides).decoder
            hub.save_codec(codec, start, half=False)
        folder = str(self.runs / f"decoder_anew-{seed}")
        return self.trained(replace(second, init_from=str(start), out_dir=folder))

    def codec(self, variant: str, seed: int) -> Codec:
        """Return a variant for use, trained if need be."""
        return self.once(("codec", variant, seed), lambda: hub.load(self.file(variant, seed)))

    def score(self, variant: str, seed: int, metric: str = "stoi") -> float:
        """Return a metric of reconstruction by all codebooks, mean over held-out utterances."""

        def measured() -> float:
            codec, count = self.codec(variant, seed), self.settings.utterances
            speech, whole = self.heard(codec.sample_rate), codec.num_quantizers
            limits = (count, self.settings.seconds, [metric])
            return float(np.nanmean(codec_scores(codec, speech, [whole], *limits)[whole][metric]))

        return self.once(("score", variant, seed, metric), measured)

    def rate_score(self, variant: str, seed: int, rate: float, scheme: str = "scheduled") -> float:
        """Return STOI at a token rate in Hz, mean over held-out utterances."""

        def measured() -> float:
            codec = self.codec(variant, seed)
            limits = (self.settings.utterances, self.settings.seconds, ["stoi"])
            found = rate_scores(codec, self.heard(codec.sample_rate), [rate], [scheme], *limits)
            ((by_metric, _),) = found.values()
            return float(np.nanmean(by_metric["stoi"]))

        return self.once(("rate", variant, seed, rate, scheme), measured)

    def phonemes(self, variant: str, seed: int) -> float:
        """Return how often a probe names the phoneme from one code of the first codebook."""

        def measured() -> float:
            codec = self.codec(variant, seed)
            (row,) = probe_codebooks(codec, *self.aligned(codec.sample_rate), [0], seed=seed)
            return row["accuracy"]

        return self.once(("phonemes", variant, seed), measured)
