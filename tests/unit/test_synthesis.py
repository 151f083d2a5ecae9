"""Zero-shot synthesis: tasks, and judges that know the answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import codec_lib
from codec_lib.cli import app
from codec_lib.codecs.continuous import build_continuous
from codec_lib.data import Corpus, corpus, make_synthetic
from codec_lib.evaluation.judges import Judge, Score
from codec_lib.evaluation.results import read_results
from codec_lib.evaluation.synthesis import judge_synthesis, synthesis_tasks
from codec_lib.lm.continuous import build_continuous_model
from codec_lib.lm.continuous_run import save_continuous_model
from codec_lib.lm.files import save_language_model
from codec_lib.lm.tokenizer_run import save_tokenizer
from codec_lib.lm.unified import build_unified


class Reader(Judge):
    """Reads the length of the text that a clip was made from out of its first sample."""

    name, needs = "reader", ("text", "target")

    def judge(self, clips):
        """Compare."""
        wrong = [float(round(float(c.wav[0, 0]) * 1000) != len(c.text)) for c in clips]
        return {"wrong": Score(np.array(wrong), higher_is_better=False)}


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    make_synthetic(folder, num_utterances=120)
    return corpus(str(folder))


def test_tasks_are_of_one_speaker_and_no_target_comes_twice(speech):
    tasks = synthesis_tasks(speech, 20, seed=1)
    assert 5 < len(tasks) <= 20
    assert len({target for _, target in tasks}) == len(tasks)
    for prompt, target in tasks:
        assert prompt != target and speech[prompt].speaker_id == speech[target].speaker_id
        assert 1.5 * 16000 <= speech.length(prompt) <= 5 * 16000
    assert tasks == synthesis_tasks(speech, 20, seed=1) != synthesis_tasks(speech, 20, seed=2)
    with pytest.raises(ValueError, match="no speaker"):
        synthesis_tasks(Corpus("one", [speech[0]]), 3)


def test_a_corpus_of_one_speaker_has_nobody_else(speech):
    own = speech.select(lambda one: one.speaker_id == speech[0].speaker_id)
    same = {"same": lambda texts, prompts: [prompt.wav for prompt in prompts]}
    rows = judge_synthesis(own, [(0, 1)], same, {"reader": Reader()})
    assert [row["way"] for row in rows] == ["recording", "same"]


def test_judges_hear_what_was_said_and_what_was_not(speech):
    tasks, asked = synthesis_tasks(speech, 6), []

    def right(texts, prompts):
        asked.append((len(texts), [prompt.text for prompt in prompts]))
        return [torch.full((1, 8000), len(text) / 1000) for text in texts]

    def mute(texts, prompts):
        return [torch.zeros(1, 0) for _ in texts]

    judges = {"reader": Reader()}
    ways, against = {"right": right, "mute": mute}, {"right": "mute", "mute": "recording"}
    rows = judge_synthesis(speech, tasks, ways, judges, against, batch_size=4)
    by_way = {row["way"]: row for row in rows}
    assert list(by_way) == ["recording", "somebody else", "right", "mute"]
    assert by_way["right"]["wrong"] == 0 and by_way["mute"]["wrong"] == 1
    assert by_way["mute"]["empty"] == len(tasks) and by_way["mute"]["seconds_ratio"] == 0
    assert by_way["recording"]["seconds_ratio"] == 1
    assert by_way["right"]["times_real_time"] > 1 > by_way["mute"]["times_real_time"] == 0
    assert "times_real_time" not in by_way["recording"]
    assert "wrong" not in by_way["somebody else"]  # its words are not known
    assert by_way["right"]["against"] == "mute" and by_way["right"]["wrong_change"] == -1
    assert by_way["right"]["wrong_change_high"] == -1 and "against" not in by_way["recording"]
    assert by_way["mute"]["wrong_change"] == 1 - by_way["recording"]["wrong"]
    assert sum(count for count, _ in asked) == len(tasks)
    assert [text for _, texts in asked for text in texts] == [speech[p].text for p, _ in tasks]


def test_the_command_judges_both_kinds_of_models(speech, tmp_path):
    torch.manual_seed(0)
    codec = codec_lib.build("speechtokenizer", "smoke", codebook_size=1024)
    saved = codec_lib.hub.save_codec(codec, tmp_path / "codec.safetensors")
    tokenizer = save_tokenizer(build_continuous("smoke"), tmp_path / "t.safetensors", {})
    card, models = {"codec": str(saved), "tokenizer": str(tokenizer)}, []
    for kind, build, save in (
        ("codes", build_unified, save_language_model),
        ("tokens", build_continuous_model, save_continuous_model),
    ):
        models.append(f"{kind}={save(build('smoke'), tmp_path / f'{kind}.safetensors', card)}")
    folder, out = str(Path(speech[0].audio_path).parents[1]), tmp_path / "out.json"
    options = ["--corpus", folder, "--tasks", "2", "--judges", "speaker", "--out", str(out)]
    done = CliRunner().invoke(
        app, ["judge-lm", *models, *options, "--split", "train", "--alone", "--against", "codes"]
    )
    assert done.exit_code == 0, done.output
    rows, conditions = read_results(out)
    said = ["codes", "codes, no prompt", "tokens", "tokens, no prompt"]
    assert [row["way"] for row in rows] == ["recording", "somebody else", *said]
    assert [row.get("against") for row in rows[2:]] == [None, None, said[0], said[1]]
    gap = rows[4]["speaker_similarity"] - rows[2]["speaker_similarity"]
    assert rows[4]["speaker_similarity_change"] == pytest.approx(gap, abs=1e-5)
    assert rows[0]["speaker_similarity"] > rows[1]["speaker_similarity"]
    assert set(conditions["fingerprints"]) == {"codes", "tokens"} and conditions["tasks"] == 2
    done = CliRunner().invoke(app, ["judge-lm", models[0], models[0], *options])
    assert done.exit_code == 2 and "twice; hint: LABEL=" in done.output
    done = CliRunner().invoke(app, ["judge-lm", *models, *options, "--against", "nobody"])
    assert done.exit_code == 2 and "--against" in done.output
