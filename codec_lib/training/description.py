r"""Say in a few lines what something is: a codec, a checkpoint, a file of codes, a run.

What ``codec-lib info`` prints. Left out: audio files and corpora (``codec-lib corpus describe``).

Read next: ``cli.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import codec_lib
from codec_lib import bitstream, hub
from codec_lib.codecs.base import Codec
from codec_lib.codecs.registry import codec_class
from codec_lib.training.checkpoints import latest_checkpoint
from codec_lib.training.config import read_mapping
from codec_lib.training.logs import read_csv
from codec_lib.training.stages import stage_folder


def describe_anything(name: str | None = None) -> dict[str, Any]:
    r"""Describe what a name or path stands for.

    Parameters
    ----------
    name
        A registered codec, a shipped checkpoint, a weight file, a ``.codes`` file or the folder of
        a run; None lists codecs and checkpoints.

    Returns
    -------
    dict
        Names and values to print.

    Raises
    ------
    ValueError
        If it is none of them.

    Examples
    --------
    >>> describe_anything("speechtokenizer")["scales"]
    'paper, small, smoke'
    """
    if name is None:
        checkpoints = ", ".join(hub.known_names()) or "none"
        return {"codecs": ", ".join(codec_lib.names()), "checkpoints": checkpoints}
    path = Path(name)
    if path.suffix == ".codes":
        codes, header = bitstream.read_codes(path)
        seconds = header.num_samples / header.sample_rate
        return {**vars(header), "seconds": round(seconds, 3), "codebooks": codes.n_q}
    if path.is_dir():
        return _describe_run(path)
    if name in codec_lib.names():
        codec = codec_lib.build(name)
        scales = ", ".join(sorted(codec_class(name).scales))
        return {"codec": name, "scales": scales, **_rates(codec, "small scale")}
    codec = hub.load(name, fold=False)
    card = {key: value for key, value in codec.card.items() if key != "training"}
    return {"codec": codec.name, **_rates(codec, "weights"), "sha256": codec.fingerprint, **card}


def name_codebooks(codec: Codec) -> str:
    r"""Return number and sizes of a codec's codebooks.

    Examples
    --------
    >>> [name_codebooks(codec_lib.build(name)) for name in ("speechtokenizer", "sacodec")]
    ['8 of 1024', '2 of 1000 and 1024']
    """
    sizes = dict.fromkeys(codec.codebook_sizes)
    return f"{codec.num_quantizers} of {' and '.join(map(str, sizes))}"


def _rates(codec: Codec, what: str) -> dict[str, Any]:
    """Describe rates and sizes of a codec."""
    millions = sum(parameter.numel() for parameter in codec.parameters()) / 1e6
    kbits = [codec.bitrate(n_q) / 1000 for n_q in range(1, codec.num_quantizers + 1)]
    dynamic = (
        f"{codec.slowest_rate:g} to {codec.frame_rate:g} codes/s, {codec.token_rate:g} unless asked"
    )
    return {
        what: f"{millions:.2f} M trainable parameters",
        "audio": f"{codec.sample_rate} Hz, {codec.hop_length} samples a frame, "
        f"{codec.frame_rate:g} frames/s",
        **({"rate": dynamic} if codec.max_length > 1 else {}),
        "codebooks": f"{name_codebooks(codec)} entries",
        "kbit/s": ", ".join(f"{rate:g}" for rate in kbits),
    }


def _describe_run(folder: Path) -> dict[str, Any]:
    """Describe a run by its config, last checkpoint and metrics; with stages, the newest one."""
    config = read_mapping(folder / "config.yml")
    newest, stages = folder, {}
    for place in [folder / stage_folder(*pair) for pair in enumerate(config.get("stages") or ())]:
        last = latest_checkpoint(place)
        stages[f"stage {place.name}"] = last.name if last else "not begun"
        if last:
            newest, config = place, read_mapping(place / "config.yml")
    last = latest_checkpoint(newest)
    rows = read_csv(newest / "metrics.csv")
    shown = {key: value for key, value in (rows[-1] if rows else {}).items() if value}
    validated = [row for row in rows if row.get("valid/mel_distance")]
    best = min(validated, key=lambda row: float(row["valid/mel_distance"]), default={})
    wanted = "codec scale corpus recipe teacher critics steps".split()
    return {
        **stages,
        **{key: config.get(key) for key in wanted},
        "checkpoint": last.name if last else "none",
        **{key: value for key, value in shown.items() if key.startswith("train/")},
        **{f"best {key}": value for key, value in best.items() if key.startswith("valid/")},
    }
