r"""DS-Codec: one codebook at 80 Hz, a mirrored stage and then a stronger decoder.

[Chen 2025]: stage 1 trains BigCodec's mirrored encoder and decoder around one codebook of 8192
entries (``ds_codec_vq``) or four of 16 that count as one of 65,536 (``ds_codec_pq``). Stage 2
freezes encoder and quantizer, keeps the decoder's weights and puts a transformer block before it,
which starts as an identity: ``transformer_layers=1``. The stages are a matter of training
(``training/config.py``).

``paper`` stands on BigCodec's network, ``small`` on the spectral backbone. Notebook: 13_ds_codec.
Leaves out: the multi-codebook baselines of the paper. Read next: ``codecs/backbones.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from codec_lib.blocks.transformer import Transformer
from codec_lib.codecs.bigcodec import PAPER, BigCodec, BigCodecConfig
from codec_lib.codecs.config import SMOKE, CodecConfig, make_quantizer
from codec_lib.codecs.registry import register
from codec_lib.quantizers.bottleneck import Bottleneck
from codec_lib.quantizers.codebook import LearntCodebook
from codec_lib.quantizers.product import ProductQuantizer
from codec_lib.quantizers.vector import VectorQuantizer


@dataclass(frozen=True)
class DSCodecConfig(BigCodecConfig):
    r"""Config of DS-Codec.

    Attributes
    ----------
    num_parts
        1: one codebook; more: that many parts of ``codebook_size`` entries, sent as one code.
    transformer_layers, transformer_heads
        Transformer blocks between quantizer and decoder and their heads; 0 is the mirror of
        stage 1. The paper draws one block and gives no sizes.
    """

    num_parts: int = 1
    transformer_layers: int = 0
    transformer_heads: int = 8


class DSCodec(BigCodec):
    r"""What both forms share: BigCodec, and a transformer between its quantizer and decoder.

    ``load_published`` takes BigCodec's checkpoint, from which the paper starts stage 2; the
    transformer stays an identity.

    Parameters
    ----------
    config
        See ``DSCodecConfig``.

    Raises
    ------
    ValueError
        If ``num_quantizers`` is not 1.
    """

    config_class: ClassVar[type[CodecConfig]] = DSCodecConfig
    config: DSCodecConfig

    def __init__(self, config: DSCodecConfig) -> None:
        if config.num_quantizers != 1:
            raise ValueError(f"num_quantizers: got {config.num_quantizers}, expected 1")
        super().__init__(config)
        depth, heads = config.transformer_layers, config.transformer_heads
        self.transformer: nn.Module = nn.Identity()
        if depth:
            self.transformer = Transformer(config.latent_dim, depth, heads, causal=config.causal)

    def build_quantizer(self, **options: Any) -> Bottleneck:
        """Return one codebook, or its parts."""
        config = self.config
        if config.num_parts == 1:
            return super().build_quantizer(**options)
        return make_quantizer(
            (ProductQuantizer, VectorQuantizer, LearntCodebook),
            options,
            latent_dim=config.latent_dim,
            num_parts=config.num_parts,
            codebook_size=config.codebook_size,
            codebook_dim=config.codebook_dim,
        )

    @property
    def receptive_fields(self) -> tuple[int | None, int | None]:
        """Frames that codes and samples depend on; all of them, for samples, with a transformer."""
        encoder, decoder = super().receptive_fields
        return encoder, None if self.config.transformer_layers else decoder

    def synthesize(self, z_q: Tensor) -> Tensor:
        """Turn a quantized latent (B, D, F) into a waveform, through the transformer if any."""
        return self.decoder(self.transformer(z_q))


TINY: dict[str, Any] = {**SMOKE, "codebook_dim": 3, "transformer_heads": 2}
PARTS: dict[str, Any] = {"codebook_size": 16, "num_parts": 4}


@register("ds_codec_vq")
class DSCodecVQ(DSCodec):
    r"""DS-Codec with one codebook of 8192 entries, 1.04 kbit/s [Chen 2025].

    Parameters
    ----------
    config
        See ``DSCodecConfig``; ``scales`` has three of them.

    Examples
    --------
    >>> from codec_lib.codecs.registry import build
    >>> codec = build("ds_codec_vq", "small", transformer_layers=1)
    >>> codec.frame_rate, codec.bitrate()
    (80.0, 1040.0)
    """

    scales: ClassVar[dict[str, CodecConfig]] = {
        "smoke": DSCodecConfig(**TINY, codebook_size=64),
        "small": DSCodecConfig(),
        "paper": DSCodecConfig(**PAPER),
    }


@register("ds_codec_pq")
class DSCodecPQ(DSCodec):
    r"""DS-Codec with four codebooks of 16 entries that count as one of 65,536, 1.28 kbit/s.

    [Chen 2025], Algorithm 1 as reported. ``codec.quantizer.split(codes)`` gives the four indices.

    Parameters
    ----------
    config
        See ``DSCodecConfig``; ``scales`` has three of them.

    Examples
    --------
    >>> from codec_lib.codecs.registry import build
    >>> codec = build("ds_codec_pq", "small")
    >>> codec.codebook_sizes, codec.bitrate()
    ((65536,), 1280.0)
    """

    scales: ClassVar[dict[str, CodecConfig]] = {
        "smoke": DSCodecConfig(**TINY, codebook_size=4, num_parts=4),
        "small": DSCodecConfig(**PARTS),
        "paper": DSCodecConfig(**PAPER, **PARTS),
    }
