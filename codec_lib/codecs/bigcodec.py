r"""BigCodec: one codebook of 8192 entries at 80 Hz, and the largest network of its kind.

[Xin 2024]: DAC's network with anti-aliased SnakeBeta and an LSTM at the frame rate, and one
codebook whose entries of width 8 are looked up by their direction; 1.04 kbit/s. ``paper`` is the
published network to the parameter, 159,436,290; ``small`` keeps the bottleneck and stands on the
spectral backbone. DS-Codec starts from it. Losses are in ``losses/``. Notebook:
05_encoders_and_decoders. Read next: ``codecs/dac.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from codec_lib.codecs.config import SMOKE, CodecConfig
from codec_lib.codecs.published_dac import load_bigcodec_layout
from codec_lib.codecs.registry import register
from codec_lib.codecs.residual import FACTORISED, ResidualCodec


@dataclass(frozen=True)
class BigCodecConfig(CodecConfig):
    r"""Config of BigCodec; ``quantizer`` overrides what makes up factorised codes.

    Attributes
    ----------
    strides, num_quantizers, codebook_size, codebook_dim
        As published: 200 samples a frame, one codebook of 8192 entries of width 8.
    """

    strides: tuple[int, ...] = (5, 5, 2, 2, 2)
    num_quantizers: int = 1
    codebook_size: int = 8192
    codebook_dim: int | None = 8


# The published network, at whose sizes DS-Codec and CodecSlime are published, too.
PAPER: dict[str, Any] = {
    "backbone": "bigcodec",
    "width": 48,
    "latent_dim": 1024,
    "activation": "snake_beta",
}


@register("bigcodec")
class BigCodec(ResidualCodec):
    r"""BigCodec [Xin 2024].

    Parameters
    ----------
    config
        See ``BigCodecConfig``; ``scales`` has three of them.

    Examples
    --------
    >>> from codec_lib.codecs.registry import build
    >>> codec = build("bigcodec", "small")
    >>> codec.frame_rate, codec.bitrate()
    (80.0, 1040.0)
    """

    config_class: ClassVar[type[CodecConfig]] = BigCodecConfig
    quantizer_defaults = FACTORISED
    scales: ClassVar[dict[str, CodecConfig]] = {
        "smoke": BigCodecConfig(**SMOKE, codebook_size=64, codebook_dim=4),
        "small": BigCodecConfig(),
        "paper": BigCodecConfig(**PAPER),
    }

    def load_published(self, state_dict: Mapping[str, Any]) -> None:
        r"""Load the published checkpoint's own key layout, strictly.

        Parameters
        ----------
        state_dict
            The published dict of two state dicts, ``"CodecEnc"`` and ``"generator"``.

        Raises
        ------
        ValueError
            If keys are missing or unexpected, or a shape differs; each is named. The codec must
            have the BigCodec backbone at the published sizes (``scale="paper"``).
        """
        load_bigcodec_layout(self, state_dict)
