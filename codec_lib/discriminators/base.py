r"""What every critic shares: its result type, weight norm, width scaling and published keys.

Source: the critics of [SpeechTokenizer], §3.3, come from HiFi-GAN (multi-period, multi-scale) and
EnCodec (multi-scale STFT). Notebook: ``06_losses_and_discriminators``. Left out: losses on the
outputs (``losses/adversarial.py``). Read next: ``multi_period.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from codec_lib.shapes import check_shape

# DAC pairs each convolution with its activation, which adds an index to its keys.
ACTIVATED = re.compile(r"(\bconvs\.\d+|band_convs\.\d+\.\d+)\.0\.")


@dataclass
class DiscriminatorOutput:
    r"""What one sub-discriminator D_k says about a batch.

    Attributes
    ----------
    logits
        Scores, large for real; (B, 1, ...) with the remaining axes of the critic's own grid.
    features
        The L feature maps that feature matching compares, each (B, C, ...).
    has_logits
        True where the last of the features is the score map itself.
    """

    logits: Tensor
    features: list[Tensor]
    has_logits: bool = False

    def detach(self) -> DiscriminatorOutput:
        """Return the same values without gradient."""
        features = [feature.detach() for feature in self.features]
        return DiscriminatorOutput(self.logits.detach(), features, self.has_logits)


def normed(conv: nn.Module, norm: str = "weight") -> nn.Module:
    r"""Put a weight or a spectral norm on a convolution.

    Parameters
    ----------
    conv
        The convolution.
    norm
        ``"weight"`` (g v / \|v\|, one g per output channel), ``"spectral"`` or ``"none"``.

    Returns
    -------
    nn.Module
        The same module, parametrized.

    Raises
    ------
    ValueError
        If ``norm`` is unknown.
    """
    if norm == "none":
        return conv
    if norm not in ("weight", "spectral"):
        raise ValueError(f"norm: got {norm!r}, expected 'weight', 'spectral' or 'none'")
    return weight_norm(conv) if norm == "weight" else spectral_norm(conv)


def scaled(channels: tuple[int, ...], width: float) -> tuple[int, ...]:
    r"""Scale a list of channel counts, never below 1.

    Examples
    --------
    >>> scaled((32, 128), width=0.125)
    (4, 16)
    """
    if not width > 0:
        raise ValueError(
            f"width: got {width}, expected a number above 0 (1.0 is the published size)"
        )
    return tuple(max(1, round(count * width)) for count in channels)


def run_layers(
    wav: Tensor, convs: nn.ModuleList, conv_post: nn.Module, slope: float, keep_logits: bool
) -> DiscriminatorOutput:
    r"""Run convolutions with LeakyReLU between, and keep every map.

    Parameters
    ----------
    wav
        Input of the first convolution, (B, C, ...).
    convs, conv_post
        The stack and the convolution to one score channel.
    slope
        Negative slope of the LeakyReLU.
    keep_logits
        True counts the score map among the features, as HiFi-GAN does (EnCodec does not).

    Returns
    -------
    DiscriminatorOutput
        Score map and feature maps, with gradient.
    """
    features = []
    hidden = wav
    for conv in convs:
        hidden = F.leaky_relu(conv(hidden), slope)
        features.append(hidden)
    logits = conv_post(hidden)
    features = [*features, logits] if keep_logits else features
    return DiscriminatorOutput(logits, features, keep_logits)


def published_key(key: str, spectral: bool) -> str | None:
    """Translate one key of HiFi-GAN's, EnCodec's, Vocos's or DAC's; None: not needed."""
    if "spec_transform" in key or "spec_fn" in key:  # stored windows; ours are made
        return None
    key = ACTIVATED.sub(r"\1.", key)
    stem, _, leaf = key.replace(".conv.", ".").rpartition(".")
    inside = f"{stem}.parametrizations.weight"
    if spectral:  # old spectral norm: weight_orig with buffers weight_u, weight_v
        names = {"weight_orig": "original", "weight_u": "0._u", "weight_v": "0._v"}
    else:
        names = {"weight_g": "original0", "weight_v": "original1"}
    return f"{inside}.{names[leaf]}" if leaf in names else f"{stem}.{leaf}"


class Discriminator(nn.Module):
    r"""A set of sub-discriminators of one family.

    Subclasses fill ``discriminators`` and may override ``views`` when each sub-discriminator reads
    the waveform differently.
    """

    discriminators: nn.ModuleList
    min_samples: int = 1

    def views(self, wav: Tensor) -> list[Tensor]:
        """Return what each sub-discriminator is given; the waveform (B, 1, T) itself by default."""
        return [wav] * len(self.discriminators)

    def forward(self, wav: Tensor) -> list[DiscriminatorOutput]:
        r"""Judge a batch of waveforms.

        Parameters
        ----------
        wav
            Waveform, (B, 1, T).

        Returns
        -------
        list[DiscriminatorOutput]
            One per sub-discriminator, with gradient to ``wav`` and to the weights.

        Raises
        ------
        ValueError
            If the shape is wrong or the clip is shorter than the critic can look at.
        """
        num_samples = check_shape(wav, "B 1 T", name="wav")["T"]
        if num_samples < self.min_samples:
            raise ValueError(
                f"wav: got {num_samples} samples, expected at least {self.min_samples} for "
                f"{type(self).__name__}; use longer clips or smaller periods, windows or scales"
            )
        pairs = zip(self.discriminators, self.views(wav), strict=True)
        return [disc(view) for disc, view in pairs]

    def load_published(self, state_dict: Mapping[str, Tensor]) -> None:
        r"""Load weights stored under the published key layout, strictly.

        Parameters
        ----------
        state_dict
            Keys such as ``discriminators.0.convs.1.weight_g`` (HiFi-GAN) or
            ``discriminators.0.convs.1.conv.weight_g`` (EnCodec).

        Raises
        ------
        RuntimeError
            If a key is missing, left over or of another shape.
        """
        own = {}
        for key, value in state_dict.items():
            spectral = f"{key.rpartition('.')[0]}.weight_orig" in state_dict
            name = published_key(key, spectral)
            if name is not None:
                own[name] = value
        self.load_state_dict(own, strict=True)
