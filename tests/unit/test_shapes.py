"""Shape checks and result types."""

from __future__ import annotations

import pytest
import torch

from codec_lib.shapes import Codes, check_shape


def codes(batch: int = 2, n_q: int = 4, frames: int = 5, **options) -> Codes:
    rows = torch.arange(batch * n_q * frames).reshape(batch, n_q, frames)
    return Codes(rows, frames * 320, **options)


def test_check_shape_returns_sizes() -> None:
    assert check_shape(torch.zeros(2, 1, 7), "B 1 T") == {"B": 2, "T": 7}
    assert check_shape(torch.zeros(3, 3), "D D") == {"D": 3}


@pytest.mark.parametrize(
    ("shape", "pattern", "sizes"),
    [((2, 7), "B 1 T", {}), ((2, 2, 7), "B 1 T", {}), ((3, 4), "D D", {}), ((3,), "D", {"D": 4})],
)
def test_check_shape_rejects(shape: tuple[int, ...], pattern: str, sizes: dict) -> None:
    with pytest.raises(ValueError, match=r"thing: got shape .* expected"):
        check_shape(torch.zeros(shape), pattern, name="thing", **sizes)


def test_check_shape_wants_a_tensor() -> None:
    with pytest.raises(TypeError, match="got list"):
        check_shape([[1.0]], "B T")


def test_codes_reject_what_is_not_codes() -> None:
    with pytest.raises(TypeError, match="int64"):
        Codes(torch.zeros(1, 2, 3), 960)
    with pytest.raises(ValueError, match="num_samples"):
        Codes(torch.zeros(1, 2, 3, dtype=torch.int64), -1)
    with pytest.raises(ValueError, match=r"\(B, K, F\)"):
        Codes(torch.zeros(2, 3, dtype=torch.int64), 960)
    for layers in [(0,), (0, 0, 1, 2), (-1, 0, 1, 2)]:
        with pytest.raises(ValueError, match="layers"):
            codes(layers=layers)


def test_select_keeps_rows_and_remembers_their_codebook() -> None:
    full = codes()
    some = full.select([3, 1])
    assert some.codebooks == (3, 1) and some.n_q == 2
    assert torch.equal(some.codes, full.codes[:, [3, 1]])
    assert torch.equal(some.select([1]).codes, full.codes[:, [1]])
    assert full.select(range(2)).layers is None  # a prefix is what n_q=2 gives
    assert some.to("cpu").layers == (3, 1)


@pytest.mark.parametrize("layers", [[], [4], [0, 0], [-1]])
def test_select_rejects(layers: list[int]) -> None:
    with pytest.raises(ValueError, match="layers: got"):
        codes().select(layers)


def test_selected_codebook_is_not_there_again() -> None:
    with pytest.raises(ValueError, match=r"expected one or more different of \[2\]"):
        codes().select([2]).select([0])
