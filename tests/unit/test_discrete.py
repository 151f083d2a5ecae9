"""Discrete against continuous: forms of features, their rates, heads with a known answer."""

import numpy as np
import pytest
import torch

from codec_lib.data import Corpus, Phoneme, Utterance
from codec_lib.evaluation.class_probe import class_probe
from codec_lib.evaluation.ctc_probe import ProbeSettings
from codec_lib.evaluation.discrete import (
    Form,
    bitrate,
    forms_of,
    label_forms,
    rarity_effect,
    read_forms,
    token_use,
)

SOUNDS = ("AA", "B", "IY", "S", "T")


def spoken(count: int, seed: int) -> tuple[Corpus, list[torch.Tensor]]:
    """Make utterances of six sounds; a frame's features say the sound, and faintly a label."""
    rng = np.random.default_rng(seed)
    utterances, heard = [], []
    for number in range(count):
        order, label = rng.integers(5, size=6), number % 2
        spans = rng.integers(3, 6, size=6)
        ends = np.cumsum(spans) * 320
        phonemes = tuple(
            Phoneme(SOUNDS[s], int(end - span * 320), int(end))
            for s, end, span in zip(order, ends, spans, strict=True)
        )
        utterances.append(
            Utterance(
                f"u{number}", f"u{number}.wav", f"s{seed}", sample_rate=16_000,
                num_samples=int(ends[-1]), phonemes=phonemes, label=f"kind={label}",
            )
        )  # fmt: skip
        frames = 4 * np.eye(6)[np.repeat(order, spans)]
        frames[:, 5] = 0.3 * (2 * label - 1)
        heard.append(torch.tensor(frames + 0.05 * rng.normal(size=frames.shape)).float())
    return Corpus(f"c{seed}", utterances, 16_000), heard


def test_the_rate_is_the_studies_formula():
    assert bitrate(2000, 50) == pytest.approx(548.3, abs=0.1)
    assert bitrate(1024, 75, 8) == 6000


def test_forms_lose_more_and_more():
    _, heard = spoken(40, 0)
    forms = {form.name: form for form in forms_of(heard, [5], [8])}
    assert list(forms) == ["continuous", "centroids 5", "units 5", "merged 5", "merged 5, 8"]
    one = heard[0]
    units = forms["units 5"].apply(one)[:, 0]
    assert torch.equal(forms["continuous"].apply(one), one)
    assert (forms["centroids 5"].apply(one) - one).square().mean() < 0.1
    assert len(forms["merged 5"].apply(one)) == len(torch.unique_consecutive(units))
    assert len(forms["merged 5, 8"].apply(one)) <= len(forms["merged 5"].apply(one))
    use = token_use(forms["units 5"], heard)
    assert use["units_per_second"] == 50 and use["bitrate"] == pytest.approx(50 * np.log2(5))
    assert use["bottom_20_share"] < 0.2 < use["top_20_share"] and use["used_share"] == 1
    assert token_use(forms["continuous"], heard) == {}


def test_what_clustering_keeps_is_read_and_what_it_drops_is_gone():
    known, tested = spoken(200, 0), spoken(60, 1)
    forms = [form for form in forms_of(known[1], [5]) if not form.name.startswith("merged")]
    settings = ProbeSettings(steps=200, hidden=24, learning_rate=1e-2)
    rows = read_forms(forms, known, [("clean", *tested)], settings=settings)
    assert all(row["per"] < 0.25 for row in rows)  # CTC cannot tell two equal sounds in a row
    assert all("rarity_cost_low" in row for row in rows)
    named = label_forms(forms, known, [("clean", *tested)], lambda u: u.label, hidden=16, steps=150)
    accuracy = {row["form"]: row["accuracy"] for row in named}
    assert accuracy["continuous"] > 0.95
    assert abs(accuracy["units 5"] - 0.5) < 0.2 and abs(accuracy["centroids 5"] - 0.5) < 0.2


def test_rarity_costs_where_errors_are_with_the_rare():
    pairs = [("ab", "ab")] * 20 + [("xy", "ab")] * 20
    often = np.concatenate([np.linspace(5, 6, 20), np.linspace(1, 2, 20)])
    row = rarity_effect(pairs, often)
    assert row["rare_error"] == 1 and row["common_error"] == 0 and row["rarity_cost"] == 1
    assert rarity_effect(pairs, np.ones(40)) == {}


def test_labels_that_cannot_be_told_are_refused():
    known = spoken(4, 0)
    with pytest.raises(ValueError, match="two or more"):
        label_forms([Form("continuous", lambda x: x)], known, [], lambda u: "one")
    with pytest.raises(ValueError, match="none empty"):
        class_probe([torch.zeros(0, 3)], torch.zeros(1), [], torch.zeros(0))
