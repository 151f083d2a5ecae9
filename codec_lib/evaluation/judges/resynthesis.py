r"""What a codec leaves of speech, by every judge, beside the same judge's score of the original.

Whole utterances are encoded once, decoded from the first n codebooks for every n asked for, and
given to the judges; so are the recordings themselves. A codec's row has the score, that of the
originals, and the difference clip by clip with its interval. The judges ``words`` and ``speaker``
are what SLMTokBench calls information preservation [Zhang et al. 2024, SpeechTokenizer], §4.

Notebooks 30 and 35. Leaves out: what codes know (``slmtokbench.py``).
Read next: ``codec_lib/evaluation/mutual_information.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from codec_lib import audio
from codec_lib.codecs.base import Codec
from codec_lib.data import Corpus
from codec_lib.evaluation.reconstruction import spread_indices

from .base import Judge, JudgedClip, Score

Scores = dict[str, dict[str, Score]]  # judge -> measure -> score


def clips_of(
    corpus: Corpus, max_utterances: int | None = None, max_seconds: float | None = None
) -> list[JudgedClip]:
    r"""Return utterances of a corpus as clips that are their own originals.

    Parameters
    ----------
    corpus
        Any.
    max_utterances
        Spread evenly over the corpus; None for all.
    max_seconds
        Only the beginning of each, which then has no text; None for all of it.

    Returns
    -------
    list[JudgedClip]
        ``voice`` is another utterance of the speaker, where there is one. Bad files are left out.
    """
    samples = None if max_seconds is None else int(max_seconds * corpus.sample_rate)
    heard: list[tuple[Any, Tensor, bool]] = []
    for index in spread_indices(len(corpus), max_utterances):
        try:
            wav = corpus.load(index, 0, samples)
        except audio.AudioError:
            continue  # the corpus has reported it
        heard.append((corpus[index], wav, samples is None or wav.shape[-1] < samples))
    speakers: dict[str, list[Tensor]] = {}
    for utterance, wav, _ in heard:
        speakers.setdefault(utterance.speaker_id, []).append(wav)
    clips = []
    for utterance, wav, whole in heard:
        others = speakers[utterance.speaker_id] if utterance.speaker_id else [wav]
        place = next(i for i, other in enumerate(others) if other is wav)
        voice = others[(place + 1) % len(others)]
        text = utterance.text if whole else ""
        clips.append(JudgedClip(wav, corpus.sample_rate, wav, text, voice))
    return clips


@torch.no_grad()
def clip_through(
    codec: Codec,
    clip: JudgedClip,
    n_q: int | None = None,
    token_rate: float | None = None,
    counts: Sequence[int] = (),
) -> list[JudgedClip]:
    r"""Send a clip through a codec, at the codec's sample rate and back.

    Parameters
    ----------
    codec
        In eval mode.
    clip
        At any sample rate.
    n_q, token_rate
        As in ``Codec.encode``.
    counts
        Decode from the first so many codebooks, for each; all of them by default.

    Returns
    -------
    list[JudgedClip]
        What comes out, at the clip's own rate and length, with its original, text and voice.
    """
    wav = audio.resample(clip.wav, clip.sample_rate, codec.sample_rate)[None]
    codes, made = codec.encode(wav.to(codec.device), n_q, token_rate=token_rate), []
    for count in counts or [codes.n_q]:
        wav = codec.decode(codes.select(range(count)))[0].cpu()
        wav = audio.resample(wav, codec.sample_rate, clip.sample_rate)
        wav = audio.pad_or_crop(wav, clip.wav.shape[-1])  # (1, T)
        made.append(JudgedClip(wav, clip.sample_rate, clip.wav, clip.text, clip.target))
    return made


def resynthesised(
    codec: Codec, clips: Sequence[JudgedClip], n_q: Sequence[int]
) -> dict[int, list[JudgedClip]]:
    r"""Send clips through a codec.

    Clips of another sample rate than the codec's are resampled on the way in and out, so that all
    codecs are judged on the same samples.

    Parameters
    ----------
    codec
        In eval mode.
    clips
        See ``clips_of``.
    n_q
        Numbers of codebooks to decode from.

    Returns
    -------
    dict[int, list[JudgedClip]]
        For each number the clips as they come out.

    Raises
    ------
    ValueError
        If there are not as many codebooks.
    """
    if not n_q or min(n_q) < 1 or max(n_q) > codec.num_quantizers:
        raise ValueError(f"n_q: got {list(n_q)}, expected some of 1 to {codec.num_quantizers}")
    rows = [clip_through(codec, clip, max(n_q), counts=n_q) for clip in clips]
    return {count: [row[place] for row in rows] for place, count in enumerate(n_q)}


def scores_of(judges: Mapping[str, Judge], clips: Sequence[JudgedClip]) -> Scores:
    r"""Let every judge that has what it needs score the clips; the others are left out."""
    return {
        name: judge(clips)
        for name, judge in judges.items()
        if all(clip.has(judge.needs) for clip in clips)
    }


def means(scores: Scores, measures: Sequence[str] | None = None) -> dict[str, float]:
    r"""Return the mean score by measure.

    Parameters
    ----------
    scores
        Of several judges, as ``scores_of`` returns them.
    measures
        Those wanted, where they are there; None for all.

    Examples
    --------
    >>> import numpy as np
    >>> means({"words": {"wer": Score(np.array([0.25, 0.75]))}}, ["wer", "stoi"])
    {'wer': 0.5}
    """
    found = {name: score for judge in scores.values() for name, score in judge.items()}
    wanted = found if measures is None else [name for name in measures if name in found]
    return {name: found[name].summary(name)[name] for name in wanted}


def judge_codec(
    codec: Codec,
    clips: Sequence[JudgedClip],
    judges: Mapping[str, Judge],
    n_q: Sequence[int],
    originals: Scores | None = None,
    log: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    r"""Judge what a codec leaves of clips.

    Parameters
    ----------
    codec, clips, n_q
        As in ``resynthesised``.
    judges
        By name; see ``judges.make_judges``.
    originals
        Scores of the clips themselves, where they are known already.
    log
        Called with a line for every number of codebooks.

    Returns
    -------
    list[dict[str, Any]]
        A row for every number of codebooks: ``n_q``, ``bitrate`` (bit/s), ``utterances``; for every
        measure the fields of ``Score.summary``, ``<measure>_original`` (the originals' mean) and
        ``<measure>_change`` with ``_low`` and ``_high`` (codec less original, clip by clip).

    Raises
    ------
    ValueError
        If a clip lacks what a judge needs, e.g. a text.
    """
    first = originals or {name: judge(clips) for name, judge in judges.items()}
    rows = []
    for count, made in resynthesised(codec, clips, n_q).items():
        row = {"n_q": count, "bitrate": float(codec.bitrate(count)), "utterances": len(clips)}
        row |= summary({name: judge(made) for name, judge in judges.items()}, first)
        rows.append(row)
        if log is not None:
            log(f"{codec.name}, {count} codebooks: judged by {', '.join(judges)}")
    return rows


def summary(found: Scores, originals: Scores) -> dict[str, float]:
    r"""Return means with intervals, the originals' means, and the paired differences."""
    row: dict[str, float] = {}
    for name, by_measure in found.items():
        for measure, score in by_measure.items():
            other = originals[name][measure]
            row |= score.summary(measure)
            row[f"{measure}_original"] = other.summary(measure)[measure]
            row |= score.change(other, measure)
    return row
