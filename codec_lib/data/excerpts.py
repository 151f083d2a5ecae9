r"""Make exactly the excerpts of public corpora that this project's figures are measured on.

The reader fetches a corpus; here its published files are chosen, copied and described. Which
utterances an excerpt holds, in which order and split, stands in ``data/excerpts``, or follows from
a rule: of the Free Spoken Digit Dataset all, the first five takes for testing, as its authors say.
Audio stays as published. No paper. Used for figures of recorded speech. Leaves out: downloading.
Read next: ``segments.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from codec_lib import audio, paths

from .corpora import SOURCES
from .layouts import read_librispeech
from .manifests import read_manifest, write_manifest
from .spoken_words import DIGITS
from .utterances import Corpus, Utterance

Rows = list[tuple[Path, Utterance]]

_LABELS = "data/label/label.json"  # of the coffee orders: file name to intent and slots
_SEXES = "SPEAKERS.TXT"  # LibriSpeech's table of readers
_DIGIT_SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
_TAKES, _TEST_TAKES = 50, 5  # of each digit by each speaker


@dataclass(frozen=True)
class Excerpt:
    r"""What an excerpt is taken from.

    Attributes
    ----------
    url
        Repository to clone or archive to unpack.
    size, licence
        How much that is, under which terms.
    rows
        Function (published folder) -> rows; reads ``described_in`` and no audio.
    described_in
        File with what is known about the audio, relative to the published folder; or none.
    """

    url: str
    size: str
    licence: str
    rows: Callable[[Path], Rows]
    described_in: str = ""


def excerpt_ids(name: str) -> list[tuple[str, str]]:
    r"""Read which utterances ``data/excerpts`` lists, in order, each with its split.

    The split is empty where a rule gives it.

    Examples
    --------
    >>> excerpt_ids("wake_words")[0], excerpt_ids("librispeech/test-other")[0]
    (('alexa_122', 'test'), ('1998-15444-0000', ''))
    """
    path = paths.data_root() / "excerpts" / f"{name.replace('/', '-')}.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    parts = (line.partition(" ") for line in lines if line and line[0] != "#")
    return [(utterance_id, split) for utterance_id, _, split in parts]


def excerpt_rows(name: str, source: str | Path) -> Rows:
    r"""Choose the published files of an excerpt, and say what is known about each.

    Parameters
    ----------
    name
        One of ``EXCERPTS``.
    source
        Folder as published: a clone, or ``LibriSpeech`` as its archives unpack.

    Returns
    -------
    list[tuple[Path, Utterance]]
        File, and utterance with ``audio_path`` relative to the excerpt, in the excerpt's order.

    Raises
    ------
    ValueError
        If there is no such excerpt, or its source is not there as published; the message says what
        is missing and where to get it.
    """
    if name not in EXCERPTS:
        raise ValueError(f"excerpt: got {name!r}, expected one of {', '.join(EXCERPTS)}")
    excerpt, root = EXCERPTS[name], Path(source)
    if not root.is_dir():
        raise ValueError(f"source: got {root}, expected a folder. {_hint(name)}")
    if excerpt.described_in:
        _check_there(name, root, [root / excerpt.described_in])
    rows = excerpt.rows(root)
    _check_there(name, root, [file for file, _ in rows])
    return rows


def excerpt_folder(name: str) -> Path:
    r"""Return where ``corpus(name)`` looks first: in ``$CODEC_LIB_DATA``, or ``data/corpora``."""
    root = paths.real_data_root() or paths.corpora_root()
    return root / (SOURCES[name].folder if name in SOURCES else name)


def make_excerpt(name: str, source: str | Path, out: str | Path) -> Corpus:
    r"""Make an excerpt as a folder that ``corpus`` finds.

    Audio goes into ``audio``, the rest into ``manifest.csv``. LibriSpeech keeps its own layout,
    with the chosen lines of its transcripts where they are used; its table of readers is put beside
    the part where there is none. All is made beside its place and moved there whole.

    Parameters
    ----------
    name
        One of ``EXCERPTS``.
    source
        As for ``excerpt_rows``; it is only read.
    out
        Folder that is not there yet; that of LibriSpeech is called as published, as its name and
        split are read from there.

    Returns
    -------
    Corpus
        As ``corpus`` reads it, at 16 kHz.

    Raises
    ------
    ValueError
        As ``excerpt_rows``; if ``out`` is there already or called otherwise; if a published file is
        no audio.
    """
    rows, place = excerpt_rows(name, source), Path(out).absolute()
    layout = Path(SOURCES[name].folder) if name in SOURCES else None
    if layout is not None and place.parts[-2:] != layout.parts:
        raise ValueError(f"out: got {place}, expected a folder that ends in {layout.as_posix()}")
    if place.exists():
        raise ValueError(
            f"out: got {place}, which is there already, expected a new folder. "
            "Hint: recordings are never overwritten; move them away, or name another folder"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as scratch:
        made = Path(scratch) / "made"
        copied = [_copied(file, utterance, made) for file, utterance in rows]
        if layout is None:
            write_manifest(made, copied)
        else:
            _write_transcripts(copied)
            if not (place.parent / _SEXES).exists():
                shutil.copyfile(Path(source) / _SEXES, Path(scratch) / _SEXES)
                os.replace(Path(scratch) / _SEXES, place.parent / _SEXES)
        os.replace(made, place)
    return read_manifest(place) if layout is None else read_librispeech(place)


def _hint(name: str) -> str:
    """Say where an excerpt's source is to be had."""
    one = EXCERPTS[name]
    verb, folder = "git clone --depth 1", "the clone"
    if one.url.endswith(".tar.gz"):
        verb, folder = "download and unpack", "its folder LibriSpeech"
    return f"Hint: {verb} {one.url} ({one.size}; {one.licence}) and give {folder} as source"


def _check_there(name: str, root: Path, files: Iterable[Path]) -> None:
    """Raise ValueError where published files are missing."""
    wanted = [file.relative_to(root).as_posix() for file in files]
    _check_all(name, root, wanted, lambda file: (root / file).is_file(), "files")


def _check_all(
    name: str, root: Path, wanted: Sequence[str], there: Callable[[str], bool], what: str
) -> None:
    """Raise ValueError where something wanted is not there: how much, and the first of it."""
    missing = [one for one in wanted if not there(one)]
    if missing:
        first = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ValueError(
            f"source: got {root}, which lacks {len(missing)} of {len(wanted)} {what} ({first}), "
            f"expected {name} as published. {_hint(name)}"
        )


def _copied(file: Path, utterance: Utterance, made: Path) -> Utterance:
    """Copy a published file; return the utterance with the copy's path, rate and length."""
    info, target = audio.read_info(file), made / utterance.audio_path
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)
    header = {"sample_rate": info.sample_rate, "num_samples": info.num_samples}
    return replace(utterance, audio_path=str(target), **header)


def _write_transcripts(utterances: Sequence[Utterance]) -> None:
    """Write ``*.trans.txt`` beside the audio, of the utterances that have a text."""
    texts: dict[Path, str] = {}
    for one in utterances:
        if one.text:
            path = _transcript(Path(one.audio_path))
            texts[path] = texts.get(path, "") + f"{one.utterance_id} {one.text}\n"
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


def _transcript(file: Path) -> Path:
    """Name the file with the transcripts of a chapter of LibriSpeech."""
    return file.with_name(f"{file.stem.rpartition('-')[0]}.trans.txt")


def _order_rows(root: Path) -> Rows:
    """Choose coffee orders; the label is what was ordered: ``coffeeDrink=latte;size=small``."""
    name = "coffee_orders"
    orders = json.loads((root / _LABELS).read_text(encoding="utf-8"))
    chosen = [(one, split, f"{one}.wav") for one, split in excerpt_ids(name)]
    files = [file for _, _, file in chosen]
    _check_all(name, root, files, orders.__contains__, f"entries of {_LABELS}")
    rows = []
    for one, split, file in chosen:
        label = ";".join(f"{slot}={value}" for slot, value in sorted(orders[file]["slots"].items()))
        said = Utterance(one, f"audio/{file}", language="en", label=label, split=split)
        rows.append((root / "data" / "speech" / "clean" / file, said))
    return rows


def _keyword_rows(root: Path) -> Rows:
    """Choose wake words; text and label are the keyword."""
    rows = []
    for one, split in excerpt_ids("wake_words"):
        keyword, _, stem = one.rpartition("_")
        word = keyword.replace("_", " ")
        file = root / "audio" / word / f"{stem}.flac"  # one keyword is FLAC, the others are not
        file = file if file.is_file() else file.with_suffix(".wav")
        path = f"audio/{one}{file.suffix}"
        said = Utterance(one, path, language="en", text=word, label=word, split=split)
        rows.append((file, said))
    return rows


def _digit_rows(root: Path) -> Rows:
    """Take all spoken digits; the text is the word, the label the figure."""
    rows = []
    for digit, word in enumerate(DIGITS):
        for speaker in _DIGIT_SPEAKERS:
            for take in range(_TAKES):
                one = f"{digit}_{speaker}_{take}"
                split = "test" if take < _TEST_TAKES else "train"
                known = (speaker, "en", word, str(digit))
                said = Utterance(one, f"audio/{one}.wav", *known, split=split)
                rows.append((root / "recordings" / f"{one}.wav", said))
    return sorted(rows, key=lambda row: row[1].utterance_id)


def _syllable_rows(root: Path) -> Rows:
    """Choose Mandarin syllables; text and label are the syllable, its tone is the last figure."""
    rows = []
    for one, split in excerpt_ids("mandarin_syllables"):
        known = ("cmn_f1", "cmn", one[:-1], one[:-1], one[-1], split)
        said = Utterance(one, f"audio/{one}.mp3", *known)
        rows.append((root / "64k" / "syllabs" / f"cmn-{one}.mp3", said))
    return rows


def _reading_rows(root: Path, part: str, with_text: bool) -> Rows:
    """Choose utterances of a part of LibriSpeech, with their transcripts or without."""
    name, rows = f"librispeech/{part}", []
    for one, _ in excerpt_ids(name):
        speaker, chapter, _ = one.split("-")
        path = f"{speaker}/{chapter}/{one}.flac"
        split = part.partition("-")[0]
        rows.append((root / part / path, Utterance(one, path, speaker, "en", split=split)))
    if not with_text:
        return rows
    chapters = sorted({_transcript(file) for file, _ in rows})
    _check_there(name, root, chapters)
    lines = [line for path in chapters for line in path.read_text(encoding="utf-8").splitlines()]
    texts = dict(line.split(" ", 1) for line in lines if " " in line)
    names = [said.utterance_id for _, said in rows]
    _check_all(name, root, names, texts.__contains__, "transcripts")
    return [(file, replace(said, text=texts[said.utterance_id])) for file, said in rows]


def _of_librispeech(part: str, with_text: bool) -> Excerpt:
    """Describe the excerpt of a part of LibriSpeech."""
    source = SOURCES[f"librispeech/{part}"]
    rows = partial(_reading_rows, part=part, with_text=with_text)
    return Excerpt(source.url, source.size, "CC BY 4.0", rows, _SEXES)


_GITHUB = "https://github.com"
EXCERPTS = {
    "coffee_orders": Excerpt(
        f"{_GITHUB}/Picovoice/speech-to-intent-benchmark",
        "99 MB of it are used",
        "Apache 2.0",
        _order_rows,
        _LABELS,
    ),
    "wake_words": Excerpt(
        f"{_GITHUB}/Picovoice/wake-word-benchmark",
        "75 MB of it are used",
        "Apache 2.0",
        _keyword_rows,
    ),
    "fsdd": Excerpt(
        f"{_GITHUB}/Jakobovski/free-spoken-digit-dataset", "21 MB", "CC BY-SA 4.0", _digit_rows
    ),
    "mandarin_syllables": Excerpt(
        f"{_GITHUB}/hugolpz/audio-cmn", "17 MB of it are used", "CC BY-SA", _syllable_rows
    ),
    "librispeech/train-clean-100": _of_librispeech("train-clean-100", with_text=False),
    "librispeech/test-other": _of_librispeech("test-other", with_text=True),
}
