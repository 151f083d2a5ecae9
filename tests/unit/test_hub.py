"""Checkpoints: round trips, half precision, names, damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import codec_lib
from codec_lib import hub


@pytest.fixture
def codec() -> codec_lib.codecs.base.Codec:
    model = codec_lib.build("speechtokenizer", "smoke")
    model.train()(torch.randn(2, 1, 8000) * 0.1)
    return model.eval()


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(hub, "checkpoints_root", lambda: tmp_path)
    return tmp_path


def test_full_precision_round_trip(codec, tmp_path: Path) -> None:
    path = hub.save_codec(codec, tmp_path / "a.safetensors", half=False, metadata={"steps": 3})
    again = codec_lib.load(path)
    wav = torch.randn(1, 1, 4000) * 0.1
    assert torch.equal(again.encode(wav).codes, codec.encode(wav).codes)
    assert torch.equal(again.decode(again.encode(wav)), codec.decode(codec.encode(wav)))
    assert again.card == {"steps": 3} and again.fingerprint == hub.sha256(path)[:16]
    assert not again.training and again.config == codec.config
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_saving_draws_no_random_number(codec, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    hub.save_codec(codec, tmp_path / "codec.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


def test_half_precision_is_half_and_close(codec, tmp_path: Path) -> None:
    full = hub.save_codec(codec, tmp_path / "full.safetensors", half=False)
    half = hub.save_codec(codec, tmp_path / "half.safetensors")
    assert half.stat().st_size < 0.6 * full.stat().st_size
    again = codec_lib.load(half)
    assert all(p.dtype == torch.float32 for p in again.parameters())
    wav = torch.randn(1, 1, 4000) * 0.1
    codes = codec.encode(wav)
    assert torch.allclose(again.decode(codes), codec.decode(codes), atol=1e-2)
    hub.save_codec(again, tmp_path / "again.safetensors")
    assert torch.equal(
        codec_lib.load(tmp_path / "again.safetensors").decode(codes), again.decode(codes)
    )


def test_statistics_are_dropped_and_training_goes_on(codec, tmp_path: Path) -> None:
    path = hub.save_codec(codec, tmp_path / "a.safetensors", half=False)
    assert not any(key.endswith(hub.STATISTICS) for key in hub.read_tensors(path)[1])
    again = codec_lib.load(path, fold=False).train()
    before = again.quantizer.layers[0].codebook.clone()
    assert torch.equal(before, codec.quantizer.layers[0].codebook)
    again(torch.randn(2, 1, 8000) * 0.1)
    after = again.quantizer.layers[0].codebook
    assert after.isfinite().all() and not torch.equal(after, before)
    assert (after - before).norm() < 0.5 * before.norm()  # an average, not a restart
    kept = hub.save_codec(codec, tmp_path / "b.safetensors", half=False, statistics=True)
    key = "quantizer.layers.0.cluster_size"
    assert torch.equal(hub.read_tensors(kept)[1][key], codec.state_dict()[key])


def test_seanet_folds_on_load_only(tmp_path: Path) -> None:
    model = codec_lib.build(
        "speechtokenizer", "smoke", backbone="seanet", width=2, latent_dim=8
    ).eval()
    path = hub.save_codec(model, tmp_path / "a.safetensors", half=False)
    folded, plain = codec_lib.load(path), codec_lib.load(path, fold=False)
    assert set(plain.state_dict()) == set(model.state_dict())
    assert not any("parametrizations" in key for key in folded.state_dict())
    wav = torch.randn(1, 1, 3200) * 0.1
    assert torch.equal(folded.encode(wav).codes, plain.encode(wav).codes)
    with pytest.raises(ValueError, match="before fold_weight_norm"):
        hub.save_codec(folded, path)


def test_names_and_listing(codec, shipped: Path) -> None:
    with pytest.raises(ValueError, match=r"got 'nothing', expected a file or one of \[\]"):
        codec_lib.load("nothing")
    path = hub.save_codec(codec, shipped / "tiny.safetensors")
    assert hub.known_names() == ["tiny"] and hub.listing() == {}
    codec_lib.load("tiny")
    hub.list_file(path)
    assert json.loads((shipped / hub.LISTING).read_text()) == {path.name: hub.sha256(path)}
    codec_lib.load("tiny")
    with pytest.raises(ValueError, match=r"one of \['tiny'\]"):
        codec_lib.load("tinny")
    hub.save_codec(codec, path, metadata={"changed": True})
    with pytest.raises(ValueError, match="damaged or was replaced"):
        codec_lib.load("tiny")


def test_damage_is_named(codec, tmp_path: Path) -> None:
    path = hub.save_codec(codec, tmp_path / "a.safetensors")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="copy complete"):
        codec_lib.load(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="got format None"):
        codec_lib.load(path)


def test_weights_must_fit_the_config(codec, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    config = {**codec.config.to_dict(), "width": 16}
    described = {"name": "speechtokenizer", "config": config}
    hub.save_tensors(codec.state_dict(), path, False, described)
    with pytest.raises(ValueError, match="do not fit its config"):
        codec_lib.load(path)
    described["config"] = {**config, "colour": 3}
    hub.save_tensors(codec.state_dict(), path, False, described)
    with pytest.raises(ValueError, match=r"unknown fields \['colour'\]"):
        codec_lib.load(path)
    hub.save_module(nn.Linear(2, 2), path)
    with pytest.raises(ValueError, match="no codec config"):
        codec_lib.load(path)


def test_values_that_are_not_finite_are_refused(codec, tmp_path: Path) -> None:
    codec.semantic.bias.data[0] = 1e6  # finite, but not in float16
    with pytest.raises(ValueError, match="half=False"):
        hub.save_codec(codec, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []
    codec.semantic.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        hub.save_codec(codec, tmp_path / "a.safetensors", half=False)


def test_any_module(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    path = hub.save_module(
        module, tmp_path / "m.safetensors", half=False, metadata={"sizes": [3, 2]}
    )
    again = hub.load_module(path, lambda card: nn.Linear(*card["sizes"]))
    assert torch.equal(again.weight, module.weight) and not again.training
    assert again.fingerprint == hub.sha256(path)[:16]
    with pytest.raises(ValueError, match="do not fit"):
        hub.load_module(path, lambda card: nn.Linear(3, 3))
    run = {"a": torch.ones(1)}
    hub.save_tensors(run, tmp_path / "run.safetensors", False, {"step": 3})
    with pytest.raises(ValueError, match=r"does not say what it is .*step.* Hint"):
        hub.load_module(tmp_path / "run.safetensors", nn.Linear)


class Command:
    """Something that a pickle must not bring along."""


def test_published_files_hold_only_weights(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"weight": torch.ones(2)}, path)
    assert torch.equal(hub.read_published(path)["weight"], torch.ones(2))
    torch.save({"weight": Command()}, path)
    with pytest.raises(ValueError, match="more than weights"):
        hub.read_published(path)
    torch.save([torch.ones(2)], path)
    with pytest.raises(ValueError, match="got list"):
        hub.read_published(path)
    with pytest.raises(ValueError, match="expected a file"):
        hub.read_published(tmp_path / "b.pt")
