r"""The pictures of the README: ``make figures`` draws them anew from the shipped files.

``rates.png`` is one utterance through the shipped codec at several rates; ``codebooks.png`` is what
``data/results/speechtokenizer_small.json`` says of it and of its twins; ``segments.png`` is where
CodecSlime spends its codes, and ``dynamic_rates.png`` (in its card) what that is worth. Leaves out:
everything that a notebook draws. Read next: ``plotting.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from codec_lib import charts, hub, paths, plotting, strips
from codec_lib.codecs.base import Codec
from codec_lib.data import corpus
from codec_lib.evaluation.results import read_results
from codec_lib.rate.schemes import SCHEMES, segment_by

NAMES = {
    "speechtokenizer-small": "distilled",
    "undistilled": "without distillation",
    "untrained": "untrained",
}
QUALITY = {"stoi": "STOI", "mel_distance": "mel distance"}


def rates(codec: Codec, wav: Tensor, counts: Sequence[int] = (1, 2, 8)) -> Figure:
    r"""Draw one utterance as it was and as fewer and fewer codebooks keep it.

    Parameters
    ----------
    codec
        In eval mode.
    wav
        Shape (1, T), at the codec's sample rate.
    counts
        Numbers of codebooks.
    """
    codes = codec.encode(wav[None])
    made = {"original": wav}
    for count in counts:
        name = f"{count} codebook{'s' * (count > 1)}, {codec.bitrate(count) / 1000:g} kbit/s"
        made[name] = codec.decode(codes, layers=range(count))[0]
    return plotting.spectrograms(made, codec.sample_rate, kind="mel", columns=2)


def codebooks(rows: Sequence[Mapping[str, Any]]) -> Figure:
    r"""Draw quality by rate, and how well each codebook tells the phoneme.

    Parameters
    ----------
    rows
        Of ``compare_codecs``, for the codecs in ``NAMES``.
    """
    figure, axes = charts.new(1, 2, height=3.0)
    quality, content = axes.ravel()
    known = [name for name in NAMES if any(row["codec"] == name for row in rows)]
    for name in known:
        mine = [row for row in rows if row["codec"] == name]
        scores = [row for row in mine if row["measure"] == "reconstruction"]
        rate = [row["bitrate"] / 1000 for row in scores]
        quality.plot(rate, [row["stoi"] for row in scores], marker="o", label=NAMES[name])
        probes = [row for row in mine if row["measure"] == "phonemes"]
        number = [row["codebook"] + 1 for row in probes]
        content.plot(number, [row["accuracy"] for row in probes], marker="o", label=NAMES[name])
    quality.set(xlabel="bitrate in kbit/s", ylabel="STOI", title="Unseen speakers, recorded")
    content.set(xlabel="codebook", ylabel="phoneme accuracy", title="What one code tells")
    content.legend()
    return figure


def segments(
    codec: Codec,
    wav: Tensor,
    phonemes: Sequence[Any],
    token_rates: Sequence[float] = (40.0, 27.0),
    seconds: float = 2.5,
) -> Figure:
    r"""Draw how a codec cuts an utterance at some rates, beside pairs of frames.

    Parameters
    ----------
    codec
        Of a dynamic rate, in eval mode.
    wav, phonemes
        Shape (1, T), at the codec's sample rate, and what is spoken in it.
    token_rates
        Codes per second, Hz; the first one's cuts are drawn into the spectrogram.
    seconds
        The beginning that is shown.
    """
    z = codec.latents(wav[None])
    every = torch.ones(1, z.shape[-1], dtype=torch.int64)
    cuts = {rate: codec.segment(z, rate) for rate in token_rates}
    rows = {f"{rate:g} Hz": every if cut is None else cut for rate, cut in cuts.items()}
    half = segment_by("uniform", z.transpose(1, 2), -(-z.shape[-1] // 2), codec.max_length)
    rows[f"fixed {codec.frame_rate / 2:g} Hz"] = half
    title = f"{codec.frame_rate:g} frames a second, fewer codes"
    options = {"phonemes": phonemes, "max_length": codec.max_length, "title": title}
    options["span"] = (0.0, min(seconds, wav.shape[-1] / codec.sample_rate))
    return strips.segmentation(wav, codec.sample_rate, rows, codec.frame_rate, **options)


def dynamic_rates(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    r"""Draw quality over total bitrate: one model cut in several ways, and one of fixed rate.

    Parameters
    ----------
    results
        Title to rows of ``compare_codecs`` by rate; the first codec is the one drawn, and
        ``"fixed-40"`` is marked.
    """
    figure, axes = charts.new(2, len(results), height=2.4, sharey="row", sharex="col")
    for column, (title, rows) in enumerate(results.items()):
        found = [row for row in rows if row["measure"] == "rates"]
        own = [row for row in found if row["codec"] == found[0]["codec"]]
        fixed = next(row for row in found if row["codec"] == "fixed-40")
        for ax, (metric, label) in zip(axes[:, column], QUALITY.items(), strict=True):
            for scheme in SCHEMES:
                line = [row for row in own if row["scheme"] in (scheme, "all frames")]
                bits = [row["bitrate"] for row in line]
                ax.plot(bits, [row[metric] for row in line], marker="o", ms=4, label=scheme)
            ax.plot(fixed["bitrate"], fixed[metric], "k*", ms=9, label="trained at 40 Hz")
            ax.set(ylabel=label if not column else "", title=title if metric == "stoi" else "")
        axes[-1, column].set_xlabel("bitrate with lengths (bit/s)")
    axes[0, 0].legend(fontsize=8)
    return figure


def board(rows: Sequence[Mapping[str, Any]]) -> Figure:
    r"""Draw quality over total bitrate of every codec on the leaderboard, and of Opus.

    Parameters
    ----------
    rows
        Of ``evaluation.board``, with the judge ``signal``.
    """
    figure, axes = charts.new(1, 2, height=3.4)
    found = [row for row in rows if row["measure"] == "rate"]
    for ax, (metric, label) in zip(axes[0], QUALITY.items(), strict=True):
        for name in dict.fromkeys(row["codec"] for row in found):
            own = [row for row in found if row["codec"] == name]
            rates = [row["bitrate"] / 1000 for row in own]
            style = {"color": "0.5", "linestyle": ":"} if name == "Opus" else {}
            ax.plot(rates, [row[metric] for row in own], marker="o", ms=4, label=name, **style)
        ax.set(xscale="log", xlabel="bitrate with lengths (kbit/s)", ylabel=label)
        ax.set_xticks([0.5, 1, 2, 4, 8, 16], ["0.5", "1", "2", "4", "8", "16"], minor=False)
        ax.minorticks_off()
    axes[0, 1].set_yscale("log")  # Opus below 6 kbit/s hears no more than a telephone
    axes[0, 1].set_yticks([0.25, 0.5, 1], ["0.25", "0.5", "1"], minor=False)
    axes[0, 1].minorticks_off()
    axes[0, 1].legend(fontsize=7)
    return figure


def main(folder: Path | None = None) -> list[Path]:
    r"""Write the pictures; return the files.

    Parameters
    ----------
    folder
        ``docs/figures`` of the checkout by default.
    """
    folder = folder or paths.data_root().parent / "docs" / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    charts.use_style()
    codec = hub.load("speechtokenizer-small")
    speech = corpus("synthetic/small", "test", codec.sample_rate)
    rows, _ = read_results(paths.data_root() / "results" / "speechtokenizer_small.json")
    dynamic, said = hub.load("codecslime_vq-small"), speech[0].phonemes
    forms = {"one codebook": "vq", "finite scalars": "fsq"}
    by_rate = {
        title: read_results(paths.data_root() / "results" / f"codecslime_{form}_small.json")[0]
        for title, form in forms.items()
    }
    files, drawn = [], {
        "rates": rates(codec, speech.load(0)),
        "codebooks": codebooks(rows),
        "segments": segments(dynamic, speech.load(0), said),
        "dynamic_rates": dynamic_rates(by_rate),
    }  # fmt: skip
    results = paths.data_root() / "results" / "leaderboard.json"
    if results.exists():
        drawn["leaderboard"] = board(read_results(results)[0])
    for name, figure in drawn.items():
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=110, facecolor="white", bbox_inches="tight")
    return files


if __name__ == "__main__":
    for path in main():
        print(path)
