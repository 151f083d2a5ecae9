"""Losses against torchaudio, torch and the equations written out as loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
import torchaudio

from codec_lib.discriminators import DiscriminatorOutput
from codec_lib.losses import (
    MultiScaleMelLoss,
    adversarial_loss,
    discriminator_loss,
    distillation_loss,
    feature_matching_loss,
    pseudo_label_loss,
)

RATE = 16000


def clips(num_samples=4800):
    wav = torch.randn(2, 1, num_samples) * 0.1
    return wav, wav + 0.03 * torch.randn(2, 1, num_samples)


def torchaudio_mel(wav, n_fft, hop, n_mels, normalized):
    transform = torchaudio.transforms.MelSpectrogram(
        RATE, n_fft, hop_length=hop, f_min=0.0, n_mels=n_mels, power=1.0, center=False,
        normalized=normalized, norm="slaney", mel_scale="htk",
    )  # fmt: skip
    padded = F.pad(wav, ((n_fft - hop) // 2,) * 2, mode="reflect")
    return transform(padded[:, 0])


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_official_mel_loss_restated_with_torchaudio():
    wav, wav_hat = clips()
    expected = 0.0
    for weight, n_fft, hop in ((45, 1024, 240), (1, 512, 120), (1, 256, 60), (1, 128, 30)):
        mels = [
            torchaudio_mel(w, n_fft, hop, 80, normalized=False).clamp(min=1e-5).log()
            for w in (wav, wav_hat)
        ]
        expected += weight * F.l1_loss(*mels).item()
    assert MultiScaleMelLoss("official", RATE)(wav_hat, wav).item() == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_paper_mel_loss_is_equation_4_restated_with_torchaudio():
    wav, wav_hat = clips()
    expected = 0.0
    for i in range(5, 12):
        mels = [torchaudio_mel(w, 2**i, 2**i // 4, 64, normalized=True) for w in (wav, wav_hat)]
        logs = [mel.clamp(min=1e-5).log() for mel in mels]
        expected += F.l1_loss(*mels).item() + F.mse_loss(*logs).item()
    assert MultiScaleMelLoss("paper", RATE)(wav_hat, wav).item() == pytest.approx(
        expected, rel=1e-5
    )


def test_distillation_is_equation_2_in_loops():
    student, teacher = torch.randn(2, 9, 5), torch.randn(2, 9, 5)
    total = 0.0
    for b in range(2):
        for d in range(5):
            s, t = student[b, :, d].tolist(), teacher[b, :, d].tolist()
            dot = sum(x * y for x, y in zip(s, t, strict=True))
            cosine = dot / math.sqrt(sum(x * x for x in s) * sum(y * y for y in t))
            total -= math.log(1 / (1 + math.exp(-cosine)))
    assert distillation_loss(student, teacher).item() == pytest.approx(total / 10, abs=1e-5)


def test_pseudo_labels_are_equation_3_in_loops():
    logits, units = torch.randn(2, 7, 4), torch.randint(4, (2, 7))
    total = 0.0
    for b in range(2):
        for t in range(7):
            exponentials = [math.exp(v) for v in logits[b, t].tolist()]
            total -= math.log(exponentials[units[b, t]] / sum(exponentials))
    assert pseudo_label_loss(logits, units).item() == pytest.approx(total / 14, abs=1e-5)


def random_outputs(count, gain):
    return [
        DiscriminatorOutput(torch.randn(2, 1, 6), [gain * torch.randn(2, 3, 8) for _ in range(4)])
        for _ in range(count)
    ]


def test_adversarial_losses_are_equations_5_and_6_in_loops():
    real, fake = random_outputs(3, 2.0), random_outputs(3, 2.0)
    generator = critics = squares = relative = absolute = 0.0
    for r, f in zip(real, fake, strict=True):
        pairs = list(zip(r.logits.flatten().tolist(), f.logits.flatten().tolist(), strict=True))
        generator += sum(max(1 - y, 0) for _, y in pairs) / len(pairs) / 3
        critics += sum(max(1 - x, 0) + max(1 + y, 0) for x, y in pairs) / len(pairs) / 3
        squares += sum((1 - x) ** 2 + y**2 for x, y in pairs) / len(pairs)
        for a, b in zip(r.features, f.features, strict=True):
            difference = F.l1_loss(a, b).item()
            relative += difference / a.abs().mean().item() / (3 * 4)
            absolute += 2 * difference
    assert adversarial_loss(fake).item() == pytest.approx(generator, rel=1e-5)
    assert discriminator_loss(real, fake).item() == pytest.approx(critics, rel=1e-5)
    assert discriminator_loss(real, fake, "least_squares").item() == pytest.approx(
        squares, rel=1e-5
    )
    assert feature_matching_loss(real, fake).item() == pytest.approx(relative, rel=1e-5)
    assert feature_matching_loss(real, fake, "absolute").item() == pytest.approx(absolute, rel=1e-5)


def test_vocos_mel_loss_is_that_of_the_package():
    from vocos.loss import MelSpecReconstructionLoss

    wav, wav_hat = clips(7200)
    published = MelSpecReconstructionLoss(sample_rate=24000)(wav_hat, wav)
    assert MultiScaleMelLoss("vocos", 24000)(wav_hat, wav).item() == pytest.approx(
        published.item(), rel=1e-5
    )


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_dac_mel_loss_restated_with_torchaudio():
    wav, wav_hat = clips()
    expected = 0.0
    for n_fft, n_mels in zip(
        (32, 64, 128, 256, 512, 1024, 2048), (5, 10, 20, 40, 80, 160, 320), strict=True
    ):
        mel = torchaudio.transforms.MelSpectrogram(
            RATE, n_fft, hop_length=n_fft // 4, n_mels=n_mels, power=1.0, mel_scale="slaney",
            norm="slaney",
        )  # fmt: skip
        logs = [mel(each).clamp_min(1e-5).log10() for each in (wav, wav_hat)]
        expected += (logs[0] - logs[1]).abs().mean().item()
    assert MultiScaleMelLoss("dac", RATE)(wav_hat, wav).item() == pytest.approx(expected, rel=1e-4)
