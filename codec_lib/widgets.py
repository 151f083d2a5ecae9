r"""Controls that also work on paper: a static strip is always drawn, sliders are an addition.

A widget is dead in a page that has no kernel behind it. So :func:`explore` first renders its
function at a few declared stops as one picture and :func:`listen_by_layers` first embeds its
players; only where a person can move them do live controls follow. Notebook: 00, 02, 10. Leaves
out: drawing itself (``plotting.py``). Read next: ``course.py``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from IPython.display import Audio, display
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from codec_lib import nb, plotting

MAX_STOPS = 6


def is_static() -> bool:
    """Return whether nobody can move a slider: ``CODEC_STATIC=1``, or a run under pytest."""
    return os.environ.get("CODEC_STATIC") == "1" or "PYTEST_CURRENT_TEST" in os.environ


def explore(
    draw: Callable[..., Figure],
    stops: Sequence[Mapping[str, Any]],
    alt: str,
    columns: int = 3,
    choices: Mapping[str, Sequence[Any]] | None = None,
    sound: Callable[..., nb.Clip] | None = None,
    sample_rate: int = 16000,
) -> None:
    r"""Draw a function at each stop in one picture; where live, let sliders call it again.

    Parameters
    ----------
    draw
        Pure function of the stops' keys that returns a Figure in under 0.3 s.
    stops
        One to six mappings of argument to value; all have the same keys.
    alt
        Text that stands in for the picture.
    columns
        Panels per row.
    choices
        Values of the live sliders, by argument; None: those that appear in the stops.
    sound
        Function of the same keys that returns what is heard there: a row of players under the
        picture, and live one that follows the sliders.
    sample_rate
        Of the sounds, Hz.

    Raises
    ------
    ValueError
        On no stops, more than six, different keys, or choices without the first stop's value.
    """
    if not 1 <= len(stops) <= MAX_STOPS:
        raise ValueError(f"stops: got {len(stops)}, expected 1 to {MAX_STOPS}")
    if any(set(stop) != set(stops[0]) for stop in stops):
        raise ValueError(f"stops: got different arguments, expected {sorted(stops[0])} in each")
    for name, values in (choices or {}).items():
        if stops[0].get(name) not in values:
            raise ValueError(f"choices: got {name} without the first stop's {stops[0].get(name)!r}")
    nb.show(strip([draw(**stop) for stop in stops], columns), alt)
    if sound is not None:
        nb.audio_row([sound(**stop) for stop in stops], sample_rate)
    if not is_static():
        own = {name: list(dict.fromkeys(stop[name] for stop in stops)) for name in stops[0]}

        def react(**values: Any) -> None:
            display(draw(**values))
            if sound is not None:
                nb.audio_row([sound(**values)], sample_rate)

        _sliders(react, {**own, **(choices or {})}, stops[0])


def strip(figures: Sequence[Figure], columns: int = 3) -> Figure:
    """Return one figure that shows the given ones as panels, ``columns`` to a row."""
    panels = [np.asarray(_rendered(figure)) for figure in figures]
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    ratio = max(panel.shape[0] / panel.shape[1] for panel in panels)
    fig, axes = plotting.new(rows, columns, height=plotting.WIDTH / columns * ratio)
    for ax in axes.flat:
        ax.axis("off")
    for ax, panel in zip(axes.flat, panels, strict=False):
        ax.imshow(panel, interpolation="lanczos")
    return fig


def _rendered(figure: Figure) -> Image.Image:
    memory = io.BytesIO()
    figure.savefig(memory, format="png", dpi=120)
    return Image.open(memory).convert("RGB")


def _sliders(
    react: Callable[..., None], choices: Mapping[str, Sequence[Any]], start: Mapping[str, Any]
) -> None:
    import ipywidgets

    controls = {
        name: ipywidgets.SelectionSlider(
            options=list(values), value=start[name], description=name, continuous_update=False
        )
        for name, values in choices.items()
    }
    output = ipywidgets.interactive_output(react, controls)
    display(ipywidgets.VBox([*controls.values(), output]))


@torch.no_grad()
def listen_by_layers(
    codec: Any,
    wav: Tensor,
    stops: Sequence[int] | None = None,
    metric: Callable[[Tensor, Tensor], str] | None = None,
) -> list[Tensor]:
    r"""Play an utterance decoded from its first 1, 2, ... codebooks, beside the original.

    Parameters
    ----------
    codec
        Any codec of the library.
    wav
        Shape (1, 1, T) or (1, T), at the codec's rate.
    stops
        Numbers of codebooks; None takes 1, 2, 4, ... up to all of them.
    metric
        ``metric(original, decoded) -> str`` shown with each player; None shows SI-SDR.

    Returns
    -------
    list[Tensor]
        The decoded waveforms, each (1, 1, T), in the order of ``stops``.
    """
    wav = wav.reshape(1, 1, -1).to(next(codec.parameters()).device)
    total = codec.num_quantizers
    stops = stops or sorted({2**power for power in range(total.bit_length())} | {total})
    bad = [stop for stop in stops if not 1 <= stop <= total]
    if bad:
        raise ValueError(f"stops: got {bad}, expected numbers of codebooks from 1 to {total}")
    codes = codec.encode(wav)
    decoded = [codec.decode(codes, layers=range(stop)) for stop in stops]
    metric = metric or _si_sdr
    clips = [nb.Clip("original", wav)]
    for stop, est in zip(stops, decoded, strict=True):
        label = f"{stop} codebook" + "s" * (stop > 1)
        clips.append(nb.Clip(label, est, codec.bitrate(stop), metric(wav, est)))
    nb.audio_row(clips, codec.sample_rate)
    if not is_static():
        _layer_boxes(codec, codes)
    return decoded


def _si_sdr(original: Tensor, decoded: Tensor) -> str:
    from codec_lib.evaluation.reconstruction import si_sdr  # the metrics load slowly

    return f"SI-SDR {si_sdr(original[0].cpu(), decoded[0].cpu()):.1f} dB"


def _layer_boxes(codec: Any, codes: Any) -> None:
    import ipywidgets

    boxes = [
        ipywidgets.Checkbox(value=layer == 0, description=f"codebook {layer + 1}", indent=False)
        for layer in range(codes.n_q)
    ]
    output = ipywidgets.Output()

    def play(_change: object = None) -> None:
        chosen = [layer for layer, box in enumerate(boxes) if box.value]
        output.clear_output(wait=True)
        with output, torch.no_grad():
            if not chosen:
                print("Choose at least one codebook.")
                return
            sound = codec.decode(codes, layers=chosen).flatten().cpu().numpy()
            gain = nb.shared_gain([sound])
            display(Audio(gain * sound, rate=codec.sample_rate, normalize=False))

    for box in boxes:
        box.observe(play, names="value")
    play()
    display(ipywidgets.VBox([ipywidgets.HBox(boxes), output]))
