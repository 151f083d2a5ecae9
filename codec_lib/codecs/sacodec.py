r"""SACodec: frozen units of a speech model as first codebook, SimVQ on what they leave over.

[Dong et al. 2026]: an EnCodec-like encoder at 75 Hz, the asymmetric dual quantizer of Eqs. (1) to
(4) and WavTokenizer's decoder; 1000 + 1024 entries make 1.5 kbit/s. The speech model is never run:
all that is semantic is the geometry of its centroids, seen through a learnt affine map.

``paper`` has the parameters of the published network (their inference is in the card); ``small``
keeps bottleneck and losses and stands on the spectral backbone. Every ablation of the paper is a
field of the config. Notebook: 12_sacodec. Leaves out: where the centroids come from
(``quantizers/anchors.py``). Read next: ``codecs/ds_codec.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from codec_lib.codecs.backbones import build_backbone
from codec_lib.codecs.base import Codec
from codec_lib.codecs.config import SMOKE, CodecConfig, make_quantizer
from codec_lib.codecs.registry import register
from codec_lib.quantizers.anchored import AsymmetricDualQuantizer
from codec_lib.quantizers.anchors import load_anchor

RANDOM = "random"
PUBLISHED_ANCHORS = (1000, 768)  # centroids K1 and their width S


@dataclass(frozen=True)
class SACodecConfig(CodecConfig):
    r"""Config of SACodec; ``codebook_size`` and ``codebook_dim`` are those of the second quantizer.

    Attributes
    ----------
    num_quantizers
        Follows from ``use_first`` and ``use_second``.
    anchor
        Table C_sem of Eq. (1): a name or path for ``load_anchor``, or ``"random"`` for a frozen
        random one of the sizes below (the control that the paper lacks).
    anchor_size, anchor_dim
        Entries K1 and width S; None is what the table has (``"random"``: 1000 and 768).
    first
        ``"anchored"``; ``"random"``: random rows of the anchor's mean and covariance;
        ``"learnable"``: an ordinary vector quantizer with K1 entries.
    strategy
        ``"codebook_projection"``, or a lesser one: ``"feature_projection"``, ``"direct"``.
    use_first, use_second
        False leaves a quantizer out ("without Q1", "without Q2").
    """

    num_quantizers: int = 2
    anchor: str = RANDOM
    anchor_size: int | None = None
    anchor_dim: int | None = None
    first: str = "anchored"
    strategy: str = "codebook_projection"
    use_first: bool = True
    use_second: bool = True

    def without_files(self) -> SACodecConfig:
        """Return the same sizes with nothing to read: a checkpoint holds the table."""
        return replace(self, anchor=RANDOM)


@register("sacodec")
class SACodec(Codec):
    r"""SACodec [Dong et al. 2026]: codebook 1 is anchored, codebook 2 quantizes its residual.

    ``decode(codes, layers=[0])`` is the semantic stream alone, ``layers=[1]`` the residual alone.

    Parameters
    ----------
    config
        See ``SACodecConfig``; ``scales`` has three of them.

    Raises
    ------
    ValueError
        If the anchor's sizes are not those asked for, or ``num_quantizers`` not that of the parts.

    Examples
    --------
    >>> import torch
    >>> from codec_lib.codecs.registry import build
    >>> codec = build("sacodec", "smoke")
    >>> codec.codebook_sizes, codec.bitrate(), codec.bitrate(1)
    ((40, 64), 900.0, 450.0)
    >>> codec.encode(torch.zeros(1, 1, 3200)).codes.shape
    torch.Size([1, 2, 10])
    """

    config_class: ClassVar[type[CodecConfig]] = SACodecConfig
    scales: ClassVar[dict[str, CodecConfig]] = {
        "smoke": SACodecConfig(
            **{**SMOKE, "n_fft": 1024},
            sample_rate=24000,
            codebook_size=64,
            anchor_size=40,
            anchor_dim=24,
        ),
        "small": SACodecConfig(sample_rate=24000, anchor="hubert-small-km1000"),
        "paper": SACodecConfig(
            sample_rate=24000,
            backbone="vocos",
            width=32,
            latent_dim=768,
            decoder_depth=12,
            bidirectional=False,
        ),
    }

    config: SACodecConfig

    def __init__(self, config: SACodecConfig) -> None:
        table = _anchor(config)
        sizes = _anchor_sizes(config, table)
        streams = config.use_first + config.use_second
        if config.num_quantizers not in (2, streams):
            raise ValueError(
                f"num_quantizers: got {config.num_quantizers}, expected {streams}, one each for "
                "use_first and use_second"
            )
        config = replace(config, num_quantizers=streams, anchor_size=sizes[0], anchor_dim=sizes[1])
        super().__init__(config)
        self.encoder, self.decoder = build_backbone(config)
        self.quantizer = make_quantizer(
            (AsymmetricDualQuantizer,),
            config.quantizer,
            latent_dim=config.latent_dim,
            table=table,
            codebook_size=config.codebook_size,
            codebook_dim=config.codebook_dim,
            first=config.first,
            strategy=config.strategy,
            anchor_size=sizes[0],
            anchor_dim=sizes[1],
            use_first=config.use_first,
            use_second=config.use_second,
        )


def _anchor(config: SACodecConfig) -> Tensor | None:
    """Return the table (K1, S) that the config names, None where none is read."""
    read = config.use_first and config.anchor != RANDOM
    return load_anchor(config.anchor) if read else None


def _anchor_sizes(config: SACodecConfig, table: Tensor | None) -> tuple[int, int]:
    """Return K1 and S, as the table has them or as asked for."""
    asked = (config.anchor_size, config.anchor_dim)
    found = PUBLISHED_ANCHORS if table is None else tuple(table.shape)
    sizes = tuple(have if want is None else want for want, have in zip(asked, found, strict=True))
    if table is not None and sizes != found:
        raise ValueError(
            f"anchor_size, anchor_dim: got {asked} for {config.anchor!r}, which has {found}; "
            "hint: leave them out, fit a table of that size (codec-lib anchors fit), or "
            'anchor="random"'
        )
    return sizes
