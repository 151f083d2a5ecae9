r"""Make the default corpus: English speech with exact phoneme boundaries, offline, in seconds.

espeak-ng reads sentences from ``data/sentences`` in 72 voices. Utterance k depends on the seed and
on k alone, so a longer corpus begins with the shorter one, and the same seed gives the same bytes.
Of every ten utterances eight are for training, one for development, one for test; the three share
no sentence, no speaker and no voice variant. Level (-30 to -18 dB) and, in half of the utterances,
a faint noise floor (30 to 50 dB below the speech) vary.

Formant synthesis is clear but monotonous: scores on it are better than on recorded speech.
No paper. Used by notebook 01. Leaves out: other languages, reverberation, emotion.
Read next: ``segments.py``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec_lib import audio, paths

from . import espeak
from .manifests import emptied, made_once, read_manifest, write_manifest
from .phonemes import SILENCE, align, label
from .utterances import Corpus, Phoneme, Utterance

RECIPE_VERSION = 2  # raise it when what is made changes: corpora on disk are then made again
_PATTERN = ("train",) * 8 + ("dev", "test")  # split of utterance k is _PATTERN[k % 10]
_SPEAKERS_PER_SEX = {"train": 28, "dev": 4, "test": 4}
_MANY_PER_SEX = 220  # for training, where many are asked for: 55 pairs at four pitches and rates
# Variants of espeak-ng that sound like people (no whisper, robots, or croaks), by split and sex.
_VARIANTS = {
    ("train", "F"): "f1 f2 f3 f5 Annie Alicia Andrea aunty belinda steph shelby",
    ("train", "M"): "m1 m2 m3 m4 m5 m8 Alex Diogo Lee Reed boris",
    ("dev", "F"): "linda grandma",
    ("dev", "M"): "m6 miguel",
    ("test", "F"): "f4 anika",
    ("test", "M"): "m7 edward2",
}
# Accent, and whether it speaks the r in "letter".
ACCENTS = {
    "en-us": True,
    "en-gb-x-rp": False,
    "en-us-nyc": True,
    "en-gb-scotland": True,
    "en": False,
}
_SMALL, _DEFAULT_HOURS = 60, 1.0  # utterances of "synthetic/small"; hours of "synthetic"


@dataclass(frozen=True)
class Speaker:
    r"""A voice of the corpus.

    Attributes
    ----------
    name
        E.g. ``"F07-en-us+f2"``.
    split, sex
        ``"train"``, ``"dev"`` or ``"test"``; ``"F"`` or ``"M"``.
    accent, variant
        espeak-ng's language and variant.
    pitch, rate, pitch_range
        Habits of the voice, in the units of ``espeak.speak``.
    """

    name: str
    split: str
    sex: str
    accent: str
    variant: str
    pitch: int
    rate: int
    pitch_range: int


@cache
def speakers(split: str, many: bool = False) -> tuple[Speaker, ...]:
    r"""List the voices of one split, as many female as male; the same ones for every seed.

    Parameters
    ----------
    split
        ``"train"`` (56 voices), ``"dev"`` (8) or ``"test"`` (8).
    many
        True lists 440 voices for training, the usual ones among them.

    Returns
    -------
    tuple[Speaker, ...]
        In a fixed order.
    """
    voices = []
    for sex in "FM":
        variants = _VARIANTS[split, sex].split()
        count = _MANY_PER_SEX if many and split == "train" else _SPEAKERS_PER_SEX[split]
        for number in range(count):
            rng = np.random.default_rng((ord(sex), *split.encode(), number))
            # 5 accents and 11 variants have no common divisor: pairs repeat only after 55 voices.
            accent = list(ACCENTS)[number % len(ACCENTS)]
            variant = variants[number % len(variants)]
            voices.append(
                Speaker(
                    name=f"{sex}{split}{number:02d}-{accent}+{variant}",
                    split=split,
                    sex=sex,
                    accent=accent,
                    variant=variant,
                    pitch=int(rng.integers(25, 76)),
                    rate=int(rng.integers(140, 211)),
                    pitch_range=int(rng.integers(30, 91)),
                )
            )
    return tuple(voices)


@cache
def sentences(split: str) -> tuple[str, ...]:
    r"""Read the sentences of one split from ``data/sentences/english_<split>.txt``.

    Parameters
    ----------
    split
        ``"train"``, ``"dev"`` or ``"test"``.

    Returns
    -------
    tuple[str, ...]
        In the order of the file; blank lines and lines that begin with ``#`` left out.

    Raises
    ------
    ValueError
        If there is no such list.
    """
    path = paths.data_root() / "sentences" / f"english_{split}.txt"
    if not path.is_file():
        raise ValueError(f"sentences: got split {split!r}, expected one with a list at {path}")
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def make_synthetic(
    root: str | Path,
    hours: float | None = None,
    num_utterances: int | None = None,
    seed: int = 0,
    sample_rate: int = 16000,
    noise: bool = True,
    mixed: bool = False,
    many: bool = False,
) -> Corpus:
    r"""Make a corpus on disk: ``audio/*.wav``, ``manifest.csv``, ``phonemes.jsonl``.

    Parameters
    ----------
    root
        Folder to make it in; what was made there before is replaced, recordings never.
    hours, num_utterances
        How much to make: one of the two.
    seed
        Chooses the order of sentences and speakers, their variation and the noise.
    sample_rate
        Hz of the files.
    noise
        False leaves out the noise floor.
    mixed
        True lets three of four training utterances say a ``mixed_text``: a model that learns to
        speak must not learn 533 sentences by heart.
    many
        True lets 440 voices say the training utterances, not 56.

    Returns
    -------
    Corpus
        Of all splits, at ``sample_rate``.

    Raises
    ------
    ValueError
        If not exactly one of ``hours`` and ``num_utterances`` is given and positive, or espeak-ng
        is missing.

    Notes
    -----
    One hour takes about 15 s on one core and 115 MB.
    """
    _check_amount(hours, num_utterances)
    folder = emptied(root)
    made: list[Utterance] = []
    total, wanted = 0, np.inf if hours is None else hours * 3600 * sample_rate
    while total < wanted and len(made) < (num_utterances or np.inf):
        utterance, wav = speak_utterance(len(made), seed, sample_rate, noise, mixed, many)
        path = folder / utterance.audio_path
        audio.write(path, wav, sample_rate)
        made.append(_moved(utterance, path))
        total += utterance.num_samples
    write_manifest(folder, made)
    return read_manifest(folder, sample_rate)


def _check_amount(hours: float | None, num_utterances: int | None) -> None:
    """Raise ValueError unless exactly one of them is given, above 0."""
    if (hours is None) == (num_utterances is None) or (hours or num_utterances or 0) <= 0:
        raise ValueError(
            f"make_synthetic: got hours={hours}, num_utterances={num_utterances}, "
            "expected exactly one of them, above 0"
        )


def speak_utterance(
    index: int,
    seed: int = 0,
    sample_rate: int = 16000,
    noise: bool = True,
    mixed: bool = False,
    many: bool = False,
) -> tuple[Utterance, Tensor]:
    r"""Make one utterance of the corpus; it depends on the arguments alone.

    Parameters
    ----------
    index
        Number k of the utterance.
    seed, sample_rate, noise, mixed, many
        As ``make_synthetic``.

    Returns
    -------
    utterance : Utterance
        With phonemes; ``audio_path`` is relative to the corpus.
    wav : Tensor
        Shape (1, T), float64.
    """
    split, position = _PATTERN[index % 10], index // 10 * _PATTERN.count(_PATTERN[index % 10])
    position += _PATTERN[: index % 10].count(split)  # number of this utterance in its split
    speaker = _dealt(speakers(split, many), position, (seed, 1))
    text = _dealt(sentences(split), position, (seed, 2))
    if mixed and split == "train" and position % 4:
        text = mixed_text(np.random.default_rng((seed, 4, index)))
    rng = np.random.default_rng((seed, 3, index))
    said = espeak.speak(
        text,
        f"{speaker.accent}+{speaker.variant}",
        pitch=int(np.clip(speaker.pitch + rng.integers(-4, 5), 0, 99)),
        rate=int(speaker.rate * rng.uniform(0.92, 1.08)),
        pitch_range=int(np.clip(speaker.pitch_range + rng.integers(-8, 9), 0, 99)),
    )
    wav, starts = _with_pauses(said, ACCENTS[speaker.accent], rng)
    wav = audio.resample(wav, said.sample_rate, sample_rate)  # (1, T)
    scaled = [(symbol, round(at * sample_rate / said.sample_rate)) for symbol, at in starts]
    phonemes = align(scaled, wav.shape[-1])
    name = f"{split}-{index:06d}"
    utterance = Utterance(
        utterance_id=name,
        audio_path=f"audio/{name}.wav",
        speaker_id=speaker.name,
        language="en",
        text=text,
        split=split,
        sample_rate=sample_rate,
        num_samples=wav.shape[-1],
        phonemes=phonemes,
        sex=speaker.sex,
    )
    return utterance, _levelled(wav, phonemes, rng, noise)


@cache
def _vocabulary() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the words of the training sentences as often as they come, and each of them once."""
    letters = r"[^\W\d_]+(?:'[^\W\d_]+)*"  # no numbers, which a comma may cut
    words = [word for text in sentences("train") for word in re.findall(letters, text)]
    return tuple(words), tuple(sorted(set(words)))


def mixed_text(rng: np.random.Generator) -> str:
    r"""Draw three to nine words of the training sentences, and marks between and behind them.

    Half of the words are drawn as often as they come, half of them one as often as another.

    Parameters
    ----------
    rng
        What is drawn with.

    Examples
    --------
    >>> len(mixed_text(np.random.default_rng(0)).split()) in range(3, 10)
    True
    """
    decks = _vocabulary()
    words = [str(rng.choice(decks[int(rng.integers(2))])) for _ in range(rng.integers(3, 10))]
    if len(words) > 5 and rng.random() < 0.4:
        words[len(words) // 2] += ","
    return " ".join(words) + str(rng.choice([".", ".", ".", "?", "!"]))


def named_synthetic(name: str, sample_rate: int = 16000) -> Corpus:
    r"""Return a synthetic corpus by its name, made on first use.

    Parameters
    ----------
    name
        ``synthetic``, ``synthetic/small``, ``synthetic/<hours>h``, ``synthetic/mixed/<hours>h`` or
        ``synthetic/many/<hours>h``, which is mixed, too.
    sample_rate
        Hz at which it is heard; the files are 16 kHz.

    Returns
    -------
    Corpus
        Read from ``data/corpora``. It is made again when the recipe or the sentences have changed.

    Raises
    ------
    ValueError
        If the name is none of those, or espeak-ng is missing.
    """
    hours = re.fullmatch(r"synthetic/(?:(mixed|many)/)?(\d+(?:\.\d+)?)h", name)
    if name == "synthetic":
        size: dict[str, Any] = {"hours": _DEFAULT_HOURS}
    elif name == "synthetic/small":
        size = {"num_utterances": _SMALL}
    elif hours and float(hours[2]) > 0:
        kinds = {None: (), "mixed": ("mixed",), "many": ("mixed", "many")}[hours[1]]
        size = {"hours": float(hours[2]), **dict.fromkeys(kinds, True)}
    else:
        raise ValueError(
            f"corpus: got {name!r}, expected 'synthetic', 'synthetic/small', or e.g. "
            "'synthetic/2h' or 'synthetic/mixed/2h'"
        )
    folder = paths.corpora_root() / name.replace("/", "-")
    made_once(folder, _recipe(size), lambda place: make_synthetic(place, **size))
    corpus = read_manifest(folder, sample_rate)
    corpus.name = name
    return corpus


def _recipe(size: dict) -> dict:
    """Describe what a corpus is made from, to see whether the one on disk is still right."""
    digest = hashlib.sha256()
    for split in ("train", "dev", "test"):
        digest.update("\n".join(sentences(split)).encode())
    return {"version": RECIPE_VERSION, "sentences": digest.hexdigest(), "seed": 0, **size}


def _dealt(deck: tuple, position: int, seed: tuple[int, ...]):
    """Deal from a deck that is shuffled anew whenever it has run out."""
    round_, card = divmod(position, len(deck))
    return deck[int(np.random.default_rng((*seed, round_)).permutation(len(deck))[card])]


def _with_pauses(
    said: espeak.Speech, rhotic: bool, rng: np.random.Generator
) -> tuple[Tensor, list[tuple[str, int]]]:
    """Replace the silence at both ends by 0.1 to 0.4 s of it; return (1, T) and the starts."""
    starts = label(said.phonemes, rhotic)
    while starts and starts[-1][0] == SILENCE:
        end = starts.pop()[1]
    lead, tail = (int(rng.uniform(0.1, 0.4) * said.sample_rate) for _ in range(2))
    first = starts[0][1]
    spoken = torch.from_numpy(said.samples[first : end + tail].astype(np.float64)) / 32768
    missing = end - first + tail - len(spoken)  # the tail keeps what echo there is
    wav = torch.nn.functional.pad(spoken, (lead, missing))[None]  # (1, T)
    moved = [(symbol, at - first + lead) for symbol, at in starts]
    return wav, [*moved, (SILENCE, end - first + lead)]


def _levelled(
    wav: Tensor, phonemes: tuple[Phoneme, ...], rng: np.random.Generator, noise: bool
) -> Tensor:
    """Set the level of an utterance and add its noise floor: (1, T)."""
    level, floor, noisy = rng.uniform(-30, -18), rng.uniform(30, 50), rng.random() < 0.5
    wav = audio.set_level(wav, level)
    if noise and noisy:
        hiss = torch.from_numpy(rng.standard_normal(wav.shape[-1]))[None]  # (1, T)
        wav = wav + audio.set_level(hiss, level - floor)
    return audio.peak_guard(wav)


def _moved(utterance: Utterance, path: Path) -> Utterance:
    """Return the utterance with another audio path."""
    fields = {**utterance.__dict__, "audio_path": str(path)}
    return Utterance(**fields)
