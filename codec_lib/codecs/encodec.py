r"""EnCodec: a residual quantizer in a causal SEANet, the codec that the others descend from.

[Defossez 2022]. ``paper`` is the published 24 kHz model to the parameter (14,851,810): every layer
causal, 75 Hz, 32 codebooks, of which 2, 4, 8, 16 or 32 make 1.5 to 24 kbit/s. ``small`` and
``smoke`` stand on the spectral backbone and have SpeechTokenizer's sizes, so that they are
SpeechTokenizer without a teacher: the baseline of every claim about one.

Notebook: 05_encoders_and_decoders. Leaves out: the 48 kHz stereo model, the language model over
codes, the loss balancer. Read next: ``codecs/bigcodec.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from codec_lib.codecs.config import SMOKE, CodecConfig
from codec_lib.codecs.published import load_encodec_layout
from codec_lib.codecs.registry import register
from codec_lib.codecs.residual import ResidualCodec


@register("encodec")
class Encodec(ResidualCodec):
    r"""EnCodec [Defossez 2022].

    ``forward(wav).losses["commitment_loss"]`` has the K terms of its Eq. (3).

    Parameters
    ----------
    config
        See ``CodecConfig``; ``scales`` has three of them.

    Examples
    --------
    >>> from codec_lib.codecs.registry import build
    >>> codec = build("encodec", "smoke")
    >>> codec.num_quantizers, codec.bitrate()
    (8, 2400.0)
    """

    scales: ClassVar[dict[str, CodecConfig]] = {
        "smoke": CodecConfig(**SMOKE, codebook_size=64),
        "small": CodecConfig(),
        "paper": CodecConfig(
            sample_rate=24000,
            backbone="seanet",
            width=32,
            latent_dim=128,
            num_quantizers=32,
            bidirectional=False,
            causal=True,
        ),
    }

    def load_published(self, state_dict: Mapping[str, Any]) -> None:
        r"""Load the published checkpoint's own key layout, strictly.

        Parameters
        ----------
        state_dict
            The bare state dict of the 24 kHz model, 252 keys.

        Raises
        ------
        ValueError
            If keys are missing or unexpected, or a shape differs; each is named. The codec must
            have the SEANet backbone at the published sizes (``scale="paper"``).
        """
        load_encodec_layout(self, state_dict, renamed={})
