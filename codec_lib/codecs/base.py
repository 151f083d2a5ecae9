r"""The contract that every codec keeps: encode, decode, forward, bitrate.

A codec is an encoder, a quantizer and a decoder. ``encode`` and ``decode`` check what they are
given, need no gradient and never depend on train or eval state; ``forward`` is what training calls.
Notebook: 00_start_here. Leaves out: long audio (``chunked``) and files (``hub``, ``bitstream``).
Read next: ``codecs/speechtokenizer.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from codec_lib.blocks.conv import fold_weight_norm
from codec_lib.blocks.frozen import Frozen, can_freeze
from codec_lib.blocks.modes import eval_mode
from codec_lib.blocks.packed import pack_linears
from codec_lib.codecs.checks import (
    check_depth,
    check_lengths,
    check_sent,
    check_speech,
    check_token_rate,
    check_wav,
)
from codec_lib.codecs.config import CodecConfig
from codec_lib.rate.costs import check_options
from codec_lib.rate.quantized import FORMS, quantize_segments
from codec_lib.rate.schedule import num_segments_at, schedule
from codec_lib.rate.segments import at_frame_rate, average, to_items
from codec_lib.shapes import CodecOutput, Codes, QuantizerOutput


class Codec(nn.Module):
    r"""Base of every codec; a subclass sets ``encoder``, ``quantizer`` and ``decoder``.

    Parameters
    ----------
    config
        Kept as ``config``; gives the attributes below.

    Attributes
    ----------
    name
        Name in the registry.
    scales
        Config by scale: ``smoke``, ``small``, ``paper``.
    sample_rate, hop_length, frame_rate
        Hz, samples per frame, frames per second.
    max_length
        Most frames U that a code may stand for; 1 where the rate is fixed.
    num_quantizers, codebook_sizes, codebook_size
        Codebooks K, entries N of each, the most entries of any; the quantizer's.
    card, fingerprint
        What a checkpoint says about itself, and which it is; empty for random weights.
    """

    name: ClassVar[str] = ""
    config_class: ClassVar[type[CodecConfig]] = CodecConfig
    scales: ClassVar[dict[str, CodecConfig]] = {}

    encoder: nn.Module
    quantizer: nn.Module
    decoder: nn.Module

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate, self.hop_length = config.sample_rate, config.hop_length
        self.frame_rate = self.sample_rate / self.hop_length
        check_options(config.max_length, config.segment_cost)
        self.max_length = config.max_length
        self._check_token_rate(None)
        if config.segment_form not in FORMS:
            raise ValueError(f"segment_form: got {config.segment_form!r}, expected one of {FORMS}")
        self.card: dict[str, Any] = {}  # hub.load fills these two in
        self.fingerprint = ""

    @property
    def token_rate(self) -> float:
        """Codes per second of each codebook where ``encode`` is asked for no other, Hz."""
        return self._check_token_rate(None)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(chain(self.parameters(), self.buffers())).device

    @property
    def num_quantizers(self) -> int:
        """Codebooks K."""
        return self.quantizer.num_quantizers

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Entries N of each codebook."""
        return tuple(self.quantizer.codebook_sizes)

    @property
    def codebook_size(self) -> int:
        """The most entries of any codebook."""
        return max(self.codebook_sizes)

    @property
    def receptive_fields(self) -> tuple[int | None, int | None]:
        """Frames on each side that a code and a sample depend on; None where without bound."""
        fields = (getattr(part, "receptive_field", None) for part in (self.encoder, self.decoder))
        return next(fields), next(fields)

    @property
    def slowest_rate(self) -> float:
        """Fewest codes per second of each codebook, Hz, with every segment of U frames."""
        return self.frame_rate / self.max_length

    def bitrate(
        self,
        n_q: int | None = None,
        token_rate: float | None = None,
        length_bits: float | None = None,
    ) -> float:
        r"""Return the bits per second of the first ``n_q`` codebooks.

        .. math:: R = r \, \Big(\sum_{k=1}^{n_q} \lceil \log_2 N_k \rceil
                  + \lceil \log_2 U \rceil\Big)

        with r tokens per second; the last term, what a length takes, only below the frame rate.

        Parameters
        ----------
        n_q
            Codebooks used; None for all.
        token_rate
            Tokens per second r, Hz; None for the codec's own.
        length_bits
            Bits that a length takes; None for the term above, 0 to leave lengths out, or their
            entropy (``rate.length_bits``).

        Returns
        -------
        float
            bit/s.

        Examples
        --------
        >>> import codec_lib
        >>> codec_lib.build("speechtokenizer", "small").bitrate(8)
        4000.0
        >>> codec_lib.build("codecslime_vq", "small").bitrate()
        600.0
        """
        sizes = self.codebook_sizes[: self._check_n_q(n_q)]
        rate = self._check_token_rate(token_rate)
        if rate == self.frame_rate:
            length_bits = 0.0
        elif length_bits is None:
            length_bits = (self.max_length - 1).bit_length()
        return rate * (sum((size - 1).bit_length() for size in sizes) + length_bits)

    @torch.no_grad()
    def encode(
        self,
        wav: Tensor,
        n_q: int | None = None,
        sample_rate: int | None = None,
        token_rate: float | None = None,
    ) -> Codes:
        r"""Encode a waveform into codes.

        Parameters
        ----------
        wav
            Shape (B, 1, T), float32 in [-1, 1], T at least 1.
        n_q
            Codebooks to use; None for all. The first k of K are the codes of ``n_q=k``.
        sample_rate
            Hz; given, it is compared with the codec's.
        token_rate
            Tokens per second, Hz, from frame rate / U to the frame rate; None for the codec's own.

        Returns
        -------
        Codes
            (B, n_q, F) int64, F = ceil(T / hop_length), without gradient. Below the frame rate
            (B, n_q, K), K = ceil(F token_rate / frame_rate), and lengths (B, K).

        Raises
        ------
        TypeError, ValueError
            If dtype, shape, device, a rate, range or ``n_q`` do not fit, or a sample is not finite.

        Examples
        --------
        >>> import codec_lib
        >>> codec = codec_lib.build("speechtokenizer", "smoke")
        >>> codec.encode(torch.zeros(1, 1, 16000), n_q=2).codes.shape
        torch.Size([1, 2, 50])
        """
        check_speech(wav, self.sample_rate, sample_rate)
        if wav.device != self.device:
            hint = "Hint: wav.to(codec.device)"
            raise ValueError(f"wav: got {wav.device}, expected {self.device}. {hint}")
        return self.to_codes(self.latents(wav), wav.shape[-1], n_q, token_rate)

    @torch.no_grad()
    def latents(self, wav: Tensor) -> Tensor:
        """Return the latent (B, D, F) of a waveform (B, 1, T): the first half of ``encode``."""
        return self.encoder(wav)

    @torch.no_grad()
    def to_codes(
        self,
        z: Tensor,
        num_samples: int,
        n_q: int | None = None,
        token_rate: float | None = None,
        lengths: Tensor | None = None,
    ) -> Codes:
        r"""Quantize a latent: the second half of ``encode``.

        Parameters
        ----------
        z
            Of ``latents``, shape (B, D, F).
        num_samples
            Of the waveform it is of.
        n_q, token_rate
            As in ``encode``.
        lengths
            Segments that somebody else has chosen, shape (B, S); None for the scheduler's.

        Raises
        ------
        ValueError
            If the lengths do not fit the latent or the codec.
        """
        n_q = self._check_n_q(n_q)
        lengths = self.segment(z, token_rate) if lengths is None else lengths
        if lengths is None:
            return Codes(self.quantizer.encode(z, n_q), num_samples)
        tokens = average(z, check_lengths(lengths, z.shape[-1], self.max_length))
        codes = to_items(self.quantizer.encode(tokens, n_q), lengths)
        return Codes(codes, num_samples, lengths)

    def segment(self, z: Tensor, token_rate: float | None = None) -> Tensor | None:
        r"""Cut latents into as many segments as a rate asks for, by the scheduler.

        Parameters
        ----------
        z
            Shape (B, D, F).
        token_rate
            As in ``encode``.

        Returns
        -------
        Tensor | None
            Frames of each segment, shape (B, K), int64; None at the frame rate, where there is
            nothing to choose.
        """
        rate = self._check_token_rate(token_rate)
        if rate == self.frame_rate:
            return None
        count = num_segments_at(z.shape[-1], self.frame_rate, rate, self.max_length)
        return schedule(z.transpose(1, 2), count, self.max_length, self.config.segment_cost)

    @torch.no_grad()
    def decode(self, codes: Codes, layers: Sequence[int] | None = None) -> Tensor:
        r"""Decode codes into a waveform exactly as long as the one that was encoded.

        Parameters
        ----------
        codes
            What ``encode`` returned, all or some codebooks (``codes.select``); on any device.
        layers
            Codebooks to use, counted from 0, e.g. ``[0]``; None for all in ``codes``.

        Returns
        -------
        Tensor
            Shape (B, 1, T), without gradient; not limited to [-1, 1].

        Raises
        ------
        TypeError, ValueError
            If the codes are of another codec: range, number of codebooks, frames.
        """
        if not isinstance(codes, Codes):
            raise TypeError(
                f"codes: got {type(codes).__name__}, expected codec_lib.Codes; "
                "hint: Codes(tensor, num_samples)"
            )
        codes = codes if layers is None else codes.select(layers)
        self.check_codes(codes)
        with eval_mode(self.decoder):
            z_q = self.latent(codes.to(self.device))
            return self.synthesize(z_q)[..., : codes.num_samples]

    def latent(self, codes: Codes) -> Tensor:
        r"""Look codes up: the quantized latent z_q, shape (B, D, F), a sum over codebooks."""
        return self.quantizer.look_up(at_frame_rate(codes))

    def synthesize(self, z_q: Tensor) -> Tensor:
        """Turn a quantized latent (B, D, F) into a waveform (B, 1, F hop_length)."""
        return self.decoder(z_q)

    def forward(
        self,
        wav: Tensor,
        n_q: int | None = None,
        segment: Callable[[Tensor], Tensor | None] | None = None,
    ) -> CodecOutput:
        r"""Encode, quantize and decode with gradient; in training mode codebooks learn.

        Parameters
        ----------
        wav
            Shape (B, 1, T), float32 in [-1, 1].
        n_q
            Codebooks to use; None for all (in training, what quantizer dropout leaves).
        segment
            From the latent (B, D, F) to lengths (B, S), or None to keep every frame; by default
            ``segment``, which cuts as ``encode`` does.

        Returns
        -------
        CodecOutput
            Reconstruction (B, 1, T), codes, latents (B, D, F), losses and projections.
        """
        check_wav(wav)
        z = self.encoder(wav)  # (B, D, F)
        lengths = (segment or self.segment)(z)
        if lengths is None:
            quantized: QuantizerOutput = self.quantizer(z, n_q=n_q)
        else:
            form = self.config.segment_form
            quantized = quantize_segments(self.quantizer, z, lengths, n_q, form)
        wav_hat = self.synthesize(quantized.z_q)[..., : wav.shape[-1]]  # (B, 1, T)
        return CodecOutput(
            wav=wav_hat,
            codes=Codes(quantized.codes, wav.shape[-1], lengths),
            z=z,
            z_q=quantized.z_q,
            losses=quantized.losses,
            projections=self.project(quantized),
        )

    def project(self, quantized: QuantizerOutput) -> dict[str, Tensor]:
        """Return the projections that distillation compares with a teacher; none by default."""
        return {}

    def load_published(self, state_dict: Mapping[str, Any]) -> None:
        """Load weights in the published key layout; a codec without one raises."""
        raise NotImplementedError(f"{self.name or type(self).__name__} has no published checkpoint")

    def fold_weight_norm(self) -> Codec:
        """Fold weight norm into plain weights for faster inference; see ``blocks.conv``."""
        fold_weight_norm(self)
        return self

    def for_inference(self) -> Codec:
        r"""Make encoding and decoding as fast as they get, in place, for good.

        Folds weight norm and, on a CPU, packs weights (``blocks.packed``), SEANet's and BigCodec's
        frames first (``blocks.frozen``).
        Codes stay the same and waveforms within rounding. Training and saving need another copy.

        Returns
        -------
        Codec
            The same codec, in eval mode.
        """
        self.fold_weight_norm()
        if self.device.type == "cpu":
            for part in ("encoder", "decoder"):
                network = getattr(self, part)
                setattr(
                    self, part, Frozen(network) if can_freeze(network) else pack_linears(network)
                )
        return self.eval()

    def _check_n_q(self, n_q: int | None) -> int:
        """Return the number of codebooks to use."""
        return check_depth(n_q, self.num_quantizers)

    def _check_token_rate(self, rate: float | None) -> float:
        """Return the tokens per second to use."""
        rate = self.config.token_rate if rate is None else rate
        return check_token_rate(rate, self.frame_rate, self.max_length)

    def check_codes(self, codes: Codes) -> None:
        """Raise ``ValueError`` unless codes can be this codec's; see ``codecs/checks.py``."""
        check_sent(codes, self.hop_length, self.codebook_sizes, self.max_length)
