"""Byte-pair encoding of units, against merging by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_lib.evaluation.bpe import PairEncoding

UNITS = st.lists(st.lists(st.integers(0, 3), max_size=30), min_size=1, max_size=5)


def by_hand(units: list[int], pairs: list[tuple[int, int]], num_units: int) -> list[int]:
    """Merge pair by pair, from the left."""
    for number, pair in enumerate(pairs):
        found, at = [], 0
        while at < len(units):
            if tuple(units[at : at + 2]) == pair:
                found.append(num_units + number)
                at += 2
            else:
                found.append(units[at])
                at += 1
        units = found
    return units


@settings(max_examples=60, deadline=None)
@given(UNITS)
def test_merges_are_those_made_by_hand_and_can_be_undone(sequences):
    tensors = [torch.tensor(one, dtype=torch.int64) for one in sequences]
    encoding = PairEncoding.fit(tensors, 4, 9)
    for units, tensor in zip(sequences, tensors, strict=True):
        merged = encoding(tensor)
        assert merged.tolist() == by_hand(units, encoding.pairs, 4)
        assert encoding.undone(merged).tolist() == units


def test_the_commonest_pair_comes_first_and_never_across_utterances():
    encoding = PairEncoding.fit([torch.tensor([0, 1, 0, 1, 0, 1]), torch.tensor([2, 3, 2])], 4, 5)
    assert encoding.pairs == [(0, 1)] and encoding.vocabulary == 5
    assert PairEncoding.fit([torch.tensor([0]), torch.tensor([1])] * 9, 2, 9).pairs == []


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="at least 4"):
        PairEncoding.fit([torch.tensor([0])], 4, 3)
    with pytest.raises(ValueError, match="expected 0 to 3"):
        PairEncoding.fit([torch.tensor([4])], 4, 5)
