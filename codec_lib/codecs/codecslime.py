r"""CodecSlime: one codebook at 80 Hz, of which only 20 to 80 codes a second are sent.

[Wang 2025]: BigCodec's network, whose frames are cut into segments of 1 to 4 by a scheduler
(``rate/schedule.py``); each segment sends the code of its mean frame, Eq. (1), and its length, 2
bits. One model serves all rates; it is made by training a codec of fixed rate on (``rate/melt.py``,
``training/presets.py``). Any codec of the registry does the same with ``max_length`` above 1; the
two here are the published ones, with one codebook (``codecslime_vq``) or finite scalars
(``codecslime_fsq``).

``paper`` is the published network to the parameter, 159,436,290 and 159,369,722; ``small`` stands
on the spectral backbone. Notebook: 14_codecslime. Read next: ``rate/schedule.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from codec_lib.codecs.bigcodec import PAPER, BigCodecConfig
from codec_lib.codecs.config import SMOKE, CodecConfig, make_quantizer
from codec_lib.codecs.published_dac import load_codecslime_layout
from codec_lib.codecs.registry import register
from codec_lib.codecs.residual import FACTORISED, ResidualCodec
from codec_lib.quantizers.bottleneck import Bottleneck
from codec_lib.quantizers.scalar import FiniteScalarQuantizer


@dataclass(frozen=True)
class CodecSlimeConfig(BigCodecConfig):
    r"""Config of CodecSlime.

    Attributes
    ----------
    max_length, token_rate
        As published: segments of up to 4 frames, 40 Hz.
    """

    max_length: int = 4
    token_rate: float | None = 40.0


class CodecSlime(ResidualCodec):
    r"""What both forms share: the release's layout.

    Parameters
    ----------
    config
        See ``CodecSlimeConfig``.
    """

    config_class: ClassVar[type[CodecConfig]] = CodecSlimeConfig

    def load_published(self, state_dict: Mapping[str, Any]) -> None:
        r"""Load the published checkpoint's own key layout, strictly.

        Parameters
        ----------
        state_dict
            Tensors of ``codecslime-vq8k.safetensors`` or ``codecslime-fsq18k.safetensors``.

        Raises
        ------
        ValueError
            If keys are missing or unexpected, or a shape differs; each is named. The codec must
            have the BigCodec backbone at the published sizes (``scale="paper"``).
        """
        load_codecslime_layout(self, state_dict)


@register("codecslime_vq")
class CodecSlimeVQ(CodecSlime):
    r"""CodecSlime with one codebook of 8192 entries: 520 + 80 bit/s at 40 Hz.

    Parameters
    ----------
    config
        See ``CodecSlimeConfig``; ``scales`` has three of them.

    Examples
    --------
    >>> from codec_lib.codecs.registry import build
    >>> codec = build("codecslime_vq", "small")
    >>> codec.frame_rate, codec.bitrate(), codec.bitrate(token_rate=80)
    (80.0, 600.0, 1040.0)
    """

    quantizer_defaults = FACTORISED
    scales: ClassVar[dict[str, CodecConfig]] = {
        "smoke": CodecSlimeConfig(**SMOKE, codebook_size=64, codebook_dim=4),
        "small": CodecSlimeConfig(),
        "paper": CodecSlimeConfig(**PAPER),
    }


@register("codecslime_fsq")
class CodecSlimeFSQ(CodecSlime):
    r"""CodecSlime with finite scalars, 18,225 codes: 600 + 80 bit/s at 40 Hz.

    The paper counts log2 18,225 = 14.15 bits a code, 566 + 80 bit/s; a file takes 15 whole ones.
    ``codebook_size`` and ``codebook_dim`` of the config do not matter here; ``quantizer`` may have
    other ``levels``.

    Parameters
    ----------
    config
        See ``CodecSlimeConfig``; ``scales`` has three of them.

    Examples
    --------
    >>> from codec_lib.codecs.registry import build
    >>> codec = build("codecslime_fsq", "small")
    >>> codec.codebook_sizes, codec.bitrate()
    ((18225,), 680.0)
    """

    quantizer_defaults: ClassVar[Mapping[str, Any]] = {"levels": (5, 5, 3, 3, 3, 3, 3, 3)}
    scales: ClassVar[dict[str, CodecConfig]] = {
        "smoke": CodecSlimeConfig(**SMOKE, quantizer={"levels": [4, 4, 4]}),
        "small": CodecSlimeConfig(),
        "paper": CodecSlimeConfig(**PAPER),
    }

    def build_quantizer(self, **options: Any) -> Bottleneck:
        """Return the finite scalar quantizer."""
        sizes = {"latent_dim": self.config.latent_dim}
        return make_quantizer((FiniteScalarQuantizer,), options, **sizes)
