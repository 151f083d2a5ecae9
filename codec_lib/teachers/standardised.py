r"""What the teachers trained here share: frame features without mean and scale, a fingerprint.

No paper: the published features are raw hidden states. Used by notebooks 10 and 20.
Leaves out: how the hidden states are made (``hubert.py``, ``base_hubert.py``). Read next:
``hubert.py``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from .frontend import HOP, SAMPLE_RATE


class StandardisedTeacher(nn.Module):
    r"""A network with ``hidden_states(wav)``, whose features have mean 0 and variance 1.

    Parameters
    ----------
    config
        Sizes, a dataclass that JSON can hold with ``dim`` and ``num_layers``.

    Attributes
    ----------
    sample_rate, frame_rate, hop_length, dim, num_layers, fingerprint
        See ``features.Teacher``.
    """

    sample_rate, hop_length, frame_rate = SAMPLE_RATE, HOP, SAMPLE_RATE / HOP

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.dim, self.num_layers = config.dim, config.num_layers
        self.register_buffer("feature_mean", torch.zeros(config.num_layers + 1, config.dim))
        self.register_buffer("feature_scale", torch.ones(config.num_layers + 1, config.dim))

    def hidden_states(self, wav: Tensor) -> list[Tensor]:
        r"""Return ``num_layers + 1`` tensors (B, F, D) of a waveform (B, 1, T)."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        r"""16 hexadecimal digits that change whenever a weight or a size does."""
        return weights_digest(self, json.dumps(asdict(self.config), sort_keys=True))

    @torch.no_grad()
    def features(self, wav: Tensor, layer: int | str = "avg") -> Tensor:
        r"""Return frame features to learn from.

        Every dimension of every layer is brought to mean 0 and variance 1 over the training
        corpus (after ``set_statistics``). So layers weigh the same in the average, and a constant
        cannot pass for a good match in the distillation loss, whose cosine is not centred.

        Parameters
        ----------
        wav
            Shape (B, 1, T), float32, 16 kHz.
        layer
            Hidden state 0 to ``num_layers``, or ``"avg"`` for the mean of all.

        Returns
        -------
        Tensor
            Shape (B, F, D), F = ceil(T / 320); frame f stands for samples from 320 f on.

        Raises
        ------
        ValueError
            If there is no such layer, or the shape is another.
        """
        check_layer(layer, self.num_layers)
        states = self.hidden_states(wav)
        if layer != "avg":
            return (states[layer] - self.feature_mean[layer]) / self.feature_scale[layer]
        stacked = torch.stack(states)  # (layers + 1, B, F, D)
        mean, scale = self.feature_mean[:, None, None], self.feature_scale[:, None, None]
        return ((stacked - mean) / scale).mean(0)

    @torch.no_grad()
    def set_statistics(self, wavs: Iterable[Tensor]) -> None:
        r"""Measure mean and scale of every dimension of every layer, which ``features`` removes.

        Parameters
        ----------
        wavs
            Waveforms (B, 1, T); a few minutes are enough.

        Raises
        ------
        ValueError
            If there are none.
        """
        total, square, count = 0.0, 0.0, 0
        for wav in wavs:
            states = torch.stack(self.hidden_states(wav)).flatten(1, 2).double()  # (L + 1, BF, D)
            total, square = total + states.sum(1), square + states.square().sum(1)
            count += states.shape[1]
        if not count:
            raise ValueError("wavs: got none, expected at least one waveform")
        self.feature_mean.copy_(total / count)
        variance = (square / count - (total / count).square()).clamp_min(0)
        self.feature_scale.copy_(variance.sqrt().clamp_min(1e-4))


def weights_digest(module: nn.Module, described: str) -> str:
    r"""Return 16 hexadecimal digits that change with a module's weights or its description."""
    digest = hashlib.sha256(described.encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def check_layer(layer: int | str, num_layers: int) -> None:
    r"""Raise ``ValueError`` unless a layer is ``"avg"`` or a hidden state's number."""
    if layer != "avg" and not (type(layer) is int and 0 <= layer <= num_layers):
        raise ValueError(f"layer: got {layer!r}, expected 'avg' or 0 to {num_layers}")
