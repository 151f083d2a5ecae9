r"""The small HuBERT: shapes, masks, loss, statistics, files."""

import math

import pytest
import torch
import torchaudio

from codec_lib.teachers.hubert import (
    HubertConfig,
    SmallHubert,
    load_hubert,
    masked_prediction_loss,
    save_hubert,
    span_mask,
)

TINY = HubertConfig(dim=32, num_layers=2, num_heads=2, ffn_dim=64, num_units=10, unit_dim=16)


@pytest.fixture
def teacher():
    return SmallHubert(TINY).eval()


def test_shipped_size_fits_into_6_mb_of_half_precision():
    assert sum(p.numel() for p in SmallHubert().parameters()) * 2 < 6e6


@pytest.mark.parametrize("num_samples", [1, 320, 16001])
def test_features_have_the_codecs_frames(teacher, num_samples):
    wav = torch.randn(2, 1, num_samples)
    for layer in ("avg", 0, 1, 2):
        features = teacher.features(wav, layer)
        assert features.shape == (2, -(-num_samples // 320), 32)
        assert torch.isfinite(features).all()


def test_hidden_states_are_the_front_end_and_every_layer(teacher, speech):
    states = teacher.hidden_states(speech[None])
    assert len(states) == teacher.num_layers + 1
    again = states[0]
    for layer in teacher.layers:
        again = layer(again)
    assert torch.allclose(teacher.final_norm(again), states[-1], atol=1e-6)
    assert torch.allclose(teacher.layers[0](states[0]), states[1], atol=1e-6)


@pytest.mark.parametrize("layer", [-1, 3, True, "last", 1.0])
def test_unknown_layers_are_refused(teacher, layer):
    with pytest.raises(ValueError, match="expected 'avg' or 0 to 2"):
        teacher.features(torch.zeros(1, 1, 320), layer)


def test_padding_does_not_reach_what_counts(teacher, speech):
    wav = speech[None, :, :6400]
    padded = torch.nn.functional.pad(wav, (0, 3200))
    alone = teacher.hidden_states(wav)
    beside = teacher.hidden_states(padded, frames=torch.tensor([20]))
    for one, other in zip(alone, beside, strict=True):
        assert torch.allclose(one, other[:, :20], atol=1e-4)


def test_masked_frames_are_not_heard(teacher, speech):
    """With all frames hidden, the audio makes no difference any more."""
    mask = torch.ones(1, 25, dtype=torch.bool)
    one = teacher.hidden_states(speech[None], mask)[-1]
    other = teacher.hidden_states(torch.randn(1, 1, 8000), mask)[-1]
    assert torch.allclose(one, other)
    assert not torch.allclose(one, teacher.hidden_states(speech[None])[-1])


def test_span_mask_hides_whole_spans_and_the_published_share():
    mask = span_mask(200, 400, 0.08, 10, torch.Generator().manual_seed(0))
    assert mask[:, 10:].float().mean() == pytest.approx(1 - 0.92**10, abs=0.01)
    runs = "".join("1" if hidden else "0" for hidden in mask[0, :-10].tolist()).split("0")
    assert min(len(run) for run in runs if run) >= 10
    again = span_mask(200, 400, 0.08, 10, torch.Generator().manual_seed(0))
    assert torch.equal(mask, again)
    assert not span_mask(2, 50, 0.0, 10, torch.Generator()).any()


def test_loss_has_known_values_and_ignores_padding():
    units = torch.zeros(1, 4, dtype=torch.long)
    logits = torch.zeros(1, 4, 10)
    logits[0, 0, 0] = 100.0  # frame 0 is named with certainty
    mask = torch.tensor([[True, True, False, False]])
    valid = torch.tensor([[True, True, True, False]])
    logits[0, 3, 1] = 1e4  # padding: as wrong as can be
    losses = masked_prediction_loss(logits, units, mask, valid, unmasked_weight=0.5)
    assert losses["masked_loss"] == pytest.approx(math.log(10) / 2)
    assert losses["unmasked_loss"] == pytest.approx(math.log(10))
    assert losses["loss"] == pytest.approx(math.log(10))
    only_masked = masked_prediction_loss(logits, units, mask, valid)["loss"]
    assert only_masked == pytest.approx(math.log(10) / 2)


def test_only_masked_frames_are_counted_by_default():
    logits = torch.zeros(1, 4, 10, requires_grad=True)
    units, valid = torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.bool)
    mask = torch.tensor([[True, False, True, False]])
    masked_prediction_loss(logits, units, mask, valid)["loss"].backward()
    reached = logits.grad.abs().sum(-1)[0]
    assert (reached[[0, 2]] > 0).all() and (reached[[1, 3]] == 0).all()


def test_logits_equal_torchaudios_generator(teacher):
    """One product of unit vectors is the cosine of every pair, as torchaudio computes it."""
    state = torch.randn(1, 7, 32)
    generator = torchaudio.models.wav2vec2.components.LogitGenerator(32, 10, 16, False, False)
    generator.final_proj.load_state_dict(teacher.to_unit.state_dict())
    generator.label_embeddings.data.copy_(teacher.units.data)
    targets = torch.arange(7)[None] % 10
    everywhere = torch.ones(1, 7, dtype=torch.bool)
    theirs, _ = generator(state, targets, everywhere, ~everywhere)  # (7, 1 + units)
    ours = teacher.logits(state)[0]
    reference = torch.nn.functional.cross_entropy(theirs, torch.zeros(7, dtype=torch.long))
    assert torch.allclose(torch.nn.functional.cross_entropy(ours, targets[0]), reference, atol=1e-5)


def test_statistics_bring_every_layer_to_mean_0_and_variance_1(teacher, speech_batch):
    teacher.set_statistics(speech_batch[:, None])
    for layer in range(3):
        features = teacher.features(speech_batch, layer).flatten(0, 1)
        assert features.mean(0).abs().max() < 1e-3
        assert (features.std(0, correction=0) - 1).abs().max() < 1e-3
    layers = torch.stack([teacher.features(speech_batch, layer) for layer in range(3)])
    assert torch.allclose(teacher.features(speech_batch, "avg"), layers.mean(0), atol=1e-5)
    with pytest.raises(ValueError, match="wavs: got none"):
        teacher.set_statistics([])


def test_fingerprint_follows_the_weights(teacher, tmp_path, speech):
    before = teacher.fingerprint
    loaded = load_hubert(save_hubert(teacher, tmp_path / "t.safetensors", {"note": "a test"}))
    assert loaded.config == teacher.config and not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert torch.allclose(
        loaded.features(speech[None]), teacher.features(speech[None]), atol=0.05
    )  # half precision
    with torch.no_grad():
        teacher.units[0, 0] += 1
    assert teacher.fingerprint != before
