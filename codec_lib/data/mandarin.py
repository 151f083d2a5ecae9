r"""Mandarin syllables in their four tones by many voices, spoken by espeak-ng: to ask for tone.

With one speaker the pitch alone tells the tone; with several it has to be told from the shape of
the contour [Osakuade and King 2024]. Every syllable is spoken by every voice in every tone, at a
pitch and rate drawn anew, so that neither tells the tone; training and test part have other voices
and other syllables.

Notebook 34. Leaves out: sentences, tone sandhi, the neutral tone. Read next: ``corpora.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec_lib import audio, paths

from . import espeak
from .manifests import emptied, made_once, read_manifest, write_manifest
from .utterances import Corpus, Utterance

VOICE = "cmn-latn-pinyin"
VARIANTS = {
    "train": "f1 f2 f4 m1 m2 m3 m5 m7 Annie Andy klatt linda",
    "test": "f3 f5 m4 m6",
}
TONES = (1, 2, 3, 4)
RECIPE_VERSION = 1  # raise it when what is made changes: syllables on disk are then made again
PITCHES = (30, 70)
"""Base pitches that are drawn for each token: wide, so that no pitch belongs to a tone."""
SYLLABLES = """
ba bai ban bang bao bei bi bian biao bo bu cai can cao chang che chen cheng chi chu da dai dan dang
dao deng di dian ding dong du duan duo fan fang fei fen feng fu gan gao ge gong gu gua guan hai han
hao he hong hu hua huan huang hui ji jia jian jiang jiao jie jin jing jiu ju juan kai kan ke kong ku
la lai lan lang lao li lian liang liu long lu ma mai man mao mei men mi mian ming mo mu na nan nao
nian niu pa pai pan pao pi piao ping pu qi qian qing qiu qu ren sai san shan shang shao she shen
sheng shi shou shu song tai tan tang tao ti tian ting tong tu wa wan wang wei wen wu xi xia xian
xiang xiao xie xin xing xu xue ya yan yang yao ye yi yin ying you yu yuan zan zao zhang zhe zhi zhu
""".split()
_EVERY = 5  # each fifth syllable is a test syllable


def split_of(syllable: str) -> str:
    r"""Return ``"test"`` for every fifth syllable, ``"train"`` for the others."""
    return "test" if SYLLABLES.index(syllable) % _EVERY == _EVERY - 1 else "train"


def main_vowel(syllable: str) -> str:
    r"""Return the vowel that carries the tone mark of a pinyin syllable; ``"v"`` for ü.

    ``a`` or ``e`` where there is one, ``o`` of ``ou``, else the last vowel.

    Raises
    ------
    ValueError
        If there is no vowel.

    Examples
    --------
    >>> [main_vowel(one) for one in ("ma", "liu", "gou", "xue", "ju", "lv")]
    ['a', 'u', 'o', 'e', 'v', 'v']
    """
    vowels = [letter for letter in syllable.replace("ü", "v") if letter in "aeiouv"]
    if not vowels:
        raise ValueError(f"syllable: got {syllable!r}, expected pinyin with a vowel")
    for letter in "ae":
        if letter in vowels:
            return letter
    found = "o" if "ou" in syllable else vowels[-1]
    return "v" if found == "u" and len(vowels) == 1 and syllable[0] in "jqxy" else found


def named_mandarin(sample_rate: int = 16_000) -> Corpus:
    r"""Return ``synthetic/mandarin``: all syllables, made on first use in ``data/corpora``.

    Four of the twelve training voices say a syllable, in all its tones: 2,144 to learn from.

    Parameters
    ----------
    sample_rate
        Hz at which it is heard; the files are 16 kHz.

    Returns
    -------
    Corpus
        As ``make_mandarin`` makes it.

    Raises
    ------
    ValueError
        If espeak-ng is missing.
    """
    folder = paths.corpora_root() / "synthetic-mandarin"
    recipe = {"version": RECIPE_VERSION, "syllables": SYLLABLES, "variants": VARIANTS}
    recipe |= {"pitches": list(PITCHES), "voices": 4}
    made_once(folder, recipe, lambda place: make_mandarin(place, voices_each=4))
    corpus = read_manifest(folder, sample_rate)
    corpus.name = "synthetic/mandarin"
    return corpus


def make_mandarin(
    root: str | Path,
    syllables: int | None = None,
    seed: int = 0,
    sample_rate: int = 16_000,
    variants: Mapping[str, str] = VARIANTS,
    voices_each: int | None = None,
    pitches: tuple[int, int] = PITCHES,
    pitch_range: int = 50,
) -> Corpus:
    r"""Make a corpus on disk: ``audio/*.wav`` and ``manifest.csv``.

    Parameters
    ----------
    root
        Folder to make it in; what was made there before is replaced, recordings never.
    syllables
        How many of ``SYLLABLES``, from the first on; all by default.
    seed
        Of pitches and rates.
    sample_rate
        Hz of the files.
    variants
        Voices of each split, with spaces between; the same voice in both keeps the syllables apart
        and not the voices.
    voices_each
        Training voices that say one syllable, drawn for each; all by default. Whoever says it, says
        it in all four tones. Test syllables are said by all test voices.
    pitches, pitch_range
        See ``speak_syllable``.

    Returns
    -------
    Corpus
        ``label`` is the syllable, ``tone`` its tone, ``speaker_id`` the voice.

    Raises
    ------
    ValueError
        If espeak-ng is missing.
    """
    folder = emptied(root)
    made = []
    for number, syllable in enumerate(SYLLABLES[:syllables]):
        split = split_of(syllable)
        voices = variants[split].split()
        if split == "train" and voices_each is not None and voices_each < len(voices):
            rng = np.random.default_rng((seed, number))
            voices = [voices[k] for k in sorted(rng.permutation(len(voices))[:voices_each])]
        for variant in voices:
            for tone in TONES:
                how = (seed, sample_rate, pitches, pitch_range)
                said, wav = speak_syllable(syllable, tone, variant, *how)
                path = folder / said.audio_path
                audio.write(path, wav, sample_rate)
                made.append(replace(said, audio_path=str(path)))
    write_manifest(folder, made)
    return read_manifest(folder, sample_rate)


def speak_syllable(
    syllable: str,
    tone: int,
    variant: str,
    seed: int = 0,
    sample_rate: int = 16_000,
    pitches: tuple[int, int] = PITCHES,
    pitch_range: int = 50,
) -> tuple[Utterance, Tensor]:
    r"""Speak one syllable; it depends on the arguments alone.

    Parameters
    ----------
    syllable, tone, variant
        One of ``SYLLABLES``, of ``TONES``, and a voice variant of espeak-ng.
    seed
        Of its pitch and rate.
    sample_rate
        Hz.
    pitches
        Lowest and highest base pitch that is drawn, 0 to 99 as espeak-ng counts; both the same is a
        voice that never leaves its register.
    pitch_range
        0 to 99, how far tones go up and down; at espeak-ng's own 50 they go a third to a half as
        far as the recorded speaker of audio-cmn, at 99 nearly as far.

    Returns
    -------
    utterance : Utterance
        ``audio_path`` is relative to the corpus.
    wav : Tensor
        Shape (1, T), float64.
    """
    rng = np.random.default_rng((seed, SYLLABLES.index(syllable), tone, *variant.encode()))
    low, high = pitches
    pitch, rate = int(rng.integers(low, high + 1)), int(rng.integers(120, 201))
    said = espeak.speak(f"{syllable}{tone}", f"{VOICE}+{variant}", pitch, rate, pitch_range)
    wav = torch.from_numpy(said.samples.astype(np.float64))[None] / 32768
    wav = audio.peak_guard(audio.resample(wav, said.sample_rate, sample_rate), 0.5)
    name = f"{variant}-{syllable}{tone}"
    utterance = Utterance(
        utterance_id=name,
        audio_path=f"audio/{name}.wav",
        speaker_id=variant,
        language="cmn",
        text=syllable,
        label=syllable,
        tone=str(tone),
        split=split_of(syllable),
        sample_rate=sample_rate,
        num_samples=wav.shape[-1],
    )
    return utterance, wav
