r"""DAC: a residual quantizer of factorised codes in a convolutional network, without an LSTM.

[Kumar 2023], the network and the codes that BigCodec took over: here it is BigCodec with other
arguments. ``paper`` is the published 44.1 kHz model to the parameter (76,651,890), ``24khz`` and
``16khz`` the other two releases (74,708,706 and 74,175,906). The released 24 and 16 kHz models lose
samples at their odd stride, 15,992 of 16,000; here lengths are kept, and every other sample is
theirs but for the last few frames. Losses are in ``losses/``. Notebook: 05_encoders_and_decoders.
Read next: ``codecs/chunked.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from codec_lib.codecs.bigcodec import BigCodec
from codec_lib.codecs.config import SMOKE, CodecConfig
from codec_lib.codecs.published_dac import load_dac_layout
from codec_lib.codecs.registry import register


@dataclass(frozen=True)
class DACConfig(CodecConfig):
    r"""Config of DAC; ``quantizer`` overrides what makes up factorised codes.

    Attributes
    ----------
    codebook_dim
        As published.
    quantizer
        ``{"quantizer_dropout": 0.5}`` trains one model for every bitrate, as published.
    """

    codebook_dim: int | None = 8


PAPER = DACConfig(
    sample_rate=44100,
    strides=(8, 8, 4, 2),
    backbone="bigcodec",
    width=64,
    decoder_width=96,
    latent_dim=1024,
    num_quantizers=9,
    lstm_layers=0,
    activation="snake",
)


@register("dac")
class DAC(BigCodec):
    r"""DAC [Kumar 2023].

    Parameters
    ----------
    config
        See ``DACConfig``; ``scales`` has the three releases beside the usual sizes.

    Examples
    --------
    >>> from codec_lib.codecs.registry import build
    >>> codec = build("dac", "smoke")
    >>> codec.num_quantizers, codec.frame_rate
    (8, 50.0)
    """

    config_class: ClassVar[type[CodecConfig]] = DACConfig
    scales: ClassVar[dict[str, CodecConfig]] = {
        "smoke": DACConfig(**SMOKE, codebook_size=64, codebook_dim=4),
        "small": DACConfig(),
        "paper": PAPER,
        "24khz": replace(PAPER, sample_rate=24000, strides=(8, 5, 4, 2), num_quantizers=32),
        "16khz": replace(PAPER, sample_rate=16000, strides=(8, 5, 4, 2), num_quantizers=12),
    }

    def load_published(self, state_dict: Mapping[str, Any]) -> None:
        r"""Load the published checkpoint's own key layout, strictly.

        Parameters
        ----------
        state_dict
            Bare, or a release file, which holds it as ``"state_dict"``.

        Raises
        ------
        ValueError
            If keys are missing or unexpected, or a shape differs; each is named. The codec must
            have the sizes of its release (``scale="paper"``, ``"24khz"`` or ``"16khz"``).
        """
        load_dac_layout(self, state_dict)
