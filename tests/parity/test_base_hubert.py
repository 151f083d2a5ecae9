r"""HuBERT for pre-training against torchaudio's own forward: states, logits, loss, gradients."""

import importlib
from dataclasses import replace

import pytest
import torch
import torchaudio
from torch.nn import functional

from codec_lib.teachers.base_hubert import (
    LARGE,
    BaseHubert,
    BaseHubertConfig,
    pad_to_frames,
)
from codec_lib.teachers.hubert import masked_prediction_loss, span_mask

TINY = BaseHubertConfig(
    conv_layers=((16, 10, 5), *((16, 3, 2),) * 4, *((16, 2, 2),) * 2),
    dim=32,
    num_layers=3,
    num_heads=4,
    ffn_dim=64,
    position_kernel=16,
    position_groups=4,
    num_units=12,
    unit_dim=8,
)
PRE_NORM = replace(TINY, pre_norm=True, conv_norm="layer_norm", feature_grad_mult=1.0)


def torchaudio_forward(teacher, wav, units, mask, num_valid=None):
    """Let torchaudio's network hear the same samples with the same frames hidden."""
    ours = BaseHubert(teacher.config).eval()
    ours.load_published(teacher.published_state())
    scale = teacher.config.feature_grad_mult
    ours.model.feature_grad_mult = None if scale == 1 else scale
    generator = ours.model.mask_generator

    def hide(x, padding):
        x[mask] = generator.mask_embedding
        return x, mask

    generator.forward = hide
    lengths = None if num_valid is None else num_valid * 320 + 80
    return ours, ours.model(pad_to_frames(wav)[:, 0], units, lengths)


def torchaudio_loss(logits, square):
    """Write down the loss of torchaudio's recipe: the right unit stands in front of every row."""
    rows, _ = logits
    right = torch.zeros(len(rows), dtype=torch.long)
    summed = functional.cross_entropy(rows, right, reduction="sum") + 10 * square * len(rows)
    return summed / len(rows)


@pytest.fixture
def on_meta(monkeypatch):
    """Make networks without memory; torchaudio's initialisation cannot fill them."""
    module = importlib.import_module("torchaudio.models.wav2vec2.model")
    monkeypatch.setattr(module, "_init_hubert_pretrain_model", lambda one: None)
    with torch.device("meta"):
        yield


@pytest.fixture
def batch(speech_batch):
    """Waveforms, units and a mask, three items of 25 frames."""
    generator = torch.Generator().manual_seed(1)
    units = torch.randint(12, (3, 25), generator=generator)
    return speech_batch[:3], units, span_mask(3, 25, 0.08, 10, generator)


@pytest.mark.parametrize("config", [TINY, PRE_NORM], ids=["base", "large"])
def test_loss_logits_and_gradients_are_torchaudios(config, batch):
    wav, units, mask = batch
    torch.manual_seed(3)
    teacher = BaseHubert(config).eval()
    reference, (masked, heard, square) = torchaudio_forward(teacher, wav, units, mask)
    states, penalty = teacher.training_states(wav, mask, torch.full((3,), 25))
    logits = teacher.logits(states[-1])
    assert penalty.item() == pytest.approx(10 * square.item(), rel=1e-5)
    # Their rows are [right one | all units], the right one among all at minus infinity.
    for rows, chosen in ((masked, mask), (heard, ~mask)):
        found = torch.where(rows[:, 1:].isinf(), rows[:, :1], rows[:, 1:])
        assert torch.allclose(logits[chosen], found, atol=1e-4)
        assert torch.equal(rows[:, 1:].isinf().nonzero()[:, 1], units[chosen])
    losses = masked_prediction_loss(logits, units, mask, torch.ones_like(mask))
    ours, theirs = losses["loss"] + penalty, torchaudio_loss((masked, heard), square)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    ours.backward()
    theirs.backward()
    pairs = zip(teacher.model.named_parameters(), reference.model.parameters(), strict=True)
    for (name, one), other in pairs:
        if other.grad is None:
            assert one.grad is None or not one.grad.any(), name
        else:
            assert torch.allclose(one.grad, other.grad, atol=1e-4, rtol=1e-3), name
    assert float(reference.model.wav2vec2.feature_extractor.conv_layers[0].conv.weight.grad.norm())


def test_padding_is_heard_as_by_torchaudio(batch):
    wav, units, mask = batch
    frames = torch.tensor([25, 20, 11])
    for number, count in enumerate(frames.tolist()):
        wav[number, :, 320 * count :] = 0
    teacher = BaseHubert(TINY).eval()
    valid = torch.arange(25) < frames[:, None]
    with torch.no_grad():
        hidden = mask & valid
        _, (masked, _, _) = torchaudio_forward(teacher, wav, units, hidden, frames)
        logits = teacher.logits(teacher.hidden_states(wav, mask, frames)[-1])
        losses = masked_prediction_loss(logits, units, mask, valid)
    right = torch.zeros(len(masked), dtype=torch.long)
    assert len(masked) == int(hidden.sum())
    assert float(losses["loss"]) == pytest.approx(
        float(functional.cross_entropy(masked, right)), rel=1e-4
    )


@pytest.mark.parametrize("config", [TINY, PRE_NORM], ids=["base", "large"])
def test_hidden_states_are_torchaudios(config, speech_batch):
    teacher = BaseHubert(config).eval()
    with torch.no_grad():
        ours = teacher.hidden_states(speech_batch)
        body = teacher.model.wav2vec2
        layers, _ = body.extract_features(pad_to_frames(speech_batch)[:, 0])
        output, _ = body(pad_to_frames(speech_batch)[:, 0])
    assert len(ours) == 4 and ours[0].shape == (4, 25, 32)
    for number in (1, 2):
        assert torch.allclose(ours[number], layers[number - 1], atol=1e-5)
    assert torch.allclose(ours[3], output, atol=1e-5)


def test_the_published_sizes_have_the_published_numbers_of_weights(on_meta):
    base, large = BaseHubert(), BaseHubert(LARGE)
    published = torchaudio.models.hubert_pretrain_base(num_classes=100)
    big = torchaudio.models.hubert_pretrain_large()
    count, *others = (
        sum(weight.numel() for weight in network.parameters())
        for network in (base, torchaudio.models.hubert_base(), large)
    )
    assert (count, others[0]) == (94_594_176, 94_370_944)
    for ours, theirs in ((base, published), (large, big)):
        shapes = {key: value.shape for key, value in theirs.state_dict().items()}
        assert {key: value.shape for key, value in ours.published_state().items()} == shapes
    assert (base.dim, base.num_layers, base.feature_mean.shape) == (768, 12, (13, 768))


def test_torchaudios_weights_are_read_strictly_and_given_back(speech):
    teacher, other = BaseHubert(TINY), BaseHubert(TINY)
    state = dict(teacher.published_state())
    assert "wav2vec2.encoder.transformer.layers.2.attention.k_proj.weight" in state
    other.load_published(state)
    one, two = teacher.eval().features(speech[None]), other.eval().features(speech[None])
    assert torch.equal(one, two)
    with pytest.raises(ValueError, match="weights that do not fit this size"):
        other.load_published({**state, "more": torch.zeros(1)})
    state.pop("mask_generator.mask_embedding")
    with pytest.raises(ValueError, match="weights that do not fit this size"):
        other.load_published(state)
