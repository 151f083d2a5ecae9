r"""Corpora: layouts and manifests are read, faults named, missing ones explained."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from codec_lib import audio, paths
from codec_lib.data import Corpus, Phoneme, Utterance, corpus, describe, join
from codec_lib.data.corpora import SOURCES
from codec_lib.data.layouts import read_librispeech, read_ljspeech, read_vctk
from codec_lib.data.manifests import read_manifest, write_manifest


@pytest.fixture
def folder(tmp_path, monkeypatch, speech):
    """A folder of real corpora: LibriSpeech (two speakers), and one in the manifest form."""
    root = tmp_path / "real"
    part = root / "LibriSpeech" / "test-clean"
    for speaker, name in (("61", "61-70-0000"), ("61", "61-70-0001"), ("908", "908-31-0000")):
        audio.write(part / speaker / name.split("-")[1] / f"{name}.flac", speech, 16000)
    (part / "61" / "70" / "61-70.trans.txt").write_text("61-70-0000 HE BEGAN\n61-70-0001 A TALE\n")
    table = (
        ";ID |SEX| SUBSET | MINUTES | NAME\n61 | M | test-clean | 8 | A B\n908 | F | x | 8 | C\n"
    )
    (root / "LibriSpeech" / "SPEAKERS.TXT").write_text(table)
    digits = root / "digits"
    audio.write(digits / "audio" / "a.wav", speech[:, :4000], 8000)
    audio.write(digits / "audio" / "b.wav", speech[:, :2000], 8000)
    (digits / "manifest.csv").write_text(
        "utterance_id,audio_path,speaker_id,language,text,label,tone,split\n"
        'a,audio/a.wav,s1,en,"zero, or nought",0,,train\nb,audio/b.wav,,,,,3,test\n'
    )
    monkeypatch.setenv("CODEC_LIB_DATA", str(root))
    return root


def test_librispeech_layout(folder):
    found = corpus("librispeech/test-clean")
    assert [one.utterance_id for one in found] == ["61-70-0000", "61-70-0001", "908-31-0000"]
    assert [one.text for one in found] == ["HE BEGAN", "A TALE", ""]
    assert [one.sex for one in found] == ["M", "M", "F"]
    assert found.speakers == ["61", "908"]
    assert found.splits == ["test"]
    assert found.hours == pytest.approx(3 * 0.5 / 3600)
    assert found.load(0).shape == (1, 8000)


def test_manifest_form(folder, speech):
    found = corpus("digits")
    assert found[0].text == "zero, or nought"
    assert (found[1].speaker_id, found[1].tone, found[1].language) == ("", "3", "")
    assert found.load(0).shape == (1, 8000)  # 8 kHz resampled to the corpus's 16 kHz
    assert corpus("digits", sample_rate=8000).load(0).shape == (1, 4000)
    assert [one.utterance_id for one in corpus(folder / "digits", split="test")] == ["b"]


def test_manifest_keeps_what_is_written(tmp_path):
    phones = (Phoneme("sil", 0, 5), Phoneme("AA", 5, 9))
    made = [
        Utterance(
            "x", str(tmp_path / "audio/x.wav"), "s", "en", 'say "a", b', "l", "2", "dev", 16, 9
        ),
        Utterance("y", str(tmp_path / "audio/y.wav"), num_samples=9, phonemes=phones, sex="F"),
    ]
    write_manifest(tmp_path, made)
    back = read_manifest(tmp_path)
    assert list(back) == made
    assert back.phoneme_set == ["AA", "sil"]


def test_manifest_faults(tmp_path):
    with pytest.raises(ValueError, match=r"no manifest\.csv"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_text("utterance_id,path\na,b\n")
    with pytest.raises(ValueError, match=r"expected also \['audio_path'\]"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_text("utterance_id,audio_path\na,b\na,c\n")
    with pytest.raises(ValueError, match="'a' more than once"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_text("utterance_id,audio_path\n")
    with pytest.raises(ValueError, match="0 utterances"):
        read_manifest(tmp_path)
    with pytest.raises(ValueError, match="expected a file under"):
        write_manifest(tmp_path, [Utterance("a", "/elsewhere/a.wav")])


def test_joined_names_stay_unique(folder):
    both = corpus("librispeech/test-clean, digits")
    assert len(both) == 5
    assert both[0].utterance_id == "librispeech/test-clean/61-70-0000"
    assert both.speakers == ["digits/s1", "librispeech/test-clean/61", "librispeech/test-clean/908"]
    assert both[4].speaker_id == ""
    assert len(corpus("librispeech/test-clean,digits", split="train")) == 1
    with pytest.raises(ValueError, match=r"got sample rates \[8000, 16000\]"):
        join([corpus("digits", sample_rate=8000), corpus("digits")])


def test_unknown_names_and_splits_are_answered_with_what_there_is(folder):
    with pytest.raises(ValueError, match="Hint: codec-lib corpus excerpt fsdd --source FOLDER"):
        corpus("fsdd")
    with pytest.raises(ValueError, match=r"'digit', expected one of .*digits.*CODEC_LIB_DATA"):
        corpus("digit")
    with pytest.raises(ValueError, match=r"got split 'dev'|got 'dev'.*\['test', 'train'\]"):
        corpus("digits", split="dev")
    with pytest.raises(ValueError, match="empty name"):
        corpus(" , ")


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_missing_corpus_says_where_to_get_it(name, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "corpora_root", lambda: tmp_path / "corpora")
    if name == "librispeech/test-clean":
        return
    with pytest.raises(ValueError) as caught:
        corpus(name)
    for part in (SOURCES[name].url, SOURCES[name].size, str(tmp_path / "corpora"), "download=True"):
        assert part in str(caught.value)


def test_download_goes_through_torchaudio(folder, monkeypatch, tmp_path, speech):
    import torchaudio

    called = {}

    def fake(root, url, download):
        called.update(root=root, url=url, download=download)
        target = tmp_path / "corpora" / "LibriSpeech" / url / "1" / "2"
        audio.write(target / "1-2-0000.flac", speech, 16000)

    monkeypatch.setattr(paths, "corpora_root", lambda: tmp_path / "corpora")
    monkeypatch.setattr(torchaudio.datasets, "LIBRISPEECH", fake)
    found = corpus("librispeech/dev-clean", download=True)
    assert called == {"root": str(tmp_path / "corpora"), "url": "dev-clean", "download": True}
    assert (found[0].utterance_id, found[0].split) == ("1-2-0000", "dev")


def test_torchaudio_has_every_downloader():
    import torchaudio

    for source in SOURCES.values():
        assert hasattr(torchaudio.datasets, source.dataset)


def test_other_layouts(tmp_path, speech):
    lj = tmp_path / "LJSpeech-1.1"
    audio.write(lj / "wavs" / "LJ001-0001.wav", speech, 22050)
    (lj / "metadata.csv").write_text('LJ001-0001|"Dr." 1|"Doctor" one\n')
    assert read_ljspeech(lj)[0].text == '"Doctor" one'
    assert read_ljspeech(lj).load(0).shape == (1, audio.resampled_length(8000, 22050, 16000))
    vctk = tmp_path / "VCTK-Corpus-0.92"
    audio.write(vctk / "wav48_silence_trimmed" / "p225" / "p225_001_mic2.flac", speech, 48000)
    audio.write(vctk / "wav48_silence_trimmed" / "p225" / "p225_001_mic1.flac", speech, 48000)
    (vctk / "txt" / "p225").mkdir(parents=True)
    (vctk / "txt" / "p225" / "p225_001.txt").write_text("Please call Stella.\n")
    assert [(one.utterance_id, one.text) for one in read_vctk(vctk)] == [
        ("p225_001", "Please call Stella.")
    ]
    tts = tmp_path / "LibriTTS" / "dev-clean" / "84" / "121"
    audio.write(tts / "84_121_0.wav", speech, 24000)
    (tts / "84_121_0.normalized.txt").write_text("But now.")
    assert read_librispeech(tmp_path / "LibriTTS" / "dev-clean")[0].text == "But now."
    for reader in (read_librispeech, read_ljspeech, read_vctk):
        with pytest.raises(ValueError, match="expected"):
            reader(tmp_path / "elsewhere")


def test_a_bad_file_is_logged_once_and_listed(folder, caplog):
    (folder / "digits" / "audio" / "a.wav").write_bytes(b"broken")
    found = corpus("digits")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with pytest.raises(audio.AudioError, match=r"a\.wav"):
                found.load(0)
        assert found.length(0) == 0
        assert found.hours == pytest.approx(0.25 / 3600)
    assert [path for path, _ in found.bad_files] == [str(folder / "digits" / "audio" / "a.wav")]
    assert len(caplog.records) == 1
    assert "a.wav" in caplog.text


def test_describe(folder):
    facts = describe(corpus("digits"))
    assert facts["utterances"] == 2
    assert facts["speakers"] == 1
    assert facts["splits"]["test"] == {"utterances": 1, "hours": 0.0001, "speakers": 0}
    assert facts["languages"] == {"": 1, "en": 1}
    assert facts["bad_files"] == []
    assert describe(corpus("librispeech/test-clean"))["sexes"] == {"F": 1, "M": 1}


def test_selecting(folder):
    found = corpus("librispeech/test-clean")
    chosen = found.select(lambda one: one.sex == "M")
    assert isinstance(chosen, Corpus)
    assert len(chosen) == 2
    assert [one.utterance_id for one in found[1:]] == ["61-70-0001", "908-31-0000"]
    with pytest.raises(ValueError, match="0 of 3"):
        found.select(lambda one: False)
    with pytest.raises(ValueError, match=r"expected one of \['test'\]"):
        found.split("train")


def test_frames_are_named_by_their_centre():
    phones = (Phoneme("sil", 0, 300), Phoneme("AA", 300, 1000), Phoneme("T", 1000, 1300))
    said = Utterance("u", "u.wav", sample_rate=16000, num_samples=1300, phonemes=phones)
    # 50 frames/s: centres at 160, 480, 800, 1120, 1440 samples
    assert said.frame_symbols(50, 5) == ["sil", "AA", "AA", "T", "sil"]
    with pytest.raises(ValueError, match="expected an aligned utterance"):
        Utterance("v", "v.wav").frame_symbols(50, 2)
    with pytest.raises(ValueError, match="u: got phonemes at 0 Hz, expected the sample rate"):
        replace(said, sample_rate=0).frame_symbols(50, 5)


def test_phonemes_of_a_manifest_without_rates_have_that_of_their_file(tmp_path):
    phones = (Phoneme("sil", 0, 4000), Phoneme("AA", 4000, 8000))  # half a second each
    for name in "ab":
        audio.write(tmp_path / f"{name}.wav", torch.zeros(1, 8000), 8000)
    (tmp_path / "bad.wav").write_text("no audio")
    said = [Utterance(name, str(tmp_path / f"{name}.wav"), phonemes=phones) for name in "ab"]
    bad = Utterance("bad", str(tmp_path / "bad.wav"), phonemes=phones)
    write_manifest(tmp_path, [said[0], replace(said[1], phonemes=()), bad])
    lines = (tmp_path / "manifest.csv").read_text().splitlines()
    bare = "\n".join(line.rsplit(",", 3)[0] for line in lines)  # without the optional columns
    (tmp_path / "manifest.csv").write_text(bare)
    found = read_manifest(tmp_path)
    assert found[0].frame_symbols(4, 4) == ["sil", "sil", "AA", "AA"]
    assert (found[0].sample_rate, found[0].num_samples) == (8000, 8000)
    assert found[1].phonemes == () and found[2].sample_rate == 0  # reported when it is heard


def test_a_folder_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setenv("CODEC_LIB_DATA", "/no/such/folder")
    with pytest.raises(ValueError, match="got /no/such/folder"):
        corpus("digits")


def test_paths(monkeypatch, tmp_path):
    monkeypatch.delenv("CODEC_LIB_DATA", raising=False)
    monkeypatch.delenv("CODEC_LIB_CACHE", raising=False)
    assert paths.real_data_root() is None
    assert paths.cache_root() == paths.corpora_root().parent / "cache"
    assert (paths.data_root() / "sentences").is_dir()
    monkeypatch.setenv("CODEC_LIB_CACHE", str(tmp_path))
    assert paths.cache_root() == tmp_path
    monkeypatch.setattr(paths, "_checkout_data", lambda: None)
    assert paths.checkpoints_root().parts[-2:] == ("_data", "checkpoints")
    assert paths.corpora_root().parts[-3:] == (".cache", "codec_lib", "corpora")


def test_real_corpora_are_read_whole():
    """Where real corpora are at hand, their counts are those that their README gives."""
    root = paths.real_data_root()
    if root is None:
        pytest.skip("needs real corpora: set CODEC_LIB_DATA to their folder")
    folders = {
        "coffee_orders": ("coffee_orders", 360),
        "mandarin_syllables": ("mandarin_syllables", 1679),
        "librispeech/train-clean-100": ("LibriSpeech/train-clean-100", 251),
    }
    for name, (where, count) in folders.items():
        if (root / where).is_dir():
            found = corpus(name)
            assert len(found) >= count  # the full corpora hold more than the excerpts
            wav = found.load(0)
            assert wav.shape == (1, found.length(0))
            assert torch.isfinite(wav).all()


def test_a_manifest_that_promises_more_than_there_is_ends_no_run(tmp_path):
    audio.write(tmp_path / "a.wav", torch.zeros(1, 16000), 16000)
    one = Utterance("a", str(tmp_path / "a.wav"), sample_rate=16000, num_samples=48000)
    speech = Corpus("long", [one])
    with pytest.raises(audio.AudioError, match="the manifest says that it is longer"):
        speech.load(0, start=20000, num_samples=100)
    assert len(speech.bad_files) == 1
    with pytest.raises(ValueError, match="got start=50000"):  # nobody promised that
        speech.load(0, start=50000)
