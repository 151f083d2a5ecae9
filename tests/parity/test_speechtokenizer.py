"""The published SpeechTokenizer package and ours, with the same random weights."""

from __future__ import annotations

from typing import Any

import pytest
import speechtokenizer as official
import torch

import codec_lib
from codec_lib.codecs.speechtokenizer import SpeechTokenizer
from codec_lib.evaluation.peers import PUBLISHED_CONFIG
from codec_lib.hub import read_published

PAPER = {"width": 64, "latent_dim": 1024, "codebook_size": 1024}
NARROW = {"width": 4, "latent_dim": 48, "codebook_size": 32}


def published_config(width: int, latent_dim: int, codebook_size: int, **changes: Any) -> dict:
    """Return the released config.json with these sizes."""
    sizes = {"n_filters": width, "dimension": latent_dim, "codebook_size": codebook_size}
    return {**PUBLISHED_CONFIG, **sizes, **changes}


@torch.no_grad()
def fill_codebooks(model: Any) -> None:
    """Make frames differ and put entries where residuals are, so that many codes are used."""
    for name, parameter in model.named_parameters():
        if name.startswith("encoder") and name.endswith("weight_g"):
            parameter.mul_(2.0)  # random networks damp the signal until only biases are left
    frames = model.encoder(torch.randn(4, 1, 2 * 16000) * 0.2)  # (4, D, 100)
    residual = frames.transpose(1, 2).reshape(-1, frames.shape[1])  # (400, D)
    for layer in model.quantizer.vq.layers:
        codebook = layer._codebook
        rows = residual[torch.randint(len(residual), (codebook.embed.shape[0],))]
        entries = rows + 0.5 * residual.std(0) * torch.randn_like(rows)
        codebook.embed.copy_(entries)
        codebook.embed_avg.copy_(entries)
        codebook.cluster_size.fill_(1.0)
        codebook.inited.fill_(True)
        residual = residual - entries[torch.cdist(residual, entries).argmin(1)]


def build_pair(sizes: dict[str, int], activation: str = "ELU") -> tuple[Any, SpeechTokenizer]:
    """Return the official model with random weights and codebooks, and ours with the same."""
    torch.manual_seed(0)
    config = published_config(**sizes, activation=activation)
    theirs = official.SpeechTokenizer(config).eval()
    fill_codebooks(theirs)
    ours = codec_lib.build(
        "speechtokenizer", "paper", **sizes, activation=activation.lower()
    ).eval()
    ours.load_published(theirs.state_dict())
    return theirs, ours


def compare(theirs: Any, ours: SpeechTokenizer, num_samples: int, batch: int = 1) -> float:
    """Assert equal codes; return the largest difference of the waveforms."""
    wav = torch.randn(batch, 1, num_samples, generator=torch.Generator().manual_seed(1)) * 0.2
    with torch.no_grad():
        codes = theirs.encode(wav)  # (K, B, F)
        wav_hat = theirs.decode(codes)  # (B, 1, 320 F), untrimmed
    mine = ours.encode(wav)
    assert torch.equal(mine.codes, codes.transpose(0, 1))
    frames = mine.codes.shape[0] * mine.codes.shape[2]
    decoded = ours.decode(mine)
    assert decoded.shape == wav.shape
    assert min(len(rows.unique()) for rows in mine.codes.transpose(0, 1)) > min(5, frames // 8)
    assert decoded.std() > 1e-3  # the comparison is not one of silences
    return float((decoded - wav_hat[..., :num_samples]).abs().max())


@pytest.mark.parametrize("activation", ["ELU", "Snake"])
def test_same_codes_and_waveform(activation: str) -> None:
    theirs, ours = build_pair(NARROW, activation)
    for num_samples in (321, 6400, 16001):
        assert compare(theirs, ours, num_samples, batch=2) < 1e-5
    ours.fold_weight_norm()
    assert compare(theirs, ours, 8000) < 1e-5
    ours.for_inference()
    for num_samples in (321, 16001):
        assert compare(theirs, ours, num_samples, batch=2) < 1e-5


def test_same_training_forward() -> None:
    theirs, ours = build_pair(NARROW)
    theirs.train(), ours.train()
    wav = torch.randn(2, 1, 3200) * 0.1
    with torch.no_grad():
        wav_hat, commitment, feature = theirs(wav)
        out = ours(wav)
    assert torch.allclose(out.wav, wav_hat, atol=1e-5)
    assert torch.allclose(out.losses["commitment_loss"].mean(), commitment.mean(), rtol=1e-4)
    assert torch.allclose(out.projections["semantic"], feature, atol=1e-5)


def test_parts_decode_like_the_official_start_index() -> None:
    theirs, ours = build_pair(NARROW)
    codes = ours.encode(torch.randn(1, 1, 3200) * 0.1)
    with torch.no_grad():
        tail = theirs.decode(codes.codes.transpose(0, 1)[1:], st=1)
    assert torch.allclose(ours.decode(codes, layers=range(1, 8)), tail, atol=1e-5)


def test_trainer_dict_and_file(tmp_path) -> None:
    theirs, ours = build_pair(NARROW)
    path = tmp_path / "SpeechTokenizer.pt"
    torch.save({"generator": theirs.state_dict(), "best_dev_mel_loss": 0.4}, path)
    fresh = codec_lib.build("speechtokenizer", "paper", **NARROW)
    fresh.load_published(read_published(path))
    for key, value in ours.state_dict().items():
        if not key.endswith("random_state"):
            assert torch.equal(value, fresh.state_dict()[key]), key


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "trainer's"])
def test_dm_codec_has_the_same_layout(tmp_path, wrapped) -> None:
    """Its released trainer writes the bare state dict and packages that hold it."""
    theirs, _ = build_pair(NARROW)
    state = {"generator": theirs.state_dict()} if wrapped else theirs.state_dict()
    torch.save(state, tmp_path / "Model_best_dev.pt")
    ours = codec_lib.build("dm_codec", "paper", speech_layers=[0], **NARROW).eval()
    ours.load_published(read_published(tmp_path / "Model_best_dev.pt"))
    wav = 0.1 * torch.randn(1, 1, 3200)
    with torch.no_grad():
        codes, found = ours.encode(wav), ours(wav).projections
        assert torch.equal(codes.codes.transpose(0, 1), theirs.encode(wav))
        feature = theirs(wav, n_q=8, layers=[0])[2]
    for name in ("semantic", "text"):  # one map for both, as published
        assert torch.allclose(found[name], feature, atol=1e-5)


def test_wrong_keys_are_named() -> None:
    theirs, ours = build_pair(NARROW)
    state = dict(theirs.state_dict())
    bias = state.pop("encoder.model.0.conv.conv.bias")
    with pytest.raises(ValueError, match=r"1 missing keys \(encoder\.model\.0\.conv\.conv\.bias\)"):
        ours.load_published(state)
    with pytest.raises(ValueError, match=r"1 unexpected keys \(extra\.weight\)"):
        ours.load_published({**theirs.state_dict(), "extra.weight": bias})
    with pytest.raises(ValueError, match="differing shapes"):
        ours.load_published({**theirs.state_dict(), "encoder.model.0.conv.conv.bias": bias[:2]})
    spectral = codec_lib.build("speechtokenizer", "smoke")
    with pytest.raises(ValueError, match="seanet"):
        spectral.load_published(theirs.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "parameters", "keys"),
    [("ELU", 103_675_586, 166), ("Snake", 103_683_458, 192)],
)
def test_paper_scale(activation: str, parameters: int, keys: int) -> None:
    theirs, ours = build_pair(PAPER, activation)
    assert sum(p.numel() for p in ours.parameters() if p.requires_grad) == parameters
    assert len(theirs.state_dict()) == keys
    deviation = compare(theirs, ours, 16001)
    assert deviation < 1e-5, f"largest difference of the waveforms: {deviation:.2e}"
