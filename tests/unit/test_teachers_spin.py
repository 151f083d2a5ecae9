r"""Spin: what is trained, the loss, units, files, teachers of either kind."""

import math

import pytest
import torch
import torchaudio
from torch.nn import functional

from codec_lib.teachers import load_teacher
from codec_lib.teachers.base_hubert import BaseHubert, BaseHubertConfig
from codec_lib.teachers.hubert import HubertConfig, SmallHubert, save_hubert
from codec_lib.teachers.pretrained import PretrainedTeacher
from codec_lib.teachers.sinkhorn import sinkhorn
from codec_lib.teachers.spin import (
    Spin,
    SpinHead,
    SpinSizes,
    swapped_prediction_loss,
)
from codec_lib.teachers.spin_files import load_spin, save_spin

TINY = HubertConfig(dim=32, num_layers=3, num_heads=2, ffn_dim=64, num_units=10, unit_dim=16)
SIZES = SpinSizes(num_codes=12, num_auxiliary=40, code_dim=8)
PUBLISHED = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [(8, 10, 5), (8, 8, 8), (8, 8, 8)],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 16,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 8,
    "encoder_pos_conv_groups": 2,
    "encoder_num_layers": 3,
    "encoder_num_heads": 2,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 32,
    "encoder_ff_interm_dropout": 0.1,
    "encoder_dropout": 0.1,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.5,
    "aux_num_out": None,
}


@pytest.fixture
def teacher():
    return SmallHubert(TINY).eval()


@pytest.fixture
def spin(teacher):
    return Spin(teacher, SIZES).eval()


def published(layer_norm_first=False):
    mode = {"extractor_mode": "layer_norm"} if layer_norm_first else {}
    sizes = {**PUBLISHED, **mode, "encoder_layer_norm_first": layer_norm_first}
    return PretrainedTeacher(torchaudio.models.wav2vec2_model(**sizes))


def test_only_the_top_two_layers_and_the_heads_learn(spin, speech_batch):
    names = {name.rsplit(".", 1)[0] for name, w in spin.named_parameters() if w.requires_grad}
    allowed = ("teacher.layers.1", "teacher.layers.2", "teacher.final_norm", "heads")
    assert all(name.startswith(allowed) for name in names) and len(names) > 4
    scores = spin(speech_batch)
    sum(score.square().sum() for score in scores.values()).backward()
    for name, weight in spin.named_parameters():
        reached = weight.grad is not None and bool(weight.grad.abs().sum() > 0)
        assert reached == weight.requires_grad, name


@pytest.mark.parametrize("layer_norm_first", [False, True])
def test_published_teachers_learn_in_their_top_layers(layer_norm_first, speech_batch):
    spin = Spin(published(layer_norm_first), SIZES)
    spin(speech_batch)["primary"].square().sum().backward()
    learnt = {name for name, weight in spin.named_parameters() if weight.grad is not None}
    place = "teacher.model.encoder.transformer."
    assert f"{place}layers.1.attention.k_proj.weight" in learnt
    assert not any("layers.0" in name or "feature" in name for name in learnt)
    assert (f"{place}layer_norm.weight" in learnt) == layer_norm_first  # else it comes first
    assert spin.units(speech_batch).shape == (4, 25)


def test_a_published_size_trained_here_learns_in_its_top_layers(speech_batch):
    convolutions = ((8, 10, 5), *((8, 3, 2),) * 4, *((8, 2, 2),) * 2)
    sizes = {"dim": 32, "num_layers": 3, "num_heads": 2, "ffn_dim": 64, "layer_drop": 1.0}
    places = {"position_kernel": 8, "position_groups": 4}
    spin = Spin(BaseHubert(BaseHubertConfig(convolutions, **sizes, **places)), SIZES).train()
    spin(speech_batch, torch.tensor([25, 25, 20, 25]))["primary"].square().sum().backward()
    learnt = {name for name, weight in spin.named_parameters() if weight.grad is not None}
    place = "teacher.model.wav2vec2.encoder.transformer.layers."
    assert f"{place}1.attention.k_proj.weight" in learnt  # no layer is dropped
    assert all(name.startswith((f"{place}1", f"{place}2", "heads")) for name in learnt)


def test_statistics_of_a_published_size_are_kept(speech_batch, tmp_path):
    convolutions = ((8, 10, 5), *((8, 3, 2),) * 4, *((8, 2, 2),) * 2)
    sizes = {"dim": 32, "num_layers": 3, "num_heads": 2, "ffn_dim": 64}
    places = {"position_kernel": 8, "position_groups": 4}
    config = BaseHubertConfig(convolutions, **sizes, **places)
    base = save_hubert(BaseHubert(config), tmp_path / "base.safetensors")
    spin = Spin(load_teacher(base), SIZES).eval()
    spin.set_statistics([speech_batch])  # as training does at its end
    assert not torch.equal(spin.teacher.feature_mean, load_teacher(base).feature_mean)
    found = load_spin(save_spin(spin, tmp_path / "spin.safetensors", base=str(base)))
    expected = spin.features(speech_batch)
    assert (found.features(speech_batch) - expected).abs().max() < 0.02 * expected.abs().max()


def test_the_frozen_part_has_no_dropout_in_training(speech_batch):
    spin = Spin(published(), SIZES).train()
    assert spin.training and spin.heads.training
    assert [one.training for one in spin.teacher.model.encoder.transformer.layers] == [
        False,
        True,
        True,
    ]
    states = [spin.teacher.aligned_states(speech_batch) for _ in range(2)]
    assert torch.equal(states[0][1], states[1][1])
    assert not torch.equal(states[0][2], states[1][2])
    assert not any(part.training for part in spin.eval().modules())


def test_the_teacher_itself_is_left_alone(teacher, spin):
    before = teacher.fingerprint
    with torch.no_grad():
        spin.teacher.layers[2].ffn_out.weight.add_(1)
    assert teacher.fingerprint == before == spin.base_fingerprint != spin.fingerprint


def test_units_are_the_nearest_codes(spin, speech_batch):
    units = spin.units(speech_batch)
    assert units.shape == (4, 25) and units.dtype == torch.int64
    head, state = spin.heads["primary"], spin.top_state(speech_batch)
    distance = torch.cdist(functional.normalize(head.projection(state), dim=-1), head.codes[None])
    assert torch.equal(units, distance.argmin(-1))
    assert int(spin.units(speech_batch, "auxiliary").max()) < 40
    with pytest.raises(ValueError, match="got 'third', expected one of"):
        spin.units(speech_batch, "third")


def test_codes_have_length_1_after_normalising():
    head = SpinHead(6, 4, 5)
    assert torch.allclose(head.codes.norm(dim=1), torch.ones(5))
    with torch.no_grad():
        head.codes.mul_(3)
    directions = functional.normalize(head.codes.detach(), dim=1)
    head.normalize_codes()
    assert torch.allclose(head.codes, directions) and head.codes.requires_grad


def test_padding_is_not_heard(spin, speech):
    padded = functional.pad(speech[None, :, :6400], (0, 3200))
    alone = spin(speech[None, :, :6400])["primary"]
    beside = spin(padded, torch.tensor([20]))["primary"][:, :20]
    assert torch.allclose(alone, beside, atol=1e-4)


def test_it_is_a_teacher_as_the_one_it_came_from(teacher, spin, speech):
    teacher.set_statistics([speech[None]])
    spin.set_statistics([speech[None]])
    for layer in ("avg", 0, 3):
        expected = teacher.features(speech[None], layer)
        assert torch.allclose(spin.features(speech[None], layer), expected, atol=1e-5)
    attributes = ("sample_rate", "hop_length", "frame_rate", "dim", "num_layers")
    for name in attributes:
        assert getattr(spin, name) == getattr(teacher, name)


def test_loss_is_the_cross_entropy_of_each_voice_with_the_others_targets():
    one, two = torch.rand(30, 5), torch.rand(30, 5)
    valid = torch.arange(30) < 24
    found = swapped_prediction_loss(one, two, valid, 0.1, 0.05, 2)
    expected = 0.0
    for predicted, assigned in ((one[:24], two[:24]), (two[:24], one[:24])):
        target = sinkhorn(assigned, 0.05, 2)
        expected += functional.cross_entropy(predicted / 0.1, target) / 2
    assert found["loss"] == pytest.approx(float(expected), rel=1e-5)
    assert found["agreement"] == pytest.approx(
        float((one[:24].argmax(1) == two[:24].argmax(1)).float().mean())
    )


def test_loss_has_a_known_value_and_no_gradient_through_targets():
    scores = torch.eye(4).repeat(2, 1).requires_grad_()  # two frames of each code, certain
    found = swapped_prediction_loss(scores, scores, torch.ones(8, dtype=torch.bool))
    assert float(found["loss"].detach()) == pytest.approx(math.log(1 + 3 * math.exp(-10)), rel=1e-3)
    assert found["agreement"] == 1 and found["perplexity"] == pytest.approx(4)
    one, two = torch.rand(8, 4, requires_grad=True), torch.rand(8, 4)
    swapped_prediction_loss(one, two, torch.ones(8, dtype=torch.bool))["loss"].backward()
    slope = ((one.detach() / 0.1).softmax(1) - sinkhorn(two)) / (0.1 * 2 * 8)  # of CE alone
    assert torch.allclose(one.grad, slope, atol=1e-6)


def test_files_hold_the_primary_codes_in_half_precision(spin, tmp_path, speech):
    path = save_spin(spin, tmp_path / "s.safetensors", {"note": "a test"})
    loaded = load_teacher(path)
    assert isinstance(loaded, Spin) and not loaded.training
    assert loaded.base_fingerprint == spin.base_fingerprint
    assert list(loaded.heads) == ["primary"] and loaded.config.num_auxiliary == 0
    assert list(spin.heads) == ["primary", "auxiliary"]  # the one in memory is left alone
    assert not any(weight.requires_grad for weight in loaded.parameters())
    assert torch.allclose(loaded.heads["primary"].codes.norm(dim=1), torch.ones(12), atol=1e-6)
    one, other = (network(speech[None])["primary"] for network in (spin, loaded))
    assert torch.allclose(one, other, atol=0.02)
    assert load_teacher(path).fingerprint == loaded.fingerprint
    both = load_spin(save_spin(spin, tmp_path / "b.safetensors", auxiliary=True))
    assert list(both.heads) == ["primary", "auxiliary"] and both.fingerprint != loaded.fingerprint


def test_the_shipped_size_fits_into_6_mb(tmp_path):
    for sizes in (SpinSizes(), SpinSizes(500, 4096)):
        path = save_spin(Spin(SmallHubert(), sizes), tmp_path / "s.safetensors")
        assert path.stat().st_size < 6e6


def test_of_other_teachers_only_what_learnt_is_written(tmp_path, monkeypatch, speech):
    teacher = published()
    spin = Spin(teacher, SIZES).eval()
    with torch.no_grad():
        spin.teacher.model.encoder.transformer.layers[2].final_layer_norm.bias.add_(1)
    with pytest.raises(ValueError, match="base: got ''"):
        save_spin(spin, tmp_path / "s.safetensors")
    path = save_spin(spin, tmp_path / "s.safetensors", base="hubert_base")
    monkeypatch.setattr("codec_lib.teachers.pretrained", lambda name: teacher)
    loaded = load_spin(path)
    assert torch.equal(loaded.units(speech[None]), spin.units(speech[None]))
    assert path.stat().st_size < 0.8 * 2 * sum(weight.numel() for weight in spin.parameters())
    monkeypatch.setattr("codec_lib.teachers.pretrained", lambda name: published())
    with pytest.raises(ValueError, match="which was tuned"):
        load_spin(path)


def test_of_a_shipped_teacher_too(tmp_path, speech):
    spin = Spin(load_teacher("hubert-small"), SIZES).eval()
    with torch.no_grad():
        spin.teacher.layers[-1].ffn_in.bias.add_(1)
    whole = save_spin(spin, tmp_path / "whole.safetensors")
    path = save_spin(spin, tmp_path / "less.safetensors", base="hubert-small")
    assert path.stat().st_size < 0.2 * whole.stat().st_size
    one, other = load_spin(whole), load_spin(path)
    assert one.fingerprint == other.fingerprint and one.base_fingerprint == other.base_fingerprint
    assert torch.equal(one.units(speech[None]), other.units(speech[None]))
    with pytest.raises(ValueError, match="which was tuned"):
        save_spin(Spin(SmallHubert(), SIZES), path, base="hubert-small")


def test_other_files_and_sizes_are_refused(teacher, tmp_path):
    path = save_hubert(teacher, tmp_path / "h.safetensors")
    with pytest.raises(ValueError, match="holds no Spin"):
        load_spin(path)
    assert isinstance(load_teacher(path), SmallHubert)
    for wrong in (SpinSizes(num_codes=1), SpinSizes(num_auxiliary=1), SpinSizes(num_trained=4)):
        with pytest.raises(ValueError, match="on 3 layers, expected at least 2 codes"):
            Spin(teacher, wrong)


def test_new_weights_depend_on_the_seed_alone(teacher):
    state = torch.get_rng_state()
    one, again, other = Spin(teacher, SIZES), Spin(teacher, SIZES), Spin(teacher, SIZES, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    codes = [each.heads["primary"].codes for each in (one, again, other)]
    assert torch.equal(codes[0], codes[1]) and not torch.equal(codes[0], codes[2])
