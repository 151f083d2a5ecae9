r"""The continuous speech tokenizer: a vector for every few frames, and no quantizer.

Cont-SPT ("CST") [Li et al. 2024]: the encoder of a codec, an embedding where its quantizer was, and
its decoder, trained to reconstruct while a recogniser that listens to the reconstruction must hear
the text. The repository holds no code; what the paper leaves open is chosen here and can be
changed: frames are put side by side and mapped linearly to fewer tokens (``downsample``); tokens
are normalised to zero mean and unit variance over their width, so that a model that predicts them
cannot lower its loss by shrinking them; the recogniser may listen to the tokens instead. With
``discrete`` a residual vector quantizer stands behind the embedding: the twin to compare with.

Notebook: 41. Leaves out: the flow-matching decoder of the paper's figure; a Kullback-Leibler term.
Read next: ``lm/continuous.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from codec_lib.blocks.convnext import ConvNeXtStack
from codec_lib.blocks.modes import eval_mode
from codec_lib.blocks.stft import LogMelFrames
from codec_lib.codecs.backbones import build_backbone
from codec_lib.codecs.checks import check_speech
from codec_lib.codecs.config import SMOKE, CodecConfig, make_quantizer, scaled_config
from codec_lib.codecs.residual import VECTORS
from codec_lib.shapes import Codes, check_shape

LISTENERS = ("reconstruction", "tokens", "none")


@dataclass(frozen=True)
class ContinuousConfig(CodecConfig):
    r"""Sizes of a continuous tokenizer; the backbone's fields as in ``CodecConfig``.

    Attributes
    ----------
    downsample
        Frames of the backbone that one token stands for.
    token_dim
        Width D of a token.
    listener
        What the recogniser hears: ``"reconstruction"`` as published, ``"tokens"``, or ``"none"``.
    listener_width, listener_depth
        Of the recogniser's ConvNeXt blocks.
    num_symbols
        What it tells apart, blank included.
    discrete
        True puts a residual vector quantizer of ``num_quantizers`` and ``codebook_size`` behind the
        embedding.
    """

    downsample: int = 2
    token_dim: int = 64
    listener: str = "reconstruction"
    listener_width: int = 96
    listener_depth: int = 3
    num_symbols: int = 40
    discrete: bool = False

    @property
    def token_hop(self) -> int:
        """Samples for each token."""
        return self.hop_length * self.downsample


_TINY = {"token_dim": 8, "listener_width": 16, "listener_depth": 1, "num_quantizers": 2}
SCALES = {
    "smoke": ContinuousConfig(**{**SMOKE, **_TINY, "codebook_size": 16}),
    "small": ContinuousConfig(width=128, encoder_depth=3, decoder_depth=4, listener_width=64),
    # EnCodec's encoder and decoder at 24 kHz, as far as the paper's figure tells; 75 tokens/s.
    "paper": ContinuousConfig(
        sample_rate=24_000,
        backbone="seanet",
        width=32,
        latent_dim=128,
        token_dim=128,
        downsample=1,
        bidirectional=False,
        causal=True,
        listener_width=512,
        listener_depth=8,
    ),
}


@dataclass
class ContinuousOutput:
    r"""What a continuous tokenizer returns in training.

    Attributes
    ----------
    wav
        Reconstruction (B, 1, T).
    tokens
        Shape (B, D, F).
    logits
        What the recogniser hears, (B, F', V), or None.
    losses
        Of the quantizer, where there is one.
    """

    wav: Tensor
    tokens: Tensor
    logits: Tensor | None
    losses: dict[str, Tensor] = field(default_factory=dict)


class ContinuousTokenizer(nn.Module):
    r"""Waveform to tokens (B, D, F) and back.

    Parameters
    ----------
    config
        Sizes.

    Attributes
    ----------
    sample_rate, token_hop, token_rate
        Hz; samples for each token; tokens a second.

    Raises
    ------
    ValueError
        If the listener is unknown, or ``downsample`` is below 1.

    Examples
    --------
    >>> tokenizer = build_continuous("smoke").eval()
    >>> tokens = tokenizer.encode(torch.zeros(1, 1, 16000))
    >>> tokens.shape, tokenizer.decode(tokens, 16000).shape
    (torch.Size([1, 8, 25]), torch.Size([1, 1, 16000]))
    """

    def __init__(self, config: ContinuousConfig) -> None:
        super().__init__()
        if config.listener not in LISTENERS:
            raise ValueError(f"listener: got {config.listener!r}, expected one of {LISTENERS}")
        if config.downsample < 1:
            raise ValueError(f"downsample: got {config.downsample}, expected at least 1")
        self.config, self.sample_rate = config, config.sample_rate
        self.token_hop = config.token_hop
        self.token_rate = config.sample_rate / config.token_hop
        self.encoder, self.decoder = build_backbone(config)
        wide = config.latent_dim * config.downsample
        self.embedding, self.expansion = (nn.Linear(wide, config.token_dim),
                                          nn.Linear(config.token_dim, wide))  # fmt: skip
        self.quantizer = None
        if config.discrete:
            self.quantizer = make_quantizer(
                VECTORS,
                config.quantizer,
                latent_dim=config.token_dim,
                num_quantizers=config.num_quantizers,
                codebook_size=config.codebook_size,
            )
        self.frames, self.listener = None, None
        if config.listener != "none":
            heard = config.token_dim
            if config.listener == "reconstruction":
                rate = (config.sample_rate, config.hop_length)
                self.frames = LogMelFrames(*rate, config.n_fft, config.num_mels)
                heard = config.num_mels
            self.listener = ConvNeXtStack(
                heard, config.num_symbols, config.listener_width, config.listener_depth
            )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    def embed(self, wav: Tensor) -> Tensor:
        r"""Return tokens (B, D, F), F = ceil(T / token_hop), with gradient; see ``encode``."""
        z = self.encoder(wav)  # (B, latent, frames)
        short = -z.shape[-1] % self.config.downsample
        z = functional.pad(z, (0, short), mode="replicate") if short else z
        side = z.transpose(1, 2).unflatten(1, (-1, self.config.downsample)).flatten(2)
        tokens = self.embedding(side)  # (B, F, D)
        return functional.layer_norm(tokens, tokens.shape[-1:]).transpose(1, 2)

    def synthesize(self, tokens: Tensor) -> Tensor:
        r"""Turn tokens (B, D, F) into a waveform (B, 1, F token_hop), with gradient."""
        side = self.expansion(tokens.transpose(1, 2))
        z = side.unflatten(2, (self.config.downsample, -1)).flatten(1, 2)
        return self.decoder(z.transpose(1, 2))

    @torch.no_grad()
    def encode(self, wav: Tensor) -> Tensor:
        r"""Encode a waveform.

        Parameters
        ----------
        wav
            Shape (B, 1, T), float32 in [-1, 1].

        Returns
        -------
        Tensor
            Tokens (B, D, F), F = ceil(T / token_hop), each of zero mean and unit variance; what
            their codes stand for where there is a quantizer.

        Raises
        ------
        TypeError, ValueError
            If dtype, shape or range do not fit, or a sample is not finite.
        """
        check_speech(wav, self.sample_rate, None)
        tokens = self.embed(wav)
        if self.quantizer is None:
            return tokens
        return self.quantizer.decode(self.quantizer.encode(tokens))

    @torch.no_grad()
    def decode(self, tokens: Tensor, num_samples: int | None = None) -> Tensor:
        r"""Decode tokens (B, D, F) into a waveform (B, 1, T), all of it or ``num_samples`` of it.

        Raises
        ------
        ValueError
            If the tokens have another width, or are too few for the samples.
        """
        check_shape(tokens, "B D F", name="tokens", D=self.config.token_dim)
        whole = tokens.shape[-1] * self.token_hop
        if num_samples is not None and not whole - self.token_hop < num_samples <= whole:
            raise ValueError(
                f"num_samples: got {num_samples} for {tokens.shape[-1]} tokens, expected at most "
                f"{whole} and more than {whole - self.token_hop}"
            )
        with eval_mode(self.decoder):
            return self.synthesize(tokens)[..., :num_samples]

    def forward(self, wav: Tensor) -> ContinuousOutput:
        r"""Encode and decode with gradient, and listen; wav (B, 1, T)."""
        tokens, losses = self.embed(wav), {}
        if self.quantizer is not None:
            quantized = self.quantizer(tokens)
            tokens, losses = quantized.z_q, quantized.losses
        made = self.synthesize(tokens)[..., : wav.shape[-1]]
        return ContinuousOutput(made, tokens, self.listen(made, tokens), losses)

    def listen(self, wav: Tensor, tokens: Tensor) -> Tensor | None:
        r"""Score symbols for CTC.

        Parameters
        ----------
        wav
            Shape (B, 1, T), heard where the listener hears the reconstruction.
        tokens
            Shape (B, D, F), heard otherwise.

        Returns
        -------
        Tensor or None
            Shape (B, F', V), F' = ceil(T / hop_length) or F; None without a listener.
        """
        if self.listener is None:
            return None
        heard = tokens.transpose(1, 2) if self.frames is None else self.frames(wav)
        return self.listener(heard)


def build_continuous(scale: str = "small", **overrides: Any) -> ContinuousTokenizer:
    r"""Build a continuous tokenizer with random weights.

    Parameters
    ----------
    scale
        ``"smoke"``, ``"small"`` or ``"paper"``.
    **overrides
        Fields of ``ContinuousConfig``.

    Raises
    ------
    ValueError
        If there is no such scale or field.
    """
    return ContinuousTokenizer(scaled_config(SCALES, scale, overrides))


class DiscreteTwin:
    r"""A tokenizer with a quantizer, with what a language model of codes asks of a codec.

    Parameters
    ----------
    tokenizer
        Built with ``discrete=True``, in eval mode.

    Attributes
    ----------
    sample_rate, hop_length, frame_rate, codebook_sizes, fingerprint
        As a codec's; a frame is a token.

    Raises
    ------
    ValueError
        If the tokenizer has no quantizer.
    """

    def __init__(self, tokenizer: ContinuousTokenizer) -> None:
        if tokenizer.quantizer is None:
            raise ValueError("tokenizer: got continuous tokens, expected discrete=True")
        self.tokenizer, self.sample_rate = tokenizer, tokenizer.sample_rate
        self.hop_length, self.frame_rate = tokenizer.token_hop, tokenizer.token_rate
        self.codebook_sizes = tuple(tokenizer.quantizer.codebook_sizes)
        self.fingerprint: str = getattr(tokenizer, "fingerprint", "")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.tokenizer.device

    @torch.no_grad()
    def encode(self, wav: Tensor, n_q: int | None = None) -> Codes:
        r"""Encode a waveform (B, 1, T) into codes (B, n_q, F)."""
        check_speech(wav, self.sample_rate, None)
        return Codes(self.tokenizer.quantizer.encode(self.tokenizer.embed(wav), n_q), wav.shape[-1])

    def decode(self, codes: Codes) -> Tensor:
        r"""Decode codes into a waveform (B, 1, T)."""
        return self.tokenizer.decode(self.tokenizer.quantizer.look_up(codes), codes.num_samples)
