"""Melt and Cool as stages of a run, on any codec; test_resume.py kills such a run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import codec_lib
from codec_lib import hub
from codec_lib.rate import Cool, Melt
from codec_lib.training.config import TrainConfig, load_config
from codec_lib.training.launch import make_fabric
from codec_lib.training.logs import read_csv
from codec_lib.training.loop import train, train_step
from codec_lib.training.rates import make_manager, segment_at
from codec_lib.training.run import Run
from codec_lib.training.stages import stage_runs
from codec_lib.training.steps import NonFiniteLoss

STAGES = [
    {"name": "backbone", "steps": 2, "overrides": {"token_rate": None}},
    {"name": "melt", "steps": 3, "rate": "melt", "rate_overrides": {"bypass": 0.0}},
    {"name": "cool", "steps": 3, "rate": "cool", "freeze": ["encoder"]},
]


@pytest.fixture
def slimy(tmp_path: Path, tiny_corpus: Path):
    """Function that makes the config of a run in CodecSlime's stages, with changes by keyword."""

    def make(codec: str = "codecslime_vq", **changes: object) -> TrainConfig:
        values = {
            "codec": codec, "corpus": str(tiny_corpus), "segment_seconds": 0.25, "batch_size": 3,
            "valid_every": 3, "checkpoint_every": 1, "out_dir": str(tmp_path / codec),
            "stages": STAGES, "recipe": "ds_codec_small", **changes,
        }  # fmt: skip
        return load_config("smoke", changes=values)

    return make


@pytest.mark.parametrize(
    ("codec", "overrides"),
    [
        ("codecslime_vq", {}),
        ("codecslime_fsq", {}),
        ("codecslime_vq", {"segment_form": "frames"}),
        ("ds_codec_vq", {"max_length": 4, "token_rate": 40}),
        ("speechtokenizer", {"max_length": 4, "token_rate": 25}),
    ],
)
def test_any_codec_melts_and_cools(slimy, codec: str, overrides: dict) -> None:
    folder = train(slimy(codec, overrides=overrides))
    for stage, steps in (("1_backbone", 2), ("2_melt", 3), ("3_cool", 3)):
        rows = read_csv(folder / stage / "metrics.csv")
        assert len(rows) == steps
        assert all(math.isfinite(float(row["train/loss"])) for row in rows)
    before, after = (
        hub.read_tensors(folder / stage / "final.safetensors")[1] for stage in ("2_melt", "3_cool")
    )
    moved = {
        name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])
    }
    assert "encoder" not in moved and "decoder" in moved
    assert any(not torch.equal(v, after[k]) for k, v in before.items() if k.startswith("quantizer"))
    made = codec_lib.load(folder / "3_cool" / "final.safetensors")
    assert made.token_rate == made.frame_rate / 2 and made.max_length == 4
    assert codec_lib.load(folder / "1_backbone" / "final.safetensors").token_rate == made.frame_rate


def test_a_step_sees_what_its_stage_draws(slimy) -> None:
    """Melt: the same lengths in other orders; Cool: the scheduler's, and some items uncut."""
    melt, cool = stage_runs(slimy())[1:]
    lengths: list[torch.Tensor | None] = []
    for config in (melt, cool):
        run = Run(replace(config, init_from=None, batch_size=24), make_fabric(config))
        run.open_data()
        run.count_codes = lambda codes: lengths.append(codes.lengths)
        run.step = 2
        train_step(run, run.next_batch())
    drawn, cut = lengths
    assert drawn.sum(dim=1).tolist() == [20] * 24 and cut.sum(dim=1).tolist() == [20] * 24
    assert torch.equal(drawn.sort(dim=1).values, drawn.sort(dim=1).values[:1].expand_as(drawn))
    assert not torch.equal(drawn, drawn[:1].expand_as(drawn))
    counts = (cut > 0).sum(dim=1).tolist()
    assert set(counts) == {10, 20} and 1 <= counts.count(20) <= 16  # 30 % of 24, by chance


def test_the_same_step_draws_the_same_and_others_draw_others() -> None:
    melt = Melt(ramp_steps=1, bypass=0.0)
    z = torch.zeros(2, 4, 80)
    first = segment_at(melt, 7, 0)(z)
    assert torch.equal(first, segment_at(melt, 7, 0)(z))
    for other in ((8, 0), (7, 1)):
        drawn = segment_at(melt, *other)(z)
        assert drawn.shape != first.shape or not torch.equal(drawn, first)


@pytest.mark.parametrize("manager", [Melt(ramp_steps=1, bypass=0.0), Cool()], ids=["melt", "cool"])
def test_processes_share_what_one_would_draw(manager: Melt | Cool) -> None:
    z = torch.randn(6, 4, 40)
    whole = segment_at(manager, 3, 5)(z)
    for rank in range(3):
        mine = segment_at(manager, 3, 5, rank, 3)(z[2 * rank : 2 * rank + 2])
        for lengths, expected in zip(mine, whole[2 * rank : 2 * rank + 2], strict=True):
            assert lengths[lengths > 0].tolist() == expected[expected > 0].tolist()


def test_managers_follow_the_codec_and_the_run(slimy) -> None:
    _, melt, cool = stage_runs(slimy())
    codec = codec_lib.build("codecslime_vq", "smoke")
    assert make_manager(melt, codec) == Melt(ramp_steps=3, bypass=0.0)
    assert make_manager(cool, codec) == Cool(ratio=2.0, max_length=4, cost="paper", bypass=0.3)
    other = codec_lib.build("codecslime_vq", "smoke", token_rate=50.0, segment_cost="squared")
    assert make_manager(cool, other) == Cool(ratio=1.6, cost="squared")
    printed = replace(melt, rate_overrides={"leftover": "longest", "ramp_steps": 9})
    assert make_manager(printed, codec) == Melt(ramp_steps=9, leftover="longest")
    assert make_manager(replace(melt, rate="codec", rate_overrides={}), codec) is None


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"rate": "melt"}, {"max_length": 1, "token_rate": None}, "codec of fixed rate; hint"),
        ({"rate": "melt"}, {"max_length": 3}, "got 4 shares in target, expected one for each"),
        ({"rate": "cool"}, {"token_rate": None}, "cuts nothing; hint: overrides.token_rate=40"),
        ({"rate": "cool", "rate_overrides": {"target": [1]}}, {}, "rate_overrides: .*'target'"),
        ({"rate": "cool", "rate_overrides": {"ratio": 5}}, {}, "ratio, bypass: got 5"),
        ({"rate": "cool", "rate_overrides": {"max_length": 8}}, {}, "up to 8 frames, expected at"),
        ({"rate_overrides": {"bypass": 0}}, {}, "for rate 'codec', which has none"),
        ({"rate": "melted"}, {}, "rate: got 'melted', expected one of"),
    ],
)
def test_senseless_rates_are_refused_before_the_first_step(slimy, changes, overrides, message):
    stages = [STAGES[0], {"name": "last", "steps": 2, "overrides": overrides, **changes}]
    with pytest.raises(ValueError, match=message):
        train(slimy(stages=stages))


@pytest.mark.parametrize("rate", ["codec", "cool", "melt"])
def test_a_latent_that_is_not_finite_is_a_loss_that_is_not(slimy, monkeypatch, rate) -> None:
    """Step, utterances and what is left are named, however the latent would be cut."""
    original = Run.next_batch

    def next_batch(self: Run) -> dict:
        batch = original(self)
        return {**batch, "wav": batch["wav"] * torch.nan} if self.step == 1 else batch

    monkeypatch.setattr(Run, "next_batch", next_batch)
    with pytest.raises(NonFiniteLoss, match=r"step 1: .*utterances .*last checkpoint: .*step_"):
        train(slimy(stages=[{"name": "one", "steps": 3, "rate": rate}]))
