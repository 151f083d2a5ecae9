"""Two steps of everything: what is written, what each step leaves behind, bf16, NaN, teachers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

import codec_lib
from codec_lib.discriminators import build_discriminators
from codec_lib.losses import GeneratorObjective
from codec_lib.teachers import HubertConfig, SmallHubert, save_hubert
from codec_lib.teachers.small_text import SmallTextEncoder, TextConfig, save_text_encoder
from codec_lib.training import loop, steps
from codec_lib.training.batches import training_and_held_out
from codec_lib.training.checkpoints import latest_checkpoint, list_checkpoints
from codec_lib.training.launch import make_fabric
from codec_lib.training.logs import read_csv
from codec_lib.training.loop import train
from codec_lib.training.run import Run
from codec_lib.training.steps import Networks, NonFiniteLoss, Trainee


def test_two_steps_write_a_whole_run(tiny_config, capsys):
    folder = train(tiny_config(steps=2, critics="smoke", critic_start=1, valid_every=1))
    rows = read_csv(folder / "metrics.csv")
    assert [row["step"] for row in rows] == ["0", "1"]
    assert rows[0]["train/adv_loss"] == "" and float(rows[1]["train/adv_loss"]) > 0
    assert all(math.isfinite(float(row["train/loss"])) for row in rows)
    assert 0 < float(rows[1]["codes/usage_3"]) <= 1 and float(rows[1]["valid/mel_distance"]) > 0
    assert latest_checkpoint(folder).name == "step_00000002"
    assert any((folder / "tensorboard").iterdir())
    assert "step 2/2" in capsys.readouterr().out
    wav = torch.zeros(1, 1, 1000)
    for name in ("best", "final"):
        codec = codec_lib.load(folder / f"{name}.safetensors")
        assert codec.decode(codec.encode(wav)).shape == wav.shape


def test_a_run_leaves_no_pickle(tiny_config):
    folder = train(tiny_config(steps=1, critics="smoke"))
    suffixes = {path.suffix for path in latest_checkpoint(folder).iterdir()}
    assert suffixes == {".safetensors", ".json"}


def test_only_two_checkpoints_are_kept(tiny_config):
    folder = train(tiny_config(steps=4, checkpoint_every=1))
    names = [path.name for path in list_checkpoints(folder)]
    assert names == ["step_00000003", "step_00000004"]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == names


def _networks(clip_norm: float = 0.0) -> tuple[Fabric, Networks, torch.nn.Module, torch.nn.Module]:
    fabric = Fabric(accelerator="cpu", devices=1)
    codec = codec_lib.build("speechtokenizer", "smoke", num_quantizers=2, codebook_size=8)
    critics = build_discriminators("smoke")
    networks = Networks(
        *fabric.setup(Trainee(codec), torch.optim.AdamW(codec.parameters(), lr=1e-3)),
        objective=GeneratorObjective("small"),
        clip_norm=clip_norm,
    )
    wrapped = fabric.setup(critics, torch.optim.AdamW(critics.parameters(), lr=1e-3))
    networks.critics, networks.critic_optimizer = wrapped
    return fabric, networks, codec, critics


def test_each_step_touches_its_own_networks_only(speech_batch):
    fabric, networks, codec, critics = _networks()
    output = steps.codec_forward(networks, speech_batch)

    def weights(module: torch.nn.Module) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in module.parameters()]).clone()

    codec_before, critics_before = weights(codec), weights(critics)
    steps.discriminator_step(fabric, networks, speech_batch, output.wav)
    critics_after = weights(critics)
    assert not torch.equal(critics_after, critics_before)
    assert torch.equal(weights(codec), codec_before)
    assert all(p.grad is None for p in codec.parameters())
    steps.generator_step(fabric, networks, speech_batch, output, is_adversarial=True)
    assert not torch.equal(weights(codec), codec_before)
    assert torch.equal(weights(critics), critics_after)
    assert all(p.grad is None and p.requires_grad for p in critics.parameters())
    assert all(p.grad is None for p in codec.parameters())


def test_critics_get_the_gradient_of_their_own_loss(speech_batch, monkeypatch):
    """The gradient that the optimiser sees is the loss's, not a rest of the generator's step."""
    fabric, networks, _, critics = _networks()
    fake, seen = 0.5 * speech_batch, []
    output = steps.codec_forward(networks, speech_batch)
    steps.generator_step(fabric, networks, speech_batch, output, is_adversarial=True)

    def watch(*_: object) -> torch.Tensor:
        seen.extend(p.grad.clone() for p in critics.parameters())
        return torch.zeros(())

    monkeypatch.setattr(steps, "update", watch)
    steps.discriminator_step(fabric, networks, speech_batch, fake)
    loss = steps.discriminator_loss(critics(speech_batch), critics(fake), "hinge")
    expected = torch.autograd.grad(loss, list(critics.parameters()))
    for got, wanted in zip(seen, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_critics_hear_a_part_of_the_batch(speech_batch):
    fabric, networks, _, critics = _networks()
    networks.heard = 1
    batches = []
    critics.register_forward_hook(lambda module, inputs, outputs: batches.append(len(inputs[0])))
    output = steps.codec_forward(networks, speech_batch)
    steps.discriminator_step(fabric, networks, speech_batch, output.wav)
    values = steps.generator_step(fabric, networks, speech_batch, output, is_adversarial=True)
    assert batches == [2, 1, 1] and values["feat_loss"] > 0


def test_clipping_bounds_the_update(speech_batch):
    fabric, networks, codec, _ = _networks(clip_norm=1e-3)
    networks.codec_optimizer = fabric.setup_optimizers(torch.optim.SGD(codec.parameters(), lr=1.0))
    before = [p.detach().clone() for p in codec.parameters()]
    output = steps.codec_forward(networks, speech_batch)
    values = steps.generator_step(fabric, networks, speech_batch, output)
    moved = torch.stack([(p - b).norm() for p, b in zip(codec.parameters(), before, strict=True)])
    assert values["grad_norm"] > 1e-3
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_the_error_of_the_quantizer_is_logged_beside_its_loss(speech_batch):
    fabric, networks, _, _ = _networks()
    output = steps.codec_forward(networks, speech_batch)
    z, z_q = output.z.detach(), output.z_q.detach()
    values = steps.generator_step(fabric, networks, speech_batch, output)
    torch.testing.assert_close(values["quantizer_mse"], ((z - z_q) ** 2).mean())
    torch.testing.assert_close(values["latent_power"], (z**2).mean())


def test_overfits_one_batch(tiny_config):
    fast = {"overrides.quantizer": {"decay": 0.8}}  # codebooks must keep up with 60 steps
    config = tiny_config(steps=60, lr=1e-2, warmup_steps=5, batch_size=2, **fast)
    run = Run(config, make_fabric(config))
    run.open_data()
    batch = run.next_batch()
    losses = []
    for run.step in range(config.steps):
        losses.append(loop.train_step(run, batch)["recon_loss/mel"].item())
    assert losses[-1] < 0.2 * losses[0]


def test_bf16_trains_and_keeps_waveforms_exact(tiny_config, monkeypatch):
    seen = []
    forward = Trainee.forward

    def watched(self: Trainee, wav: torch.Tensor, *rest: object) -> dict:
        seen.append((wav.dtype, torch.is_autocast_enabled("cpu")))
        return forward(self, wav, *rest)

    monkeypatch.setattr(Trainee, "forward", watched)
    folder = train(tiny_config(steps=2, precision="bf16-mixed", critics="smoke"))
    assert seen == [(torch.float32, True)] * 2
    rows = read_csv(folder / "metrics.csv")
    assert all(math.isfinite(float(row["train/loss"])) for row in rows)


def test_nan_names_term_and_utterances_and_keeps_the_checkpoint(tiny_config, monkeypatch):
    config = tiny_config(steps=3, checkpoint_every=1)

    class Broken(GeneratorObjective):
        def _reconstruction(self, out, wav):
            terms = super()._reconstruction(out, wav)
            return {**terms, "recon_loss/wave": terms["recon_loss/wave"] * float("nan")}

    train(replace(config, steps=1))
    monkeypatch.setattr("codec_lib.training.run.GeneratorObjective", Broken)
    with pytest.raises(NonFiniteLoss, match=r"step 1: recon_loss/wave is nan.*utterances \w+") as e:
        train(config)
    assert "step_00000001" in str(e.value)
    assert latest_checkpoint(Path(config.out_dir)).name == "step_00000001"


@pytest.mark.parametrize("distill", ["continuous", "pseudo_label"])
def test_a_teacher_is_distilled(tiny_config, tmp_path, monkeypatch, distill):
    monkeypatch.setenv("CODEC_LIB_CACHE", str(tmp_path / "cache"))
    teacher = SmallHubert(
        HubertConfig(num_mels=20, dim=16, num_layers=1, num_heads=2, ffn_dim=16, num_units=4)
    )
    path = save_hubert(teacher, tmp_path / "teacher.safetensors")
    config = tiny_config(steps=2, teacher=str(path), distill=distill, units=5)
    config = replace(config, overrides={"num_quantizers": 2, "codebook_size": 16})
    run = Run(config, make_fabric(config))
    run.open_data()
    before = run.codec.encoder.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    loss = loop.train_step(run, run.next_batch())
    name = "distill_loss" if distill == "continuous" else "distill_loss/units"
    low, high = (0.3133, 1.3133) if distill == "continuous" else (0.0, 10.0)
    assert low <= loss[name].item() <= high
    head = run.codec.semantic if distill == "continuous" else run.codec.units
    assert head.out_features == (16 if distill == "continuous" else 5)
    assert any(not torch.equal(before[k], v) for k, v in run.codec.encoder.state_dict().items())


@pytest.mark.parametrize(("distill", "form"), [("continuous", "aligned"), ("none", "padded")])
def test_a_text_teacher_is_distilled(tiny_config, tmp_path, monkeypatch, distill, form):
    """Combined and LM-guided DM-Codec on speech whose text is known."""
    monkeypatch.setenv("CODEC_LIB_CACHE", str(tmp_path / "cache"))
    sizes = {"dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 16}
    speech = SmallHubert(HubertConfig(num_mels=20, **sizes, num_units=4))
    text = SmallTextEncoder(TextConfig(**sizes))
    files = {
        "teacher": str(save_hubert(speech, tmp_path / "speech.safetensors")),
        "text_teacher": str(save_text_encoder(text, tmp_path / "text.safetensors")),
    }
    config = tiny_config(
        steps=2, codec="dm_codec", corpus="synthetic/small", valid_corpus=None,
        recipe="dm_codec_small", distill=distill, text_form=form, **files,
    )  # fmt: skip
    config = replace(config, overrides={"num_quantizers": 2, "codebook_size": 16})
    run = Run(config, make_fabric(config))
    run.open_data()
    weights = {key: value.clone() for key, value in run.codec.state_dict().items()}
    loss = loop.train_step(run, run.next_batch())
    assert 0.3133 < loss["distill_loss/text"].item() < 1.3133
    assert ("distill_loss" in loss) == (distill == "continuous")
    shared = distill == "continuous"  # one map where widths are equal
    assert (run.codec.text is None) == shared
    taught = "semantic" if shared else "text"
    after = run.codec.state_dict()
    for part in ("encoder.", f"{taught}."):
        assert any(not torch.equal(weights[k], after[k]) for k in weights if k.startswith(part))
    if not shared:  # no loss reads the speech projection
        assert torch.equal(weights["semantic.weight"], after["semantic.weight"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"codec": "nope"}, "nope"),
        ({"recipe": "papr"}, "recipe: got 'papr'"),
        ({"recipe_overrides": {"mel": "small ones"}}, "small ones"),
        ({"recipe_overrides": {"feature_form": "far"}}, "feature_form: got 'far'"),
        ({"critics": "mdp"}, "mdp"),
        ({"critics": "paper", "segment_seconds": 0.1}, "expected at least .* for critics 'paper'"),
        ({"segment_seconds": 0.01}, "expected"),
        ({"freeze": ["encodr"]}, "expected a part of the codec"),
        ({"rate": "melt"}, "codec of fixed rate"),
        ({"init_from": "nowhere"}, "nowhere"),
    ],
)
def test_a_mistake_shows_before_a_teacher_hears_the_corpus(
    tiny_config, monkeypatch, wrong, message
):
    def hears(*_: object) -> None:
        pytest.fail("the teacher hears, for hours")

    monkeypatch.setattr("codec_lib.training.run.make_teaching", hears)
    config = tiny_config(**wrong) if "codec" not in wrong else replace(tiny_config(), **wrong)
    with pytest.raises(ValueError, match=message):
        train(config)
    assert not Path(config.out_dir).exists()


def test_every_process_has_as_many_crops_as_any_other(tiny_config):
    loop._check_parts(tiny_config(batch_size=4, critic_batch_size=2), world_size=2)
    for name, changes in (("batch_size", {}), ("critic_batch_size", {"critic_batch_size": 1})):
        config = tiny_config(**{"batch_size": 4 if changes else 3, **changes})
        with pytest.raises(ValueError, match=rf"^{name}: got \d for 2 processes, expected a mult"):
            loop._check_parts(config, world_size=2)


def test_heads_that_a_teacher_adds_can_be_frozen(tiny_config):
    codec = loop._check_parts(tiny_config(freeze=["units", "semantic", "decoder"]), world_size=1)
    assert not codec.decoder.training and codec.encoder.training
    with pytest.raises(ValueError, match="something left to train"):
        loop._check_parts(tiny_config(freeze=["encoder", "decoder", "semantic"]), world_size=1)


def test_joint_codes_beyond_all_memory_are_trained(tiny_config):
    sizes = {"num_parts": 4, "codebook_size": 256, "latent_dim": 16, "codebook_dim": None}
    config = tiny_config(codec="ds_codec_pq", recipe="ds_codec_small", steps=2)
    row = read_csv(train(replace(config, overrides=sizes)) / "metrics.csv")[-1]
    assert float(row["codes/dead_codes_1"]) > 256**4 - 1000
    assert 0 < float(row["codes/usage_1"]) < 1e-6 < 1 <= float(row["codes/perplexity_1"])


@pytest.mark.parametrize("codec", ["speechtokenizer", "dm_codec", "encodec"])
def test_a_run_without_a_teacher_says_what_it_leaves_out(tiny_config, codec):
    config = replace(tiny_config(codec=codec), overrides={"codebook_size": 16})
    run = Run(config, make_fabric(config))
    hint = "; no teacher: codebook 1 is not taught. Hint: --teacher hubert-small"
    assert run.describe().endswith(f"of {config.steps}{'' if codec == 'encodec' else hint}")
    run.teaching.parts["semantic"] = lambda index: torch.zeros(1, 1)
    assert "no teacher" not in run.describe()


def test_test_utterances_are_never_trained_on(tiny_config, tiny_corpus):
    train_part, held_out = training_and_held_out(tiny_config(), 16000)
    assert {u.split for u in train_part} == {"train"} and {u.split for u in held_out} == {"dev"}
    split = {u.utterance_id for u in train_part} & {u.utterance_id for u in held_out}
    assert not split


def test_weights_start_from_another_run(tiny_config, tmp_path):
    first = train(tiny_config(steps=1))
    given = codec_lib.load(first / "best.safetensors", fold=False).state_dict()
    config = tiny_config(init_from=str(first), out_dir=str(tmp_path / "second"))
    run = Run(config, make_fabric(config))
    assert run.step == 0
    for key, value in run.codec.encoder.state_dict().items():
        torch.testing.assert_close(value, given[f"encoder.{key}"])
    with pytest.raises(ValueError, match="do not fit"):
        wider = tiny_config(init_from=str(first), **{"overrides.width": 40})
        Run(wider, make_fabric(wider))
