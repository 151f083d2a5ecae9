r"""One-shot voice conversion: what is said by one, the voice of another, by swapping codebooks.

If the first codebook holds what is said and the others whose voice it is, then the first row of
codes of a source, under the other rows of a reference, says the source's words in the reference's
voice [Zhang et al. 2024, SpeechTokenizer], §4. The reference is repeated or cut to the source's
length. More rows of the reference bring more of its voice, and more of its own sounds where the
separation is not perfect, so words are lost: ``conversion_curve`` draws one against the other, and
``PairJudge`` gives figures for each pair, for whatever was done to the codes.

Notebook 31. Leaves out: conversion by a language model over the codes.
Read next: ``disentanglement.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from codec_lib.codecs.base import Codec
from codec_lib.data import Corpus
from codec_lib.rate.segments import at_frame_rate
from codec_lib.shapes import Codes

from .judges import Judge, JudgedClip, scores_of
from .probes import SILENCE, FeatureFunction, phoneme_frames
from .softmax_probe import fit_linear_probe


def swap_layers(source: Codes, reference: Codes, n_q: int, content: int = 1) -> Codes:
    r"""Return the source's first rows of codes over the reference's next ones.

    Parameters
    ----------
    source, reference
        Codes (1, K, F) of one recording each; their lengths may differ.
    n_q
        Rows in the result, at least ``content``; with ``content`` alone there is no reference.
    content
        Rows of the source.

    Returns
    -------
    Codes
        Shape (1, n_q, F), as long as the source; the reference is repeated from its start.

    Raises
    ------
    ValueError
        If there are not as many rows, or the batch is not one recording.

    Examples
    --------
    >>> said = Codes(torch.tensor([[[1, 2, 3], [0, 0, 0]]]), 960)
    >>> voice = Codes(torch.tensor([[[9, 9], [7, 8]]]), 640)
    >>> swap_layers(said, voice, 2).codes.tolist()
    [[[1, 2, 3], [7, 8, 7]]]
    """
    source, reference = at_frame_rate(source), at_frame_rate(reference)
    rows = min(source.n_q, reference.n_q)
    if len(source.codes) != 1 or len(reference.codes) != 1:
        raise ValueError(
            f"conversion: got {len(source.codes)} and {len(reference.codes)} recordings, expected 1"
        )
    if not 1 <= content <= n_q <= rows:
        raise ValueError(
            f"conversion: got {content} rows of the source of {n_q} in all, expected 1 or more, "
            f"and at most the {rows} there are"
        )
    frames = source.codes.shape[-1]
    place = torch.arange(frames, device=reference.codes.device) % reference.codes.shape[-1]
    voice = reference.codes[:, content:n_q, place].to(source.codes.device)
    return Codes(torch.cat([source.codes[:, :content], voice], 1), source.num_samples)


@torch.no_grad()
def convert(
    codec: Codec, source: Tensor, reference: Tensor, n_q: int | None = None, content: int = 1
) -> Tensor:
    r"""Say what the source says in the reference's voice.

    Parameters
    ----------
    codec
        Of two codebooks or more, in eval mode.
    source, reference
        Shape (1, T), at the codec's sample rate; their lengths may differ.
    n_q, content
        As in ``swap_layers``; all codebooks by default.

    Returns
    -------
    Tensor
        Shape (1, T), as long as the source.

    Raises
    ------
    ValueError
        As ``swap_layers`` and ``codec.encode``.
    """
    count = codec.num_quantizers if n_q is None else n_q
    heard = [codec.encode(wav[None].to(codec.device), n_q=count) for wav in (source, reference)]
    return codec.decode(swap_layers(*heard, count, content))[0].cpu()


def conversion_pairs(corpus: Corpus, count: int, seed: int = 0) -> list[tuple[int, int]]:
    r"""Draw utterances of different speakers, each source at most once.

    Parameters
    ----------
    corpus
        Of two speakers or more.
    count
        Pairs wanted; fewer where there are fewer utterances.
    seed
        Of the draw.

    Returns
    -------
    list[tuple[int, int]]
        Source and reference, numbers of utterances.

    Raises
    ------
    ValueError
        If there are fewer than two speakers.
    """
    speakers = [one.speaker_id for one in corpus]
    if len(set(speakers) - {""}) < 2:
        raise ValueError(f"{corpus.name}: got {len(set(speakers) - {''})} speakers, expected two")
    draw = torch.Generator().manual_seed(seed)
    known = [index for index, name in enumerate(speakers) if name]
    order = [known[i] for i in torch.randperm(len(known), generator=draw).tolist()]
    pairs = []
    for source in order[:count]:
        others = [index for index in known if speakers[index] != speakers[source]]
        pairs.append((source, others[int(torch.randint(len(others), (1,), generator=draw))]))
    return pairs


def strangers(corpus: Corpus, pairs: Sequence[tuple[int, int]]) -> list[int]:
    r"""Return for each pair an utterance of a third speaker, whom a conversion should not resemble.

    Parameters
    ----------
    corpus
        Of three speakers or more.
    pairs
        See ``conversion_pairs``; a third speaker is another pair's reference, where there is one.

    Raises
    ------
    ValueError
        If there is no third speaker.
    """
    voices, found = [one.speaker_id for one in corpus], []
    for number, (source, reference) in enumerate(pairs):
        later = [other for _, other in (*pairs[number + 1 :], *pairs[:number])]
        both = {voices[source], voices[reference], ""}
        third = [index for index in (*later, *range(len(corpus))) if voices[index] not in both]
        if not third:
            raise ValueError(f"{corpus.name}: got {len(set(voices))} speakers, expected three")
        found.append(third[0])
    return found


def phoneme_listener(
    extract: FeatureFunction, train: Corpus, max_frames: int = 12_000, seed: int = 0
) -> Callable[[Tensor], Tensor]:
    r"""Return a recogniser that names the phoneme of each frame, by a linear probe on features.

    Parameters
    ----------
    extract
        Function from a waveform (1, 1, T) to features (1, F, D) at 50 Hz, e.g.
        ``teacher.features``.
    train
        Aligned utterances to fit it on, silence included.
    max_frames, seed
        Frames at most; seed of their choice and of the probe.

    Returns
    -------
    Callable[[Tensor], Tensor]
        From a waveform (1, T) to phonemes (F,), int64, in the order of ``listener_symbols(train)``:
        0 is silence.
    """
    symbols = listener_symbols(train)
    frames = phoneme_frames(extract, train, symbols, max_frames, silence=True, seed=seed)
    name = fit_linear_probe(*frames, len(symbols), seed=seed)

    @torch.no_grad()
    def listen(wav: Tensor) -> Tensor:
        return name(extract(wav[None])[0].cpu())

    return listen


def listener_symbols(train: Corpus) -> list[str]:
    r"""Return what the numbers of ``phoneme_listener`` stand for."""
    return [SILENCE, *(symbol for symbol in train.phoneme_set if symbol != SILENCE)]


class PairJudge:
    r"""Hears what became of each source, pair by pair: whose voice it is, which sounds are kept.

    Parameters
    ----------
    sources, references, strangers
        Waveforms (1, T) of each pair, at 16 kHz.
    embed
        From waveforms to embeddings of speakers (N, D) of length 1, as ``SpeakerJudge().embed``.
    listen
        From a waveform (1, T) to phonemes (F,), 0 for silence, as ``phoneme_listener`` returns.

    Raises
    ------
    ValueError
        If there are not as many of each.
    """

    def __init__(
        self,
        sources: Sequence[Tensor],
        references: Sequence[Tensor],
        strangers: Sequence[Tensor],
        embed: Callable[[Sequence[Tensor]], Tensor],
        listen: Callable[[Tensor], Tensor],
    ) -> None:
        if not len(sources) == len(references) == len(strangers):
            sizes = [len(side) for side in (sources, references, strangers)]
            raise ValueError(
                f"pairs: got {sizes} sources, references and strangers, expected as many"
            )
        self.sources, self.references = list(sources), list(references)
        sides = {"reference": references, "source": sources, "stranger": strangers}
        self.embed, self.listen = embed, listen
        self.voices = {name: embed(side) for name, side in sides.items()}
        self.sounds = [listen(wav) for wav in sources]

    @classmethod
    def of(
        cls,
        corpus: Corpus,
        pairs: Sequence[tuple[int, int]],
        embed: Callable[[Sequence[Tensor]], Tensor],
        listen: Callable[[Tensor], Tensor],
        num_samples: int | None = None,
    ) -> PairJudge:
        r"""Load pairs of a corpus, and a stranger for each; of each at most ``num_samples``."""
        sides = *zip(*pairs, strict=True), strangers(corpus, pairs)
        loaded = [[corpus.load(index, 0, num_samples) for index in side] for side in sides]
        return cls(*loaded, embed, listen)

    @torch.no_grad()
    def encoded(self, codec: Codec) -> list[tuple[Codes, Codes]]:
        r"""Return the codes of each source and its reference."""
        sides = zip(self.sources, self.references, strict=True)
        return [tuple(codec.encode(wav[None].to(codec.device)) for wav in two) for two in sides]

    @torch.no_grad()
    def decoded(self, codec: Codec, codes: Sequence[Codes]) -> dict[str, Tensor]:
        r"""Decode codes, one for each pair, and judge what comes out."""
        return self([codec.decode(one)[0].cpu() for one in codes])

    def __call__(self, clips: Sequence[Tensor]) -> dict[str, Tensor]:
        r"""Judge one clip (1, T) for each pair, as long as its source.

        Returns
        -------
        dict[str, Tensor]
            By name, shape (pairs,), float64: cosines to ``reference``, ``source`` and ``stranger``;
            ``sounds``, the share of the source's spoken frames in which the same phoneme is heard.

        Raises
        ------
        ValueError
            If there is not one clip for each pair.
        """
        if len(clips) != len(self.sounds):
            raise ValueError(
                f"clips: got {len(clips)}, expected {len(self.sounds)}, one for each pair"
            )
        found = self.embed(clips)
        scores = {name: (found * side).sum(1).double() for name, side in self.voices.items()}
        kept = []
        for clip, before in zip(clips, self.sounds, strict=True):
            same = (self.listen(clip) == before)[before > 0]
            kept.append(same.double().mean())
        return scores | {"sounds": torch.stack(kept)}


def conversion_curve(
    codec: Codec,
    corpus: Corpus,
    pairs: Sequence[tuple[int, int]],
    judges: Mapping[str, Judge],
    n_q: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    r"""Judge conversions with more and more rows of the reference.

    Parameters
    ----------
    codec, corpus
        At one sample rate.
    pairs
        See ``conversion_pairs``.
    judges
        ``words`` hears the source's text, ``speaker`` compares with the reference; one that lacks
        what it needs is left out.
    n_q
        Rows in all; 1 (no reference), 2 and so on to all by default.

    Returns
    -------
    list[dict[str, Any]]
        Rows with ``pairs``, less those of which a recording is bad, and ``kind``: ``"source"`` and
        ``"reference"`` (recordings as they are, judged for the same text and voice: how much is to
        be gained, and the best there can be), then ``"converted"`` with ``n_q`` and
        ``reference_layers``; each with the fields of ``Score.summary`` of every measure, and
        ``source_similarity``, likeness to the source's voice, where there is a ``speaker`` judge.
    """
    counts = range(1, codec.num_quantizers + 1) if n_q is None else n_q
    read = {index: corpus.load_or_none(index) for pair in pairs for index in pair}
    wavs = {index: wav for index, wav in read.items() if wav is not None}
    pairs = [pair for pair in pairs if set(pair) <= set(wavs)]
    rate, texts = corpus.sample_rate, [corpus[source].text for source, _ in pairs]
    voices = [wavs[reference] for _, reference in pairs]
    own = [wavs[source] for source, _ in pairs]
    made: list[tuple[dict[str, Any], list[Tensor]]] = [({"kind": "source"}, own)]
    made.append(({"kind": "reference"}, voices))
    for count in counts:
        row = {"kind": "converted", "n_q": count, "reference_layers": count - 1}
        made.append((row, [convert(codec, wavs[s], wavs[r], count) for s, r in pairs]))
    rows = []
    for row, wavs_made in made:
        said = [""] * len(pairs) if row["kind"] == "reference" else texts
        clips = [
            JudgedClip(wav, rate, text=text, voice=voice)
            for wav, text, voice in zip(wavs_made, said, voices, strict=True)
        ]
        for by_measure in scores_of(judges, clips).values():
            for measure, score in by_measure.items():
                row |= score.summary(measure)
        if "speaker" in judges:
            beside = zip(wavs_made, own, strict=True)
            likeness = [JudgedClip(wav, rate, voice=voice) for wav, voice in beside]
            found = judges["speaker"](likeness)["speaker_similarity"]
            row |= found.summary("source_similarity")
        rows.append({"pairs": len(pairs), **row})
    return rows
