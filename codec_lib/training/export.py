r"""Ship what a run learnt: averaged weights in half precision, listed, with a card.

Left out: the card's figures; ``codec-lib evaluate`` measures them.

Read next: ``hub.py``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from codec_lib import hub, paths
from codec_lib.codecs.base import Codec
from codec_lib.training.config import last_stage, read_mapping
from codec_lib.training.description import name_codebooks
from codec_lib.training.stages import FINAL

LIMIT_MB = 6.0  # a shipped checkpoint's size; they lie in the repository

CARD = """# {name}

| | |
|---|---|
| codec | {codec} ({parameters:.2f} M parameters), {sample_rate} Hz, {frame_rate:g} frames/s |
| rate | codebooks: {codebooks} entries, {kbits:g} kbit/s |
| trained on | {corpus} |
| steps | {steps} of {batch_size} x {segment_seconds} s, recipe `{recipe}`, seed {seed} |
| teacher | {teacher} |
| critics | {critics} |
| held-out at the end | {metrics} |
| licence | {licence} |
| file | `{file}`, {megabytes:.2f} MB, sha256 `{sha256}` |

Use: `codec_lib.load("{name}")`

What it is for, what it was measured on, and what it does badly: to be written.
"""


def export_run(run: Path, name: str, licence: str, final: bool = False) -> tuple[Path, Path]:
    r"""Write a run's weights and a card into ``data/checkpoints``.

    Parameters
    ----------
    run
        Folder of a run, or one of its weight files; of a run in stages, the last stage counts.
    name
        What ``codec_lib.load`` will know it by.
    licence
        Of the weights; it goes into the file and the card.
    final
        True takes the last weights, False the best by held-out mel distance.

    Returns
    -------
    tuple[Path, Path]
        Weights and card.

    Raises
    ------
    ValueError
        If the run has no weights yet, the name is taken, or the file would be larger than 6 MB;
        nothing is written then.
    """
    source = last_stage(run) / (FINAL if final else "best.safetensors") if run.is_dir() else run
    codec = hub.load(source, fold=False)
    megabytes = 2e-6 * sum(value.numel() for value in codec.state_dict().values())
    if megabytes > 2 * LIMIT_MB:  # statistics are left out, so judge the file below
        raise ValueError(f"export: {source} would take {megabytes:.0f} MB, at most {LIMIT_MB} ship")
    written = (run if run.is_dir() else source.parent) / "config.yml"
    settings: dict[str, Any] = read_mapping(written) if written.exists() else {}
    metadata = {**codec.card, "licence": licence, "training": _without_home(settings)}
    target = paths.checkpoints_root() / f"{name}.safetensors"
    if target.exists():
        raise ValueError(f"export: {target} is there already. Hint: another name, or delete it")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = hub.save_codec(codec, Path(scratch) / target.name, metadata=metadata)
        if made.stat().st_size > LIMIT_MB * 1e6:
            size = made.stat().st_size / 1e6
            raise ValueError(f"export: {name} takes {size:.1f} MB, at most {LIMIT_MB} ship")
        made.rename(target)
    hub.list_file(target)
    card = target.with_suffix(".md")
    card.write_text(_card(name, codec, settings, licence, target), encoding="utf-8")
    return target, card


def _without_home(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a run's settings without folders of the machine: a file that travels names none."""
    kept = {key: value for key, value in settings.items() if key != "out_dir"}
    if kept.get("init_from"):
        kept["init_from"] = "/".join(Path(kept["init_from"]).parts[-2:])  # run and file
    return kept


def _card(name: str, codec: Codec, settings: dict[str, Any], licence: str, file: Path) -> str:
    """Fill in what is known about a checkpoint."""
    keys = "corpus batch_size segment_seconds recipe seed teacher critics".split()
    stages, steps = settings.get("stages") or [], str(codec.card.get("steps", "unknown"))
    before = [f"{stage.get('steps', settings['steps'])} ({stage['name']})" for stage in stages[:-1]]
    steps = " + ".join([*before, f"{steps} ({stages[-1]['name']})" if stages else steps])
    known = {key: settings.get(key) or "none" for key in keys}
    if settings.get("distill") == "none":
        known["teacher"] = "none"  # named, but never asked
    metrics = {k.removeprefix("valid/"): v for k, v in codec.card.items() if k.startswith("valid/")}
    known["seed"] = settings.get("seed", "unknown")
    return CARD.format(
        **known,
        name=name,
        codec=codec.name,
        parameters=sum(parameter.numel() for parameter in codec.parameters()) / 1e6,
        sample_rate=codec.sample_rate,
        frame_rate=codec.frame_rate,
        codebooks=name_codebooks(codec),
        kbits=codec.bitrate() / 1000,
        steps=steps,
        metrics=", ".join(f"{key} {value:.3f}" for key, value in metrics.items()) or "unknown",
        licence=licence,
        file=file.name,
        megabytes=file.stat().st_size / 1e6,
        sha256=hub.sha256(file),
    )
