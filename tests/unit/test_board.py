"""The leaderboard: Opus as it is, rows of codecs, the command."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import codec_lib
from codec_lib import data, hub
from codec_lib.cli import app
from codec_lib.data import make_synthetic
from codec_lib.evaluation import read_results, stoi
from codec_lib.evaluation.bands import retention_rows
from codec_lib.evaluation.board import _usage, board_rows, codec_rows, through_opus
from codec_lib.evaluation.judges import JudgedClip, clips_of, make_judges
from codec_lib.opus import opus_round_trip


@pytest.fixture(scope="module")
def clips():
    return clips_of(data.corpus("synthetic/small").split("test"), 3, 2.0)


def test_opus_stays_in_place_and_spends_what_it_is_asked_for(clips):
    scores, rates = [], []
    for asked in (6_000, 24_000):
        made, bitrate = through_opus(clips, asked)
        assert [clip.wav.shape for clip in made] == [clip.wav.shape for clip in clips]
        rates.append(bitrate / asked)
        scores.append(sum(stoi(clip.original, clip.wav, 16_000) for clip in made) / len(made))
    assert scores[0] > 0.7 and scores[1] > scores[0] + 0.05  # a shift in time would show here
    assert all(0.5 < rate < 1.6 for rate in rates)


def test_the_rate_of_opus_is_that_of_speech_alone(clips):
    """Twice the clips, each half as long: twice the silences between, at no gain in rate."""
    halves = []
    for clip in clips:
        for part in clip.wav.tensor_split(2, dim=1):
            halves.append(JudgedClip(part, clip.sample_rate, part))
    whole, cut = (through_opus(some, 12_000)[1] for some in (clips, halves))
    assert cut == pytest.approx(whole, rel=0.005)
    bare = torch.cat([clip.wav for clip in clips], dim=1)
    size = opus_round_trip(bare, 16_000, 12_000)[1]
    assert whole == 8 * size * 16_000 / bare.shape[1]


@pytest.mark.parametrize(
    ("shape", "rate", "bitrate", "said"),
    [
        ((2, 100), 16_000, 6_000, "wav"),
        ((1, 100), 22_050, 6_000, "22050"),
        ((1, 100), 16_000, 500, "6000 to"),
    ],
)
def test_opus_refuses_what_it_cannot_do(shape, rate, bitrate, said):
    with pytest.raises(ValueError, match=said):
        opus_round_trip(torch.zeros(shape), rate, bitrate)


def test_rows_say_what_each_codec_costs_and_gives(clips):
    torch.manual_seed(0)
    codecs = {
        "fixed": codec_lib.build("speechtokenizer", "smoke").eval(),
        "dynamic": codec_lib.build("codecslime_vq", "smoke").eval(),
    }
    speech = data.corpus("synthetic/small")
    known, tested = speech.split("train"), speech.split("test")
    kept = []
    judges = make_judges(["signal"])
    rows = board_rows(codecs, clips, judges, (6_000,), lambda rows: kept.append(len(rows)))
    counts = {name: sum(row["codec"] == name for row in rows) for name in (*codecs, "Opus")}
    assert counts == {"fixed": 4, "dynamic": 4, "Opus": 1} and kept == [4, 8]
    assert all(0 <= row["stoi"] <= 1 and row["clips"] == 3 for row in rows)
    found = codec_rows(codecs, tested[:4], {16_000: (known[:30], tested[:10])}, repetitions=1)
    for row, codec in zip(found, codecs.values(), strict=True):
        assert row["parameters"] == sum(p.numel() for p in codec.parameters())
        assert 0 < row["perplexity"] <= row["usage"] <= 1 and 0 <= row["phonemes"] <= 1
        assert row["encode_times"] > 1 and row["decode_times"] > 1


def test_a_damaged_recording_costs_no_board(tmp_path):
    make_synthetic(tmp_path, num_utterances=6)
    speech = data.corpus(str(tmp_path))
    Path(speech[0].audio_path).write_bytes(b"RIFFnothing")
    codec, counted = codec_lib.build("ds_codec_vq", "smoke").eval(), []
    assert 0 < _usage(codec, speech)["usage"] <= 1
    assert len(speech.bad_files) == 1 and speech.load_or_none(0) is None
    for row in retention_rows(speech, {"itself": lambda wav: counted.append(0) or wav}):
        assert row["utterances"] == 5 and row["coherence"] > 0.99
    assert len(counted) == 5


def test_the_command_writes_a_board(tmp_path):
    torch.manual_seed(0)
    codec = codec_lib.build("ds_codec_vq", "smoke").eval()
    file, out = hub.save_codec(codec, tmp_path / "one.safetensors"), tmp_path / "board.json"
    options = ["--corpus", "synthetic/small", "--max-utterances", "2", "--max-seconds", "1"]
    done = CliRunner().invoke(app, ["leaderboard", f"one={file}", *options, "--out", str(out)])
    assert done.exit_code == 0, done.output
    rows, conditions = read_results(out)
    assert [row["measure"] for row in rows] == ["codec", "rate", "rate", "rate", "rate"]
    assert conditions["clips"] == 2 and list(conditions["fingerprints"]) == ["one"]
    assert "Opus" in done.output and "by codec" in done.output


def test_shipped_codecs_are_told_from_other_files():
    names = hub.known_codecs()
    assert "speechtokenizer-small" in names and "hubert-small" not in names
