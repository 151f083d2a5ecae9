r"""Encoder and decoder of a codec, chosen by name from its config.

Every codec can stand on every backbone, so what a bottleneck or a loss does can be compared on the
same network. Notebook: 05_encoders_and_decoders. Read next: ``codecs/speechtokenizer.py``.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from codec_lib.blocks.bigcodec import BigCodecDecoder, BigCodecEncoder
from codec_lib.blocks.seanet import SEANetDecoder, SEANetEncoder
from codec_lib.blocks.spectral import SpectralDecoder, SpectralEncoder
from codec_lib.blocks.vocos import VocosDecoder
from codec_lib.codecs.config import CodecConfig

VOCOS_WIDTH = 768  # of WavTokenizer's and SACodec's decoder


def build_backbone(config: CodecConfig) -> tuple[nn.Module, nn.Module]:
    r"""Build the encoder, (B, 1, T) -> (B, D, F), and the decoder, (B, D, F) -> (B, 1, F hop).

    Parameters
    ----------
    config
        Its ``backbone`` is ``"seanet"``, ``"spectral"``, ``"bigcodec"`` or ``"vocos"``.

    Raises
    ------
    ValueError
        If the backbone is unknown, or ``causal`` is asked of one that has no causal form.

    Examples
    --------
    >>> encoder, decoder = build_backbone(CodecConfig(backbone="seanet", width=2, latent_dim=8))
    >>> encoder.hop_length
    320
    """
    if config.backbone not in BACKBONES:
        raise ValueError(f"backbone: got {config.backbone!r}, expected one of {sorted(BACKBONES)}")
    if config.causal and config.backbone != "seanet":
        raise ValueError(
            f"causal: got True with backbone={config.backbone!r}, which reads the future, expected "
            'False; hint: backbone="seanet", bidirectional=False'
        )
    return BACKBONES[config.backbone](config)


def _seanet(config: CodecConfig) -> tuple[nn.Module, nn.Module]:
    """Build SEANet; only the encoder's LSTM can be bidirectional."""
    shared = _seanet_options(config)
    return SEANetEncoder(**shared, bidirectional=config.bidirectional), SEANetDecoder(**shared)


def _seanet_options(config: CodecConfig) -> dict[str, Any]:
    """Return what SEANet's encoder and decoder have in common."""
    names = ("latent_dim", "width", "strides", "lstm_layers", "activation", "causal", "norm")
    return {name: getattr(config, name) for name in names}


def _spectral(config: CodecConfig) -> tuple[nn.Module, nn.Module]:
    """Build the spectral backbone."""
    shared = {
        "hop_length": config.hop_length,
        "latent_dim": config.latent_dim,
        "width": config.width,
        "expansion": config.expansion,
        "kernel_size": config.kernel_size,
    }
    encoder = SpectralEncoder(
        sample_rate=config.sample_rate,
        depth=config.encoder_depth,
        n_fft=config.n_fft,
        num_mels=config.num_mels,
        subframes=config.encoder_subframes,
        **shared,
    )
    decoder = SpectralDecoder(
        depth=config.decoder_depth,
        n_fft=config.decoder_n_fft,
        subframes=config.decoder_subframes,
        head=config.head,
        **shared,
    )
    return encoder, decoder


def _bigcodec(config: CodecConfig) -> tuple[nn.Module, nn.Module]:
    """Build BigCodec's network; with Snake and no LSTM it is DAC's."""
    names = ("latent_dim", "strides", "lstm_layers", "activation", "norm")
    shared = {name: getattr(config, name) for name in names}
    decoder_width = config.decoder_width or config.width
    return (
        BigCodecEncoder(width=config.width, **shared),
        BigCodecDecoder(width=decoder_width, **shared),
    )


def _vocos(config: CodecConfig) -> tuple[nn.Module, nn.Module]:
    """Build SEANet's encoder and a Vocos decoder: WavTokenizer, SACodec."""
    encoder = SEANetEncoder(**_seanet_options(config), bidirectional=config.bidirectional)
    decoder = VocosDecoder(
        hop_length=config.hop_length,
        latent_dim=config.latent_dim,
        width=config.decoder_width or VOCOS_WIDTH,
        depth=config.decoder_depth,
        expansion=config.expansion,
        n_fft=config.decoder_n_fft,
        pos_net=config.pos_net,
    )
    return encoder, decoder


BACKBONES = {"bigcodec": _bigcodec, "seanet": _seanet, "spectral": _spectral, "vocos": _vocos}
