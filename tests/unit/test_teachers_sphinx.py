r"""Forced alignment with PocketSphinx: where phonemes are, unknown words, texts that do not fit."""

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from codec_lib import audio, paths
from codec_lib.cli import app
from codec_lib.commands import phonemes_where_none
from codec_lib.data import Corpus, Utterance, corpus, espeak, pronounce
from codec_lib.data.manifests import write_manifest
from codec_lib.data.phonemes import ENGLISH
from codec_lib.data.synthetic import speak_utterance
from codec_lib.teachers import HubertConfig, SmallHubert, save_hubert
from codec_lib.teachers.sphinx import SphinxAligner, sphinx_aligned

pytest.importorskip("pocketsphinx", reason="needs codec-lib[align]")


@pytest.fixture(scope="module")
def aligner() -> SphinxAligner:
    return SphinxAligner()


@pytest.fixture(scope="module")
def spoken() -> list[tuple[Utterance, torch.Tensor]]:
    """Six utterances of test speakers and their audio (1, T)."""
    return [(one, wav.float()) for one, wav in map(speak_utterance, range(9, 69, 10))]


@pytest.fixture(scope="module")
def files(tmp_path_factory, spoken) -> Corpus:
    """The same as files, without phonemes."""
    folder = tmp_path_factory.mktemp("bare")
    bare = []
    for one, wav in spoken:
        path = folder / f"{one.utterance_id}.wav"
        audio.write(path, wav, 16000)
        bare.append(replace(one, audio_path=str(path), phonemes=(), split=""))
    write_manifest(folder, bare)
    return corpus(folder)


def say(text: str) -> torch.Tensor:
    """Speak a text, (1, T) at 16 kHz, with 0.2 s of silence on either side."""
    said = espeak.speak(text)
    wav = torch.from_numpy(said.samples.copy()).float()[None] / 32768
    wav = audio.resample(wav, said.sample_rate, 16000)
    return torch.nn.functional.pad(wav, (3200, 3200)) + 1e-4 * torch.randn(wav.shape[-1] + 6400)


def onsets(phonemes):
    """Pair each symbol with how often it came before, so that two sequences can be compared."""
    count: dict[str, int] = {}
    for one in phonemes:
        count[one.symbol] = count.get(one.symbol, 0) + 1
        yield (one.symbol, count[one.symbol]), one.start


def test_boundaries_are_near_those_of_the_synthesis(files, spoken):
    """Measured on the 126 utterances of the test part: median 10 ms, 77 % of the frames."""
    found = sphinx_aligned(files)
    errors, hits = [], []
    for one, (truth, wav) in zip(found, spoken, strict=True):
        assert one.phonemes[0].start == 0 and one.phonemes[-1].end == wav.shape[-1]
        assert all(a.end == b.start for a, b in itertools.pairwise(one.phonemes))
        assert all(phoneme.start % 160 == 0 for phoneme in one.phonemes)
        assert {phoneme.symbol for phoneme in one.phonemes} <= set(ENGLISH)
        known, frames = dict(onsets(truth.phonemes)), wav.shape[-1] // 320
        sounds = [(key, at) for key, at in onsets(one.phonemes) if key[0] != "sil"]
        errors += [at - known[key] for key, at in sounds if key in known]
        named = zip(one.frame_symbols(50, frames), truth.frame_symbols(50, frames), strict=True)
        hits += [a == b for a, b in named]
    errors = np.array(errors) / 16  # ms
    assert len(errors) > 120 and np.median(np.abs(errors)) < 15
    assert abs(np.median(errors)) < 5  # -10 if a frame were where its window begins
    assert np.mean(hits) > 0.70


def test_words_the_dictionary_lacks_and_numbers_are_spoken_as_espeak_does(aligner):
    text = "The zorblat's 12 gnomes ate apomorphine & café cake."
    found = aligner(say(text), text)
    said = pronounce(text)
    assert [word.text for word in found.words] == [word for word, _ in said]
    for word, sounds in said:
        if word in ("zorblat's", "12", "apomorphine"):
            place = next(one for one in found.words if one.text == word)
            inside = [p for p in found.phonemes if place.start <= p.start < place.end]
            assert tuple(p.symbol for p in inside) == sounds, word
    starts = [word.start for word in found.words]
    assert starts == sorted(starts) and 1600 <= starts[0] <= 4800  # 0.2 s


def test_capitals_are_spelt_and_apostrophes_are_kept(aligner):
    text = "Don’t ask the XQF."
    found = aligner(say(text), text)
    symbols = [phoneme.symbol for phoneme in found.phonemes if phoneme.symbol != "sil"]
    assert [word.text for word in found.words] == ["don't", "ask", "the", "xqf"]
    assert symbols[-8:] == ["EH", "K", "S", "K", "Y", "UW", "EH", "F"]


def test_what_was_aligned_before_makes_no_difference(aligner, spoken):
    (one, wav), (other, other_wav) = spoken[:2]
    first = aligner(wav, one.text)
    aligner(other_wav, f"{other.text} Wobblefloxes!")
    with pytest.raises(ValueError, match="do not fit"):
        aligner(wav[:, :1600], one.text)
    assert aligner(wav, one.text) == first == SphinxAligner()(wav, one.text)


def test_quiet_recordings_are_aligned_as_loud_ones(aligner, spoken):
    one, wav = spoken[0]
    loud, quiet = aligner(wav, one.text), aligner(0.01 * wav, one.text)
    moved = [abs(a.start - b.start) for a, b in zip(loud.words, quiet.words, strict=True)]
    assert np.median(moved) <= 160


def test_texts_without_words_and_texts_too_long_are_refused(aligner, spoken):
    one, wav = spoken[0]
    for text in ("", " ... !"):
        with pytest.raises(ValueError, match="expected at least one word"):
            aligner(wav, text)
    with pytest.raises(
        ValueError, match=r"text: got \d+ words that do not fit into .* s, expected"
    ):
        aligner(wav, 20 * f"{one.text} ")
    with pytest.raises(ValueError, match=r"got 1 words that do not fit into 0.00 s"):
        aligner(wav[:, :0], "no")


def test_a_text_of_another_recording_is_aligned_but_scores_less(aligner, spoken):
    others = [text for (text, _) in spoken[1:]] + [spoken[0][0]]
    for (one, wav), other in zip(spoken, others, strict=True):
        right = aligner(wav, one.text).score
        try:
            wrong = aligner(wav, other.text)
        except ValueError as error:
            assert "does the text belong" in str(error)
            continue
        assert wrong.phonemes[-1].end == wav.shape[-1] and wrong.score < right < 0


def test_a_corpus_keeps_its_files_rates_and_says_what_it_leaves_out(files, tmp_path, caplog):
    slow = audio.resample(files.load(0), 16000, 8000)
    audio.write(tmp_path / "slow.wav", slow, 8000)
    (tmp_path / "bad.wav").write_text("no audio")
    bare = Utterance("slow", str(tmp_path / "slow.wav"), "s", text=files[0].text, split="test")
    mute = replace(bare, utterance_id="mute", text="")
    bad = replace(bare, utterance_id="bad", audio_path=str(tmp_path / "bad.wav"))
    found = sphinx_aligned(Corpus("three", [bare, mute, bad], 24000))
    assert [one.utterance_id for one in found] == ["slow"] and found.name == "three, aligned"
    assert "mute: not aligned" in caplog.text and "bad: not aligned" in caplog.text
    assert found.sample_rate == 24000 and found[0].sample_rate == 8000 and found[0].split == "test"
    assert found[0].phonemes[-1].end == found[0].num_samples == slow.shape[-1]
    same = sphinx_aligned(files[:1])[0].frame_symbols(50, 100)
    named = found[0].frame_symbols(50, 100)
    assert np.mean([a == b for a, b in zip(named, same, strict=True)]) > 0.7  # no band above 4 kHz
    with pytest.raises(ValueError, match="got 0 utterances"):
        sphinx_aligned(Corpus("none", [mute]))


def test_pocketsphinx_is_asked_for_where_it_is_missing(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(ValueError, match=r"got no pocketsphinx.*pip install codec-lib\[align\]"):
        sphinx_aligned(files)


def test_units_are_measured_on_aligned_speech(files, tmp_path, monkeypatch):
    """``codec-lib units --test FOLDER --align``: phonemes where the folder has only text."""
    config = HubertConfig(dim=16, num_layers=2, num_heads=2, ffn_dim=32, num_units=4, unit_dim=8)
    teacher = save_hubert(SmallHubert(config), tmp_path / "teacher.safetensors")
    folder, out = str(Path(files[0].audio_path).parent), tmp_path / "units.json"
    parts = []

    def measure(networks, functions, train, test, settings):
        parts[:] = train, test
        return [{"features": "mfcc", "layer": None, "num_units": 9}]

    def run(*options):
        arguments = ["units", str(teacher), "--corpus", "synthetic/small", "--out", str(out)]
        result = CliRunner().invoke(app, [*arguments, *options])
        assert result.exit_code == 0, result.output
        conditions = json.loads(out.read_text())["conditions"]
        return *parts, conditions["test"], conditions["aligned"]

    monkeypatch.setattr("codec_lib.evaluation.teacher_units.compare_units", measure)
    train, test, name, is_aligned = run("--test", folder)
    assert train.splits == ["train"] and (name, is_aligned) == (folder, False)
    assert len(test) == len(files) and not test.phoneme_set  # it has no parts, so the whole of it
    _, test, _, is_aligned = run("--test", folder, "--align")
    assert is_aligned and [one.phonemes for one in test] == [
        one.phonemes for one in sphinx_aligned(files)
    ]
    _, test, _, _ = run("--test", f"synthetic/small,{folder}", "--align")
    assert test.splits == ["test"]  # joined, those without the part are left out, as ever
    _, test, name, _ = run("--align")
    exact = corpus("synthetic/small", "test")
    assert name == "synthetic/small" and [one.phonemes for one in test] == [
        one.phonemes for one in exact
    ]


def test_only_utterances_without_phonemes_are_aligned(files, spoken):
    mixed = Corpus("mixed", [replace(files[0], phonemes=spoken[0][0].phonemes), files[1]])
    found = phonemes_where_none(mixed)
    assert found[0].phonemes == spoken[0][0].phonemes
    assert found[1].phonemes == sphinx_aligned(files[1:2])[0].phonemes


def test_recorded_speech_is_aligned_with_its_own_text(aligner, monkeypatch):
    root = paths.real_data_root()
    if root is None or not (root / "LibriSpeech/test-other").is_dir():
        pytest.skip("needs real corpora: set CODEC_LIB_DATA to their folder")
    real = corpus("librispeech/test-other")
    order = sorted(range(len(real)), key=real.length)[:8]
    short = Corpus("short", [real[index] for index in order])
    found = sphinx_aligned(short)
    assert len(found) == len(short)
    for index, one in enumerate(found):
        wav = short.load(index)
        frames = wav[0, : wav.shape[-1] // 320 * 320].view(-1, 320).square().mean(1)
        silent = torch.tensor([s == "sil" for s in one.frame_symbols(50, len(frames))])
        assert 0.02 < silent.float().mean() < 0.7
        assert 10 * (frames[~silent].mean() / frames[silent].mean()).log10() > 10  # dB
        right = aligner(wav, one.text).score
        assert right > -32
        try:
            assert aligner(wav, short[index - 1].text).score < right
        except ValueError as error:
            assert "does the text belong" in str(error)
