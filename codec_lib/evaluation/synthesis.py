r"""Zero-shot synthesis judged: are the words right, and is it the voice of the prompt?

A speaker whom no model has met says a few seconds, the prompt, and another sentence, the target.
Models are given the prompt, its text and the target's text; what they say is heard by the same
judges as the recording of the target, and as a recording of somebody else, which is what the voice
must not be like. Protocol of [Zhang et al. 2024,
SpeechTokenizer], §5.4, with judges that need no download. Notebooks 40 and 41. Leaves out:
listeners. Read next: ``judges/base.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec_lib import audio
from codec_lib.data import Corpus
from codec_lib.lm.speaking import Prompt

from .judges import Judge, JudgedClip, Score, scores_of
from .results import summarise

Way = Callable[
    [Sequence[str], Sequence[Prompt | None]], list[Tensor]
]  # texts, prompts -> waveforms (1, T)
SILENCE_SECONDS = 0.5  # judged in place of an utterance that is empty


def synthesis_tasks(
    corpus: Corpus, count: int, seconds: tuple[float, float] = (1.5, 5.0), seed: int = 0
) -> list[tuple[int, int]]:
    r"""Draw prompts and targets of the same speakers.

    Parameters
    ----------
    corpus
        With texts and speakers.
    count
        Tasks wanted; fewer where there are fewer.
    seconds
        Shortest and longest prompt.
    seed
        Of the draw.

    Returns
    -------
    list[tuple[int, int]]
        Prompt and target, numbers of utterances; no target twice, and none its own prompt.

    Raises
    ------
    ValueError
        If no speaker has a prompt and a target.
    """
    rng = np.random.default_rng(seed)
    shortest, longest = (limit * corpus.sample_rate for limit in seconds)
    by_speaker: dict[str, list[int]] = {}
    for index, one in enumerate(corpus):
        if one.text and one.speaker_id and corpus.length(index):
            by_speaker.setdefault(one.speaker_id, []).append(index)
    tasks = []
    for own in by_speaker.values():
        for target in own:
            prompts = [i for i in own if i != target and shortest <= corpus.length(i) <= longest]
            if prompts:
                tasks.append((int(rng.choice(prompts)), target))
    if not tasks:
        raise ValueError(
            f"{corpus.name}: got no speaker with a prompt of {seconds[0]} to {seconds[1]} s and "
            "another utterance, both with text, expected some"
        )
    return [tasks[place] for place in rng.permutation(len(tasks))[:count]]


def without_prompts(way: Way) -> Way:
    r"""Return a way that speaks in whatever voice it likes: it is given no prompt."""
    return lambda texts, prompts: way(texts, [None] * len(prompts))


def judge_synthesis(
    corpus: Corpus,
    tasks: Sequence[tuple[int, int]],
    ways: Mapping[str, Way],
    judges: Mapping[str, Judge],
    against: Mapping[str, str] = MappingProxyType({}),
    batch_size: int = 8,
    log: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    r"""Let models say targets in the voices of prompts, and judge them.

    Parameters
    ----------
    corpus, tasks
        See ``synthesis_tasks``.
    ways
        By name, e.g. ``lm.synthesise`` with a model and a codec filled in; at the corpus's rate.
    judges
        Those that need more than a text and a voice are left out.
    against
        From the name of a way to that of another to compare it with, sentence by sentence.
    batch_size, log
        Utterances asked for at once; called with a line for each way.

    Returns
    -------
    list[dict[str, Any]]
        A row for ``"recording"`` (of the target), ``"somebody else"`` (another speaker, if there is
        one; only the voice is judged) and each way: ``way``, ``utterances``; ``empty``, how many
        were; ``times_real_time``, seconds of speech in one of work, of ways alone;
        ``seconds_ratio``, mean length over that of the recording; of every measure the fields of
        ``Score.summary``, and of ``Score.change`` where the way is compared, with ``against``.
    """
    prompts = [Prompt(corpus.load(prompt), corpus[prompt].text) for prompt, _ in tasks]
    texts, real = zip(*((corpus[i].text, corpus.load(i)) for _, i in tasks), strict=True)
    made = {"recording": real}
    if others := _others(corpus, tasks):
        made["somebody else"] = [corpus.load(i) for i in others]
    pace = {}
    for name, way in ways.items():
        made[name], seconds = _said(way, texts, prompts, batch_size)
        samples = sum(wav.shape[-1] for wav in made[name])
        pace[name] = {"times_real_time": samples / corpus.sample_rate / seconds}
        if log is not None:
            log(f"{name}: {len(tasks)} utterances said")
    rows, found = [], {}
    for name, wavs in made.items():
        row: dict[str, Any] = {"way": name, "utterances": len(wavs), **pace.get(name, {})}
        row["empty"] = sum(not wav.shape[-1] for wav in wavs)
        spans = (a.shape[-1] / b.shape[-1] for a, b in zip(wavs, real, strict=True))
        row |= summarise([*spans], "seconds_ratio")
        said = [""] * len(texts) if name == "somebody else" else texts
        found[name] = _scores(wavs, said, prompts, corpus.sample_rate, judges)
        for measure, score in found[name].items():
            row |= score.summary(measure)
        rows.append(row)
    for row in rows:
        if rival := against.get(row["way"]):
            row |= {"against": rival, **_changes(found[row["way"]], found[rival])}
    return rows


def _changes(own: Mapping[str, Score], rival: Mapping[str, Score]) -> dict[str, float]:
    """Compare two ways, sentence by sentence, by every measure."""
    changes = (score.change(rival[measure], measure) for measure, score in own.items())
    return {field: value for one in changes for field, value in one.items()}


def _said(
    way: Way, texts: Sequence[str], prompts: Sequence[Prompt], batch_size: int
) -> tuple[list[Tensor], float]:
    """Let a way say everything, in batches; return it and the seconds that this took."""
    start, parts = time.perf_counter(), range(0, len(texts), batch_size)
    slices = [slice(at, at + batch_size) for at in parts]
    wavs = [wav for part in slices for wav in way(texts[part], prompts[part])]
    return wavs, time.perf_counter() - start


def _scores(
    wavs: Sequence[Tensor],
    texts: Sequence[str],
    prompts: Sequence[Prompt],
    sample_rate: int,
    judges: Mapping[str, Judge],
) -> dict[str, Score]:
    """Let judges hear what was said; silence stands for what is empty."""
    silence = torch.zeros(1, round(SILENCE_SECONDS * sample_rate))
    heard = [wav if wav.shape[-1] else silence for wav in wavs]
    clips = [JudgedClip(audio.peak_guard(wav), sample_rate, text=text, voice=prompt.wav)
             for wav, text, prompt in zip(heard, texts, prompts, strict=True)]  # fmt: skip
    by_judge = scores_of(judges, clips).values()
    return {measure: score for one in by_judge for measure, score in one.items()}


def _others(corpus: Corpus, tasks: Sequence[tuple[int, int]]) -> list[int]:
    """Return for each task an utterance of another speaker, of another task where there is one.

    Nothing where all are of one speaker.
    """
    speakers = [one.speaker_id for one in corpus]
    if len(set(speakers)) < 2:
        return []
    targets = [target for _, target in tasks]
    found = []
    for place, (_, target) in enumerate(tasks):
        turned = [*targets[place + 1 :], *targets[:place], *range(len(corpus))]
        found.append(next(i for i in turned if speakers[i] != speakers[target]))
    return found
