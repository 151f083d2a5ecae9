r"""Find a corpus by name: ``corpus("librispeech/train-clean-100")``.

=============================  ===================================================================
name                           what is returned
=============================  ===================================================================
``synthetic``                  one hour of aligned synthetic speech, made on first use
``synthetic/small``            a few minutes of it, for tests
``synthetic/2.5h``             that many hours of it
``synthetic/mixed/2.5h``       the same with more texts than there are sentences: to learn speaking
``synthetic/many/2.5h``        that, in 440 voices: to learn to speak in the voice of a prompt
``synthetic/mandarin``         single Mandarin syllables in their tones, see ``mandarin.py``
``strings/<corpus>``           single recorded words joined by speaker, see ``strings.py``
``librispeech/<part>``         LibriSpeech in its own layout, e.g. ``train-clean-100``
``libritts/<part>``            LibriTTS in its own layout
``ljspeech``, ``vctk``         LJSpeech 1.1, VCTK 0.92
a folder, or its name          any folder with ``manifest.csv``, given as a path or as a name below
                               ``$CODEC_LIB_DATA`` or ``data/corpora``
names joined by commas         all of them, one after the other
=============================  ===================================================================

Nothing is downloaded unless ``download=True``; otherwise a missing corpus is an error that says
where to get it, how large it is and where to put it. No paper. Used by notebook 01.
Read next: ``segments.py``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codec_lib import paths

from .layouts import read_librispeech, read_ljspeech, read_vctk
from .manifests import read_manifest
from .strings import named_strings
from .utterances import Corpus

_LIBRI_PARTS = {  # sizes of the archives, LibriSpeech and LibriTTS
    "dev-clean": ("337 MB", "1.2 GB"),
    "dev-other": ("314 MB", "924 MB"),
    "test-clean": ("346 MB", "1.2 GB"),
    "test-other": ("328 MB", "964 MB"),
    "train-clean-100": ("6.3 GB", "7.7 GB"),
    "train-clean-360": ("23 GB", "27 GB"),
    "train-other-500": ("30 GB", "44 GB"),
}


@dataclass(frozen=True)
class Source:
    r"""A published corpus: where it lies, how it is read, where it comes from.

    Attributes
    ----------
    folder
        Path below a folder of corpora.
    read
        Function (folder, sample_rate) -> Corpus.
    url, size
        Archive to download.
    dataset
        Name of torchaudio's class that downloads it and checks the checksum.
    arguments
        What that class is called with, besides the folder.
    """

    folder: str
    read: Callable[[Path, int], Corpus]
    url: str
    size: str
    dataset: str
    arguments: tuple[tuple[str, str], ...] = ()


def _sources() -> dict[str, Source]:
    """List the published corpora by name."""
    found = {
        "ljspeech": Source(
            "LJSpeech-1.1",
            read_ljspeech,
            "https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2",
            "2.6 GB",
            "LJSPEECH",
        ),
        "vctk": Source(
            "VCTK-Corpus-0.92",
            read_vctk,
            "https://datashare.is.ed.ac.uk/bitstream/handle/10283/3443/VCTK-Corpus-0.92.zip",
            "11 GB",
            "VCTK_092",
        ),
    }
    for part, sizes in _LIBRI_PARTS.items():
        for name, number, size in zip(("LibriSpeech", "LibriTTS"), (12, 60), sizes, strict=True):
            found[f"{name.lower()}/{part}"] = Source(
                f"{name}/{part}",
                read_librispeech,
                f"https://www.openslr.org/resources/{number}/{part}.tar.gz",
                size,
                name.upper(),
                (("url", part),),
            )
    return found


SOURCES = _sources()


def corpus(
    name: str | Path, split: str | None = None, sample_rate: int = 16000, download: bool = False
) -> Corpus:
    r"""Find a corpus by name; see the table at the top of this file.

    Parameters
    ----------
    name
        Name, path, or several joined by commas.
    split
        ``"train"``, ``"dev"`` or ``"test"`` to take that part only; of several corpora those that
        lack it are left out.
    sample_rate
        Hz at which it is heard.
    download
        True fetches a published corpus that is not on disk, into ``data/corpora``.

    Returns
    -------
    Corpus
        In a fixed order.

    Raises
    ------
    ValueError
        If the name is unknown, the corpus is not on disk (the message says where to get it), or no
        utterance belongs to ``split``.

    Examples
    --------
    >>> corpus("no_such_corpus")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: corpus: got 'no_such_corpus', expected one of ...
    """
    names = [part.strip() for part in str(name).split(",") if part.strip()]
    if not names:
        raise ValueError("corpus: got an empty name, expected e.g. 'synthetic'")
    found = [_find(part, sample_rate, download) for part in names]
    if split is not None:
        with_split = [one.split(split) for one in found if split in one.splits]
        if not with_split:
            have = {one.name: one.splits for one in found}
            raise ValueError(f"split: got {split!r}, expected one of {have}")
        found = with_split
    return found[0] if len(found) == 1 else join(found)


def found(name: str | Path, split: str | None = None, sample_rate: int = 16000) -> Corpus | None:
    r"""Return a corpus as ``corpus`` does, or None where it is not on this machine.

    Parameters
    ----------
    name, split, sample_rate
        As for ``corpus``.

    Examples
    --------
    >>> found("no_such_corpus") is None
    True
    """
    try:
        return corpus(name, split, sample_rate)
    except ValueError:
        return None


def join(corpora: Sequence[Corpus]) -> Corpus:
    r"""Put several corpora one after the other.

    Utterances get the corpus's name in front of theirs, so that names stay unique; so do speakers.

    Parameters
    ----------
    corpora
        At least one, all heard at the same rate.

    Returns
    -------
    Corpus
        Named ``"a+b"``.

    Raises
    ------
    ValueError
        If there is none, or the rates differ.
    """
    rates = {one.sample_rate for one in corpora}
    if len(rates) != 1:
        raise ValueError(f"join: got sample rates {sorted(rates)}, expected one rate for all")
    utterances = []
    for one in corpora:
        for utterance in one:
            speaker = f"{one.name}/{utterance.speaker_id}" if utterance.speaker_id else ""
            renamed = f"{one.name}/{utterance.utterance_id}"
            utterances.append(replace(utterance, utterance_id=renamed, speaker_id=speaker))
    return Corpus("+".join(one.name for one in corpora), utterances, rates.pop())


def check_recordings(train: Corpus, tests: Sequence[Corpus]) -> None:
    r"""Raise ValueError where a recording is in the training and in a test corpus."""
    known = {os.path.realpath(one.audio_path) for one in train if one.audio_path}
    for test in tests:
        files = ((os.path.realpath(one.audio_path), one) for one in test if one.audio_path)
        common = [one.utterance_id for file, one in files if file in known]
        if common:
            raise ValueError(
                f"{test.name}: got {len(common)} recordings that are learnt from, too, e.g. "
                f"{common[0]!r}, expected others to test on than to learn from. Hint: a corpus "
                "without a train and a test part is taken whole for both"
            )


def check_speakers(train: Corpus, tests: Sequence[Corpus]) -> None:
    r"""Raise ValueError where a speaker or a recording is in the training and in a test corpus.

    Names that ``join`` has put in front of speakers do not hide them.
    """
    known = {name.rpartition("/")[2] for name in train.speakers}
    for test in tests:
        common = sorted(known & {name.rpartition("/")[2] for name in test.speakers})
        if common:
            raise ValueError(
                f"speakers: got {common[:3]} in {train.name} and in {test.name}, expected others "
                "to test on than to learn from"
            )
    check_recordings(train, tests)


def describe(corpus: Corpus) -> dict[str, Any]:
    r"""Count what is in a corpus.

    Parameters
    ----------
    corpus
        Any.

    Returns
    -------
    dict
        ``name``, ``utterances``, ``hours``, ``sample_rate`` (Hz), ``speakers``, ``splits`` (name
        to utterances, hours, speakers), ``languages``, ``sexes`` (to speakers), ``phonemes`` (to
        count), ``with_text``, ``bad_files``.
    """
    splits = {}
    for name in corpus.splits:
        part = corpus.split(name)
        splits[name] = {
            "utterances": len(part),
            "hours": round(part.hours, 4),
            "speakers": len(part.speakers),
        }
    sexes = {utterance.speaker_id: utterance.sex for utterance in corpus if utterance.sex}
    symbols = Counter(phone.symbol for utterance in corpus for phone in utterance.phonemes)
    return {
        "name": corpus.name,
        "utterances": len(corpus),
        "hours": round(corpus.hours, 4),
        "sample_rate": corpus.sample_rate,
        "speakers": len(corpus.speakers),
        "splits": splits,
        "languages": dict(sorted(Counter(one.language for one in corpus).items())),
        "sexes": dict(sorted(Counter(sexes.values()).items())),
        "phonemes": dict(sorted(symbols.items())),
        "with_text": sum(bool(utterance.text) for utterance in corpus),
        "bad_files": list(corpus.bad_files),
    }


def _find(name: str, sample_rate: int, download: bool) -> Corpus:
    """Find one corpus, whose name holds no comma."""
    if name == "synthetic/mandarin":
        from .mandarin import named_mandarin

        return named_mandarin(sample_rate)
    if name == "synthetic" or name.startswith("synthetic/"):
        from .synthetic import named_synthetic  # loads espeak-ng, which other corpora do not need

        return named_synthetic(name, sample_rate)
    if name.startswith("strings/"):
        return named_strings(name, _find(name.removeprefix("strings/"), sample_rate, download))
    roots = [root for root in (paths.real_data_root(), paths.corpora_root()) if root is not None]
    if name.lower() in SOURCES:
        return _published(name.lower(), roots, sample_rate, download)
    for folder in (Path(name), *(root / name for root in roots)):
        if (folder / "manifest.csv").is_file():
            return read_manifest(folder, sample_rate)
    from .excerpts import EXCERPTS  # it looks corpora up, too

    known = ["synthetic", "synthetic/small", *sorted(SOURCES), *_manifest_folders(roots)]
    hint = f"looked in {', '.join(map(str, roots))}; CODEC_LIB_DATA adds a folder of corpora"
    if name in EXCERPTS:
        hint = f"codec-lib corpus excerpt {name} --source FOLDER; data/README.md says of what"
    raise ValueError(
        f"corpus: got {name!r}, expected one of {', '.join(known)}, or a folder with manifest.csv. "
        f"Hint: {hint}."
    )


def _published(name: str, roots: Sequence[Path], sample_rate: int, download: bool) -> Corpus:
    """Read a published corpus from disk, or download it, or say how to."""
    source = SOURCES[name]
    for root in roots:
        if (root / source.folder).is_dir():
            return source.read(root / source.folder, sample_rate)
    place = paths.corpora_root()
    if not download:
        raise ValueError(
            f"corpus: got {name!r}, which is not on disk, expected {source.folder} below one of "
            f"{', '.join(map(str, roots))}. Hint: download {source.url} ({source.size}) and unpack "
            f"it in {place}, or call corpus({name!r}, download=True)."
        )
    import torchaudio

    place.mkdir(parents=True, exist_ok=True)
    dataset = getattr(torchaudio.datasets, source.dataset)
    dataset(str(place), download=True, **dict(source.arguments))
    return source.read(place / source.folder, sample_rate)


def _manifest_folders(roots: Sequence[Path]) -> list[str]:
    """Name the folders in the manifest form below the folders of corpora."""
    return sorted({path.parent.name for root in roots for path in root.glob("*/manifest.csv")})
