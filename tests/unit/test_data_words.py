r"""Words: how they are said, when they are said, and which frame says which."""

from itertools import pairwise

import pytest
import torch

from codec_lib.data import Phoneme, Utterance, espeak, pronunciation
from codec_lib.data.phonemes import ENGLISH, align, label
from codec_lib.data.pronunciation import normalise_words, pronounce, word_boundaries
from codec_lib.data.synthetic import speak_utterance
from codec_lib.data.words import Word, accent_of, word_times, words_at_frames


@pytest.fixture(scope="module")
def spoken() -> list[Utterance]:
    """Ten utterances of the synthetic corpus, without their audio."""
    return [speak_utterance(number)[0] for number in range(10)]


def test_text_becomes_words():
    text = "MISTER  QUILTER’S well-known, 'tis R&B: $48.75, 12,450 and 3rd; e.g. café 5%!"
    assert normalise_words(text) == (
        "mister quilter's well known tis r and b $48.75 12,450 and 3rd e g café 5 percent".split()
    )
    assert normalise_words(" -- ") == []


def test_words_are_pronounced_in_their_sentence():
    said = dict(pronounce("The tip of the sea is a good one in 1984."))
    assert said["a"] == ("AH",) and dict(pronounce("a"))["a"] == ("EY",)
    assert said["of"] == ("AH", "V") and said["the"] == ("DH", "AH")  # spoken as one by espeak-ng
    assert said["1984"][:4] == ("N", "AY", "N", "T")
    assert dict(pronounce("MY CAR", "en-gb-x-rp"))["car"] == ("K", "AA")
    assert [word for word, _ in pronounce("I COULD HAVE BEEN OUT OF IT")] == normalise_words(
        "i could have been out of it"
    )


def test_word_events_part_a_sentence_without_comparison(monkeypatch):
    monkeypatch.setattr(pronunciation, "_alone", None)
    said = pronounce("Nine big dogs sleep behind my sofa.")
    assert said[1] == ("big", ("B", "IH", "G")) and said[6] == ("sofa", ("S", "OW", "F", "AH"))


def test_capitals_alone_say_nothing():
    assert pronounce("IT IS") == pronounce("it is")
    assert pronounce("it IS the BBC")[3] == ("bbc", ("B", "IY", "B", "IY", "S", "IY"))


def test_pronounced_phonemes_are_of_the_set_and_no_word_is_silent(spoken):
    for one in spoken:
        for word, phones in pronounce(one.text):
            assert word and phones and set(phones) <= set(ENGLISH) - {"sil"}


def test_what_cannot_be_pronounced_is_refused():
    with pytest.raises(ValueError, match="at least one word"):
        pronounce("...")
    with pytest.raises(ValueError, match="voice: got 'xx'"):
        pronounce("so", "xx")


@pytest.mark.parametrize(
    ("words", "heard", "bounds"),
    [
        (["A B", "C D"], "A B C D", [0, 2, 4]),
        (["A B", "C D"], "A C D", [0, 1, 3]),  # dropped
        (["A B", "C D"], "A B X C D", [0, 3, 5]),  # put in: to the first
        (["A B", "C D"], "sil A B sil X C D sil", [0, 4, 8]),  # but not across silence
        (["A B", "C", "D E"], "A D E", [0, 1, 2, 3]),  # a word takes one of its neighbour's
        (["A", "C"], "X Y", [0, 1, 2]),
    ],
)
def test_phonemes_are_parted_into_words(words, heard, bounds):
    assert word_boundaries([word.split() for word in words], heard.split()) == bounds


def test_more_words_than_phonemes_are_refused():
    with pytest.raises(ValueError, match="2 words for 1 phonemes"):
        word_boundaries([["A"], ["B"]], ["sil", "A"])


def test_words_of_the_synthetic_corpus_have_all_their_phonemes(spoken):
    for one in spoken:
        words, said = word_times(one), pronounce(one.text, accent_of(one))
        assert [word.text for word in words] == [text for text, _ in said]
        for word, (_, phones) in zip(words, said, strict=True):
            inside = [p.symbol for p in one.phonemes if word.start <= p.start < word.end]
            assert tuple(symbol for symbol in inside if symbol != "sil") == phones


def test_words_are_in_order_and_cover_all_that_is_no_pause(spoken):
    for one in spoken:
        words = word_times(one)
        assert words[0].start == one.phonemes[1].start and words[-1].end <= one.num_samples
        assert all(word.start < word.end for word in words)
        for left, right in pairwise(words):
            between = {p.symbol for p in one.phonemes if left.end <= p.start < right.start}
            assert left.end <= right.start and between <= {"sil"}


def test_words_begin_where_espeak_says():
    text = "The soup needs salt, pepper and a little patience."
    said = espeak.speak(text, "en-gb-scotland+f2", rate=150)
    phones = align(label(said.phonemes), len(said.samples))
    one = Utterance("x", "x", text=text, num_samples=len(said.samples), phonemes=phones)
    starts = {place: said.phonemes[phoneme][1] for place, phoneme in said.words}
    truth = [starts[text.index(word)] for word in ("soup", "needs", "salt", "pepper", "patience")]
    found = {word.text: word.start for word in word_times(one, "en-gb-scotland")}
    assert [found[word] for word in ("soup", "needs", "salt", "pepper", "patience")] == truth
    pause = next(p for p in phones[1:] if p.symbol == "sil")  # the comma
    ends = {word.text: word.end for word in word_times(one)}
    assert ends["salt"] == pause.start and found["pepper"] == pause.end


def test_missing_parts_are_named():
    phones = (Phoneme("AA", 0, 9),)
    with pytest.raises(ValueError, match="u: got no phonemes"):
        word_times(Utterance("u", "u.wav", text="ah"))
    with pytest.raises(ValueError, match="u: got no text"):
        word_times(Utterance("u", "u.wav", phonemes=phones))
    with pytest.raises(ValueError, match="u: words: got 2 words for 1 phonemes"):
        word_times(Utterance("u", "u.wav", text="ah so", phonemes=phones))


def test_accent_comes_from_the_synthetic_speakers_name():
    names = {"Ftrain07-en-gb-x-rp+f2": "en-gb-x-rp", "a/Mdev01-en+m6": "en", "1998": "en-us"}
    for name, accent in names.items():
        assert accent_of(Utterance("u", "u.wav", name)) == accent


def test_frames_know_their_word():
    words = [Word("a", 100, 260), Word("b", 260, 270), Word("c", 310, 350)]
    found = words_at_frames(words, 10, 10.0, sample_rate=400)  # centres 20, 60, ..., 380
    centres = [20 + 40 * frame for frame in range(10)]
    truth = [next((n for n, w in enumerate(words) if w.start <= c < w.end), -1) for c in centres]
    assert found.tolist() == truth and found.dtype == torch.int64
    assert words_at_frames([], 3, 50.0).tolist() == [-1, -1, -1]


def test_every_word_gets_a_frame(spoken):
    for one in spoken:
        words = word_times(one)
        found = words_at_frames(words, -(-one.num_samples // 320), 50.0)
        assert set(found.tolist()) == {-1, *range(len(words))}
