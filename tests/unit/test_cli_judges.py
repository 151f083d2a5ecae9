"""``codec-lib judge`` and ``codec-lib slmtokbench`` on a codec of a test's size."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

import codec_lib
from codec_lib.cli import app
from codec_lib.data import corpus, make_synthetic
from codec_lib.evaluation import slmtokbench
from codec_lib.evaluation.results import read_results


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Forty utterances, four of them to test on."""
    folder = tmp_path_factory.mktemp("data") / "corpus"
    make_synthetic(folder, num_utterances=40)
    return folder


def _run(*arguments: object, code: int = 0) -> str:
    """Run the command and return what it says."""
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_judge_writes_a_row_for_each_number_of_codebooks(tmp_path, codec_file, tiny_corpus):
    out = tmp_path / "judged.json"
    options = ("--corpus", tiny_corpus, "--max-utterances", 99, "--out", out)
    said = _run("judge", f"mine={codec_file}", "--n-q", "1,99", *options)
    rows, conditions = read_results(out)
    unseen = len(corpus(str(tiny_corpus), "test"))  # speech of training is no test
    assert (conditions["split"], conditions["utterances"]) == ("test", unseen)
    assert [(row["codec"], row["n_q"]) for row in rows] == [("mine", 1), ("mine", rows[1]["n_q"])]
    assert rows[0]["mel_distance"] > 0 == rows[0]["mel_distance_original"]
    assert "mel_distance" in said and conditions["judges"] == "signal"
    assert "expected one of" in _run("judge", codec_file, "--judges", "ears", code=2)


def test_slmtokbench_reads_and_judges(tmp_path, codec_file, speech):
    out = tmp_path / "bench.json"
    places = ("--train", speech, "--test", speech, "--steps", 2, "--out", out)
    options = ("--embeddings", "random,codebooks,centroids", "--judges", "signal")
    said = _run("slmtokbench", f"mine={codec_file}", "--n-q", "1", *options, *places)
    rows = read_results(out)[0]
    kinds = [(row["measure"], row.get("initialisation"), row["n_q"]) for row in rows]
    assert kinds[:2] == [("text alignment", "random", 1), ("text alignment", "codebooks", 1)]
    assert [n_q for kind, _, n_q in kinds if kind == "information preservation"] == [0, 1]
    assert all("mi_per_symbol" in row and "wer" in row for row in rows[:2])
    assert "text alignment" in said and "mel_distance" in said
    assert "expected a codec or --units" in _run("slmtokbench", code=2)
    for wrong in ("codebook", "centroids"):  # no such ones; not of a codec
        said = _run("slmtokbench", codec_file, *places, "--embeddings", wrong, code=2)
        assert f"initialisations: got ['{wrong}'], expected among" in said


def test_slmtokbench_refuses_a_speaker_on_both_sides(tmp_path, codec_file):
    one = tmp_path / "one"
    make_synthetic(one, num_utterances=3)  # no test part: all of it would be learnt from and tested
    said = _run("slmtokbench", codec_file, "--train", one, "--test", one, "--steps", 1, code=2)
    assert "expected others to test on" in said


def test_codecs_of_different_rates_are_judged_on_the_same_samples(tmp_path, codec_file, speech):
    """One at 24 kHz between two at 16 kHz: rows for all, the recordings' scores the same."""
    other = tmp_path / "other.safetensors"
    codec_lib.hub.save_codec(codec_lib.build("sacodec", "smoke"), other)
    assert codec_lib.load(other).sample_rate == 24000
    names = (f"a={codec_file}", f"b={other}", f"c={codec_file}")
    out = tmp_path / "judged.json"
    options = ("--n-q", "1", "--max-utterances", 2, "--split", "test", "--out", out)
    _run("judge", *names, "--corpus", speech, "--judges", "signal,pitch", *options)
    rows = read_results(out)[0]
    assert [row["codec"] for row in rows] == ["a", "b", "c"]
    assert len({row["pesq_original"] for row in rows}) == 1
    assert rows[0]["stoi"] == rows[2]["stoi"] != rows[1]["stoi"]


def test_tokens_are_heard_at_the_codecs_own_rate(codec_file, speech):
    codec = codec_lib.build("sacodec", "smoke").eval()
    tokens = slmtokbench.codec_tokens(codec, 1)
    part = corpus(str(speech), "test")
    heard = slmtokbench._tokens_of(tokens, part)
    right = codec.encode(corpus(str(speech), "test", 24000).load(0)[None], 1).codes[0].T
    assert torch.equal(heard[0], right)
    assert len(right) == -(-part.length(0) * 24000 // 16000 // codec.hop_length)


def test_what_was_judged_is_kept_when_a_later_codec_fails(
    tmp_path, codec_file, speech, monkeypatch
):
    from codec_lib.evaluation import judges

    real, seen = judges.judge_codec, []

    def failing(codec, *given):
        seen.append(codec)
        if len(seen) == 2:
            raise ValueError("the machine is tired")
        return real(codec, *given)

    monkeypatch.setattr(judges, "judge_codec", failing)
    out = tmp_path / "judged.json"
    options = ("--n-q", "1", "--max-utterances", 2, "--split", "test", "--out", out)
    said = _run("judge", f"a={codec_file}", f"b={codec_file}", "--corpus", speech, *options, code=2)
    assert "tired" in said and [row["codec"] for row in read_results(out)[0]] == ["a"]
