"""Tables of anchors: published files read without running them, our own, and loading by name."""

from __future__ import annotations

import os
import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans

from codec_lib.quantizers import AnchoredQuantizer, load_anchor
from codec_lib.teachers import HubertConfig, SmallHubert
from codec_lib.teachers.anchors import fit_anchor, read_centroids, save_anchor


@pytest.fixture(scope="module")
def fitted() -> MiniBatchKMeans:
    rows = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    return MiniBatchKMeans(9, n_init=1, random_state=np.random.RandomState(0)).fit(rows)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_centroids_of_a_joblib_file(fitted, tmp_path, protocol):
    joblib.dump(fitted, tmp_path / "km.bin", protocol=protocol)
    table = read_centroids(tmp_path / "km.bin")
    assert table.dtype == torch.float32
    assert torch.equal(table, torch.from_numpy(fitted.cluster_centers_).float())


def test_arrays_in_fortran_order_and_other_types(tmp_path):
    fitted = MiniBatchKMeans(4)
    fitted.cluster_centers_ = np.asfortranarray(np.arange(12.0).reshape(4, 3).astype(">f8"))
    joblib.dump(fitted, tmp_path / "km.bin")
    assert torch.equal(read_centroids(tmp_path / "km.bin"), torch.arange(12.0).view(4, 3))


class Trap:
    """What unpickling would run."""

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_trap_is_named_and_not_run(tmp_path, protocol, inside):
    trap = Trap()
    trap.target = tmp_path / "sprung"
    what = MiniBatchKMeans(4)
    what.cluster_centers_, what.extra = np.zeros((2, 2)), trap
    joblib.dump(what if inside else trap, tmp_path / "km.bin", protocol=protocol)
    with pytest.raises(ValueError, match=r"asks for (posix|nt)\.mkdir"):
        read_centroids(tmp_path / "km.bin")
    assert not trap.target.exists()
    pickle.loads(pickle.dumps(trap))  # the trap works
    assert trap.target.exists()


def test_files_that_are_no_kmeans(fitted, tmp_path):
    path = tmp_path / "km.bin"
    joblib.dump(fitted, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"km\.bin"):
        read_centroids(path)
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="no uncompressed joblib file"):
        read_centroids(path)
    joblib.dump({"weights": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="no cluster_centers_"):
        read_centroids(path)
    objects = MiniBatchKMeans(4)
    objects.cluster_centers_ = np.array([[object()]])
    joblib.dump(objects, path)
    with pytest.raises(ValueError, match="array of 'O8'"):
        read_centroids(path)
    with pytest.raises(ValueError, match="mhubert_base_vp_en_es_fr"):
        read_centroids(tmp_path / "missing.bin")


def test_saved_tables_load_by_path_and_unknown_names_list_the_known(tmp_path):
    table = torch.randn(5, 3).half().float()
    path = save_anchor(table, tmp_path / "anchors.safetensors", {"source": "a test"})
    assert torch.equal(load_anchor(path), table) and path.stat().st_size < 1000
    with pytest.raises(ValueError, match="hubert-small-km1000"):
        load_anchor("no-such-anchors")
    path.write_bytes(b"broken")
    with pytest.raises(ValueError, match="anchors convert"):
        load_anchor(path)


@pytest.mark.parametrize("num_anchors", [500, 1000])
def test_shipped_anchors_are_different_units(num_anchors):
    table = load_anchor(f"hubert-small-km{num_anchors}")
    assert table.shape == (num_anchors, 192) and torch.isfinite(table).all()
    quantizer = AnchoredQuantizer(192, table, "direct")
    codes = torch.arange(num_anchors).view(1, 1, -1)
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


class Noise:
    """A corpus of three utterances."""

    def __len__(self) -> int:
        return 3

    def length(self, index: int) -> int:
        return 32000

    def load(self, index: int) -> torch.Tensor:
        return 0.1 * torch.randn(1, 32000, generator=torch.Generator().manual_seed(index))


def test_anchors_of_a_teacher():
    config = HubertConfig(dim=16, num_layers=2, num_heads=2, ffn_dim=16, num_mels=20, unit_dim=8)
    teacher = SmallHubert(config)
    table = fit_anchor(teacher, Noise(), num_units=6, max_frames=200)
    assert table.shape == (6, 16)
    assert torch.equal(table, fit_anchor(teacher, Noise(), 6, layer=1, max_frames=200))
    assert not torch.equal(table, fit_anchor(teacher, Noise(), 6, layer=2, max_frames=200))
