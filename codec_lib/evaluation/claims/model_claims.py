r"""Claims about units that hear no voice, and about language models of tokens.

As in ``codec_claims.py``. Leaves out: the verdicts (``report.py``). Read next: ``catalogue.py``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codec_lib.data import Corpus
from codec_lib.data import corpus as find_corpus
from codec_lib.lm.config import LanguageConfig, module_config
from codec_lib.lm.loading import load_speaking_model, round_trip
from codec_lib.lm.module_run import train_module
from codec_lib.lm.run import LanguageRun
from codec_lib.lm.sampling import Sampling
from codec_lib.lm.tokenizer_run import TokenizerConfig, TokenizerRun
from codec_lib.teachers import fit_kmeans, load_teacher
from codec_lib.teachers.perturbed import perturbed_copies
from codec_lib.teachers.spin import Spin, SpinSizes
from codec_lib.teachers.spin_training import SMALL, train_spin
from codec_lib.training.config import read_mapping

from ..bands import retention_rows
from ..judges import make_judges
from ..synthesis import judge_synthesis, synthesis_tasks
from ..teacher_units import named_perturbations
from ..units import measure_unit_sets
from .codec_claims import Figures, Measure, against
from .workshop import FINAL, OutOfTime, Workshop, check_same

NUM_UNITS, AUXILIARY = 128, 4096


def _trained_module(shop: Workshop, kind: Any, config: Any) -> Path:
    """Train a language model or tokenizer to the end, and return its weights."""
    file, written = (Path(config.out_dir) / name for name in (FINAL, "config.yml"))
    if file.exists():
        check_same(module_config(type(config), None, read_mapping(written)), config)
    else:
        shop.log(f"training {Path(config.out_dir).name}")
        left = min(shop.minutes_left(), 10**6)
        train_module(kind, replace(config, time_limit_minutes=left))
        if not file.exists():
            raise OutOfTime
    return file


def language_model(shop: Workshop, variant: str, seed: int) -> Path:
    r"""Train the unified model over a codec's codes: codebook 1, then the others.

    Parameters
    ----------
    shop
        The first model takes twice the steps of a codec, the second as many.
    variant, seed
        Of the codec.
    """
    common = {"codec": str(shop.file(variant, seed)), "corpus": shop.settings.spoken, "seed": seed}
    common |= {"most_joined": 2, "overrides.dropout": 0.0, "valid_every": 10**6}
    scale, steps = shop.settings.scale, shop.settings.steps
    first = {"part": "first", "steps": 2 * steps, "guided_steps": 2 * steps}
    first["out_dir"] = str(shop.runs / f"lm_{variant}_first-{seed}")
    start = _trained_module(shop, LanguageRun, module_config(LanguageConfig, scale, common | first))
    others = {"part": "others", "steps": steps, "init_from": str(start)}
    others["out_dir"] = str(shop.runs / f"lm_{variant}-{seed}")
    return _trained_module(shop, LanguageRun, module_config(LanguageConfig, scale, common | others))


def speaks_better(measure_name: str, sign: int) -> Measure:
    """Claim 14: the unified model over distilled codes against the one over undistilled codes."""

    def judged(shop: Workshop, seed: int) -> list[dict[str, Any]]:
        ways = {}
        for variant in ("distilled", "undistilled"):
            file = language_model(shop, variant, seed)
            ways[variant] = load_speaking_model(file, None, Sampling(0.5), seed).say
        _, test = shop.aligned()
        tasks = synthesis_tasks(test, shop.settings.utterances, seed=seed)
        return judge_synthesis(test, tasks, ways, make_judges(["phonemes", "speaker"]))[-2:]

    def measure(shop: Workshop, seed: int) -> Figures:
        rows = shop.once(("spoken", seed), lambda: judged(shop, seed))
        one, other = (100 * row[measure_name] for row in rows)
        return {"gain": sign * (one - other), "one": one, "other": other}

    return measure


def tokenizer(shop: Workshop, discrete: bool, seed: int) -> Path:
    r"""Train a continuous tokenizer for as many steps as a codec.

    Parameters
    ----------
    shop, seed
        With its settings; of everything random.
    discrete
        True trains the twin with a quantizer.
    """
    name = "discrete" if discrete else "continuous"
    changes = {"corpus": shop.settings.corpus, "steps": shop.settings.steps, "seed": seed}
    changes |= {"overrides.discrete": discrete, "valid_every": 10**6}
    changes["out_dir"] = str(shop.runs / f"{name}-{seed}")
    config = module_config(TokenizerConfig, shop.settings.scale, changes)
    return _trained_module(shop, TokenizerRun, config)


def high_bands_kept(shop: Workshop, seed: int) -> Figures:
    """Claim 27: envelopes from 4 to 8 kHz follow the original's better without a quantizer."""

    def measured() -> Figures:
        kept, bands = [], (4000.0, 8000.0)
        for discrete in (False, True):
            way, rate = round_trip(tokenizer(shop, discrete, seed))
            speech = shop.heard(rate)
            (row,) = retention_rows(speech, {"": way}, shop.settings.utterances, bands)
            kept.append(100 * row["envelope"])
        return against(*kept)

    return shop.once(("bands", seed), measured)


def _learnt(shop: Workshop) -> Corpus:
    """Return what codecs learn from."""
    speech = find_corpus(shop.settings.corpus)
    return speech.split("train") if "train" in speech.splits else speech


def _spin(shop: Workshop, auxiliary: int, seed: int) -> Spin:
    """Train Spin, or DC-Spin with an auxiliary codebook, on what codecs learn from."""
    speech = _learnt(shop)
    views, _ = perturbed_copies(speech, 1, seed)
    spin = Spin(load_teacher("hubert-small"), SpinSizes(NUM_UNITS, auxiliary, 128), seed=seed)
    shop.log(f"training {'DC-' if auxiliary else ''}Spin, seed {seed}")
    config = replace(SMALL, seed=seed, steps=max(1, shop.settings.steps // 2))
    shop.runs.mkdir(parents=True, exist_ok=True)
    train_spin(spin, speech, views, config, shop.runs / f"spin_{auxiliary}-{seed}.safetensors")
    return spin


def _unit_rows(shop: Workshop, seed: int) -> dict[str, dict[str, Any]]:
    """Measure units by k-means, Spin and DC-Spin of one teacher and speech; readers, recorded."""
    spins = [_spin(shop, auxiliary, seed) for auxiliary in (0, AUXILIARY)]
    teacher, speech = load_teacher("hubert-small"), _learnt(shop)

    def features(wav: Tensor) -> Tensor:
        return teacher.features(wav, teacher.num_layers)

    some = (features(speech.load(index)[None])[0] for index in range(0, len(speech), 2))
    kmeans = fit_kmeans(some, NUM_UNITS, 50_000, seed)

    @torch.no_grad()
    def together(wav: Tensor) -> Tensor:
        sets = [kmeans(features(wav)), *(spin.units(wav) for spin in spins)]
        return torch.stack(sets, dim=-1)

    rows = measure_unit_sets(
        together, [NUM_UNITS] * 3, _some(shop.aligned()[1], shop.settings.utterances),
        shop.heard(16_000), named_perturbations(["voice"]), seed=seed,
    )  # fmt: skip
    return dict(zip(("k-means", "Spin", "DC-Spin"), rows, strict=True))


def _some(corpus: Corpus, count: int) -> Corpus:
    """Return utterances spread over a corpus."""
    return corpus[:: max(1, len(corpus) // count)]


def units_better(one: str, other: str, measure_name: str, sign: int) -> Measure:
    r"""Compare two sets of units, claims 21 and 22, in points.

    Parameters
    ----------
    one, other
        ``"k-means"``, ``"Spin"`` or ``"DC-Spin"``.
    measure_name
        Of ``units.measure_units``: ``"voice_ued_units"`` changes the voice as Spin's training did,
        ``"speaker_accuracy"`` asks for other readers.
    sign
        -1 where less is better.
    """

    def measure(shop: Workshop, seed: int) -> Figures:
        rows = shop.once(("units", seed), lambda: _unit_rows(shop, seed))
        first, second = (100 * rows[name][measure_name] for name in (one, other))
        return {"gain": sign * (first - second), "one": first, "other": second}

    return measure
