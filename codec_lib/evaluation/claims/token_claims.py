r"""Claims about what tokens say: text, voice, the price of being discrete, tone.

As in ``codec_claims.py``. Leaves out: units and language models (``model_claims.py``).
Read next: ``model_claims.py``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from codec_lib.data import Corpus
from codec_lib.data import corpus as find_corpus

from ..codec_probe import read_codebooks
from ..conversion import conversion_curve, conversion_pairs
from ..ctc_probe import ProbeSettings
from ..disentanglement import layer_vectors, separation
from ..judges import make_judges
from ..slmtokbench import codec_tokens, text_alignment
from ..studies import DiscreteSettings, discrete_study, tone_study
from .codec_claims import Figures, Measure, against
from .workshop import Workshop

TEACHER = "hubert-small:6"
UNITS = (200, 50, 800)  # four times as many each; rarity is counted by the first
FEW, SOME, MANY = (str(count) for count in sorted(UNITS))


def informs_more(one: str, other: str) -> Measure:
    """Claims 10, 11: nats a character that codebook 1 tells of the text (SLMTokBench)."""

    def information(shop: Workshop, variant: str, seed: int) -> float:
        def measured() -> float:
            codec = shop.codec(variant, seed)
            train, test = shop.aligned(codec.sample_rate)
            probe = ProbeSettings(seed=seed)
            (row,) = text_alignment(codec_tokens(codec, 1), train, [test], settings=probe)
            return row["mi_per_symbol"]

        return shop.once(("information", variant, seed), measured)

    def measure(shop: Workshop, seed: int) -> Figures:
        return against(*(information(shop, name, seed) for name in (one, other)))

    return measure


def _curve(shop: Workshop, seed: int) -> list[dict[str, Any]]:
    """Convert voices with one to seven layers of the reference, of the distilled codec."""

    def measured() -> list[dict[str, Any]]:
        codec, judges = shop.codec("distilled", seed), make_judges(["phonemes", "speaker"])
        _, test = shop.aligned(codec.sample_rate)
        pairs = conversion_pairs(test, shop.settings.utterances // 2, seed)
        counts = (2, codec.num_quantizers)
        return conversion_curve(codec, test, pairs, judges, counts)[-2:]

    return shop.once(("curve", seed), measured)


def conversion(measure_name: str, shop: Workshop, seed: int) -> Figures:
    r"""Compare conversions with all layers of the reference and with one, claim 12.

    Parameters
    ----------
    measure_name
        Of the judges.
    shop, seed
        See ``Workshop.codec``.
    """
    few, all_ = _curve(shop, seed)
    return against(100 * all_[measure_name], 100 * few[measure_name])


def _silhouettes(shop: Workshop, seed: int, variant: str = "distilled") -> tuple[float, float]:
    """Return the silhouettes of recorded speakers in RVQ-1 and in RVQ-2:8."""

    def measured() -> tuple[float, float]:
        codec = shop.codec(variant, seed)
        groups = {"first": [0], "rest": list(range(1, codec.num_quantizers))}
        speech = shop.heard(codec.sample_rate)
        rows = separation(layer_vectors(codec, speech, groups, 20, seed), seed)
        first, rest = (row["speaker_silhouette"] for row in rows)
        return first, rest

    return shop.once(("clusters", variant, seed), measured)


def clusters(shop: Workshop, seed: int) -> Figures:
    """Claim 13, first half: RVQ-2:8 clusters by speaker more than RVQ-1."""
    first, rest = _silhouettes(shop, seed)
    return against(rest, first)


def clusters_more(shop: Workshop, seed: int) -> Figures:
    """Claim 13, a control: seven codebooks show more of a voice than one without a teacher, too."""
    pairs = [_silhouettes(shop, seed, variant) for variant in ("distilled", "undistilled")]
    return against(*(rest - first for first, rest in pairs))


def does_not_cluster(shop: Workshop, seed: int) -> Figures:
    """Claim 13, second half: the silhouette of RVQ-1 is below 0.1."""
    return against(0.1, _silhouettes(shop, seed)[0])


def reads_better(one: str, other: str, n_q: int | None = None) -> Measure:
    r"""Compare two variants by phonemes that a probe misreads, claims 19 and 20.

    Parameters
    ----------
    one, other
        Variants.
    n_q
        Codebooks that the probe reads; all by default.
    """

    def misread(shop: Workshop, variant: str, seed: int) -> float:
        def measured() -> float:
            codec = shop.codec(variant, seed)
            train, test = shop.aligned(codec.sample_rate)
            count = [codec.num_quantizers if n_q is None else n_q]
            (row,) = read_codebooks(codec, train, [test], ("phonemes",), count, seed=seed)
            return 100 * row["per"]

        return shop.once(("misread", variant, seed, n_q), measured)

    def measure(shop: Workshop, seed: int) -> Figures:
        first, second = (misread(shop, name, seed) for name in (one, other))
        return {"gain": second - first, "one": first, "other": second}

    return measure


def _forms(shop: Workshop, task: str, seed: int) -> dict[str, dict[str, Any]]:
    """Read a task from the teacher's features and from units of them; rows by form."""

    def measured() -> dict[str, dict[str, Any]]:
        counts = UNITS if task == "phonemes" else UNITS[:1]
        kinds = ("continuous", "units")
        settings = DiscreteSettings(counts, (), seeds=(seed,), perturbations=(), kinds=kinds)
        rows = discrete_study(TEACHER, task, *_parts(shop, task), settings)
        return {row["form"].removeprefix("units "): row for row in rows}

    return shop.once(("forms", task, seed), measured)


def _parts(shop: Workshop, task: str) -> tuple[Corpus, Corpus]:
    """Return what a task is learnt from and tested on: the same held-out readers, or others."""
    if task != "speaker":
        return shop.aligned()
    speech = shop.heard(16_000)
    return speech[::2], speech[1::2]


def discrete_costs(shop: Workshop, seed: int) -> Figures:
    """Claim 23: phonemes misread from 200 units less those from continuous features."""
    rows = _forms(shop, "phonemes", seed)
    one, other = (100 * rows[form]["error"] for form in ("continuous", SOME))
    return {"gain": other - one, "one": one, "other": other}


def fine_detail(shop: Workshop, seed: int) -> Figures:
    """Claim 23: of what is known beyond chance, 200 units lose more of who speaks than of words."""
    lost = []
    speakers = len(shop.heard(16_000).speakers)
    for task, chance in (("speaker", 1 / speakers), ("phonemes", 0.0)):
        rows = _forms(shop, task, seed)
        whole, units = (1 - rows[form]["error"] for form in ("continuous", SOME))
        lost.append(100 * (whole - units) / (whole - chance))
    return against(*lost)


def larger_pays(shop: Workshop, seed: int) -> Figures:
    """Claim 24: 800 units are read better than 50."""
    rows = _forms(shop, "phonemes", seed)
    few, many = (100 * rows[count]["error"] for count in (FEW, MANY))
    return {"gain": few - many, "one": many, "other": few}


def diminishing(shop: Workshop, seed: int) -> Figures:
    """Claim 24: from 50 to 200 units more is gained than from 200 to 800."""
    rows = _forms(shop, "phonemes", seed)
    few, some, many = (100 * rows[count]["error"] for count in (FEW, SOME, MANY))
    return against(few - some, some - many)


def imbalance(shop: Workshop, seed: int) -> Figures:
    """Claim 25, first half: the least used fifth of 200 units covers less than 10 % of the use."""
    return against(10.0, 100 * _forms(shop, "phonemes", seed)[SOME]["bottom_20_share"])


def rarity_costs(shop: Workshop, seed: int) -> Figures:
    """Claim 25, second half: rare units add errors, beyond those of continuous features there."""
    rows = _forms(shop, "phonemes", seed)
    return against(*(100 * rows[form]["rarity_cost"] for form in (SOME, "continuous")))


def tone_lost(shop: Workshop, seed: int) -> Figures:
    """Claim 26: of what a probe knows beyond chance, 100 units lose more of tone than of vowels."""

    def measured() -> Figures:
        syllables = find_corpus(shop.settings.tones)
        parts = (syllables.split("train"), syllables.split("test"))
        rows = tone_study(TEACHER, *parts, (100,), (), (seed,), epochs=12)
        whole, units = (next(row for row in rows if row["input"] == kind and not row["pitch"])
                        for kind in ("features", "units"))  # fmt: skip
        lost = {}
        for what in ("tone", "vowel"):
            known = whole[what] - whole[f"{what}_majority"]
            lost[what] = 100 * (whole[what] - units[what]) / known
        return against(lost["tone"], lost["vowel"])

    return shop.once(("tone", seed), measured)


similarity_grows = partial(conversion, "speaker_similarity")
errors_grow = partial(conversion, "per")
