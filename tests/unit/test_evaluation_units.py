r"""Measures of units: each on sequences whose answer is known."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchaudio

from codec_lib.data import Corpus, Phoneme, Utterance, corpus
from codec_lib.evaluation.ngrams import NgramModel, deduplicate
from codec_lib.evaluation.probes import linear_probe
from codec_lib.evaluation.robustness import device_of, robustness, ued_gain, unit_edit_distance
from codec_lib.evaluation.units import (
    hear,
    measure_unit_sets,
    measure_units,
    nearest_mean_probe,
    phoneme_measures,
    pnmi_gain,
    sequence_measures,
    speaker_measures,
    unit_names,
)
from codec_lib.teachers.perturbation import VoiceError

HOP = 320


@pytest.fixture(scope="module")
def held_out() -> Corpus:
    return corpus("synthetic/small", "test")[:6]


def _spoken_by(names: str, symbols: str = "") -> Corpus:
    """Describe utterances, one for each letter, which says phonemes of two frames each."""
    phonemes = tuple(Phoneme(s, 640 * i, 640 * (i + 1)) for i, s in enumerate(symbols.split()))
    said = {"sample_rate": 16000, "num_samples": 640 * len(phonemes), "phonemes": phonemes}
    return Corpus("said", [Utterance(str(i), "", name, **said) for i, name in enumerate(names)])


def test_units_that_are_the_phonemes_know_them_all():
    said = _spoken_by("a", "AA S sil sil T AA")
    right = torch.tensor([0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 0, 0])
    found = phoneme_measures({0: right}, said, num_units=10)
    assert found["pnmi"] == found["phone_purity"] == found["code_purity"] == 1.0
    assert found["pnmi_with_silence"] == 1.0 and found["silence_share"] == 4 / 12
    assert found["silence_perplexity"] == 1.0 and found["used_share"] == 0.3
    assert found["num_frames"] == 12 and found["num_codes"] == 3


def test_silence_does_not_count_among_phonemes():
    """Units that tell silence only know nothing of phonemes."""
    said = _spoken_by("a", "AA S sil sil T AA")
    units = torch.tensor([0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0])
    found = phoneme_measures({0: units}, said, num_units=5)
    assert abs(found["pnmi"]) < 1e-12 and found["pnmi_with_silence"] > 0.4
    assert found["perplexity"] == 1.0 and found["silence_perplexity"] == pytest.approx(4.0)


def test_random_units_know_almost_nothing():
    said = _spoken_by("abcd", "AA S T IY " * 200)
    units = {i: torch.randint(5, (1600,)) for i in range(4)}
    found = phoneme_measures(units, said, num_units=5)
    assert found["pnmi"] < 0.01 and 4.9 < found["perplexity"] <= 5
    assert found["bottom_20_share"] == pytest.approx(0.2, abs=0.02)


def test_the_least_used_fifth_is_of_all_units_also_those_never_used():
    said = _spoken_by("a", "AA " * 10)
    units = torch.arange(20).clamp(max=9)  # ten units, half of the frames on the last
    assert phoneme_measures({0: units}, said, 10)["bottom_20_share"] == 2 / 20
    assert phoneme_measures({0: units}, said, 100)["bottom_20_share"] == 0.0


def test_edit_distance_is_that_of_torchaudio():
    rng = np.random.default_rng(0)
    for lengths in itertools.product((0, 1, 7, 40), repeat=2):
        first, second = (torch.from_numpy(rng.integers(0, 4, n)) for n in lengths)
        expected = torchaudio.functional.edit_distance(first.tolist(), second.tolist())
        assert unit_edit_distance(first, second) == expected


def test_edits_are_counted_after_merging_and_divided_by_both_lengths():
    units = {0: torch.tensor([1, 1, 2, 2, 3, 3]), 1: torch.tensor([5, 5, 5, 5])}
    changed = {0: torch.tensor([1, 1, 1, 4, 3, 3]), 1: torch.tensor([5, 5, 5, 5])}
    row = robustness(units, changed, "noise")
    assert row["noise_ued_units"] == pytest.approx((1 / 3 + 0) / 2)
    assert row["noise_ued_frames"] == pytest.approx((1 / 6 + 0) / 2)
    assert row["noise_agreement"] == pytest.approx((4 / 6 + 1) / 2)
    assert row["noise_ued_units_failures"] == 0


def test_a_change_that_failed_or_moved_frames_is_told():
    units = {0: torch.tensor([1, 2, 3]), 1: torch.tensor([1, 2, 3])}
    row = robustness(units, {0: torch.tensor([1, 1, 2, 3])}, "slow")
    assert row["slow_ued_units"] == 0 and row["slow_ued_units_failures"] == 1
    assert "slow_agreement" not in row


def test_what_is_not_changed_has_no_edits(held_out):
    def loudness(wav):
        return (
            (wav[..., : wav.shape[-1] // HOP * HOP].unflatten(-1, (-1, HOP)).abs().mean(-1) * 40)[
                :, 0
            ]
            .long()
            .clamp(max=9)
        )

    changes = {"same": lambda wav, rate, rng: wav, "half": lambda wav, rate, rng: wav / 2}
    row = measure_units(loudness, 10, held_out, perturbations=changes)
    assert row["same_ued_units"] == row["same_ued_frames"] == 0 and row["same_agreement"] == 1
    assert row["half_ued_units"] > 0.1 and row["half_agreement"] < 0.9
    assert 0 < row["half_ued_units_low"] < row["half_ued_units"] < row["half_ued_units_high"]


def test_the_same_change_is_made_again_and_a_failed_one_left_out(held_out):
    def noise(wav, rate, rng):
        if rng.random() < 0.5:
            raise VoiceError("nothing voiced")
        return wav + torch.from_numpy(rng.standard_normal(wav.shape)).float()

    def sign(wav):
        return (wav[..., ::HOP] > 0)[:, 0].long()

    first, again = (hear(sign, held_out, noise, seed=1) for _ in range(2))
    assert 0 < len(first) < len(held_out) and first.keys() == again.keys()
    assert all(torch.equal(first[i], again[i]) for i in first)
    assert hear(sign, held_out, noise, seed=2).keys() != first.keys()


def test_a_speaker_with_a_unit_of_their_own_is_found():
    """Two speakers use other units; one unit for all says nothing."""
    said = _spoken_by("ab" * 100)
    own = {i: torch.full((20,), i % 2) for i in range(200)}
    found = speaker_measures(own, said, num_units=2)
    assert found["speaker_accuracy"] == 1.0 and found["speaker_chance"] == 0.5
    assert found["speakers"] == 2 and found["speaker_tests"] == 200
    same = {i: torch.zeros(20, dtype=torch.int64) for i in range(200)}
    assert speaker_measures(same, said, num_units=2)["speaker_accuracy"] == 0.5
    with pytest.raises(ValueError, match="got 0 speakers of two or more utterances in 2"):
        speaker_measures({0: own[0], 1: own[1]}, said, num_units=2)


def test_few_utterances_and_many_units_still_tell_the_speaker():
    """Units as frequent as words are; a speaker uses an eighth of them three times as often."""
    rng = np.random.default_rng(0)
    said = _spoken_by("abcdefgh" * 8)

    def units_of(speaker):
        odds = np.where(np.arange(400) % 8 == speaker, 3.0, 1.0) / np.arange(1, 401)
        return torch.from_numpy(rng.choice(400, 150, p=odds / odds.sum()))

    units = {i: units_of(i % 8) for i in range(64)}
    found = speaker_measures(units, said, 400)
    assert found["speaker_accuracy"] > 0.8 and found["speaker_tests"] == 64
    counts = torch.stack([torch.bincount(units[i], minlength=400) for i in range(64)])
    shares, names = (counts / 150).sqrt(), torch.arange(64) % 8
    parts = shares[:32], names[:32], shares[32:], names[32:]
    softmax, nearest = linear_probe(*parts, epochs=40), nearest_mean_probe(*parts)
    assert nearest.accuracy > softmax.accuracy + 0.3


def test_the_nearest_mean_has_the_label_it_was_taken_of():
    known, labels = torch.tensor([[0.0], [2.0], [9.0], [11.0]]), torch.tensor([4, 4, 2, 2])
    found = nearest_mean_probe(known, labels, torch.tensor([[5.0], [6.0]]), torch.tensor([4, 2]))
    assert found.accuracy == 1.0 and (found.num_train, found.num_test) == (4, 2)
    with pytest.raises(ValueError, match="got 0 and 1 items"):
        nearest_mean_probe(known[:0], labels[:0], known[:1], labels[:1])


def test_who_was_heard_only_once_is_no_speaker():
    said = _spoken_by("aabbcd")
    own = {i: torch.full((20,), "abcd".index(one)) for i, one in enumerate("aabbcd")}
    found = speaker_measures(own, said, num_units=4)
    assert found["speakers"] == 2 and found["speaker_chance"] == 0.5
    assert found["speaker_accuracy"] == 1.0 and found["speaker_tests"] == 4
    del own[3]  # of b one is left
    with pytest.raises(ValueError, match="got 1 speakers of two or more utterances in 5"):
        speaker_measures(own, said, num_units=4)


def test_probabilities_add_up_to_one_in_every_context():
    model = NgramModel([torch.randint(4, (30,)), torch.randint(4, (5,))], 4, order=3)
    for context in ([], [2], [0, 3], [1, 1]):
        each = [model.probabilities(torch.tensor([*context, w]))[-1] for w in range(4)]
        assert sum(each) == pytest.approx(1.0) and min(each) > 0


def test_probabilities_of_a_small_case_by_hand():
    """Counts of 0 1 0 0: after 0 once 1, once 0, two kinds; the beginning is a context."""
    model = NgramModel([torch.tensor([0, 1, 0, 0])], num_units=3, order=2)
    alone = [(3 + 2 / 3) / 6, (1 + 2 / 3) / 6, (0 + 2 / 3) / 6]
    assert model.probabilities(torch.tensor([0]))[0] == pytest.approx((1 + alone[0]) / 2)
    after = model.probabilities(torch.tensor([0, 1, 2, 2]))[1:]
    expected = [(1 + 2 * alone[1]) / 4, alone[2] / 2, alone[2]]  # 2 was never a context
    assert after == pytest.approx(expected)


def test_perplexity_of_a_markov_chain_is_its_entropy_rate():
    """From a state the chain stays away and chooses among two others with 3 to 1."""
    rng = np.random.default_rng(0)

    def walk(length):
        steps = np.where(rng.random(length) < 0.75, 1, 2)
        return torch.from_numpy(np.cumsum(steps) % 4)

    rate = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    found = sequence_measures([walk(20_000)], [walk(20_000)], num_units=4)
    assert found["bigram_perplexity"] == pytest.approx(2**rate, rel=0.01)
    assert found["trigram_perplexity"] == pytest.approx(2**rate, rel=0.01)
    assert found["units_per_second"] == 50.0  # no unit repeats
    assert found["bigram_bits_per_second"] == pytest.approx(50 * rate, rel=0.01)


def test_a_longer_memory_needs_the_trigram():
    """Each unit is the one three places before: its follower is known from two, not from one."""
    turn = torch.tensor([0, 1, 0, 2]).repeat(500)
    found = sequence_measures([turn], [turn], num_units=3)
    assert found["trigram_perplexity"] < 1.02 < 1.3 < found["bigram_perplexity"]


def test_a_constant_sequence_costs_nothing_and_is_one_unit():
    constant = torch.full((100,), 7)
    assert deduplicate(constant).tolist() == [7]
    found = sequence_measures([constant] * 50, [constant] * 2, num_units=10)
    assert found["units_per_second"] == 0.5 and found["ngram_units"] == 50
    assert found["bigram_perplexity"] < 1.05


def test_models_refuse_what_they_cannot_count():
    with pytest.raises(ValueError, match="got no units"):
        NgramModel([], 4)
    with pytest.raises(ValueError, match="got 0 to 4, expected 0 to 3"):
        NgramModel([torch.tensor([0, 4])], 4)
    with pytest.raises(ValueError, match="expected a smaller one"):
        NgramModel([torch.tensor([0])], 4096, order=6)


def test_sets_are_heard_together_and_measured_one_by_one(held_out):
    calls = []

    def both(wav):
        calls.append(1)
        step = torch.arange(-(-wav.shape[-1] // HOP)) // 5
        return torch.stack([step % 4, step % 9], -1)[None]

    rows = measure_unit_sets(both, [4, 9], held_out)
    assert len(calls) == len(held_out) and [row["num_units"] for row in rows] == [4, 9]
    alone = measure_units(lambda wav: both(wav)[..., 1], 9, held_out)
    assert alone == rows[1]
    assert rows[0]["units_per_second"] == pytest.approx(10, rel=0.05)
    with pytest.raises(ValueError, match="got 8, expected 0 to 7"):
        measure_unit_sets(both, [4, 8], held_out)


def test_no_sentence_is_learnt_and_tested(held_out):
    """Three sentences said by two speakers each: a unit for each sentence, 10 frames long."""
    texts = ["One day.", "Two days", "one  day", "Three!", "two days", "three"]
    said = Corpus("said", [replace(held_out[i], text=text) for i, text in enumerate(texts)])
    numbers = {said.load(i).shape[-1]: "OTH".index("OTOHTH"[i]) for i in range(6)}

    def sentence(wav):
        return torch.arange(10)[None] % 2 + 2 * numbers[wav.shape[-1]]

    row = measure_units(sentence, 6, said)
    assert row["ngram_units"] == 40  # one and three, twice each
    assert row["bigram_perplexity"] > 30  # of two nothing is known
    apart = Corpus("apart", [replace(one, text="") for one in said])
    row = measure_units(sentence, 6, apart)
    assert row["ngram_units"] == 30  # every second utterance
    same = Corpus("same", [replace(one, text="same") for one in said])
    assert "bigram_perplexity" not in measure_units(sentence, 6, same)


def test_parts_without_their_material_are_left_out(held_out):
    def step(wav):
        return (torch.arange(-(-wav.shape[-1] // HOP)) % 4)[None]

    row = measure_units(step, 4, _silent(held_out), text=held_out[:3])
    assert "pnmi" not in row and "speaker_accuracy" not in row
    assert row["bigram_perplexity"] < 1.1 and row["ngram_units"] > 100
    row = measure_units(step, 4, held_out[:1])
    assert "pnmi" in row and "bigram_perplexity" not in row
    with pytest.raises(ValueError, match="got 0 speakers of two or more"):
        measure_units(step, 4, held_out, speakers=held_out[:1])


def test_only_who_was_heard_twice_is_probed(held_out):
    """On average two utterances each, but three of the four speakers have one."""

    def step(wav):
        return (torch.arange(-(-wav.shape[-1] // HOP)) % 4)[None]

    def named(names):
        return Corpus("n", [replace(held_out[i], speaker_id=one) for i, one in enumerate(names)])

    assert "speaker_accuracy" not in measure_units(step, 4, named("aaabcd"))
    assert measure_units(step, 4, named("abcabd"))["speakers"] == 2


def test_silence_alone_has_no_phonemes_to_measure(held_out):
    said, units = _spoken_by("ab", "sil sil"), {i: torch.arange(4) for i in range(2)}
    with pytest.raises(ValueError, match="said: got 8 frames, all silent"):
        phoneme_measures(units, said, 4)
    with pytest.raises(ValueError, match="labels: got none"):
        pnmi_gain(units, units, said)
    with pytest.raises(ValueError, match="got 1 and 2 utterances"):
        pnmi_gain({0: units[0]}, units, said)
    quiet = (Phoneme("sil", 0, 100_000),)
    silent = Corpus("silent", [replace(one, phonemes=quiet) for one in held_out])
    row = measure_units(lambda wav: (torch.arange(40) % 4)[None], 4, silent)
    assert "pnmi" not in row and "bigram_perplexity" in row


def test_nothing_heard_is_said_so(held_out, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    bad = Corpus("bad", [replace(one, audio_path=str(tmp_path / "bad.wav")) for one in held_out])
    with pytest.raises(ValueError, match="bad: got 0 of 6 utterances heard"):
        measure_units(lambda wav: wav, 4, bad)
    assert hear(lambda wav: wav[..., :0, 0], held_out) == {}  # no frames


def test_sequences_without_frames_are_left_out():
    some, none = torch.tensor([1, 2, 1, 2]), torch.tensor([], dtype=torch.int64)
    assert sequence_measures([some, none], [none, some], 4) == sequence_measures([some], [some], 4)
    with pytest.raises(ValueError, match="got 1 utterances to learn from and 0 to test"):
        sequence_measures([some], [none], 4)
    with pytest.raises(ValueError, match="got no units in 1"):
        NgramModel([some], 4).perplexity([none])
    row = robustness({0: some, 1: none}, {0: some, 1: none}, "room")
    assert row["room_ued_units"] == 0 and row["room_ued_frames_failures"] == 1


def test_a_networks_method_hears_where_the_network_is(held_out):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.empty(1, device="meta"))
            self.heard_on = set()

        def units(self, wav):
            self.heard_on.add(wav.device.type)
            return torch.arange(60)[None] % 3

    network = Network()
    assert len(hear(network.units, held_out)) == 6 and network.heard_on == {"meta"}
    assert device_of(lambda wav: wav).type == device_of(torch.nn.ReLU()).type == "cpu"
    network.heard_on.clear()
    measure_units(network.units, 3, held_out)
    assert network.heard_on == {"meta"}


def _silent(speech: Corpus) -> Corpus:
    """Take the phonemes away from the first utterances."""
    return Corpus("bare", [replace(one, phonemes=(), speaker_id="x") for one in speech[:3]])


def test_units_are_named_by_the_phoneme_they_go_with_most():
    said = _spoken_by("a", "AA S sil T")
    units = {0: torch.tensor([2, 2, 2, 1, 0, 0, 1, 1])}
    assert unit_names(units, said, 3) == ["sil", "T", "AA"]


def test_a_gain_in_pnmi_comes_with_the_jackknife_of_utterances():
    said = _spoken_by("abcd", "AA S sil T")
    right = dict.fromkeys(range(4), torch.tensor([0, 0, 1, 1, 9, 9, 2, 2]))
    wrong = {0: right[0], 1: right[1] * 0, 2: right[2] * 0, 3: right[3] * 0}
    assert pnmi_gain(right, right, said) == (0.0, 0.0, 0.0)
    value, low, high = pnmi_gain(right, wrong, said)
    left = [phoneme_measures({i: wrong[i] for i in wrong if i != out}, said, 10)["pnmi"]
            for out in range(4)]  # fmt: skip
    assert value == pytest.approx(1 - phoneme_measures(wrong, said, 10)["pnmi"])
    spread = math.sqrt(3 / 4 * sum((one - np.mean(left)) ** 2 for one in left))
    assert (low, high) == pytest.approx((value - 1.96 * spread, value + 1.96 * spread))
    assert pnmi_gain(wrong, right, said)[0] == pytest.approx(-value)


def test_a_gain_in_edits_is_that_of_pairs():
    """Both sets find the same utterance hard, so the interval is that of differences."""
    units = {i: torch.arange(10) for i in range(4)}
    bad, worse = ({i: units[i] + 20 * (units[i] < i + n) for i in range(4)} for n in (1, 2))
    assert ued_gain((units, bad), (units, worse)) == pytest.approx((0.1, 0.1, 0.1))
    assert ued_gain((units, worse), (units, bad))[0] == pytest.approx(-0.1)
    value, low, high = ued_gain((units, units), (units, bad))
    half = 1.96 * np.std([0.1, 0.2, 0.3, 0.4], ddof=1) / 2
    assert (value, low, high) == pytest.approx((0.25, 0.25 - half, 0.25 + half))
    with pytest.raises(ValueError, match="got 1 common"):
        ued_gain((units, bad), (units, {0: worse[0]}))
