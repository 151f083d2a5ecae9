"""``codec-lib teacher``: each command writes a file that loads, and goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from codec_lib import hub
from codec_lib.cli import app
from codec_lib.data import make_synthetic
from codec_lib.teachers import (
    HubertConfig,
    SmallHubert,
    Spin,
    SpinSizes,
    load_teacher,
    load_text_teacher,
    save_hubert,
    save_spin,
)
from codec_lib.teachers.ctc import load_recogniser

TINY = HubertConfig(dim=16, num_layers=2, num_heads=2, ffn_dim=32, num_units=4, unit_dim=8)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A dozen utterances with text and phonemes."""
    folder = tmp_path_factory.mktemp("data") / "corpus"
    make_synthetic(folder, num_utterances=12)
    return folder


@pytest.fixture
def teacher(tmp_path):
    """A teacher of a test's size, as a file."""
    return save_hubert(SmallHubert(TINY), tmp_path / "teacher.safetensors")


def _run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["teacher", *(str(argument) for argument in arguments)])
    assert result.exit_code == code, result.output
    return result.output


def test_text(tmp_path):
    out = tmp_path / "text.safetensors"
    first = _run("text", out, "--steps", 1)
    assert "held out: accuracy" in first and "MB" in first
    assert (tmp_path / "text.checkpoint.safetensors").exists()  # to go on from
    assert load_text_teacher(out).encode(["two", "words"]).shape == (2, 192)


def test_voices_and_spin(tmp_path, speech, teacher, monkeypatch):
    monkeypatch.setenv("CODEC_LIB_CACHE", str(tmp_path / "cache"))
    said = _run("voices", "--corpus", speech)
    files = list((tmp_path / "cache" / "voices").rglob("*.flac"))
    assert "voices changed, 0 failed" in said and len(files) > 3
    made = {file: file.stat().st_mtime_ns for file in files}
    out = tmp_path / "spin.safetensors"
    options = ("--teacher", teacher, "--corpus", speech, "--codes", 8, "--auxiliary", 16)
    _run("spin", out, *options, "--steps", 1)
    assert {file: file.stat().st_mtime_ns for file in files} == made  # used, not made again
    spin = load_teacher(out)
    assert spin.config.num_codes == 8 and set(spin.heads) == {"primary"}
    assert spin.units(torch.zeros(1, 1, 3200)).shape == (1, 10)
    card = hub.read_tensors(out)[0]["card"]  # a file that travels names no folder
    assert card["teacher"] == Path(teacher).name and card["training"]["num_auxiliary"] == 16


def test_recogniser(tmp_path, speech, teacher):
    out = tmp_path / "recogniser.safetensors"
    options = ("--teacher", teacher, "--corpus", speech, "--layers", 1)
    _run("recogniser", out, *options, "--symbols", "characters", "--steps", 1)
    assert load_recogniser(out).config.symbols == "characters"
    told = load_teacher(out)  # its tuned teacher, for the next stage
    before, after = (one.state_dict() for one in (load_teacher(teacher), told))
    changed = {key.split(".")[1] for key in before if "layers." in key
               and not torch.equal(before[key], after[key])}  # fmt: skip
    assert isinstance(told, SmallHubert) and changed == {"1"}


def test_spin_hubert_goes_on_with_the_codes_of_a_spin(tmp_path, speech, teacher):
    spin, out = tmp_path / "spin.safetensors", tmp_path / "student.safetensors"
    save_spin(Spin(load_teacher(teacher), SpinSizes(num_codes=7)), spin)
    options = ("--teacher", teacher, "--corpus", speech, "--steps", 1)
    said = _run("spin-hubert", out, spin, *options)
    student, before = load_teacher(out), load_teacher(teacher)
    assert "1/1 " in said and student.config.num_units == 7

    def distance(one):  # of a layer's weights from the teacher's
        found, known = (net.layers[0].query_key_value.weight for net in (one, before))
        return float((found - known).norm() / known.norm())

    assert 0 < distance(student) < 0.1  # one step from the teacher
    _run("spin-hubert", tmp_path / "new.safetensors", spin, *options, "--seed", 5, "--fresh")
    assert distance(load_teacher(tmp_path / "new.safetensors")) > 0.5


def test_train_takes_steps_for_both_or_for_each(tmp_path, speech):
    options = ("--corpus", speech, "--units", "4,6")
    _run("train", tmp_path / "one.safetensors", *options, "--steps", "1", "--iterations", 1)
    assert load_teacher(tmp_path / "one.safetensors").config.num_units == 4
    said = _run("train", tmp_path / "two.safetensors", *options, "--steps", "1,2")
    assert "1/1 " in said and "2/2 " in said
    assert load_teacher(tmp_path / "two.safetensors").config.num_units == 6
    assert "expected small or base" in _run("train", tmp_path / "x", "--size", "huge", code=2)
