r"""How much of each frequency band survives: coherence of waveforms, correlation of envelopes.

The magnitude of the transfer function from speech to its reconstruction is what [Li et al. 2024,
Cont-SPT] call information retention, at 2, 5 and 8 kHz. A decoder that invents the phase destroys
it in every band although nothing can be heard, so the magnitudes of the spectrogram are compared
over time as well, which do not depend on the phase. Averages of few windows are not 0 even for
phases that have nothing to do with each other; what they are then, the floor, stands beside both
measures, and a value there says nothing. Notebook: 41. Leaves out: hearing.
Read next: ``reconstruction.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from codec_lib.data import Corpus
from codec_lib.shapes import check_shape

from .reconstruction import spread_indices
from .results import summarise

EDGES = (0, 500, 1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000)  # Hz
MEASURES = ("transfer", "coherence", "envelope", "transfer_floor", "coherence_floor")
DRAWS = 16  # of phases for the floor


def band_retention(
    original: Tensor, made: Tensor, sample_rate: int, edges: Sequence[float] = EDGES
) -> list[dict[str, float]]:
    r"""Compare speech and its reconstruction band by band.

    .. math:: H = \frac{|S_{xy}|}{S_{xx}}, \qquad C = \frac{|S_{xy}|^2}{S_{xx} S_{yy}}

    with cross- and power spectra averaged over time (Welch, windows of 32 ms), then over the
    frequencies of the band, each weighed by :math:`S_{xx}`.

    Parameters
    ----------
    original, made
        Shape (1, T), as long as each other, at least 0.1 s.
    sample_rate
        Hz.
    edges
        Of the bands, Hz, rising, up to half the sample rate.

    Returns
    -------
    list[dict[str, float]]
        A row per band: ``low`` and ``high`` (Hz); ``transfer`` H and ``coherence`` C; ``envelope``,
        the correlation over time of the band's log magnitude with its own in the original;
        ``transfer_floor`` and ``coherence_floor``, H and C of the same magnitudes with phases drawn
        at random, the mean of some draws. NaN where the original has no energy.

    Raises
    ------
    ValueError
        If the shapes or the edges do not fit.
    """
    length = check_shape(original, "1 T", name="original")["T"]
    check_shape(made, "1 T", name="made", T=length)
    if list(edges) != sorted(set(edges)) or len(edges) < 2 or edges[-1] > sample_rate / 2:
        raise ValueError(
            f"edges: got {list(edges)}, expected rising ones up to {sample_rate / 2:g} Hz"
        )
    if length < sample_rate // 10:
        raise ValueError(f"original: got {length} samples, expected at least 0.1 s")
    size = round(0.032 * sample_rate)
    window, pair = torch.hann_window(size, dtype=torch.float64), torch.cat([original, made])
    options = {"hop_length": size // 2, "window": window, "return_complex": True, "center": False}
    x, y = torch.stft(pair.double().cpu(), size, **options)  # (bins, frames)
    power, other = (one.abs().square().mean(1) for one in (x, y))  # S_xx, S_yy
    cross = torch.cat([(x.conj() * y).mean(1).abs()[None], _unrelated(x, y)])  # |S_xy|, (17, bins)
    place, rows = torch.arange(len(power)) * sample_rate / size, []
    for low, high in pairwise(edges):
        inside = (place >= low) & (place < high)
        energy = power[inside].sum()
        both = cross[:, inside].square() / (power[inside] * other[inside]).clamp_min(1e-300)
        transfer, coherence = cross[:, inside].sum(1) / energy, both @ power[inside] / energy
        row = {"low": float(low), "high": float(high)}
        row |= {"transfer": float(transfer[0]), "coherence": float(coherence[0])}
        row["envelope"] = _correlation(*(one[inside].abs().mean(0) for one in (x, y)))
        row["transfer_floor"] = float(transfer[1:].mean())
        row["coherence_floor"] = float(coherence[1:].mean())
        rows.append(row)
    return rows


def _unrelated(x: Tensor, y: Tensor) -> Tensor:
    """Return |S_xy| (draws, bins) of spectra (bins, frames) if all phases of y were random."""
    loud, generator = x.abs() * y.abs(), torch.Generator().manual_seed(0)
    turns = (torch.rand(loud.shape, generator=generator, dtype=loud.dtype) for _ in range(DRAWS))
    return torch.stack([torch.polar(loud, 2 * math.pi * turn).mean(1).abs() for turn in turns])


def retention_rows(
    corpus: Corpus,
    ways: Mapping[str, Callable[[Tensor], Tensor]],
    max_utterances: int = 40,
    edges: Sequence[float] = EDGES,
) -> list[dict[str, Any]]:
    r"""Average ``band_retention`` over utterances, for several ways of coding.

    Parameters
    ----------
    corpus
        Any.
    ways
        By name a function from a waveform (1, 1, T) to what becomes of it, as long.
    max_utterances
        Spread over the corpus.
    edges
        As in ``band_retention``.

    Returns
    -------
    list[dict[str, Any]]
        A row for each way and band: ``way``, ``low``, ``high``, ``utterances``, and of each measure
        and floor the fields of ``results.summarise``.

    Raises
    ------
    ValueError
        If all utterances are shorter than 0.1 s.
    """
    chosen, found = spread_indices(len(corpus), max_utterances), []
    read = (corpus.load_or_none(index) for index in chosen)
    wavs = [wav for wav in read if wav is not None and wav.shape[-1] >= corpus.sample_rate // 10]
    if not wavs:
        raise ValueError(f"{corpus.name}: got no utterance of 0.1 s, expected some")
    for name, way in ways.items():
        kept = [band_retention(wav, way(wav[None])[0], corpus.sample_rate, edges) for wav in wavs]
        for band in zip(*kept, strict=True):
            row: dict[str, Any] = {"way": name, "low": band[0]["low"], "high": band[0]["high"]}
            row["utterances"] = len(band)
            for measure in MEASURES:
                row |= summarise([one[measure] for one in band], measure)
            found.append(row)
    return found


def _correlation(one: Tensor, other: Tensor) -> float:
    """Correlate two positive envelopes, in decibels, 60 below the first's peak at least."""
    if not float(one.max()):
        return float("nan")
    levels = torch.stack([one, other]).clamp_min(1e-3 * float(one.max())).log()
    if float(levels.std(dim=1).min()) < 1e-9:
        return float("nan")
    return float(torch.corrcoef(levels)[0, 1])
