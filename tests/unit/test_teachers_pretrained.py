r"""Published teachers: messages where weights are missing, loading from a file, frames."""

from types import SimpleNamespace

import pytest
import torch
import torchaudio

from codec_lib.teachers import load_teacher, pretrained
from codec_lib.teachers.pretrained import PUBLISHED, PretrainedTeacher, weights_path

TINY = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [(8, 10, 5), (8, 8, 8), (8, 8, 8)],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 16,
    "encoder_projection_dropout": 0.0,
    "encoder_pos_conv_kernel": 8,
    "encoder_pos_conv_groups": 2,
    "encoder_num_layers": 2,
    "encoder_num_heads": 2,
    "encoder_attention_dropout": 0.0,
    "encoder_ff_interm_features": 32,
    "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.0,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.0,
    "aux_num_out": None,
}


@pytest.fixture
def tiny_bundle(monkeypatch):
    """Make hubert_base mean a tiny model."""
    bundle = SimpleNamespace(_params=TINY, _model_type="Wav2Vec2", _normalize_waveform=False)
    monkeypatch.setattr(torchaudio.pipelines, "HUBERT_BASE", bundle)
    return torchaudio.models.wav2vec2_model(**TINY).eval()


def test_missing_weights_are_named_with_size_address_and_place(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError) as caught:
        load_teacher("hubert_base")
    message = str(caught.value)
    assert str(tmp_path / "checkpoints" / "hubert_fairseq_base_ls960.pth") in message
    assert "360 MB" in message
    assert "https://download.pytorch.org/torchaudio/models/hubert_fairseq_base_ls960.pth" in message


def test_unknown_names_are_refused(tmp_path):
    for path in (None, tmp_path / "any.pth"):
        with pytest.raises(ValueError, match="got 'hubert_huge', expected one of"):
            pretrained("hubert_huge", path)
    with pytest.raises(ValueError, match="'no-such-teacher'"):
        load_teacher("no-such-teacher")


@pytest.mark.parametrize("name", [name for name, one in PUBLISHED.items() if not one.is_fairseq])
def test_the_list_agrees_with_torchaudio(name):
    entry = PUBLISHED[name]
    bundle = getattr(torchaudio.pipelines, entry.bundle)
    assert bundle._path == entry.file and bundle.sample_rate == 16000
    assert weights_path(name).name == entry.file


def test_weights_are_read_from_a_file(tiny_bundle, tmp_path, speech):
    torch.save(tiny_bundle.state_dict(), tmp_path / "weights.pth")
    teacher = pretrained("hubert_base", tmp_path / "weights.pth")
    assert (teacher.dim, teacher.num_layers, teacher.frame_rate) == (16, 2, 50)
    theirs, _ = tiny_bundle.extract_features(speech)
    states = teacher.hidden_states(speech[None])
    for ours, published in zip(states[1:], theirs, strict=True):
        assert torch.equal(ours, published)
    assert not any(p.requires_grad for p in teacher.parameters())


def test_files_that_hold_something_else_are_refused(tiny_bundle, tmp_path):
    state = tiny_bundle.state_dict()
    state.pop(next(iter(state)))
    torch.save(state, tmp_path / "part.pth")
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    torch.save(SimpleNamespace(code="runs"), tmp_path / "object.pth")  # needs unpickling of code
    for name in ("part", "text", "object"):
        with pytest.raises(ValueError, match=f"{name}.pth: got a file that does not hold"):
            pretrained("hubert_base", tmp_path / f"{name}.pth")


def test_fingerprint_follows_the_weights(tiny_bundle, tmp_path):
    torch.save(tiny_bundle.state_dict(), tmp_path / "weights.pth")
    one, other = (pretrained("hubert_base", tmp_path / "weights.pth") for _ in range(2))
    assert one.fingerprint == other.fingerprint
    with torch.no_grad():
        next(iter(other.model.parameters())).add_(1)
    assert one.fingerprint != other.fingerprint


def test_layers_that_ask_for_gradient_get_it_at_the_codecs_frames(tiny_bundle, speech):
    teacher = PretrainedTeacher(tiny_bundle)
    states = teacher.aligned_states(speech[None, :, :7001])
    assert states[-1].shape == (1, 22, 16) and not states[-1].requires_grad
    assert torch.equal(states[1], teacher.features(speech[None, :, :7001], 1))
    top = teacher.model.encoder.transformer.layers[-1].requires_grad_(True)
    states = teacher.aligned_states(speech[None])
    assert states[-1].requires_grad and not states[-2].requires_grad
    states[-1].square().sum().backward()
    assert all(weight.grad is not None for weight in top.parameters())
    assert teacher.model.encoder.transformer.layers[0].attention.k_proj.weight.grad is None
