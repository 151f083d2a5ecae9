"""DM-Codec: which codebooks each teacher reaches, gradients, sizes, errors."""

import json

import pytest
import torch

import codec_lib
from codec_lib.codecs.registry import build_from_config
from codec_lib.losses import distillation_loss

LAYERS = {"num_quantizers": 3}


def built(**overrides):
    torch.manual_seed(0)
    codec = codec_lib.build("dm_codec", "smoke", teacher_dim=12, text_dim=5, **LAYERS, **overrides)
    with torch.no_grad():
        codec.train()(0.1 * torch.randn(2, 1, 6400))  # starts the codebooks from data
    return codec.eval()


def contributions(codec, wav):
    """The K quantized layers (B, F, D) behind a waveform, found again from the codes alone."""
    codes = codec.encode(wav)
    return [codec.latent(codes.select([k])).transpose(1, 2) for k in range(codec.num_quantizers)]


@pytest.mark.parametrize(
    ("speech", "text"), [((0,), (0,)), ((0, 1, 2), (0,)), ((2,), (0, 1, 2)), ((1, 2), (2,))]
)
def test_each_teacher_reads_the_sum_of_its_layers(speech_batch, speech, text):
    codec = built(speech_layers=speech, text_layers=text)
    layers = contributions(codec, speech_batch)
    with torch.no_grad():
        found = codec(speech_batch).projections
        expected = {
            "semantic": codec.semantic(sum(layers[k] for k in speech)),
            "text": codec.text(sum(layers[k] for k in text)),
        }
    assert set(found) == {"semantic", "text"}
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-4), name


def test_by_default_the_text_goes_to_the_first_and_the_speech_to_all(speech_batch):
    codec, named = built(), built(speech_layers=[0, 1, 2], text_layers=[0])
    named.load_state_dict(codec.state_dict())
    with torch.no_grad():
        found, same = (one(speech_batch).projections for one in (codec, named))
    assert all(torch.equal(found[name], same[name]) for name in ("semantic", "text"))


def test_the_config_comes_back_from_json():
    config = built(speech_layers=[1, 2]).config
    values = json.loads(json.dumps(vars(config)))
    assert build_from_config("dm_codec", values).config == config


def test_layers_are_not_the_first_one_alone(speech_batch):
    """In the released code any list of layers gives what the first layer gives."""
    one, all_of_them = built(speech_layers=[0]), built(speech_layers=[0, 1, 2])
    all_of_them.load_state_dict(one.state_dict())
    with torch.no_grad():
        first, whole = (codec(speech_batch).projections["semantic"] for codec in (one, all_of_them))
    assert not torch.allclose(first, whole, atol=1e-3)


@pytest.mark.parametrize("quantizer", [{}, {"as_published": True}])
def test_the_encoder_gets_the_gradient_of_a_sum_once(speech_batch, quantizer):
    """With a linear map of ones, dL/dz is a row sum of the map: not K times that."""
    codec = built(quantizer=quantizer)
    with torch.no_grad():
        codec.semantic.weight.fill_(0.5)
    out = codec(speech_batch)
    out.z.retain_grad()
    out.projections["semantic"].sum().backward()
    assert torch.allclose(out.z.grad, torch.full_like(out.z, 0.5 * 12), atol=1e-4)


def test_every_frame_of_the_latent_is_taught(speech_batch):
    """The published features have an axis too many, and only frame 0 gets gradient."""
    codec = built()
    out = codec(speech_batch)
    out.z.retain_grad()
    teacher = torch.randn_like(out.projections["semantic"])
    distillation_loss(out.projections["semantic"], teacher).backward()
    assert (out.z.grad.abs().sum(1) > 0).all()


def test_one_map_serves_both_teachers_of_equal_width(speech_batch):
    codec = codec_lib.build("dm_codec", "smoke", teacher_dim=12, speech_layers=[0])
    found = codec(speech_batch).projections
    assert codec.text is None and torch.equal(found["semantic"], found["text"])


def test_sizes_are_speechtokenizers():
    with torch.device("meta"):
        ours, theirs = (codec_lib.build(name, "paper") for name in ("dm_codec", "speechtokenizer"))
    count = sum(one.numel() for one in ours.parameters() if one.requires_grad)
    assert count == 103_675_586
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }


@pytest.mark.parametrize(
    "overrides", [{"speech_layers": []}, {"text_layers": [3]}, {"text_layers": [0, 0]}]
)
def test_layers_that_do_not_exist_are_refused(overrides):
    with pytest.raises(ValueError, match=r"layers: got .* expected different codebooks of 0 to 2"):
        codec_lib.build("dm_codec", "smoke", **LAYERS, **overrides)


def test_fewer_codebooks_leave_the_others_out(speech_batch):
    codec = built(text_layers=[2])
    with torch.no_grad():
        found = codec(speech_batch, n_q=1).projections
        layers = contributions(codec, speech_batch)
    assert torch.allclose(found["semantic"], codec.semantic(layers[0]), atol=1e-4)
