r"""Opus, as a codec to compare with: what telephony has had since 2012, at 6 kbit/s and more.

The encoder and decoder are libopus, through soundfile's Ogg files. Notebook:
35_listening_and_leaderboard. Leaves out: other containers, stereo. Read next: ``bitstream.py``.
"""

from __future__ import annotations

import io

import soundfile
import torch
from torch import Tensor

from codec_lib.audio import to_int16
from codec_lib.shapes import check_shape

SAMPLE_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)  # Hz
LOWEST, HIGHEST = 6_000, 256_000  # bit/s, of one channel in libsndfile


def opus_round_trip(wav: Tensor, sample_rate: int, bitrate: float) -> tuple[Tensor, int]:
    r"""Write audio as Opus in memory and read it back.

    Parameters
    ----------
    wav
        Shape (1, T), float32 in [-1, 1].
    sample_rate
        Hz, of ``SAMPLE_RATES``.
    bitrate
        bit/s asked for. It varies with the signal, and the container adds to it; what was used is
        told by the size.

    Returns
    -------
    tuple[Tensor, int]
        Audio (1, T), and the bytes of the file.

    Raises
    ------
    ValueError
        If the shape, sample rate or bitrate is not possible.

    Examples
    --------
    >>> heard, size = opus_round_trip(torch.zeros(1, 16000), 16000, 6000)
    >>> heard.shape, size < 4000
    (torch.Size([1, 16000]), True)
    """
    length = check_shape(wav, "1 T", name="wav")["T"]
    if sample_rate not in SAMPLE_RATES:
        raise ValueError(f"sample_rate: got {sample_rate}, expected one of {SAMPLE_RATES}")
    if not LOWEST <= bitrate <= HIGHEST:
        raise ValueError(f"bitrate: got {bitrate:g} bit/s, expected {LOWEST} to {HIGHEST}")
    level = 1 - (bitrate - LOWEST) / (HIGHEST - LOWEST)
    packed = io.BytesIO()
    form = {"format": "OGG", "subtype": "OPUS", "compression_level": level}
    soundfile.write(packed, to_int16(wav, over="limit"), sample_rate, **form)
    size = packed.tell()
    packed.seek(0)
    heard, _ = soundfile.read(packed, dtype="float32")
    return torch.from_numpy(heard)[None, :length], size
