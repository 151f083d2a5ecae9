"""Segmentations to compare the scheduler with, and the measures of all of them."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import codec_lib
from codec_lib.data import corpus
from codec_lib.data.phonemes import ENGLISH, MANNERS
from codec_lib.data.utterances import Phoneme, Utterance
from codec_lib.evaluation.comparison import as_text, compare_codecs
from codec_lib.evaluation.frame_rates import rate_scores, summarise_rates
from codec_lib.evaluation.reconstruction import reconstruction_metrics
from codec_lib.evaluation.segmentation import boundary_frames, boundary_hits, frames_and_tokens
from codec_lib.rate import SCHEMES, distortion, length_bits, segment_by
from codec_lib.rate.schedule import NonFiniteFeatures


@given(
    scheme=st.sampled_from(SCHEMES),
    frames=st.integers(1, 60),
    share=st.floats(0.0, 1.0),
    longest=st.integers(2, 8),
    seed=st.integers(0, 100),
)
@settings(max_examples=80, deadline=None)
def test_every_scheme_keeps_count_sum_and_longest(scheme, frames, share, longest, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(2, frames, 3, generator=generator)
    least = -(-frames // longest)
    count = least + round(share * (frames - least))
    if scheme == "greedy":  # below this it may not get there, and says so
        count = max(count, -(-2 * frames // (longest + 1)))
    lengths = segment_by(scheme, z, count, longest, generator=generator)
    assert lengths.shape == (2, count) and lengths.dtype == torch.int64
    assert lengths.sum(dim=1).tolist() == [frames] * 2
    assert 1 <= lengths.min() and lengths.max() <= longest


def test_the_scheduler_loses_least_and_greedy_less_than_blind_cuts() -> None:
    z = torch.randn(1, 200, 8, generator=torch.Generator().manual_seed(0)).cumsum(dim=1)
    z[:, ::5] += 3  # jumps, so that where to cut matters
    cost = {scheme: distortion(z, segment_by(scheme, z, 100)) for scheme in SCHEMES}
    assert cost["scheduled"] < cost["greedy"] < min(cost["uniform"], cost["random"])


def test_greedy_merges_the_cheapest_neighbours_first() -> None:
    z = torch.tensor([0.0, 0.1, 5.0, 5.3, 9.0]).reshape(1, 5, 1)
    assert segment_by("greedy", z, 4).tolist() == [[2, 1, 1, 1]]
    assert segment_by("greedy", z, 3).tolist() == [[2, 2, 1]]


def test_uniform_lengths_differ_by_one_at_most() -> None:
    lengths = segment_by("uniform", torch.zeros(1, 101, 1), 40)[0]
    assert set(lengths.tolist()) == {2, 3} and lengths.sum() == 101


def test_random_lengths_follow_the_generator_and_reach_every_length() -> None:
    z = torch.zeros(3, 400, 1)
    first = segment_by("random", z, 200, generator=torch.Generator().manual_seed(1))
    again = segment_by("random", z, 200, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first, again) and not torch.equal(first[0], first[1])
    assert set(first.flatten().tolist()) == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("scheme", "count", "message"),
    [
        ("best", 5, "scheme: got 'best', expected one of scheduled"),
        ("uniform", 2, "got 2 for 12 frames, expected 3 to 12"),
        ("random", 13, "got 13 for 12 frames"),
        ("greedy", 3, "greedy merging ends at 4 segments of at most 4 frames"),
    ],
)
def test_what_is_refused(scheme: str, count: int, message: str) -> None:
    z = torch.tensor([0, 0, 0, 5, 5, 5, 0, 0, 0, 5, 5, 5.0]).reshape(1, 12, 1)
    with pytest.raises(ValueError, match=message):
        segment_by(scheme, z, count)


def test_what_no_scheme_takes() -> None:
    z = torch.randn(1, 12, 3)
    for scheme in SCHEMES:
        with pytest.raises(TypeError, match=r"num_segments: got 6\.5"):
            segment_by(scheme, z, 6.5)
        with pytest.raises(ValueError, match="cost: got 'papr'"):
            segment_by(scheme, z, 6, cost="papr")
        with pytest.raises(ValueError, match="max_length: got 0"):
            segment_by(scheme, z, 6, max_length=0)
        with pytest.raises(ValueError, match="no frames"):
            segment_by(scheme, z[:, :0], 1)
    for scheme, value in itertools.product(("scheduled", "greedy"), (torch.nan, torch.inf, 3e38)):
        z[0, 5] = value
        with pytest.raises(NonFiniteFeatures, match="NaN, infinite or huge"):
            segment_by(scheme, z, 6)


def test_every_phoneme_has_one_manner() -> None:
    assert frozenset().union(*MANNERS.values()) == frozenset(ENGLISH)
    assert not any(a & b for a, b in itertools.combinations(MANNERS.values(), 2))


def test_boundaries_and_hits_by_hand() -> None:
    phonemes = (Phoneme("sil", 0, 390), Phoneme("T", 390, 1010), Phoneme("AA", 1010, 1600))
    utterance = Utterance("a", "a.wav", sample_rate=8000, num_samples=1600, phonemes=phonemes)
    found = boundary_frames(utterance, hop_length=200, sample_rate=16000, frames=16)
    assert found.tolist() == [4, 10]  # 780 and 2020 samples at 16 kHz
    lengths = torch.tensor([4, 4, 3, 4, 1, 0])
    assert boundary_hits(lengths, found) == (1, 2)
    assert boundary_hits(lengths, found, tolerance=1) == (2, 2)
    assert boundary_hits(torch.tensor([16]), found) == (0, 2)


def test_tokens_are_shared_by_the_frames_of_a_segment() -> None:
    found = frames_and_tokens(torch.tensor([1, 3, 2, 0]), ["sil", "T", "AA", "AA", "M", "M"])
    assert found["silence"] == (1, 1.0) and found["nasal"] == (2, 1.0)
    assert found["vowel"] == (2, pytest.approx(2 / 3)) and found["stop"][1] == pytest.approx(1 / 3)
    assert sum(frames for frames, _ in found.values()) == 6
    assert sum(tokens for _, tokens in found.values()) == pytest.approx(3)


def test_a_codec_measured_at_several_rates(tiny_corpus) -> None:
    torch.manual_seed(0)
    speech = corpus(str(tiny_corpus), sample_rate=16000)
    codec = codec_lib.build("codecslime_vq", "smoke").eval()
    metrics = ("mel_distance", "si_sdr")
    scores = rate_scores(codec, speech, (40, 80), SCHEMES, 2, 1.0, metrics)
    rows = summarise_rates(codec, scores)
    assert [row["scheme"] for row in rows] == [*SCHEMES, "all frames"]
    best, whole = rows[0], rows[-1]
    assert best["content_bitrate"] == 240 and best["bitrate"] == 320
    assert best["entropy_bitrate"] == pytest.approx(40 * (6 + best["length_bits"]))
    assert 0 < best["length_bits"] <= 2
    assert whole["bitrate"] == whole["content_bitrate"] == 480
    assert rows[SCHEMES.index("uniform")]["bitrate"] == 240
    wav = speech.load(0, 0, 16000)
    expected = codec.decode(codec.encode(wav[None], token_rate=40))[0]
    found = rate_scores(codec, speech, (40,), ("scheduled",), 1, 1.0, metrics)
    alone = summarise_rates(codec, found)[0]
    row = reconstruction_metrics(wav, expected, 16000, metrics)
    assert alone["mel_distance"] == pytest.approx(row["mel_distance"])
    each, cut = rate_scores(codec, speech, (40, 80), SCHEMES, 2, 1.0, metrics)[40, "scheduled"]
    assert each["mel_distance"].shape == (2,) and [len(one) for one in cut] == [40, 40]
    assert best["mel_distance"] == pytest.approx(each["mel_distance"].mean())
    assert best["length_bits"] == pytest.approx(length_bits(torch.cat(cut)))
    with pytest.raises(ValueError, match="token_rate: got 10 Hz"):
        rate_scores(codec, speech, (10,))
    fixed = codec_lib.build("bigcodec", "smoke").eval()
    table = compare_codecs(
        {"a": codec, "b": fixed}, speech, max_utterances=1, max_seconds=1.0, token_rates=(40, 80)
    )
    assert [(row["codec"], row["measure"], row["scheme"]) for row in table] == [
        ("a", "rates", "scheduled"), ("a", "rates", "all frames"), ("b", "rates", "all frames"),
        ("b", "difference", "all frames"),
    ]  # fmt: skip
    apart = table[2]["mel_distance"] - table[1]["mel_distance"]
    assert table[3]["mel_distance"] == pytest.approx(apart, abs=2e-6)
    assert table[3]["against"] == "a, all frames" and table[3]["token_rate"] == 80
    assert "scheduled" in as_text(table) and "all frames" in as_text(table)
