"""The ``codec-lib`` command: what each part prints and writes, and how it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import codec_lib
from codec_lib import audio, bitstream, hub, paths
from codec_lib.cli import app
from codec_lib.data import make_synthetic
from codec_lib.evaluation import comparison
from codec_lib.teachers import HubertConfig, SmallHubert, Spin, SpinSizes, save_hubert, save_spin
from codec_lib.training.config import read_mapping


@pytest.fixture
def codec_file(tmp_path) -> Path:
    """A codec of a test's size, as a file."""
    codec = codec_lib.build("speechtokenizer", "smoke", num_quantizers=3)
    with torch.no_grad():
        codec.quantizer(torch.randn(1, 16, 200))  # k-means start
    return hub.save_codec(codec, tmp_path / "codec.safetensors", metadata={"steps": 3})


@pytest.fixture
def sound(tmp_path, make_speech) -> Path:
    """A second of voice at another rate than the codec's."""
    path = tmp_path / "in.wav"
    audio.write(path, make_speech(1.0, sample_rate=22050), 22050)
    return path


def _run(*arguments: object, code: int = 0) -> Result:
    """Run the command and check its exit code."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def _refused(*arguments: object) -> str:
    """Run a command that must fail, and return its one line."""
    result = _run(*arguments, code=2)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.output
    return lines[0]


def test_help_is_quick_and_complete():
    listed = _run("--help").output
    for name in "train encode decode info evaluate units export bench corpus teacher".split():
        assert re.search(rf"\b{name}\b", listed), name
    code = "import sys, codec_lib.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_dynamic_rate_is_chosen_when_encoding(sound, tmp_path):
    """Lengths at 2 bits each; the file decodes to every sample of the sound."""
    path = hub.save_codec(codec_lib.build("codecslime_fsq", "smoke"), tmp_path / "c.safetensors")
    codes, out = tmp_path / "a.codes", tmp_path / "out.wav"
    said = _run("encode", sound, codes, "--codec", path, "--frame-rate", 30).output
    assert "(0.24 of codes), 30 of 80 frames sent" in said  # 30 * (6 + 2) bit
    read, header = bitstream.read_codes(codes)
    assert header.payload_bits == 240 and read.lengths.sum() == 80
    _run("decode", codes, out, "--codec", path)
    wav = audio.read(out)
    assert wav.shape[-1] == read.num_samples == 16000
    model = hub.load(path)
    heard = audio.read(sound, model.sample_rate)
    expected = model.decode(model.encode(heard[None], token_rate=30))[0]
    torch.testing.assert_close(wav, audio.peak_guard(expected), atol=1e-4, rtol=0)
    assert "segments" in _run("info", codes).output
    assert "20 to 80 codes/s, 40 unless asked" in _run("info", path).output
    line = _refused("encode", sound, codes, "--codec", path, "--frame-rate", 10)
    assert "token_rate: got 10.0 Hz, expected 20 to 80 Hz" in line


def test_encode_then_decode_is_the_codec(codec_file, sound, tmp_path):
    codes, back = tmp_path / "a.codes", tmp_path / "back.wav"
    said = _run("encode", sound, codes, "--codec", codec_file, "--n-q", 2).output
    assert "1.00 s, 2 codebooks" in said and "0.60 of codes" in said
    _run("decode", codes, back, "--codec", codec_file)
    codec = hub.load(codec_file)
    wav = audio.read(sound, 16000)
    expected = codec.decode(codec.encode(wav[None], n_q=2))[0]
    got = audio.read(back)
    assert got.shape == wav.shape
    torch.testing.assert_close(got, audio.peak_guard(expected), rtol=0, atol=2e-4)
    fewer = tmp_path / "fewer.wav"
    _run("decode", codes, fewer, "--codec", codec_file, "--n-q", 1)
    for wrong in (-1, 9):
        found = _refused("decode", codes, fewer, "--codec", codec_file, "--n-q", wrong)
        assert f"n_q: got {wrong}, expected 1 to 2" in found
    assert not torch.equal(audio.read(fewer), got)


def test_decode_finds_a_shipped_codec_by_its_fingerprint(codec_file, sound, tmp_path, monkeypatch):
    codes = tmp_path / "a.codes"
    _run("encode", sound, codes, "--codec", codec_file)
    assert "hint: name its file with --codec" in _refused("decode", codes, tmp_path / "b.wav")
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    mine = shipped / "mine.safetensors"
    mine.write_bytes(codec_file.read_bytes())
    monkeypatch.setattr(hub, "checkpoints_root", lambda: shipped)
    hub.list_file(mine)
    _run("decode", codes, tmp_path / "b.wav")
    assert audio.read(tmp_path / "b.wav").shape == (1, 16000)


SHORT = ["--corpus", "synthetic/small", "--judges", "phonemes", "--max-seconds", "1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "nothing"], "got 'nothing', expected a file or one of"),
        (["encode", "no.wav", "out.codes", "--codec", "nothing"], "got 'nothing'"),
        (["train", "nocodec"], "got 'nocodec', expected one of"),
        (["train", "speechtokenizer", "--set", "lrr=1"], "did you mean lr"),
        (["train", "speechtokenizer", "--set", "lr"], "expected key=value"),
        (["train", "speechtokenizer", "--preset", "smaller"], "did you mean small"),
        (["train", "ds_codec_vq", "--steps", "3"], "hint: stages.mirror.steps"),
        (["train", "speechtokenizer", "--corpus", "nowhere"], "got 'nowhere', expected one of"),
        (["train", "speechtokenizer", "--config", "no.yml"], "no.yml: No such file"),
        (["train", "speechtokenizer", "--teacher", "hubert-tiny"], "hubert-tiny"),
        (["corpus", "describe", "nowhere"], "got 'nowhere'"),
        (["units", "hubert-small", "--units", "100,x"], "--units: got '100,x', expected whole"),
        (["units", "hubert-small", "--layer", "top"], "--layer: got 'top', expected whole numbers"),
        (["evaluate", "sacodec-small", "--n-q", "1.5"], "--n-q: got '1.5', expected whole numbers"),
        (["evaluate", "sacodec-small", "--n-q", ""], "--n-q: got '', expected whole numbers"),
        (["claims", "--seeds", ""], "--seeds: got '', expected whole numbers"),
        (["claims", "--only", "1,two"], "--only: got '1,two', expected whole numbers"),
        (["discrete", "log_mel", "--seeds", "a"], "--seeds: got 'a', expected whole numbers"),
        (["export", "nowhere", "name"], "nowhere"),
        (["evaluate", "sacodec-small", "untrained:sacodec-small"], "'sacodec-small' twice; hint"),
        (["evaluate", "sacodec-small", "--read", "phonem"], "phonem"),
        (["units", "hubert-small", "hubert-small"], "'hubert-small' twice; hint"),
        (["disentangle", "sacodec-small", "--split", "tset"], "split: got 'tset', expected one of"),
        (["claims", "--table", "--only", "9"], "it shows all that is known"),
        (["speak", "Yes.", "a.wav", "--model", "continuous_lm-small", "--top-k", "5"], "top_k=5"),
        (["teacher", "train", "a", "--iterations", "3"], "expected 1 or 2 iterations"),
        (["teacher", "train", "a", "--steps", "1,2,3"], "--steps 1,2,3"),
        (["teacher", "train", "a", "--corpus", "librispeech/test-other"], "test-other"),
        (
            [
                "leaderboard",
                "sacodec-small",
                "--corpus",
                "synthetic/small",
                "--judges",
                "phonemes",
                "--max-seconds",
                "1",
            ],
            "clips without text, expected it",
        ),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in _refused(*arguments)
    assert not list(tmp_path.iterdir())  # nothing was begun


def test_unreadable_sound_is_named(codec_file, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFFnothing")
    line = _refused("encode", tmp_path / "broken.wav", tmp_path / "a.codes", "--codec", codec_file)
    assert "broken.wav" in line


def test_traceback_on_request(monkeypatch):
    monkeypatch.setenv("CODEC_LIB_TRACEBACK", "1")
    result = CliRunner().invoke(app, ["info", "nothing"])
    assert isinstance(result.exception, ValueError)


def test_info_describes_what_it_is_given(codec_file, sound, tmp_path):
    assert "speechtokenizer" in _run("info").output
    assert "50 frames/s" in _run("info", "speechtokenizer").output
    said = _run("info", codec_file).output
    assert "3 of 64 entries" in said and re.search(r"steps +3", said)
    codes = tmp_path / "a.codes"
    _run("encode", sound, codes, "--codec", codec_file)
    assert re.search(r"seconds +1.0\b", _run("info", codes).output)


def test_corpus_is_made_and_described(tmp_path):
    said = _run("corpus", "make", tmp_path / "made", "--hours", 0.005, "--seed", 3).output
    assert "utterances" in said
    described = _run("corpus", "describe", tmp_path / "made").output
    assert re.search(r"sample_rate +16000", described) and "train" in described


def test_evaluate_by_rate_and_scheme(codec_file, tiny_corpus, tmp_path):
    """A codec of fixed rate has one; cut, it has all that segments of 4 frames can have."""
    out = tmp_path / "rates.json"
    said = _run(
        *("evaluate", f"fixed={codec_file}", f"cut=cut:{codec_file}", "--corpus", tiny_corpus),
        *("--frame-rate", "25,50", "--schemes", "scheduled,uniform", "--out", out),
        *("--max-utterances", 1, "--max-seconds", 1),
    ).output
    assert "less the first" in said
    assert json.loads(out.read_text())["conditions"]["split"] == "test"
    rows = json.loads(out.read_text())["rows"]
    found = [(r["codec"], r["token_rate"], r["scheme"]) for r in rows if r["measure"] == "rates"]
    assert found == [("fixed", 50, "all frames"), ("cut", 25, "scheduled"), ("cut", 25, "uniform"),
                     ("cut", 50, "all frames")]  # fmt: skip
    assert rows[0]["stoi"] == rows[3]["stoi"]  # uncut they are one
    assert rows[1]["bitrate"] == 25 * (3 * rows[0]["bitrate"] / 150 + 2)
    line = _refused("evaluate", codec_file, "--frame-rate", "50", "--schemes", "best",
                    "--corpus", tiny_corpus)  # fmt: skip
    assert "schemes: got ['best'], expected some of ['scheduled'" in line
    said = _run(
        *("evaluate", f"x=untrained:cut:{codec_file}", "--corpus", tiny_corpus),
        *("--frame-rate", "25", "--max-utterances", 1, "--max-seconds", 1),
    ).output
    assert "25.000" in said
    line = _refused("evaluate", codec_file, "--schemes", "uniform", "--corpus", tiny_corpus)
    assert "--schemes: got some without --frame-rate" in line
    line = _refused("evaluate", codec_file, "--frame-rate", "40", "--corpus", tiny_corpus)
    assert "got rates [40.0], expected some of 50 to 50 Hz" in line


def test_evaluate_keeps_what_is_known_and_refuses_before_it_measures(
    codec_file, tiny_corpus, tmp_path, monkeypatch
):
    real, seen, out = comparison.evaluate_codec, [], tmp_path / "scores.json"

    def failing(codec, speech, *given):
        seen.append({one.split for one in speech})
        if len(seen) == 2:
            raise ValueError("the machine is tired")
        return real(codec, speech, *given)

    monkeypatch.setattr(comparison, "evaluate_codec", failing)
    codecs = ("evaluate", f"a={codec_file}", f"b={codec_file}")
    options = ("--n-q", "1", "--max-utterances", 1, "--max-seconds", 1, "--out", out)
    assert "tired" in _refused(*codecs, "--corpus", tiny_corpus, *options)
    assert [row["codec"] for row in json.loads(out.read_text())["rows"]] == ["a"]
    assert seen == [{"test"}] * 2
    known = ("--read", "phonemes", "--corpus", "synthetic/small", "--split", "train")
    assert "expected others to test on than to learn from" in _refused(*codecs, *known)
    assert len(seen) == 2


def test_units_of_a_teacher_and_of_spin_stand_beside_the_baselines(tmp_path):
    """k-means of a layer for the teacher, its own codes for Spin, every baseline for both."""
    config = HubertConfig(dim=16, num_layers=2, num_heads=2, ffn_dim=32, num_units=4, unit_dim=8)
    teacher = save_hubert(SmallHubert(config), tmp_path / "teacher.safetensors")
    spin = Spin(SmallHubert(config), SpinSizes(num_codes=5, code_dim=4))
    spin = save_spin(spin, tmp_path / "spin.safetensors")
    out = tmp_path / "units.json"
    common = ("--corpus", "synthetic/small", "--layer", "1", "--max-frames", 300)
    said = _run("units", teacher, f"new={spin}", *common, "--perturb", "noise", "--out", out).output
    rows = json.loads(out.read_text())["rows"]
    found = [(row["features"], row["layer"], row["num_units"]) for row in rows]
    assert found == [
        *((name, None, 5) for name in ("mfcc", "log_mel", "log_mel_context")),
        *((name, 1, 5) for name in ("untrained", "teacher")),
        ("new", None, 5),
    ]
    assert "UED noise" in said and f"{rows[-1]['pnmi']:.3f}" in said.splitlines()[6]
    said = _refused("units", teacher, *common, "--perturb", "echo")
    assert "perturb: got ['echo'], expected some of ['voice'" in said
    said = _refused("units", teacher, "--corpus", "synthetic/small", "--layer", "7")
    assert "layer: got 7, expected 'avg' or 0 to 2" in said


def test_train_evaluate_export(tmp_path, monkeypatch):
    """One step of a run goes all the way to a shipped checkpoint."""
    make_synthetic(tmp_path / "corpus", num_utterances=10)
    (tmp_path / "run.yml").write_text("valid_crops: 1\nvalid_seconds: 0.5\nsegment_seconds: 0.2\n")
    run = tmp_path / "run"
    arguments = ["train", "speechtokenizer", "--scale", "smoke", "--corpus", tmp_path / "corpus"]
    arguments += ["--config", tmp_path / "run.yml", "--steps", 1, "--out", run]
    _run(*arguments, "--set", "overrides.num_quantizers=2", "--set", "batch_size=2")
    assert "step_00000001" in _run("info", run).output
    # What a run has written is the whole of it: no preset adds to it.
    written = read_mapping(run / "config.yml")
    written["overrides"] = {"num_quantizers": 2}
    (tmp_path / "whole.yml").write_text(json.dumps(written))
    again = ["train", "speechtokenizer", "--config", tmp_path / "whole.yml"]
    _run(*again, "--out", tmp_path / "again")
    assert read_mapping(tmp_path / "again/config.yml")["overrides"] == {"num_quantizers": 2}
    scores = tmp_path / "scores.json"
    table = _run(
        *("evaluate", run / "best.safetensors", "--corpus", tmp_path / "corpus", "--split", "dev"),
        *("--n-q", "1,2,8", "--max-seconds", 1, "--out", scores),
    ).output
    assert "stoi" in table and len(json.loads(scores.read_text())["rows"]) == 2
    shipped = tmp_path / "shipped"
    for module in (hub, paths):
        monkeypatch.setattr(module, "checkpoints_root", lambda: shipped)
    _run("export", run, "mine", "--licence", "CC0", "--final")
    codec = codec_lib.load("mine")
    assert codec.card["licence"] == "CC0" and codec.card["training"]["steps"] == 1
    card = (shipped / "mine.md").read_text()
    assert "1 of 2 x 0.2 s" in card and hub.sha256(shipped / "mine.safetensors") in card
