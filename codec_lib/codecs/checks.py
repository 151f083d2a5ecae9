r"""What a codec is given, checked: waveforms, codes, numbers of codebooks, rates.

Every message says what was got, what was expected and, where there is one, the usual way out.
Notebook: 00_start_here. Leaves out: checks of configs, which quantizers and blocks make themselves.
Read next: ``codecs/base.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codec_lib.blocks.conv import num_frames
from codec_lib.rate.segments import token_index
from codec_lib.shapes import Codes, check_shape

PEAK_LIMIT = 16.0  # 24 dB over full scale: no float audio, but integers that were not scaled


def check_depth(n_q: int | None, num_quantizers: int) -> int:
    r"""Return the number of codebooks to use, all for None.

    Raises ``TypeError`` for no whole number, ``ValueError`` for one not in 1..K.
    """
    if n_q is None:
        return num_quantizers
    if isinstance(n_q, bool) or not isinstance(n_q, int):
        raise TypeError(f"n_q: got {n_q!r}, expected an integer or None")
    if not 1 <= n_q <= num_quantizers:
        raise ValueError(f"n_q: got {n_q}, expected 1 to {num_quantizers}")
    return n_q


def check_token_rate(rate: float | None, frame_rate: float, max_length: int) -> float:
    r"""Return the tokens per second to use, every frame for None.

    Parameters
    ----------
    rate, frame_rate
        Wanted tokens, and frames, per second, Hz.
    max_length
        Longest segment U.

    Raises
    ------
    TypeError
        For what is no number.
    ValueError
        For a rate that segments of 1 to U frames cannot have.

    Examples
    --------
    >>> check_token_rate(40, frame_rate=80.0, max_length=4)
    40.0
    """
    rate, slowest = frame_rate if rate is None else rate, frame_rate / max_length
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise TypeError(f"token_rate: got {rate!r}, expected a number in Hz")
    if not slowest <= rate <= frame_rate:
        reason = f"a code stands for at most {max_length} of {frame_rate:g} frames a second"
        fixed = "; hint: this codec has a fixed rate, overrides.max_length=4 gives another one"
        raise ValueError(
            f"token_rate: got {rate} Hz, expected {slowest:g} to {frame_rate:g} Hz: {reason}"
            + (fixed if max_length == 1 else "")
        )
    return float(rate)


def check_wav(wav: Tensor) -> None:
    """Check type, dtype and shape of a waveform; cheap enough for every training step."""
    if isinstance(wav, Tensor) and wav.ndim in (1, 2):
        missing = "wav[None, None]" if wav.ndim == 1 else "wav[:, None]"
        raise ValueError(f"wav: got shape {tuple(wav.shape)}, expected (B, 1, T); hint: {missing}")
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


def check_speech(wav: Tensor, expected_rate: int, sample_rate: int | None = None) -> None:
    r"""Check a waveform that is to be encoded: ``check_wav``, its rate, its samples.

    Parameters
    ----------
    wav
        Shape (B, 1, T).
    expected_rate, sample_rate
        Of the codec, and of the waveform where it is known, Hz.
    """
    check_wav(wav)
    if sample_rate is not None and sample_rate != expected_rate:
        raise ValueError(
            f"sample_rate: got {sample_rate} Hz, expected {expected_rate} Hz; "
            "resample with codec_lib.audio.resample"
        )
    if not bool(torch.isfinite(wav).all()):
        raise ValueError("wav: got NaN or infinite samples, expected finite ones in [-1, 1]")
    if float(wav.abs().max()) > PEAK_LIMIT:
        raise ValueError(
            f"wav: got a peak of {float(wav.abs().max()):.6g}, expected samples in [-1, 1]; "
            "divide 16-bit integers by 32768"
        )


def check_lengths(lengths: Tensor, frames: int, max_length: int) -> Tensor:
    r"""Return the token of each frame, see ``token_index``, for lengths that a codec can send.

    Parameters
    ----------
    lengths
        Frames of each segment, shape (B, S), int64.
    frames, max_length
        Frames F of each item, and the longest segment U.

    Raises
    ------
    TypeError, ValueError
        As ``token_index``, and for a segment of more than U frames.
    """
    index = token_index(lengths, frames)
    if int(lengths.max()) > max_length:
        raise ValueError(
            f"lengths: got a code for {int(lengths.max())} frames, expected at most {max_length}; "
            "are they another codec's?"
        )
    return index


def check_sent(
    codes: Codes, hop_length: int, codebook_sizes: Sequence[int], max_length: int
) -> None:
    r"""Check that codes can be those of a codec of these sizes, by shape, range and lengths.

    Parameters
    ----------
    codes
        What a codec sent, or somebody else.
    hop_length, codebook_sizes, max_length
        Of the codec.
    """
    frames, expected = codes.codes.shape[-1], num_frames(codes.num_samples, hop_length)
    if not codes.codes.numel():
        raise ValueError(f"codes: got the empty shape {tuple(codes.codes.shape)}")
    if codes.lengths is None and frames != expected:
        raise ValueError(
            f"codes: got {frames} frames for {codes.num_samples} samples, expected {expected} "
            f"at {hop_length} samples a frame; are they another codec's?"
        )
    if codes.lengths is not None:
        check_lengths(codes.lengths, expected, max_length)
    if not codes.n_q or max(codes.codebooks) >= len(codebook_sizes):
        raise ValueError(
            f"codes: got codebooks {list(codes.codebooks)}, expected one or more below "
            f"{len(codebook_sizes)}"
        )
    rows = codes.codes.transpose(0, 1).flatten(1).aminmax(dim=1)
    ranges = zip(codes.codebooks, rows.min.tolist(), rows.max.tolist(), strict=True)
    for codebook, low, high in ranges:
        last = codebook_sizes[codebook] - 1
        if low < 0 or high > last:
            raise ValueError(
                f"codes: got indices from {low} to {high} for codebook {codebook}, expected "
                f"0 to {last}"
            )
