"""ABX: known answers, and the alignment against every path."""

import itertools

import numpy as np
import pytest
import torch

from codec_lib.data import corpus
from codec_lib.evaluation.abx import Token, _path_cost, abx, tokens_of
from codec_lib.evaluation.units import abx_measures


def made(kind: str, seed: int = 0) -> list[Token]:
    """Make phonemes of three speakers whose frames tell the phoneme, the speaker, or nothing."""
    rng = np.random.default_rng(seed)
    base = np.eye(8)
    found = []
    for speaker, symbol, _ in itertools.product(range(3), range(4), range(6)):
        index = {"phoneme": symbol, "speaker": speaker}.get(kind)
        mean = np.zeros(8) if index is None else base[index]
        frames = mean + (1 if kind == "nothing" else 0.05) * rng.normal(
            size=(rng.integers(2, 6), 8)
        )
        frames /= np.linalg.norm(frames, axis=1, keepdims=True)
        found.append(Token(f"p{symbol}", ("", ""), f"s{speaker}", frames.astype(np.float32)))
    return found


@pytest.mark.parametrize("across", [False, True])
def test_features_that_tell_the_phoneme_make_no_error(across: bool):
    row = abx(made("phoneme"), across)
    assert row["abx_error"] == 0 and row["pairs"] == 6 and row["across"] is across


@pytest.mark.parametrize("across", [False, True])
def test_features_that_know_nothing_guess(across: bool):
    for kind in ("nothing", "speaker"):
        row = abx(made(kind), across)
        assert row["abx_error"] == pytest.approx(0.5, abs=0.08)
        assert row["abx_error_low"] <= row["abx_error"] <= row["abx_error_high"]


def test_a_pair_of_phonemes_counts_once():
    """X like a and X like b are asked of the same sounds: as two, the interval is too narrow."""
    tokens = [token for token in made("nothing") if token.symbol in ("p0", "p1")]
    row = abx(tokens)
    assert row["pairs"] == 1 and np.isnan(row["abx_error_low"])  # one pair tells no interval


def test_equal_units_tie_at_a_half():
    same = [
        Token(t.symbol, t.place, t.speaker, np.zeros((3, 1), np.int64)) for t in made("nothing")
    ]
    assert abx(same)["abx_error"] == 0.5


def test_the_alignment_is_the_cheapest_path():
    rng = np.random.default_rng(0)
    for rows, columns in itertools.product(range(1, 5), range(1, 5)):
        costs = rng.random((rows, columns)).astype(np.float32)

        def paths(i: int, j: int, costs: np.ndarray = costs) -> list[list[float]]:
            here = [float(costs[i, j])]
            if i == j == 0:
                return [here]
            before = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
            return [p + here for a, b in before if a >= 0 and b >= 0 for p in paths(a, b)]

        best = min(paths(rows - 1, columns - 1), key=sum)
        assert _path_cost(costs) == pytest.approx(sum(best) / len(best), abs=1e-6)


def test_phonemes_are_cut_where_they_are(tiny_corpus):
    speech = corpus(str(tiny_corpus))
    where = torch.arange(10_000, dtype=torch.float32)

    def place(wav: torch.Tensor) -> torch.Tensor:
        frames = -(-wav.shape[-1] // 320)
        return torch.stack([torch.cos(where / 1e4), torch.sin(where / 1e4)], -1)[None, :frames]

    found = tokens_of(place, speech)
    first = next(one for one in speech[0].phonemes if one.symbol != "sil")
    angle = np.arctan2(found[0].frames[:, 1], found[0].frames[:, 0]) * 1e4
    hop = speech[0].sample_rate / 50
    assert found[0].symbol == first.symbol and found[0].speaker == speech[0].speaker_id
    assert angle[0] == pytest.approx(round(first.start / hop), abs=0.5)
    assert len(angle) == round(first.end / hop) - round(first.start / hop)
    assert {t.place for t in tokens_of(place, speech, context=False)} == {("", "")}
    with pytest.raises(ValueError, match="context=False"):
        abx(found[:1])


def test_units_of_a_corpus_are_compared_without_hearing_it_again(tiny_corpus):
    speech = corpus(tiny_corpus)
    symbols = sorted(speech.phoneme_set)
    known = {
        index: torch.tensor([symbols.index(s) for s in one.frame_symbols(50.0, 40)])
        for index, one in enumerate(speech)
    }
    right = abx_measures(known, speech)
    noise = {i: torch.randint(4, u.shape, generator=torch.Generator().manual_seed(i))
             for i, u in known.items()}  # fmt: skip
    wrong = abx_measures(noise, speech)
    assert right["abx_across"] < 0.05 < 0.35 < wrong["abx_across"] < 0.65
    assert right["abx_across_low"] <= right["abx_across"] <= right["abx_across_high"]
    assert abx_measures({0: known[0][:0]}, speech) == {}
