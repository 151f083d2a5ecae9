"""Claims: the catalogue is whole, values are kept one by one, verdicts follow from seeds."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from codec_lib.cli import app
from codec_lib.evaluation import read_results
from codec_lib.evaluation.claims import (
    CLAIMS,
    Claim,
    ClaimSettings,
    OutOfTime,
    Workshop,
    claim_rows,
    known_values,
    run_claims,
    settings_of,
    workshop,
)
from codec_lib.evaluation.claims.model_claims import _trained_module
from codec_lib.evaluation.claims.report import measure_claims
from codec_lib.lm.config import module_config
from codec_lib.lm.tokenizer_run import TokenizerConfig, TokenizerRun
from codec_lib.training.config import write_config
from codec_lib.training.stages import stage_runs

SMOKE = {"corpus": "synthetic/small", "heard": "synthetic/small", "aligned": "synthetic/small"}
SMOKE |= {"scale": "smoke", "steps": 4, "utterances": 2, "seconds": 1.0}
SMOKE |= {"changes": {"batch_size": 2, "segment_seconds": 0.25}}


def test_every_claim_of_the_design_is_there_once():
    assert {claim.number for claim in CLAIMS} == set(range(1, 28))
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    assert all(claim.paper and claim.source and claim.metric for claim in CLAIMS)


def test_variants_take_the_same_steps_and_differ_in_one_thing(tmp_path):
    shop = Workshop(tmp_path, ClaimSettings(steps=80))
    for name in shop.variants:
        runs = stage_runs(shop.config(name, seed=3))
        assert sum(run.steps for run in runs) == 80, name
        assert all(run.corpus == ClaimSettings.corpus for run in runs)
        assert runs[0].seed == 3
    one, other = (shop.config(name, 0).overrides for name in ("anchors", "random"))
    assert {**one, "first": "random"} == other


def test_values_are_kept_and_never_measured_twice(tmp_path):
    asked = []

    def measure(shop, seed):
        asked.append(seed)
        if seed == 2:
            raise OutOfTime
        return {"gain": 1.0 + seed, "one": 2.0}

    claim, settings = Claim("6", "s", "statement", "metric", "paper", measure), ClaimSettings()
    shop, known = Workshop(tmp_path, settings, log=lambda line: None), {}
    with pytest.raises(OutOfTime):
        measure_claims(shop, [claim], [0, 1, 2], known)
    again = known_values(tmp_path, None, settings)
    assert again == known and again["6", 1] == {"gain": 2.0, "one": 2.0}
    with pytest.raises(OutOfTime):
        measure_claims(shop, [claim], [0, 1, 2], again)
    assert asked == [0, 1, 2, 2]
    assert known_values(tmp_path, None, ClaimSettings(steps=7)) == {}


def test_trainings_of_other_settings_are_not_taken(tmp_path):
    one, same, other = (Workshop(tmp_path, ClaimSettings(steps=steps)) for steps in (80, 80, 40))
    folders = [Path(shop.config("anchors", 0).out_dir).parent for shop in (one, same, other)]
    assert folders[0] == folders[1] == one.runs != folders[2]
    assert all(folder.parent == tmp_path for folder in folders)


def test_a_finished_run_of_another_config_is_not_taken(tmp_path, monkeypatch):
    """What variants change lies in the code: a folder may hold what an older one asked for."""
    monkeypatch.setattr(workshop, "is_finished", lambda config: True)
    monkeypatch.setattr(workshop, "train", lambda config: pytest.fail("it is there"))
    shop = Workshop(tmp_path / "new", ClaimSettings(steps=80))
    config = shop.config("two stages", 0)
    folder = Path(config.out_dir)
    folder.mkdir(parents=True)
    moved = {"out_dir": str(tmp_path / "old" / folder.name)}
    write_config(replace(config, **moved, time_limit_minutes=5.0), folder / "config.yml")
    assert shop.trained(config).parent.parent == folder  # moved, and given less time at first
    for name, other in (("lr", 1.0), ("steps", 70), ("teacher", "hubert-small")):
        write_config(replace(config, **moved, **{name: other}), folder / "config.yml")
        with pytest.raises(ValueError, match=rf"finished run of another config \({name} was"):
            shop.trained(config)

    made = module_config(TokenizerConfig, "smoke", {"out_dir": str(tmp_path / "new/continuous-0")})
    for lr in (made.lr, 2 * made.lr):
        Path(made.out_dir).mkdir(exist_ok=True)
        (Path(made.out_dir) / "final.safetensors").touch()
        write_config(replace(made, lr=lr), Path(made.out_dir) / "config.yml")
        if lr == made.lr:
            assert _trained_module(shop, TokenizerRun, made).exists()
    with pytest.raises(ValueError, match=r"lr was .* Hint: remove it, or name another folder"):
        _trained_module(shop, TokenizerRun, made)


def test_a_decoder_anew_starts_from_the_encoder_that_is_there(tmp_path, monkeypatch):
    shop, starts = Workshop(tmp_path, ClaimSettings(steps=80)), []
    monkeypatch.setattr(shop, "trained", lambda config: starts.append(config))
    monkeypatch.setattr(workshop, "build", lambda *given, **options: SimpleNamespace(decoder=0))
    monkeypatch.setattr(workshop.hub, "load", lambda *given, **options: SimpleNamespace())
    saved = []
    monkeypatch.setattr(workshop.hub, "save_codec", lambda codec, path, half: saved.append(path))
    first = Path(stage_runs(shop.config("two stages", 0))[0].out_dir)
    first.mkdir(parents=True)
    for weights in (b"one", b"two"):
        (first / "final.safetensors").write_bytes(weights)
        shop.file("decoder anew", 0)
    assert len({one.init_from for one in starts[1::2]}) == 2 == len(set(saved))
    assert [str(path) for path in saved] == [one.init_from for one in starts[1::2]]


FORMS = {
    "continuous": {"error": 0.1, "rarity_cost": 0.02},
    "50": {"error": 0.4},
    "200": {"error": 0.2, "rarity_cost": 0.05, "bottom_20_share": 0.04},
    "800": {"error": 0.15},
}
SPEAKERS = {"continuous": {"error": 0.0}, "200": {"error": 0.4}}
UNIT_ROWS = {
    "k-means": {"speaker_accuracy": 0.9, "voice_ued_units": 0.5, "pnmi": 0.4},
    "Spin": {"speaker_accuracy": 0.7, "voice_ued_units": 0.3, "pnmi": 0.5},
    "DC-Spin": {"speaker_accuracy": 0.6, "voice_ued_units": 0.2, "pnmi": 0.6},
}
SPOKEN = [{"per": 0.2, "speaker_similarity": 0.8}, {"per": 0.3, "speaker_similarity": 0.6}]
CURVE = [{"per": 0.1, "speaker_similarity": 0.5}, {"per": 0.4, "speaker_similarity": 0.7}]


@pytest.mark.parametrize(
    ("name", "gain"),
    [
        ("10", 0.5), ("11", 0.2), ("12a", 20), ("12b", 30), ("13a", 0.3), ("13b", -0.1),
        ("13c", 0.2), ("14a", 10), ("14b", 20), ("19a", 6), ("19b", 9), ("20a", 1), ("20b", 2),
        ("21a", 30), ("21b", 30), ("22a", 10), ("22b", 10), ("22c", 10), ("23a", 10),
        # 1 known of 1, 0.6 with units, a third by chance; 0.9 of the phonemes, then 0.8
        ("23b", 100 * (0.4 / (2 / 3) - 0.1 / 0.9)),
        ("24a", 25), ("24b", 15), ("25a", 6), ("25b", 3), ("26", 40), ("27", 5),
        ("1a", 60), ("1b", -5), ("5a", 100 * math.log(2)), ("5b", -100 * math.log(2)),
    ],
)  # fmt: skip
def test_a_gain_speaks_for_its_claim(tmp_path, name, gain):
    """Every measure, from figures that are known: which is subtracted from which."""
    settings = ClaimSettings(tones="tones")
    shop, misread = Workshop(tmp_path, settings, -1, log=print), {}  # no time to measure
    for variant, value in (("distilled", 2.0), ("undistilled", 1.5), ("pseudo-labels", 1.8)):
        shop._found["information", variant, 0] = value
    for variant, value in (("both teachers", 30.0), ("speech alone", 36.0), ("text alone", 39.0),
                           ("last layers", 31.0), ("ninth layers", 32.0)):  # fmt: skip
        misread["misread", variant, 0, 1] = value
    shop._found |= misread | {
        ("curve", 0): CURVE, ("clusters", "distilled", 0): (0.2, 0.5),
        ("clusters", "undistilled", 0): (0.1, 0.2), ("spoken", 0): SPOKEN,
        ("units", 0): UNIT_ROWS, ("forms", "phonemes", 0): FORMS,
        ("forms", "speaker", 0): SPEAKERS, ("tone", 0): {"gain": 40.0},
        ("bands", 0): {"gain": 5.0},
        ("errors", "mirror", 0): {"vq_loss": 0.2, "mse": 2.0, "power": 4.0},
        ("errors", "non-mirror", 0): {"vq_loss": 0.1, "mse": 1.0, "power": 4.0},
    }  # fmt: skip
    for variant, used in (("anchors", 0.9), ("learnable", 0.3), ("random", 0.95)):
        shop._found["usage", variant, 0, 0] = {"usage": used, "perplexity": used / 2}
    shop.heard = lambda rate: SimpleNamespace(speakers=["a", "b", "c"])
    (claim,) = (one for one in CLAIMS if one.name == name)
    assert claim.measure(shop, 0)["gain"] == pytest.approx(gain)


def test_a_gain_that_is_no_number_is_no_verdict():
    values = {("6", seed): {"gain": gain} for seed, gain in enumerate((1.0, math.nan))}
    assert claim_rows(values)[0]["verdict"] == "not measurable"


def test_a_verdict_needs_seeds_that_agree():
    def row(*gains):
        (found,) = claim_rows({("6", seed): {"gain": gain} for seed, gain in enumerate(gains)})
        return found

    assert row(1.0)["verdict"] == "one seed" and row(1.0)["measured"] == "+1.00"
    assert row(1.0, 1.1, 0.9)["verdict"] == "reproduced"
    assert row(-1.0, -1.1, -0.9)["verdict"] == "not reproduced"
    assert row(1.0, 3.0, -1.0)["verdict"] == "inconclusive"
    assert row(1.0, 1.1, 0.9)["seeds"] == 3 and row(1.0, 2.0)["by_seed"]["1"] == {"gain": 2.0}


def test_the_command_trains_measures_and_goes_on(tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    options = [part for key, value in SMOKE.items() for part in ("--set", f"{key}={value}")
               if key != "changes"]  # fmt: skip
    for key, value in SMOKE["changes"].items():
        options += ["--set", f"changes.{key}={value}"]
    command = ["claims", "--only", "2,5", "--seeds", "0", *options]
    command += ["--runs", str(runs)]
    out = runs / "claims.json"  # what ships is not touched
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    rows, conditions = read_results(out)
    assert [row["claim"] for row in rows] == ["2", "5a", "5b"]
    assert -95 <= rows[0]["gain"] <= 5 and rows[0]["verdict"] == "one seed"
    mirror, other = (rows[1]["by_seed"]["0"][side] for side in ("one", "other"))
    assert mirror > 0 and other > 0
    assert conditions["settings"]["scale"] == "smoke"
    # What is written is known, also without the runs; other settings never mix with it.
    trained = []
    monkeypatch.setattr(workshop, "train", lambda config: trained.append(config))
    elsewhere = ["--runs", str(tmp_path / "elsewhere"), "--out", str(out)]
    again = CliRunner().invoke(app, [*command, *elsewhere])
    assert again.exit_code == 0 and not trained and "| 5b |" in again.output
    other = CliRunner().invoke(app, [*command, "--set", "steps=5"])
    assert other.exit_code == 2 and "steps" in other.output
    assert len(read_results(out)[0]) == 3


def test_a_spent_budget_keeps_what_is_known(tmp_path):
    settings = settings_of(SMOKE)
    values = tmp_path / "values"
    values.mkdir()

    held = {"settings": asdict(settings), "figures": {"gain": 2.0}}
    (values / "13a-0.json").write_text(json.dumps(held))
    (values / "19a-0.json").write_text(json.dumps(held))  # of an older measure: version 1
    (values / "99-0.json").write_text(json.dumps(held))  # a claim that is no longer there
    rows, done = run_claims(tmp_path, None, [13, 19], [0, 1], settings, -1.0, lambda line: None)
    assert not done and [row["claim"] for row in rows] == ["13a"] and rows[0]["gain"] == 2.0


def test_wrong_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown setting 'step'; did you mean steps"):
        settings_of({"step": 3})
    with pytest.raises(ValueError, match="claims: got \\[28\\]"):
        run_claims(tmp_path, only=[28])
