r"""Encoder and decoder of a codec, chosen by name from its config.

Every codec can stand on every backbone, so what a bottleneck or a loss does can be compared on the
same network. Notebook: 05_encoders_and_decoders. Read next: ``codecs/speechtokenizer.py``.
"""

from __future__ import annotations

from torch import nn

from codec_lib.blocks.seanet import SEANetDecoder, SEANetEncoder
from codec_lib.blocks.spectral import SpectralDecoder, SpectralEncoder
from codec_lib.codecs.base import CodecConfig

BACKBONES = ("seanet", "spectral")


def build_backbone(config: CodecConfig) -> tuple[nn.Module, nn.Module]:
    r"""Build the encoder, (B, 1, T) -> (B, D, F), and the decoder, (B, D, F) -> (B, 1, F hop).

    Parameters
    ----------
    config
        Its ``backbone`` is ``"seanet"`` or ``"spectral"``.

    Raises
    ------
    ValueError
        If the backbone is unknown.

    Examples
    --------
    >>> encoder, decoder = build_backbone(CodecConfig(backbone="seanet", width=2, latent_dim=8))
    >>> encoder.hop_length
    320
    """
    if config.backbone == "seanet":
        return _seanet(config)
    if config.backbone == "spectral":
        return _spectral(config)
    raise ValueError(f"backbone: got {config.backbone!r}, expected one of {BACKBONES}")


def _seanet(config: CodecConfig) -> tuple[nn.Module, nn.Module]:
    """Build SEANet; only the encoder's LSTM can be bidirectional."""
    shared = {
        "latent_dim": config.latent_dim,
        "width": config.width,
        "strides": config.strides,
        "lstm_layers": config.lstm_layers,
        "activation": config.activation,
        "causal": config.causal,
        "norm": config.norm,
    }
    return SEANetEncoder(**shared, bidirectional=config.bidirectional), SEANetDecoder(**shared)


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
