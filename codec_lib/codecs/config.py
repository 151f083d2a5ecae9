r"""What describes a codec: one frozen config, which a checkpoint stores as JSON.

Codecs extend it by what is theirs. Notebook: 00_start_here. Leaves out: what a training run sets
(``training/config.py``). Read next: ``codecs/base.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class CodecConfig:
    r"""What every codec's config has: rate, backbone and quantizer sizes. JSON-able.

    Attributes
    ----------
    sample_rate
        Hz.
    strides
        Decoder order; their product is ``hop_length`` (also for the spectral backbone).
    backbone
        ``"spectral"``, ``"seanet"``, ``"bigcodec"``, or ``"vocos"`` (SEANet's encoder and Vocos).
    width, decoder_width
        Channels: of all blocks (spectral), of the encoder's first convolution (the others); of the
        decoder's last (bigcodec; None: ``width``) or of all its blocks (vocos; None: 768).
    latent_dim, num_quantizers, codebook_size, codebook_dim
        Latent width D, codebooks, entries N of each, their width (None: D).
    encoder_depth, decoder_depth, expansion, kernel_size
        Spectral: ConvNeXt blocks.
    n_fft, num_mels, encoder_subframes
        Spectral: log-mel frames.
    decoder_n_fft, decoder_subframes, head
        Spectral: inverse STFT; None is 4 hops (of a subframe). Vocos: the first of them.
    pos_net
        Vocos: True puts residual convolutions and attention before the blocks.
    lstm_layers, bidirectional, activation, causal, norm
        SEANet; BigCodec, without the second and fourth.
    quantizer
        Further arguments of the quantizer, e.g. ``{"decay": 0.9, "as_published": True}``.
    max_length
        Most frames U that one code may stand for; 1: the rate is fixed [CodecSlime].
    token_rate
        Codes per second (of each codebook) where a caller names no other, Hz; None: every frame.
    segment_cost, segment_form
        What the scheduler makes small (``rate.segment_costs``), and whether a training step counts
        every token once, ``"tokens"``, or once a frame, ``"frames"`` (``rate.quantize_segments``).
    """

    sample_rate: int = 16000
    strides: tuple[int, ...] = (8, 5, 4, 2)
    backbone: str = "spectral"
    width: int = 192
    decoder_width: int | None = None
    latent_dim: int = 64
    num_quantizers: int = 8
    codebook_size: int = 1024
    codebook_dim: int | None = None
    encoder_depth: int = 4
    decoder_depth: int = 5
    expansion: int = 3
    kernel_size: int = 7
    n_fft: int = 1024
    num_mels: int = 80
    encoder_subframes: int = 1
    decoder_n_fft: int | None = None
    decoder_subframes: int = 1
    head: str = "magnitude_phase"
    pos_net: bool = True
    lstm_layers: int = 2
    bidirectional: bool = True
    activation: str = "elu"
    causal: bool = False
    norm: str = "weight_norm"
    quantizer: Mapping[str, Any] = field(default_factory=dict)
    max_length: int = 1
    token_rate: float | None = None
    segment_cost: str = "paper"
    segment_form: str = "tokens"

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.strides)

    def without_files(self) -> CodecConfig:
        """Return the config for weights that are loaded next: building it reads no file."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON stores them."""
        return {**asdict(self), "strides": list(self.strides), "quantizer": dict(self.quantizer)}


# The spectral backbone at a test's size, for the scale "smoke" of every codec.
SMOKE: dict[str, Any] = {
    "width": 32,
    "latent_dim": 16,
    "encoder_depth": 1,
    "decoder_depth": 1,
    "expansion": 2,
    "n_fft": 640,
    "num_mels": 40,
}


def scaled_config(scales: Mapping[str, Any], scale: str, overrides: Mapping[str, Any]) -> Any:
    r"""Return the frozen config of a scale with some fields changed; lists become tuples.

    Parameters
    ----------
    scales
        Config by scale.
    scale, overrides
        Which one, and its changed fields.

    Raises
    ------
    ValueError
        If there is no such scale or field.
    """
    if scale not in scales:
        raise ValueError(f"scale: got {scale!r}, expected one of {sorted(scales)}")
    known = asdict(scales[scale])
    if not set(overrides) <= set(known):
        raise ValueError(
            f"config: got {sorted(set(overrides) - set(known))}, expected some of {list(known)}"
        )
    fixed = {key: tuple(v) if isinstance(v, list) else v for key, v in overrides.items()}
    return replace(scales[scale], **fixed)
