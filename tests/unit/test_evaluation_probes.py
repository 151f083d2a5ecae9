r"""Probes: they find what is there, and nothing where there is nothing."""

import math

import pytest
import torch

from codec_lib import audio
from codec_lib.data import Corpus, Phoneme, Utterance
from codec_lib.evaluation import (
    code_statistics,
    linear_probe,
    phoneme_probe,
    utterance_probe,
)
from codec_lib.evaluation.probes import phoneme_frames
from codec_lib.evaluation.softmax_probe import fit_linear_probe

TONES = {"A": 300.0, "B": 900.0, "C": 2500.0}


def tone_corpus(folder, speaker, seed, count=6):
    """Utterances of three "phonemes", each a tone of its own in 0.1 s, with silence around them."""
    generator = torch.Generator().manual_seed(seed)
    utterances = []
    for number in range(count):
        order = torch.randperm(3, generator=generator).tolist()
        parts, phonemes, at = [torch.zeros(1600)], [Phoneme("sil", 0, 1600)], 1600
        for which in order:
            name = list(TONES)[which]
            parts.append(torch.sin(2 * math.pi * TONES[name] * torch.arange(1600) / 16000) / 2)
            phonemes.append(Phoneme(name, at, at + 1600))
            at += 1600
        wav = torch.cat(parts)[None]
        path = folder / f"{speaker}-{number}.wav"
        audio.write(path, wav, 16000)
        utterances.append(
            Utterance(
                path.stem,
                str(path),
                speaker_id=speaker,
                label="AB"[order[0] % 2],
                sample_rate=16000,
                num_samples=wav.shape[-1],
                phonemes=tuple(phonemes),
            )
        )
    return Corpus(speaker, utterances)


def spectrum(wav, hop=320):
    """Log spectrum of each frame of ``hop`` samples: (1, F, hop / 2 + 1)."""
    frames = torch.nn.functional.pad(wav, (0, -wav.shape[-1] % hop)).unflatten(-1, (-1, hop))
    return torch.log(torch.fft.rfft(frames[:, 0]).abs() + 1e-3)


@pytest.fixture
def parts(tmp_path):
    return tone_corpus(tmp_path, "one", 0), tone_corpus(tmp_path, "two", 1)


def test_probe_separates_what_is_separable_and_is_deterministic():
    labels = torch.arange(300) % 3
    features = torch.randn(300, 4) + 6 * torch.eye(4)[labels]
    result = linear_probe(features[:200], labels[:200], features[200:], labels[200:])
    assert result.accuracy > 0.95 and result.balanced_accuracy > 0.95
    assert (result.num_classes, result.num_train, result.num_test) == (3, 200, 100)
    assert result == linear_probe(features[:200], labels[:200], features[200:], labels[200:])


def test_probe_finds_nothing_in_noise():
    labels = (torch.rand(2000) < 0.7).long()
    features = torch.randn(2000, 4)
    result = linear_probe(features[:1000], labels[:1000], features[1000:], labels[1000:])
    assert result.balanced_accuracy == pytest.approx(0.5, abs=0.06)
    assert result.majority == pytest.approx(0.7, abs=0.05)


def test_answers_of_the_probe_are_those_it_is_scored_by():
    labels = torch.arange(400) % 4
    features = torch.randn(400, 6) + 2 * torch.eye(6)[labels]
    name = fit_linear_probe(features[:200], labels[:200])
    answers = name(features[200:].view(2, 100, 6))  # any number of leading dimensions
    assert answers.shape == (2, 100) and answers.dtype == torch.int64
    result = linear_probe(features[:200], labels[:200], features[200:], labels[200:])
    share = (answers.flatten() == labels[200:]).double().mean()
    assert result.accuracy == pytest.approx(float(share)) and 0.5 < share < 1
    with pytest.raises(ValueError, match=r"got features .400, 6. and 3"):
        fit_linear_probe(features, labels[:3])


def test_scale_and_offset_of_features_do_not_matter():
    labels = torch.arange(400) % 2
    features = torch.randn(400, 2) + labels[:, None]
    one = linear_probe(features[:200], labels[:200], features[200:], labels[200:])
    moved = 1000 + 50 * features
    other = linear_probe(moved[:200], labels[:200], moved[200:], labels[200:])
    assert one.accuracy == pytest.approx(other.accuracy, abs=0.03)


def test_codes_take_their_most_frequent_label():
    codes = torch.tensor([0, 0, 0, 1, 1])
    labels = torch.tensor([2, 2, 1, 1, 1])
    result = linear_probe(codes, labels, torch.tensor([0, 1, 7]), torch.tensor([2, 1, 1]))
    assert result.accuracy == 1.0  # the unseen code 7 takes label 1, the most frequent
    worse = linear_probe(codes, labels, torch.tensor([0, 0]), torch.tensor([2, 0]))
    assert worse.accuracy == worse.balanced_accuracy == 0.5


def test_balanced_accuracy_weighs_labels_alike():
    codes, labels = torch.tensor([0, 1]), torch.tensor([0, 1])
    tested, truth = torch.tensor([0] * 9 + [0]), torch.tensor([0] * 9 + [1])
    result = linear_probe(codes, labels, tested, truth)
    assert result.accuracy == 0.9 and result.balanced_accuracy == 0.5


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="expected as many"):
        linear_probe(torch.zeros(3, 2), torch.zeros(2).long(), torch.zeros(1, 2), torch.zeros(1))
    with pytest.raises(ValueError, match="got 0 and 1 items"):
        linear_probe(
            torch.zeros(0, 2), torch.zeros(0).long(), torch.zeros(1, 2), torch.zeros(1).long()
        )


def test_phonemes_of_another_speaker_are_found(parts):
    train, test = parts
    assert phoneme_probe(spectrum, train, test).accuracy > 0.9
    constant = phoneme_probe(lambda wav: spectrum(wav)[..., :1] * 0, train, test)
    assert constant.accuracy == pytest.approx(1 / 3, abs=0.05)
    codes = phoneme_probe(lambda wav: spectrum(wav).argmax(-1), train, test)
    assert codes.accuracy > 0.9


def test_silence_counts_only_when_asked_for(parts):
    train, _ = parts
    symbols = train.phoneme_set
    _, without = phoneme_frames(spectrum, train, symbols)
    _, with_silence = phoneme_frames(spectrum, train, symbols, silence=True)
    assert (without != symbols.index("sil")).all() and len(without) == 6 * 15
    assert len(with_silence) == 6 * 20
    few, labels = phoneme_frames(spectrum, train, symbols, max_frames=30)
    assert len(few) == len(labels) == 30


def test_frame_rate_of_the_features_is_respected(parts):
    train, test = parts
    right = phoneme_probe(lambda wav: spectrum(wav, 160), train, test, frame_rate=100)
    wrong = phoneme_probe(lambda wav: spectrum(wav, 160), train, test, frame_rate=50)
    assert right.accuracy > 0.9 > 0.7 > wrong.accuracy


def test_common_speakers_are_refused(parts):
    with pytest.raises(ValueError, match=r"speakers: got \['one'\] in"):
        phoneme_probe(spectrum, parts[0], parts[0])


def test_words_are_found_in_pooled_features(tmp_path):
    train, test = tone_corpus(tmp_path, "one", 0, count=24), tone_corpus(tmp_path, "two", 1)
    result = utterance_probe(spectrum, train, test, lambda one: one.phonemes[1].symbol)
    assert result.num_classes == 3 and result.accuracy > 0.8  # which of the tones comes first
    codes = lambda wav: spectrum(wav).argmax(-1)  # noqa: E731
    pooled = utterance_probe(codes, train, test, lambda one: "word", num_codes=161)
    assert pooled.accuracy == 1.0
    with pytest.raises(ValueError, match="num_codes: got None"):
        utterance_probe(codes, train, test, lambda one: "word")
    with pytest.raises(ValueError, match="two: got 6 recordings that are learnt from, too"):
        utterance_probe(spectrum, test, test, lambda one: one.label)


def test_code_statistics_of_known_tables():
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    perfect = code_statistics(labels + 3, labels)
    assert perfect.pnmi == pytest.approx(1) and perfect.phone_purity == 1 == perfect.code_purity
    assert perfect.perplexity == pytest.approx(4) and perfect.num_codes == 4
    useless = code_statistics(torch.zeros(8).long(), labels)
    assert useless.pnmi == pytest.approx(0, abs=1e-9) and useless.phone_purity == 0.25
    with pytest.raises(ValueError, match="labels: got none"):
        code_statistics(labels[:0], labels[:0])
    half = code_statistics(labels // 2, labels)
    assert half.pnmi == pytest.approx(0.5) and half.phone_purity == 0.5


def test_pnmi_equals_scikit_learns_mutual_information():
    from sklearn.metrics import mutual_info_score

    codes, labels = torch.randint(9, (500,)), torch.randint(5, (500,))
    shares = torch.bincount(labels) / 500
    entropy = float(torch.special.entr(shares).sum())
    expected = mutual_info_score(labels.numpy(), codes.numpy()) / entropy
    assert code_statistics(codes, labels).pnmi == pytest.approx(expected, abs=1e-5)
