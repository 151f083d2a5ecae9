"""The contract of every codec, the registry, SpeechTokenizer and chunked coding."""

from __future__ import annotations

import json
import math

import pytest
import torch

import codec_lib
from codec_lib.codecs.base import Codec
from codec_lib.codecs.chunked import (
    decode_blocks,
    decode_long,
    encode_blocks,
    encode_long,
    is_exact,
)
from codec_lib.codecs.published import published_names
from codec_lib.codecs.registry import build_from_config, register
from codec_lib.codecs.speechtokenizer import SpeechTokenizer, swap_codebooks
from codec_lib.shapes import Codes

SEANET = {"backbone": "seanet", "width": 2, "latent_dim": 16, "codebook_size": 32}


@pytest.fixture(scope="module", params=["spectral", "seanet"])
def codec(request: pytest.FixtureRequest) -> Codec:
    """A small codec whose codebooks are started, in eval mode."""
    torch.manual_seed(0)
    overrides = {} if request.param == "spectral" else SEANET
    return started(codec_lib.build("speechtokenizer", "smoke", **overrides))


def started(codec: Codec) -> Codec:
    """Start the codebooks on noise, so that many codes are used."""
    for name, parameter in codec.named_parameters():
        if name.startswith("encoder") and name.endswith("original0"):
            parameter.data.mul_(2.0)  # random SEANet damps the signal until biases are left
    codec.train()(torch.randn(4, 1, 16000) * 0.1)
    return codec.eval()


def test_parameter_counts() -> None:
    def count(scale: str, **overrides: str) -> int:
        model = codec_lib.build("speechtokenizer", scale, **overrides)
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    with torch.device("meta"):
        assert count("paper") == 103_675_586
        assert count("paper", activation="snake") == 103_683_458
    assert count("smoke") < 300_000
    assert 1_000_000 < count("small") < 3_000_000


def test_forward_gives_everything(codec: Codec) -> None:
    wav = torch.randn(2, 1, 3300) * 0.1
    out = codec(wav)
    assert out.wav.shape == wav.shape and out.wav.requires_grad
    assert out.codes.codes.shape == (2, 8, 11) and out.codes.num_samples == 3300
    assert out.z.shape == out.z_q.shape == (2, 16, 11)
    assert out.losses["commitment_loss"].shape == (8,)
    assert out.projections["semantic"].shape == (2, 11, 768)


def test_encode_equals_forward_in_train_and_eval(codec: Codec) -> None:
    wav = torch.randn(2, 1, 3200) * 0.1
    expected = codec(wav).codes.codes
    assert torch.equal(codec.encode(wav).codes, expected)
    state = {key: value.clone() for key, value in codec.state_dict().items()}
    codec.train()
    codes = codec.encode(wav)
    decoded = codec.decode(codes)
    codec.eval()
    assert torch.equal(codes.codes, expected)
    assert torch.equal(decoded, codec.decode(codes))
    assert all(torch.equal(value, state[key]) for key, value in codec.state_dict().items())
    assert not decoded.requires_grad


def test_prefix_property(codec: Codec) -> None:
    wav = torch.randn(1, 1, 3200) * 0.1
    full = codec.encode(wav)
    for n_q in (1, 3, 8):
        part = codec.encode(wav, n_q=n_q)
        assert torch.equal(part.codes, full.codes[:, :n_q])
        assert torch.equal(codec.decode(part), codec.decode(full, layers=range(n_q)))


def test_latents_of_parts_add_up(codec: Codec) -> None:
    codes = codec.encode(torch.randn(1, 1, 3200) * 0.1)
    parts = codec.latent(codes.select([0])) + codec.latent(codes.select(range(1, 8)))
    assert torch.allclose(parts, codec.latent(codes), atol=1e-5)
    some = codec.decode(codes, layers=[1, 4])
    assert torch.equal(some, codec.decode(codes.select([1, 4])))
    assert not torch.equal(some, codec.decode(codes, layers=[0, 1]))


def test_residual_shrinks_with_depth(codec: Codec) -> None:
    wav = torch.randn(2, 1, 16000) * 0.1
    z = codec.encoder(wav).detach()
    errors = [float((z - codec.latent(codec.encode(wav, n_q=k))).norm()) for k in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True) and errors[3] < 0.8 * errors[0]


def test_straight_through_gradient_is_the_identity(codec: Codec) -> None:
    z = torch.randn(1, 16, 7, requires_grad=True)
    out = codec.quantizer(z)
    weight = torch.randn_like(out.z_q)
    (out.z_q * weight).sum().backward()
    assert torch.allclose(z.grad, weight, atol=1e-5)


def test_gradient_reaches_everything(codec: Codec) -> None:
    codec.zero_grad()
    out = codec(torch.randn(1, 1, 3200) * 0.1)
    loss = out.wav.abs().mean() + out.losses["commitment_loss"].mean()
    (loss + out.projections["semantic"].square().mean()).backward()
    without = [name for name, p in codec.named_parameters() if p.grad is None]
    assert without == []
    codec.zero_grad()
    codec(torch.randn(1, 1, 3200) * 0.1).projections["semantic"].square().mean().backward()
    first = next(codec.encoder.parameters())
    assert first.grad.abs().max() > 0  # distillation reaches the encoder
    assert next(codec.decoder.parameters()).grad is None


def test_bitrate() -> None:
    codec = codec_lib.build("speechtokenizer", "small")
    assert codec.frame_rate == 50 and codec.bitrate() == 4000 and codec.bitrate(1) == 500
    odd = codec_lib.build("speechtokenizer", "smoke", codebook_size=1000, num_quantizers=2)
    assert odd.bitrate() == 50 * 2 * math.ceil(math.log2(1000))


@pytest.mark.parametrize(
    ("wav", "error", "message"),
    [
        (torch.zeros(320), ValueError, r"wav\[None, None\]"),
        (torch.zeros(1, 320), ValueError, r"wav\[:, None\]"),
        (torch.zeros(1, 2, 320), ValueError, "2 channels"),
        (torch.zeros(1, 1, 0), ValueError, "empty"),
        (torch.zeros(0, 1, 320), ValueError, "empty"),
        (torch.zeros(1, 1, 320, dtype=torch.float64), TypeError, "float32"),
        (torch.zeros(1, 1, 320, dtype=torch.int16), TypeError, "32768"),
        (torch.full((1, 1, 320), float("nan")), ValueError, "NaN"),
        (torch.full((1, 1, 320), 3e4), ValueError, "peak of 30000"),
        ([0.0] * 320, TypeError, "got list"),
    ],
)
def test_bad_waveforms(codec: Codec, wav, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        codec.encode(wav)


def test_bad_arguments(codec: Codec) -> None:
    wav = torch.zeros(1, 1, 640)
    with pytest.raises(ValueError, match="24000 Hz, expected 16000 Hz"):
        codec.encode(wav, sample_rate=24000)
    for n_q in (0, 9):
        with pytest.raises(ValueError, match="n_q: got"):
            codec.encode(wav, n_q=n_q)
    for n_q in (1.0, True):
        with pytest.raises(TypeError, match="n_q: got"):
            codec.encode(wav, n_q=n_q)


def test_bad_codes(codec: Codec) -> None:
    rows = torch.zeros(1, 8, 2, dtype=torch.int64)
    with pytest.raises(TypeError, match="hint: Codes"):
        codec.decode(rows)
    for value in (-1, codec.codebook_size):
        with pytest.raises(ValueError, match="indices from"):
            codec.decode(Codes(rows + value, 640))
    with pytest.raises(ValueError, match="2 frames for 641 samples, expected 3"):
        codec.decode(Codes(rows, 641))
    with pytest.raises(ValueError, match="codebooks"):
        codec.decode(Codes(rows[:, :1], 640, layers=(8,)))
    with pytest.raises(ValueError, match="empty"):
        codec.decode(Codes(rows[:0], 640))
    with pytest.raises(ValueError, match="2 frames for 641 samples, expected 3"):
        decode_long(codec, Codes(rows, 641), exact=False)


def test_registry() -> None:
    assert "speechtokenizer" in codec_lib.names()
    with pytest.raises(ValueError, match=r"expected one of \[.*'speechtokenizer'"):
        codec_lib.build("speechtokeniser")
    with pytest.raises(ValueError, match="scale: got 'huge'"):
        codec_lib.build("speechtokenizer", "huge")
    with pytest.raises(ValueError, match=r"unknown fields \['widht'\]"):
        codec_lib.build("speechtokenizer", "smoke", widht=3)
    with pytest.raises(ValueError, match="backbone: got 'mlp'"):
        codec_lib.build("speechtokenizer", "smoke", backbone="mlp")
    with pytest.raises(ValueError, match="has already"):
        register("speechtokenizer")(type("Other", (Codec,), {}))
    with pytest.raises(AttributeError, match="no attribute 'bulid'"):
        _ = codec_lib.bulid


def test_config_survives_json() -> None:
    codec = codec_lib.build("speechtokenizer", "smoke", quantizer={"decay": 0.9}, num_units=5)
    values = json.loads(json.dumps(codec.config.to_dict()))
    again = build_from_config("speechtokenizer", values)
    assert again.config == codec.config
    assert again.quantizer.layers[0].decay == 0.9


def test_unit_head() -> None:
    codec = codec_lib.build("speechtokenizer", "smoke", num_units=20, teacher_dim=12)
    projections = codec(torch.randn(1, 1, 3200) * 0.1).projections
    assert projections["units"].shape == (1, 10, 20)
    assert projections["semantic"].shape == (1, 10, 12)


def test_swap_codebooks(codec: Codec) -> None:
    content = codec.encode(torch.randn(2, 1, 6400) * 0.1)
    timbre = codec.encode(torch.randn(2, 1, 2240) * 0.1)
    swapped = swap_codebooks(content, timbre)
    assert torch.equal(swapped.codes[:, 0], content.codes[:, 0])
    circular = torch.cat([timbre.codes] * 3, dim=-1)[..., :20]
    assert torch.equal(swapped.codes[:, 1:], circular[:, 1:])
    assert codec.decode(swapped).shape == (2, 1, 6400)
    cut = swap_codebooks(timbre, content, layers=[2])
    assert torch.equal(cut.codes[:, 2], content.codes[:, 2, :7])
    assert torch.equal(cut.codes[:, 1], timbre.codes[:, 1])
    with pytest.raises(ValueError, match="batch"):
        swap_codebooks(content, Codes(timbre.codes[:1].repeat(3, 1, 1), 2240))
    with pytest.raises(ValueError, match="layers"):
        swap_codebooks(content.select([0]), timbre, layers=[1])
    assert torch.equal(swap_codebooks(content, timbre, layers=[]).codes, content.codes)


@pytest.mark.parametrize("overrides", [{}, {**SEANET, "lstm_layers": 0}])
def test_chunks_equal_the_whole(overrides: dict) -> None:
    codec = started(codec_lib.build("speechtokenizer", "smoke", **overrides))
    assert is_exact(codec)
    wav = torch.randn(1, 1, 5 * 16000 + 77) * 0.1
    whole = codec.encode(wav)
    codes = encode_long(codec, wav, chunk_seconds=0.8)  # 7 chunks
    assert torch.equal(codes.codes, whole.codes) and codes.num_samples == whole.num_samples
    uneven = wav[0].split([1, 50000, 7, 30069], dim=-1)
    assert torch.equal(encode_blocks(codec, uneven, chunk_seconds=0.5).codes, whole.codes)
    expected = codec.decode(whole, layers=[0, 2])
    blocks = list(decode_blocks(codec, codes, layers=[0, 2], chunk_seconds=0.8))
    assert len(blocks) == 7
    assert torch.allclose(torch.cat(blocks, dim=-1), expected, atol=1e-5)
    short = torch.randn(1, 1, 100) * 0.1
    assert torch.equal(encode_long(codec, short).codes, codec.encode(short).codes)


def test_chunks_of_an_lstm_must_be_accepted() -> None:
    codec = started(codec_lib.build("speechtokenizer", "smoke", **SEANET))
    wav = torch.randn(1, 1, 6 * 16000) * 0.1
    assert not is_exact(codec)
    with pytest.raises(ValueError, match="exact=False"):
        encode_long(codec, wav)
    codes = encode_long(codec, wav, chunk_seconds=1.0, exact=False)
    same = (codes.codes == codec.encode(wav).codes).float().mean()
    assert codes.codes.shape == (1, 8, 300) and same > 0.5
    with pytest.raises(ValueError, match="exact=False"):
        decode_blocks(codec, codes)
    assert decode_long(codec, codes, chunk_seconds=1.0, exact=False).shape == wav.shape


def test_chunk_arguments() -> None:
    codec = codec_lib.build("speechtokenizer", "smoke")
    with pytest.raises(ValueError, match="no samples"):
        encode_blocks(codec, [])
    with pytest.raises(ValueError, match="chunk_seconds"):
        encode_blocks(codec, [torch.zeros(1, 320)], chunk_seconds=0)


def test_decoding_in_training_draws_nothing() -> None:
    vocos = {"backbone": "vocos", "width": 2, "latent_dim": 16, "decoder_width": 32}
    codec = started(codec_lib.build("sacodec", "smoke", **vocos, decoder_depth=1)).train()
    codec.decoder.requires_grad_(False)
    codes = codec.encode(torch.randn(1, 1, 6400) * 0.1)
    first = codec.decode(codes)
    assert torch.equal(codec.decode(codes), first)
    assert all(part.training for part in codec.modules())
    assert torch.equal(codec.eval().decode(codes), first)


def test_a_codec_without_parameters_knows_where_it_is() -> None:
    codec = codec_lib.build("encodec", "smoke", **SEANET, bidirectional=False, lstm_layers=0)
    codec = started(codec).for_inference()
    assert not list(codec.parameters()) and codec.device == torch.device("cpu")
    wav = torch.randn(1, 1, 32000) * 0.1
    codes = encode_long(codec, wav, chunk_seconds=0.5)
    assert decode_long(codec, codes, chunk_seconds=0.5).shape == wav.shape


@pytest.mark.parametrize("head", [{"num_units": 5}, {"text_dim": 5}])
def test_published_weights_leave_our_own_heads_alone(head: dict) -> None:
    name = "dm_codec" if "text_dim" in head else "speechtokenizer"
    codec = codec_lib.build(name, "smoke", **SEANET, **head)
    names = published_names(codec, {"semantic": "transform"})
    state = {names[k]: torch.ones_like(v) for k, v in codec.state_dict().items() if k in names}
    own = getattr(codec, "units" if "num_units" in head else "text").weight.clone()
    codec.load_published(state)
    assert (codec.semantic.weight == 1).all()
    assert torch.equal(getattr(codec, "units" if "num_units" in head else "text").weight, own)
    codec.extra = torch.nn.Linear(2, 2)
    codec.semantic.weight.data.zero_()
    with pytest.raises(ValueError, match=r"got extra.weight, extra.bias, which no published"):
        codec.load_published(state)
    assert (codec.semantic.weight == 0).all()


def test_folding_keeps_codes_and_waveform() -> None:
    codec = started(codec_lib.build("speechtokenizer", "smoke", **SEANET))
    wav = torch.randn(1, 1, 3200) * 0.1
    codes, decoded = codec.encode(wav), codec.decode(codec.encode(wav))
    assert codec.fold_weight_norm() is codec
    assert torch.equal(codec.encode(wav).codes, codes.codes)
    assert torch.allclose(codec.decode(codes), decoded, atol=1e-6)


def test_no_published_layout_by_default() -> None:
    codec = codec_lib.build("speechtokenizer", "smoke")
    assert isinstance(codec, SpeechTokenizer)
    with pytest.raises(NotImplementedError, match="no published checkpoint"):
        Codec.load_published(codec, {})


def test_codes_may_lie_on_another_device_and_waveforms_may_not(monkeypatch) -> None:
    codec = codec_lib.build("speechtokenizer", "smoke")
    wav, seen = torch.zeros(1, 1, 640), []
    codes = codec.encode(wav)
    z_q = codec.latent(codes)
    monkeypatch.setattr(SpeechTokenizer, "device", torch.device("meta"))
    monkeypatch.setattr(codec, "latent", lambda codes: seen.append(codes.codes.device) or z_q)
    assert codec.decode(codes).shape == wav.shape and seen == [torch.device("meta")]
    with pytest.raises(ValueError, match=r"wav: got cpu, expected meta\. Hint"):
        codec.encode(wav)
