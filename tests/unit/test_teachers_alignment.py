r"""Forced alignment: best paths, boundaries from peaks, words; and published recognisers."""

import itertools
from dataclasses import replace

import pytest
import torch
import torchaudio

from codec_lib import audio
from codec_lib.data import Corpus, Utterance, word_times
from codec_lib.data.synthetic import speak_utterance
from codec_lib.data.transcripts import Symbols
from codec_lib.teachers.alignment import (
    REACH,
    Span,
    align_tokens,
    align_utterance,
    aligned,
    span_bounds,
    transcript_score,
)
from codec_lib.teachers.asr import PUBLISHED_ASR, published_recogniser
from codec_lib.teachers.base_hubert import pad_to_frames


class Peaky:
    """Knows the truth, and names each phoneme in its middle frame only; blank everywhere else."""

    def __init__(self, utterance, kind="phonemes"):
        self.symbols, self.utterance = Symbols(kind), utterance

    def log_probs(self, wav):
        frames = -(-wav.shape[-1] // 320)
        best = torch.zeros(frames, dtype=torch.int64)
        for one in self.utterance.phonemes:
            if one.symbol != "sil":
                best[(one.start + one.end) // 640] = self.symbols.names.index(one.symbol)
        return torch.nn.functional.one_hot(best, len(self.symbols)).mul(20.0).log_softmax(-1)


@pytest.fixture(scope="module")
def spoken() -> tuple[Utterance, torch.Tensor]:
    """An utterance of the synthetic corpus and its audio (1, T)."""
    utterance, wav = speak_utterance(8)
    return utterance, wav.float()


def paths(log_probs, tokens):
    """Score every path over the frames that says the tokens."""
    frames, size = log_probs.shape
    for path in itertools.product(range(size), repeat=frames):
        said = [symbol for symbol, _ in itertools.groupby(path) if symbol]
        if said == list(tokens):
            yield sum(float(log_probs[f, s]) for f, s in enumerate(path)), path


@pytest.mark.parametrize("tokens", [[1, 2], [2, 2], [1]])
def test_alignment_is_the_best_of_all_paths(tokens):
    log_probs = torch.randn(5, 3).log_softmax(-1)
    _, path = max(paths(log_probs, tokens))
    rebuilt = [0] * 5
    for span in align_tokens(log_probs, tokens):
        rebuilt[span.start : span.end] = [span.token] * (span.end - span.start)
    assert tuple(rebuilt) == path
    total = torch.logsumexp(torch.tensor([one for one, _ in paths(log_probs, tokens)]), 0)
    assert transcript_score(log_probs, tokens) == pytest.approx(float(total) / 5, abs=1e-5)


def test_tokens_that_do_not_fit_are_refused():
    log_probs = torch.zeros(3, 4).log_softmax(-1)
    for tokens in ([], [0], [4], [1, 1, 1], [1, 2, 3, 1]):
        with pytest.raises(ValueError, match=f"got {len(tokens)} for 3 frames"):
            align_tokens(log_probs, tokens)
    assert transcript_score(log_probs, [1, 1, 1]) == float("-inf")


def test_blanks_are_shared_and_long_ones_are_silence():
    spans = [Span(1, 10, 12, 0.0), Span(2, 15, 16, 0.0), Span(3, 30, 31, 0.0)]
    assert span_bounds(spans, 60, reach=4) == [(6, 13.5), (13.5, 20), (26, 35)]
    assert span_bounds(spans, 33, reach=20) == [(0, 13.5), (13.5, 23), (23, 33)]
    assert span_bounds([Span(1, 0, 1, 0.0)], 1, REACH) == [(0, 1)]


def test_peaks_become_phonemes_and_words_where_they_are(spoken):
    utterance, wav = spoken
    phonemes, words = align_utterance(Peaky(utterance), wav, utterance.text, "en")
    assert phonemes[0].start == 0 and phonemes[-1].end == wav.shape[-1]
    assert all(one.end == other.start for one, other in itertools.pairwise(phonemes))
    truth = [one for one in utterance.phonemes if one.symbol != "sil"]
    found = [one for one in phonemes if one.symbol != "sil"]
    assert [one.symbol for one in found] == [one.symbol for one in truth]
    errors = [abs(a.start - b.start) for a, b in zip(found, truth, strict=True)]
    assert sorted(errors)[len(errors) // 2] < 480  # 30 ms: peaks in the middle of unequal sounds
    known = word_times(utterance)
    assert [word.text for word in words] == [word.text for word in known]
    for word, right in zip(words, known, strict=True):
        assert 0 <= word.start < word.end <= wav.shape[-1]
        assert abs(word.start - right.start) < 2400 and abs(word.end - right.end) < 2400


def test_letters_tell_words_but_no_phonemes(make_speech):
    symbols = Symbols("characters")
    said = symbols.encode(Utterance("a", "a.wav", text="I see"))

    class Letters:
        def __init__(self):
            self.symbols = symbols

        def log_probs(self, wav):
            best = torch.zeros(50, dtype=torch.int64)
            best[[10, 14, 20, 23, 26]] = torch.tensor(said)
            return torch.nn.functional.one_hot(best, len(symbols)).mul(20.0).log_softmax(-1)

    phonemes, words = align_utterance(Letters(), make_speech(1.0), "I SEE!")
    assert phonemes == () and [word.text for word in words] == ["i", "see"]
    assert words[0].end <= words[1].start and abs(words[1].start - 19 * 320) <= 3 * 320
    with pytest.raises(ValueError, match=r"got \['1', '2'\], expected letters"):
        align_utterance(Letters(), make_speech(1.0), "12 o'clock")


def test_a_corpus_is_given_phonemes(tmp_path, spoken, caplog):
    utterance, wav = spoken
    paths = {rate: tmp_path / f"{rate}.wav" for rate in (16000, 8000)}
    for rate, path in paths.items():
        audio.write(path, audio.resample(wav, 16000, rate), rate)
    bare = [
        Utterance(f"at{rate}", str(path), "s", text=utterance.text, split="test")
        for rate, path in paths.items()
    ]
    corpus = Corpus("two", [*bare, replace(bare[0], utterance_id="mute", text="")])
    found = aligned(corpus, Peaky(utterance), "en")
    assert [one.utterance_id for one in found] == ["at16000", "at8000"]
    assert "mute: not aligned" in caplog.text and found[0].split == "test"
    at16, at8 = found
    assert (at16.sample_rate, at8.sample_rate) == (16000, 8000)
    assert at16.phonemes[-1].end == at16.num_samples and at8.phonemes[-1].end == at8.num_samples
    frames = wav.shape[-1] // 320
    assert at16.frame_symbols(50, frames)[:-1] == at8.frame_symbols(50, frames)[:-1]
    with pytest.raises(ValueError, match="got one of characters"):
        aligned(corpus, Peaky(utterance, "characters"))
    with pytest.raises(ValueError, match=r"two: got 24000 Hz, expected the recogniser's 16000 Hz"):
        aligned(Corpus("two", bare, sample_rate=24000), Peaky(utterance), "en")


TINY = {
    "extractor_conv_layer_config": [(8, 10, 5), *[(8, 3, 2)] * 4, *[(8, 2, 2)] * 2],
    "encoder_embed_dim": 32,
    "encoder_pos_conv_kernel": 8,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 2,
    "encoder_num_heads": 2,
    "encoder_ff_interm_features": 64,
}


@pytest.fixture
def tiny_bundle(monkeypatch):
    """A bundle in the published layout with a tiny network, and that network."""
    bundle = torchaudio.pipelines.WAV2VEC2_ASR_BASE_960H
    bundle = replace(bundle, _params={**bundle._params, **TINY})
    monkeypatch.setattr(torchaudio.pipelines, "WAV2VEC2_ASR_BASE_960H", bundle)
    return bundle, torchaudio.models.wav2vec2_model(**bundle._params).eval()


@pytest.mark.parametrize("extra", [False, True])
def test_a_published_recogniser_hears_what_torchaudio_does(tiny_bundle, tmp_path, speech, extra):
    bundle, model = tiny_bundle
    state = model.state_dict()
    if extra:  # the published file still has three rows that torchaudio takes out
        for key in ("aux.weight", "aux.bias"):
            filler = torch.full_like(state[key][:3], 99.0)
            state[key] = torch.cat([state[key][:1], filler, state[key][1:]])
    torch.save(state, tmp_path / "weights.pth")
    recogniser = published_recogniser(path=tmp_path / "weights.pth")
    found = recogniser.log_probs(speech[None])
    with torch.no_grad():
        expected = model(pad_to_frames(speech[None])[:, 0])[0][0].log_softmax(-1)
    labels = [label.lower() for label in bundle.get_labels()]
    order = [labels.index(symbol) for symbol in recogniser.symbols.names]
    assert found.shape == (25, 29) and torch.allclose(found, expected[:, order], atol=1e-5)
    words = align_utterance(recogniser, speech, "I see")[1]
    assert [word.text for word in words] == ["i", "see"] and words[1].end <= speech.shape[-1]


def test_missing_and_wrong_weights_are_explained(tmp_path):
    entry = PUBLISHED_ASR["wav2vec2_asr_base_960h"]
    with pytest.raises(ValueError, match=rf"download {entry.url} \({entry.size}\) to .*nothing"):
        published_recogniser(path=tmp_path / "nothing.pth")
    with pytest.raises(ValueError, match="recogniser: got 'whisper'"):
        published_recogniser("whisper")
    torch.save({"aux.weight": torch.zeros(29, 4)}, tmp_path / "half.pth")
    with pytest.raises(ValueError, match="is the download complete"):
        published_recogniser(path=tmp_path / "half.pth")


@pytest.mark.parametrize("name", sorted(PUBLISHED_ASR))
def test_published_recognisers_are_torchaudios(name):
    entry = PUBLISHED_ASR[name]
    bundle = getattr(torchaudio.pipelines, entry.bundle)
    assert bundle._path == entry.file and len(bundle.get_labels()) == 29
    assert {label.lower() for label in bundle.get_labels()} == set(Symbols("characters").names)
