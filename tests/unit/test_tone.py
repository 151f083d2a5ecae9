"""Lexical tone: the corpus, the probe, and what units keep where that is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from codec_lib.data.mandarin import (
    SYLLABLES,
    main_vowel,
    make_mandarin,
    speak_syllable,
    split_of,
)
from codec_lib.evaluation.judges.signal import PitchJudge
from codec_lib.evaluation.tone import (
    Syllables,
    discretise,
    named_by_probe,
    pitch_contour,
    sequence_probe,
    syllables_of,
    tone_rows,
    trimmed,
)


@pytest.fixture(scope="module")
def mandarin(tmp_path_factory):
    """Five syllables in four tones by every voice."""
    return make_mandarin(tmp_path_factory.mktemp("mandarin"), 5)


def test_every_voice_says_every_tone_and_parts_share_nothing(mandarin):
    train, test = (mandarin.select(lambda u, s=s: u.split == s) for s in ("train", "test"))
    assert len(train) == 4 * 12 * 4 and len(test) == 1 * 4 * 4
    assert not set(train.speakers) & set(test.speakers)
    assert not {u.label for u in train} & {u.label for u in test}
    assert {u.tone for u in mandarin} == {"1", "2", "3", "4"}
    assert len(set(SYLLABLES)) == len(SYLLABLES)
    assert {split_of(s) for s in SYLLABLES} == {"train", "test"}


def test_the_tones_are_heard_in_the_pitch(mandarin):
    parselmouth = pytest.importorskip("parselmouth")
    slopes = {tone: [] for tone in "1234"}
    for index, one in enumerate(mandarin):
        if one.label in ("ba", "bai", "ban"):
            wav = mandarin.load(index)[0].double().numpy()
            pitch = parselmouth.Sound(wav, 16_000).to_pitch_ac(0.01, 60.0, pitch_ceiling=600.0)
            hertz = pitch.selected_array["frequency"]
            hertz = hertz[hertz > 0]
            if len(hertz) > 8:
                third = len(hertz) // 3
                slopes[one.tone].append(np.log2(hertz[-third:].mean() / hertz[:third].mean()))
    rise = {tone: np.median(some) for tone, some in slopes.items()}
    assert rise["2"] > rise["1"] + 0.05 > rise["4"] + 0.2


def test_the_main_vowel_is_where_the_mark_goes():
    assert [main_vowel(s) for s in ("gui", "jiu", "yuan", "nü", "zhi")] == ["i", "u", "a", "v", "i"]
    with pytest.raises(ValueError, match="with a vowel"):
        main_vowel("hm")


def test_silence_is_trimmed_and_an_all_silent_clip_is_kept():
    wav = torch.zeros(1, 16_000)
    wav[:, 4_000:8_000] = 0.3
    assert trimmed(wav, 16_000).shape[-1] == 4_000
    assert trimmed(torch.zeros(1, 999), 16_000).shape[-1] == 999


def test_syllables_have_one_length_and_right_labels(mandarin):
    found = syllables_of(lambda wav: wav.unfold(-1, 320, 320).square().mean(-1).mT, mandarin)
    assert found.features.shape == (len(mandarin), 25, 1)
    assert [found.tone_names[t] for t in found.tones[:4]] == [u.tone for u in mandarin][:4]
    assert found.vowel_names[found.vowels[0]] == "a"
    assert found.syllables == [u.label for u in mandarin]
    with pytest.raises(ValueError, match="no syllable of tones"):
        syllables_of(lambda wav: wav.mT, mandarin, tones=("7",))


def known_answer(count: int, seed: int) -> Syllables:
    """Tone is a contour in column 2; the vowel a large level in columns 0 and 1."""
    rng = np.random.default_rng(seed)
    tones, vowels = rng.integers(4, size=count), rng.integers(3, size=count)
    time = np.linspace(-1, 1, 25)
    shapes = np.stack([0 * time, time, time**2 - 0.5, -time])
    level = np.array([[5, 0], [0, 5], [-5, -5]])[vowels]
    features = np.concatenate(
        [np.repeat(level[:, None], 25, 1), shapes[tones][..., None]], -1
    ) + 0.1 * rng.normal(size=(count, 25, 3))
    names = [f"s{seed}"] * count
    return Syllables(
        torch.tensor(features).float(), torch.tensor(tones), torch.tensor(vowels), names,
        "1234", "aei",
    )  # fmt: skip


def test_few_units_lose_the_tone_and_a_codebook_of_its_own_keeps_it():
    known, tested = known_answer(300, 0), known_answer(100, 1)
    ways = [
        discretise(known.features, [3]),
        discretise(known.features, [3, 8], "residual"),
        discretise(known.features, [3, 8], "task-aware", split=2),
    ]
    rows = {(r["input"], r["discretiser"]): r for r in tone_rows(known, tested, ways, epochs=15)}
    plain = rows["units", "k-means 3"]
    assert rows["features", ""]["tone"] > 0.9 and plain["vowel"] > 0.9
    assert plain["tone"] < 0.45 and plain["bits"] == pytest.approx(np.log2(3))
    for name in ("residual 3+8", "task-aware 3+8"):
        assert rows["units", name]["tone"] > 0.8 and rows["centroids", name]["tone"] > 0.8
        assert rows["units", name]["bits"] == pytest.approx(np.log2(24))
    with pytest.raises(ValueError, match="discretise"):
        discretise(known.features, [3, 8], "k-means")


def test_a_contour_has_no_register_and_survives_silence():
    low = np.array([0, 100, 110, 121, 0, 0.0])
    one, other = pitch_contour(low, 12), pitch_contour(2 * low, 12)
    assert torch.allclose(one, other, atol=1e-5) and one.shape == (12, 3)
    assert pitch_contour(np.zeros(5), 12).abs().sum() == 0


def test_voices_that_were_learnt_from_are_no_test_unless_there_is_one_alone():
    known = known_answer(20, 0)
    two = replace(known, speakers=["a", "set/b"] * 10)
    with pytest.raises(ValueError, match=r"speakers: got \['b'\] in both parts"):
        tone_rows(two, replace(known, speakers=["b"] * 20), [], epochs=1)
    one = replace(known, speakers=["b"] * 20)
    assert len(tone_rows(one, one, [], epochs=1)) == 1


def test_the_probe_repeats():
    known, tested = known_answer(60, 0), known_answer(30, 1)
    sets = known.features, known.tones, tested.features, tested.tones
    assert sequence_probe(*sets, epochs=2) == sequence_probe(*sets, epochs=2)


def test_what_the_probe_names_is_what_is_scored():
    known, tested = known_answer(200, 0), known_answer(50, 1)
    sets = known.features, known.tones, tested.features
    named = named_by_probe(*sets, epochs=6)
    assert named.shape == tested.tones.shape and named.dtype == torch.int64
    scored = sequence_probe(*sets, tested.tones, epochs=6)
    assert scored.accuracy == float((named == tested.tones).double().mean()) > 0.4


def test_a_corpus_of_one_voice_in_one_register(tmp_path):
    both = {"train": "f2 f4 m1", "test": "f2"}
    one = make_mandarin(tmp_path, 5, variants=both, voices_each=1, pitches=(50, 50))
    assert len(one) == 4 * 4 + 1 * 4 and one.split("test").speakers == ["f2"]
    said = {u.label: {v.speaker_id for v in one if v.label == u.label} for u in one}
    assert all(len(voices) == 1 for voices in said.values())  # all four tones by one voice


def test_a_wider_range_makes_deeper_tones():
    praat = PitchJudge(floor=50.0)
    depths = []
    for pitch_range in (20, 99):
        wav = speak_syllable("ba", 4, "f2", pitch_range=pitch_range)[1]
        depths.append(float(pitch_contour(praat.contour(wav, 16_000), 25)[:, 0].std()))
    assert depths[1] > 1.5 * depths[0]


def test_a_lower_floor_finds_a_lower_voice():
    time = torch.arange(8_000) / 16_000
    low = sum(torch.sin(2 * torch.pi * 60 * k * time) / k for k in range(1, 20))[None] / 4
    assert not (np.abs(PitchJudge().contour(low, 16_000) - 60) < 2).any()
    found = PitchJudge(floor=50.0).contour(low, 16_000)
    assert (np.abs(found - 60) < 2).mean() > 0.9
