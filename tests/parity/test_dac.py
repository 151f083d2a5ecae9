"""The published DAC package and ours, same random weights; BigCodec's and CodecSlime's layouts."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from dac.model import dac as official
from dac.nn.layers import Snake1d
from dac.nn.quantize import ResidualVectorQuantize

import codec_lib
from codec_lib.blocks.activations import Snake
from codec_lib.blocks.antialias import kaiser_lowpass
from codec_lib.blocks.bigcodec import BigCodecDecoder
from codec_lib.codecs.base import Codec
from codec_lib.codecs.published_dac import (
    BIGCODEC_LAYOUT,
    CODECSLIME_LAYOUT,
    DAC_LAYOUT,
    layout_names,
)

RATES = {"44.1 kHz": (44100, (8, 8, 4, 2)), "16 kHz": (16000, (8, 5, 4, 2))}


@cache
def build_pair(rate: str) -> tuple[Any, Codec]:
    """Return a narrow official model with random weights, and ours with the same."""
    torch.manual_seed(0)
    sample_rate, strides = RATES[rate]
    theirs = official.DAC(
        encoder_dim=4,
        encoder_rates=list(strides[::-1]),
        latent_dim=32,
        decoder_dim=48,
        decoder_rates=list(strides),
        n_codebooks=3,
        codebook_size=64,
        sample_rate=sample_rate,
    ).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("alpha"):
                parameter.uniform_(0.5, 2.0)  # starts at 1 everywhere
            elif name.startswith("encoder") and name.endswith("weight_g"):
                parameter.mul_(1.3)  # random networks damp the signal until only biases are left
    scale = {"44.1 kHz": "paper", "16 kHz": "16khz"}[rate]
    sizes = {"latent_dim": 32, "num_quantizers": 3, "codebook_size": 64}
    ours = codec_lib.build("dac", scale, width=4, decoder_width=3, **sizes).eval()
    ours.load_published({"state_dict": theirs.state_dict(), "metadata": {"kwargs": {}}})
    return theirs, ours


@pytest.mark.parametrize("rate", list(RATES))
def test_same_codes_losses_and_waveform(rate: str) -> None:
    theirs, ours = build_pair(rate)
    wav = torch.randn(2, 1, 9 * ours.hop_length - 5) * 0.3
    with torch.no_grad():
        z_q, codes, _, commitment, codebook = theirs.encode(
            theirs.preprocess(wav, ours.sample_rate)
        )
        wav_hat = theirs.decode(z_q)
        out = ours(wav)
    mine = ours.encode(wav)
    assert torch.equal(mine.codes, codes) and torch.equal(out.codes.codes, codes)
    assert len(codes.unique()) > 10
    assert torch.allclose(ours.latent(mine), z_q, atol=1e-5)
    assert torch.allclose(out.losses["commitment_loss"].sum(), commitment, rtol=1e-4)
    assert torch.allclose(out.losses["codebook_loss"].sum(), codebook, rtol=1e-4)
    decoded = ours.decode(mine)
    assert decoded.shape == wav.shape and decoded.std() > 1e-3
    if rate == "44.1 kHz":
        assert torch.allclose(decoded, wav_hat[..., : wav.shape[-1]], atol=1e-6)
    else:  # samples are lost at the end of every stage
        assert wav_hat.shape[-1] == 9 * ours.hop_length - 8
        kept = 6 * ours.hop_length
        assert torch.allclose(decoded[..., :kept], wav_hat[..., :kept], atol=1e-6)


def test_lossy_decoder_is_the_released_one() -> None:
    theirs, ours = build_pair("16 kHz")
    config = ours.config
    decoder = BigCodecDecoder(
        config.latent_dim, 3, config.strides, 0, config.activation, lossless=False
    )
    decoder.load_state_dict(ours.decoder.state_dict())
    z_q = torch.randn(2, 32, 5)
    with torch.no_grad():
        assert torch.allclose(decoder(z_q), theirs.decode(z_q), atol=1e-6)


def test_same_snake() -> None:
    theirs, ours = Snake1d(4), Snake(4)
    with torch.no_grad():
        theirs.alpha.uniform_(0.2, 3.0)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 4, 50) * 3
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)


def test_same_gradients_through_the_quantizer() -> None:
    theirs, ours = build_pair("44.1 kHz")
    assert isinstance(theirs.quantizer, ResidualVectorQuantize)
    z, weight = torch.randn(1, 32, 6), torch.randn(1, 32, 6)
    gradients = []
    for quantizer in (lambda z: theirs.quantizer(z)[0], lambda z: ours.quantizer(z).z_q):
        leaf = z.clone().requires_grad_()
        (quantizer(leaf) * weight).sum().backward()
        gradients.append(leaf.grad)
    assert torch.allclose(*gradients, atol=1e-5) and gradients[0].abs().max() > 1e-3


def test_paper_sizes_have_the_published_keys() -> None:
    with torch.device("meta"):
        theirs = official.DAC().state_dict()
        ours = codec_lib.build("dac", "paper")
        names = layout_names(ours, DAC_LAYOUT)
        own = ours.state_dict()
    assert set(names.values()) == set(theirs)
    assert all(own[key].numel() == theirs[name].numel() for key, name in names.items())


def test_wrong_keys_are_named() -> None:
    theirs, ours = build_pair("44.1 kHz")
    state = dict(theirs.state_dict())
    state["decoder.model.0.extra"] = state.pop("encoder.block.0.bias")
    with pytest.raises(ValueError, match=r"encoder\.block\.0\.bias.*decoder\.model\.0\.extra"):
        ours.load_published(state)
    with pytest.raises(ValueError, match="backbone"):
        codec_lib.build("dac", "smoke").load_published(theirs.state_dict())


def bigcodec_keys(strides: int = 5) -> dict[str, set[str]]:
    """Return the published keys of BigCodec, written down from its documentation."""
    filters = ("upsample.filter", "downsample.lowpass.filter")
    conv = {"bias", "weight_g", "weight_v"}
    act = {"act.alpha", "act.beta", *filters}

    def unit(prefix: str) -> set[str]:
        acts = {f"{prefix}.block.{i}.{key}" for i in (0, 2) for key in act}
        return acts | {f"{prefix}.block.{i}.{key}" for i in (1, 3) for key in conv}

    def stage(prefix: str, units: tuple[int, ...], act_at: int, conv_at: int) -> set[str]:
        keys = {f"{prefix}.block.{act_at}.{key}" for key in act}
        keys |= {f"{prefix}.block.{conv_at}.{key}" for key in conv}
        return keys.union(*(unit(f"{prefix}.block.{i}") for i in units))

    lstm = {f"lstm.{kind}_{w}_l{i}" for kind in ("weight", "bias") for w in ("ih", "hh")
            for i in (0, 1)}  # fmt: skip
    encoder = {f"block.0.{key}" for key in conv} | {f"block.8.{key}" for key in conv}
    encoder |= {f"block.7.{key}" for key in act} | {f"block.6.{key}" for key in lstm}
    generator = {f"model.0.{key}" for key in conv} | {f"model.8.{key}" for key in conv}
    generator |= {f"model.7.{key}" for key in act} | {f"model.1.{key}" for key in lstm}
    for i in range(strides):
        encoder |= stage(f"block.{i + 1}", (0, 1, 2), 3, 4)
        generator |= stage(f"model.{i + 2}", (2, 3, 4), 0, 1)
    layer = "quantizer.layers.0"
    generator |= {f"{layer}.{p}_proj.{key}" for p in ("in", "out") for key in conv}
    return {"CodecEnc": encoder, "generator": generator | {f"{layer}._codebook.weight"}}


NARROW = {"width": 2, "latent_dim": 12, "codebook_size": 32}
SHAPES = {  # of the narrow network, as the published ones scale
    "CodecEnc": {
        "block.0.weight_v": (2, 1, 7),
        "block.1.block.0.block.0.act.alpha": (2,),
        "block.5.block.4.weight_v": (64, 32, 10),
        "block.6.lstm.weight_ih_l1": (256, 64),
        "block.8.weight_v": (12, 64, 3),
    },
    "generator": {
        "model.0.weight_v": (64, 12, 7),
        "model.2.block.1.weight_v": (64, 32, 10),
        "model.2.block.1.weight_g": (64, 1, 1),
        "model.8.weight_v": (1, 2, 7),
        "quantizer.layers.0.in_proj.weight_v": (8, 12),
        "quantizer.layers.0.in_proj.weight_g": (8, 1),
        "quantizer.layers.0._codebook.weight": (32, 8),
    },
}


def bigcodec_state(codec: Codec) -> dict[str, dict[str, torch.Tensor]]:
    """Return random weights of a narrow BigCodec in the published layout."""
    own = codec.state_dict()
    flat = {
        name: torch.randn(own[key].shape) * 0.1
        for key, name in layout_names(codec, BIGCODEC_LAYOUT).items()
    }
    state: dict[str, dict[str, torch.Tensor]] = {}
    for part, keys in bigcodec_keys().items():
        state[part] = {
            key: kaiser_lowpass().view(1, 1, -1)
            if key.endswith("filter")
            else flat.pop(f"{part}.{key}")
            for key in keys
        }
    assert not flat, f"keys that are not published: {list(flat)[:5]}"
    return state


def test_bigcodec_layout() -> None:
    codec = codec_lib.build("bigcodec", "paper", **NARROW).eval()
    state = bigcodec_state(codec)
    for part, shapes in SHAPES.items():
        for name, shape in shapes.items():
            assert tuple(state[part][name].shape) == shape, name
    codec.load_published(state)
    first = codec.encoder.layers[0].conv.parametrizations.weight.original1
    assert torch.equal(first, state["CodecEnc"]["block.0.weight_v"])
    entries = state["generator"]["quantizer.layers.0._codebook.weight"]
    assert torch.equal(codec.quantizer.layers[0].codebook, entries)
    codes = codec.encode(torch.randn(1, 1, 1000) * 0.1)
    assert codec.decode(codes).shape == (1, 1, 1000)
    second = codec_lib.build("ds_codec_vq", "paper", **NARROW, transformer_layers=1,
                             transformer_heads=2).eval()  # fmt: skip
    second.load_published(state)  # stage 2 of DS-Codec starts here
    assert torch.equal(second.decode(codes), codec.decode(codes))


def test_bigcodec_strictness() -> None:
    codec = codec_lib.build("bigcodec", "paper", **NARROW)
    with pytest.raises(ValueError, match="CodecEnc and generator"):
        codec.load_published({"generator": {}})
    state = bigcodec_state(codec)
    filters = [name for name in state["CodecEnc"] if name.endswith("upsample.filter")]
    state["CodecEnc"][filters[0]] = torch.ones(1, 1, 12) / 12
    with pytest.raises(ValueError, match="expected the published low-pass"):
        codec.load_published(state)
    state = bigcodec_state(codec)
    del state["generator"]["model.1.lstm.bias_hh_l0"]
    with pytest.raises(ValueError, match=r"missing keys \(generator\.model\.1\.lstm\.bias_hh_l0"):
        codec.load_published(state)


def codecslime_state(codec: Codec) -> dict[str, torch.Tensor]:
    """Return random weights of a narrow CodecSlime as its release names them.

    Encoder and decoder are BigCodec's under other names; the finite scalars are two linear layers.
    """
    published = bigcodec_keys()
    names = {f"encoder.{key}" for key in published["CodecEnc"]}
    names |= {f"decoder.{key}" for key in published["generator"]}
    if codec.name == "codecslime_fsq":
        names = {name for name in names if "quantizer" not in name}
        names |= {f"decoder.quantizer.project_{way}.{key}"
                  for way in ("in", "out") for key in ("weight", "bias")}  # fmt: skip
    ours = {name: key for key, name in layout_names(codec, CODECSLIME_LAYOUT).items()}
    own = codec.state_dict()
    assert set(ours) == {name for name in names if not name.endswith("filter")}
    return {
        name: kaiser_lowpass().view(1, 1, -1)
        if name.endswith("filter")
        else torch.randn(own[ours[name]].shape) * 0.1
        for name in names
    }


@pytest.mark.parametrize("form", ["vq", "fsq"])
def test_codecslime_layout(form: str) -> None:
    codec = codec_lib.build(f"codecslime_{form}", "paper", **NARROW).eval()
    state = codecslime_state(codec)
    codec.load_published(state)
    last = codec.decoder.layers[-2].conv.parametrizations.weight.original1
    assert torch.equal(last, state["decoder.model.8.weight_v"])
    if form == "fsq":
        assert state["decoder.quantizer.project_in.weight"].shape == (8, 12)
        assert torch.equal(
            codec.quantizer.out_proj.bias, state["decoder.quantizer.project_out.bias"]
        )
    codes = codec.encode(torch.randn(1, 1, 2001) * 0.1)
    assert codes.codes.shape == (1, 1, 6) and codec.decode(codes).shape == (1, 1, 2001)
    del state["encoder.block.0.bias"]
    with pytest.raises(ValueError, match=r"missing keys \(encoder\.block\.0\.bias"):
        codec.load_published(state)
