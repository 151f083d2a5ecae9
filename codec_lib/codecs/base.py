r"""The contract that every codec keeps: encode, decode, forward, bitrate.

A codec is an encoder, a quantizer and a decoder. ``encode`` and ``decode`` check what they are
given, need no gradient and never depend on train or eval state; ``forward`` is what training calls.
Notebook: 00_start_here. Leaves out: long audio (``chunked``) and files (``hub``, ``bitstream``).
Read next: ``codecs/speechtokenizer.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from codec_lib.blocks.conv import fold_weight_norm, num_frames
from codec_lib.blocks.frozen import FrozenSEANet
from codec_lib.blocks.seanet import SEANetDecoder, SEANetEncoder
from codec_lib.codecs.config import CodecConfig
from codec_lib.shapes import CodecOutput, Codes, QuantizerOutput, check_shape

PEAK_LIMIT = 16.0  # 24 dB over full scale: no float audio, but integers that were not scaled


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
        self.card: dict[str, Any] = {}  # hub.load fills these two in
        self.fingerprint = ""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

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

    def bitrate(self, n_q: int | None = None) -> float:
        r"""Return the bits per second of the first ``n_q`` codebooks.

        .. math:: R = \frac{f_s}{\mathrm{hop}} \sum_{k=1}^{n_q} \lceil \log_2 N_k \rceil

        Parameters
        ----------
        n_q
            Codebooks used; None for all.

        Returns
        -------
        float
            bit/s.

        Examples
        --------
        >>> import codec_lib
        >>> codec_lib.build("speechtokenizer", "small").bitrate(8)
        4000.0
        """
        sizes = self.codebook_sizes[: self._check_n_q(n_q)]
        return self.frame_rate * sum((size - 1).bit_length() for size in sizes)

    @torch.no_grad()
    def encode(self, wav: Tensor, n_q: int | None = None, sample_rate: int | None = None) -> Codes:
        r"""Encode a waveform into codes.

        Parameters
        ----------
        wav
            Shape (B, 1, T), float32 in [-1, 1], T at least 1.
        n_q
            Codebooks to use; None for all. The first k of K are the codes of ``n_q=k``.
        sample_rate
            Hz; given, it is compared with the codec's.

        Returns
        -------
        Codes
            (B, n_q, ceil(T / hop_length)) int64, without gradient.

        Raises
        ------
        TypeError, ValueError
            If dtype, shape, rate, range or ``n_q`` do not fit, or a sample is not finite.

        Examples
        --------
        >>> import codec_lib
        >>> codec = codec_lib.build("speechtokenizer", "smoke")
        >>> codec.encode(torch.zeros(1, 1, 16000), n_q=2).codes.shape
        torch.Size([1, 2, 50])
        """
        n_q = self._check_n_q(n_q)
        self.check_wav(wav)
        if sample_rate is not None and sample_rate != self.sample_rate:
            raise ValueError(
                f"sample_rate: got {sample_rate} Hz, expected {self.sample_rate} Hz; "
                "resample with codec_lib.audio.resample"
            )
        if not bool(torch.isfinite(wav).all()):
            raise ValueError("wav: got NaN or infinite samples, expected finite ones in [-1, 1]")
        if float(wav.abs().max()) > PEAK_LIMIT:
            raise ValueError(
                f"wav: got a peak of {float(wav.abs().max()):.6g}, expected samples in [-1, 1]; "
                "divide 16-bit integers by 32768"
            )
        return Codes(self.quantizer.encode(self.encoder(wav), n_q), wav.shape[-1])

    @torch.no_grad()
    def decode(self, codes: Codes, layers: Sequence[int] | None = None) -> Tensor:
        r"""Decode codes into a waveform exactly as long as the one that was encoded.

        Parameters
        ----------
        codes
            What ``encode`` returned, all of it or some codebooks (``codes.select``).
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
        return self.synthesize(self.latent(codes))[..., : codes.num_samples]

    def latent(self, codes: Codes) -> Tensor:
        r"""Look codes up: the quantized latent z_q, shape (B, D, F), a sum over codebooks."""
        if codes.layers is None:
            return self.quantizer.decode(codes.codes)
        batch, _, frames = codes.codes.shape
        rows = codes.codes.new_zeros(batch, max(codes.layers) + 1, frames)
        rows[:, list(codes.layers)] = codes.codes
        return self.quantizer.decode(rows, layers=list(codes.layers))

    def synthesize(self, z_q: Tensor) -> Tensor:
        """Turn a quantized latent (B, D, F) into a waveform (B, 1, F hop_length)."""
        return self.decoder(z_q)

    def forward(self, wav: Tensor, n_q: int | None = None) -> CodecOutput:
        r"""Encode, quantize and decode with gradient; in training mode codebooks learn.

        Parameters
        ----------
        wav
            Shape (B, 1, T), float32 in [-1, 1].
        n_q
            Codebooks to use; None for all (in training, what quantizer dropout leaves).

        Returns
        -------
        CodecOutput
            Reconstruction (B, 1, T), codes, latents, losses and projections.
        """
        self.check_wav(wav)
        z = self.encoder(wav)  # (B, D, F)
        quantized: QuantizerOutput = self.quantizer(z, n_q=n_q)
        wav_hat = self.synthesize(quantized.z_q)[..., : wav.shape[-1]]  # (B, 1, T)
        return CodecOutput(
            wav=wav_hat,
            codes=Codes(quantized.codes, wav.shape[-1]),
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

        Folds weight norm and, on a CPU, freezes SEANet into matrix products (``blocks.frozen``).
        Codes stay the same and waveforms within rounding. Training and saving need another copy.

        Returns
        -------
        Codec
            The same codec, in eval mode.
        """
        self.fold_weight_norm()
        if self.device.type == "cpu":
            for part in ("encoder", "decoder"):
                if isinstance(getattr(self, part), SEANetEncoder | SEANetDecoder):
                    setattr(self, part, FrozenSEANet(getattr(self, part)))
        return self.eval()

    def _check_n_q(self, n_q: int | None) -> int:
        """Return the number of codebooks to use."""
        if n_q is None:
            return self.num_quantizers
        if isinstance(n_q, bool) or not isinstance(n_q, int):
            raise TypeError(f"n_q: got {n_q!r}, expected an integer or None")
        if not 1 <= n_q <= self.num_quantizers:
            raise ValueError(f"n_q: got {n_q}, expected 1 to {self.num_quantizers}")
        return n_q

    def check_wav(self, wav: Tensor) -> None:
        """Check type, dtype and shape of a waveform; cheap enough for every training step."""
        if isinstance(wav, Tensor) and wav.ndim in (1, 2):
            missing = "wav[None, None]" if wav.ndim == 1 else "wav[:, None]"
            raise ValueError(
                f"wav: got shape {tuple(wav.shape)}, expected (B, 1, T); hint: {missing}"
            )
        check_shape(wav, "B C T", name="wav")
        if wav.shape[1] != 1:
            raise ValueError(
                f"wav: got {wav.shape[1]} channels, expected 1; hint: wav.mean(1, keepdim=True)"
            )
        if wav.dtype != torch.float32:
            raise TypeError(
                f"wav: got dtype {wav.dtype}, expected torch.float32 in [-1, 1]; "
                "hint: wav.float(), and divide 16-bit integers by 32768"
            )
        if wav.numel() == 0:
            raise ValueError(f"wav: got the empty shape {tuple(wav.shape)}, expected samples")

    def check_codes(self, codes: Codes) -> None:
        """Check that codes can be this codec's."""
        frames, expected = codes.codes.shape[-1], num_frames(codes.num_samples, self.hop_length)
        if codes.lengths is None and frames != expected:
            raise ValueError(
                f"codes: got {frames} frames for {codes.num_samples} samples, expected {expected} "
                f"at {self.hop_length} samples a frame; are they another codec's?"
            )
        if not codes.n_q or max(codes.codebooks) >= self.num_quantizers:
            raise ValueError(
                f"codes: got codebooks {list(codes.codebooks)}, expected one or more below "
                f"{self.num_quantizers}"
            )
        if not codes.codes.numel():
            raise ValueError(f"codes: got the empty shape {tuple(codes.codes.shape)}")
        rows = codes.codes.transpose(0, 1).flatten(1).aminmax(dim=1)
        ranges = zip(codes.codebooks, rows.min.tolist(), rows.max.tolist(), strict=True)
        for codebook, low, high in ranges:
            last = self.codebook_sizes[codebook] - 1
            if low < 0 or high > last:
                raise ValueError(
                    f"codes: got indices from {low} to {high} for codebook {codebook}, expected "
                    f"0 to {last}"
                )
