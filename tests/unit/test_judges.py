"""Judges: what is known of their scores, what they need, and a codec beside its originals."""

import math
import sys
import types

import numpy as np
import pytest
import torch

import codec_lib
from codec_lib.codecs.continuous import build_continuous
from codec_lib.data.spoken_words import make_words
from codec_lib.data.strings import make_strings
from codec_lib.evaluation import judges
from codec_lib.evaluation.judges import (
    JudgedClip,
    Score,
    clips_of,
    judge_codec,
    make_judges,
    scores_of,
)
from codec_lib.evaluation.judges.speakers import speaker_cosines
from codec_lib.evaluation.judges.words import whisper_listener
from codec_lib.lm.tokenizer_run import save_tokenizer

RATE = 16_000


def tone(hertz: float, seconds: float = 1.0, rate: int = RATE) -> torch.Tensor:
    """Make a tone with harmonics, (1, T)."""
    time = torch.arange(int(seconds * rate)) / rate
    return sum(0.2 / n * torch.sin(2 * math.pi * hertz * n * time) for n in range(1, 6))[None]


def test_a_ratio_is_one_of_sums_and_its_spread_averages_to_it():
    score = Score(np.array([0.5, 0.0, 1.0, np.nan]), np.array([2.0, 6.0, 2.0, 0.0]), False)
    row = score.summary("wer")
    assert row["wer"] == pytest.approx(3 / 10)  # 1 + 0 + 2 edits of 10 words
    assert row["wer_failures"] == 1 and row["wer_low"] < 0.3 < row["wer_high"]


def test_a_clip_must_be_as_long_as_its_original():
    with pytest.raises(ValueError, match="original"):
        JudgedClip(torch.zeros(1, 10), RATE, torch.zeros(1, 11))


def test_a_judge_refuses_clips_that_lack_what_it_needs():
    with pytest.raises(ValueError, match="1 of 1 clips without original"):
        make_judges(["signal"])["signal"]([JudgedClip(tone(100), RATE)])
    with pytest.raises(ValueError, match="no clip"):
        make_judges(["signal"])["signal"]([])


def test_unknown_judges_are_named_with_those_there_are():
    with pytest.raises(ValueError, match="'ears', expected one of"):
        make_judges(["ears"])
    with pytest.raises(ValueError, match="twice"):
        make_judges(["signal", "signal"])
    with pytest.raises(ValueError, match="signal=x"):
        make_judges(["signal=x"])


@pytest.mark.parametrize(
    ("module", "name", "extra"),
    [
        ("parselmouth", "pitch", "voices"),
        ("pocketsphinx", "words", "align"),
        ("speechmos", "quality", "judges"),
    ],
)
def test_a_missing_package_is_said(module: str, name: str, extra: str, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"codec-lib\[{extra}\]"):
        make_judges([name])


def test_a_missing_resemblyzer_is_said(monkeypatch):
    monkeypatch.setattr("codec_lib.evaluation.judges.speakers.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="--no-deps Resemblyzer"):
        make_judges(["speaker"])


@pytest.mark.parametrize("name", ["words=nowhere", "speaker=nowhere"])
def test_a_missing_download_is_said_with_its_place(name: str):
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=r"(?s)'nowhere'.*huggingface"):
        make_judges([name])


# Pitch


def test_a_semitone_is_a_hundred_cents_and_noise_has_no_voice():
    pytest.importorskip("parselmouth")
    low, high = tone(150), tone(150 * 2 ** (1 / 12))
    judge = make_judges(["pitch"])["pitch"]
    scores = judge([JudgedClip(high, RATE, low), JudgedClip(low, RATE, low)])
    assert scores["f0_cents"].values == pytest.approx([100, 0], abs=1)
    assert scores["voicing_error"].values == pytest.approx([0, 0], abs=0.02)
    noise = 0.1 * torch.randn(low.shape, generator=torch.Generator().manual_seed(0))
    lost = judge([JudgedClip(noise, RATE, low)])
    assert lost["voicing_error"].values[0] > 0.8


def test_a_clip_too_short_for_pitch_has_none():
    pytest.importorskip("parselmouth")
    short = tone(150, 0.02)
    scores = make_judges(["pitch"])["pitch"]([JudgedClip(short, RATE, short)])
    assert np.isnan(scores["f0_cents"].values).all()


# Quality


def test_the_small_network_alone_says_what_it_says_in_company():
    pytest.importorskip("speechmos")
    clips = [JudgedClip(tone(150, seconds), RATE) for seconds in (2.3, 2.25, 0.2)]
    alone = judges.QualityJudge(("dnsmos_p808",))(clips)
    together = judges.QualityJudge()(clips)
    assert list(alone) == ["dnsmos_p808"] and len(together) == 4
    assert alone["dnsmos_p808"].values == pytest.approx(
        together["dnsmos_p808"].values, abs=1e-5, nan_ok=True
    )
    assert np.isnan(alone["dnsmos_p808"].values[2])
    with pytest.raises(ValueError, match=r"measures: got \['mos'\]"):
        judges.QualityJudge(("mos",))


# Words


def test_words_are_counted_without_case_and_signs():
    heard = iter([["two words here", "nothing"]])
    judge = judges.WordsJudge(lambda wavs: next(heard))
    wav = torch.zeros(1, 100)
    scores = judge(
        [JudgedClip(wav, RATE, text="Two WORDS, here!"), JudgedClip(wav, RATE, text="no thing")]
    )
    assert scores["wer"].values.tolist() == [0.0, 1.0]
    assert scores["wer"].summary("wer")["wer"] == pytest.approx(2 / 5)
    assert scores["cer"].values[1] == pytest.approx(1 / 8)  # the space


def test_words_are_heard_at_16_khz():
    lengths = []
    judge = judges.WordsJudge(lambda wavs: [lengths.append(w.shape[-1]) or "a" for w in wavs])
    judge([JudgedClip(torch.zeros(1, 24_000), 24_000, text="a")])
    assert lengths == [16_000]


def test_phonemes_are_counted_as_edits_of_what_the_listener_hears(tmp_path, monkeypatch):
    torch.manual_seed(0)
    saved = {}
    for listener in ("reconstruction", "tokens"):
        made = build_continuous("smoke", listener=listener).eval()
        saved[listener] = str(save_tokenizer(made, tmp_path / f"{listener}.safetensors", {}, False))
    judge = make_judges([f"phonemes={saved['reconstruction']}"])["phonemes"]
    wav = tone(200)
    logits = judge.tokenizer.listener(judge.tokenizer.frames(wav[None]))[0]  # (F, V)
    merged = [n for n in logits.argmax(-1).unique_consecutive().tolist() if n]
    assert judge.hear(wav) == [judge.symbols.names[n] for n in merged]
    clip = JudgedClip(wav, RATE, text="The sea.")  # DH AH S IY
    monkeypatch.setattr(judge, "hear", lambda wav: ["DH", "S", "IY"] if wav.any() else [])
    silent = JudgedClip(torch.zeros(1, RATE), RATE, text="Sea.")
    assert judge([clip, silent])["per"].summary("per")["per"] == pytest.approx((1 + 2) / (4 + 2))
    assert judge.misread([wav, torch.zeros(1, 0)], ["The sea.", "Sea."], RATE).values[1] == 1
    with pytest.raises(ValueError, match="recogniser is 'tokens'"):
        make_judges([f"phonemes={saved['tokens']}"])


def test_pocketsphinx_hears_recorded_speech(librispeech_words):
    scores = make_judges(["words"])["words"](librispeech_words)
    right = scores["wer"].summary("wer")["wer"]
    wrong = [
        JudgedClip(clip.wav, RATE, text=other.text)
        for clip, other in zip(librispeech_words, librispeech_words[::-1], strict=True)
    ]
    swapped = make_judges(["words"])["words"](wrong)["wer"].summary("wer")["wer"]
    assert right < swapped - 0.1


def test_pocketsphinx_can_know_some_words_alone(tmp_path):
    pytest.importorskip("pocketsphinx")
    digits = make_words(tmp_path / "words", ("two", "seven", "nine"), ("m3",), takes=8)
    said = make_strings(tmp_path / "strings", digits, takes=1)
    clips = [JudgedClip(said.load(i), RATE, text=one.text) for i, one in enumerate(said)]
    knows = make_judges(["words=two|seven|nine|smart mirror"])["words"]
    right = knows(clips)["wer"].summary("wer")["wer"]
    assert right < 0.35 and right < make_judges(["words"])["words"](clips)["wer"].summary("")[""]
    with pytest.raises(ValueError, match="got 'snwby', expected a word of PocketSphinx's"):
        make_judges(["words=two|snwby"])


@pytest.fixture
def librispeech_words():
    """Two transcribed recordings."""
    from codec_lib.data import corpus

    try:
        speech = corpus("librispeech/test-other")
    except (ValueError, OSError):
        pytest.skip("no LibriSpeech under CODEC_LIB_DATA")
    pytest.importorskip("pocketsphinx")
    order = sorted(range(len(speech)), key=lambda index: speech.load(index).shape[-1])
    return [JudgedClip(speech.load(index), RATE, text=speech[index].text) for index in order[20:22]]


# Whose voice


def test_embeddings_are_the_packages_own(resemblyzer):
    ours = judges.SpeakerJudge().embed
    theirs = resemblyzer.VoiceEncoder("cpu", verbose=False)
    for seconds in (0.7, 1.6, 2.3, 5.0):
        wav = tone(130, seconds) + 0.01 * torch.randn(1, int(seconds * RATE))
        expected = theirs.embed_utterance(wav[0].numpy())
        assert np.abs(ours([wav])[0].numpy() - expected).max() < 1e-4


@pytest.fixture
def resemblyzer(monkeypatch):
    """The package, whose voice detector is not needed here and does not build everywhere."""
    from importlib.util import find_spec

    if find_spec("resemblyzer") is None or find_spec("librosa") is None:
        pytest.skip("Resemblyzer or librosa is not installed")
    import scipy.ndimage

    monkeypatch.setitem(sys.modules, "webrtcvad", types.ModuleType("webrtcvad"))
    morphology = types.ModuleType("morphology")
    morphology.binary_dilation = scipy.ndimage.binary_dilation
    monkeypatch.setitem(sys.modules, "scipy.ndimage.morphology", morphology)
    import resemblyzer

    return resemblyzer


def test_a_voice_is_nearest_to_itself_and_many_are_heard_as_one(speech_clips):
    judge = judges.SpeakerJudge()
    own = [JudgedClip(clip.wav, RATE, clip.wav) for clip in speech_clips]
    assert judge(own)["speaker_similarity"].values == pytest.approx(np.ones(len(own)), abs=1e-5)
    alone = torch.cat([judge.embed([clip.wav]) for clip in speech_clips])
    assert torch.allclose(alone, judge.embed([clip.wav for clip in speech_clips]), atol=1e-5)
    quiet = [clip.wav / 100 for clip in speech_clips]
    assert ((alone * judge.embed(quiet)).sum(-1) > 0.85).all()  # a level is no voice
    assert judge.embed([torch.zeros(1, RATE)]).isfinite().all()


@pytest.fixture(scope="module")
def speech_clips(tiny_corpus):
    """Some synthetic utterances."""
    from importlib.util import find_spec

    if find_spec("resemblyzer") is None:
        pytest.skip("Resemblyzer is not installed")
    from codec_lib.data import corpus

    return clips_of(corpus(str(tiny_corpus)), 4)


# How it sounds


def test_a_similarity_has_a_scale():
    def embed(wavs):  # a voice is its level
        levels = torch.tensor([float(wav.max()) for wav in wavs])
        return torch.stack([levels.cos(), levels.sin()], dim=1)

    judge = judges.SpeakerJudge(embed)
    clips = [JudgedClip(torch.full((1, 50), x), RATE, voice=torch.full((1, 50), x))
             for x in (0.2, 0.9)]  # fmt: skip
    same, other = judges.voice_scale(judge, [*clips, JudgedClip(torch.zeros(1, 9), RATE)])
    assert same == pytest.approx(1) and other == pytest.approx(math.cos(0.7))
    with pytest.raises(ValueError, match="1 with a voice"):
        judges.voice_scale(judge, clips[:1])


def test_noise_sounds_worse(speech_clips):
    pytest.importorskip("speechmos")
    judge = make_judges(["quality"])["quality"]
    clip = speech_clips[0]
    noise = 0.1 * torch.randn(clip.wav.shape, generator=torch.Generator().manual_seed(0))
    scores = judge(
        [
            clip,
            JudgedClip((clip.wav + noise).clamp(-1, 1), RATE),
            JudgedClip(clip.wav[:, :99], RATE),
        ]
    )
    background = scores["dnsmos_background"].values
    assert background[0] > background[1] + 0.5 and np.isnan(background[2])
    assert 1 <= scores["dnsmos"].values[1] < scores["dnsmos"].values[0] <= 5


# A codec


def test_a_codec_is_judged_beside_the_originals():
    codec = codec_lib.build("speechtokenizer", "smoke").eval()
    clips = [JudgedClip(tone(100 + 20 * n), RATE, tone(100 + 20 * n)) for n in range(3)]
    found = make_judges(["signal"])
    rows = judge_codec(codec, clips, found, [1, 2])
    assert [row["n_q"] for row in rows] == [1, 2]
    first = scores_of(found, clips)["signal"]["mel_distance"].values
    assert rows[0]["mel_distance_original"] == pytest.approx(first.mean()) == 0
    change = rows[0]["mel_distance"] - rows[0]["mel_distance_original"]
    assert rows[0]["mel_distance_change"] == pytest.approx(change)
    assert rows[0]["bitrate"] == codec.bitrate(1)


def test_a_judge_that_was_asked_for_is_not_left_out_in_silence():
    codec = codec_lib.build("speechtokenizer", "smoke").eval()
    mute = [JudgedClip(tone(100), RATE, tone(100))]
    with pytest.raises(ValueError, match="1 of 1 clips without text"):
        judge_codec(codec, mute, {"words": judges.WordsJudge(lambda wavs: [])}, [1])


def test_judges_that_lack_something_are_left_out():
    assert scores_of(make_judges(["signal"]), [JudgedClip(tone(100), RATE)]) == {}


def test_clips_know_their_text_only_if_whole_and_another_utterance_of_the_voice(tiny_corpus):
    from codec_lib.data import corpus

    speech = corpus(str(tiny_corpus))
    whole, cut = clips_of(speech, 6), clips_of(speech, 6, max_seconds=0.5)
    assert all(clip.text for clip in whole) and not any(clip.text for clip in cut)
    assert cut[0].wav.shape[-1] == RATE // 2
    assert all(clip.original is clip.wav for clip in whole)
    speaker = {id(clip.wav): speech[2 * i].speaker_id for i, clip in enumerate(whole)}
    assert all(speaker[id(clip.voice)] == speaker[id(clip.wav)] for clip in whole)


def test_whisper_is_read_from_a_folder_in_the_published_layout(tmp_path):
    transformers = pytest.importorskip("transformers")
    write_whisper(tmp_path, transformers)
    texts = whisper_listener(tmp_path)([tone(100, 0.5), tone(200, 1.5)])
    assert len(texts) == 2 and all(isinstance(text, str) for text in texts)
    scores = make_judges([f"words={tmp_path}"])["words"](
        [JudgedClip(tone(100), RATE, text="a word")]
    )
    assert np.isfinite(scores["wer"].values).all()


def write_whisper(folder, transformers) -> None:
    """Write a tiny random Whisper with a tokenizer of single letters."""
    import json

    letters = {chr(code): code - 33 for code in range(33, 127)} | {"Ġ": 94}
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>"]
    special += ["<|translate|>", "<|notimestamps|>", "<|startofprev|>", "<|nospeech|>"]
    (folder / "vocab.json").write_text(json.dumps(letters))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.WhisperTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"),
        bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>",
    )  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    number = tokenizer.convert_tokens_to_ids
    config = transformers.WhisperConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, max_target_positions=16, pad_token_id=number(special[0]),
        bos_token_id=number(special[0]), eos_token_id=number(special[0]),
        decoder_start_token_id=number(special[1]),
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=number(special[0]), eos_token_id=number(special[0]),
        pad_token_id=number(special[0]), decoder_start_token_id=number(special[1]),
        is_multilingual=True, lang_to_id={"<|en|>": number("<|en|>")},
        task_to_id={"transcribe": number("<|transcribe|>"), "translate": number("<|translate|>")},
        no_timestamps_token_id=number("<|notimestamps|>"), max_length=16,
    )  # fmt: skip
    model.save_pretrained(folder)
    transformers.WhisperProcessor(
        transformers.WhisperFeatureExtractor(), tokenizer
    ).save_pretrained(folder)


def test_pairs_of_one_speaker_and_of_two_are_told_apart():
    found = torch.nn.functional.normalize(
        torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]]), dim=1
    )
    same, different = speaker_cosines(found, ["a", "a", "b", "b"])
    assert same.shape == (2,) and different.shape == (4,)
    assert same.min() > 0.9 > 0.3 > different.max()
