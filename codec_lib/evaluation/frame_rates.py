r"""A codec at several frame rates, and by several ways to choose its segments.

What [CodecSlime] plots as quality over rate: one model, cut to 40, 50, 67 and 80 tokens a second,
against other segmentations at the same rates. Bits of the lengths are counted in full, and by their
entropy. Notebook: 32_dynamic_frame_rate_segmentations. Read next: ``segmentation.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec_lib.codecs.base import Codec
from codec_lib.codecs.checks import check_token_rate
from codec_lib.data.utterances import Corpus
from codec_lib.rate.quantized import length_bits
from codec_lib.rate.schedule import num_segments_at
from codec_lib.rate.schemes import SCHEMES, segment_by

from .reconstruction import METRICS, reconstruction_metrics, utterances
from .results import summarise


def rate_scores(
    codec: Codec,
    corpus: Corpus,
    token_rates: Sequence[float],
    schemes: Sequence[str] = ("scheduled",),
    max_utterances: int | None = None,
    max_seconds: float | None = 6.0,
    metrics: Sequence[str] = METRICS,
    seed: int = 0,
) -> dict[tuple[float, str], tuple[dict[str, np.ndarray], list[Tensor]]]:
    r"""Measure utterance by utterance how well a codec reconstructs, by rate and segmentation.

    Parameters
    ----------
    codec
        In eval mode; of a fixed rate, its own is the only one it has.
    corpus
        Speech that it was not trained on, at its sample rate.
    token_rates
        Tokens per second, Hz; the codec's frame rate stands for every frame, uncut.
    schemes
        Of ``rate.segment_by``.
    max_utterances, max_seconds, metrics
        As in ``evaluate_codec``.
    seed
        Of the random scheme.

    Returns
    -------
    dict[tuple[float, str], tuple[dict[str, numpy.ndarray], list[Tensor]]]
        By rate and scheme: each metric's values, one per utterance that could be read, and the
        lengths (K,) of each, none at the frame rate. All have the same utterances in the same
        order, so two segmentations can be compared utterance by utterance.

    Raises
    ------
    ValueError
        If the sample rates differ, or a rate, scheme or metric does not exist.
    """
    generator, cuts = torch.Generator().manual_seed(seed), list(_cuts(codec, token_rates, schemes))
    scores: list[dict[str, list[float]]] = [{metric: [] for metric in metrics} for _ in cuts]
    lengths: list[list[Tensor]] = [[] for _ in cuts]
    for wav in utterances(codec, corpus, max_utterances, max_seconds):
        z = codec.latents(wav[None].to(codec.device))
        for index, (rate, scheme) in enumerate(cuts):
            chosen = cut_latent(codec, z, rate, scheme, generator)
            codes = codec.to_codes(z, wav.shape[-1], token_rate=codec.frame_rate, lengths=chosen)
            row = (wav, codec.decode(codes)[0].cpu(), codec.sample_rate, metrics)
            for name, value in reconstruction_metrics(*row).items():
                scores[index][name].append(value)
            lengths[index] += [] if chosen is None else [chosen.flatten()]
    found = zip(cuts, scores, lengths, strict=True)
    return {cut: ({m: np.asarray(v) for m, v in row.items()}, used) for cut, row, used in found}


def summarise_rates(
    codec: Codec,
    scores: Mapping[tuple[float, str], tuple[Mapping[str, np.ndarray], Sequence[Tensor]]],
) -> list[dict[str, Any]]:
    r"""Turn scores into bitrates and means.

    Parameters
    ----------
    codec
        The one measured.
    scores
        Of ``rate_scores``.

    Returns
    -------
    list[dict[str, Any]]
        A row per rate and scheme (one at the frame rate, scheme ``"all frames"``): ``token_rate``
        (Hz), ``scheme``, bit/s as ``content_bitrate`` (without lengths), ``bitrate`` (with
        ceil(log2 U) bits each; none for uniform segments, which both sides know) and
        ``entropy_bitrate`` (with ``length_bits`` each, the entropy of the lengths),
        ``utterances``, and each metric as in ``evaluate_codec``.
    """
    rows = []
    for (rate, scheme), (by_metric, used) in scores.items():
        row = {"token_rate": rate, "scheme": scheme, **_bitrates(codec, rate, scheme, used)}
        row["utterances"] = len(next(iter(by_metric.values()), ()))
        rows.append(row | {k: v for n, x in by_metric.items() for k, v in summarise(x, n).items()})
    return rows


def cut_latent(
    codec: Codec,
    z: Tensor,
    token_rate: float,
    scheme: str,
    generator: torch.Generator | None = None,
) -> Tensor | None:
    r"""Return the lengths (B, K) that a scheme cuts a latent into; None at the frame rate.

    Parameters
    ----------
    codec
        Gives frame rate, longest segment and cost.
    z
        Its latent, shape (B, D, F).
    token_rate, scheme
        As in ``rate_scores``, one each.
    generator
        Of the random scheme.
    """
    if token_rate == codec.frame_rate:
        return None
    count = num_segments_at(z.shape[-1], codec.frame_rate, token_rate, codec.max_length)
    options = (count, codec.max_length, codec.config.segment_cost, generator)
    return segment_by(scheme, z.transpose(1, 2), *options)


def _cuts(
    codec: Codec, token_rates: Sequence[float], schemes: Sequence[str]
) -> Iterator[tuple[float, str]]:
    """Yield rates and schemes; at the frame rate there is nothing to choose."""
    unknown = sorted(set(schemes) - set(SCHEMES))
    if unknown:
        raise ValueError(f"schemes: got {unknown}, expected some of {list(SCHEMES)}")
    for rate in token_rates:
        check_token_rate(rate, codec.frame_rate, codec.max_length)
        if rate == codec.frame_rate:
            yield rate, "all frames"
        else:
            yield from ((rate, scheme) for scheme in schemes)


def _bitrates(
    codec: Codec, rate: float, scheme: str, lengths: Sequence[Tensor]
) -> dict[str, float]:
    """Return bit/s without lengths, with them, and with their entropy, and that in bit a token."""
    names = ("content_bitrate", "bitrate", "entropy_bitrate")
    content = codec.bitrate(token_rate=rate, length_bits=0)
    if scheme in ("uniform", "all frames"):
        return {**dict.fromkeys(names, content), "length_bits": 0.0}
    bits = length_bits(torch.cat(list(lengths)))
    rates = content, codec.bitrate(token_rate=rate), codec.bitrate(None, rate, bits)
    return {**dict(zip(names, rates, strict=True)), "length_bits": bits}
