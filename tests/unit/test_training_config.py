"""Run configs: presets, files, changes, and errors that say what to write instead."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_lib import hub
from codec_lib.codecs.registry import codec_class
from codec_lib.discriminators import build_discriminators
from codec_lib.losses import objective
from codec_lib.teachers import PUBLISHED
from codec_lib.teachers.asr import PUBLISHED_ASR
from codec_lib.teachers.text import PUBLISHED_TEXT
from codec_lib.training.config import (
    TrainConfig,
    differences,
    load_config,
    read_mapping,
    write_config,
)
from codec_lib.training.presets import PRESETS, preset_for
from codec_lib.training.stages import stage_runs


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_are_valid_and_survive_a_file(preset, tmp_path):
    config = load_config(preset)
    write_config(config, tmp_path / "config.yml")
    assert load_config(None, tmp_path / "config.yml") == config
    assert config.scale in ("smoke", "small", "paper")


def test_paper_preset_is_the_published_recipe():
    config = load_config("paper")
    assert (config.segment_seconds, config.betas, config.lr) == (3.0, (0.9, 0.99), 1e-4)
    assert (config.warmup_steps, config.final_lr_fraction, config.clip_norm) == (0, 0.0, 0.0)
    assert config.critics == "paper" and config.critic_start == 0
    assert load_config("official").recipe == "official"


@pytest.mark.parametrize("preset", ["ds_codec", "ds_codec-paper"])
def test_ds_codec_has_the_two_stages_of_the_paper(preset):
    mirror, decoder = stage_runs(load_config(preset))
    assert mirror.freeze == () and decoder.freeze == ("encoder", "quantizer")
    assert decoder.overrides == {**mirror.overrides, "transformer_layers": 1}
    assert decoder.lr == pytest.approx(mirror.lr / 5) and decoder.final_lr_fraction == 0.5
    assert decoder.init_from == f"{mirror.out_dir}/final.safetensors"
    if preset == "ds_codec-paper":  # 1e-4 to 1e-5, then 2e-5 to 1e-5
        assert (mirror.lr, mirror.final_lr_fraction, mirror.warmup_steps) == (1e-4, 0.1, 1000)
        assert (mirror.batch_size, decoder.batch_size, mirror.betas) == (10, 24, (0.8, 0.9))


@pytest.mark.parametrize("preset", ["codecslime_vq", "codecslime_fsq-paper"])
def test_codecslime_has_the_three_stages_of_the_paper(preset):
    backbone, melt, cool = stage_runs(load_config(preset))
    assert [run.rate for run in (backbone, melt, cool)] == ["codec", "melt", "cool"]
    assert [run.freeze for run in (backbone, melt, cool)] == [(), (), ("encoder",)]
    assert backbone.overrides["token_rate"] is None and "token_rate" not in cool.overrides
    assert melt.lr == backbone.lr and cool.lr == pytest.approx(0.4 * backbone.lr)
    assert cool.lr * cool.final_lr_fraction == pytest.approx(melt.lr * melt.final_lr_fraction)
    if preset == "codecslime_fsq-paper":  # 1e-4 to 1e-5, then 4e-5 to 1e-5
        assert (backbone.lr, cool.lr, cool.final_lr_fraction) == (1e-4, 4e-5, 0.25)
        assert [run.steps for run in (backbone, melt, cool)] == [1_200_000, 100_000, 100_000]
        assert (backbone.segment_seconds, backbone.betas, backbone.warmup_steps) == (
            1.0, (0.8, 0.9), 1000,
        )  # fmt: skip


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_name_what_there_is(preset):
    for run in stage_runs(load_config(preset)):
        assert run.recipe in objective.RECIPES and run.scale in codec_class(run.codec).scales
        if run.critics:
            names = run.critics.split(",") if "," in run.critics else run.critics
            build_discriminators(names, width=1 / 64)
        for teacher, published in (
            (run.teacher, PUBLISHED),
            (run.text_teacher, PUBLISHED_TEXT),
            (run.text_aligner, PUBLISHED_ASR),
        ):
            assert teacher in {None, *published, *hub.known_names()}


def test_a_codec_starts_from_the_preset_of_its_family():
    assert preset_for("ds_codec_pq") == "ds_codec"
    assert preset_for("sacodec", "paper") == "sacodec-paper"
    assert preset_for("bigcodec", "paper") == "bigcodec-paper" and preset_for("bigcodec") == "small"
    assert preset_for("ds_codec_vq", "smoke") == "smoke"
    assert preset_for("codecslime_fsq") == "codecslime_fsq"
    assert preset_for("codecslime_vq", "paper") == "codecslime_vq-paper"
    assert preset_for("encodec") == "small" and preset_for("speechtokenizer", "paper") == "paper"


def test_changes_reach_into_stages_and_mappings_merge(tmp_path):
    stages = [{"name": "a", "steps": 3}, {"name": "b", "overrides": {"quantizer": {"decay": 0.5}}}]
    changes = {
        "stages": stages,
        "overrides.quantizer.epsilon": 1e-6,
        "stages.b.overrides.width": 64,
    }
    config = load_config("small", changes=changes)
    first, second = stage_runs(config)
    assert first.overrides == {"quantizer": {"decay": 0.95, "epsilon": 1e-6}}
    assert second.overrides == {"quantizer": {"decay": 0.5, "epsilon": 1e-6}, "width": 64}
    assert (first.steps, second.steps) == (3, config.steps) and (first.seed, second.seed) == (0, 1)
    write_config(config, tmp_path / "c.yml")
    again = load_config(None, tmp_path / "c.yml", {"stages.a.steps": 9})
    assert [run.steps for run in stage_runs(again)] == [9, 6000]
    assert stage_runs(load_config("ds_codec", changes={"stages": [], "steps": 7}))[0].steps == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 4}, "steps: every stage sets its own.*stages.mirror.steps"),
        ({"stages.mirrors.steps": 3}, "unknown stage 'mirrors'; did you mean mirror"),
        ({"stages.mirror": 3}, "stages.mirror: got no field, expected e.g. stages.mirror.steps"),
        ({"stages": 3}, "stages: got 3, expected tuple"),
        ({"stages": [{"steps": 3}]}, r"stages\[0\]: got name None, expected letters"),
        ({"stages": [{"name": "../a"}]}, "got name '../a'"),
        ({"stages": [{"name": "a"}, {"name": "a"}]}, "got name 'a' a second time"),
        (
            {"stages": [{"name": "a", "lrr": 1}]},
            "stage a: unknown training option.*did you mean lr",
        ),
        ({"stages": [{"name": "a", "steps": 0}]}, "stage a: steps: got 0, expected more than 0"),
        ({"stages": [{"name": "a", "devices": 2}]}, "stage a: got devices, which all stages share"),
        ({"freeze": "encoder"}, "freeze: got 'encoder', expected tuple"),
    ],
)
def test_mistakes_in_stages_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        load_config("ds_codec", changes=changes)


def test_later_sources_win_and_mappings_merge(tmp_path):
    (tmp_path / "a.yml").write_text("lr: 2e-3\nsteps: 7\noverrides: {width: 64}\n")
    config = load_config("small", tmp_path / "a.yml", {"steps": 9, "weights.adv_loss": 3})
    assert (config.lr, config.steps, config.weights) == (2e-3, 9, {"adv_loss": 3})
    assert config.overrides == {"quantizer": {"decay": 0.95}, "width": 64}
    assert PRESETS["small"]["overrides"] == {"quantizer": {"decay": 0.95}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lrr": 1}, "unknown training option 'lrr'; did you mean lr"),
        ({"batchsize": 1}, "did you mean batch_size"),
        ({"zzz": 1}, "known: codec, scale"),
        ({"steps": 0}, "steps: got 0, expected more than 0"),
        ({"steps": "many"}, "steps: got 'many', expected int"),
        ({"steps": 1.5}, "steps: got 1.5"),
        ({"compile": "maybe"}, "compile: got 'maybe', expected bool"),
        ({"betas": 0.9}, "betas: got 0.9"),
        ({"weights": 3}, "weights: got 3"),
        ({"weights.adv_loss": "much"}, "weights.adv_loss: got 'much', expected float"),
        ({"precision": "16-mixed"}, "expected one of .*bf16-mixed"),
        ({"average_decay": 1.5}, "between 0 and 1"),
        ({"clip_norm": -1}, "clip_norm: got -1.0, expected at least 0"),
        ({"distill": "continuous"}, "without a teacher; set teacher="),
        ({"corpus": None}, "corpus: got None"),
        ({"betas": [0.9]}, r"betas: got \(0.9,\), expected two"),
        ({"critic_betas": [0.9, 1.5]}, r"critic_betas: got \(0.9, 1.5\), expected two from 0"),
        ({"seed": -1}, "seed: got -1, expected at least 0"),
        ({"batch_size": 3, "critic_batch_size": 9}, "got 9, expected at most batch_size, 3"),
        ({"weights": {"recon_los/mel": 1}}, "unknown loss term.*did you mean recon_loss/mel"),
        ({"feature_disk_gb": -1}, "feature_disk_gb: got -1.0"),
    ],
)
def test_mistakes_name_field_and_remedy(changes, message):
    with pytest.raises(ValueError, match=message):
        load_config("smoke", changes=changes)


def test_weights_are_numbers_however_they_are_written():
    weights = load_config("smoke", changes={"weights.adv_loss": "1e-3"}).weights
    assert weights == {"adv_loss": 0.001}


def test_a_teacher_teaches_unless_it_is_told_not_to(tmp_path):
    written = tmp_path / "run.yml"
    written.write_text("teacher: hubert-small\n")
    assert load_config("smoke", written).distill == "continuous"
    assert load_config("smoke", changes={"teacher": "hubert-small"}).distill == "continuous"
    written.write_text("teacher: hubert-small\ndistill: pseudo_label\n")
    assert load_config("smoke", written, {"teacher": "hubert_base"}).distill == "pseudo_label"
    written.write_text("teacher: hubert-small\ndistill: none\n")
    assert load_config("smoke", written).distill == "none"
    assert load_config("dm_codec", changes={"distill": "none"}).distill == "none"
    teacher = {"teacher": "hubert-small"}
    stages = [{"name": "all"}, {"name": "taught", **teacher}, {"name": "told", **teacher}]
    stages[2]["distill"] = "none"
    forms = [run.distill for run in stage_runs(load_config("smoke", changes={"stages": stages}))]
    assert forms == ["none", "continuous", "none"]


def test_unknown_preset_is_named():
    with pytest.raises(ValueError, match=r"unknown preset 'smaller'; did you mean small"):
        load_config("smaller")


@pytest.mark.parametrize(
    ("text", "message"),
    [("- 1\n", "got list, expected a mapping"), ("a: [", "not valid YAML"), (None, "No such file")],
)
def test_broken_files_are_named(tmp_path, text, message):
    path = tmp_path / "broken.yml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=rf"broken.yml: .*{message}"):
        read_mapping(path)


def test_yaml_cannot_make_objects(tmp_path):
    (tmp_path / "evil.yml").write_text("a: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ValueError, match="not valid YAML"):
        read_mapping(tmp_path / "evil.yml")


def test_differences_ignore_what_does_not_change_a_step():
    config = load_config("smoke")
    free = {"steps": 99, "log_every": 3, "out_dir": "x", "feature_disk_gb": 9}
    assert differences(config, replace(config, **free)) == {}
    assert differences(config, replace(config, lr=1.0)) == {"lr": (config.lr, 1.0)}
    assert set(differences(config, replace(config, seed=5, weights={"adv_loss": 2}))) == {
        "seed",
        "weights",
    }


def test_config_is_frozen():
    with pytest.raises(FrozenInstanceError):
        load_config("smoke").steps = 3


@settings(deadline=None, max_examples=30)
@given(st.floats(1e-9, 1e3), st.integers(1, 10**9), st.booleans())
def test_numbers_as_text_are_numbers(lr, steps, compiled):
    config = TrainConfig(lr=repr(lr), steps=str(steps), compile=compiled)
    assert (config.lr, config.steps, config.compile) == (lr, steps, compiled)
