"""The published EnCodec package and ours, with the same random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from encodec import EncodecModel
from encodec.modules import SEANetDecoder, SEANetEncoder
from encodec.quantization import ResidualVectorQuantizer
from torch import nn
from vocos.heads import ISTFTHead
from vocos.models import VocosBackbone
from vocos.pretrained import Vocos

import codec_lib
from codec_lib.blocks.vocos import VocosDecoder
from codec_lib.codecs.base import Codec
from codec_lib.codecs.published_vocos import load_vocos_layout


def scatter_codebooks(model: Any) -> None:
    """Scatter the entries of every codebook where its residuals are, so that many are used."""
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if name.endswith("weight_g"):
                parameter.mul_(2.0)  # random networks damp the signal until only biases are left
        z = model.encoder(torch.randn(4, 1, 24000) * 0.2)  # (4, D, 75)
        rows = z.transpose(1, 2).flatten(0, 1)
        for layer in model.quantizer.vq.layers:
            book = layer._codebook
            noise = torch.randn_like(book.embed)
            book.embed.copy_(rows.mean(0) + 0.3 * rows.std(0) * noise)
            book.embed_avg.copy_(book.embed)
            book.cluster_size.fill_(1.0)
            book.inited.fill_(True)
            rows = rows - book.embed[torch.cdist(rows, book.embed).argmin(1)]


def build_pair(width: int = 4, dim: int = 24, n_q: int = 16, size: int = 32) -> tuple[Any, Codec]:
    """Return the official causal model with random weights, and ours with the same."""
    torch.manual_seed(0)
    sizes = {"n_filters": width, "dimension": dim, "causal": True}
    quantizer = ResidualVectorQuantizer(dimension=dim, n_q=n_q, bins=size)
    theirs = EncodecModel(
        SEANetEncoder(**sizes), SEANetDecoder(**sizes), quantizer, [1.5, 6.0], 24000, 1
    ).eval()
    scatter_codebooks(theirs)
    numbers = {"num_quantizers": n_q, "codebook_size": size}
    ours = codec_lib.build("encodec", "paper", width=width, latent_dim=dim, **numbers).eval()
    ours.load_published(theirs.state_dict())
    return theirs, ours


@pytest.fixture(scope="module")
def pair() -> tuple[EncodecModel, Codec]:
    """The two at a narrow width."""
    return build_pair()


@torch.no_grad()
def check_same(theirs: EncodecModel, ours: Codec, num_samples: int, batch: int = 1) -> None:
    """Assert equal codes and equal waveforms."""
    wav = torch.randn(batch, 1, num_samples, generator=torch.Generator().manual_seed(1)) * 0.2
    theirs.bandwidth = None  # all codebooks
    ((codes, scale),) = theirs.encode(wav)
    mine = ours.encode(wav)
    assert scale is None
    assert torch.equal(mine.codes, codes)
    decoded = ours.decode(mine)
    assert torch.allclose(decoded, theirs.decode([(codes, None)])[..., :num_samples], atol=1e-5)
    if num_samples > 24000:
        assert min(len(row.unique()) for row in codes.transpose(0, 1)) > 10
        assert decoded.std() > 1e-3  # the comparison is not one of silences


@pytest.mark.parametrize("num_samples", [1, 319, 321, 24001])
def test_same_codes_and_waveform(pair: tuple[EncodecModel, Codec], num_samples: int) -> None:
    check_same(*pair, num_samples, batch=2)


@pytest.mark.slow
def test_same_codes_and_waveform_at_paper_scale() -> None:
    check_same(*build_pair(width=32, dim=128, n_q=32, size=1024), 24001)


@torch.no_grad()
def test_bandwidth_chooses_codebooks(pair: tuple[EncodecModel, Codec]) -> None:
    """1.5 kbit/s of 75 Hz codebooks of 5 bit are 4 of them; their bits and ours agree."""
    theirs, ours = pair
    wav = torch.randn(1, 1, 4800) * 0.2
    theirs.set_target_bandwidth(1.5)
    codes = theirs.encode(wav)[0][0]
    n_q = codes.shape[1]
    assert torch.equal(ours.encode(wav, n_q=n_q).codes, codes)
    assert n_q == 4 and ours.bitrate(n_q) == 1500.0


@torch.no_grad()
def test_no_output_depends_on_later_samples(pair: tuple[EncodecModel, Codec]) -> None:
    ours = pair[1]
    wav = torch.randn(1, 1, 6400) * 0.2
    changed = wav.clone()
    changed[..., 3200:] = 0.1 * torch.randn(1, 1, 3200)
    first, second = ours.encode(wav), ours.encode(changed)
    assert torch.equal(first.codes[..., :10], second.codes[..., :10])
    assert not torch.equal(first.codes[..., 10:], second.codes[..., 10:])
    assert torch.allclose(ours.decode(first)[..., :3200], ours.decode(second)[..., :3200])


@torch.no_grad()
def test_vocos_decodes_encodecs_codes(pair: tuple[EncodecModel, Codec]) -> None:
    """The latent of the codes is what the published Vocos on EnCodec takes."""
    theirs, ours = pair
    vocos = Vocos(
        nn.Identity(), VocosBackbone(24, 16, 48, 1, None, 4), ISTFTHead(16, 1280, 320, "same")
    )
    decoder = VocosDecoder(320, 24, 16, 1, pos_net=False, num_conditions=4)
    load_vocos_layout(decoder, vocos.eval().state_dict())
    codes = ours.encode(torch.randn(1, 1, 3200) * 0.2)
    features = theirs.quantizer.decode(codes.codes.transpose(0, 1))
    expected = vocos.decode(features, bandwidth_id=torch.tensor([2]))
    assert torch.allclose(decoder(ours.latent(codes), 2)[:, 0], expected, atol=1e-5)


def test_wrong_keys_are_named(pair: tuple[EncodecModel, Codec]) -> None:
    theirs, ours = pair
    state = dict(theirs.state_dict())
    del state["decoder.model.15.conv.conv.bias"]
    with pytest.raises(ValueError, match=r"1 missing keys \(decoder\.model\.15\.conv\.conv\.bias"):
        ours.load_published(state)
    with pytest.raises(ValueError, match=r"missing keys.*differing shapes"), torch.device("meta"):
        codec_lib.build("encodec", "paper").load_published(theirs.state_dict())


def test_paper_scale_is_the_published_model() -> None:
    with torch.device("meta"):
        ours = codec_lib.build("encodec", "paper")
        theirs = EncodecModel._get_model([1.5, 24.0], causal=True)
    assert sum(p.numel() for p in ours.parameters()) == 14_851_810
    assert sum(p.numel() for p in ours.encoder.parameters()) == 7_425_792
    assert ours.num_quantizers == theirs.quantizer.n_q == 32
    assert len(theirs.state_dict()) == 252
    assert [ours.bitrate(n_q) for n_q in (2, 4, 8, 16, 32)] == [1500, 3000, 6000, 12000, 24000]
