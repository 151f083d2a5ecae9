r"""Whole corpora in other voices, made once and kept on disk.

Changing a voice runs at about 60 times real time on one core, which is too slow to do in every
step [Chang et al. 2023, Spin], official code; so one or a few copies are made beforehand. A file is
found by the sha256 of the audio it came from, the ranges, the seed and the number of the copy:
nothing stale is read, and a stopped run goes on where it was. Notebook: 21.
Read next: ``sinkhorn.py``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from codec_lib import audio, hub, paths
from codec_lib.data import Corpus, Phoneme, Utterance

from .perturbation import PerturbationConfig, PerturbationReport, perturb_voice

CHANGED, EQUALISED = ".flac", ".equalised.flac"  # the second: Praat failed


def perturbed_copies(
    corpus: Corpus,
    copies: int = 1,
    seed: int = 0,
    folder: str | Path | None = None,
    config: PerturbationConfig | None = None,
    max_failed_share: float = 0.2,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Corpus], PerturbationReport]:
    r"""Say a corpus in other voices; what is on disk already is not made again.

    Parameters
    ----------
    corpus
        What to say.
    copies
        Other voices of each utterance.
    seed
        Of the voices.
    folder
        Where the files are kept; ``cache_root() / "voices"`` by default.
    config
        How far voices are moved.
    max_failed_share
        Share of recordings that may be equalised only, because Praat failed on them.
    progress
        Called with (recordings done, recordings in all).

    Returns
    -------
    tuple[list[Corpus], PerturbationReport]
        One corpus per copy, with order, lengths and phonemes of the original, so that both can be
        cut at the same place; and what failed. Bad files stay as they are.

    Raises
    ------
    ValueError
        If ``copies`` is below 1, parselmouth is not installed, or too many recordings fail.
    """
    if copies < 1:
        raise ValueError(f"copies: got {copies}, expected at least 1")
    config, report = config or PerturbationConfig(), PerturbationReport()
    described = json.dumps([asdict(config), seed, corpus.sample_rate], sort_keys=True)
    key = hashlib.sha256(described.encode()).hexdigest()[:16]
    root = Path(folder or paths.cache_root() / "voices") / key
    made: list[list[Utterance]] = [[] for _ in range(copies)]
    for index, utterance in enumerate(corpus):
        for copy in range(copies):
            if corpus.length(index):  # 0: a bad file, which the corpus has reported
                utterance = _changed(corpus, index, root, (seed, copy), config, report)
            made[copy].append(utterance)
        if len(report.failures) > max_failed_share * copies * len(corpus):
            raise ValueError(
                f"{corpus.name}: got {len(report.failures)} voices that could not be changed, "
                f"expected at most {max_failed_share:.0%}; the last: {report.failures[-1]}"
            )
        if progress is not None:
            progress((index + 1) * copies, copies * len(corpus))
    name, rate = corpus.name, corpus.sample_rate
    return [Corpus(f"{name}[voice {n}]", each, rate) for n, each in enumerate(made)], report


def _changed(
    corpus: Corpus,
    index: int,
    root: Path,
    key: tuple[int, int],
    config: PerturbationConfig,
    report: PerturbationReport,
) -> Utterance:
    """Return one utterance in another voice, made where it is not on disk."""
    utterance = corpus[index]
    digest = hub.sha256(utterance.audio_path)
    stem, name = root / digest[:2] / f"{digest}-{key[1]}", f"{utterance.utterance_id}, {key[1]}"
    files = [stem.with_name(stem.name + suffix) for suffix in (CHANGED, EQUALISED)]
    if files[0].is_file():
        report.num_changed += 1
    elif files[1].is_file():
        report.failures.append((name, "found equalised only"))
        files = files[1:]
    else:
        try:
            wav = corpus.load(index)
        except audio.AudioError:
            return utterance  # the corpus has reported it
        rng = np.random.default_rng([*key, *bytes.fromhex(digest)])
        failures = len(report.failures)
        wav = perturb_voice(wav, corpus.sample_rate, rng, config, report, name)
        files = files[len(report.failures) - failures :]
        _write(files[0], wav, corpus.sample_rate)
    return _moved(utterance, files[0], corpus.sample_rate, corpus.length(index))


def _write(file: Path, wav: Tensor, sample_rate: int) -> None:
    """Write audio under another name, then rename: whole or not at all."""
    partial = file.with_name(f".{os.getpid()}-{file.name}")
    try:
        audio.write(partial, wav, sample_rate)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def _moved(utterance: Utterance, file: Path, rate: int, length: int) -> Utterance:
    """Return the utterance as it is in another file, its phonemes counted at that file's rate."""
    scale = rate / (utterance.sample_rate or rate)
    phonemes = tuple(
        Phoneme(one.symbol, round(one.start * scale), min(length, round(one.end * scale)))
        for one in utterance.phonemes
    )
    known = {"sample_rate": rate, "num_samples": length, "phonemes": phonemes}
    return replace(utterance, audio_path=str(file), **known)
