"""Discrete against continuous: forms of features, their rates, heads with a known answer."""

import numpy as np
import pytest
import torch

from codec_lib.data import Corpus, Phoneme, Utterance
from codec_lib.evaluation.class_probe import class_probe
from codec_lib.evaluation.ctc_probe import ProbeSettings
from codec_lib.evaluation.discrete import Form, bitrate, forms_of, pace, token_use
from codec_lib.evaluation.form_heads import (
    added,
    compare,
    in_pieces,
    label_forms,
    loss_curves,
    rarity_effect,
    read_forms,
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
                f"u{number}", f"s{seed}/u{number}.wav", f"s{seed}", sample_rate=16_000,
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
    assert list(forms) == ["continuous", "centroids 5", "units 5", "merged 5", "joined 5, 8"]
    one = heard[0]
    units = forms["units 5"].apply(one)[:, 0]
    assert torch.equal(forms["continuous"].apply(one), one)
    assert (forms["centroids 5"].apply(one) - one).square().mean() < 0.1
    assert len(forms["merged 5"].apply(one)) == len(torch.unique_consecutive(units))
    assert len(forms["joined 5, 8"].apply(one)) <= len(forms["merged 5"].apply(one))
    use = token_use(forms["units 5"], heard)
    assert use["units_per_second"] == 50 and use["bitrate"] == pytest.approx(50 * np.log2(5))
    assert use["bottom_20_share"] < 0.2 < use["top_20_share"] and use["used_share"] == 1
    assert token_use(forms["continuous"], heard) == {}


def test_what_clustering_keeps_is_read_and_what_it_drops_is_gone():
    known, tested = spoken(200, 0), spoken(60, 1)
    forms = [
        form for form in forms_of(known[1], [5]) if form.name.split()[0] not in ("merged", "joined")
    ]
    settings = ProbeSettings(steps=200, hidden=24, learning_rate=1e-2)
    rows = read_forms(forms, known, [("clean", *tested)], settings=settings)
    assert all(row["left_out"] == 0 for row in rows)
    assert all(row["per"] < 0.25 for row in rows)  # CTC cannot tell two equal sounds in a row
    assert all("rarity_cost_low" in row for row in rows)
    assert all(len(row["curve"]) == 200 and row["curve"][-1] < row["curve"][0] for row in rows)
    assert loss_curves(rows, ["units"], 8)["units"].shape == (1, 193)
    error, low, high = compare(rows, "units")
    assert error == pytest.approx(rows[2]["per"]) and low < error < high
    named = label_forms(forms, known, [("clean", *tested)], lambda u: u.label, hidden=16, steps=150)
    accuracy = {row["form"]: row["accuracy"] for row in named}
    assert compare(named, "units 5")[0] == pytest.approx(1 - accuracy["units 5"])
    assert compare(named, "continuous", "units 5")[1] > 0
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


def test_comparison_pairs_utterances_and_seeds():
    """What is equally hard in both forms does not widen the interval; what was left out is not."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(3):
        hard = rng.integers(0, 9, size=40).astype(float)
        sizes = np.where(np.arange(40) < 30, 10.0, 0.0)  # the last ten were left out
        for form, more in (("a", 0), ("b", 1)):
            rows.append({"form": form, "test": "clean", "seed": seed, "sizes": sizes})
            rows[-1]["errors"] = hard + more
    assert compare(rows, "a", "b") == pytest.approx((0.1, 0.1, 0.1))
    assert compare(rows, "b", "a")[0] == pytest.approx(-0.1)
    error, low, high = compare(rows, "a")
    assert low < error < high
    assert error == pytest.approx(np.mean([row["errors"][:30].mean() / 10 for row in rows[::2]]))
    for (
        row
    ) in rows:  # ten recordings of three pieces: fewer than thirty that know nothing of others
        row["recordings"] = np.arange(40) // 4
        row["errors"] = row["errors"] + 5 * (row["recordings"] % 2)
    together = compare(rows, "a")
    apart = compare([{k: v for k, v in row.items() if k != "recordings"} for row in rows], "a")
    assert together[0] == pytest.approx(apart[0])
    assert together[2] - together[1] > 1.3 * (apart[2] - apart[1])
    with pytest.raises(ValueError, match="expected the same"):
        compare(rows[:-1], "a", "b")
    with pytest.raises(ValueError, match="expected the same"):
        compare(rows, "a", "c")


def test_an_interval_of_a_few_seeds_covers_what_seeds_do():
    """Three heads that differ: nine in ten intervals and more hold the error of all heads."""
    rng, held, trials = np.random.default_rng(0), 0, 200
    for _ in range(trials):
        lift, hard = 0.1 * rng.normal(size=3), 0.2 * rng.normal(size=60)
        rows = [
            {"form": "a", "test": "clean", "seed": seed, "sizes": np.ones(60)}
            | {"errors": 0.5 + lift[seed] + hard + 0.2 * rng.normal(size=60)}
            for seed in range(3)
        ]
        _, low, high = compare(rows, "a", resamples=200)
        held += low <= 0.5 <= high
    assert held / trials > 0.92
    value, low, high = compare(rows[:1], "a")  # one seed: utterances alone
    assert 0 < high - low < 4 * 0.3 / 60**0.5 and low < value < high


def test_pieces_keep_phonemes_and_frames_together():
    corpus, heard = spoken(5, 0)
    pieces, parts = in_pieces(corpus, heard, 0.2)
    assert len(pieces) > len(corpus) and sum(map(len, parts)) == sum(map(len, heard))
    said = [p.symbol for one in corpus for p in one.phonemes]
    assert [p.symbol for one in pieces for p in one.phonemes] == said
    for piece, part in zip(pieces, parts, strict=True):
        frames = sum(p.end - p.start for p in piece.phonemes) / 320
        assert len(part) == frames <= 10
        assert part[0].argmax() == SOUNDS.index(piece.phonemes[0].symbol)


def test_added_errors_are_those_beyond_the_other_test():
    row = {"form": "units 5", "seed": 0, "hidden": 8, "sizes": np.full(4, 2.0)}
    rows = [row | {"test": "clean", "errors": np.array([0.0, 1, 0, 1])}]
    rows += [row | {"test": "10 dB", "errors": np.array([1.0, 1, 1, 1])}]
    assert compare(added(rows, "10 dB"), "units", test="10 dB")[0] == pytest.approx(0.25)
    unheard = rows[0] | {"sizes": np.array([2.0, 0, 2, 2]), "errors": np.array([0.0, 0, 0, 1])}
    found = compare(added([unheard, rows[1]], "10 dB"), "units", test="10 dB")[0]
    assert found == pytest.approx(2 / 6)  # what was not heard in silence has not lost by noise
    with pytest.raises(ValueError, match="once"):
        compare([*rows, rows[0] | {"form": "units 9"}], "units")


def test_pace_is_relative_to_the_label():
    sizes = {"one": (10, 20, 30), "two": (100, 200, 300)}
    said = [
        Utterance(f"{label}{size}", "none.wav", label=label, sample_rate=16_000, num_samples=size)
        for label, some in sizes.items()
        for size in some
    ]
    corpus = Corpus("c", said, 16_000)
    assert [pace(corpus)(one) for one in said] == ["fast", "fast", "slow"] * 2
    assert pace(corpus)(Utterance("x", "none.wav", label="three", num_samples=9)) == ""
