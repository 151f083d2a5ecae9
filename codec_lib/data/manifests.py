r"""Read and write the manifest form: a folder with ``manifest.csv`` and its audio.

Columns: ``utterance_id, audio_path, speaker_id, language, text, label, tone, split``, empty where
unknown, paths relative to the folder; optionally ``sex, sample_rate, num_samples``. Phonemes, where
there are any, stand in ``phonemes.jsonl``: ``{"utterance_id": ..., "phonemes": [[symbol, start,
end], ...]}`` in samples of the file, whose header says the rate where no column does. No paper.
Used by notebook 01. Read next: ``layouts.py``.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from codec_lib import audio

from .utterances import Corpus, Phoneme, Utterance

COLUMNS = (
    "utterance_id",
    "audio_path",
    "speaker_id",
    "language",
    "text",
    "label",
    "tone",
    "split",
)
_OPTIONAL = ("sex", "sample_rate", "num_samples")
_MARKER = "made_by_codec_lib.txt"  # lies in a folder whose audio may be made again


def read_manifest(folder: str | Path, sample_rate: int = 16000) -> Corpus:
    r"""Read a folder in the manifest form.

    Parameters
    ----------
    folder
        Holds ``manifest.csv``.
    sample_rate
        Hz at which the corpus is heard.

    Returns
    -------
    Corpus
        In the order of the manifest, named after the folder.

    Raises
    ------
    ValueError
        If the manifest is missing, lacks a column, names an utterance twice, or is empty.
    """
    root = Path(folder)
    path = root / "manifest.csv"
    if not path.is_file():
        raise ValueError(f"{root}: got no manifest.csv, expected a folder in the manifest form")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS[:2] if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(
                f"{path}: got columns {reader.fieldnames}, expected also {missing} "
                f"(all: {', '.join(COLUMNS)})"
            )
        rows = list(reader)
    phonemes = _read_phonemes(root / "phonemes.jsonl")
    utterances = [_utterance(root, row, phonemes) for row in rows]
    names = [utterance.utterance_id for utterance in utterances]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"{path}: got utterance_id {twice!r} more than once, expected unique names"
        )
    return Corpus(root.name, utterances, sample_rate)


def write_manifest(folder: str | Path, utterances: Sequence[Utterance]) -> None:
    r"""Write ``manifest.csv`` and, where there are phonemes, ``phonemes.jsonl``.

    Parameters
    ----------
    folder
        Existing folder above all the audio files.
    utterances
        In the order to keep.

    Raises
    ------
    ValueError
        If an audio file lies outside the folder.
    """
    root = Path(folder)
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS + _OPTIONAL)
        for utterance in utterances:
            if not Path(utterance.audio_path).is_relative_to(root):
                raise ValueError(
                    f"audio_path: got {utterance.audio_path}, expected a file under {root}"
                )
            row = {name: getattr(utterance, name) for name in COLUMNS + _OPTIONAL}
            row["audio_path"] = Path(utterance.audio_path).relative_to(root).as_posix()
            writer.writerow(row.values())
    if any(utterance.phonemes for utterance in utterances):
        with (root / "phonemes.jsonl").open("w", encoding="utf-8") as file:
            for utterance in utterances:
                listed = [[phone.symbol, phone.start, phone.end] for phone in utterance.phonemes]
                entry = {"utterance_id": utterance.utterance_id, "phonemes": listed}
                file.write(json.dumps(entry) + "\n")


def _utterance(
    root: Path, row: dict[str, str], phonemes: dict[str, tuple[Phoneme, ...]]
) -> Utterance:
    """Make one utterance of one row."""
    known = {name: (row.get(name) or "").strip() for name in (*COLUMNS[2:], "sex")}
    name, path = row["utterance_id"], str(root / row["audio_path"])
    rate, count = (int(row.get(column) or 0) for column in ("sample_rate", "num_samples"))
    said = phonemes.get(name, ())
    if said and rate < 1:  # their times mean nothing without it
        with contextlib.suppress(audio.AudioError):  # the corpus reports it when it is heard
            info = audio.read_info(path)
            rate, count = info.sample_rate, info.num_samples
    return Utterance(
        utterance_id=name,
        audio_path=path,
        sample_rate=rate,
        num_samples=count,
        phonemes=said,
        **known,
    )


def _read_phonemes(path: Path) -> dict[str, tuple[Phoneme, ...]]:
    """Read the alignment file: utterance name to phonemes; empty where there is no such file."""
    if not path.is_file():
        return {}
    aligned = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            aligned[entry["utterance_id"]] = tuple(Phoneme(*item) for item in entry["phonemes"])
    return aligned


def emptied(root: str | Path) -> Path:
    r"""Make room for audio that is made: ``audio`` in a folder, empty.

    Raises
    ------
    ValueError
        If the folder holds audio or a manifest that was not made so: recordings are never deleted.
    """
    folder, marker = Path(root), Path(root) / _MARKER
    if not marker.exists() and any((folder / name).exists() for name in ("audio", "manifest.csv")):
        raise ValueError(
            f"{folder}: got a folder with audio or a manifest that this library has not made, "
            "expected an empty one or none. Hint: delete it yourself if it can be made again"
        )
    shutil.rmtree(folder / "audio", ignore_errors=True)
    (folder / "audio").mkdir(parents=True)
    marker.write_text("What lies here was made by codec_lib and can be made again.\n")
    return folder


def made_once(folder: Path, recipe: Mapping[str, Any], make: Callable[[Path], object]) -> None:
    r"""Make a corpus unless it is there already, made after the same recipe.

    It is made beside its place and moved there whole; several processes may do so at once.

    Parameters
    ----------
    folder
        Where it belongs.
    recipe
        What it is made from, as JSON knows it; kept beside it as ``recipe.json``.
    make
        Called with the folder to make it in.
    """
    if _recipe_of(folder) == recipe:
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        make(made)
        (made / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
        if folder.exists() and _recipe_of(folder) != recipe:
            os.replace(folder, Path(scratch) / "old")
        try:
            os.replace(made, folder)
        except OSError:  # another process was faster; what it made is the same
            if _recipe_of(folder) != recipe:
                raise


def _recipe_of(folder: Path) -> dict | None:
    """Read the recipe of a corpus on disk, or None."""
    try:
        return json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
