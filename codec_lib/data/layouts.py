r"""Read published corpora in the folder layout they are distributed in.

LibriSpeech [Panayotov 2015], LibriTTS [Zen 2019], LJSpeech [Ito 2017] and VCTK 0.92 [Yamagishi
2019]. Missing transcripts are no error: the text is then empty. Used by notebook 01. Leaves out:
finding and downloading them. Read next: ``corpora.py``.
"""

from __future__ import annotations

import csv
from pathlib import Path

from .utterances import Corpus, Utterance


def read_librispeech(folder: str | Path, sample_rate: int = 16000) -> Corpus:
    r"""Read one part of LibriSpeech or LibriTTS: ``speaker/chapter/name.flac`` (or ``.wav``).

    Transcripts come from ``*.trans.txt`` (LibriSpeech) or ``*.normalized.txt`` (LibriTTS), the sex
    of a speaker from ``SPEAKERS.TXT`` one folder up, each where present.

    Parameters
    ----------
    folder
        E.g. ``LibriSpeech/train-clean-100``; its name gives the split (train, dev, test).
    sample_rate
        Hz at which the corpus is heard.

    Returns
    -------
    Corpus
        Sorted by utterance name.

    Raises
    ------
    ValueError
        If the folder holds no audio in this layout.
    """
    root = Path(folder)
    files = sorted([*root.glob("*/*/*.flac"), *root.glob("*/*/*.wav")], key=lambda path: path.stem)
    texts = _librispeech_texts(root)
    sexes = _speaker_sexes(root.parent / "SPEAKERS.TXT")
    split = root.name.partition("-")[0]
    return Corpus(
        f"{root.parent.name.lower()}/{root.name}",
        [
            Utterance(
                utterance_id=path.stem,
                audio_path=str(path),
                speaker_id=path.parent.parent.name,
                language="en",
                text=texts.get(path.stem, ""),
                split=split if split in ("train", "dev", "test") else "",
                sex=sexes.get(path.parent.parent.name, ""),
            )
            for path in files
        ],
        sample_rate,
    )


def read_ljspeech(folder: str | Path, sample_rate: int = 16000) -> Corpus:
    r"""Read LJSpeech: ``metadata.csv`` with name, text, normalised text; audio under ``wavs``.

    Parameters
    ----------
    folder
        ``LJSpeech-1.1``.
    sample_rate
        Hz at which the corpus is heard.

    Returns
    -------
    Corpus
        One speaker, ``"lj"``; the corpus defines no splits.

    Raises
    ------
    ValueError
        If the list is missing or empty.
    """
    root = Path(folder)
    listed = root / "metadata.csv"
    if not listed.is_file():
        raise ValueError(f"{root}: got no metadata.csv, expected the folder LJSpeech-1.1")
    with listed.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="|", quoting=csv.QUOTE_NONE))
    return Corpus(
        "ljspeech",
        [
            Utterance(row[0], str(root / "wavs" / f"{row[0]}.wav"), "lj", "en", row[-1], sex="F")
            for row in rows
        ],
        sample_rate,
    )


def read_vctk(folder: str | Path, sample_rate: int = 16000, microphone: str = "mic2") -> Corpus:
    r"""Read VCTK 0.92: ``wav48_silence_trimmed/speaker/name_mic.flac`` and ``txt/speaker``.

    Parameters
    ----------
    folder
        ``VCTK-Corpus-0.92``.
    sample_rate
        Hz at which the corpus is heard; the files are 48 kHz.
    microphone
        ``"mic1"`` or ``"mic2"``; two speakers lack mic2 and are then left out.

    Returns
    -------
    Corpus
        Sorted by utterance name; the corpus defines no splits.

    Raises
    ------
    ValueError
        If the folder holds no audio in this layout.
    """
    root = Path(folder)
    utterances = []
    for path in sorted(root.glob(f"wav48_silence_trimmed/*/*_{microphone}.flac")):
        name, speaker = path.stem.removesuffix(f"_{microphone}"), path.parent.name
        transcript = root / "txt" / speaker / f"{name}.txt"
        text = transcript.read_text(encoding="utf-8").strip() if transcript.is_file() else ""
        utterances.append(Utterance(name, str(path), speaker, "en", text))
    return Corpus("vctk", utterances, sample_rate)


def _librispeech_texts(root: Path) -> dict[str, str]:
    """Read the transcripts that lie beside the audio: utterance name to text."""
    texts = {}
    for path in root.glob("*/*/*.trans.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, text = line.strip().partition(" ")
            texts[name] = text
    for path in root.glob("*/*/*.normalized.txt"):
        text = path.read_text(encoding="utf-8").strip()
        texts[path.name.removesuffix(".normalized.txt")] = text
    return texts


def _speaker_sexes(path: Path) -> dict[str, str]:
    """Read LibriSpeech's table of speakers: speaker to ``"F"`` or ``"M"``."""
    if not path.is_file():
        return {}
    rows = (line.split("|") for line in path.read_text(encoding="utf-8").splitlines())
    return {row[0].strip(): row[1].strip() for row in rows if len(row) > 2 and row[0][0] != ";"}
