r"""Reconstruct fixed held-out crops and measure them: mel distance, STOI, SI-SDR.

Cheap enough to run every few hundred steps; ``evaluation/`` has the full measurement.

Read next: ``logs.py``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from codec_lib.evaluation.reconstruction import reconstruction_metrics

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
        reconstruction_metrics(reference, estimate, codec.sample_rate, METRICS)
        for reference, estimate in zip(real, made, strict=True)
    ]
    # a crop without speech has no STOI (NaN); the others count
    return {f"valid/{n}": float(np.nanmean([row[n] for row in rows])) for n in METRICS}, made
