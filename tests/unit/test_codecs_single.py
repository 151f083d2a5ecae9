"""Codecs of one and two streams: the contract, codebooks of different sizes, every ablation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import codec_lib
from codec_lib import bitstream, hub
from codec_lib.codecs.base import Codec
from codec_lib.codecs.chunked import decode_long, encode_long, is_exact
from codec_lib.quantizers.vector import VectorQuantizer
from codec_lib.shapes import Codes

FORMS = {
    "sacodec": ("sacodec", {}),
    "sacodec, no Q1": ("sacodec", {"use_first": False}),
    "sacodec, no Q2": ("sacodec", {"use_second": False}),
    "sacodec, learnable": ("sacodec", {"first": "learnable"}),
    "bigcodec": ("bigcodec", {}),
    "bigcodec, own network": ("bigcodec", {"backbone": "bigcodec", "width": 1}),
    "dac": ("dac", {}),
    "ds_codec_vq": ("ds_codec_vq", {}),
    "ds_codec_pq": ("ds_codec_pq", {}),
    "ds_codec_pq, transformer": ("ds_codec_pq", {"transformer_layers": 1}),
}


@pytest.fixture(scope="module", params=list(FORMS))
def codec(request: pytest.FixtureRequest) -> Codec:
    torch.manual_seed(0)
    name, overrides = FORMS[request.param]
    return codec_lib.build(name, "smoke", **overrides).eval()


def noise(samples: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(samples)) * 0.1


def num_parameters(name: str, **overrides: object) -> int:
    with torch.device("meta"):
        codec = codec_lib.build(name, "paper", **overrides)
    return sum(p.numel() for p in codec.parameters() if p.requires_grad)


def test_paper_scales_have_the_published_number_of_parameters() -> None:
    assert num_parameters("sacodec") == 75_165_698  # printed: 75.17 M
    assert num_parameters("sacodec", anchor_size=500, codebook_size=2048) == 75_165_698
    mirror = num_parameters("ds_codec_vq")
    assert mirror == 159_436_290  # BigCodec's
    block = 2 * 1024 + 4 * 1024**2 + 3 * 1024 * 2736  # two norms, attention, SwiGLU
    assert num_parameters("ds_codec_vq", transformer_layers=1) == mirror + block
    assert num_parameters("ds_codec_pq") == 159_371_314


def test_forward_encode_and_decode_agree_in_train_and_eval(codec: Codec) -> None:
    wav = noise(3300, batch=2)
    out = codec(wav)
    frames = -(-3300 // codec.hop_length)
    assert out.wav.shape == wav.shape and out.wav.requires_grad
    assert out.codes.codes.shape == (2, codec.num_quantizers, frames)
    assert all(loss.shape == (codec.num_quantizers,) for loss in out.losses.values())
    assert sorted(out.losses) == ["codebook_loss", "commitment_loss"]
    state = {key: value.clone() for key, value in codec.state_dict().items()}
    for training in (False, True):
        codes = codec.train(training).encode(wav)
        assert torch.equal(codes.codes, out.codes.codes)
        assert torch.allclose(codec.decode(codes), out.wav, atol=1e-5)
    codec.eval()
    assert all(torch.equal(value, state[key]) for key, value in codec.state_dict().items())


def test_any_length_survives(codec: Codec) -> None:
    hop = codec.hop_length
    for samples in (1, 2, hop - 1, hop, hop + 1, 3 * hop + 7):
        codes = codec.encode(noise(samples))
        assert codes.codes.shape[-1] == -(-samples // hop)
        assert codec.decode(codes).shape == (1, 1, samples)


def test_gradient_reaches_everything_and_nothing_frozen(codec: Codec) -> None:
    codec.zero_grad()
    out = codec(noise(3200))
    (out.wav.square().mean() + sum(loss.sum() for loss in out.losses.values())).backward()
    assert [name for name, p in codec.named_parameters() if p.grad is None] == []
    still = [n for n, p in codec.named_parameters() if not p.grad.abs().max() > 0]
    # what lies before a transformer's output projections, which start at zero
    assert all("transformer" in name and ".out." not in name for name in still)
    assert all(not buffer.requires_grad for buffer in codec.buffers())


def test_each_stream_of_sacodec_decodes_alone() -> None:
    torch.manual_seed(0)
    codec = codec_lib.build("sacodec", "smoke").eval()
    codes = codec.encode(noise(6400))
    semantic, residual = codec.latent(codes.select([0])), codec.latent(codes.select([1]))
    assert torch.allclose(semantic + residual, codec.latent(codes), atol=1e-6)
    heard = [codec.decode(codes, layers=layers) for layers in ([0], [1], [0, 1], None)]
    assert all(wav.shape == (1, 1, 6400) for wav in heard)
    assert torch.equal(heard[2], heard[3])
    assert not torch.equal(heard[0], heard[1]) and not torch.equal(heard[0], heard[2])
    assert torch.equal(codec.encode(noise(6400), n_q=1).codes, codes.codes[:, :1])
    assert torch.equal(codec.decode(codec.encode(noise(6400), n_q=1)), heard[0])


def test_rate_and_range_follow_each_codebook(tmp_path: Path) -> None:
    codec = codec_lib.build("sacodec", "smoke", anchor_size=1000, codebook_size=2048)
    assert codec.codebook_sizes == (1000, 2048) and codec.codebook_size == 2048
    assert codec.bitrate() == 75 * 21 and codec.bitrate(1) == 750
    assert codec_lib.build("sacodec", "smoke", use_first=False, codebook_size=1024).bitrate() == 750
    rows = torch.tensor([[[999, 3], [2047, 0]]])
    codec.decode(Codes(rows, 640))
    with pytest.raises(ValueError, match="from 4 to 1000 for codebook 0, expected 0 to 999"):
        codec.decode(Codes(rows + torch.tensor([[1], [0]]), 640))
    with pytest.raises(ValueError, match="for codebook 1, expected 0 to 2047"):
        codec.decode(Codes(rows[:, 1:] + 1, 640, layers=(1,)))
    codes = codec.encode(noise(24000))
    for some in (codes, codes.select([1])):
        header = bitstream.write_codes(tmp_path / "a.codes", some, codec)
        again, _ = bitstream.read_codes(tmp_path / "a.codes")
        assert torch.equal(again.codes, some.codes)
        assert torch.equal(codec.decode(again), codec.decode(some))
    assert header.payload_bits == 75 * 11 and header.codebook_sizes == (2048,)
    with pytest.raises(ValueError, match=r"codebook_sizes: got codes of \(2048,\), expected \(\)"):
        header.check(codec_lib.build("sacodec", "smoke", use_second=False))


def test_joint_codes_of_ds_codec_pq(tmp_path: Path) -> None:
    codec = codec_lib.build("ds_codec_pq", "smoke", codebook_size=16).eval()
    assert codec.codebook_sizes == (65536,) and codec.bitrate() == 80 * 16
    codes = codec.encode(noise(16000))
    digits = codec.quantizer.split(codes.codes)
    assert digits.shape == (1, 4, 80) and digits.max() < 16
    assert torch.equal(codec.quantizer.join(digits), codes.codes)
    largest = Codes(torch.full((1, 1, 80), 65535), 16000)
    assert bitstream.write_codes(tmp_path / "a.codes", largest, codec).payload_bits == 80 * 16
    assert torch.equal(bitstream.read_codes(tmp_path / "a.codes")[0].codes, largest.codes)


def test_a_checkpoint_needs_no_anchor_file(tmp_path: Path) -> None:
    table = torch.randn(30, 12)
    save_file({"centres": table}, tmp_path / "anchor.safetensors")
    codec = codec_lib.build("sacodec", "smoke", anchor=str(tmp_path / "anchor.safetensors"),
                            anchor_size=None, anchor_dim=None).eval()  # fmt: skip
    assert codec.codebook_sizes == (30, 64)
    path = hub.save_codec(codec, tmp_path / "codec.safetensors", half=False)
    (tmp_path / "anchor.safetensors").unlink()
    again = hub.load(path)
    assert again.config == codec.config
    assert torch.equal(again.quantizer.layers[0].frozen_codebook, table)
    codes = codec.encode(noise(3200))
    assert torch.equal(again.encode(noise(3200)).codes, codes.codes)
    assert torch.equal(again.decode(codes), codec.decode(codes))


def test_stage_one_weights_start_stage_two_as_an_identity() -> None:
    torch.manual_seed(0)
    mirror = codec_lib.build("ds_codec_vq", "smoke").eval()
    switched = codec_lib.build("ds_codec_vq", "smoke", transformer_layers=1).eval()
    result = switched.load_state_dict(mirror.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all(key.startswith("transformer.") for key in result.missing_keys)
    codes = mirror.encode(noise(4000))
    assert torch.equal(switched.encode(noise(4000)).codes, codes.codes)
    assert torch.equal(switched.decode(codes), mirror.decode(codes))
    assert is_exact(mirror) and not is_exact(switched)
    assert torch.equal(encode_long(switched, noise(9000), exact=True).codes[..., :20],
                       switched.encode(noise(9000)).codes[..., :20])  # fmt: skip
    with pytest.raises(ValueError, match="decoder of ds_codec_vq has an LSTM or attention"):
        decode_long(switched, codes)


def test_published_quantizer_is_bigcodecs() -> None:
    quantizer = codec_lib.build("ds_codec_pq", "smoke").quantizer
    assert all(isinstance(part, VectorQuantizer) for part in quantizer.parts)
    for part in quantizer.parts:
        assert (part.update, part.l2_normalize, part.dead_code_threshold) == ("gradient", True, 0)
        assert "in_proj.parametrizations.weight.original0" in part.state_dict()
    other = codec_lib.build("ds_codec_vq", "smoke", quantizer={"update": "ema"}).quantizer
    assert other.layers[0].update == "ema" and other.layers[0].l2_normalize


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("sacodec", {"num_quantizers": 8}, "num_quantizers: got 8, expected 2"),
        ("sacodec", {"use_first": False, "use_second": False}, "expected a quantizer"),
        ("sacodec", {"anchor": "nowhere"}, "got 'nowhere'"),
        ("sacodec", {"strategy": "direct"}, "width 24, expected 16 for direct lookup"),
        ("sacodec", {"first": "semantic"}, "first: got 'semantic'"),
        ("ds_codec_vq", {"num_quantizers": 2}, "num_quantizers: got 2, expected 1"),
        ("ds_codec_pq", {"num_parts": 3}, "multiple of num_parts"),
        ("dac", {"quantizer": {"decy": 0.9}}, "unknown quantizer option 'decy'; did you mean dec"),
        ("dac", {"quantizer": {"codebook_dim": 4}}, "got 'codebook_dim', which follows from the"),
        ("ds_codec_pq", {"quantizer": {"num_parts": 2}}, "got 'num_parts', which follows"),
        ("sacodec", {"quantizer": {"decay": 0.9}}, "'decay'; known: quantizer_dropout"),
        ("encodec", {"causal": True}, "causal: got True with backbone='spectral'"),
        ("bigcodec", {"causal": True, "backbone": "bigcodec"}, 'hint: backbone="seanet"'),
        ("encodec", {"causal": True, "backbone": "vocos"}, "with backbone='vocos'"),
    ],
)
def test_what_cannot_be_built(name: str, overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec_lib.build(name, "smoke", **overrides)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("encodec", {"num_quantizers": "8"}, "num_quantizers: got '8', expected .*int"),
        ("encodec", {"num_quantizers": 2.5}, "num_quantizers: got 2.5, expected int"),
        ("encodec", {"codebook_dim": "wide"}, "codebook_dim: got 'wide', expected int"),
        ("encodec", {"strides": "8542"}, "strides: got '8542', expected tuple"),
        ("encodec", {"strides": [8, None]}, "strides: got .*None.*expected tuple"),
        ("dm_codec", {"text_layers": 0}, "text_layers: got 0, expected tuple"),
        ("dac", {"quantizer": {"decay": "0.9"}}, "quantizer.decay: got '0.9', expected .*float"),
        ("dac", {"quantizer": {"weight_norm": 1}}, "weight_norm: got 1, expected bool"),
        ("dac", {"quantizer": "ema"}, "quantizer: got 'ema', expected .*Mapping"),
        ("codecslime_fsq", {"quantizer": {"levels": "88"}}, "levels: got '88', expected Sequence"),
    ],
)
def test_values_of_another_type_are_refused(name: str, overrides: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        codec_lib.build(name, "smoke", **overrides)


def test_values_are_read_as_their_fields_type() -> None:
    config = codec_lib.build("encodec", "smoke", num_quantizers=4.0, strides=[8, 5.0, 4, 2]).config
    assert repr((config.num_quantizers, config.strides)) == "(4, (8, 5, 4, 2))"


def test_a_causal_codec_is_causal_throughout() -> None:
    """Also the transformer of DS-Codec, between a quantizer and a decoder that are."""
    form = {"backbone": "seanet", "width": 2, "causal": True, "bidirectional": False}
    codec = codec_lib.build("ds_codec_vq", "smoke", transformer_layers=1, **form).eval()
    for parameter in codec.transformer.parameters():
        parameter.data.normal_()  # it starts as the identity
    z = torch.randn(1, codec.config.latent_dim, 20)
    other = torch.cat([z[..., :10], torch.randn_like(z[..., 10:])], dim=-1)
    (one, two), kept = (codec.synthesize(x) for x in (z, other)), 10 * codec.hop_length
    assert torch.allclose(one[..., :kept], two[..., :kept], atol=1e-5)
    assert not torch.allclose(one[..., kept:], two[..., kept:], atol=1e-3)


def test_an_anchor_of_another_size_is_refused(tmp_path: Path) -> None:
    save_file({"centres": torch.randn(30, 24)}, tmp_path / "anchor.safetensors")
    with pytest.raises(ValueError, match=r"got \(40, 24\) for .*which has \(30, 24\)"):
        codec_lib.build("sacodec", "smoke", anchor=str(tmp_path / "anchor.safetensors"))
