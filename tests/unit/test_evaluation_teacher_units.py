r"""Units of a teacher's layers, and of what they are compared with."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torchaudio

from codec_lib import audio
from codec_lib.data import Corpus, corpus
from codec_lib.evaluation.robustness import robustness
from codec_lib.evaluation.teacher_units import (
    UnitSettings,
    compare_units,
    fit_layers,
    fresh_like,
    layer_features,
    layer_units,
    named_perturbations,
    unit_sets,
)
from codec_lib.evaluation.units import hear
from codec_lib.teachers.features import long_features
from codec_lib.teachers.hubert import HubertConfig, SmallHubert
from codec_lib.teachers.perturbation import VoiceError
from codec_lib.teachers.pretrained import PretrainedTeacher

TINY = HubertConfig(dim=16, num_layers=2, num_heads=2, ffn_dim=32, num_units=8, unit_dim=8)


@pytest.fixture(scope="module")
def parts():
    small = corpus("synthetic/small")
    return small.split("train")[:8], small.split("test")[:6]


@pytest.fixture
def teacher(parts):
    teacher = SmallHubert(TINY).eval()
    teacher.set_statistics(parts[0].load(index)[None] for index in range(3))
    return teacher


def test_layers_are_those_of_the_teacher(teacher, speech):
    found = layer_features(teacher, [0, 2, "avg"], speech[None])
    for layer, features in zip([0, 2, "avg"], found, strict=True):
        assert torch.allclose(features, teacher.features(speech[None], layer)[0], atol=1e-5)


def test_ngram_models_learn_from_as_many_utterances_as_asked_for(parts):
    def by_place(wav):
        return torch.arange(-(-wav.shape[-1] // 320))[None] % 5

    found = {"place": (by_place, 5)}
    few, all_of_them = (
        compare_units({}, found, *parts, UnitSettings(None, [5], max_frames=300, max_texts=texts))
        for texts in (2, 300)
    )
    frames = [-(-parts[0].length(index) // 320) for index in range(8)]  # each another unit
    assert few[-1]["ngram_units"] == frames[0] + frames[4]
    assert all_of_them[-1]["ngram_units"] == sum(frames)


def test_baselines_come_first_and_always(teacher, parts):
    changes = named_perturbations(["noise"])
    rows = layer_units(teacher, *parts, UnitSettings([1], [6, 12], changes, max_frames=500))
    assert not any(row["layer"] == 0 for row in rows)
    names = [(row["features"], row["layer"], row["num_units"]) for row in rows]
    expected = [("mfcc", None), ("log_mel", None), ("log_mel_context", None)]
    expected += [("untrained", 1), ("teacher", 1)]
    assert names == [(*one, size) for one in expected for size in (6, 12)]
    assert all(0.05 < row["pnmi"] < 0.9 for row in rows)
    assert all(row["noise_ued_units"] > 0 for row in rows)
    assert rows[1]["pnmi"] > rows[0]["pnmi"]  # more units, more information


def test_units_as_they_are_come_last_and_need_no_network(parts):
    def by_place(wav):
        return (torch.arange(-(-wav.shape[-1] // 320)) % 5)[None]

    rows = compare_units({}, {"place": (by_place, 5)}, *parts, UnitSettings(None, [5], {}, 300))
    assert [row["features"] for row in rows] == ["mfcc", "log_mel", "log_mel_context", "place"]
    assert rows[-1]["units_per_second"] == 50 and rows[-1]["bigram_perplexity"] < 1.1
    assert rows[-1]["pnmi"] < rows[0]["pnmi"]


def test_what_cannot_be_compared_is_refused(teacher, parts):
    with pytest.raises(ValueError, match="expected others to test on"):
        layer_units(teacher, parts[0], parts[0])
    with pytest.raises(ValueError, match="layer: got 3, expected 'avg' or 0 to 2"):
        layer_units(teacher, *parts, UnitSettings(layers=[3]))
    with pytest.raises(ValueError, match=r"perturb: got \['echo'\], expected some of"):
        named_perturbations(["noise", "echo"])
    silent = Corpus("silent", [dataclasses.replace(one, phonemes=()) for one in parts[1]])
    with pytest.raises(ValueError, match="ABX: got no phonemes in silent"):
        layer_units(teacher, parts[0], silent, UnitSettings(with_abx=True))


def test_every_k_means_has_its_layers_width(parts):
    def two(wav):
        frames = torch.randn(50, 9, generator=torch.Generator().manual_seed(wav.shape[-1]))
        return [frames[:, :4], frames[:, 4:]]

    found = fit_layers(two, parts[0], [3, 7], max_frames=200)
    assert [[(k.dim, k.num_units) for k in of] for of in found] == [
        [(4, 3), (4, 7)],
        [(5, 3), (5, 7)],
    ]
    again = fit_layers(two, parts[0], [3, 7], max_frames=200)
    assert torch.equal(again[1][0].centres, found[1][0].centres)


def test_any_network_can_be_made_anew():
    class Other(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(3, 3)

    other, state = Other(), torch.get_rng_state()
    fresh = fresh_like(other, None, seed=1)
    assert not torch.equal(fresh.inner.weight, other.inner.weight)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)  # weights come from the seed alone
    assert torch.equal(fresh.inner.weight, fresh_like(other, None, seed=1).inner.weight)


def test_unit_sets_are_fitted_on_one_corpus_and_name_another(teacher, parts):
    def features(wav):
        return layer_features(teacher, [0, 2], wav)

    found = unit_sets(features, *parts, num_units=7, max_frames=300, seed=3)
    fits = fit_layers(features, parts[0], [7], 300, 3)
    for layer, ((kmeans, units), (expected,)) in enumerate(zip(found, fits, strict=True)):
        assert torch.equal(kmeans.centres, expected.centres)
        assert list(units) == list(range(6))
        right = expected(features(parts[1].load(4)[None])[layer])
        assert torch.equal(units[4], right)


def test_a_voice_that_cannot_be_changed_is_no_other_voice(parts, tmp_path):
    pytest.importorskip("parselmouth", reason="needs codec-lib[voices]")
    voice = named_perturbations(["voice"])["voice"]
    breath = 0.01 * torch.randn(1, 8000)
    with pytest.raises(VoiceError):
        voice(breath, 16000, np.random.default_rng(0))
    audio.write(tmp_path / "breath.wav", breath, 16000)
    silent = dataclasses.replace(parts[1][0], audio_path=str(tmp_path / "breath.wav"))
    mixed = Corpus("mixed", [parts[1][0], silent])

    def sign(wav):
        return (wav[..., ::320] > 0)[:, 0].long()

    changed = hear(sign, mixed, voice)
    assert list(changed) == [0]
    row = robustness(hear(sign, mixed), changed, "voice")
    assert row["voice_ued_units"] > 0 and row["voice_ued_units_failures"] == 1


def _published(maker, **sizes):
    """Make a tiny torchaudio network with every weight moved, as if it were trained."""
    network = maker(
        "group_norm",
        [(8, 10, 5), *[(8, 3, 2)] * 4, *[(8, 2, 2)] * 2],
        False,
        encoder_embed_dim=16,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=8,
        encoder_pos_conv_groups=2,
        encoder_num_layers=2,
        encoder_num_heads=2,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=32,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.0,
        aux_num_out=None,
        **sizes,
    )
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return PretrainedTeacher(network)


@pytest.mark.parametrize(
    ("maker", "sizes"),
    [
        (torchaudio.models.wav2vec2_model, {}),
        (torchaudio.models.wavlm_model, {"encoder_num_buckets": 8, "encoder_max_distance": 20}),
    ],
)
def test_no_weight_of_a_published_network_is_kept(maker, sizes, speech):
    teacher = _published(maker, **sizes)
    before = teacher.fingerprint
    fresh = fresh_like(teacher, None, seed=1)
    assert teacher.fingerprint == before
    pairs = zip(teacher.named_parameters(), fresh.parameters(), strict=True)
    assert [name for (name, old), new in pairs if torch.equal(old, new)] == []
    convolution = fresh.model.encoder.transformer.pos_conv_embed.conv
    assert 0.9 < convolution.weight.abs().max() * (8 * 8) ** 0.5 <= 1.0001  # torch's own range
    assert fresh.features(speech[None]).isfinite().all()
    assert fresh_like(teacher, None, seed=1).fingerprint == fresh.fingerprint
    assert fresh_like(teacher, None, seed=2).fingerprint != fresh.fingerprint


def test_long_recordings_are_heard_in_pieces(teacher, monkeypatch):
    import codec_lib.teachers.features as features

    monkeypatch.setattr(features, "_WINDOW", 30)
    monkeypatch.setattr(features, "_MARGIN", 5)
    wav, heard = torch.randn(1, 1, 100 * 320 - 7), []
    whole = teacher.hidden_states
    monkeypatch.setattr(
        teacher, "hidden_states", lambda piece: heard.append(piece.shape[-1]) or whole(piece)
    )
    found = layer_features(teacher, [0, 2, "avg"], wav)
    assert len(heard) == 5 and max(heard) == 30 * 320
    for layer, frames in zip([0, 2, "avg"], found, strict=True):
        assert torch.allclose(frames, long_features(teacher, wav, layer), atol=1e-5)


def test_another_teacher_hears_where_it_is():
    class Far(torch.nn.Module):
        hop_length = 320

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.empty(1, device="meta"))

        def features(self, wav, layer):
            assert wav.device.type == "meta"
            return torch.full((1, 5, 3), float(layer))

    low, high = layer_features(Far(), [1, 2], torch.zeros(1, 1, 1600))
    assert low.shape == high.shape == (5, 3) and (high - low == 1).all()
