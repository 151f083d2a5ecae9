"""The published Vocos package and our decoder, with the same random weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.heads import ISTFTHead
from vocos.models import VocosBackbone
from vocos.pretrained import Vocos

from codec_lib.blocks.vocos import VocosDecoder
from codec_lib.codecs.published_vocos import load_vocos_layout
from codec_lib.losses.mel import MelSpectrogram, mel_recipe

WIDTH, DEPTH, HOP = 24, 2, 16


def official(latent_dim: int, padding: str, conditions: int | None = None) -> Vocos:
    """Return their decoder, its weights moved off the values they start from."""
    backbone = VocosBackbone(latent_dim, WIDTH, 3 * WIDTH, DEPTH, None, conditions)
    model = Vocos(nn.Identity(), backbone, ISTFTHead(WIDTH, 4 * HOP, HOP, padding)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def pair(padding: str, conditions: int = 0) -> tuple[Vocos, VocosDecoder]:
    theirs = official(6, padding, conditions or None)
    ours = VocosDecoder(
        HOP, 6, WIDTH, DEPTH, pos_net=False, padding=padding, num_conditions=conditions
    ).eval()
    load_vocos_layout(ours, theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize(("padding", "hops"), [("same", 9), ("center", 8)])
@torch.no_grad()
def test_same_waveform(padding: str, hops: int) -> None:
    theirs, ours = pair(padding)
    z = torch.randn(2, 6, 9)
    expected = theirs.decode(z)
    wav = ours(z)
    assert wav.shape == (2, 1, hops * HOP)
    assert expected.std() > 0.1
    assert torch.allclose(wav[:, 0], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_clip_of_the_magnitude_is_theirs() -> None:
    theirs, ours = pair("same")
    for bias in (theirs.head.out.bias, ours.out.bias):
        bias.add_(6.0)  # magnitudes around 400, beyond the clip
    z = torch.randn(1, 6, 9)
    wav, expected = ours(z)[:, 0], theirs.decode(z)
    assert torch.allclose(wav, expected, atol=1e-4, rtol=1e-4)
    ours.max_magnitude = 1e6
    assert ours(z)[:, 0].std() > 1.5 * wav.std()


@torch.no_grad()
def test_same_waveform_under_each_condition() -> None:
    theirs, ours = pair("same", conditions=4)
    z = torch.randn(3, 6, 9)
    rows = []
    for condition in range(4):
        rows.append(theirs.decode(z, bandwidth_id=torch.tensor([condition])))
        assert torch.allclose(ours(z, condition)[:, 0], rows[-1], atol=1e-5, rtol=1e-5)
    assert (rows[0] - rows[3]).abs().max() > 0.1
    mixed = ours(z, torch.tensor([2, 0, 3]))[:, 0]  # theirs takes one for all
    expected = torch.stack([rows[2][0], rows[0][1], rows[3][2]])
    assert torch.allclose(mixed, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_copy_synthesis_from_mel_frames() -> None:
    """From waveform to waveform as the released mel model does it, at its own front end."""
    backbone, head = VocosBackbone(100, WIDTH, 3 * WIDTH, 1), ISTFTHead(WIDTH, 1024, 256, "center")
    theirs = Vocos(MelSpectrogramFeatures(), backbone, head).eval()
    ours = VocosDecoder(256, 100, WIDTH, 1, pos_net=False, padding="center")
    load_vocos_layout(ours, theirs.state_dict())
    wav = torch.randn(1, 1, 4000) * 0.1
    recipe = mel_recipe("vocos")
    mel = MelSpectrogram(recipe.scales[0], recipe, 24000)(wav)  # (1, 16, 100)
    wav_hat = ours(mel.clamp_min(recipe.floor).log().transpose(1, 2))
    assert wav_hat.shape == (1, 1, 15 * 256)
    assert torch.allclose(wav_hat[:, 0], theirs(wav[:, 0]), atol=1e-5)


def test_published_sizes() -> None:
    def count(*sizes: int, **options: bool | int | str) -> int:
        return sum(p.numel() for p in VocosDecoder(*sizes, **options).parameters())

    with torch.device("meta"):
        mel = VocosDecoder(256, 100, 512, 8, pos_net=False, padding="center")
        assert sum(p.numel() for p in mel.parameters()) == 13_531_650
        assert len(mel.state_dict()) + 3 == 83  # two windows and the mel filters
        assert count(320, 128, 384, 8, pos_net=False, num_conditions=4) == 7_984_258
        assert count(320, 512) == 61_901_568 + 985_858
        assert count(320, 768) == 63_277_824 + 985_858
        wavtokenizer = VocosDecoder(320, 512, num_conditions=4)
    sizes = [len(part.state_dict()) for part in wavtokenizer.pos_net]
    assert sizes == [8, 8, 10, 8, 8, 2]


def test_wavtokenizers_file_loads_and_leaves_the_rest_alone() -> None:
    ours = VocosDecoder(HOP, 6, WIDTH, DEPTH, num_conditions=4)
    other = VocosDecoder(HOP, 6, WIDTH, DEPTH, num_conditions=4)
    state = {"head.istft.window": torch.hann_window(4 * HOP)}
    for key, value in other.state_dict().items():
        key = key.replace("blocks.", "convnext.").replace("final_norm.", "final_layer_norm.")
        key = key.replace("depthwise.conv.", "dwconv.")
        key = key.replace("expand.", "pwconv1.").replace("reduce.", "pwconv2.")
        value = value.squeeze(2) if key.endswith("dwconv.weight") else value
        state[f"head.{key}" if key.startswith("out.") else f"backbone.{key}"] = value
    extra = {"feature_extractor.encodec.encoder.model.0.conv.conv.bias": torch.zeros(1)}
    load_vocos_layout(ours, {"state_dict": {**state, **extra}, "epoch": 3})
    for key, value in other.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key]), key


def test_wrong_files_are_named() -> None:
    theirs, ours = pair("same")
    state = dict(theirs.state_dict())
    with pytest.raises(ValueError, match=r"1 unexpected keys \(extra\)"):
        load_vocos_layout(ours, {**state, "extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"window.*\(32,\).*64 samples"):
        load_vocos_layout(ours, {**state, "head.istft.window": torch.hann_window(32)})
    del state["head.out.bias"]
    with pytest.raises(ValueError, match=r"1 missing keys \(head\.out\.bias\)"):
        load_vocos_layout(ours, state)
    with pytest.raises(ValueError, match="pos_net"):
        load_vocos_layout(VocosDecoder(HOP, 6, WIDTH, DEPTH), theirs.state_dict())
