r"""Fixed weights, fixed audio: codes and waveforms must stay what they were.

A change that moves them is a change of results. If it is meant, write the files again with
``python tests/golden/test_golden.py NAME...`` and say so in the changelog.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import codec_lib
from codec_lib import hub
from codec_lib.codecs.base import Codec

FOLDER = Path(__file__).parent
SPECTRAL = {"backbone": "spectral", "width": 12, "num_mels": 20, "latent_dim": 8}
BOOKS = {"num_quantizers": 4, "codebook_size": 32, "latent_dim": 8}
SIZES = {**BOOKS, "teacher_dim": 8}
SEANET = {"backbone": "seanet", "width": 2, "lstm_layers": 1}
MODELS = {  # file: codec and what is changed at smoke scale
    "speechtokenizer_spectral": ("speechtokenizer", {**SPECTRAL, **SIZES}),
    "speechtokenizer_seanet": ("speechtokenizer", {**SEANET, **SIZES}),
    "encodec_seanet": ("encodec", {**SEANET, **BOOKS, "bidirectional": False, "causal": True}),
    "sacodec_spectral": ("sacodec", {**SPECTRAL, "codebook_dim": 8}),
    "ds_codec_vq_spectral": ("ds_codec_vq", {**SPECTRAL, "transformer_layers": 1}),
    "ds_codec_pq_spectral": ("ds_codec_pq", SPECTRAL),
    "codecslime_vq_spectral": ("codecslime_vq", SPECTRAL),
    "codecslime_fsq_spectral": ("codecslime_fsq", SPECTRAL),
}


def glide(num_samples: int = 3001, sample_rate: int = 16000) -> Tensor:
    """Return a rising tone with three harmonics, shape (1, 1, T)."""
    time = torch.arange(num_samples, dtype=torch.float64) / sample_rate
    phase = 2 * math.pi * (120 * time + 400 * time**2)
    wav = sum(torch.sin(k * phase) / k for k in (1, 2, 5))
    return (0.2 * wav).float()[None, None]


@torch.no_grad()
def spread(codec: Codec, wav: Tensor) -> None:
    """Give the latents of a spectral encoder mean 0 and deviation 1, so that many codes occur."""
    z, last = codec.encoder(wav).transpose(0, 1).flatten(1), codec.encoder.stack.head
    last.weight.div_(z.std(dim=1)[:, None])
    last.bias.sub_(z.mean(dim=1)).div_(z.std(dim=1))


def write(name: str) -> None:
    """Make the fixed weights and what they give; run by hand only."""
    torch.manual_seed(0)
    kind, changes = MODELS[name]
    codec = codec_lib.build(kind, "smoke", **changes)
    for key, parameter in codec.named_parameters():
        if key.startswith("encoder") and key.endswith("original0"):
            parameter.data.mul_(2.0)
        if key == "quantizer.in_proj.weight":  # of finite scalars: reach every level
            parameter.data.mul_(3.0)
        if key.startswith("transformer") and not parameter.any():  # its output projections
            torch.nn.init.normal_(parameter, std=0.1)
    wav = torch.cat([gain * glide() for gain in torch.logspace(-1.5, 0.5, 30)])
    if kind not in ("speechtokenizer", "encodec"):  # their codebooks start from the data
        spread(codec, wav)
    codec.train()(wav)
    path = hub.save_codec(codec, FOLDER / f"{name}.safetensors")
    codec = hub.load(path)
    codes = codec.encode(glide())
    expected = {"codes": codes.codes.to(torch.int16), "wav": codec.decode(codes)}
    if codes.lengths is not None:
        expected["lengths"] = codes.lengths
    save_file(expected, FOLDER / f"{name}.expected.safetensors")


@pytest.mark.parametrize("name", list(MODELS))
def test_codes_and_waveform_stay(name: str) -> None:
    codec = codec_lib.load(FOLDER / f"{name}.safetensors")
    expected = load_file(FOLDER / f"{name}.expected.safetensors")
    codes = codec.encode(glide())
    assert len(codes.codes.unique()) >= min(8, codes.codes.shape[-1] // 2)
    if codes.lengths is not None:
        assert torch.equal(codes.lengths, expected["lengths"])
    same = (codes.codes == expected["codes"]).float().mean()
    assert same > 0.98  # another processor may round a tie to the other side
    fixed = codec_lib.Codes(expected["codes"].long(), codes.num_samples, codes.lengths)
    assert torch.allclose(codec.decode(fixed), expected["wav"], atol=1e-5)


def test_files_are_small() -> None:
    files = list(FOLDER.glob("*.safetensors"))
    assert len(files) == 2 * len(MODELS)
    assert max(file.stat().st_size for file in files) < 150_000
    assert sum(file.stat().st_size for file in files) < 600_000


if __name__ == "__main__":
    for model in sys.argv[1:] or MODELS:
        write(model)
