r"""The CTC probe: it reads what is there, fails where nothing is, and counts errors rightly."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torchaudio.functional import edit_distance

from codec_lib import audio
from codec_lib.data import Corpus, Phoneme, Utterance
from codec_lib.data.segments import length_batches
from codec_lib.data.transcripts import KINDS, Symbols, split_at_gaps
from codec_lib.evaluation.ctc_network import BiLstm, CtcProbe
from codec_lib.evaluation.ctc_probe import ctc_probe, extracted, prepare
from codec_lib.evaluation.errors import align_symbols, error_rate, recognition_errors, symbol_errors
from codec_lib.losses.ctc import ctc_greedy, ctc_loss, frames_needed
from codec_lib.teachers.perturbation import VoiceError

PHONES = ("AA", "B", "IY", "S", "K", "UW")
HOP, WIDTH = 320, 960


def told(folder, speaker, count, seed, text=""):
    """Utterances of random phonemes of 3 frames; the level of every frame is its phoneme."""
    generator = torch.Generator().manual_seed(seed)
    utterances = []
    for number in range(count):
        size = int(torch.randint(3, 9, (1,), generator=generator))
        order = torch.randint(1, len(PHONES), (size,), generator=generator).cumsum(0)
        order = (order % len(PHONES)).tolist()  # neighbours differ
        levels = torch.tensor([0.0] + [0.1 * (one + 1) for one in order] + [0.0])
        phones, at = [Phoneme("sil", 0, WIDTH)], WIDTH
        for one in order:
            phones.append(Phoneme(PHONES[one], at, at + WIDTH))
            at += WIDTH
        path = folder / f"{speaker}{number}.wav"
        audio.write(path, levels.repeat_interleave(WIDTH)[None], 16000)
        phones.append(Phoneme("sil", at, at + WIDTH))
        utterances.append(
            Utterance(path.stem, str(path), speaker, text=text, phonemes=tuple(phones))
        )
    return Corpus(speaker, utterances)


def level_codes(wav):
    """The phoneme of each frame, 0 for silence: (1, F)."""
    return (10 * wav.unflatten(-1, (-1, HOP)).amax(-1)[:, 0]).round().long()


@pytest.fixture
def parts(tmp_path):
    return told(tmp_path, "one", 48, 0), told(tmp_path, "two", 12, 1)


QUICK = {"num_codes": [7], "steps": 100, "batch_size": 8, "hidden": 24, "learning_rate": 1e-2}


def test_codes_that_are_the_phonemes_are_read_and_shuffled_ones_are_not(parts):
    right = ctc_probe(level_codes, *parts, **QUICK)[0]
    assert right["per"] < 0.1 and right["utterances"] == 12 and right["left_out"] == 0

    def shuffled(wav):
        codes = level_codes(wav)
        order = torch.randperm(codes.shape[1], generator=torch.Generator().manual_seed(1))
        return codes[:, order]

    assert ctc_probe(shuffled, *parts, **QUICK)[0]["per"] > 0.6


def test_one_call_is_a_function_of_its_seed(parts):
    arguments = {**QUICK, "steps": 8}
    state = torch.get_rng_state()
    one = ctc_probe(level_codes, *parts, **arguments)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    assert ctc_probe(level_codes, *parts, **arguments) == one
    assert ctc_probe(level_codes, *parts, **arguments, seed=1) != one


def test_several_kinds_are_read_from_one_extraction(parts):
    train, test = parts
    train = Corpus("one", [replace(one, text="see") for one in train])
    test = Corpus("two", [replace(one, text="see") for one in test])
    others = Corpus("three", [replace(one, speaker_id="three") for one in test][:6])
    heard, kinds = [], ("phonemes", "characters")

    def counting(wav):
        heard.append(wav)
        return level_codes(wav)

    options = {**QUICK, "steps": 4}
    rows = ctc_probe(counting, train, [test, others], kinds, **options)
    assert len(heard) == 48 + 12 + 6
    assert [(row["symbols"], row["test"]) for row in rows] == [
        (kind, name) for kind in kinds for name in ("two", "three")
    ]
    alone = [ctc_probe(level_codes, train, [test, others], kind, **options) for kind in kinds]
    assert rows == [*alone[0], *alone[1]]


def test_the_scale_does_not_depend_on_the_number_of_codebooks():
    torch.manual_seed(0)
    entered = {}
    for count in (1, 8):
        probe = CtcProbe(40, [512] * count).eval()
        probe.lstm.register_forward_pre_hook(
            lambda _, given, count=count: entered.__setitem__(count, float(given[0].std()))
        )
        codes = torch.randint(512, (4, 100, count))
        with torch.no_grad():
            probe(codes, torch.full((4,), 100))
    assert entered[1] == pytest.approx(1, abs=0.05) and entered[8] == pytest.approx(1, abs=0.05)


def test_features_are_read_too(parts):
    def features(wav):
        return 100 * nn.functional.one_hot(level_codes(wav), 7).float() + 5

    assert ctc_probe(features, *parts, **{**QUICK, "num_codes": None})[0]["per"] < 0.1


def test_embeddings_of_several_codebooks_are_added():
    probe = CtcProbe(40, [5, 5], width=8, hidden=6).eval()
    codes, frames = torch.tensor([[[0, 1], [4, 3], [2, 2]]]), torch.tensor([3])
    one, other = probe(codes, frames), probe(codes.flip(-1), frames)
    assert not torch.allclose(one, other)
    probe.tables[1].load_state_dict(probe.tables[0].state_dict())
    assert torch.allclose(probe(codes, frames), probe(codes.flip(-1), frames), atol=1e-6)
    probe.tables[1].weight.data.zero_()
    moved = codes + torch.tensor([0, 1])
    assert torch.equal(probe(codes, frames), probe(moved, frames))


def test_embeddings_start_from_given_vectors():
    tables = [torch.randn(5, 3), torch.randn(4, 3)]
    probe = CtcProbe(40, [5, 4], vectors=tables, width=8, hidden=6)
    assert torch.equal(probe.tables[1].weight, tables[1])
    codes = [torch.tensor([[0, 1], [4, 3], [2, 2]])]
    probe.standardise(codes)
    assert torch.allclose(probe.mean, (tables[0][[0, 4, 2]] + tables[1][[1, 3, 2]]).mean(0))
    assert probe(codes[0][None], torch.tensor([3])).shape == (1, 3, 40)
    with pytest.raises(ValueError, match=r"tables of \[5\] rows, expected \[5, 4\]"):
        CtcProbe(40, [5, 4], vectors=tables[:1])


def test_bilstm_is_torchs_on_packed_sequences():
    ours, theirs = BiLstm(5, 4, 2), nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True)
    for number in range(2):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            one = getattr(theirs, f"{name}_l{number}")
            other = getattr(theirs, f"{name}_l{number}_reverse")
            getattr(ours.ahead[number], f"{name}_l0").data.copy_(one)
            getattr(ours.back[number], f"{name}_l0").data.copy_(other)
    x, frames = torch.randn(3, 7, 5), torch.tensor([7, 2, 5])
    packed = nn.utils.rnn.pack_padded_sequence(x, frames, True, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], True)
    found = ours(x, frames)
    for row, size in enumerate(frames):
        assert torch.allclose(found[row, :size], expected[row, :size], atol=1e-6)


def test_error_rates_are_edits_over_reference_symbols():
    pairs = [("kitten", "sitting"), ("", "ab"), ("same", "same")]
    row = error_rate(pairs, "cer")
    assert row["cer"] == pytest.approx((3 + 2) / 13) and row["cer_failures"] == 0
    assert row["cer_low"] < row["cer"] < row["cer_high"]
    same = error_rate([("ab", "ac")] * 5, "per")
    assert same["per_low"] == same["per"] == same["per_high"] == 0.5
    with pytest.raises(ValueError, match="no reference symbols in 1"):
        error_rate([("a", "")], "per")


def test_words_are_counted_where_they_are_told_apart():
    pairs = [("i|sea", "i|see"), ("a", "a")]
    row = symbol_errors(pairs, Symbols("characters"))
    assert row["cer"] == pytest.approx(1 / 6) and row["wer"] == pytest.approx(1 / 3)
    with_words = symbol_errors([(["B", "|", "IY"], ["B", "IY"])], Symbols("phonemes+words"))
    assert with_words["per"] == 0 and with_words["wer"] == 2.0  # one word became two others
    assert "wer" not in symbol_errors([(["B"], ["B"])], Symbols())


def test_a_recogniser_is_heard_on_a_corpus(parts):
    symbols = Symbols()

    def deaf(wav):
        return ["AA", "AA"]

    row = recognition_errors(deaf, parts[1], symbols)
    lengths = [len(symbols.encode(one)) for one in parts[1]]
    assert row["test"] == "two" and row["utterances"] == 12 and 0.6 < row["per"] <= 1
    assert row["per"] >= 1 - 24 / sum(lengths)


def test_symbols_of_an_utterance():
    phones = (Phoneme("AY", 0, 2), Phoneme("sil", 2, 3), Phoneme("S", 3, 4), Phoneme("IY", 4, 5))
    one = Utterance("a", "a.wav", text="I SEE", phonemes=phones)
    for kind, expected in (
        ("phonemes", "AY S IY"),
        ("phonemes+words", "AY | S IY"),
        ("characters", "i | s e e"),
    ):
        symbols = Symbols(kind)
        assert symbols.decode(symbols.encode(one)) == expected.split()
        assert 0 not in symbols.encode(one) and len(symbols) == len(KINDS[kind])
    only_text = Utterance("b", "b.wav", text="I see")
    assert Symbols().decode(Symbols().encode(only_text)) == ["AY", "S", "IY"]
    assert Symbols("characters").encode(Utterance("c", "c.wav", text="12 café")) is None
    cafe = Symbols("characters").encode(Utterance("c", "c.wav", text="café"))
    assert Symbols("characters").decode(cafe) == list("cafe")
    with pytest.raises(ValueError, match="got 'letters'"):
        Symbols("letters")
    assert split_at_gaps(["|", "a", "|", "|", "b"]) == [("a",), ("b",)]


SAID = (Phoneme("AY", 0, 1), Phoneme("S", 1, 2))
UNSPELT = {
    "no text": ("", ()),
    "no word": ("... !", ()),
    "no text for words": ("", SAID),
    "more words than phonemes": ("I see a sea", SAID),
}


@pytest.mark.parametrize("reason", sorted(UNSPELT))
@pytest.mark.parametrize("kind", ["phonemes", "phonemes+words", "characters"])
def test_one_utterance_that_cannot_be_spelt_is_left_out(reason, kind, parts):
    text, phonemes = UNSPELT[reason]
    odd = Utterance("odd", parts[0][0].audio_path, "one", text=text, phonemes=phonemes)
    known = bool(phonemes) if kind == "phonemes" else kind == "characters" and "more" in reason
    assert (Symbols(kind).encode(odd) is not None) == known
    good = [replace(one, text="I see") for one in parts[0][:3]]
    heard = prepare(level_codes, Corpus("mixed", [*good, odd]), Symbols(kind), 5)
    assert (len(heard.inputs), heard.left_out) == (3 + known, 1 - known)


def test_silence_has_no_symbols():
    assert Symbols().encode(Utterance("a", "a.wav", phonemes=(Phoneme("sil", 0, 9),))) == []


def test_ctc_is_torchs_and_knows_what_fits():
    logits = torch.randn(2, 6, 5, requires_grad=True)
    targets = [[1, 2, 2], [4]]
    loss = ctc_loss(logits, torch.tensor([6, 3]), targets)
    each = nn.functional.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1),
        torch.tensor([[1, 2, 2], [4, 0, 0]]),
        torch.tensor([6, 3]),
        torch.tensor([3, 1]),
        reduction="none",
    )
    assert torch.allclose(loss, (each / torch.tensor([3.0, 1.0])).mean())
    assert frames_needed([1, 2, 2]) == 4 and frames_needed([]) == 0
    assert float(ctc_loss(logits, torch.tensor([3, 3]), [[1, 2, 2], [1, 1, 1]]).detach()) == 0
    with pytest.raises(ValueError, match="2 lengths and 1 targets, expected 2"):
        ctc_loss(logits, torch.tensor([6, 6]), [[1]])
    best = torch.eye(5)[torch.tensor([[1, 1, 0, 1, 0, 2], [3, 4, 4, 0, 1, 1]])]
    assert ctc_greedy(best, torch.tensor([6, 3])) == [[1, 1, 2], [3, 4]]


def test_batches_of_like_length_hold_every_item_once():
    lengths = torch.arange(103).tolist()
    found = length_batches(lengths, 4, seed=3, epoch=0)
    assert found.shape == (25, 4) and len(set(found.flatten().tolist())) == 100
    assert (found == length_batches(lengths, 4, 3, 0)).all()
    assert (found != length_batches(lengths, 4, 3, 1)).any()
    spread = [max(batch) - min(batch) for batch in found.tolist()]
    assert sum(spread) / 25 < 25  # 60 where batches are drawn without regard to length
    assert length_batches([5, 6], 4, 0, 0).shape == (1, 2)


def test_inputs_that_cannot_be_used_are_counted_or_refused(parts, tmp_path):
    train, test = parts
    (tmp_path / "bad.wav").write_text("no audio")
    bad = Utterance("bad", str(tmp_path / "bad.wav"), phonemes=train[0].phonemes)
    heard = prepare(level_codes, Corpus("mixed", [*train[:3], bad]), Symbols())
    assert heard.left_out == 1 and len(heard.inputs) == 3 and heard.inputs[0].shape[1] == 1
    assert len(prepare(level_codes, train[:1], Symbols(), 2).inputs[0]) == 2 * len(heard.inputs[0])
    with pytest.raises(ValueError, match="48 of 48 utterances that cannot be used"):
        prepare(lambda wav: level_codes(wav)[:, :1], train, Symbols())
    with pytest.raises(ValueError, match=r"codes: got 0 to \[6\], expected 0 to below \[6\]"):
        ctc_probe(level_codes, train, test, num_codes=[6])
    with pytest.raises(ValueError, match="got None for codes"):
        ctc_probe(level_codes, train, test)
    with pytest.raises(ValueError, match="1 columns, expected int64 codes of 2 codebooks"):
        ctc_probe(level_codes, train, test, num_codes=[7, 7])
    with pytest.raises(ValueError, match=r"speakers: got \['one'\] in"):
        ctc_probe(level_codes, train, [train], num_codes=[7])
    unknown = Corpus("unknown", [replace(one, speaker_id="") for one in train])
    with pytest.raises(ValueError, match="unknown: got 48 recordings that are learnt from, too"):
        ctc_probe(level_codes, unknown, [unknown], num_codes=[7])


def test_each_recording_is_changed_in_its_own_way_and_may_be_unchangeable(parts):
    speech = parts[1][:4]
    for index in range(4):  # all of one length
        audio.write(speech[index].audio_path, torch.zeros(1, 3200), 16000)

    def change(wav, rate, rng):
        noise = torch.from_numpy(rng.normal(size=wav.shape)).float()
        if calls.append(wav) or len(calls) == 3:
            raise VoiceError("no voiced frames")
        return wav + noise

    def mean_of(wav):
        return wav.unflatten(-1, (-1, HOP)).mean(-1).transpose(1, 2)

    calls = []
    heard = extracted(mean_of, speech, change)
    assert heard[2] is None and [one.shape for one in heard if one is not None] == [(10, 1)] * 3
    assert not torch.equal(heard[0], heard[1]) and not torch.equal(heard[0], heard[3])
    calls = []
    again = extracted(mean_of, speech, change)
    assert torch.equal(again[3], heard[3])
    assert prepare(heard, speech, Symbols()).left_out == 1


@pytest.mark.parametrize("seed", range(5))
def test_an_alignment_has_the_fewest_edits_and_loses_nothing(seed):
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.randint(0, 9, (2,), generator=draw).tolist()
    found, right = (
        "".join("abc"[i] for i in torch.randint(3, (n,), generator=draw)) for n in sizes
    )
    pairs = align_symbols(found, right)
    assert "".join(read for read, _ in pairs) == found
    assert "".join(said for _, said in pairs) == right
    assert sum(read != said for read, said in pairs) == edit_distance(found, right)
    assert align_symbols("", "") == [] and ("", "") not in pairs
