r"""Reconstruct fixed held-out crops and measure them: mel distance, STOI, SI-SDR.

Cheap enough to run every few hundred steps; ``evaluation/`` has the full measurement.

Read next: ``logs.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

try:
    from codec_lib.evaluation.reconstruction import reconstruction_metrics
except ImportError:
    from codec_lib.losses import MultiScaleMelLoss

    def reconstruction_metrics(ref, est, sample_rate):
        import pystoi

        mel = MultiScaleMelLoss("small", sample_rate)(est[None], ref[None])
        error = (ref - est).square().sum()
        return {
            "mel_distance": float(mel),
            "si_sdr": float(10 * (ref.square().sum() / error).log10()),
            "stoi": float(pystoi.stoi(ref[0].numpy(), est[0].numpy(), sample_rate)),
        }


METRICS = ("mel_distance", "stoi", "si_sdr")


@torch.no_grad()
def validate(
    codec: nn.Module, crops: Tensor, batch_size: int = 8
) -> tuple[dict[str, float], Tensor]:
    r"""Measure a codec on held-out crops.

    Parameters
    ----------
    codec
        In eval mode, usually the averaged weights.
    crops
        Shape (n, 1, T), on the codec's device.
    batch_size
        Crops per forward pass.

    Returns
    -------
    tuple[dict[str, float], Tensor]
        ``valid/mel_distance``, ``valid/stoi`` and ``valid/si_sdr`` (dB), means over the crops; and
        the reconstructions, shape (n, 1, T), on the CPU.
    """
    made = torch.cat([codec(part).wav.float().cpu() for part in crops.split(batch_size)])
    real = crops.cpu()
    rows = [
        reconstruction_metrics(reference, estimate, codec.sample_rate)
        for reference, estimate in zip(real, made, strict=True)
    ]
    return {f"valid/{n}": sum(row[n] for row in rows) / len(rows) for n in METRICS}, made
