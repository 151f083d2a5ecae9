"""The shipped checkpoints: whole, within their sizes, with a card, and loadable."""

from __future__ import annotations

import json
import struct

import pytest
import torch

import codec_lib
from codec_lib import hub, lm
from codec_lib.lm.loading import load_speaking_model
from codec_lib.paths import checkpoints_root
from codec_lib.teachers import load_teacher, load_text_teacher

FILES = sorted(checkpoints_root().glob("*.safetensors"))


def test_the_list_is_of_the_files_that_are_there():
    listed = json.loads((checkpoints_root() / "checkpoints.json").read_text())
    assert listed == {path.name: hub.sha256(path) for path in FILES}


def test_sizes():
    sizes = {path.name: path.stat().st_size for path in FILES}
    assert sizes and max(sizes.values()) <= 6_000_000, sizes
    assert sum(sizes.values()) <= 60_000_000, sizes


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_weights_are_in_half_precision_and_described(path):
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    assert header.pop("__metadata__")["description"]
    dtypes = {tensor["dtype"] for tensor in header.values()}
    assert "F16" in dtypes and "F32" not in dtypes


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_checkpoint_has_a_finished_card(root, path):
    cards = [checkpoints_root() / f"{path.stem}.md", root / "docs" / "teachers" / f"{path.stem}.md"]
    text = "".join(card.read_text() for card in cards if card.exists())
    assert hub.sha256(path) in text, f"{path.stem}: the card is of another file"
    assert len(text) > 1000 and "to be written" not in text, f"{path.stem}: no finished card"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_checkpoint_loads(path):
    if path.stem.startswith(("hubert", "spin", "dc_spin")):
        assert load_teacher(path.stem).features(torch.zeros(1, 1, 3200)).shape[:2] == (1, 10)
    elif path.stem.startswith("text"):
        assert load_text_teacher(path.stem).encode(["two", "words"]).shape[0] == 2
    elif path.stem.startswith("continuous-"):
        assert lm.load_tokenizer(path.stem).encode(torch.zeros(1, 1, 3200)).shape[-1] == 5
    elif path.stem.startswith(("unified", "continuous_lm")):
        (wav,) = load_speaking_model(path.stem).say(["Good morning."], [None])
        assert wav.shape[0] == 1 and wav.isfinite().all()
    else:
        assert codec_lib.load(path.stem).bitrate() > 0
