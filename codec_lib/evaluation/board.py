r"""Every codec on one board: sound by bitrate, what codes say, usage, size, speed and memory.

All are measured in one run on the same clips; speed is taken in turns, so a busy machine slows all
alike. Opus, the codec of telephony, stands beside them as it comes: its bitrate is that of an Ogg
file of the clips, container included. Notebook: 35_listening_and_leaderboard. Leaves out: one
figure for everything (``leaderboard.py``). Read next: ``mushra.py``.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from codec_lib import audio, hub, opus
from codec_lib.codecs.base import Codec
from codec_lib.data import Corpus

from .codec_probe import codebook_use, probe_codebooks
from .costs import count_parameters
from .judges import Judge, JudgedClip, scores_of
from .leaderboard import points_of, through
from .memory import codec_megabytes
from .timing import in_turns

TIMED_SECONDS = 10.0
OPUS_RATES = (6_000, 11_000, 18_000)  # bit/s asked for
SHOWN: dict[str, Callable[[float], str]] = {
    **dict.fromkeys(("mel_distance", "stoi", "pesq", "si_sdr", "per", "wer"), "{:.3f}".format),
    **dict.fromkeys(("speaker_similarity", "dnsmos", "f0_cents"), "{:.3f}".format),
    **dict.fromkeys(("phonemes", "usage", "perplexity"), "{:.3f}".format),
    **dict.fromkeys(("encode_times", "decode_times", "megabytes"), "{:.0f}".format),
    "parameters": "{:,}".format,
}


def through_opus(clips: Sequence[JudgedClip], bitrate: float) -> tuple[list[JudgedClip], float]:
    r"""Send clips through Opus.

    Parameters
    ----------
    clips
        All at one sample rate, 8, 12, 16, 24 or 48 kHz; one file is written of them all, with half
        a second of silence between two, so that none is heard in the next.
    bitrate
        bit/s asked for, from 6,000 on.

    Returns
    -------
    tuple[list[JudgedClip], float]
        What comes out, and the bitrate of a file of the clips without these silences, which cost
        hardly anything.
    """
    rate = clips[0].sample_rate
    gap = torch.zeros(1, rate // 2)
    whole = torch.cat([part for clip in clips for part in (clip.wav, gap)], dim=1)
    heard, _ = opus.opus_round_trip(whole, rate, bitrate)
    bare = torch.cat([clip.wav for clip in clips], dim=1)
    size = opus.opus_round_trip(bare, rate, bitrate)[1]
    made, at = [], 0
    for clip in clips:
        wav = heard[:, at : at + clip.wav.shape[-1]]
        made.append(JudgedClip(wav, rate, clip.wav, clip.text, clip.target))
        at += clip.wav.shape[-1] + gap.shape[-1]
    return made, 8 * size * rate / bare.shape[-1]


def board_rows(
    codecs: Mapping[str, Codec],
    clips: Sequence[JudgedClip],
    judges: Mapping[str, Judge],
    opus_rates: Sequence[float] = OPUS_RATES,
    keep: Callable[[list[dict[str, Any]]], object] = lambda rows: None,
    log: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    r"""Judge codecs at every rate they have.

    Parameters
    ----------
    codecs
        By name, in eval mode.
    clips
        See ``judges.clips_of``; all at one sample rate.
    judges
        See ``judges.make_judges``.
    opus_rates
        bit/s of Opus; none leaves it out.
    keep
        Called with all rows so far after every codec.
    log
        Called with a line for each.

    Returns
    -------
    list[dict[str, Any]]
        Rows with ``measure`` ``"rate"``: ``codec``, ``label``, ``n_q``, ``token_rate``,
        ``bitrate`` (bit/s, lengths included), ``clips``, the fields of ``Score.summary``.
    """
    rows: list[dict[str, Any]] = []

    def judged(made: Sequence[JudgedClip], **row: Any) -> None:
        row |= {"measure": "rate", "clips": len(made)}
        for by_measure in scores_of(judges, made).values():
            for measure, score in by_measure.items():
                row |= score.summary(measure)
        rows.append(row)

    for name, codec in codecs.items():
        for point in points_of(name, codec):
            about = {"codec": name, "label": point.label, "n_q": point.n_q}
            about |= {"token_rate": point.token_rate, "bitrate": point.bitrate}
            judged(through(codec, point, clips), **about)
        keep(rows)
        log(f"{name}: judged at {len(points_of(name, codec))} rates")
    for asked in opus_rates:
        made, bitrate = through_opus(clips, asked)
        judged(made, codec="Opus", label=f"Opus, {bitrate / 1000:.1f} kbit/s", bitrate=bitrate)
    return rows


def codec_rows(
    codecs: Mapping[str, Codec],
    speech: Corpus,
    aligned: Mapping[int, tuple[Corpus, Corpus]],
    repetitions: int = 5,
    seed: int = 0,
) -> list[dict[str, Any]]:
    r"""Measure what belongs to a codec as a whole.

    Parameters
    ----------
    codecs
        By name, in eval mode.
    speech
        Held-out speech, on which usage is counted.
    aligned
        By sample rate, train and test part of speech with phoneme times.
    repetitions
        Timed turns.
    seed
        Of the probe.

    Returns
    -------
    list[dict[str, Any]]
        Rows with ``measure`` ``"codec"``: ``codec``; ``parameters``; ``phonemes``, the share of
        frames whose phoneme a probe names from the first code; ``usage`` and ``perplexity``, of all
        codebooks together, as shares of their entries; ``encode_times`` and ``decode_times``, how
        many times faster than real time on the threads at hand; where the codec is shipped,
        ``megabytes``, how far the peak of memory rises for 10 s.
    """
    timed: dict[str, Callable[[], object]] = {}
    for name, codec in codecs.items():
        wav = 0.1 * torch.randn(1, 1, round(TIMED_SECONDS * codec.sample_rate))
        codes = codec.encode(wav)
        timed[f"{name} encode"] = lambda codec=codec, wav=wav: codec.encode(wav)
        timed[f"{name} decode"] = lambda codec=codec, codes=codes: codec.decode(codes)
    seconds = {k: statistics.median(v) for k, v in in_turns(timed, repetitions).items()}
    shipped = [name for name in codecs if name in hub.known_names()]
    megabytes = codec_megabytes(shipped, TIMED_SECONDS) if shipped else {}
    rows = []
    for name, codec in codecs.items():
        (found,) = probe_codebooks(codec, *aligned[codec.sample_rate], [0], seed=seed)
        row = {"measure": "codec", "codec": name, "parameters": count_parameters(codec)}
        row |= {"phonemes": found["accuracy"], **_usage(codec, speech)}
        for way in ("encode", "decode"):
            row[f"{way}_times"] = TIMED_SECONDS / seconds[f"{name} {way}"]
        rows.append(row | ({"megabytes": megabytes[name]} if name in megabytes else {}))
    return rows


def _usage(codec: Codec, speech: Corpus) -> dict[str, float]:
    """Return the shares of entries in use, and in use as if evenly, over all codebooks."""
    rates = (speech.sample_rate, codec.sample_rate)
    read = (speech.load_or_none(index) for index in range(len(speech)))
    wavs = (audio.resample(wav, *rates) for wav in read if wav is not None)
    found, entries = codebook_use(codec, wavs), sum(codec.codebook_sizes)
    dead, even = int(found["dead_codes"].sum()), float(found["perplexity"].sum())
    return {"usage": 1 - dead / entries, "perplexity": even / entries}


def board_text(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""Lay rows of ``board_rows`` and ``codec_rows`` out as two tables.

    Examples
    --------
    >>> row = {"measure": "rate", "label": "a", "bitrate": 500.0, "stoi": 0.75}
    >>> print(board_text([row]))
    by bitrate    kbit/s   stoi
    a                0.5  0.750
    """
    lines = []
    for measure, title in (("rate", "by bitrate"), ("codec", "by codec")):
        chosen = [row for row in rows if row["measure"] == measure]
        if not chosen:
            continue
        names = [key for key, value in chosen[0].items() if key in SHOWN and value is not None]
        cells = [[title, *(["kbit/s"] if measure == "rate" else []), *names]]
        for row in sorted(chosen, key=lambda row: row.get("bitrate", 0)):
            rate = [f"{row['bitrate'] / 1000:.3g}"] if measure == "rate" else []
            found = (SHOWN[name](row[name]) if name in row else "" for name in names)
            cells.append([row["label" if rate else "codec"], *rate, *found])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for line in cells:
            first, *rest = zip(line, widths, strict=True)
            lines.append(f"{first[0]:<{first[1]}}" + "".join(f"  {c:>{w}}" for c, w in rest))
    return "\n".join(lines)
