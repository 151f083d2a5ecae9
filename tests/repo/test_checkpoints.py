r"""Shipped checkpoints: small, what the list says they are, loadable, described."""

from __future__ import annotations

import hashlib
import json
import struct

import pytest

MAX_BYTES = 6 * 2**20
MAX_TOTAL_BYTES = 60 * 2**20


@pytest.fixture(scope="module")
def folder(root):
    return root / "data" / "checkpoints"


@pytest.fixture(scope="module")
def listed(folder):
    return json.loads((folder / "checkpoints.json").read_text())


def _header(path) -> dict:
    """Return the JSON header of a safetensors file."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length))


def test_every_file_is_listed_by_its_sha256(folder, listed):
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("*.safetensors")
    }
    assert found == listed


def test_files_are_small_and_in_half_precision(folder, listed):
    sizes = {name: (folder / name).stat().st_size for name in listed}
    assert all(size <= MAX_BYTES for size in sizes.values()), sizes
    assert sum(sizes.values()) <= MAX_TOTAL_BYTES, sizes
    for name in listed:
        tensors = {k: v for k, v in _header(folder / name).items() if k != "__metadata__"}
        dtypes = {entry["dtype"] for entry in tensors.values()}
        assert "F16" in dtypes and "F32" not in dtypes, f"{name}: {dtypes}"


def test_every_checkpoint_says_what_it_is(root, folder, listed, report):
    """A description inside the file, and a card with data and licence beside it or in docs."""
    problems = []
    for name in listed:
        stem = name.removesuffix(".safetensors")
        if not _header(folder / name).get("__metadata__", {}).get("description"):
            problems.append(f"{name}: no description in the file")
        places = (folder, root / "docs" / "teachers", root / "docs" / "codecs")
        cards = [place / f"{stem}.md" for place in places if (place / f"{stem}.md").exists()]
        text = "".join(card.read_text(encoding="utf-8") for card in cards).lower()
        problems += [
            f"{name}: its card says nothing of {word}"
            for word in ("licence", "trained")
            if word not in text
        ]
        if "to be written" in text:
            problems.append(f"{name}: its card is not finished")
    report(problems)


def test_codecs_load_by_name(listed):
    import codec_lib

    names = [name.removesuffix(".safetensors") for name in listed]
    for name in names:
        if any(name.startswith(f"{kind}-") for kind in codec_lib.names()):
            codec = codec_lib.load(name)
            assert codec.num_quantizers >= 1 and not codec.training
