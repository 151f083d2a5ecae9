r"""When each phoneme of a transcribed recording is spoken: forced alignment with a recogniser.

The most probable way to stretch the transcript over the frames [Graves et al. 2006, CTC] gives each
symbol a few frames, with blanks between: CTC is peaky, and where in a sound its peak lies is not
trained for. Here the boundary between two symbols lies in the middle of the blanks between them;
where there are more than ``2 * REACH`` blanks, each symbol takes ``REACH`` of them and the rest is
silence. How far off that is was measured where the truth is known; see ``aligned``.

Used by notebook 11. Leaves out: alternative pronunciations, noises. Read next: ``asr.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional
from torchaudio.functional import forced_align, merge_tokens

from codec_lib import audio
from codec_lib.data import Corpus, Phoneme, Utterance, Word, pronounce
from codec_lib.data.phonemes import SILENCE, align
from codec_lib.data.pronunciation import normalise_words
from codec_lib.data.transcripts import GAP, plain_letters
from codec_lib.losses.ctc import frames_needed

from .ctc import CtcRecogniser
from .frontend import HOP, SAMPLE_RATE

_log = logging.getLogger(__name__)
REACH = 3  # frames of blank, 60 ms, that belong to the symbol before or behind; measured


@dataclass(frozen=True)
class Span:
    r"""The frames that name one symbol.

    Attributes
    ----------
    token
        Number of the symbol.
    start, end
        First frame, and the frame behind the last.
    score
        Mean log probability of the symbol over them.
    """

    token: int
    start: int
    end: int
    score: float


def align_tokens(log_probs: Tensor, tokens: Sequence[int]) -> list[Span]:
    r"""Find the most probable frames of each symbol of a known sequence.

    Parameters
    ----------
    log_probs
        Shape (F, V); symbol 0 is the blank.
    tokens
        Numbers from 1 to V - 1.

    Returns
    -------
    list[Span]
        One for each token, in order.

    Raises
    ------
    ValueError
        If there is no token, one is out of range, or there are fewer frames than they need.

    Examples
    --------
    >>> seen = torch.full((5, 3), 0.1).scatter_(1, torch.tensor([[0], [1], [1], [0], [2]]), 0.8)
    >>> [(span.token, span.start, span.end) for span in align_tokens(seen.log(), [1, 2])]
    [(1, 1, 3), (2, 4, 5)]
    """
    frames, size = log_probs.shape
    if not tokens or min(tokens) < 1 or max(tokens) >= size or frames < frames_needed(tokens):
        raise ValueError(
            f"tokens: got {len(tokens)} for {frames} frames, expected 1 or more, from 1 to "
            f"{size - 1}, that CTC can say in so many frames. Hint: does the text belong to the "
            "recording?"
        )
    targets = torch.tensor([list(tokens)], dtype=torch.int64, device=log_probs.device)
    path, scores = forced_align(log_probs[None].float(), targets)
    return [
        Span(one.token, one.start, one.end, one.score) for one in merge_tokens(path[0], scores[0])
    ]


def transcript_score(log_probs: Tensor, tokens: Sequence[int]) -> float:
    r"""Return the log probability of a sequence, per frame: how well it fits what is heard.

    Parameters
    ----------
    log_probs, tokens
        As in ``align_tokens``; minus infinity where the tokens do not fit the frames.
    """
    flat = torch.tensor([list(tokens)], dtype=torch.int64)
    sizes = torch.tensor([len(log_probs)]), torch.tensor([len(tokens)])
    loss = functional.ctc_loss(log_probs[:, None].float(), flat, *sizes, reduction="sum")
    return -float(loss) / len(log_probs)


def span_bounds(
    spans: Sequence[Span], num_frames: int, reach: float = REACH
) -> list[tuple[float, float]]:
    r"""Return where each symbol begins and ends, in frames: blanks are shared out.

    Parameters
    ----------
    spans
        In order of time.
    num_frames
        Frames F of the recording.
    reach
        Frames of blank that a symbol takes at most.

    Returns
    -------
    list[tuple[float, float]]
        Begin and end of each; what lies between two is silence.

    Examples
    --------
    >>> span_bounds([Span(1, 2, 3, 0.0), Span(2, 4, 5, 0.0), Span(3, 20, 21, 0.0)], 30, reach=2)
    [(0, 3.5), (3.5, 7), (18, 23)]
    """
    bounds = []
    for place, span in enumerate(spans):
        before = spans[place - 1].end if place else -num_frames  # beyond reach
        behind = spans[place + 1].start if place + 1 < len(spans) else 3 * num_frames
        begin = max(span.start - reach, (before + span.start) / 2)
        bounds.append((max(begin, 0), min(span.end + reach, (span.end + behind) / 2, num_frames)))
    return bounds


def align_utterance(
    recogniser: CtcRecogniser, wav: Tensor, text: str, voice: str = "en-us"
) -> tuple[tuple[Phoneme, ...], list[Word]]:
    r"""Align a recording with what is said in it.

    Parameters
    ----------
    recogniser
        Of phonemes, or of characters, which tell words only.
    wav
        Shape (1, T), float32, 16 kHz.
    text
        What is said, all of it.
    voice
        Accent, see ``pronounce``.

    Returns
    -------
    phonemes : tuple[Phoneme, ...]
        Cover [0, T) without gaps, silence included; none from a recogniser of characters.
    words : list[Word]
        In order, in samples.

    Raises
    ------
    ValueError
        If the text has no word, cannot be spelt, or does not fit into the frames.
    """
    symbols = recogniser.symbols
    if symbols.kind == "characters":
        said = [(word, tuple(plain_letters(word))) for word in normalise_words(text)]
        unknown = {letter for _, letters in said for letter in letters} - set(symbols.names)
        if unknown:
            raise ValueError(f"text: got {sorted(unknown)}, expected letters. Hint: spell numbers")
    else:
        said = pronounce(text, voice)
    tokens = symbols.join([sounds for _, sounds in said])
    log_probs = recogniser.log_probs(wav[None]).cpu()
    spans = align_tokens(log_probs, tokens)
    spans = [span for span in spans if symbols.names[span.token] != GAP]
    bounds = [
        (round(begin * HOP), min(round(end * HOP), wav.shape[-1]))
        for begin, end in span_bounds(spans, len(log_probs))
    ]
    words, at = [], 0
    for word, sounds in said:
        words.append(Word(word, bounds[at][0], bounds[at + len(sounds) - 1][1]))
        at += len(sounds)
    if symbols.kind == "characters":
        return (), words
    starts = []
    for span, (begin, end) in zip(spans, bounds, strict=True):
        starts += [(symbols.names[span.token], begin), (SILENCE, end)]
    return align(starts, wav.shape[-1]), words


def aligned(corpus: Corpus, recogniser: CtcRecogniser, voice: str = "en-us") -> Corpus:
    r"""Return a corpus whose utterances have phonemes, found by alignment with their text.

    Then ``evaluation.phoneme_probe`` and PNMI can be measured on recorded speech. They inherit the
    errors of the alignment: the same measurement on synthetic speech, with exact and with aligned
    phonemes, tells how much that is.

    Parameters
    ----------
    corpus
        At 16 kHz, with text.
    recogniser
        Of phonemes.
    voice
        Accent, see ``pronounce``.

    Returns
    -------
    Corpus
        Utterances without text, bad files, and texts that do not fit are left out and logged.

    Raises
    ------
    ValueError
        If none is left, the corpus is not heard at 16 kHz, or the recogniser names characters.

    Notes
    -----
    Measured with a small recogniser that heard synthetic speech only. On synthetic speech of other
    voices (17 % phoneme errors) boundaries are off by 12 ms in the median, 95 % of them by at most
    50 ms, and 80 % of the frames have the right phoneme. On LibriSpeech test-other (75 % errors)
    the right text wins over another of like length in 59 of 60 utterances, but a linear probe
    agrees with only 21 % of the frames, and with 10 % where the text is another's: for recorded
    speech take a recogniser that has heard some, or ``sphinx.sphinx_aligned``.
    """
    if recogniser.symbols.kind == "characters":
        raise ValueError("recogniser: got one of characters, expected one of phonemes")
    check_rate(corpus)
    return align_each(corpus, lambda wav, text: align_utterance(recogniser, wav, text, voice)[0])


def align_each(corpus: Corpus, find: Callable[[Tensor, str], Sequence[Phoneme]]) -> Corpus:
    r"""Give every utterance the phonemes that a function finds; leave out and log those it refuses.

    Parameters
    ----------
    corpus
        With text; resampled to 16 kHz.
    find
        Function from a waveform (1, T) at 16 kHz and its text to phonemes, in samples of it;
        ValueError where they do not fit.
    """
    found: list[Utterance] = []
    for index, utterance in enumerate(corpus):
        try:
            wav = audio.resample(corpus.load(index), corpus.sample_rate, SAMPLE_RATE)  # (1, T)
            phonemes = find(wav, utterance.text)
        except (audio.AudioError, ValueError) as error:
            _log.warning("%s: not aligned: %s", utterance.utterance_id, error)
            continue
        found.append(with_phonemes(utterance, phonemes, wav.shape[-1], SAMPLE_RATE))
    return Corpus(f"{corpus.name}, aligned", found, corpus.sample_rate)


def check_rate(corpus: Corpus) -> None:
    r"""Raise ``ValueError`` unless a corpus is heard at the 16 kHz of recognisers."""
    if corpus.sample_rate != SAMPLE_RATE:
        raise ValueError(
            f"{corpus.name}: got {corpus.sample_rate} Hz, expected the recogniser's {SAMPLE_RATE} "
            f"Hz; hint: corpus(name, sample_rate={SAMPLE_RATE})"
        )


def with_phonemes(
    utterance: Utterance, phonemes: Sequence[Phoneme], num_samples: int, sample_rate: int
) -> Utterance:
    r"""Give an utterance its phonemes, in samples of its file.

    Parameters
    ----------
    utterance, phonemes
        The utterance, and what is spoken in it.
    num_samples, sample_rate
        Length and rate that the phonemes are counted in.
    """
    rate, total = utterance.sample_rate, utterance.num_samples
    if rate < 1 or total < 1:
        info = audio.read_info(utterance.audio_path)
        rate, total = info.sample_rate, info.num_samples
    starts = [(one.symbol, round(one.start * rate / sample_rate)) for one in phonemes]
    starts = [(symbol, min(start, total)) for symbol, start in starts]
    return replace(utterance, sample_rate=rate, num_samples=total, phonemes=align(starts, total))
