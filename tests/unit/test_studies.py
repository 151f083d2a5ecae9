"""Studies from names to rows, and the commands that write them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from codec_lib import hub
from codec_lib.cli import app
from codec_lib.data import Corpus, Utterance, corpus, make_synthetic
from codec_lib.data.mandarin import make_mandarin
from codec_lib.data.manifests import made_once, write_manifest
from codec_lib.evaluation.results import read_results
from codec_lib.evaluation.studies import DiscreteSettings, discrete_study, feature_function
from codec_lib.study_commands import columns_text, over_seeds
from codec_lib.teachers.perturbation import VoiceError


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Forty utterances, of which eight are not trained on."""
    return make_synthetic(tmp_path_factory.mktemp("data") / "corpus", num_utterances=40)


@pytest.fixture(scope="module")
def folder(speech):
    """Where they lie."""
    return Path(speech[0].audio_path).parents[1]


def _rows(tmp_path, *arguments: object) -> tuple[list[dict], str]:
    """Run a command; return the rows it wrote and what it said."""
    out = tmp_path / "out.json"
    result = CliRunner().invoke(app, [*map(str, arguments), "--out", str(out)])
    assert result.exit_code == 0, result.output
    return read_results(out)[0], result.output


def test_features_go_by_name(make_speech):
    wav = make_speech(0.5)[None]
    assert feature_function("log_mel")(wav).shape == (1, 25, 160)
    layer = feature_function("hubert-small:2")
    assert layer(wav).shape == (1, 25, 192) and torch.equal(layer(wav), layer(wav))
    for wrong in ("mel", "hubert-small", "hubert-small:top"):
        with pytest.raises(ValueError, match="TEACHER:LAYER"):
            feature_function(wrong)


def test_disentangle_measures_every_codebook(tmp_path, codec_file):
    make_mandarin(tmp_path / "cmn", 1)
    options = ("--corpus", tmp_path / "cmn", "--split", "train", "--frames", 5)
    rows, said = _rows(tmp_path, "disentangle", f"a={codec_file}", *options)
    count = hub.load(codec_file).num_quantizers
    names = [f"RVQ-{k + 1}" for k in range(count)]
    assert [row["layers"] for row in rows][:count] == names and len(rows) > count
    assert all(0 <= row["speaker_accuracy"] <= 1 for row in rows)
    for row in rows:
        assert row["speaker_silhouette_low"] < row["speaker_silhouette"]
        gain = row["speaker_silhouette"] - rows[0]["speaker_silhouette"]
        assert row["above_first"] == pytest.approx(gain, abs=1e-5)
    assert rows[0]["above_first_low"] == rows[0]["above_first_high"] == 0
    assert rows[0]["num_utterances"] == 12 * 4 and rows[0]["speaker_chance"] == pytest.approx(
        1 / 12
    )
    assert "speaker_accuracy" in said


def test_convert_judges_with_more_and_more_rows(tmp_path, codec_file, folder):
    options = ("--split", "train", "--pairs", 2, "--judges", "speaker", "--n-q", "1,2,99")
    rows, _ = _rows(tmp_path, "convert", f"a={codec_file}", "--corpus", folder, *options)
    kinds = [(row["kind"], row.get("n_q")) for row in rows]
    assert kinds[:2] == [("source", None), ("reference", None)]
    assert [n for _, n in kinds[2:]] == sorted({1, 2, hub.load(codec_file).num_quantizers})
    assert rows[1]["speaker_similarity"] > 0.99 and rows[0]["source_similarity"] > 0.99


def test_discrete_reads_every_form_and_every_seed(tmp_path, folder):
    sizes = ("--units", 8, "--vocabularies", 12, "--seeds", "0,1", "--steps", 3)
    places = ("--train", folder, "--test", folder)
    rows, said = _rows(tmp_path, "discrete", "log_mel", *places, *sizes)
    forms = {"continuous", "centroids 8", "units 8", "merged 8", "joined 8, 12"}
    assert {row["form"] for row in rows} == forms
    assert len(rows) == 5 * 2 and {row["test"] for row in rows} == {"clean", "noise"}
    for row in rows:
        assert row["seeds"] == 2 and row["error_low"] <= row["error"] <= row["error_high"]
        assert row["error"] == pytest.approx(sum(row["by_seed"]) / 2, rel=1e-4)
        assert ("cost" in row) == (row["form"] != "continuous") and row["left_out"] == 0
    assert "bitrate" in said
    for task, said in (("mood", "slot:NAME"), ("speaker", "one of the labels")):  # other speakers
        options = [*map(str, (*places, *sizes)), "--task", task]
        wrong = CliRunner().invoke(app, ["discrete", "log_mel", *options])
        assert wrong.exit_code == 2 and said in wrong.output
    wrong = CliRunner().invoke(app, ["discrete", "log_mel", *map(str, places), "--seeds", ""])
    assert wrong.exit_code == 2 and "--seeds: got '', expected whole numbers" in wrong.output
    with pytest.raises(ValueError, match="expected one or more of each"):
        DiscreteSettings(seeds=())
    with pytest.raises(ValueError, match=r"kinds: got .*vectors.*, expected some of .*continuous"):
        parts = [corpus(str(folder)).split(part) for part in ("train", "test")]
        discrete_study(
            "log_mel", "phonemes", *parts, DiscreteSettings((8,), (), kinds=("vectors",))
        )


def test_what_cannot_be_changed_is_counted_and_every_recording_has_its_own_noise(
    speech, tmp_path, monkeypatch
):
    from codec_lib.evaluation import teacher_units

    (tmp_path / "quiet.wav").write_bytes(Path(speech[0].audio_path).read_bytes())
    test = speech.split("test")
    quiet = replace(test[0], utterance_id="quiet", audio_path=str(tmp_path / "quiet.wav"))
    heard = []

    def change(wav, sample_rate, rng):
        heard.append(rng.random())
        if len(heard) > len(test):
            raise VoiceError("no voiced frames")
        return wav

    monkeypatch.setitem(teacher_units.PERTURBATIONS, "voice", change)
    settings = DiscreteSettings((8,), (), (8,), 2, (0,), ("voice",), kinds=("continuous", "units"))
    both = Corpus("both", [*test, quiet])
    rows = discrete_study("log_mel", "phonemes", speech.split("train"), both, settings)
    left_out = {(row["form"], row["test"]): row["left_out"] for row in rows}
    assert left_out == {(f, t): int(t == "voice") for f, t in left_out} and len(left_out) == 4
    assert len(set(heard)) == len(both)


def test_a_corpus_without_parts_is_not_tested_on_itself(tmp_path, make_speech):
    from codec_lib import audio

    (tmp_path / "audio").mkdir()
    said = []
    for number in range(4):
        path = tmp_path / f"audio/{number}.wav"
        audio.write(path, make_speech(0.4), 16000)
        said.append(Utterance(str(number), str(path), label="ab"[number % 2], tone="1"))
    write_manifest(tmp_path, said)
    for command in (("discrete", "log_mel", "--task", "label"), ("tone", "log_mel")):
        places = ("--train", str(tmp_path), "--test", str(tmp_path))
        wrong = CliRunner().invoke(app, [*command, *places])
        assert wrong.exit_code == 2 and "got 4 recordings that are learnt from, too" in wrong.output


def test_tone_is_asked_before_and_after(tmp_path):
    make_mandarin(tmp_path / "cmn", 5)
    sizes = ("--units", 4, "--pairs", "4+4", "--seeds", 0, "--epochs", 1)
    places = ("--train", tmp_path / "cmn", "--test", tmp_path / "cmn")
    rows, said = _rows(tmp_path, "tone", "log_mel", *places, *sizes)
    found = {(row["input"], row["discretiser"], row["pitch"]) for row in rows}
    ways = {("k-means 4", False), ("residual 4+4", False), ("task-aware 4+4", True)}
    assert found == {(i, *w) for i in ("units", "centroids") for w in ways} | {
        ("features", "", False), ("features", "", True)
    }  # fmt: skip
    assert "task-aware 4+4" in said
    wrong = CliRunner().invoke(app, ["tone", "log_mel", "--pairs", "4"])
    assert wrong.exit_code == 2 and "N+M" in wrong.output


def test_the_mandarin_corpus_goes_by_name(tmp_path, monkeypatch):
    from codec_lib.data import mandarin

    monkeypatch.setattr(mandarin.paths, "corpora_root", lambda: tmp_path)
    monkeypatch.setattr(mandarin, "SYLLABLES", mandarin.SYLLABLES[:2])
    found = corpus("synthetic/mandarin")
    assert len(found) == 2 * 4 * 4 and (tmp_path / "synthetic-mandarin/recipe.json").exists()
    assert found.load(0).shape[-1] > 1600
    made = []
    made_once(tmp_path / "x", {"a": 1}, lambda place: (place.mkdir(), made.append(place)))
    made_once(tmp_path / "x", {"a": 1}, lambda place: made.append(place))
    assert len(made) == 1


def test_rows_that_differ_by_seed_are_averaged_and_laid_out():
    rows = [{"form": "a", "seed": s, "per": 0.2 + s / 10} for s in (0, 1)] + [{"form": "b"}]
    means = over_seeds(rows, ["form"], ["per"])
    assert means[0]["per"] == pytest.approx(0.25) and means[1] == {"form": "b", "seeds": 1}
    assert columns_text(means, ["form"], ["per"]).splitlines()[-1] == "b"
