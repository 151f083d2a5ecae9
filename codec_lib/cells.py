r"""What a cell leaves on the page: figures with alt text, source code, players, tables.

Players play levels true: the reference first and one gain for all, so that a codec that is too
quiet stays so. Notebook: all of them, as ``nb.show``, ``nb.show_source``, ``nb.audio_row`` and
``nb.table``. Leaves out: drawing (``plotting.py``). Read next: ``charts.py``.
"""

from __future__ import annotations

import ast
import html
import inspect
import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from IPython.display import HTML, Audio, Image, display
from matplotlib.figure import Figure
from PIL import Image as PngImage
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
LEFT = " style='text-align:left'"
MAX_SECONDS = 4.0  # one second of 16 kHz sound is 42 KB of base64 in the page
MAX_PLAYERS = 12
PEAK = 0.99  # the player refuses samples beyond 1
REFERENCE_DB = -20.0  # level that the first clip of a row is played at


def show(fig: Figure, alt: str) -> None:
    """Show a figure with the text that stands in for it; ``alt`` must not be empty."""
    if not alt.strip():
        raise ValueError("alt: got an empty text, expected one sentence that says what is drawn")
    memory = io.BytesIO()
    fig.savefig(memory, format="png")
    # 256 colours are a third of the size and no eye sees it: one colour map and grey text
    reduced = PngImage.open(memory).convert("RGB").quantize(256, dither=PngImage.Dither.NONE)
    small = io.BytesIO()
    reduced.save(small, format="png", optimize=True)
    display(Image(small.getvalue()), metadata={"image/png": {"alt": alt}})


def show_source(obj: Callable | type, docstring: bool = False) -> None:
    r"""Show the library's own code of a function or class, with its file and line.

    Parameters
    ----------
    obj
        Function, method or class.
    docstring
        True keeps the docstrings; without them ``help(obj)`` still shows them.
    """
    obj = inspect.unwrap(obj)  # the function itself, not what a decorator made of it
    lines, first = inspect.getsourcelines(obj)
    code = textwrap.dedent("".join(lines))
    file = Path(inspect.getsourcefile(obj) or "?")
    place = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file.name
    body = highlight(
        code if docstring else without_docstrings(code),
        PythonLexer(),
        HtmlFormatter(noclasses=True, prestyles="font-family:monospace;font-size:13px"),
    )
    caption = f"<div style='font-size:85%;color:#555'><code>{place}:{first}</code></div>"
    display(HTML(f"<div class='source' style='font-size:90%'>{caption}{body}</div>"))


def without_docstrings(code: str) -> str:
    """Return Python code with the docstrings of its functions and classes left out."""
    lines = code.splitlines()
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or not ast.get_docstring(node):
            continue
        first, last = node.body[0].lineno - 1, node.body[0].end_lineno or 0
        alone = len(node.body) == 1  # a body that is only a docstring still needs a statement
        lines[first:last] = [" " * node.body[0].col_offset + "..." if alone else "\0"] + ["\0"] * (
            last - first - 1
        )
    return "\n".join(line for line in lines if line != "\0")


@dataclass(frozen=True)
class Clip:
    r"""One player of an :func:`audio_row`.

    Attributes
    ----------
    label
        What is heard.
    wav
        Samples in [-1, 1], shape (T,) or (1, T) or (1, 1, T).
    bitrate
        In bit/s; None for an original.
    metric
        One figure with its name, e.g. ``"STOI 0.91"``.
    """

    label: str
    wav: Tensor
    bitrate: float | None = None
    metric: str = ""

    def samples(self, sample_rate: int) -> np.ndarray:
        """Return float32 samples of shape (T,), at most ``MAX_SECONDS`` long."""
        flat = torch.as_tensor(self.wav).detach().cpu().float().reshape(-1).numpy()
        if not np.isfinite(flat).all():
            raise ValueError(f"clip {self.label!r}: got NaN or infinity, expected finite samples")
        return flat[: int(MAX_SECONDS * sample_rate)]


def audio_row(
    clips: Sequence[Clip | tuple], sample_rate: int, gain_db: float | None = None
) -> None:
    r"""Show players side by side: the reference first, one gain for all, levels kept true.

    The gain brings the *first* clip to -20 dBFS and is lowered, for all clips alike, where any of
    them would pass the peak; so a codec that is too quiet or too loud stays so. The sound is
    embedded and works without the kernel.

    Parameters
    ----------
    clips
        At most 12 :class:`Clip`, or tuples of its fields ``(label, wav[, bitrate[, metric]])``;
        ``wav`` is cut after 4 s.
    sample_rate
        In Hz, the same for all.
    gain_db
        The gain in dB; None finds it as said above.

    Raises
    ------
    ValueError
        On no clips, too many, an empty clip or NaN.
    """
    row = [clip if isinstance(clip, Clip) else Clip(*clip) for clip in clips]
    if not 1 <= len(row) <= MAX_PLAYERS:
        raise ValueError(f"clips: got {len(row)}, expected 1 to {MAX_PLAYERS}")
    sounds = [clip.samples(sample_rate) for clip in row]
    if any(len(sound) == 0 for sound in sounds):
        raise ValueError("clips: got an empty waveform, expected at least one sample")
    gain = shared_gain(sounds, gain_db)
    cells = [
        _player(clip, gain * sound, sample_rate) for clip, sound in zip(row, sounds, strict=True)
    ]
    style = "display:flex;flex-wrap:wrap;align-items:flex-end;gap:12px;margin:6px 0"
    display(HTML(f"<div class='audio-row' style='{style}'>{''.join(cells)}</div>"))


def shared_gain(sounds: Sequence[np.ndarray], gain_db: float | None = None) -> float:
    """Return one factor for all sounds: the first to -20 dBFS, nobody beyond the peak of 0.99."""
    rms = float(np.sqrt(np.mean(np.square(sounds[0], dtype=np.float64))))
    wanted = 10 ** (REFERENCE_DB / 20) / rms if rms > 0 else 1.0
    gain = wanted if gain_db is None else 10 ** (gain_db / 20)
    peak = max(float(np.abs(sound).max()) for sound in sounds)
    return min(gain, PEAK / peak) if peak > 0 else gain


def _player(clip: Clip, samples: np.ndarray, sample_rate: int) -> str:
    source = Audio(samples, rate=sample_rate, normalize=False).src_attr()
    rate = "" if clip.bitrate is None else f"{clip.bitrate / 1000:.2f} kbit/s"
    note = " · ".join(html.escape(part) for part in (rate, clip.metric) if part)
    label = html.escape(clip.label)
    return (
        "<figure style='margin:0;width:230px'>"
        f"<figcaption style='font-size:90%'><b>{label}</b><br>{note or '&nbsp;'}</figcaption>"
        f"<audio controls preload='metadata' aria-label='{label}' style='width:100%' "
        f"src='{source}'></audio></figure>"
    )


def table(rows: Sequence[Mapping[str, Any]], caption: str = "") -> None:
    r"""Show rows of equal keys as a table; floats with four significant digits."""
    if not rows:
        raise ValueError("rows: got none, expected at least one mapping of column to value")
    keys = list(rows[0])
    head = "".join(f"<th{LEFT}>{html.escape(str(key))}</th>" for key in keys)
    lines = ("".join(f"<td{LEFT}>{_cell(row.get(key, ''))}</td>" for key in keys) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    display(HTML(f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"))


def _cell(value: Any) -> str:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, float | np.floating):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return html.escape(str(value))
