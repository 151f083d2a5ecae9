r"""Excerpts: from the published folders come exactly the corpora that figures are measured on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from codec_lib import audio, paths
from codec_lib.cli import app
from codec_lib.data import Corpus, Utterance, corpus, describe
from codec_lib.data.corpora import SOURCES
from codec_lib.data.excerpts import (
    EXCERPTS,
    excerpt_folder,
    excerpt_ids,
    excerpt_rows,
    make_excerpt,
)

SIZES = {  # utterances, of which for testing
    "coffee_orders": (360, 90),
    "wake_words": (896, 179),
    "fsdd": (3000, 300),
    "mandarin_syllables": (1679, 330),
    "librispeech/train-clean-100": (251, 0),
    "librispeech/test-other": (60, 60),
}
FOLDERS = [name for name in SIZES if name not in SOURCES]
DIGITS = [
    f"{digit}_{speaker}_{take}"
    for digit in range(10)
    for speaker in ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
    for take in range(50)
]


def _published_file(name: str, one: str) -> str:
    """Name the file of an utterance in the folder that was published."""
    if name == "coffee_orders":
        return f"data/speech/clean/{one}.wav"
    if name == "wake_words":
        keyword, stem = one.rsplit("_", 1)
        suffix = "flac" if keyword == "alexa" else "wav"
        return f"audio/{keyword.replace('_', ' ')}/{stem}.{suffix}"
    if name == "fsdd":
        return f"recordings/{one}.wav"
    if name == "mandarin_syllables":
        return f"64k/syllabs/cmn-{one}.mp3"
    speaker, chapter, _ = one.split("-")
    return f"{name.partition('/')[2]}/{speaker}/{chapter}/{one}.flac"


def _publish(root: Path, name: str, sound: bytes = b"", labels: dict | None = None) -> Path:
    """Make a folder as published, with more in it than the excerpt takes."""
    ids = DIGITS if name == "fsdd" else [one for one, _ in excerpt_ids(name)]
    for one in ids:
        path = root / _published_file(name, one)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sound)
    if name == "coffee_orders":
        slots = {"size": "small", "milkAmount": " soy milk", "coffeeDrink": "latte"}
        orders = {
            f"{one}.wav": {"intent": "orderDrink", "slots": (labels or {}).get(one, slots)}
            for one in [*ids, "not-in-the-excerpt"]
        }
        (root / "data" / "label").mkdir()
        (root / "data" / "label" / "label.json").write_text(json.dumps(orders))
    if name in SOURCES:
        (root / "SPEAKERS.TXT").write_text(";ID |SEX|\n103 | F | x\n1998 | M | x\n")
        lines: dict[Path, list[str]] = {}
        for one in ids:
            path = (root / _published_file(name, one)).parent
            lines.setdefault(path, []).append(f"{one} SAID {one[-1]}\n")
        for path, said in lines.items():
            said.append("1-2-9999 NOT IN THE EXCERPT\n")
            (path / f"{'-'.join(path.parts[-2:])}.trans.txt").write_text("".join(said))
    (root / "README.md").write_text("As published.\n")
    return root


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> bytes:
    """A few samples as a file."""
    path = tmp_path_factory.mktemp("sound") / "sound.wav"
    audio.write(path, torch.zeros(1, 40), 8000)
    return path.read_bytes()


@pytest.fixture(scope="module")
def published(tmp_path_factory, sound) -> Callable[[str], Path]:
    """Return a function that makes the folder of an excerpt as published, each once; only read."""
    return cache(lambda name: _publish(tmp_path_factory.mktemp("published"), name, sound))


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder of corpora, empty."""
    folder = tmp_path / "corpora"
    folder.mkdir()
    monkeypatch.setenv("CODEC_LIB_DATA", str(folder))
    return folder


@pytest.mark.parametrize("name", sorted(SIZES))
def test_excerpts_hold_what_is_listed(name, published):
    source = published(name)
    rows = excerpt_rows(name, source)
    splits = [said.split for _, said in rows]
    assert (len(rows), splits.count("test")) == SIZES[name]
    assert set(splits) <= {"train", "test"}
    names = [said.utterance_id for _, said in rows]
    assert len(set(names)) == len(names)
    assert [file for file, _ in rows] == [source / _published_file(name, one) for one in names]
    assert all(said.language and not Path(said.audio_path).is_absolute() for _, said in rows)


def test_every_excerpt_is_known():
    assert sorted(EXCERPTS) == sorted(SIZES)
    lists = paths.data_root() / "excerpts"
    assert {path.stem for path in lists.glob("*.txt")} == {
        name.replace("/", "-") for name in EXCERPTS if name != "fsdd"
    }
    for name, one in EXCERPTS.items():
        path = lists / f"{name.replace('/', '-')}.txt"
        head = path.read_text() if path.exists() else f"{one.url} {one.licence}"
        address = "https://www.openslr.org/12" if name in SOURCES else one.url
        assert address in head and one.licence in head


@pytest.fixture
def facts(published, place, monkeypatch) -> Callable[..., dict[str, tuple[str, ...]]]:
    """Return a function that makes an excerpt where it is looked for, or a part of it to be quick.

    It returns what is known about each utterance.
    """

    def make(name: str, part: Callable[[Utterance], bool] = lambda said: True) -> dict:
        whole = EXCERPTS[name].rows
        few = replace(
            EXCERPTS[name], rows=lambda root: [row for row in whole(root) if part(row[1])]
        )
        monkeypatch.setitem(EXCERPTS, name, few)
        made = make_excerpt(name, published(name), excerpt_folder(name))
        found = corpus(name)
        assert list(found) == list(made)
        assert found.load(len(found) - 1).shape == (1, 80)  # 8 kHz resampled to 16 kHz
        assert found.bad_files == []
        return {one.utterance_id: (one.speaker_id, one.text, one.label, one.tone) for one in found}

    return make


def test_digits(facts, place):
    known = facts("fsdd", lambda said: said.utterance_id.startswith("7_jackson"))
    assert len(known) == 50
    assert set(known.values()) == {("jackson", "seven", "7", "")}
    assert list(known)[:3] == ["7_jackson_0", "7_jackson_1", "7_jackson_10"]  # in order of names
    test = [one.utterance_id for one in corpus("fsdd", "test")]
    assert test == [f"7_jackson_{take}" for take in range(5)]
    assert not (place / "fsdd" / "README.md").exists()
    assert [path.name for path in place.iterdir()] == ["fsdd"]


def test_wake_words(facts):
    known = facts("wake_words", lambda said: said.label in ("alexa", "smart mirror"))
    assert known["alexa_122"] == ("", "alexa", "alexa", "")
    mirrors = [what for one, what in known.items() if one.startswith("smart_mirror_")]
    assert mirrors == [("", "smart mirror", "smart mirror", "")] * 150
    assert Path(corpus("wake_words")[0].audio_path).name == "alexa_122.flac"
    assert Path(corpus("wake_words")[-1].audio_path).suffix == ".wav"


def test_mandarin_syllables(facts, published):
    known = facts("mandarin_syllables", lambda said: said.label in ("lve", "ma"))
    assert known["lve4"] == ("cmn_f1", "lve", "lve", "4")
    assert list(known) == [f"{label}{tone}" for label in ("lve", "ma") for tone in range(1, 5)]
    assert {one.language for one in corpus("mandarin_syllables")} == {"cmn"}
    splits = {split: {one[:-1] for one, part in excerpt_ids("mandarin_syllables") if part == split}
              for split in ("train", "test")}  # fmt: skip
    assert not splits["train"] & splits["test"]  # no syllable is in both


def test_coffee_orders(facts):
    known = facts("coffee_orders")
    label = "coffeeDrink=latte;milkAmount= soy milk;size=small"
    assert set(known.values()) == {("", "", label, "")}
    assert len(known) == 360


def test_librispeech_keeps_its_layout(facts, place):
    name = "librispeech/test-other"
    known = facts(name)
    assert known["1998-15444-0003"] == ("1998", "SAID 3", "", "")
    (transcript,) = (place / "LibriSpeech" / "test-other" / "1998").glob("*/*.trans.txt")
    assert transcript.name == "1998-15444.trans.txt"
    lines = transcript.read_text().splitlines()
    assert len(lines) == 10 and lines[9] == "1998-15444-0009 SAID 9"
    assert describe(corpus(name))["sexes"] == {"M": 1}
    other = "librispeech/train-clean-100"
    (place / "LibriSpeech" / "SPEAKERS.TXT").write_text("103 | M | x\n")
    known = facts(other)
    assert {what[1] for what in known.values()} == {""}  # used without transcripts
    assert len({what[0] for what in known.values()}) == 251
    assert describe(corpus(other))["sexes"] == {"M": 1}  # the table that was there is kept
    assert not list(place.glob("LibriSpeech/train-clean-100/*/*/*.txt"))


def test_a_source_that_is_not_there_says_where_to_get_it(tmp_path):
    for name, one in EXCERPTS.items():
        with pytest.raises(ValueError) as caught:
            make_excerpt(name, tmp_path / "nowhere", tmp_path / "out")
        for part in ("nowhere", one.url, one.size, one.licence, "expected a folder"):
            assert part in str(caught.value)
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=r"which lacks \d+ of \d+ files") as caught:
            make_excerpt(name, tmp_path / "empty", tmp_path / "out")
        assert one.url in str(caught.value)
    with pytest.raises(ValueError, match=r"got 'ljspeech', expected one of coffee_orders"):
        make_excerpt("ljspeech", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_counted_and_nothing_is_left(tmp_path, place, sound):
    name, out = "coffee_orders", place / "coffee_orders"
    source = _publish(tmp_path / "source", name, sound)
    files = [source / _published_file(name, one) for one, _ in excerpt_ids(name)[100:104]]
    for file in files:
        file.unlink()
    first = r"lacks 4 of 360 files \(data/speech/clean/[\w-]+\.wav, [^ ]+, [^ ]+, \.\.\.\)"
    with pytest.raises(ValueError, match=first) as caught:
        make_excerpt(name, source, out)
    assert files[0].name in str(caught.value)
    for file in files:
        file.write_bytes(b"no audio")
    with pytest.raises(audio.AudioError, match=re.escape(str(files[0]))):
        make_excerpt(name, source, out)
    assert list(place.iterdir()) == []


def test_a_missing_entry_or_transcript_is_counted(tmp_path, sound):
    source = _publish(tmp_path / "orders", "coffee_orders", sound)
    (source / "data" / "label" / "label.json").write_text("{}")
    with pytest.raises(ValueError, match=r"lacks 360 of 360 entries of data/label/label\.json"):
        excerpt_rows("coffee_orders", source)
    source = _publish(tmp_path / "read", "librispeech/test-other", sound)
    path = source / "test-other" / "1998" / "15444" / "1998-15444.trans.txt"
    path.write_text("1998-15444-0000 A\n\n")
    with pytest.raises(ValueError, match=r"lacks 9 of 60 transcripts \(1998-15444-0001, "):
        excerpt_rows("librispeech/test-other", source)
    path.unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of 6 files \(test-other/1998/15444/1998-15444"):
        excerpt_rows("librispeech/test-other", source)


def test_nothing_is_overwritten(published, place):
    name = "librispeech/test-other"
    source = published(name)
    with pytest.raises(ValueError, match="expected a folder that ends in LibriSpeech/test-other"):
        make_excerpt(name, source, place / "mine")
    kept = place / "LibriSpeech" / "test-other" / "1" / "recording.flac"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"which is there already, expected a new folder.*Hint"):
        make_excerpt(name, source, place / "LibriSpeech" / "test-other")
    assert kept.read_bytes() == b"mine"
    assert [path.name for path in (place / "LibriSpeech").iterdir()] == ["test-other"]


def test_the_command(tmp_path, published, place, monkeypatch):
    name = "librispeech/test-other"
    source = published(name)
    arguments = ["corpus", "excerpt", name, "--source", str(source)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert f"{name}: 60 utterances" in done.output
    assert corpus(name).speakers == ["1998", "2033", "2414", "3005", "3080", "367"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2 and "there already" in done.stderr
    out = tmp_path / "else" / "LibriSpeech" / "test-other"
    done = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert done.exit_code == 0 and out.is_dir()
    monkeypatch.delenv("CODEC_LIB_DATA")
    assert excerpt_folder(name) == paths.corpora_root() / "LibriSpeech" / "test-other"
    assert excerpt_folder("fsdd") == paths.corpora_root() / "fsdd"


def _recorded(name: str) -> Corpus:
    """Return the excerpt that lies on this machine, or skip."""
    root = paths.real_data_root()
    folder = SOURCES[name].folder if name in SOURCES else name
    if root is None or not (root / folder).is_dir():
        pytest.skip("needs the excerpts: set CODEC_LIB_DATA to their folder")
    found = corpus(name)
    if name in SOURCES and len(found) > 2000:
        pytest.skip(f"needs the excerpt: {root / folder} is the whole part")
    return found


def _known(one: Utterance) -> tuple[str, ...]:
    return (
        *(one.utterance_id, one.speaker_id, one.language, one.text),
        *(one.label, one.tone, one.split),
    )


@pytest.mark.parametrize("name", FOLDERS)
def test_rules_and_lists_give_the_recorded_corpora(name, tmp_path, published):
    """Where the excerpts are at hand, every field of every row is theirs, in their order."""
    recorded, source = _recorded(name), published(name)
    if name == "coffee_orders":
        ordered = {one.utterance_id: one.label.split(";")[::-1] for one in recorded}
        slots = {one: dict(slot.split("=", 1) for slot in of) for one, of in ordered.items()}
        source = _publish(tmp_path, name, labels=slots)
    rows = excerpt_rows(name, source)
    assert [_known(said) for _, said in rows] == [_known(one) for one in recorded]


@pytest.mark.parametrize("name", sorted(set(SIZES) & set(SOURCES)))
def test_librispeech_gives_the_recorded_excerpt(name, tmp_path):
    """Made from itself, an excerpt is the same file for file, and so are the sexes of readers."""
    recorded = _recorded(name)
    folder = Path(recorded[0].audio_path).parents[3]
    out = tmp_path / SOURCES[name].folder
    made = make_excerpt(name, folder, out)
    assert [(*_known(one), one.sex) for one in made] == [
        (*_known(one), one.sex) for one in recorded
    ]
    before, after = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (folder / out.name, out)
    )
    assert before == after
