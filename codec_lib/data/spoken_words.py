r"""Make a corpus of single words, each in several voices: labels for a word and for a voice.

What the recorded corpora of keywords and digits have, made offline: every word is spoken several
times by every voice, with another pitch and rate each time, and every fourth time is for testing.
Voices are therefore known in the test, as in the Free Spoken Digit Dataset. No paper. Notebook 33.
Leaves out: sentences (``synthetic.py``). Read next: ``strings.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec_lib import audio

from . import espeak
from .manifests import emptied, read_manifest, write_manifest
from .utterances import Corpus, Utterance

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VARIANTS = ("f1", "f4", "f5", "m2", "m3", "m7")


def make_words(
    root: str | Path,
    words: Sequence[str] = DIGITS,
    variants: Sequence[str] = VARIANTS,
    takes: int = 8,
    seed: int = 0,
    sample_rate: int = 16_000,
) -> Corpus:
    r"""Make a corpus on disk: ``audio/*.wav`` and ``manifest.csv``.

    Parameters
    ----------
    root
        Folder to make it in; what was made there before is replaced, recordings never.
    words
        What is said.
    variants
        Voice variants of espeak-ng, spoken in American English.
    takes
        How often each voice says each word; every fourth take is for testing.
    seed
        Of pitches, rates, levels and the faint noise.
    sample_rate
        Hz of the files.

    Returns
    -------
    Corpus
        ``label`` is the word, ``speaker_id`` the voice.

    Raises
    ------
    ValueError
        If espeak-ng is missing, or there are fewer than four takes.
    """
    if takes < 4:
        raise ValueError(f"takes: got {takes}, expected 4 or more: every fourth is for testing")
    folder, made = emptied(root), []
    for number in range(len(words) * len(variants) * takes):
        take, rest = number % takes, number // takes
        word, variant = words[rest % len(words)], variants[rest // len(words)]
        wav = _take(word, variant, np.random.default_rng((seed, number)), sample_rate)
        path = folder / "audio" / f"{variant}-{word}-{take}.wav"
        audio.write(path, wav, sample_rate)
        made.append(
            Utterance(
                path.stem, str(path), variant, "en", word, word,
                split="test" if take % 4 == 3 else "train",
                sample_rate=sample_rate, num_samples=wav.shape[-1],
            )
        )  # fmt: skip
    write_manifest(folder, made)
    return read_manifest(folder, sample_rate)


def _take(word: str, variant: str, rng: np.random.Generator, sample_rate: int) -> Tensor:
    """Speak a word at some pitch, rate and level, with a faint noise: (1, T)."""
    pitch, rate = int(rng.integers(30, 71)), int(rng.integers(120, 211))
    said = espeak.speak(word, f"en-us+{variant}", pitch=pitch, rate=rate)
    wav = torch.from_numpy(said.samples.astype(np.float64))[None] / 32768  # (1, T)
    level = rng.uniform(-30, -18)
    wav = audio.set_level(audio.resample(wav, said.sample_rate, sample_rate), level)
    hiss = torch.from_numpy(rng.standard_normal(wav.shape[-1]))[None]
    return audio.peak_guard(wav + audio.set_level(hiss, level - rng.uniform(30, 50)))
