r"""What each codebook knows, measured on a codec whose codebooks are known."""

from dataclasses import replace

import pytest
import torch

import codec_lib
from codec_lib.data import Corpus, corpus
from codec_lib.evaluation import phoneme_probe, probe_codebooks, probe_speakers
from codec_lib.evaluation.codec_probe import _shares, codes_of
from codec_lib.quantizers import ProductQuantizer
from codec_lib.shapes import Codes
from codec_lib.teachers.frontend import LogMel


class Known:
    """Codebook 0 says which band is loudest, codebook 1 nothing, codebook 2 who speaks."""

    sample_rate, hop_length, frame_rate, num_quantizers = 16000, 320, 50.0, 3
    codebook_sizes = (80, 80, 80)
    device = torch.device("cpu")

    def __init__(self, speaker_of):
        self.mel, self.speaker_of = LogMel(80), speaker_of

    def encode(self, wav, n_q=None):
        loudest = self.mel(wav)[..., ::2].argmax(1)  # (1, F)
        voice = torch.full_like(loudest, self.speaker_of[wav.shape[-1]])
        codes = torch.stack([loudest, torch.zeros_like(loudest), voice], 1)
        return Codes(codes[:, :n_q], wav.shape[-1])


@pytest.fixture(scope="module")
def parts():
    small = corpus("synthetic/small")
    return small.split("train"), small.split("test")


@pytest.fixture(scope="module")
def codec(parts):
    """The speaker is known to the codec by the length of the utterance."""
    names = [*parts[0].speakers, *parts[1].speakers]
    return Known({u.num_samples: names.index(u.speaker_id) for part in parts for u in part})


def test_phonemes_are_found_where_they_are(codec, parts):
    rows = probe_codebooks(codec, *parts)
    assert [row["codebook"] for row in rows] == [0, 1, 2]
    assert rows[0]["accuracy"] > 1.5 * rows[1]["accuracy"]
    assert rows[1]["accuracy"] == pytest.approx(rows[1]["majority"])
    assert rows[1]["pnmi"] == pytest.approx(0, abs=1e-6) and rows[1]["perplexity"] == 1
    assert rows[0]["pnmi"] > 0.1
    one = phoneme_probe(lambda wav: codec.encode(wav).codes[:, 0], *parts)
    assert rows[0]["accuracy"] == pytest.approx(one.accuracy, abs=1e-6)


def test_speakers_are_found_where_they_are(codec, parts):
    twice = Corpus("twice", [*parts[0], *parts[0]])  # one to fit on, one to test on, of everyone
    rows = probe_speakers(codec, twice)
    assert rows[2]["accuracy"] > 0.9 > rows[1]["accuracy"]
    assert rows[2]["num_classes"] == len(twice.speakers)


def test_speakers_are_found_in_the_digits_of_joint_codes(codec, parts):
    """65,536 joint codes, of which the second digit says who speaks: 64 numbers an utterance."""

    class Joint(Known):
        num_quantizers, codebook_sizes = 1, (65536,)
        quantizer = ProductQuantizer(8, num_parts=4, codebook_size=16)

        def encode(self, wav, n_q=None):
            loudest, silent, voice = codec.encode(wav).codes.unbind(1)
            digits = torch.stack([loudest % 16, voice % 16, voice // 16, silent], dim=1)
            return Codes(self.quantizer.join(digits), wav.shape[-1])

    twice = Corpus("twice", [*parts[0], *parts[0]])
    joint = Joint(codec.speaker_of)
    assert probe_speakers(joint, twice)[0]["accuracy"] > 0.9
    codes = codes_of(joint)(twice.load(0)[None]).transpose(1, 2)
    shares = _shares(joint, codes)
    assert [share.shape for share in shares] == [(64,)]
    assert torch.allclose(shares[0].view(4, 16).sum(1), torch.ones(4))


def test_wrong_calls_are_named(codec, parts):
    with pytest.raises(ValueError, match=r"got \[3\], expected some of 0 to 2"):
        probe_codebooks(codec, *parts, codebooks=[3])
    with pytest.raises(ValueError, match="expected others to test on"):
        probe_codebooks(codec, parts[0], parts[0])
    one = parts[0].select(lambda utterance: utterance.speaker_id == parts[0].speakers[0])
    with pytest.raises(ValueError, match="got 1 speakers of two or more utterances"):
        probe_speakers(codec, Corpus("one", [*one, *one]))


def test_bad_files_and_who_speaks_once_are_left_out(codec, parts, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    speech = [*parts[0], *parts[0]]
    once = replace(parts[0][0], speaker_id="once")
    bad = [replace(one, audio_path=str(tmp_path / "bad.wav")) for one in (once, *speech[:1])]
    rows = probe_speakers(codec, Corpus("mixed", [*bad, *speech, once]))
    assert rows == probe_speakers(codec, Corpus("twice", speech))
    assert rows[2]["num_classes"] == len(parts[0].speakers)


def test_codes_of_a_dynamic_rate_are_spread_over_their_frames():
    dynamic = codec_lib.build("codecslime_vq", "smoke").eval()
    wav = 0.1 * torch.randn(1, 1, 4000)
    codes = dynamic.encode(wav)
    spread = codes_of(dynamic)(wav)
    assert spread.shape == (1, 20, 1) and codes.codes.shape[-1] == 10
    expected = codes.codes[0, 0].repeat_interleave(codes.lengths[0])
    assert torch.equal(spread[0, :, 0], expected)
