"""What is kept on disk: found by sound and weights, rounded once, mended where it is damaged."""

import pytest
import torch

import codec_lib
from codec_lib.evaluation.heard import key_of, remembered


def test_a_sound_is_heard_once_and_both_answers_are_the_same(tmp_path):
    calls = []

    def extract(wav):
        calls.append(1)
        return wav.unfold(-1, 4, 4)[:, 0] / 3

    hear, wav = remembered(extract, "net", tmp_path), torch.randn(1, 1, 32)
    first, again, copied = hear(wav), hear(wav), hear(wav.clone())
    assert len(calls) == 1 and first.dtype == torch.float32
    assert torch.equal(first, again) and torch.equal(first, copied)
    assert (first - extract(wav)).abs().max() < 2e-3  # rounded to half precision
    hear(wav + 1)
    assert len(calls) == 3


def test_codes_stay_whole_numbers_and_folders_apart(tmp_path):
    wav = torch.randn(1, 1, 8)
    one = remembered(lambda wav: torch.tensor([[1, 70_000]]), "one", tmp_path)
    two = remembered(lambda wav: torch.tensor([[2, 3]]), "two", tmp_path)
    for _ in range(2):
        assert one(wav).tolist() == [[1, 70_000]] and two(wav).tolist() == [[2, 3]]
    assert one(wav).dtype == torch.int64


def test_a_damaged_file_is_computed_again(tmp_path, caplog):
    hear, wav = remembered(lambda wav: wav[:, 0], "net", tmp_path), torch.ones(1, 1, 4)
    right = hear(wav)
    (file,) = tmp_path.rglob("*.npy")
    file.write_bytes(b"nothing")
    assert torch.equal(hear(wav), right) and "damaged" in caplog.text
    with pytest.raises(ValueError, match="one folder"):
        remembered(lambda wav: wav, "../up", tmp_path)


def test_the_key_changes_with_weights_and_config_not_with_the_copy():
    torch.manual_seed(0)
    one, other = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    assert key_of(one) == key_of(one) != key_of(other)
    other.load_state_dict(one.state_dict())
    assert key_of(one) == key_of(other)
    assert key_of(one, 6) != key_of(one, 7)


def test_a_shipped_codec_has_one_key():
    first, second = (codec_lib.hub.load("speechtokenizer-small") for _ in range(2))
    assert key_of(first) == key_of(second)
    with torch.no_grad():
        second.quantizer.layers[7].codebook[0] += 1
    assert key_of(first) != key_of(second)
