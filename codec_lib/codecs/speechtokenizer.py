r"""SpeechTokenizer: a residual quantizer whose first codebook is taught by HuBERT.

[Zhang 2024]: an EnCodec-like network with a bidirectional LSTM in the encoder. A linear map A of
the first quantizer's output Q_1 is compared with a self-supervised teacher (Eq. 2) or with its
units (Eq. 3), so codebook 1 carries content and codebooks 2 to 8 the rest (timbre, prosody, noise).

``paper`` is the published network to the parameter; ``small`` keeps bottleneck and losses and
stands on the spectral backbone. Losses are in ``losses/``, the teacher in ``teachers/``. Notebook:
10_speechtokenizer. Read next: ``codecs/published.py``, then ``training/steps.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from codec_lib.codecs.config import SMOKE, CodecConfig
from codec_lib.codecs.published import load_encodec_layout
from codec_lib.codecs.registry import register
from codec_lib.codecs.residual import ResidualCodec
from codec_lib.shapes import Codes, QuantizerOutput


@dataclass(frozen=True)
class SpeechTokenizerConfig(CodecConfig):
    r"""Config of SpeechTokenizer.

    Attributes
    ----------
    teacher_dim
        Width D_S of the teacher's features (HuBERT base: 768), rows of A in Eq. (2).
    num_units
        Teacher's units for Eq. (3); 0 builds no classification head.
    """

    teacher_dim: int = 768
    num_units: int = 0


@register("speechtokenizer")
class SpeechTokenizer(ResidualCodec):
    r"""SpeechTokenizer [Zhang 2024].

    ``forward(wav).projections`` has ``"semantic"``, A Q_1 of Eq. (2), shape (B, F, D_S), and, where
    ``num_units`` is set, ``"units"``, the logits A q_1 of Eq. (3), shape (B, F, num_units).

    Parameters
    ----------
    config
        See ``SpeechTokenizerConfig``; ``scales`` has three of them.

    Examples
    --------
    >>> from codec_lib.codecs.registry import build
    >>> codec = build("speechtokenizer", "smoke")
    >>> codec(torch.zeros(1, 1, 3200)).projections["semantic"].shape
    torch.Size([1, 10, 768])
    """

    config_class: ClassVar[type[CodecConfig]] = SpeechTokenizerConfig
    scales: ClassVar[dict[str, CodecConfig]] = {
        "smoke": SpeechTokenizerConfig(**SMOKE, codebook_size=64),
        "small": SpeechTokenizerConfig(),
        "paper": SpeechTokenizerConfig(backbone="seanet", width=64, latent_dim=1024),
    }

    config: SpeechTokenizerConfig

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__(config)
        self.semantic = nn.Linear(config.latent_dim, config.teacher_dim)  # A of Eq. (2)
        self.units = nn.Linear(config.latent_dim, config.num_units) if config.num_units else None

    def project(self, quantized: QuantizerOutput) -> dict[str, Tensor]:
        """Return A Q_1, whose gradient reaches the encoder straight through the quantizer."""
        first = quantized.layers[0].transpose(1, 2)  # Q_1, (B, F, D)
        projections = {"semantic": self.semantic(first)}  # A Q_1 of Eq. (2), (B, F, D_S)
        if self.units is not None:
            projections["units"] = self.units(first)  # logits of Eq. (3), (B, F, units)
        return projections

    def load_published(self, state_dict: Mapping[str, Any]) -> None:
        r"""Load the published checkpoint's own key layout, strictly.

        Parameters
        ----------
        state_dict
            The bare state dict, or a trainer's dict that holds it as ``"generator"``.

        Raises
        ------
        ValueError
            If keys are missing or unexpected, or a shape differs; each is named. The codec must
            have the SEANet backbone at the published sizes (``scale="paper"``).
        """
        load_encodec_layout(self, state_dict, renamed={"semantic": "transform"})


def swap_codebooks(
    content: Codes, timbre: Codes, layers: range | list[int] | tuple[int, ...] | None = None
) -> Codes:
    r"""Take some codebooks from another utterance: one-shot voice conversion.

    Keeps the content's codebook 1 and takes the timbre's codebooks 2 to n [Zhang 2024]. A shorter
    timbre is repeated circularly, a longer one is cut.

    Parameters
    ----------
    content, timbre
        Codes of two utterances by the same codec, batch sizes equal or the timbre's 1.
    layers
        Codebooks to take from ``timbre``, counted from 0; None is all but the first. To stop at
        RVQ-i as the paper does, decode a selection: ``swapped.select(range(i))``.

    Returns
    -------
    Codes
        As long as ``content``.

    Raises
    ------
    ValueError
        If a codebook is missing in one of them or the batch sizes differ.

    Examples
    --------
    >>> a = Codes(torch.zeros(1, 3, 5, dtype=torch.int64), 1600)
    >>> b = Codes(torch.arange(6).reshape(1, 3, 2), 640)
    >>> swap_codebooks(a, b).codes[0].tolist()
    [[0, 0, 0, 0, 0], [2, 3, 2, 3, 2], [4, 5, 4, 5, 4]]
    """
    layers = content.codebooks[1:] if layers is None else tuple(layers)
    donor = timbre.select(layers).codes if layers else timbre.codes[:, :0]  # (B, len(layers), F')
    batch, _, frames = content.codes.shape
    if donor.shape[0] not in (1, batch):
        raise ValueError(f"timbre: got a batch of {donor.shape[0]}, expected 1 or {batch}")
    missing = set(layers) - set(content.codebooks)
    if missing:
        raise ValueError(f"layers: got {sorted(missing)}, expected some of {content.codebooks}")
    position = torch.arange(frames, device=donor.device) % donor.shape[-1]
    codes = content.codes.clone()
    rows = [content.codebooks.index(layer) for layer in layers]
    codes[:, rows] = donor[..., position]  # repeated or cut to F frames
    return Codes(codes, content.num_samples, content.lengths, content.layers)
