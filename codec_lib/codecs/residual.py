r"""What codecs around one residual vector quantizer share: encoder, quantizer, decoder.

SpeechTokenizer, EnCodec, BigCodec and DAC differ in sizes, in what finds and moves their codebooks,
and in what stands beside this. Notebook: 10_speechtokenizer. Leaves out: quantizers of other kinds
(``codecs/sacodec.py``). Read next: ``codecs/speechtokenizer.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from codec_lib.codecs.backbones import build_backbone
from codec_lib.codecs.base import Codec
from codec_lib.codecs.config import CodecConfig, make_quantizer
from codec_lib.quantizers.bottleneck import Bottleneck
from codec_lib.quantizers.codebook import LearntCodebook
from codec_lib.quantizers.residual import ResidualVectorQuantizer
from codec_lib.quantizers.vector import VectorQuantizer

VECTORS = (ResidualVectorQuantizer, VectorQuantizer, LearntCodebook)  # each hands on to the next
# DAC's factorised codes: found by cosine, trained by gradient, none started by data or revived.
FACTORISED: dict[str, Any] = {
    "update": "gradient",
    "l2_normalize": True,
    "weight_norm": True,
    "kmeans_init": False,
    "dead_code_threshold": 0.0,
}


class ResidualCodec(Codec):
    r"""Encoder, residual vector quantizer and decoder, as the config says.

    Parameters
    ----------
    config
        See ``CodecConfig``; its ``quantizer`` goes before ``quantizer_defaults``.

    Attributes
    ----------
    quantizer_defaults
        Arguments of ``ResidualVectorQuantizer`` that make up the codec.

    Examples
    --------
    >>> codec = ResidualCodec(CodecConfig(width=8, latent_dim=4, codebook_size=16))
    >>> codec.num_quantizers, codec.bitrate()
    (8, 1600.0)
    """

    quantizer_defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, config: CodecConfig) -> None:
        super().__init__(config)
        self.encoder, self.decoder = build_backbone(config)
        self.quantizer = self.build_quantizer(**{**self.quantizer_defaults, **config.quantizer})

    def build_quantizer(self, **options: Any) -> Bottleneck:
        """Return the quantizer of the config's sizes; ``options`` are its further arguments."""
        return make_quantizer(
            VECTORS,
            options,
            latent_dim=self.config.latent_dim,
            num_quantizers=self.config.num_quantizers,
            codebook_size=self.config.codebook_size,
            codebook_dim=self.config.codebook_dim,
        )
