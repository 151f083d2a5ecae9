r"""fairseq checkpoints: read without running them, renamed for torchaudio, mHuBERT's units."""

import argparse
import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
import torchaudio
from sklearn.cluster import MiniBatchKMeans

from codec_lib.teachers import load_teacher, pretrained
from codec_lib.teachers.fairseq_file import Inert, read_fairseq, read_inert, torchaudio_names
from codec_lib.teachers.mhubert import UNITS_FILE, mhubert_units
from codec_lib.teachers.pretrained import PUBLISHED

CONVOLUTIONS = [(8, 10, 5)] + [(8, 3, 2)] * 4 + [(8, 2, 2)] * 2


def sizes(large=False):
    """Return what a small model of the base or the large kind is made with."""
    return {
        "extractor_mode": "layer_norm" if large else "group_norm",
        "extractor_conv_layer_config": CONVOLUTIONS,
        "extractor_conv_bias": large,
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
        "encoder_layer_norm_first": large,
        "encoder_layer_drop": 0.0,
        "aux_num_out": None,
    }


def as_fairseq(model, large=False):
    """Write down by hand what fairseq calls each weight of a torchaudio model with two layers."""
    own = model.state_dict()
    pairs = {"layer_norm": "encoder.feature_projection.layer_norm"}
    pairs["post_extract_proj"] = "encoder.feature_projection.projection"
    pairs["encoder.layer_norm"] = "encoder.transformer.layer_norm"
    for number in range(7):
        theirs, ours = (f"feature_extractor.conv_layers.{number}{end}" for end in (".0", ".conv"))
        pairs[theirs] = ours
        if large or number == 0:
            norm = f"feature_extractor.conv_layers.{number}.2" + (".1" if large else "")
            pairs[norm] = f"feature_extractor.conv_layers.{number}.layer_norm"
    for number in (0, 1):
        theirs, ours = f"encoder.layers.{number}.", f"encoder.transformer.layers.{number}."
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            pairs[f"{theirs}self_attn.{name}"] = f"{ours}attention.{name}"
        pairs[f"{theirs}self_attn_layer_norm"] = f"{ours}layer_norm"
        pairs[f"{theirs}fc1"] = f"{ours}feed_forward.intermediate_dense"
        pairs[f"{theirs}fc2"] = f"{ours}feed_forward.output_dense"
        pairs[f"{theirs}final_layer_norm"] = f"{ours}final_layer_norm"
    renamed = {
        f"{theirs}.{kind}": own.pop(f"{ours}.{kind}")
        for theirs, ours in pairs.items()
        for kind in ("weight", "bias")
        if f"{ours}.{kind}" in own
    }
    place = "encoder.transformer.pos_conv_embed.conv."
    renamed["encoder.pos_conv.0.bias"] = own.pop(place + "bias")
    renamed["encoder.pos_conv.0.weight_g"] = own.pop(place + "parametrizations.weight.original0")
    renamed["encoder.pos_conv.0.weight_v"] = own.pop(place + "parametrizations.weight.original1")
    assert not own
    return renamed


HEADS = {
    "hubert": ("mask_emb", "final_proj.weight", "final_proj.bias", "label_embs_concat"),
    "wav2vec2": ("mask_emb", "quantizer.vars", "quantizer.weight_proj.weight", "project_q.bias"),
}


@pytest.fixture
def foreign(monkeypatch):
    """Return objects of classes that the reader cannot import, as fairseq's files hold them."""
    made = {}
    for name in ("fairseq", "fairseq.data"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for name, kind in (("fairseq.data.dictionary", "Dictionary"), ("omegaconf", "DictConfig")):
        module = ModuleType(name)
        made[kind] = type(kind, (), {"__module__": name})
        setattr(module, kind, made[kind])
        monkeypatch.setitem(sys.modules, name, module)
    dictionary, settings = made["Dictionary"](), made["DictConfig"]()
    dictionary.symbols, dictionary.indices = ["<s>", "0", "1"], {"<s>": 0, "0": 1, "1": 2}
    settings.__dict__.update(_content={"normalize": False}, _parent=None)
    return dictionary, settings


def write_checkpoint(path, weights, foreign):
    """Write a file in the layout of fairseq's checkpoints."""
    dictionary, settings = foreign
    torch.save(
        {
            "args": argparse.Namespace(arch="hubert", lr=[0.0005]),
            "cfg": settings,
            "model": weights,
            "task_state": {"dictionaries": [dictionary]},
            "optimizer_history": [{"criterion_name": "HubertCriterion", "num_updates": 400000}],
            "extra_state": {"epoch": 1, "previous_training_time": np.float64(1.5)},
            "last_optimizer_state": None,
        },
        path,
    )
    for name in ("fairseq.data.dictionary", "omegaconf"):
        sys.modules.pop(name)


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2"])
@pytest.mark.parametrize("large", [False, True])
def test_weights_are_torchaudios_under_their_names(foreign, tmp_path, kind, large):
    model = torchaudio.models.wav2vec2_model(**sizes(large)).eval()
    weights = as_fairseq(model, large) | {name: torch.ones(2) for name in HEADS[kind]}
    write_checkpoint(tmp_path / "model.pt", {k: v.half() for k, v in weights.items()}, foreign)
    found = read_fairseq(tmp_path / "model.pt")
    other = torchaudio.models.wav2vec2_model(**sizes(large))
    other.load_state_dict(found)  # strict
    for name, value in model.state_dict().items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], value.half().float()), name


def test_objects_of_unknown_classes_are_kept_inert(foreign, tmp_path):
    write_checkpoint(tmp_path / "model.pt", {"mask_emb": torch.ones(2)}, foreign)
    found = read_inert(tmp_path / "model.pt")
    assert isinstance(found["args"], Inert) and found["args"].state["arch"] == "hubert"
    assert type(found["args"]) is not argparse.Namespace
    (dictionary,) = found["task_state"]["dictionaries"]
    assert isinstance(dictionary, Inert) and dictionary.state["indices"]["1"] == 2
    assert found["cfg"].state["_content"] == {"normalize": False}
    assert "fairseq.data.dictionary" not in sys.modules and "omegaconf" not in sys.modules
    allowed = str(torch.serialization.get_safe_globals())
    assert not any(name in allowed for name in ("Namespace", "Dictionary", "DictConfig"))


class Trap:
    """What unpickling would run."""

    def __init__(self, call, *given):
        self.asked = call, given

    def __reduce__(self):
        return self.asked


@pytest.mark.parametrize("where", ["model", "task_state"])
def test_a_malicious_file_does_nothing(tmp_path, where):
    target = tmp_path / "made"
    for call, given in ((exec, f"open({str(target)!r}, 'w')"), (subprocess.run, ["touch", target])):
        content = {"model": {}, "task_state": {}}
        content[where]["x"] = Trap(call, given)
        torch.save(content, tmp_path / "evil.pt")
        found = read_inert(tmp_path / "evil.pt")
        assert isinstance(found[where]["x"], Inert) and not target.exists()
        if where == "model":
            with pytest.raises(ValueError, match="got no weights under 'model'"):
                read_fairseq(tmp_path / "evil.pt")
        assert not target.exists()
        torch.load(tmp_path / "evil.pt", weights_only=False)  # the trap works
        assert target.exists()
        target.unlink()
    torch.save(Trap(os.mkdir, str(target)), tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="blocked"):
        read_inert(tmp_path / "evil.pt")
    assert not target.exists()


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.pt").write_text("<html>not found</html>")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"text\.pt: got a file that cannot be read as weights"):
        read_fairseq(tmp_path / "text.pt")
    with pytest.raises(ValueError, match="got no weights under 'model'"):
        read_fairseq(tmp_path / "list.pt")
    with pytest.raises(ValueError, match="expected a file"):
        read_fairseq(tmp_path / "none.pt")
    with pytest.raises(ValueError, match=r"got 'decoder\.weight', expected a weight of HuBERT"):
        torchaudio_names({"decoder.weight": torch.ones(1)})


@pytest.fixture
def mhubert(monkeypatch, tmp_path, foreign, speech):
    """Put a tiny mHuBERT with 16 units where torch.hub keeps files."""
    bundle = SimpleNamespace(_params=sizes(), _model_type="Wav2Vec2", _normalize_waveform=False)
    monkeypatch.setattr(torchaudio.pipelines, "HUBERT_BASE", bundle)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    model = torchaudio.models.wav2vec2_model(**sizes()).eval()
    file = tmp_path / "checkpoints" / PUBLISHED["mhubert_base"].file
    write_checkpoint(file, as_fairseq(model), foreign)
    kmeans = MiniBatchKMeans(16)
    frames = torch.cat(model.extract_features(speech)[0], 1)[0, ::3]  # of both layers
    kmeans.cluster_centers_ = frames.detach().numpy()
    joblib.dump(kmeans, tmp_path / "checkpoints" / UNITS_FILE)
    return model, torch.from_numpy(kmeans.cluster_centers_)


def test_units_are_the_nearest_centroids_of_the_layer(mhubert, speech):
    model, centres = mhubert
    states = model.extract_features(speech)[0]
    for layer in (1, 2):  # fairseq's output_layer counts from 1
        units = mhubert_units(layer=layer, published_frames=True)(speech[None])
        expected = torch.cdist(states[layer - 1].double(), centres.double()).argmin(-1)
        assert units.shape == (1, 24) and torch.equal(units, expected)
    assert len(expected.unique()) > 2
    aligned = mhubert_units(layer=2)
    assert aligned(speech[None]).shape == (1, 25) and aligned.num_units == 16
    features = load_teacher("mhubert_base").features(speech[None], 2)
    expected = torch.cdist(features.double(), centres.double()).argmin(-1)
    assert torch.equal(aligned(speech[None]), expected)
    with pytest.raises(ValueError, match="layer: got 11, expected 0 to 2"):
        mhubert_units()


def test_missing_files_are_named_with_size_address_and_place(mhubert, tmp_path, monkeypatch):
    place = tmp_path / "checkpoints"
    (place / UNITS_FILE).unlink()
    with pytest.raises(ValueError) as caught:
        mhubert_units(layer=2)
    for part in (
        str(place / UNITS_FILE),
        "3 MB",
        f"https://dl.fbaipublicfiles.com/hubert/{UNITS_FILE}",
    ):
        assert part in str(caught.value)
    (place / PUBLISHED["mhubert_base"].file).unlink()
    with pytest.raises(ValueError) as caught:
        mhubert_units(layer=2)
    file = "mhubert_base_vp_en_es_fr_it3.pt"
    for part in (str(place / file), "about 1 GB", f"https://dl.fbaipublicfiles.com/hubert/{file}"):
        assert part in str(caught.value)
    fetched = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *given: fetched.append(given))
    with pytest.raises(ValueError):
        mhubert_units(layer=2, download=True)
    assert fetched == [(f"https://dl.fbaipublicfiles.com/hubert/{file}", str(place / file))]


def test_its_features_are_cached(mhubert, tmp_path, make_speech):
    from codec_lib import audio
    from codec_lib.data import Corpus, Utterance
    from codec_lib.teachers import FeatureCache

    audio.write(tmp_path / "a.wav", make_speech(0.4), 16000)
    corpus = Corpus("one", [Utterance("a", str(tmp_path / "a.wav"))])
    teacher = pretrained("mhubert_base")
    first = FeatureCache(teacher, corpus, 1, tmp_path / "cache")(0)
    assert first.shape == (20, 16) and first.dtype == torch.float16
    expected = teacher.features(corpus.load(0)[None], 1)[0]
    assert torch.allclose(first.float(), expected, atol=2e-3)
    teacher.features = None  # from disk now, not from the teacher
    assert torch.equal(FeatureCache(teacher, corpus, 1, tmp_path / "cache")(0), first)
