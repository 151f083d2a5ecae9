r"""What the language model learns from: texts as symbols, speech as codes, joined by speaker.

A codec encodes every utterance once; codes are kept on disk by the samples and the codec's weights.
Utterances of one speaker are joined at random, two or more to an example, so that the model meets
what it is asked for later: a voice that has just spoken, and goes on with another sentence. What
comes when depends on seed and step alone. Notebook: 40. Leaves out: crops of utterances.
Read next: ``run.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from codec_lib import audio
from codec_lib.codecs.base import Codec
from codec_lib.codecs.continuous import ContinuousTokenizer, DiscreteTwin
from codec_lib.data import Corpus, Utterance
from codec_lib.data.espeak import EspeakMissing
from codec_lib.data.phonemes import CONSONANTS, SILENCE, VOWELS
from codec_lib.data.segments import length_batches
from codec_lib.evaluation.codec_probe import codes_of
from codec_lib.evaluation.heard import key_of, remembered

from .continuous import TokenBatch
from .symbols import GAP, numbers_of, spoken_symbols
from .unified import Batch

Group = tuple[int, ...]  # utterances that are joined


@dataclass(frozen=True)
class Spoken:
    r"""An utterance as symbols and codes, or tokens.

    Attributes
    ----------
    utterance_id, speaker
        Which one, and whose.
    symbols
        See ``symbols.spoken_symbols``.
    codes
        Codes (K, F) int64, or continuous tokens (D, F) float32.
    places
        Number of the symbol that is spoken in each frame, (F,) int64; -1 in pauses and where it is
        not known.
    """

    utterance_id: str
    speaker: str
    symbols: tuple[str, ...]
    codes: Tensor
    places: Tensor


def spoken_of(
    corpus: Corpus, codec: Codec | DiscreteTwin, num_quantizers: int | None = None
) -> list[Spoken]:
    r"""Encode a corpus.

    Parameters
    ----------
    corpus
        At the codec's sample rate.
    codec
        In eval mode.
    num_quantizers
        K, the first ones; all by default.

    Returns
    -------
    list[Spoken]
        Utterances without words, and files that cannot be read, are left out.

    Raises
    ------
    ValueError
        If none is left, or espeak-ng is missing.
    """
    twin = isinstance(codec, DiscreteTwin)
    hear = remembered(codes_of(codec), key_of(codec.tokenizer if twin else codec, twin))
    return _heard(corpus, codec.hop_length, lambda wav: hear(wav)[0].T[:num_quantizers])


def token_spoken_of(corpus: Corpus, tokenizer: ContinuousTokenizer) -> list[Spoken]:
    r"""Encode a corpus by a continuous tokenizer: as ``spoken_of``, tokens (D, F) for codes.

    Parameters
    ----------
    corpus, tokenizer
        At one sample rate; in eval mode.
    """

    def tokens(wav: Tensor) -> Tensor:  # (1, F, D)
        return tokenizer.encode(wav.to(tokenizer.device)).transpose(1, 2)

    hear = remembered(tokens, key_of(tokenizer))
    return _heard(corpus, tokenizer.token_hop, lambda wav: hear(wav)[0].T)


def entry_vectors(codec: Codec | DiscreteTwin, num_quantizers: int) -> Tensor:
    r"""Return what codes stand for, (K, N, D), of the first K codebooks, which have one size."""
    quantizer = codec.tokenizer.quantizer if isinstance(codec, DiscreteTwin) else codec.quantizer
    entries = torch.arange(codec.codebook_sizes[0], device=codec.device)
    vectors = [quantizer.contribution(entries, k) for k in range(num_quantizers)]
    return torch.stack(vectors).detach()


def places_of(utterance: Utterance, symbols: Sequence[str], frames: int, hop: float) -> Tensor:
    r"""Return which symbol is spoken in each frame, (F,), or -1.

    Where an accent has more or fewer phonemes than the symbols, they are spread evenly.

    Parameters
    ----------
    utterance
        With phonemes; without any, nothing is known.
    symbols
        See ``symbols.spoken_symbols``.
    frames
        F.
    hop
        Samples of a frame, of the utterance's own rate.
    """
    places = torch.full((frames,), -1)
    own = [phone for phone in utterance.phonemes if phone.symbol != SILENCE]
    written = [number for number, symbol in enumerate(symbols) if symbol in VOWELS | CONSONANTS]
    for order, phone in enumerate(own):
        number = written[round(order * (len(written) - 1) / max(1, len(own) - 1))]
        places[round(phone.start / hop) : round(phone.end / hop)] = number
    return places


def _heard(corpus: Corpus, hop: int, hear: Callable[[Tensor], Tensor]) -> list[Spoken]:
    """Encode every utterance that has words, from waveforms (1, 1, T)."""
    found = []
    for index, utterance in enumerate(corpus):
        try:
            symbols = spoken_symbols(utterance.text)
            wav = corpus.load(index)
        except EspeakMissing:
            raise
        except (ValueError, audio.AudioError):  # no words; a bad file, which the corpus reports
            continue
        name, speaker = utterance.utterance_id, utterance.speaker_id
        codes, scale = hear(wav[None]), (utterance.sample_rate or corpus.sample_rate)
        where = places_of(utterance, symbols, codes.shape[1], hop * scale / corpus.sample_rate)
        found.append(Spoken(name, speaker, tuple(symbols), codes, where))
    if not found:
        raise ValueError(
            f"{corpus.name}: got no utterance with text, expected some. Hint: use the synthetic "
            "corpus, or one with transcripts"
        )
    return found


def joined(
    spoken: Sequence[Spoken], group: Group, pace: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Join utterances.

    Parameters
    ----------
    spoken, group
        All utterances, and the numbers of those to join, in order.
    pace
        Of the model, see ``UnifiedConfig``.

    Returns
    -------
    tuple[Tensor, Tensor, Tensor, Tensor]
        Numbers of the symbols (S,), with one begin and one end; codes (K, F) or tokens (D, F);
        positions of the frames (F,); which of the symbols is spoken in each frame, (F,), or -1.
    """
    symbols: list[str] = []
    positions, places, frames = [], [], 0
    for number in group:
        symbols += [GAP] if symbols else []
        own = spoken[number].places
        count = pace * torch.arange(len(own))
        positions.append(count + position_behind(len(symbols), frames, pace))
        places.append(torch.where(own < 0, own, own + 1 + len(symbols)))  # behind the begin
        symbols += spoken[number].symbols
        frames += len(own)
    codes = torch.cat([spoken[number].codes for number in group], dim=1)
    return numbers_of(symbols), codes, torch.cat(positions), torch.cat(places)


def position_behind(symbols: int, frames: int, pace: float) -> float:
    r"""Return the position at which a sentence begins: that of its text.

    With a pace of 1 positions count frames on, as released.

    Parameters
    ----------
    symbols, frames
        In front of it, with the gap.
    pace
        Of the model, see ``UnifiedConfig``.
    """
    return float(frames if pace == 1 else symbols)


def collate(items: Sequence[tuple[Tensor, ...]]) -> Batch:
    r"""Put texts (S,) and codes (K, F) together, perhaps with positions and places (F,)."""
    text, text_lengths, frames, *others = _padded(items)
    return Batch(text, text_lengths, frames.transpose(1, 2), *others)


def collate_tokens(items: Sequence[tuple[Tensor, ...]]) -> TokenBatch:
    r"""Put texts (S,) and tokens (D, F) together, perhaps with positions and places (F,)."""
    return TokenBatch(*_padded(items))


def _padded(items: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """Pad texts to (B, S), frames to (B, F, rows), others to (B, F); lengths (B,) behind two."""
    texts, frames, *others = zip(*items, strict=True)
    lengths = [torch.tensor([one.shape[-1] for one in part]) for part in (texts, frames)]
    rows = pad_sequence([one.T for one in frames], batch_first=True)
    where = [pad_sequence(list(part), True, -1) for part in others]
    return [pad_sequence(list(texts), batch_first=True), lengths[0], rows, lengths[1], *where]


class JoinedBatches:
    r"""Batches of joined utterances, in an order that depends on seed and step alone.

    Parameters
    ----------
    spoken
        Utterances.
    batch_size
        Examples in a step, of all processes.
    most_frames
        Of an example; a longer utterance is left out.
    most_joined
        Utterances in an example at most; how many is drawn.
    seed
        Of all that is drawn.

    Raises
    ------
    ValueError
        If no utterance is short enough, or there are fewer than ``batch_size``.
    """

    def __init__(
        self,
        spoken: Sequence[Spoken],
        batch_size: int,
        most_frames: int,
        most_joined: int = 2,
        seed: int = 0,
    ) -> None:
        self.spoken, self.batch_size, self.seed = spoken, batch_size, seed
        self.most_frames, self.most_joined = most_frames, most_joined
        self.frames = np.array([one.codes.shape[1] for one in spoken])
        speakers: dict[str, list[int]] = {}
        for number in np.flatnonzero(self.frames <= most_frames).tolist():
            speakers.setdefault(spoken[number].speaker or str(number), []).append(number)
        self.speakers = list(speakers.values())
        if not self.speakers:
            raise ValueError(
                f"most_frames: got {most_frames}, expected at least {self.frames.min()}, the "
                "shortest utterance"
            )
        usable = sum(len(own) for own in self.speakers)
        if usable < batch_size:
            raise ValueError(
                f"batch_size: got {batch_size}, expected at most {usable}, the utterances of up to "
                f"{most_frames} frames"
            )

    def epoch(self, number: int) -> list[list[Group]]:
        r"""Return the batches of an epoch: every utterance is in one group of it.

        Where groups would not fill a batch, some are split.
        """
        rng, groups = np.random.default_rng((self.seed, number)), []
        for own in self.speakers:
            left = rng.permutation(own).tolist()
            while left:
                wanted = int(rng.integers(1, self.most_joined + 1))
                group = [left.pop()]
                while left and len(group) < wanted:
                    if self.frames[[*group, left[-1]]].sum() > self.most_frames:
                        break
                    group.append(left.pop())
                groups.append(tuple(group))
        while len(groups) < self.batch_size:
            largest = groups.pop(int(np.argmax([len(group) for group in groups])))
            groups += [largest[:1], largest[1:]]
        lengths = [int(self.frames[list(group)].sum()) for group in groups]
        order = length_batches(lengths, self.batch_size, self.seed, number)
        return [[groups[n] for n in batch] for batch in order.tolist()]

    def from_step(self, step: int, rank: int = 0, world: int = 1) -> Iterator[list[Group]]:
        r"""Yield this process's groups of every step from one on, without end.

        Parameters
        ----------
        step
            Steps that were taken.
        rank, world
            This process and the number of processes, which divides the batch size.
        """
        share, epoch = self.batch_size // world, 0
        while True:
            batches = self.epoch(epoch)
            for batch in batches[step:]:
                yield batch[rank * share : (rank + 1) * share]
            step, epoch = max(0, step - len(batches)), epoch + 1
