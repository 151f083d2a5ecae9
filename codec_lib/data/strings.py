r"""Join recordings of single words into strings of words, by speaker: sentences with known texts.

Recorded words with texts are easier to have than recorded sentences. Joined as in corpora of
connected digits, e.g. "three nine zero", they are something a language model can learn to speak
from, and long enough for a prompt. Words stay within their speaker and split, each is used as often
as the others, and pauses vary; how words run into each other is not there. No paper. Used for
``codec-lib train-lm`` and ``judge-lm``. Leaves out: single words (``spoken_words.py``).
Read next: ``pronunciation.py``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from codec_lib import audio, paths

from .manifests import emptied, made_once, read_manifest, write_manifest
from .utterances import Corpus, Utterance

RECIPE_VERSION = 1  # raise it when what is made changes: strings on disk are then made again
WORDS = (3, 6)  # of a string, the last one excluded
PAUSE_SECONDS = (0.05, 0.2)


def make_strings(root: str | Path, words: Corpus, takes: int = 2, seed: int = 0) -> Corpus:
    r"""Make a corpus on disk: ``audio/*.wav`` and ``manifest.csv``.

    Parameters
    ----------
    root
        Folder to make it in; what was made there before is replaced, recordings never.
    words
        Recordings with text and speaker; others are left out. Files are written at its rate.
    takes
        How often each recording is used.
    seed
        Of what is joined, and of the pauses.

    Returns
    -------
    Corpus
        Strings of three to five recordings, a few of fewer where a speaker has no more.

    Raises
    ------
    ValueError
        If no recording has text and speaker.
    """
    own: dict[tuple[str, str], list[int]] = {}
    for index, one in enumerate(words):
        if one.text and one.speaker_id:
            own.setdefault((one.speaker_id, one.split), []).append(index)
    if not own:
        raise ValueError(
            f"{words.name}: got no recording with text and speaker, expected some to join"
        )
    folder, made = emptied(root), []
    rng, rate = np.random.default_rng(seed), words.sample_rate
    for (speaker, split), indices in own.items():
        dealt = np.concatenate([rng.permutation(indices) for _ in range(takes)]).tolist()
        while dealt:
            count = int(rng.integers(*WORDS))
            chosen, dealt = dealt[:count], dealt[count:]
            parts = []
            for index in chosen:
                pause = round(rng.uniform(*PAUSE_SECONDS) * rate)
                parts += [torch.zeros(1, pause), words.load(index)]
            wav = audio.peak_guard(torch.cat([*parts[1:], torch.zeros(1, pause)], dim=1))
            path = folder / "audio" / f"{speaker}-{split}-{len(made)}.wav"
            audio.write(path, wav, rate)
            first, text = words[chosen[0]], " ".join(words[index].text for index in chosen)
            made.append(
                Utterance(
                    path.stem, str(path), speaker, first.language, text, split=split,
                    sex=first.sex, sample_rate=rate, num_samples=wav.shape[-1],
                )
            )  # fmt: skip
    write_manifest(folder, made)
    return read_manifest(folder, rate)


def named_strings(name: str, words: Corpus) -> Corpus:
    r"""Return ``strings/<corpus>``, made on first use in ``data/corpora``.

    Parameters
    ----------
    name
        As a whole.
    words
        The corpus behind the stroke, at the rate at which strings are heard.
    """
    rate = words.sample_rate
    folder = paths.corpora_root() / f"{name.replace('/', '-')}-{rate}"
    heard = [(one.utterance_id, one.text, words.length(index)) for index, one in enumerate(words)]
    recipe = {"version": RECIPE_VERSION, "words": words.name, "sample_rate": rate}
    recipe |= {"recordings": hashlib.sha256(str(heard).encode()).hexdigest()}
    recipe |= {"count": [*WORDS], "pauses": [*PAUSE_SECONDS]}
    made_once(folder, recipe, lambda place: make_strings(place, words))
    corpus = read_manifest(folder, rate)
    corpus.name = name
    return corpus
