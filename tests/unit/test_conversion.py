"""Voice conversion by swapping rows of codes."""

import numpy as np
import pytest
import torch

import codec_lib
from codec_lib.data import corpus
from codec_lib.evaluation.conversion import (
    PairJudge,
    conversion_curve,
    conversion_pairs,
    convert,
    listener_symbols,
    phoneme_listener,
    strangers,
    swap_layers,
)
from codec_lib.evaluation.judges import Judge, Score
from codec_lib.shapes import Codes


@pytest.fixture(scope="module")
def codec():
    """An untrained codec of several codebooks."""
    torch.manual_seed(0)
    return codec_lib.build("speechtokenizer", "smoke").eval()


def test_rows_come_from_whom_they_should(codec, make_speech):
    source, reference = make_speech(0.5, seed=1), make_speech(0.3, seed=2)
    a, b = (codec.encode(wav[None]) for wav in (source, reference))
    made = swap_layers(a, b, codec.num_quantizers)
    frames, short = a.codes.shape[-1], b.codes.shape[-1]
    assert torch.equal(made.codes[:, 0], a.codes[:, 0])
    assert torch.equal(made.codes[:, 1:, :short], b.codes[:, 1:])
    assert torch.equal(made.codes[:, 1:, short:], b.codes[:, 1:, : frames - short])
    assert made.num_samples == source.shape[-1]
    longer = swap_layers(b, a, 2)
    assert torch.equal(longer.codes[:, 1], a.codes[:, 1, :short])


def test_converting_to_oneself_is_the_codec(codec, make_speech):
    wav = make_speech(0.4)
    expected = codec.decode(codec.encode(wav[None]))[0]
    assert torch.equal(convert(codec, wav, wav), expected)
    first = codec.decode(codec.encode(wav[None], n_q=1))[0]
    assert torch.equal(convert(codec, wav, make_speech(0.4, seed=3), n_q=1), first)


def test_what_cannot_be_swapped_is_said():
    one, two = (Codes(torch.zeros(1, k, 3, dtype=torch.int64), 960) for k in (1, 2))
    with pytest.raises(ValueError, match="at most the 1"):
        swap_layers(two, one, 2)
    with pytest.raises(ValueError, match="got 0 rows of the source"):
        swap_layers(two, two, 2, content=0)
    with pytest.raises(ValueError, match="got 2 and 1 recordings"):
        swap_layers(Codes(torch.zeros(2, 2, 3, dtype=torch.int64), 960), two, 2)


def test_pairs_are_of_two_speakers_and_repeat(tiny_corpus):
    speech = corpus(str(tiny_corpus))
    pairs = conversion_pairs(speech, 6)
    assert pairs == conversion_pairs(speech, 6) != conversion_pairs(speech, 6, seed=1)
    assert len({source for source, _ in pairs}) == len(pairs) == 6
    assert all(speech[a].speaker_id != speech[b].speaker_id for a, b in pairs)
    lone = speech.select(lambda one: one.speaker_id == speech[0].speaker_id)
    with pytest.raises(ValueError, match="expected two"):
        conversion_pairs(lone, 2)


class Loudness(Judge):
    """How near the level of a clip is to its target's."""

    name = "speaker"
    needs = ("target",)

    def judge(self, clips):
        """Compare levels."""
        near = [-abs(float(c.wav.std() - c.target.std())) for c in clips]
        return {"speaker_similarity": Score(np.array(near))}


def test_the_curve_has_the_recordings_and_every_number_of_rows(codec, tiny_corpus):
    speech = corpus(str(tiny_corpus))
    pairs = conversion_pairs(speech, 2)
    rows = conversion_curve(codec, speech, pairs, {"speaker": Loudness()}, [1, 3])
    assert [row["kind"] for row in rows] == ["source", "reference", "converted", "converted"]
    assert [row.get("reference_layers") for row in rows] == [None, None, 0, 2]
    assert rows[0]["source_similarity"] == 0 == rows[1]["speaker_similarity"]
    level = [abs(float(speech.load(a).std() - speech.load(b).std())) for a, b in pairs]
    assert rows[0]["speaker_similarity"] == pytest.approx(-np.mean(level))


def test_a_stranger_is_neither_of_the_two(tiny_corpus):
    speech = corpus(str(tiny_corpus))
    pairs = conversion_pairs(speech, 6)
    for (source, reference), third in zip(pairs, strangers(speech, pairs), strict=True):
        both = {speech[source].speaker_id, speech[reference].speaker_id}
        assert speech[third].speaker_id not in both
    voices = {speech[index].speaker_id for index in pairs[0]}
    with pytest.raises(ValueError, match="expected three"):
        strangers(speech.select(lambda one: one.speaker_id in voices), [(0, 1)])


def test_the_listener_names_the_frames_of_its_own_training(tiny_corpus):
    speech = corpus(str(tiny_corpus))

    def loudness_and_bands(wav):
        frames = torch.nn.functional.pad(wav, (0, -wav.shape[-1] % 320)).unflatten(-1, (-1, 320))
        return torch.log(torch.fft.rfft(frames[:, 0]).abs() + 1e-3)

    listen, symbols = phoneme_listener(loudness_and_bands, speech), listener_symbols(speech)
    wav = speech.load(0)
    found = listen(wav)
    assert found.shape == (-(-wav.shape[-1] // 320),) and symbols[0] == "sil"
    right = [symbols[k] for k in found.tolist()]
    truth = speech[0].frame_symbols(50, len(found))
    assert np.mean([a == b for a, b in zip(right, truth, strict=True)]) > 0.3


def test_pairs_are_judged_one_by_one():
    """Embeddings by loudness of two halves, sounds by sign: what is kept and what is not."""

    def embed(wavs):
        halves = torch.stack([wav[0].view(2, -1).square().mean(1) for wav in wavs])
        return torch.nn.functional.normalize(halves, dim=1)

    def listen(wav):
        return (wav[0].view(4, -1).mean(1) > 0).long()

    source = torch.tensor([[1.0, 1, 1, 1, -1, -1, -1, -1]])  # sounds 1, 1, 0, 0
    reference, third = torch.zeros(1, 8), torch.zeros(1, 8)
    reference[0, 0], third[0, 7] = 1, 1
    judge = PairJudge([source] * 2, [reference] * 2, [third] * 2, embed, listen)
    half_gone = source.clone()
    half_gone[0, 2:4] = -1
    found = judge([source, half_gone])
    assert torch.allclose(found["source"], torch.ones(2).double())
    assert found["sounds"].tolist() == [1.0, 0.5]
    assert torch.allclose(found["reference"], found["stranger"])
    assert judge([reference, third])["reference"].tolist() == [1, 0]
    with pytest.raises(ValueError, match="one for each pair"):
        judge([source])
    with pytest.raises(ValueError, match="expected as many"):
        PairJudge([source], [], [third], embed, listen)


def test_pairs_of_a_corpus_are_loaded_with_their_strangers(codec, tiny_corpus):
    speech = corpus(str(tiny_corpus))
    pairs = conversion_pairs(speech, 3)

    def embed(wavs):
        spread = torch.stack([w[0, :4000].view(40, 100).std(1) for w in wavs])
        return torch.nn.functional.normalize(spread + 1e-3, dim=1)

    judge = PairJudge.of(speech, pairs, embed, lambda wav: torch.ones(3).long(), 4000)
    assert [wav.shape for wav in judge.sources] == [(1, 4000)] * 3
    assert torch.equal(judge.references[0], speech.load(pairs[0][1], 0, 4000))
    found = judge(judge.references)
    assert torch.allclose(found["reference"], torch.ones(3).double())
    assert found["sounds"].tolist() == [1, 1, 1]
    sent = judge.encoded(codec)
    assert torch.equal(sent[1][0].codes, codec.encode(judge.sources[1][None]).codes)
    decoded = judge.decoded(codec, [reference for _, reference in sent])
    made = [codec.decode(reference)[0] for _, reference in sent]
    assert torch.equal(decoded["source"], judge(made)["source"])
