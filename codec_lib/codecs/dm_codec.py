r"""DM-Codec: SpeechTokenizer's network, taught by a speech model and by a language model.

[DM-Codec]: network, quantizer and losses are SpeechTokenizer's; beside what a speech model says of
a frame (SM), the quantizer learns what a language model says of the text (LM). Which codebooks
learn from which teacher is a choice; the paper's best row teaches the text to RVQ-1 and the speech
to RVQ-1:8. One linear map serves both teachers where their widths are equal (768, as published).

The released code projects only the first of the layers asked for, so it cannot express that row;
here the outputs of the layers asked for are added before the projection. Losses are in
``losses/distillation.py``, text vectors over time in ``teachers/text_targets.py``. Notebook:
11_dm_codec. Read next: ``training/teaching.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from codec_lib.codecs.config import SMOKE, CodecConfig
from codec_lib.codecs.registry import register
from codec_lib.codecs.speechtokenizer import SpeechTokenizer, SpeechTokenizerConfig
from codec_lib.shapes import QuantizerOutput


@dataclass(frozen=True)
class DmCodecConfig(SpeechTokenizerConfig):
    r"""Config of DM-Codec.

    Attributes
    ----------
    text_dim
        Width of the text vectors where it is not ``teacher_dim``; 0 where it is, and one map A
        serves both teachers, as published.
    speech_layers, text_layers
        Codebooks, counted from 0, whose summed output learns from the speech model and from the
        language model. None: all codebooks, and the first one.

    Raises
    ------
    ValueError
        If a codebook does not exist or none is named.
    """

    text_dim: int = 0
    speech_layers: tuple[int, ...] | None = None
    text_layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("speech_layers", "text_layers"):
            if getattr(self, name) is None:
                continue
            layers, known = getattr(self, name), set(range(self.num_quantizers))
            if not layers or len(set(layers)) != len(layers) or not set(layers) <= known:
                raise ValueError(
                    f"{name}: got {list(layers)}, expected different codebooks of 0 to "
                    f"{self.num_quantizers - 1}"
                )


@register("dm_codec")
class DmCodec(SpeechTokenizer):
    r"""DM-Codec [DM-Codec].

    ``forward(wav).projections`` has ``"semantic"`` (B, F, D_S), which the speech model teaches, and
    ``"text"`` (B, F, D_T), which the language model teaches.

    Parameters
    ----------
    config
        See ``DmCodecConfig``; ``scales`` has three of them.

    Examples
    --------
    >>> from codec_lib.codecs.registry import build
    >>> codec = build("dm_codec", "smoke", text_dim=16)
    >>> codec(torch.zeros(1, 1, 3200)).projections["text"].shape
    torch.Size([1, 10, 16])
    """

    config_class: ClassVar[type[CodecConfig]] = DmCodecConfig
    scales: ClassVar[dict[str, CodecConfig]] = {
        "smoke": DmCodecConfig(**SMOKE, codebook_size=64),
        "small": DmCodecConfig(),
        "paper": DmCodecConfig(backbone="seanet", width=64, latent_dim=1024),
    }

    config: DmCodecConfig

    def __init__(self, config: DmCodecConfig) -> None:
        super().__init__(config)
        self.text = nn.Linear(config.latent_dim, config.text_dim) if config.text_dim else None

    def project(self, quantized: QuantizerOutput) -> dict[str, Tensor]:
        """Return A times the summed layers of each teacher, straight through to the encoder."""
        config, shared = self.config, self.semantic if self.text is None else self.text
        every = tuple(range(config.num_quantizers))
        speech = self._summed(quantized.layers, config.speech_layers or every)  # (B, F, D)
        projections = {"semantic": self.semantic(speech)}
        if self.units is not None:
            projections["units"] = self.units(speech)
        text = self._summed(quantized.layers, config.text_layers or (0,))
        return {**projections, "text": shared(text)}

    def _summed(self, layers: list[Tensor], chosen: tuple[int, ...]) -> Tensor:
        """Add the layers chosen, of those in use, (B, F, D); the encoder gets the gradient once."""
        parts = torch.stack([layers[k] for k in chosen if k < len(layers)] or layers)
        total = parts.sum(0).transpose(1, 2)
        if getattr(self.quantizer, "as_published", False):
            return total  # residuals keep their gradient, so that the sum's is the identity
        mean = total / len(parts)  # each layer passes the gradient on whole
        return mean + (total - mean).detach()
