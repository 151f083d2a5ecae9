r"""A small HuBERT: hears part of a recording, and names the units of the part it did not hear.

[Hsu et al. 2021, HuBERT]: frames are embedded, about half of them are hidden in spans, and a
Transformer predicts the cluster of every hidden frame from its surroundings. To name the units of
what it cannot hear it has to learn which sounds follow which: that is what makes its features
phonetic, and what a codec's first codebook learns from it.

Differences from the published model: log-mel front end instead of seven convolutions on the
waveform; pre-norm; 2.8 M parameters instead of 95 M; features are standardised
(``standardised.py``).
Used by notebook 20. Leaves out: the targets and the training (``pretraining.py``).
Read next: ``pretraining.py``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from codec_lib.shapes import check_shape

from .base_hubert import BaseHubert, BaseHubertConfig
from .frontend import LogMel, warp_frequency
from .standardised import StandardisedTeacher
from .standardised import check_layer as check_layer
from .standardised import weights_digest as weights_digest


@dataclass(frozen=True)
class HubertConfig:
    r"""Sizes of a ``SmallHubert``. JSON-able.

    Attributes
    ----------
    num_mels, dim, num_layers, num_heads, ffn_dim
        Mel bins M, width D, Transformer layers, attention heads, width of the feed-forward part.
    position_kernel, position_groups
        The convolution that tells the Transformer about order (31 frames are 0.6 s).
    num_units, unit_dim
        Units to predict, and the width in which they are compared with frames.
    dropout
        Share of activations dropped in training.
    temperature
        Divides the cosine between frame and unit; 0.1 as published.
    """

    num_mels: int = 80
    dim: int = 192
    num_layers: int = 6
    num_heads: int = 4
    ffn_dim: int = 768
    position_kernel: int = 31
    position_groups: int = 16
    num_units: int = 100
    unit_dim: int = 128
    dropout: float = 0.05
    temperature: float = 0.1


class TransformerLayer(nn.Module):
    r"""Pre-norm Transformer layer: attention, then two linear maps, each added to what came in.

    Parameters
    ----------
    config
        Sizes.
    """

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.attention_norm = nn.LayerNorm(config.dim)
        self.query_key_value = nn.Linear(config.dim, 3 * config.dim)
        self.attention_out = nn.Linear(config.dim, config.dim)
        self.ffn_norm = nn.LayerNorm(config.dim)
        self.ffn_in = nn.Linear(config.dim, config.ffn_dim)
        self.ffn_out = nn.Linear(config.ffn_dim, config.dim)

    def forward(self, x: Tensor, heard: Tensor | None = None) -> Tensor:
        r"""Map (B, F, D) to (B, F, D); ``heard`` (B, 1, 1, F) is False at padding."""
        batch, frames, dim = x.shape
        qkv = self.query_key_value(self.attention_norm(x)).view(
            batch, frames, 3, self.num_heads, -1
        )
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, F, D / heads)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=heard)
        mixed = self.attention_out(mixed.transpose(1, 2).reshape(batch, frames, dim))
        x = x + functional.dropout(mixed, self.dropout, self.training)
        inner = functional.gelu(self.ffn_in(self.ffn_norm(x)))
        return x + functional.dropout(self.ffn_out(inner), self.dropout, self.training)


class SmallHubert(StandardisedTeacher):
    r"""Log-mel frames, a Transformer over them, and a vector for every unit.

    Parameters
    ----------
    config
        Sizes.

    Attributes
    ----------
    sample_rate, frame_rate, hop_length
        16,000 Hz, 50 Hz, 320 samples.
    dim, num_layers
        Width D of the features; layers, so that there are ``num_layers + 1`` hidden states.

    Examples
    --------
    >>> teacher = SmallHubert(HubertConfig(dim=32, num_layers=2, ffn_dim=64)).eval()
    >>> teacher.features(torch.randn(1, 1, 16001), layer=1).shape
    torch.Size([1, 51, 32])
    """

    unit_keys = ("units",)  # weights that belong to one set of targets

    def __init__(self, config: HubertConfig | None = None) -> None:
        super().__init__(config or HubertConfig())
        config = self.config
        self.mel = LogMel(config.num_mels)
        # Kernel 4, stride 2: the two windows of a frame and one more on each side.
        self.embed = nn.Conv1d(config.num_mels, config.dim, 4, stride=2, padding=1)
        self.embed_norm = nn.LayerNorm(config.dim)
        self.embed_out = nn.Linear(config.dim, config.dim)
        self.mask_vector = nn.Parameter(torch.empty(config.dim).uniform_())
        self.position = nn.Conv1d(
            config.dim,
            config.dim,
            config.position_kernel,
            padding=config.position_kernel // 2,
            groups=config.position_groups,
        )
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.final_norm = nn.LayerNorm(config.dim)
        self.to_unit = nn.Linear(config.dim, config.unit_dim)
        self.units = nn.Parameter(torch.randn(config.num_units, config.unit_dim))

    def hidden_states(
        self,
        wav: Tensor,
        mask: Tensor | None = None,
        frames: Tensor | None = None,
        warp: Tensor | None = None,
    ) -> list[Tensor]:
        r"""Return what enters the first layer, and what leaves each.

        Parameters
        ----------
        wav
            Shape (B, 1, T), float32, 16 kHz.
        mask
            True at frames to hide, shape (B, F), bool.
        frames
            Frames of each item that are no padding, shape (B,).
        warp
            Factors of ``warp_frequency``, shape (B,).

        Returns
        -------
        list[Tensor]
            ``num_layers + 1`` tensors (B, F, D), F = ceil(T / 320). Number 0 is the front end with
            position; the last is normalised by ``final_norm``. The same order as in transformers'
            ``HubertModel(output_hidden_states=True)``.
        """
        mel = self.mel(wav, frames)  # (B, M, 2F)
        if warp is not None:
            mel = warp_frequency(mel, warp)
        x = functional.gelu(self.embed(mel)).transpose(1, 2)  # (B, F, D)
        x = self.embed_out(self.embed_norm(x))
        if mask is not None:
            x = torch.where(mask[..., None], self.mask_vector, x)
        heard = None
        if frames is not None:
            heard = torch.arange(x.shape[1], device=x.device) < frames[:, None]  # (B, F)
            x, heard = x * heard[..., None], heard[:, None, None]
        x = x + functional.gelu(self.position(x.transpose(1, 2))).transpose(1, 2)
        states = [functional.dropout(x, self.config.dropout, self.training)]
        for layer in self.layers:
            states.append(layer(states[-1], heard))
        states[-1] = self.final_norm(states[-1])
        return states

    def training_states(
        self, wav: Tensor, mask: Tensor, frames: Tensor, warp: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor | float]:
        r"""Return the hidden states, and what is added to the loss besides: nothing.

        Parameters
        ----------
        wav, mask, frames, warp
            As in ``hidden_states``.
        """
        return self.hidden_states(wav, mask, frames, warp), 0.0

    def logits(self, state: Tensor) -> Tensor:
        r"""Compare frames with units.

        .. math:: \ell_{fc} = \cos(A h_f, e_c) / \tau \qquad \text{[Hsu et al. 2021], Eq. (3)}

        Parameters
        ----------
        state
            Last hidden state h, shape (B, F, D).

        Returns
        -------
        Tensor
            Shape (B, F, units). One matrix product instead of a cosine for every pair.
        """
        frame = functional.normalize(self.to_unit(state), dim=-1)
        unit = functional.normalize(self.units, dim=-1)
        return frame @ unit.T / self.config.temperature  # Eq. (3)


def span_mask(
    batch: int, frames: int, start_probability: float, length: int, generator: torch.Generator
) -> Tensor:
    r"""Choose which frames to hide: every frame begins a span with the same probability.

    Parameters
    ----------
    batch, frames
        B and F.
    start_probability
        Chance of a frame to begin a span; 0.08 as published.
    length
        Frames of a span; 10 as published. Spans may overlap, so a share 1 - (1 - p)^length of the
        frames is hidden: 0.57 as published.
    generator
        Random numbers, on the CPU.

    Returns
    -------
    Tensor
        Shape (B, F), bool.

    Examples
    --------
    >>> mask = span_mask(100, 200, 0.08, 10, torch.Generator().manual_seed(0))
    >>> 0.55 < float(mask[:, 10:].float().mean()) < 0.58
    True
    """
    starts = torch.rand(batch, frames, generator=generator) < start_probability
    padded = functional.pad(starts.float(), (length - 1, 0))[:, None]
    return functional.max_pool1d(padded, length, stride=1)[:, 0] > 0  # (B, F)


def masked_prediction_loss(
    logits: Tensor, units: Tensor, mask: Tensor, valid: Tensor, unmasked_weight: float = 0.0
) -> dict[str, Tensor]:
    r"""Cross-entropy of the units, over hidden and over heard frames.

    .. math:: L = \frac{1}{|M|} \sum_{f \in M} -\log p_f(c_f)
              + \beta \frac{1}{|\bar M|} \sum_{f \notin M} -\log p_f(c_f)
              \qquad \text{[Hsu et al. 2021], Eq. (1) and §II-B}

    Several clusterings, Eq. (2), are several calls, added up.

    Parameters
    ----------
    logits
        Shape (B, F, units).
    units
        Targets c, shape (B, F), int64.
    mask
        True at hidden frames M, shape (B, F).
    valid
        False at padding, shape (B, F).
    unmasked_weight
        beta; 0 as published. At a small budget 0.5 gave better features.

    Returns
    -------
    dict[str, Tensor]
        ``loss`` (carries gradient), ``masked_loss``, ``unmasked_loss``, ``masked_accuracy``.
    """
    check_shape(units, "B F", name="units", B=logits.shape[0], F=logits.shape[1])
    each = functional.cross_entropy(logits.flatten(0, 1), units.flatten(), reduction="none")
    each = each.view_as(units)
    hidden, heard = mask & valid, ~mask & valid
    masked = (each * hidden).sum() / hidden.sum().clamp_min(1)  # Eq. (1)
    unmasked = (each * heard).sum() / heard.sum().clamp_min(1)
    right = (logits.argmax(-1) == units) & hidden
    return {
        "loss": masked + unmasked_weight * unmasked,
        "masked_loss": masked.detach(),
        "unmasked_loss": unmasked.detach(),
        "masked_accuracy": right.sum() / hidden.sum().clamp_min(1),
    }


def new_hubert(config: HubertConfig | BaseHubertConfig) -> SmallHubert | BaseHubert:
    r"""Make the network whose sizes these are, with random weights."""
    return BaseHubert(config) if isinstance(config, BaseHubertConfig) else SmallHubert(config)


def build_hubert(metadata: dict[str, Any]) -> SmallHubert | BaseHubert:
    r"""Make a network from the metadata of its file.

    Raises
    ------
    ValueError
        If the file is of something else.
    """
    if "config" not in metadata:
        raise ValueError(
            "file: got the weights of something else, expected a HuBERT's. Hint: text encoders "
            "are loaded by load_text_teacher"
        )
    sizes = BaseHubertConfig if metadata.get("network") == "base" else HubertConfig
    return new_hubert(sizes(**metadata["config"]))


def save_hubert(
    teacher: SmallHubert | BaseHubert, path: str | Path, card: dict[str, Any] | None = None
) -> Path:
    r"""Write a teacher to a .safetensors file in half precision.

    Parameters
    ----------
    teacher, path
        The teacher and its file.
    card
        Anything JSON can hold that says how it was made.
    """
    from codec_lib import hub

    network = {"network": "base"} if isinstance(teacher, BaseHubert) else {}
    described = {"config": asdict(teacher.config), **network, **(card or {})}
    return hub.save_module(teacher, path, metadata=described)


def load_hubert(name_or_path: str | Path = "hubert-small") -> SmallHubert | BaseHubert:
    r"""Load a teacher by name (``data/checkpoints``) or path, in eval mode, without gradient."""
    from codec_lib import hub

    return hub.load_module(name_or_path, build_hubert).requires_grad_(False)
