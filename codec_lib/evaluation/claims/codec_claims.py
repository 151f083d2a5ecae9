r"""Claims about codecs: usage of codebooks, parts and stages, frame rates.

Each function returns for one seed ``gain``, positive where the claim holds, and the figures it is
the difference of. Leaves out: what tokens say (``token_claims.py``), units and language models
(``model_claims.py``). Read next: ``token_claims.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from ..codec_probe import codebook_use
from ..reconstruction import utterances
from .workshop import Workshop

Figures = dict[str, float]
Measure = Callable[[Workshop, int], Figures]


def against(one: float, other: float) -> Figures:
    """Return two figures and the first less the second."""
    return {"gain": one - other, "one": one, "other": other}


def usage(shop: Workshop, variant: str, seed: int, codebook: int = 0) -> dict[str, float]:
    r"""Return usage and perplexity of a codebook, as shares of its size, on held-out speech.

    Parameters
    ----------
    shop, variant, seed
        See ``Workshop.codec``.
    codebook
        Counted from 0.
    """

    def measured() -> dict[str, float]:
        codec = shop.codec(variant, seed)
        speech = shop.heard(codec.sample_rate)
        found = codebook_use(codec, utterances(codec, speech, shop.settings.utterances, None))
        even = float(found["perplexity"][codebook]) / codec.codebook_sizes[codebook]
        return {"usage": float(found["usage"][codebook]), "perplexity": even}

    return shop.once(("usage", variant, seed, codebook), measured)


def anchoring(rival: str) -> Measure:
    """Claim 1: more anchors are in use than entries made otherwise; perplexities stand beside."""

    def measure(shop: Workshop, seed: int) -> Figures:
        one, other = (usage(shop, name, seed) for name in ("anchors", rival))
        even = {"one_perplexity": 100 * one["perplexity"]}
        even |= {"other_perplexity": 100 * other["perplexity"]}
        return {**against(100 * one["usage"], 100 * other["usage"]), **even}

    return measure


def residual_in_use(shop: Workshop, seed: int) -> Figures:
    """Claim 2: of SACodec's second codebook, SimVQ, 95 % and more is in use."""
    return against(100 * usage(shop, "anchors", seed, 1)["usage"], 95.0)


def better(one: str, other: str, metric: str = "stoi", scale: float = 100) -> Measure:
    r"""Compare two variants by a metric of reconstruction.

    Parameters
    ----------
    one, other
        Variants.
    metric
        See ``reconstruction.METRICS``.
    scale
        Of the figures; negative where less is better.
    """

    def measure(shop: Workshop, seed: int) -> Figures:
        return against(*(scale * shop.score(name, seed, metric) for name in (one, other)))

    return measure


def close(one: str, other: str, margin: float) -> Measure:
    r"""Ask whether two variants differ by less than a margin.

    Parameters
    ----------
    one, other
        Variants.
    margin
        In points of STOI.
    """

    def measure(shop: Workshop, seed: int) -> Figures:
        first, second = (100 * shop.score(name, seed) for name in (one, other))
        return {"gain": margin - abs(first - second), "one": first, "other": second}

    return measure


def says_more(one: str, other: str) -> Measure:
    """Compare two variants by phonemes that a probe names from the first codebook."""

    def measure(shop: Workshop, seed: int) -> Figures:
        return against(*(100 * shop.phonemes(name, seed) for name in (one, other)))

    return measure


def quantizer_errors(shop: Workshop, variant: str, seed: int) -> dict[str, float]:
    r"""Return VQ loss, mean squared error and power of the latent, means over held-out speech.

    Parameters
    ----------
    shop, variant, seed
        See ``Workshop.codec``.
    """

    def measured() -> dict[str, float]:
        codec, rows = shop.codec(variant, seed), []
        limits = shop.settings.utterances, shop.settings.seconds
        for wav in utterances(codec, shop.heard(codec.sample_rate), *limits):
            with torch.no_grad():
                out = codec(wav[None])
            lost, given = (out.z - out.z_q).square().mean(), out.z.square().mean()
            rows.append([float(out.losses["codebook_loss"].sum()), float(lost), float(given)])
        return dict(zip(("vq_loss", "mse", "power"), np.mean(rows, axis=0).tolist(), strict=True))

    return shop.once(("errors", variant, seed), measured)


def mirrored(which: str, sign: int) -> Measure:
    r"""Claim 5: a mirror's VQ loss is the higher one, its quantizer's error the lower one.

    Parameters
    ----------
    which
        ``"vq_loss"``, or ``"mse"``, which is divided by the latent's power: its scale is free.
    sign
        -1 where less is claimed.
    """

    def measure(shop: Workshop, seed: int) -> Figures:
        found = [quantizer_errors(shop, name, seed) for name in ("mirror", "non-mirror")]
        one, other = (each[which] / (each["power"] if which == "mse" else 1) for each in found)
        raw = dict(zip(("one_mse", "other_mse"), (each["mse"] for each in found), strict=True))
        return {"gain": 100 * sign * math.log(one / other), "one": one, "other": other, **raw}

    return measure


def dynamic(kind: str) -> dict[str, Measure]:
    """Claims 15 to 17 for one kind of quantizer, in points of STOI at 40 Hz."""

    def rival(name: str, rate: float | None, scheme: str, shop: Workshop, seed: int) -> Figures:
        one = 100 * shop.rate_score(f"dynamic {kind}", seed, 40)
        if rate is None:
            return against(one, 100 * shop.score(name, seed))
        return against(one, 100 * shop.rate_score(name, seed, rate, scheme))

    return {
        "fixed": partial(rival, f"40 Hz {kind}", None, ""),
        "unadapted": partial(rival, f"80 Hz {kind}", 40, "scheduled"),
        "uniform": partial(rival, f"dynamic {kind}", 40, "uniform"),
    }


def schedule_alone(kind: str) -> Measure:
    """Claim 16, first half: cutting a codec of 80 Hz to 40 costs it more than 5 points of STOI."""

    def measure(shop: Workshop, seed: int) -> Figures:
        name = f"80 Hz {kind}"
        whole, cut = 100 * shop.score(name, seed), 100 * shop.rate_score(name, seed, 40)
        return {"gain": whole - cut - 5, "one": whole, "other": cut}

    return measure
