"""Runs in stages: weights handed on, parts frozen to the bit, stages resumed, skipped, refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import codec_lib
from codec_lib import hub, paths
from codec_lib.training.checkpoints import latest_checkpoint
from codec_lib.training.config import TrainConfig, last_stage, load_config
from codec_lib.training.description import describe_anything
from codec_lib.training.export import export_run
from codec_lib.training.freezing import FrozenPartChanged, FrozenParts
from codec_lib.training.launch import make_fabric
from codec_lib.training.logs import read_csv
from codec_lib.training.loop import train, train_step
from codec_lib.training.run import Run, load_weights

DECODER = {"name": "decoder", "steps": 2, "freeze": ["encoder", "quantizer"], "lr": 1e-4}
STAGES = [{"name": "all", "steps": 3}, DECODER]


@pytest.fixture
def staged(tiny_config):
    """Function that makes a config of two stages, with changes by keyword."""
    return lambda **changes: tiny_config(**{"stages": STAGES, "valid_every": 2, **changes})


def _weights(folder: Path, name: str = "final") -> dict[str, torch.Tensor]:
    return hub.read_tensors(folder / f"{name}.safetensors")[1]


def test_the_second_stage_starts_from_the_averages_of_the_first(staged, capsys):
    folder = train(staged(critics="smoke"))
    first, second = folder / "1_all", folder / "2_decoder"
    assert [len(read_csv(one / "metrics.csv")) for one in (first, second)] == [3, 2]
    before, after = _weights(first), _weights(second)
    assert before.keys() == after.keys()
    parts = {"encoder": True, "quantizer": True, "decoder": False}
    same = {name: torch.equal(value, after[name]) for name, value in before.items()}
    assert same == {name: parts.get(name.partition(".")[0], True) for name in before}
    said = capsys.readouterr().out
    assert "stage 1_all of 2" in said and "stage 2_decoder of 2" in said
    assert "frozen: encoder, quantizer, weights of" in said
    run = load_config(None, second / "config.yml")
    assert (run.lr, run.steps, run.seed, run.stages) == (1e-4, 2, 1, ())
    assert Path(run.init_from) == first / "final.safetensors"
    card, last = codec_lib.load(second / "final.safetensors").card, read_csv(second / "metrics.csv")
    assert card["valid/stoi"] == pytest.approx(float(last[-1]["valid/stoi"]))  # of its last step


def test_a_stage_keeps_statistics_and_has_new_critics_and_optimisers(staged):
    config = staged(stages=[STAGES[0], {"name": "again"}], critics="smoke")
    first = train(config) / "1_all"
    again = load_config(None, first.parent / "2_again" / "config.yml")
    run = Run(again, make_fabric(again))
    average = latest_checkpoint(first) / "average.safetensors"
    for name, value in hub.load_file(average).items():  # all of it: counts, sums, seeds
        assert torch.equal(run.codec.state_dict()[name], value), name
    assert not run.networks.codec_optimizer.state_dict()["state"]
    trained = hub.load_file(latest_checkpoint(first) / "critics.safetensors")
    assert any(not torch.equal(v, trained[k]) for k, v in run.critics.state_dict().items())


def test_frozen_codebooks_neither_start_nor_move_nor_revive(tiny_config):
    """Also from random weights, where training would begin with k-means."""
    config = tiny_config(freeze=["quantizer"])
    run = Run(config, make_fabric(config))
    run.open_data()
    before = {k: v.clone() for k, v in run.codec.state_dict().items()}
    values = [train_step(run, run.next_batch()) for run.step in range(2)]
    assert not run.codec.quantizer.training and run.codec.encoder.training
    same = {
        name: torch.equal(value, before[name]) for name, value in run.codec.state_dict().items()
    }
    assert all(is_same for name, is_same in same.items() if name.startswith("quantizer."))
    assert not any(is_same for name, is_same in same.items() if name.startswith("encoder."))
    moving = run.networks.codec_optimizer.param_groups[0]["params"]
    assert len(moving) == sum(p.requires_grad for p in run.codec.parameters())
    assert all(p.grad is None for p in run.codec.quantizer.parameters())
    assert values[1]["commitment_loss"] > 0


@pytest.mark.parametrize("culprit", ["codec", "average"])
def test_a_changed_frozen_part_is_caught_and_not_written(tiny_config, monkeypatch, culprit):
    config = tiny_config(steps=4, checkpoint_every=2, freeze=["encoder"])
    original = Run.count_codes

    def count_codes(self: Run, codes: torch.Tensor) -> None:
        original(self, codes)
        if self.step == 3:
            codec = self.codec if culprit == "codec" else self.average.module
            weight = next(codec.encoder.parameters())
            weight.data.view(-1)[:1].view(torch.int32).bitwise_xor_(1)  # the last bit of one number

    monkeypatch.setattr(Run, "count_codes", count_codes)
    with pytest.raises(FrozenPartChanged, match=r"1 tensors of encoder have changed.*e.g. encoder"):
        train(config)
    assert latest_checkpoint(config.out_dir).name == "step_00000002"
    assert not (Path(config.out_dir) / "final.safetensors").exists()


def test_a_checkpoint_with_another_frozen_part_is_refused(tiny_config):
    config = tiny_config(steps=2, freeze=["decoder"])
    last = latest_checkpoint(train(config))
    codec = hub.load_file(last / "codec.safetensors")
    name = next(name for name in codec if name.startswith("decoder"))
    hub.save_file({**codec, name: codec[name] + 1}, last / "codec.safetensors")
    with pytest.raises(FrozenPartChanged, match=name):
        train(replace(config, steps=3))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["quantiser"], "freeze: got 'quantiser', expected a part of the codec, e.g. encoder"),
        ([""], "freeze: got ''"),
        (["encoder", "quantizer", "decoder", "semantic"], "something left to train"),
    ],
)
def test_what_cannot_be_frozen(names, message):
    codec = codec_lib.build("speechtokenizer", "smoke")
    with pytest.raises(ValueError, match=message):
        FrozenParts(codec, names)


def test_a_mistake_in_a_later_stage_shows_before_the_first(staged):
    mistakes = {
        "expected a part of the codec": {"freeze": ["quantiser"]},
        "recipe: got 'tiny'": {"recipe": "tiny"},
        "wdth": {"overrides": {"wdth": 3}},
        "weights do not fit": {"overrides": {"width": 24}},
        "expected at least .* for critics 'paper'": {"critics": "paper", "segment_seconds": 0.1},
        "no projection for it": {"text_teacher": "text-small"},
        "nowhere": {"corpus": "nowhere"},
    }
    for message, wrong in mistakes.items():
        config = staged(stages=[STAGES[0], {**DECODER, **wrong}])
        with pytest.raises(ValueError, match=message):
            train(config)
        assert not Path(config.out_dir).exists()


def test_a_codebook_of_another_size_starts_anew(tiny_config):
    """Also what says that it has started: else k-means would not give it its entries."""
    folder = train(tiny_config(steps=2))
    config = tiny_config(**{"overrides.codebook_size": 32, "init_from": str(folder)})
    codec = Run(replace(config, out_dir=f"{folder}-2"), make_fabric(config)).codec
    given = hub.load(folder / "final.safetensors", fold=False).state_dict()
    state = codec.state_dict()
    started = [key for key in state if key.endswith("initialized")]
    assert started and all(given[key] for key in started)
    assert not any(state[key] for key in started)
    kept = [key for key in state if key.startswith("encoder.")]
    assert all(torch.equal(state[key], given[key]) for key in kept)


def test_finished_stages_are_skipped_and_an_unfinished_one_goes_on(staged, monkeypatch):
    config = staged(time_limit_minutes=1e-9)
    folder = train(config)  # one step of the first stage
    assert latest_checkpoint(folder / "1_all").name == "step_00000001"
    assert not (folder / "2_decoder").exists()
    config = replace(config, time_limit_minutes=0.0)
    train(config)
    built = []
    original = Run.__init__
    monkeypatch.setattr(Run, "__init__", lambda s, c, f: built.append(c.steps) or original(s, c, f))
    train(config)
    assert built == []
    longer = replace(config, stages=(STAGES[0], {**DECODER, "steps": 4}))
    train(longer)
    assert built == [4] and len(read_csv(folder / "2_decoder" / "metrics.csv")) == 4
    third = replace(longer, stages=(*longer.stages, {"name": "more", "steps": 1}))
    train(third)
    assert built == [4, 1] and last_stage(folder) == folder / "3_more"


def test_a_run_in_stages_refuses_what_would_change_it(staged, tmp_path):
    config = staged()
    folder = train(config)

    def refused(message: str, changed: TrainConfig) -> None:
        with pytest.raises(ValueError, match=message):
            train(changed)

    refused(r"1_all holds another run \(batch_size was 4 and is 2", replace(config, batch_size=2))
    slower = (STAGES[0], {**DECODER, "lr": 2e-4})
    refused(r"2_decoder holds another run \(lr was 0.0001", replace(config, stages=slower))
    frozen = (STAGES[0], {**DECODER, "freeze": ["encoder"]})
    refused(r"freeze was \('encoder', 'quantizer'\) and is", replace(config, stages=frozen))
    longer = ({"name": "all", "steps": 9}, DECODER)
    refused(r"2_decoder started from .*1_all, which has not", replace(config, stages=longer))
    renamed = (STAGES[0], {**DECODER, "name": "tune"})
    refused(r"2_decoder holds another run \(stages was", replace(config, stages=renamed))
    refused(r"1_all holds another run \(stages was", replace(config, stages=()))
    moved = folder.rename(tmp_path / "moved")
    assert train(replace(config, out_dir=str(moved))) == moved
    train(replace(config, out_dir=str(moved), lr=0.1, stages=()), fresh=True)
    assert not list(moved.glob("[12]_*")) and (moved / "final.safetensors").exists()
    train(replace(config, out_dir=str(moved)), fresh=True)
    assert sorted(path.name for path in moved.iterdir()) == ["1_all", "2_decoder", "config.yml"]


@pytest.mark.parametrize("codec", ["ds_codec_vq", "ds_codec_pq"])
def test_ds_codec_starts_its_second_stage_where_the_first_ended(tiny_config, codec, speech_batch):
    config = tiny_config(codec=codec, recipe="ds_codec_small")
    stages = tuple({**stage, "steps": 2} for stage in load_config("ds_codec").stages)
    folder = train(replace(config, overrides={}, stages=stages))
    mirror = hub.load(folder / "1_mirror" / "final.safetensors")
    second = load_config(None, folder / "2_decoder" / "config.yml")
    run = Run(second, make_fabric(second))
    assert run.fresh_parts == ["transformer"]
    with torch.no_grad():
        begun = run.codec.eval()(speech_batch).wav
        torch.testing.assert_close(begun, mirror(speech_batch).wav, rtol=0, atol=1e-5)
    ended = hub.load(folder / "2_decoder" / "final.safetensors")
    assert torch.equal(ended.encode(speech_batch).codes, mirror.encode(speech_batch).codes)
    assert not torch.allclose(ended(speech_batch).wav, begun, atol=1e-4)
    row = read_csv(folder / "2_decoder" / "metrics.csv")[-1]
    assert float(row["train/commitment_loss"]) > 0 and float(row["train/grad_norm"]) > 0


def test_the_last_stage_is_what_a_run_stands_for(staged, tmp_path, monkeypatch):
    folder = train(staged())
    codec = codec_lib.build(
        "speechtokenizer", "smoke", **load_config(None, folder / "config.yml").overrides
    )
    assert load_weights(codec, str(folder)) == []
    best = hub.load(folder / "2_decoder" / "best.safetensors", fold=False).state_dict()
    assert all(torch.equal(value, best[name]) for name, value in codec.state_dict().items())
    described = describe_anything(str(folder))
    assert described["stage 2_decoder"] == described["checkpoint"] == "step_00000002"
    monkeypatch.setattr(paths, "checkpoints_root", lambda: tmp_path)
    monkeypatch.setattr(hub, "checkpoints_root", lambda: tmp_path)
    file, card = export_run(folder, "staged", "CC0")
    assert "3 (all) + 2 (decoder) of" in card.read_text()
    assert hub.load(file).card["training"]["stages"] == STAGES
    assert not any("codebook_sum" in name for name in hub.read_tensors(file)[1])
    kept = file.read_bytes(), card.read_text(), hub.listing()
    with pytest.raises(ValueError, match="is there already"):
        export_run(folder, "staged", "CC0")
    assert kept == (file.read_bytes(), card.read_text(), hub.listing())
    alone, _ = export_run(folder / "2_decoder", "second", "CC0")
    assert hub.load(alone).card["training"]["init_from"] == "1_all/final.safetensors"
    for shipped in (file, alone):  # a file that travels names no folder of this machine
        assert str(tmp_path).encode() not in shipped.read_bytes()
        assert str(folder.parent).encode() not in shipped.read_bytes()
