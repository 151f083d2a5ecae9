r"""One-shot voice conversion: what is said by one, the voice of another, by swapping codebooks.

If the first codebook holds what is said and the others whose voice it is, then the first row of
codes of a source, under the other rows of a reference, says the source's words in the reference's
voice [Zhang et al. 2024, SpeechTokenizer], §4. The reference is repeated or cut to the source's
length. More rows of the reference bring more of its voice, and more of its own sounds where the
separation is not perfect, so words are lost: ``conversion_curve`` draws one against the other.

No notebook yet. Leaves out: conversion by a language model over the codes.
Read next: ``disentanglement.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from codec_lib.codecs.base import Codec
from codec_lib.data import Corpus
from codec_lib.rate.segments import at_frame_rate
from codec_lib.shapes import Codes

from .judges import Judge, JudgedClip, scores_of


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
        Rows with ``kind``: ``"source"`` and ``"reference"`` (recordings as they are, judged for the
        same text and voice: how much is to be gained, and the best there can be), then
        ``"converted"`` with ``n_q`` and ``reference_layers``; each with the fields of
        ``Score.summary`` of every measure, and ``source_similarity``, likeness to the source's
        voice, where there is a ``speaker`` judge.
    """
    counts = range(1, codec.num_quantizers + 1) if n_q is None else n_q
    wavs = {index: corpus.load(index) for pair in pairs for index in pair}
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
        rows.append(row)
    return rows
