"""Mutual information from CTC likelihoods: against counting, and where the answer is known."""

import itertools
import math

import pytest
import torch

from codec_lib.data.transcripts import Symbols
from codec_lib.evaluation.ctc_probe import Prepared, ProbeSettings, fit_probe
from codec_lib.evaluation.mutual_information import likelihood_matrix, text_information
from codec_lib.evaluation.slmtokbench import read_and_inform, shuffled


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


def test_bad_matrices_are_refused():
    with pytest.raises(ValueError, match="N above 1"):
        text_information(torch.zeros(1, 1), [3])
    with pytest.raises(ValueError, match="do not fit into their own"):
        text_information(torch.tensor([[-math.inf, 0.0], [0.0, 0.0]]), [1, 1])
    with pytest.raises(ValueError, match="not empty"):
        likelihood_matrix([torch.zeros(2, 3)], [[]])


def spoken(count: int, seed: int) -> Prepared:
    """Make texts of 8 of 12 phonemes; each is said for two to four frames, as its own token."""
    draw = torch.Generator().manual_seed(seed)
    targets = [(torch.randint(12, (8,), generator=draw) + 1).tolist() for _ in range(count)]
    inputs = []
    for target in targets:
        spans = torch.randint(2, 5, (8,), generator=draw)
        inputs.append(torch.repeat_interleave(torch.tensor(target), spans)[:, None])
    return Prepared(inputs, targets, 0)


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
