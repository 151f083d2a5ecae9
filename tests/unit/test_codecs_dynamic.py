"""Codecs at a dynamic frame rate: the contract, both published forms, files, chunks, refusals."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import pytest
import torch

import codec_lib
from codec_lib import bitstream, hub
from codec_lib.codecs.base import Codec
from codec_lib.codecs.chunked import decode_long, encode_blocks, encode_long
from codec_lib.codecs.registry import with_rate
from codec_lib.rate import (
    at_frame_rate,
    average,
    distortion,
    length_bits,
    quantize_segments,
    schedule,
    token_index,
)
from codec_lib.shapes import Codes

HALF = {"max_length": 4, "token_rate": 25.0}
FORMS = {
    "codecslime_vq": ("codecslime_vq", {}),
    "codecslime_fsq": ("codecslime_fsq", {}),
    "codecslime_vq, own network": ("codecslime_vq", {"backbone": "bigcodec", "width": 1}),
    "ds_codec_vq": ("ds_codec_vq", {"max_length": 3, "token_rate": 30.0}),
    "speechtokenizer": ("speechtokenizer", HALF),
    "sacodec": ("sacodec", HALF),
    "codecslime_vq, frames": ("codecslime_vq", {"segment_form": "frames"}),
}


@pytest.fixture(scope="module", params=list(FORMS))
def codec(request: pytest.FixtureRequest) -> Codec:
    torch.manual_seed(0)
    name, overrides = FORMS[request.param]
    return codec_lib.build(name, "smoke", **overrides).eval()


def noise(samples: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(samples)) * 0.1


def test_fewer_codes_the_same_samples(codec: Codec) -> None:
    for samples in (1, codec.hop_length + 1, 3301, 9 * codec.hop_length):
        frames = -(-samples // codec.hop_length)
        codes = codec.encode(noise(samples, batch=2))
        count = math.ceil(frames * codec.token_rate / codec.frame_rate)
        assert codes.codes.shape == (2, codec.num_quantizers, count)
        assert codes.lengths.shape == (2, count)
        assert codes.lengths.sum(dim=1).tolist() == [frames, frames]
        assert 1 <= codes.lengths.min() and codes.lengths.max() <= codec.max_length
        assert codec.decode(codes).shape == (2, 1, samples)
        assert torch.equal(codec.decode(at_frame_rate(codes)), codec.decode(codes))


def test_forward_encode_and_decode_agree_in_train_and_eval(codec: Codec) -> None:
    wav = noise(3300, batch=2)
    out = codec(wav)
    assert out.z.shape == out.z_q.shape and out.wav.shape == wav.shape
    for training in (False, True):
        codes = codec.train(training).encode(wav)
        assert torch.equal(codes.codes, out.codes.codes)
        assert torch.equal(codes.lengths, out.codes.lengths)
        assert torch.allclose(codec.decode(codes), out.wav, atol=1e-5)
        assert torch.allclose(codec.latent(codes), out.z_q, atol=1e-5)
    codec.eval()


def test_segments_are_the_schedulers_and_codes_those_of_their_means(codec: Codec) -> None:
    wav = noise(6400)
    z, codes = codec.latents(wav), codec.encode(wav)
    frames = z.transpose(1, 2)
    best = schedule(frames, codes.codes.shape[-1], codec.max_length)
    assert torch.equal(codes.lengths, best)
    shuffled = best[:, torch.randperm(best.shape[1])]
    assert distortion(frames, best) <= distortion(frames, shuffled)
    means = average(z, token_index(best, z.shape[-1]))
    assert torch.equal(codes.codes, codec.quantizer.encode(means))


def test_at_the_frame_rate_nothing_is_cut(codec: Codec) -> None:
    codes = codec.encode(noise(5000), token_rate=codec.frame_rate)
    assert codes.lengths is None
    assert torch.equal(codes.codes, codec.quantizer.encode(codec.latents(noise(5000))))
    rated = codec.encode(noise(5000), token_rate=0.8 * codec.frame_rate)
    assert rated.codes.shape[-1] == math.ceil(0.8 * codes.codes.shape[-1])


def test_gradient_reaches_the_whole_codec(codec: Codec) -> None:
    codec.zero_grad()
    out = codec(noise(3200))
    told = [*out.losses.values(), *out.projections.values()]
    (out.wav.square().mean() + sum(term.sum() for term in told)).backward()
    assert [name for name, p in codec.named_parameters() if p.grad is None] == []


def test_chunks_and_files_keep_codes_and_lengths(codec: Codec, tmp_path: Path) -> None:
    if None in codec.receptive_fields:
        pytest.skip("an LSTM hears the whole file")
    wav = noise(20011)
    whole = codec.encode(wav)
    parts = encode_long(codec, wav, chunk_seconds=0.3)
    assert torch.equal(parts.codes, whole.codes) and torch.equal(parts.lengths, whole.lengths)
    assert torch.allclose(
        decode_long(codec, whole, chunk_seconds=0.3), codec.decode(whole), atol=1e-5
    )
    header = bitstream.write_codes(tmp_path / "a.codes", whole, codec)
    again, read = bitstream.read_codes(tmp_path / "a.codes")
    assert read == header and again.num_samples == 20011
    assert torch.equal(again.codes, whole.codes) and torch.equal(again.lengths, whole.lengths)
    bits = sum((size - 1).bit_length() for size in codec.codebook_sizes) + 2
    assert header.payload_bits == whole.codes.shape[-1] * bits
    read.check(codec)


def test_published_rates() -> None:
    """CodecSlime, Table 1: 520 + 80 bit/s; FSQ prints 566 with log2 18225, a file takes 15 bit."""
    vq, fsq = (codec_lib.build(f"codecslime_{form}", "small") for form in ("vq", "fsq"))
    assert (vq.bitrate(), vq.bitrate(length_bits=0)) == (600, 520)
    assert [vq.bitrate(token_rate=rate) for rate in (50, 80)] == [750, 1040]
    assert (fsq.bitrate(), fsq.bitrate(length_bits=0)) == (680, 600)
    assert fsq.codebook_size == 18225 and fsq.quantizer.levels == (5, 5, 3, 3, 3, 3, 3, 3)
    assert vq.bitrate(length_bits=1.85) == pytest.approx(40 * 14.85)


@pytest.mark.parametrize(("form", "parameters"), [("vq", 159_436_290), ("fsq", 159_369_722)])
def test_published_sizes(form: str, parameters: int) -> None:
    with torch.device("meta"):
        codec = codec_lib.build(f"codecslime_{form}", "paper")
    assert sum(p.numel() for p in codec.parameters() if p.requires_grad) == parameters
    assert (codec.frame_rate, codec.token_rate, codec.max_length) == (80, 40, 4)
    assert sum(p.numel() for p in codec_lib.build(f"codecslime_{form}", "smoke").parameters()) < 3e5


def test_entropy_of_lengths_by_hand() -> None:
    assert length_bits(torch.tensor([[1, 1, 2, 0], [4, 4, 2, 1]])) == pytest.approx(
        -(3 / 7 * math.log2(3 / 7) + 4 / 7 * math.log2(2 / 7))
    )
    assert length_bits(torch.ones(3, 5, dtype=torch.int64)) == 0
    with pytest.raises(ValueError, match="got no segment"):
        length_bits(torch.zeros(1, 2, dtype=torch.int64))


def test_the_two_forms_differ_by_how_often_a_token_counts() -> None:
    """Equal codes; the losses weigh a segment once, or by its length."""
    torch.manual_seed(0)
    quantizer = codec_lib.build("codecslime_vq", "smoke").quantizer.eval()
    z, lengths = torch.randn(2, 16, 6), torch.tensor([[2, 1, 3, 0], [1, 1, 2, 2]])
    once, often = (quantize_segments(quantizer, z, lengths, form=f) for f in ("tokens", "frames"))
    assert torch.equal(once.codes, often.codes)
    torch.testing.assert_close(once.z_q, often.z_q)
    torch.testing.assert_close(once.layers[0], often.layers[0])
    means = average(z, token_index(lengths, 6))
    each = torch.stack(
        [quantizer(means[..., i : i + 1]).losses["commitment_loss"][0] for i in range(7)]
    )
    used = lengths[lengths > 0].float()
    torch.testing.assert_close(once.losses["commitment_loss"][0], each.mean())
    torch.testing.assert_close(often.losses["commitment_loss"][0], (each * used).sum() / 12)


def test_items_keep_their_own_depth_under_quantizer_dropout() -> None:
    """A token uses as many codebooks as the item it is of."""
    torch.manual_seed(0)
    quantizer = codec_lib.build("speechtokenizer", "smoke", **HALF).quantizer.eval()
    z, lengths = torch.randn(2, 16, 6), torch.tensor([[2, 1, 3, 0], [1, 1, 2, 2]])
    out = quantize_segments(quantizer, z, lengths, n_q=torch.tensor([1, 3]))
    for item, depth in enumerate((1, 3)):
        used = lengths[item][lengths[item] > 0][None]
        alone = quantize_segments(quantizer, z[item : item + 1], used, n_q=depth)
        torch.testing.assert_close(out.z_q[item : item + 1], alone.z_q)
    quantizer.quantizer_dropout = 1.0
    quantizer.train()
    assert quantize_segments(quantizer, z, lengths).z_q.shape == z.shape


def test_a_fixed_codec_becomes_dynamic_by_its_config(tmp_path: Path) -> None:
    torch.manual_seed(0)
    fixed = codec_lib.build("ds_codec_vq", "smoke").eval()
    path = hub.save_codec(fixed, tmp_path / "fixed.safetensors", half=False)
    assert hub.load(path).max_length == 1 and hub.load(path).token_rate == 80
    dynamic = with_rate(hub.load(path, fold=False))
    assert dynamic.fingerprint and not dynamic.training and dynamic.config.max_length == 4
    wav = noise(4000)
    assert torch.equal(dynamic.encode(wav).codes, fixed.encode(wav).codes)  # no rate was asked for
    codes = dynamic.encode(wav, token_rate=40)
    assert codes.codes.shape == (1, 1, 10) and dynamic.bitrate(token_rate=40) == 40 * (6 + 2)


def test_with_rate_keeps_what_a_codec_has() -> None:
    own = codec_lib.build("codecslime_vq", "smoke", max_length=6)
    assert (with_rate(own).max_length, with_rate(own).token_rate) == (6, 40)
    assert (with_rate(own, 3).max_length, with_rate(own, token_rate=50).token_rate) == (3, 50)
    folded = codec_lib.build("bigcodec", "smoke").eval().fold_weight_norm()
    codes = with_rate(folded).encode(noise(3000), token_rate=80)
    assert torch.equal(codes.codes, folded.encode(noise(3000)).codes)


def test_a_wrong_depth_is_found_before_a_long_file_is_read() -> None:
    codec, read = codec_lib.build("codecslime_vq", "smoke").eval(), []
    blocks = (read.append(1) or noise(4000)[0] for _ in range(5))
    with pytest.raises(ValueError, match="n_q: got 99"):
        encode_blocks(codec, blocks, n_q=99, chunk_seconds=0.1)
    assert not read


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, f: c.encode(noise(900), token_rate=19), "got 19 Hz, expected 20 to 80 Hz"),
        (lambda c, f: c.bitrate(token_rate=81), "token_rate: got 81 Hz"),
        (lambda c, f: f.encode(noise(900), token_rate=40), "hint: this codec has a fixed rate"),
        (lambda c, f: f.decode(c.encode(noise(900))), "lengths: got a code for"),
        (lambda c, f: c.decode(Codes(torch.zeros(1, 1, 2, dtype=torch.int64), 1000,
                                     torch.tensor([[1, 2]]))), "lengths: got rows of sums"),
        (lambda c, f: Codes(torch.zeros(1, 1, 2, dtype=torch.int64), 400,
                            torch.tensor([[2]])), "lengths: got shape"),
        (lambda c, f: codec_lib.build("codecslime_vq", "smoke", token_rate=10.0), "got 10.0 Hz"),
        (lambda c, f: codec_lib.build("codecslime_vq", "smoke", max_length=9), "max_length"),
        (lambda c, f: codec_lib.build("codecslime_vq", "smoke", max_length=0), "max_length: got 0"),
        (lambda c, f: codec_lib.build("codecslime_vq", "smoke", segment_cost="l1"), "cost"),
        (lambda c, f: c.to_codes(c.latents(noise(1600)), 1600, lengths=torch.tensor([[8]])),
         "got a code for 8 frames, expected at most 4"),
        (lambda c, f: c.to_codes(c.latents(noise(400)), 400, lengths=torch.tensor([[2], [2]])),
         "index: got shape"),
        (lambda c, f: Codes(torch.zeros(1, 1, 2, dtype=torch.int64, device="meta"), 400,
                            torch.tensor([[1, 1]])), "lengths: got lengths on cpu, expected meta"),
        (lambda c, f: codec_lib.build("codecslime_vq", "smoke", segment_form="T"), "segment_form"),
    ],
)  # fmt: skip
def test_what_is_refused(call, message: str) -> None:
    torch.manual_seed(0)
    dynamic = codec_lib.build("codecslime_vq", "smoke").eval()
    fixed = codec_lib.build("bigcodec", "smoke").eval()
    with pytest.raises(ValueError, match=message):
        call(dynamic, fixed)
    for wrong in (2.5, "4", True):
        with pytest.raises(TypeError, match="max_length: got"):
            codec_lib.build("codecslime_vq", "smoke", max_length=wrong)
    with pytest.raises(TypeError, match="token_rate: got '40'"):
        dynamic.encode(noise(900), token_rate="40")
    with pytest.raises(TypeError, match="lengths: got dtype"):
        Codes(torch.zeros(1, 1, 2, dtype=torch.int64), 400, torch.tensor([[1.0, 1.0]]))


def test_a_batch_of_unequal_numbers_of_segments_survives_a_file(tmp_path: Path) -> None:
    codec = codec_lib.build("codecslime_fsq", "smoke").eval()
    lengths = torch.tensor([[2, 1, 3, 0, 0], [1, 1, 2, 1, 1]])
    codes = torch.randint(64, (2, 1, 5)) * (lengths[:, None] > 0)
    sent = Codes(codes, 1111, lengths)
    header = bitstream.write_codes(tmp_path / "a.codes", sent, codec)
    assert header.segments == (3, 5) and header.payload_bits == 8 * (6 + 2) and header.frames == 6
    again, _ = bitstream.read_codes(tmp_path / "a.codes")
    assert torch.equal(again.codes, codes) and torch.equal(again.lengths, lengths)
    assert torch.equal(codec.decode(again), codec.decode(sent))
    other = codec_lib.build("codecslime_fsq", "smoke", max_length=3, token_rate=None)
    with pytest.raises(ValueError, match="max_length: got codes of 4, expected 3"):
        header.check(other)


def test_a_file_of_a_fixed_rate_is_of_version_2(tmp_path: Path) -> None:
    """As before: what older readers know."""
    codec = codec_lib.build("codecslime_vq", "smoke").eval()
    path = tmp_path / "a.codes"
    for rate, version in ((80, 2), (40, 3)):
        bitstream.write_codes(path, codec.encode(noise(3000), token_rate=rate), codec)
        data = path.read_bytes()
        assert data[3] == version and (b"segments" in data) == (version == 3)


@pytest.mark.parametrize(
    ("changes", "version"),
    [
        ({"segments": [9, -1]}, 3), ({"segments": [4.0, 4.0]}, 3), ({"segments": 4}, 3),
        ({"segments": ["4", "4"]}, 3), ({"batch": 7}, 3), ({"max_length": "4"}, 3), ({}, 2),
        ({"unknown": 1}, 3),
    ],
    ids=str,
)  # fmt: skip
def test_damaged_headers_are_named(tmp_path: Path, changes: dict, version: int) -> None:
    codec, path = codec_lib.build("codecslime_vq", "smoke").eval(), tmp_path / "a.codes"
    bitstream.write_codes(path, codec.encode(noise(1600, batch=2)), codec)
    data = path.read_bytes()
    length = bitstream.PREFIX.unpack_from(data)[2]
    start = bitstream.PREFIX.size
    values = json.loads(data[start : start + length]) | changes
    text = json.dumps(values).encode()
    body = text + data[start + length :]
    prefix = bitstream.PREFIX.pack(b"CLC", version, len(text), zlib.crc32(body))
    path.write_bytes(prefix + body)
    with pytest.raises(ValueError, match=r"a\.codes: (segments: got|got a header)"):
        bitstream.read_codes(path)


def test_selected_codebooks_keep_their_lengths_in_a_file(tmp_path: Path) -> None:
    codec = codec_lib.build("speechtokenizer", "smoke", **HALF).eval()
    some = codec.encode(noise(5000)).select([0, 2])
    bitstream.write_codes(tmp_path / "a.codes", some, codec)
    again, header = bitstream.read_codes(tmp_path / "a.codes")
    assert again.layers == header.layers == (0, 2) and torch.equal(again.lengths, some.lengths)
    assert torch.equal(codec.decode(again), codec.decode(some))
    long = decode_long(codec, codec.encode(noise(5000)), layers=[0, 2], chunk_seconds=0.1)
    assert torch.allclose(long, codec.decode(some), atol=1e-5)
