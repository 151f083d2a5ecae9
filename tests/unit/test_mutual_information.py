"""Mutual information from CTC likelihoods: against counting, and where the answer is known."""

import itertools
import math

import pytest
import torch

from codec_lib.data.transcripts import Symbols
from codec_lib.evaluation.ctc_probe import Prepared, ProbeSettings, fit_probe
from codec_lib.evaluation.mutual_information import (
    information_gain,
    likelihood_matrix,
    text_information,
)
from codec_lib.evaluation.readings import (
    code_centroids,
    misread_lines,
    misread_shares,
    probe_listener,
    read_tokens,
    shuffled,
)
from codec_lib.evaluation.slmtokbench import read_and_inform


def collapsed(path):
    """Take repeats and blanks out of a path of symbols."""
    return [symbol for symbol, _ in itertools.groupby(path) if symbol]


def test_the_likelihood_adds_up_every_path_that_spells_the_text():
    torch.manual_seed(0)
    logits = [torch.randn(4, 3), torch.randn(3, 3)]
    targets = [[1, 2], [2]]
    found = likelihood_matrix(logits, targets)
    for row, one in enumerate(logits):
        probs = one.double().softmax(-1)
        for column, target in enumerate(targets):
            total = sum(
                math.prod(float(probs[f, s]) for f, s in enumerate(path))
                for path in itertools.product(range(3), repeat=len(one))
                if collapsed(path) == target
            )
            assert float(found[row, column]) == pytest.approx(math.log(total), abs=1e-9)


def test_a_text_that_does_not_fit_is_impossible():
    found = likelihood_matrix([torch.zeros(2, 3), torch.zeros(5, 3)], [[1], [1, 1, 2]])
    assert found[0, 1] == -math.inf and torch.isfinite(found[1]).all()
    row = text_information(found, [1, 3])
    assert row["unfit_share"] == 0.25 and math.isfinite(row["mi"])


def test_the_estimate_is_the_contrast_of_equation_1():
    torch.manual_seed(1)
    table = torch.randn(5, 5).double()
    contrast = sum(table[i, i] - table[i, j] for i in range(5) for j in range(5)) / 25
    row = text_information(table, [2] * 5)
    assert row["mi"] == pytest.approx(float(contrast))
    assert row["mi_per_symbol"] == pytest.approx(float(contrast) / 2)
    assert row["mi_low"] <= row["mi"] <= row["mi_high"]


def test_infonce_cannot_exceed_the_logarithm_of_the_texts():
    sure = text_information(1000 * torch.eye(8), [3] * 8)
    assert sure["info_nce"] == pytest.approx(math.log(8)) and sure["right_share"] == 1
    assert text_information(torch.zeros(8, 8), [3] * 8)["info_nce"] == pytest.approx(0)


def test_a_text_said_twice_is_right_both_times():
    table = torch.tensor([[2.0, 2.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 2.0]])
    assert text_information(table, [2] * 3)["right_share"] == pytest.approx(2 / 3)
    assert text_information(table, [2] * 3, [[1, 2], [1, 2], [3, 4]])["right_share"] == 1


def test_intervals_hold_the_estimate_and_cover_the_truth():
    """A bootstrap that draws an utterance twice takes its own text for a wrong one."""
    row = text_information(1000 * torch.eye(8), [3] * 8)
    assert row["info_nce_low"] <= row["info_nce"] <= row["info_nce_high"]
    torch.manual_seed(3)
    hits = 0
    for _ in range(100):
        rows, columns, own = 3 * torch.randn(3, 30).double()  # utterances, texts, what fits
        table = rows[:, None] + columns[None] + torch.diag(5 + own)
        found = text_information(table, [4] * 30)
        hits += found["mi_low"] < 5 * (1 - 1 / 30) < found["mi_high"]
    assert 88 <= hits <= 100


def test_bad_matrices_are_refused():
    with pytest.raises(ValueError, match="N above 1"):
        text_information(torch.zeros(1, 1), [3])
    with pytest.raises(ValueError, match="do not fit into their own"):
        text_information(torch.tensor([[-math.inf, 0.0], [0.0, 0.0]]), [1, 1])
    with pytest.raises(ValueError, match="not empty"):
        likelihood_matrix([torch.zeros(2, 3)], [[]])


def test_the_gain_is_paired_over_utterances():
    torch.manual_seed(2)
    hard = 10 * torch.rand(12, 12).double()  # alike for both
    one, other = hard + 4 * torch.eye(12), hard + torch.eye(12)
    lengths = [5] * 12
    rows = [text_information(table, lengths) for table in (one, other)]
    gain, low, high = information_gain(one, other, lengths)
    assert gain == pytest.approx(rows[0]["mi_per_symbol"] - rows[1]["mi_per_symbol"])
    assert 0 < low <= gain <= high
    apart = [row["mi_per_symbol_high"] - row["mi_per_symbol_low"] for row in rows]
    assert high - low < 0.3 * min(apart)
    assert information_gain(one, one, lengths) == (0, 0, 0)
    wide = information_gain(one, one, lengths, spread=0.5)
    assert wide == pytest.approx((0, -1.96 * 0.5**0.5, 1.96 * 0.5**0.5))
    with pytest.raises(ValueError, match="other"):
        information_gain(one, other[:5, :5], lengths)


def spoken(count: int, seed: int) -> Prepared:
    """Make texts of 8 of 12 phonemes; each is said for two to four frames, as its own token."""
    draw = torch.Generator().manual_seed(seed)
    targets = [(torch.randint(12, (8,), generator=draw) + 1).tolist() for _ in range(count)]
    inputs = []
    for target in targets:
        spans = torch.randint(2, 5, (8,), generator=draw)
        inputs.append(torch.repeat_interleave(torch.tensor(target), spans)[:, None])
    return Prepared(inputs, targets, 0)


@pytest.mark.parametrize("seed", range(4))
def test_shuffled_texts_fit_into_other_recordings(seed: int):
    """Texts fill their recordings to the last frame: few others can hold the longest ones."""
    sizes = [3, 4, 5, 6, 30, 40, 41]
    inputs = [torch.full((size, 1), size) for size in sizes]
    part = Prepared(inputs, [[1 + n % 2 for n in range(size)] for size in sizes], 0)
    other = shuffled(part, seed)
    assert sorted(len(one) for one in other.inputs) == sizes
    fits = zip(other.inputs, other.targets, strict=True)
    assert all(len(tokens) >= len(text) for tokens, text in fits)
    same = spoken(50, 2)
    moved = zip(same.inputs, shuffled(same, seed).inputs, strict=True)
    assert sum(one is two for one, two in moved) <= 2


@pytest.mark.parametrize("told", [True, False], ids=["tokens are the phonemes", "shuffled tokens"])
def test_tokens_tell_what_they_should(told: bool):
    known, tested = spoken(400, 0), spoken(60, 1)
    if not told:
        known, tested = shuffled(known), shuffled(tested)
    symbols = Symbols("phonemes")
    settings = ProbeSettings(steps=250, hidden=24, learning_rate=1e-2)
    probe, _ = fit_probe(known, symbols, [13], settings=settings)
    row = read_and_inform(probe, tested, symbols)
    if told:
        assert row["per"] < 0.2 and row["right_share"] > 0.9
        assert row["mi_per_symbol"] > 1.5 and row["info_nce"] > 0.9 * math.log(60)
    else:
        assert row["per"] > 0.7 and abs(row["mi_per_symbol"]) < 0.2
        assert row["info_nce"] < 0.2 * math.log(60)


def test_a_reading_is_what_the_benchmark_says():
    symbols, settings = Symbols("characters"), ProbeSettings(steps=30, hidden=8)
    reading = read_tokens(spoken(40, 0), spoken(9, 1), symbols, [13], settings=settings)
    row = read_and_inform(reading.probe, reading.part, symbols)
    assert {key: row[key] for key in ("mi", "cer", "wer")} == {
        key: reading.row[key] for key in ("mi", "cer", "wer")
    }
    assert reading.texts(0.5) == reading.texts() and reading.lengths == [8] * 9
    assert torch.equal(reading.at_temperature(1), reading.table)
    assert torch.equal(8 * reading.table_by_symbol, reading.table)
    listen = probe_listener(lambda wav: wav.long().transpose(1, 2), reading)
    heard = listen([one.T.float() for one in reading.part.inputs])  # tokens in place of samples
    assert heard == ["".join(read).replace("|", " ") for read, _ in reading.texts()]


def test_centroids_are_means_and_never_nan():
    draw = torch.Generator().manual_seed(0)
    codes, features = torch.randint(5, (50,), generator=draw), torch.randn(50, 3, generator=draw)
    found = code_centroids(codes, features, 7)
    assert torch.allclose(found[2], features[codes == 2].mean(0), atol=1e-6)
    assert torch.allclose(found[6], features.mean(0), atol=1e-6)


def test_misreadings_are_laid_out_and_counted():
    assert misread_lines("", "") == ("", "", "")
    assert misread_lines("ab", "") == ("ab", "^^", "··")
    above, marks, below = misread_lines("tern|lef", "turn|left")
    assert len(above) == len(below) == 9 and marks == " ^      ^"
    shares = misread_shares([("tern", "turn"), ("", "at")], {"vowels": "aeiou", "rest": "trn"})
    assert shares == {"vowels": 1.0, "rest": 0.25}
    assert misread_shares([], {"vowels": "a"}) == {"vowels": 0}
