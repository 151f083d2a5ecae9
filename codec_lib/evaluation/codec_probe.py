r"""What each codebook of a codec knows: the phoneme, the speaker, the text.

SpeechTokenizer claims that distillation puts what is said into the first codebook and leaves the
voice to the others [Zhang et al. 2024, SpeechTokenizer], §4. Here both are measured codebook by
codebook, on the codes alone. Notebooks 10 to 12. Leaves out: vectors behind the codes.
Read next: ``comparison.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from codec_lib import audio
from codec_lib.codecs.base import Codec
from codec_lib.data import Corpus, check_speakers
from codec_lib.quantizers import ProductQuantizer, code_counts
from codec_lib.quantizers.health import CountWindow, health_from_counts
from codec_lib.rate.segments import at_frame_rate

from .ctc_probe import ctc_probe
from .probes import SILENCE, code_statistics, linear_probe, phoneme_frames
from .units import nearest_mean_probe, speaker_parts


def codes_of(codec: Codec, n_q: int | None = None) -> Callable[[Tensor], Tensor]:
    r"""Return a function from a waveform (1, 1, T) to all its codes (1, F, K), one for each frame.

    Parameters
    ----------
    codec
        Any.
    n_q
        Codebooks K; all by default.
    """

    def extract(wav: Tensor) -> Tensor:
        return at_frame_rate(codec.encode(wav.to(codec.device), n_q)).codes.transpose(1, 2).cpu()

    return extract


def probe_codebooks(
    codec: Codec,
    train: Corpus,
    test: Corpus,
    codebooks: Sequence[int] | None = None,
    max_train_frames: int = 60_000,
    max_test_frames: int = 30_000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    r"""Measure how well the codes of each codebook tell the phoneme, to speakers never heard.

    Parameters
    ----------
    codec
        At the corpora's sample rate.
    train, test
        Aligned corpora without common speakers.
    codebooks
        Counted from 0; all by default.
    max_train_frames, max_test_frames, seed
        As in ``phoneme_probe``.

    Returns
    -------
    list[dict[str, Any]]
        A row per codebook: ``codebook``, the fields of ``ProbeResult`` (best guess from one code)
        and of ``CodeStatistics`` on the test part. With more codes than training frames (the 65,536
        joint ones of a product quantizer) many tested codes were never seen and take the most
        frequent phoneme: the accuracy is a lower bound.

    Raises
    ------
    ValueError
        If a codebook does not exist or a speaker is in both corpora.
    """
    wanted = _wanted(codec, codebooks)
    check_speakers(train, [test])
    symbols = sorted({*train.phoneme_set, *test.phoneme_set, SILENCE})
    extract, rate = codes_of(codec, max(wanted) + 1), codec.frame_rate
    known, truth = phoneme_frames(extract, train, symbols, max_train_frames, False, seed, rate)
    tested, expected = phoneme_frames(extract, test, symbols, max_test_frames, False, seed, rate)
    rows = []
    for codebook in wanted:
        found = linear_probe(known[:, codebook], truth, tested[:, codebook], expected)
        statistics = code_statistics(tested[:, codebook], expected)
        rows.append({"codebook": codebook, **found.to_dict(), **asdict(statistics)})
    return rows


def codebook_use(codec: Codec, wavs: Iterable[Tensor]) -> dict[str, Tensor]:
    r"""Count the codes of speech, and return ``quantizers.health_from_counts`` of each codebook.

    Parameters
    ----------
    codec
        In eval mode.
    wavs
        Shape (1, T) each, at its sample rate; of a dynamic rate every token counts once.
    """
    used = CountWindow(1 << 62)  # looks back on all
    for wav in wavs:
        used.add_codes(codec.encode(wav[None].to(codec.device)).codes, codec.codebook_sizes)
    return health_from_counts(used.counts(), codec.codebook_sizes)


@torch.no_grad()
def probe_speakers(
    codec: Codec, corpus: Corpus, codebooks: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    r"""Measure how well the codes of each codebook tell the speaker.

    Every second utterance of each speaker is learnt from, the others are tested; an utterance is
    described by how often it uses each code, and the speaker with the nearest mean is named
    (``units.nearest_mean_probe``). Of a joint code of a product quantizer its digits are counted:
    no utterance is long enough to say how often it uses 65,536 codes.

    Parameters
    ----------
    codec
        At the corpus's sample rate.
    corpus
        Several utterances of every speaker; bad files and speakers of fewer than two are left out.
    codebooks
        Counted from 0; all by default.

    Returns
    -------
    list[dict[str, Any]]
        A row per codebook: ``codebook`` and the fields of ``ProbeResult``; ``num_classes`` is the
        number of speakers.

    Raises
    ------
    ValueError
        If a codebook does not exist, or there are fewer than two speakers of two or more good
        utterances.
    """
    wanted, shares = _wanted(codec, codebooks), {}
    extract = codes_of(codec, max(wanted) + 1)
    for index in range(len(corpus)):
        try:
            codes = extract(corpus.load(index)[None]).transpose(1, 2)  # (1, K, F)
        except audio.AudioError:
            continue  # the corpus has reported it
        shares[index] = _shares(codec, codes)
    parts = speaker_parts({index: corpus[index].speaker_id for index in shares}, corpus.name)
    names = sorted({corpus[index].speaker_id for index in parts[0]})
    truth, expected = (
        torch.tensor([names.index(corpus[index].speaker_id) for index in part]) for part in parts
    )
    rows = []
    for codebook in wanted:
        known, tested = (torch.stack([shares[i][codebook] for i in part]).sqrt() for part in parts)
        found = nearest_mean_probe(known, truth, tested, expected)
        rows.append({"codebook": codebook, **found.to_dict()})
    return rows


def read_codebooks(
    codec: Codec,
    train: Corpus,
    tests: Sequence[Corpus],
    symbols: Sequence[str] = ("phonemes",),
    n_q: Sequence[int] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    r"""Measure how well a recogniser trained on the codes writes down what is said.

    Parameters
    ----------
    codec
        At the corpora's sample rate.
    train, tests
        As in ``ctc_probe``.
    symbols
        Kinds, each with a probe of its own, e.g. ``("phonemes", "characters")``.
    n_q
        Numbers of codebooks; the first alone, and all, by default.
    **options
        Further arguments of ``ctc_probe``, e.g. ``seed`` and ``steps``.

    Returns
    -------
    list[dict[str, Any]]
        Rows of ``ctc_probe`` with ``n_q``.

    Raises
    ------
    ValueError
        As ``ctc_probe``, or if there are not as many codebooks.
    """
    rows = []
    for count in sorted({1, codec.num_quantizers}) if n_q is None else n_q:
        codec_codes, sizes = codes_of(codec, count), codec.codebook_sizes[:count]
        found = ctc_probe(codec_codes, train, tests, symbols, sizes, **options)
        rows += [{"n_q": count, **row} for row in found]
    return rows


def _shares(codec: Codec, codes: Tensor) -> list[Tensor]:
    """Return for each codebook the share of each of its codes, or digits, in codes (1, K, F)."""
    quantizer = getattr(codec, "quantizer", None)
    if isinstance(quantizer, ProductQuantizer) and quantizer.joint:
        streams, sizes = [quantizer.split(codes)], [quantizer.part_size]
    else:
        streams, sizes = codes.split(1, dim=1), codec.codebook_sizes
    counts = (code_counts(*pair) for pair in zip(streams, sizes, strict=False))
    return [count.flatten() / codes.shape[2] for count in counts]


def _wanted(codec: Codec, codebooks: Sequence[int] | None) -> list[int]:
    """Return the codebooks asked for."""
    wanted = list(range(codec.num_quantizers)) if codebooks is None else list(codebooks)
    if not wanted or min(wanted) < 0 or max(wanted) >= codec.num_quantizers:
        raise ValueError(
            f"codebooks: got {wanted}, expected some of 0 to {codec.num_quantizers - 1}"
        )
    return wanted
