r"""Pictures of the way from vectors to tokens: one utterance on every rung of the ladder.

Notebook 33. Leaves out: the forms themselves
(``evaluation/discrete.py``), strips with a time axis alone (``strips.py``). Read next:
``widgets.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from codec_lib import charts, plotting, strips

CHANNELS = 24  # of the vectors that are drawn: those that move most


def ladder(
    wav: Tensor,
    sample_rate: int,
    vectors: Mapping[str, Tensor],
    units: Mapping[str, Tensor],
    sequences: Mapping[str, Tensor],
    phonemes: Sequence[Any] = (),
    seconds: float = 1.4,
    frame_rate: float = 50.0,
) -> Figure:
    r"""Draw a mel spectrogram and under it what becomes of its frames, rung by rung.

    Parameters
    ----------
    wav, sample_rate, phonemes
        As in ``strips.segmentation``.
    vectors
        Label to features (F, D); the channels with the largest variance of the first are drawn.
    units
        Label to units (F,), drawn over time.
    sequences
        Label to tokens (G,) that have no time, drawn one beside the other, equally wide.
    seconds
        Shown of what has time.
    frame_rate
        Hz.
    """
    heights = [3.0, *[1.6] * len(vectors), *[1.0] * (len(units) + len(sequences))]
    fig, axes = charts.new(len(heights), 1, height=1.2, gridspec_kw={"height_ratios": heights})
    mel, *others = axes[:, 0]
    _mel(mel, wav, sample_rate)
    widest = next(iter(vectors.values())).var(0).argsort(descending=True)[:CHANNELS]
    for label, rows in vectors.items():
        ax = others.pop(0)
        extent = (0, len(rows) / frame_rate, 0, 1)
        shown = rows[:, widest].T.numpy()
        ax.imshow(shown, aspect="auto", cmap="RdBu", vmin=-3, vmax=3, extent=extent)
        ax.set_ylabel(label, rotation=0, ha="right", va="center")
    for label, row in units.items():
        strips.run_strip(
            others.pop(0), row[: round(seconds * frame_rate)], frame_rate, label, seconds
        )
    timed = axes[: 1 + len(vectors) + len(units), 0]
    for ax in timed:
        ax.set(xlim=(0, seconds), yticks=[])
        ax.tick_params(labelbottom=ax is timed[-1])
    timed[-1].set_xlabel("time (s)")
    plotting.mark_phonemes(mel, phonemes, sample_rate, color="white")
    for ax, (label, row) in zip(others, sequences.items(), strict=True):
        longest = max(map(len, sequences.values()))
        strips.run_strip(ax, row, 1, label, longest)
        ax.set_xlim(0, longest)
    if others:
        others[-1].set_xlabel("place in the sequence: there is no time any more")
    return fig


def cut_short(
    wav: Tensor, sample_rate: int, units: Tensor, kept: int, frame_rate: float = 50.0
) -> Figure:
    r"""Draw a mel spectrogram with units below, its end behind ``kept`` frames whitened.

    Parameters
    ----------
    wav, sample_rate
        As in ``ladder``.
    units
        Shape (F,).
    kept
        Frames that are read.
    frame_rate
        Hz.
    """
    fig, axes = charts.new(2, 1, height=1.3, sharex=True, gridspec_kw={"height_ratios": [3, 1]})
    mel, strip = axes[:, 0]
    _mel(mel, wav, sample_rate)
    mel.axvspan(kept / frame_rate, len(units) / frame_rate, color="white", alpha=0.75)
    strips.run_strip(strip, units, frame_rate, "units")
    strip.set(xlabel="time (s)", xlim=(0, len(units) / frame_rate))
    return fig


def _mel(ax: Axes, wav: Tensor, sample_rate: int) -> None:
    """Draw a mel spectrogram, 70 dB deep, over seconds."""
    image, seconds = plotting.mel_db(wav, sample_rate), wav.shape[-1] / sample_rate
    options = {"origin": "lower", "aspect": "auto", "vmin": float(image.max()) - 70}
    ax.imshow(image.numpy(), extent=(0, seconds, 0, len(image)), **options)
    ax.set_ylabel("mel", rotation=0, ha="right", va="center")
