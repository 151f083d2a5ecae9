r"""Where a segmentation cuts, and on which sounds it saves: measures against known phonemes.

[CodecSlime] remarks that long segments sit in silences and sustained vowels, and that many cross
phoneme boundaries; these are the numbers. Notebook: 32_dynamic_frame_rate_segmentations. Leaves
out: word and syllable boundaries. Read next: ``probes.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codec_lib.data.phonemes import MANNERS
from codec_lib.data.utterances import Utterance


def boundary_frames(utterance: Utterance, hop_length: int, sample_rate: int, frames: int) -> Tensor:
    r"""Return the frames nearest to the phoneme boundaries inside an utterance, int64.

    Parameters
    ----------
    utterance
        Aligned.
    hop_length, sample_rate
        Samples a frame and Hz of the codec.
    frames
        Frames F; boundaries nearest to 0 or F are left out, every segmentation has those.
    """
    scale = sample_rate / utterance.sample_rate / hop_length
    starts = [round(phoneme.start * scale) for phoneme in utterance.phonemes[1:]]
    return torch.tensor([start for start in starts if 0 < start < frames], dtype=torch.int64)


def boundary_hits(lengths: Tensor, boundaries: Tensor, tolerance: int = 0) -> tuple[int, int]:
    r"""Count the boundaries at which a segment starts.

    Parameters
    ----------
    lengths
        Frames of each segment of one utterance, shape (K,).
    boundaries
        Of ``boundary_frames``.
    tolerance
        Frames that a cut may be off. At half the frame rate a tolerance of 1 is met by any
        segmentation into pairs, so it tells nothing there.

    Returns
    -------
    tuple[int, int]
        Boundaries hit, and boundaries.

    Examples
    --------
    >>> boundary_hits(torch.tensor([2, 2, 2]), torch.tensor([2, 3]))
    (1, 2)
    """
    cuts = lengths[lengths > 0].cumsum(0)[:-1]
    if not len(cuts) or not len(boundaries):
        return 0, len(boundaries)
    nearest = (boundaries[:, None] - cuts.cpu()).abs().amin(dim=1)
    return int((nearest <= tolerance).sum()), len(boundaries)


def frames_and_tokens(lengths: Tensor, symbols: Sequence[str]) -> dict[str, tuple[int, float]]:
    r"""Count frames and the tokens spent on them, by manner of articulation.

    A segment of s frames is one token, 1/s of it for each frame, so frames over tokens is the mean
    length where a manner is heard.

    Parameters
    ----------
    lengths
        Frames of each segment of one utterance, shape (K,).
    symbols
        Phoneme of each frame, ``utterance.frame_symbols``.

    Returns
    -------
    dict[str, tuple[int, float]]
        Manner (see ``data.phonemes.MANNERS``) to frames and tokens; only those that occur.

    Examples
    --------
    >>> frames_and_tokens(torch.tensor([1, 2]), ["T", "AA", "AA"])
    {'vowel': (2, 1.0), 'stop': (1, 1.0)}
    """
    used = lengths[lengths > 0].cpu()
    share = (1 / used.double()).repeat_interleave(used).tolist()
    found = {}
    for manner, members in MANNERS.items():
        mine = [part for part, symbol in zip(share, symbols, strict=True) if symbol in members]
        if mine:
            found[manner] = (len(mine), sum(mine))
    return found
