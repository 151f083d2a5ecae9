"""SACodec and DS-Codec learn by their recipes; a codec at 24 kHz lives on speech at 16 kHz."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import codec_lib
from codec_lib.data import corpus
from codec_lib.evaluation.reconstruction import evaluate_codec
from codec_lib.training.config import load_config
from codec_lib.training.logs import read_csv
from codec_lib.training.loop import train

TERMS = ("recon_loss/mel", "adv_loss", "feat_loss", "commitment_loss", "codebook_loss")


@pytest.mark.parametrize(
    ("name", "recipe"),
    [("sacodec", "sacodec"), ("ds_codec_vq", "ds_codec"), ("ds_codec_pq", "ds_codec_small")],
)
def test_five_steps_and_a_verdict(tiny_corpus: Path, tmp_path: Path, name: str, recipe: str):
    changes = {
        "codec": name, "recipe": recipe, "corpus": str(tiny_corpus), "steps": 5,
        "segment_seconds": 0.2, "valid_seconds": 0.5, "critics": "smoke", "lr": 3e-3,
        "warmup_steps": 0, "out_dir": str(tmp_path / "run"),
    }  # fmt: skip
    folder = train(load_config("smoke", changes=changes))
    rows = read_csv(folder / "metrics.csv")
    assert len(rows) == 5
    assert all(math.isfinite(float(row[f"train/{term}"])) for row in rows for term in TERMS)
    mel = [float(row["train/recon_loss/mel"]) for row in rows]
    assert mel[-1] < mel[0]
    codec = codec_lib.load(folder / "final.safetensors")
    speech = corpus(str(tiny_corpus), sample_rate=codec.sample_rate)
    verdicts = evaluate_codec(codec, speech, n_q=[codec.num_quantizers], max_utterances=1)
    assert verdicts[0]["bitrate"] == codec.bitrate()
    assert all(math.isfinite(verdicts[0][metric]) for metric in ("mel_distance", "stoi", "pesq"))


def test_speech_at_16_khz_leaves_the_band_above_8_khz_empty(tiny_corpus: Path):
    wav = corpus(str(tiny_corpus), sample_rate=24000).load(0)
    power = torch.fft.rfft(wav[0]).abs().square()
    above = int(8200 / 12000 * len(power))
    assert power[above:].sum() < 1e-6 * power.sum()
