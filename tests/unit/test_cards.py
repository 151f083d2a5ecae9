"""The codec cards: every codec has one, and its lines are where it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import codec_lib

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (Eq\. \(\d+\)) \|.*\[([\w/]+\.py):(\d+)\]\(([^)]+)\) \|$", re.M)
NEAR = 40  # lines: code moves a little more often than cards are edited


def test_every_codec_has_a_card() -> None:
    for name in codec_lib.names():
        text = (ROOT / "docs" / "codecs" / f"{name}.md").read_text()
        assert f"`{name}`" in text
        for heading in ("From equation to line", "Deviations", "What is logged", "Limits"):
            assert f"## {heading}\n" in text, f"{name}: no section {heading}"
        assert ROW.search(text), f"{name}: no table of equations"


@pytest.mark.parametrize(
    "card", sorted((ROOT / "docs" / "codecs").glob("*.md")), ids=lambda card: card.stem
)
def test_equations_are_where_the_card_says(card: Path) -> None:
    for equation, name, line, target in ROW.findall(card.read_text()):
        path = (card.parent / target).resolve()
        assert path == ROOT / "codec_lib" / name
        lines = path.read_text().splitlines()
        near = lines[max(0, int(line) - NEAR) : int(line) + NEAR]
        found = [i + 1 for i, text in enumerate(lines) if equation in text]
        assert any(equation in text for text in near), f"{name}: {equation} is in lines {found}"


def test_parameter_counts_of_the_speechtokenizer_card() -> None:
    text = (ROOT / "docs" / "codecs" / "speechtokenizer.md").read_text()
    for scale in ("small", "smoke"):
        codec = codec_lib.build("speechtokenizer", scale)
        assert f"{sum(p.numel() for p in codec.parameters()):,}" in text
