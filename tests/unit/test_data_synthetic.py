r"""The synthetic corpus: splits without overlap, the same bytes for a seed, boundaries that fit."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from codec_lib import audio, paths
from codec_lib.data import Corpus, corpus, espeak, make_synthetic
from codec_lib.data.phonemes import CONSONANTS, ENGLISH, VOWELS, align, label, to_symbol
from codec_lib.data.pronunciation import normalise_words
from codec_lib.data.synthetic import sentences, speak_utterance, speakers

SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Corpus:
    """Forty utterances without noise."""
    return make_synthetic(tmp_path_factory.mktemp("synthetic"), num_utterances=40, noise=False)


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


def test_sentences_are_many_and_disjoint():
    lists = {split: sentences(split) for split in SPLITS}
    assert len(lists["train"]) >= 500
    assert min(len(lists["dev"]), len(lists["test"])) >= 50
    everything = [line.lower().strip(".?! ") for split in SPLITS for line in lists[split]]
    assert len(set(everything)) == len(everything)
    with pytest.raises(ValueError, match="'valid', expected one with a list"):
        sentences("valid")


def test_sentences_hold_digits_dates_times_and_prices():
    text = "\n".join(sentences("train"))
    for needle in ("$48.75", "9:15", "1284", "3rd of February", "percent", "Mrs.", "zero", "£"):
        assert needle.lower() in text.lower()
    assert all(str(digit) in text for digit in range(10))


@pytest.mark.parametrize("split", ["dev", "test"])
def test_sentences_cover_every_phoneme(split):
    """The two short lists each hold all 39 phonemes; so does any part of the long one."""
    heard = set()
    for line in sentences(split):
        heard |= {to_symbol(name) for name, _ in espeak.speak(line, rate=400).phonemes}
    assert heard == set(ENGLISH)


def test_speakers_are_balanced_and_disjoint():
    voices = [speaker for split in SPLITS for speaker in speakers(split)]
    assert len(voices) >= 60
    assert len({voice.name for voice in voices}) == len(voices)
    for split in SPLITS:
        sexes = [voice.sex for voice in speakers(split)]
        assert sexes.count("F") == sexes.count("M")
    variants = [{voice.variant for voice in speakers(split)} for split in SPLITS]
    assert not variants[0] & variants[1] and not variants[0] & variants[2]
    assert not variants[1] & variants[2]
    assert speakers("train")[0] is speakers("train")[0]


def test_corpus_splits_are_disjoint(made):
    assert [len(made.split(split)) for split in SPLITS] == [32, 4, 4]
    for key in ("text", "speaker_id"):
        parts = [{getattr(one, key) for one in made.split(split)} for split in SPLITS]
        assert len(set.union(*parts)) == sum(map(len, parts))
    assert {one.language for one in made} == {"en"}
    assert {one.sex for one in made.split("train")} == {"F", "M"}


def test_phonemes_cover_each_utterance_without_gaps(made):
    for index, one in enumerate(made):
        assert made.load(index).shape[1] == one.num_samples == one.phonemes[-1].end
        ends = [0, *(phone.end for phone in one.phonemes)]
        assert [phone.start for phone in one.phonemes] == ends[:-1]
        assert all(phone.end > phone.start for phone in one.phonemes)
        assert {phone.symbol for phone in one.phonemes} <= set(ENGLISH)
        assert (one.phonemes[0].symbol, one.phonemes[-1].symbol) == ("sil", "sil")


def test_boundaries_fit_the_sound(made):
    """Silence is silent, vowels are loud, hisses are bright: labels lie where the sounds are."""
    power, bright = defaultdict(list), defaultdict(list)
    for index, one in enumerate(made):
        wav = made.load(index)[0].numpy().astype(float)
        for phone in one.phonemes:
            piece = wav[phone.start : phone.end]
            power[phone.symbol].append(
                float(10 * np.log10(np.mean(piece**2) / np.mean(wav**2) + 1e-9))
            )
            spectrum = np.abs(np.fft.rfft(piece * np.hanning(len(piece)), 4096)) ** 2
            bright[phone.symbol].append(float(spectrum[768:].sum() / (spectrum.sum() + 1e-12)))
    middle = {symbol: np.median(values) for symbol, values in power.items()}
    assert middle["sil"] < -60
    assert min(middle[symbol] for symbol in VOWELS & set(middle)) > -1
    assert max(middle[symbol] for symbol in ("F", "TH", "T", "P", "K", "HH", "V")) < -8
    assert np.median(bright["S"]) > 0.7  # share of power above 3 kHz
    assert max(np.median(bright[symbol]) for symbol in ("AA", "OW", "M", "N", "W")) < 0.1
    assert np.quantile(power["L"], 0.05) > -10  # l after a vowel is not the silence behind it


def test_same_seed_same_bytes_in_a_fresh_process_and_another_order(made, tmp_path):
    code = (
        "import sys; from safetensors.torch import save_file;"
        "from codec_lib.data import make_synthetic;"
        "make_synthetic(sys.argv[1], num_utterances=3);"
        "from codec_lib.data.synthetic import speak_utterance;"
        "wavs = [speak_utterance(i)[1] for i in (9, 1, 0, 1)];"
        "save_file({str(n): wav for n, wav in enumerate(wavs)}, sys.argv[1] + '/wavs')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], check=True, timeout=120)
    make_synthetic(tmp_path / "here", num_utterances=3)
    here, there = files_of(tmp_path / "here"), files_of(tmp_path / "there")
    assert len(here) == 6  # audio, manifest, phonemes, and that they may be made again
    assert here == {name: there[name] for name in here}
    later = load_file(tmp_path / "there" / "wavs")
    assert torch.equal(later["1"], later["3"])
    for number, index in enumerate((9, 1, 0)):
        assert torch.equal(speak_utterance(index)[1], later[str(number)])


def test_a_longer_corpus_begins_with_the_shorter_one(made, tmp_path):
    short = make_synthetic(tmp_path, hours=made.hours * 0.1, noise=False)
    assert 1 <= len(short) < len(made)
    for one, same in zip(short, made, strict=False):
        assert (one.text, one.speaker_id, one.phonemes) == (
            same.text,
            same.speaker_id,
            same.phonemes,
        )
        content = open(one.audio_path, "rb").read()
        assert content == open(same.audio_path, "rb").read()


def test_another_seed_makes_another_corpus(made):
    other, wav = speak_utterance(0, seed=1, noise=False)
    assert (other.text, other.speaker_id) != (made[0].text, made[0].speaker_id)
    assert wav.shape[0] == 1


def test_level_and_noise_vary_but_stay_within_bounds(made):
    levels = [float(audio.rms_db(made.load(index))[0]) for index in range(len(made))]
    assert min(levels) > -30.5 and max(levels) < -17.5
    assert max(levels) - min(levels) > 6
    differ = [
        not torch.equal(speak_utterance(i)[1], speak_utterance(i, noise=False)[1]) for i in range(8)
    ]
    assert any(differ) and not all(differ)


def test_mixed_texts_are_new_and_held_out_ones_are_the_same():
    plain, mixed = (
        [speak_utterance(k, mixed=mixed)[0] for k in range(20)] for mixed in (False, True)
    )
    known = {word for text in sentences("train") for word in normalise_words(text)}
    for one, other in zip(plain, mixed, strict=True):
        assert (one.speaker_id, one.split) == (other.speaker_id, other.split)
        if one.split != "train":
            assert one == other
    new = [one.text for one in mixed if one.text not in sentences("train") + sentences("dev")
           + sentences("test")]  # fmt: skip
    assert len(new) == len(set(new)) == 12  # of 16 for training, every fourth is as it was
    assert {word for text in new for word in normalise_words(text)} <= known


def test_many_voices_are_for_training_alone():
    few, many = speakers("train"), speakers("train", many=True)
    assert len({voice.name for voice in many}) == 440 and set(few) < set(many)
    assert len({(v.accent, v.variant, v.pitch, v.rate) for v in many}) > 430
    assert speakers("dev", many=True) == speakers("dev")
    plain, other = (
        [speak_utterance(k, mixed=True, many=many)[0] for k in range(20)] for many in (False, True)
    )
    for one, two in zip(plain, other, strict=True):
        assert one.text == two.text and (one == two or one.split == "train")
    names = {two.speaker_id for two in other} - {voice.name for voice in few}
    assert len(names) > 8  # of sixteen


def test_how_much_to_make_is_said_once(tmp_path):
    for arguments in ({}, {"hours": 1, "num_utterances": 1}, {"hours": 0}, {"num_utterances": -1}):
        with pytest.raises(ValueError, match="exactly one of them"):
            make_synthetic(tmp_path, **arguments)


def test_by_name_it_is_made_once_and_again_when_the_recipe_changes(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "corpora_root", lambda: tmp_path)
    monkeypatch.setattr("codec_lib.data.synthetic._SMALL", 2)
    first = corpus("synthetic/small")
    assert (len(first), first.name) == (2, "synthetic/small")
    marker = tmp_path / "synthetic-small" / "marker.txt"
    marker.write_text("kept")
    assert len(corpus("synthetic/small")) == 2
    assert marker.exists()
    monkeypatch.setattr("codec_lib.data.synthetic.RECIPE_VERSION", -1)
    corpus("synthetic/small")
    assert not marker.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic-small"]
    with pytest.raises(ValueError, match=r"'synthetic/small', or e\.g"):
        corpus("synthetic/huge")


def test_espeak_names_its_faults(monkeypatch):
    with pytest.raises(espeak.EspeakError, match="'en-xx', expected"):
        espeak.speak("hello", "en-xx")
    with pytest.raises(espeak.EspeakError, match="no sound"):
        espeak.speak("")
    with pytest.raises(ValueError, match=r"rate=10.*80\.\.450"):
        espeak.speak("hello", rate=10)
    assert len(espeak.speak("hello").samples) > 5000  # and it still speaks after them
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(espeak.EspeakError, match="pip install espeakng-loader"):
        espeak.speak("hello")


def test_espeak_in_use_elsewhere_does_not_leak_in():
    import espeakng_loader

    alone = espeak.speak("one two three", "en-us+f2")
    held = ctypes.CDLL(espeakng_loader.get_library_path())
    for _ in range(2):
        beside = espeak.speak("one two three", "en-us+f2")
        assert np.array_equal(alone.samples, beside.samples)
        assert alone.phonemes == beside.phonemes
    espeak._unload(held)


def test_espeak_speaks_other_languages_and_follows_its_arguments():
    mandarin = espeak.speak("ma3", "cmn-latn-pinyin+f2")
    assert mandarin.sample_rate == 22050
    assert len(mandarin.phonemes) >= 2
    slow, fast = (len(espeak.speak("one two three", rate=rate).samples) for rate in (120, 300))
    assert slow > 1.5 * fast


def test_symbols():
    assert len(VOWELS) + len(CONSONANTS) + 1 == len(ENGLISH) == 40
    assert not VOWELS & CONSONANTS
    with pytest.raises(ValueError, match="expected one of"):
        to_symbol("Q!")
    assert label([("'oU", 0), ("l", 100), ("d", 120), ("_", 150)]) == [
        ("OW", 0), ("L", 60), ("D", 100), ("sil", 150)
    ]  # fmt: skip
    assert label([("'oU", 0), ("l", 100), ("i", 150)]) == [("OW", 0), ("L", 100), ("IY", 150)]
    assert [one.symbol for one in align([("AA", 0), ("B", 5), ("sil", 5)], 9)] == ["AA", "sil"]
    with pytest.raises(ValueError, match="order of time"):
        align([("AA", 7), ("B", 5)], 9)
