"""Voice conversion by swapping rows of codes."""

import numpy as np
import pytest
import torch

import codec_lib
from codec_lib.data import corpus
from codec_lib.evaluation.conversion import conversion_curve, conversion_pairs, convert, swap_layers
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
