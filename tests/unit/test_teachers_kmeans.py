r"""k-means units: assignment, sampling on bounded memory, files."""

import pytest
import torch

from codec_lib.teachers.hubert import HubertConfig, SmallHubert
from codec_lib.teachers.kmeans import (
    PUBLISHED_FIT,
    KMeans,
    fit_kmeans,
    load_kmeans,
    sample_frames,
    save_kmeans,
)

TINY = HubertConfig(dim=16, num_layers=2, num_heads=2, ffn_dim=32, num_units=8, unit_dim=8)


def test_units_are_the_nearest_centres_whatever_the_block():
    centres, frames = torch.randn(7, 5), torch.randn(2, 50, 5)
    kmeans = KMeans(centres)
    expected = torch.cdist(frames, centres.expand(2, 7, 5)).argmin(-1)
    assert torch.equal(kmeans(frames), expected)
    assert torch.equal(kmeans(frames, block=3), expected)
    with pytest.raises(ValueError, match="got width 4, expected 5"):
        kmeans(torch.zeros(1, 4))


def test_units_are_those_of_a_comparison_in_float64():
    """The distance to the chosen centre is the smallest there is, at the published sizes."""
    centres, frames = 0.7 * torch.randn(1000, 192), torch.randn(500, 192)
    apart = torch.cdist(frames.double(), centres.double())  # (F, N)
    chosen = apart.gather(1, KMeans(centres)(frames)[:, None])[:, 0]
    torch.testing.assert_close(chosen, apart.amin(1), rtol=1e-7, atol=0)


def test_of_equally_near_centres_the_first_is_taken():
    """Whole numbers are exact, and differences are summed without a product: ties are ties."""
    centres, frames = torch.randint(-2, 3, (60, 4)).float(), torch.randint(-2, 3, (300, 4)).float()
    apart = (frames[:, None] - centres).double().square().sum(-1)
    assert (apart == apart.amin(1, keepdim=True)).sum() > 1.3 * len(frames)  # many ties
    first = (apart == apart.amin(1, keepdim=True)).int().argmax(1)
    assert torch.equal(KMeans(centres)(frames), first)


def test_half_precision_and_no_frames_are_units_too():
    kmeans = KMeans(torch.randn(7, 5))
    frames = torch.randn(20, 5).half()
    assert torch.equal(kmeans(frames, block=6), kmeans(frames.float()))
    assert kmeans(frames[:0]).shape == (0,) and kmeans(frames[None, :0]).shape == (1, 0)


def test_well_separated_clusters_are_found():
    truth = 20 * torch.eye(4)
    label = torch.arange(400) % 4
    frames = truth[label] + 0.1 * torch.randn(400, 4)
    units = fit_kmeans([frames[:150], frames[150:]], num_units=4)(frames)
    assert len({(int(a), int(b)) for a, b in zip(label, units, strict=True)}) == 4


def test_fitting_is_deterministic_and_needs_enough_frames():
    frames = [torch.randn(100, 3) for _ in range(3)]
    assert torch.equal(fit_kmeans(frames, 5).centres, fit_kmeans(frames, 5).centres)
    with pytest.raises(ValueError, match="got 300 frames, expected at least 301"):
        fit_kmeans(frames, 301)


def test_settings_reach_the_fit(monkeypatch):
    import sklearn.cluster

    seen, real = {}, sklearn.cluster.MiniBatchKMeans

    def spy(num_units, **settings):
        seen.update(settings)
        return real(num_units, **settings)

    monkeypatch.setattr(sklearn.cluster, "MiniBatchKMeans", spy)
    fit_kmeans([torch.randn(50, 2)], 3, **PUBLISHED_FIT)
    assert (seen["n_init"], seen["max_no_improvement"], seen["batch_size"]) == (20, 100, 10_000)
    fit_kmeans([torch.randn(50, 2)], 3)
    assert (seen["n_init"], seen["max_no_improvement"]) == (3, 50)


def test_sample_is_even_bounded_and_keeps_everything_that_fits():
    utterances = [torch.full((500, 1), float(i)) for i in range(20)]
    sample = sample_frames(utterances, 1000)
    counts = torch.bincount(sample[:, 0].long(), minlength=20)
    assert len(sample) == 1000
    assert counts.min() > 20 and counts.max() < 90  # 50 each on average
    assert len(sample_frames(utterances, 10**6)) == 10_000
    with pytest.raises(ValueError, match="no frames"):
        sample_frames([], 10)


def test_expected_frames_only_saves_work():
    utterances = [torch.randn(500, 1) for _ in range(20)]
    assert len(sample_frames(utterances, 1000, expected_frames=10_000)) == 1000


def test_file_keeps_the_units(tmp_path):
    kmeans = KMeans(torch.randn(7, 5))
    loaded = load_kmeans(save_kmeans(kmeans, tmp_path / "units.safetensors", {"corpus": "x"}))
    assert torch.equal(loaded.centres, kmeans.centres)


def test_file_knows_its_layer_and_teacher_and_refuses_others(tmp_path, speech):
    teacher, other = SmallHubert(TINY).eval(), SmallHubert(TINY).eval()
    path = tmp_path / "units.safetensors"
    save_kmeans(KMeans(torch.randn(7, 16), 2, teacher.fingerprint), path)
    kmeans = load_kmeans(path, teacher, 2)
    assert (kmeans.layer, kmeans.teacher) == (2, teacher.fingerprint)
    units = kmeans.units_of(teacher)(speech[None])
    assert torch.equal(units, kmeans(teacher.features(speech[None], 2)))
    assert units.shape == (1, 25)
    with pytest.raises(ValueError, match=f"{other.fingerprint}, expected {teacher.fingerprint}"):
        load_kmeans(path, other)
    with pytest.raises(ValueError, match="got a teacher with fingerprint"):
        kmeans.units_of(other)
    with pytest.raises(ValueError, match="got layer 1, expected 2, as fitted"):
        load_kmeans(path, teacher, 1)
    with pytest.raises(ValueError, match="got layer 1, expected 2, as fitted"):
        load_kmeans(path, layer=1)
    assert load_kmeans(path, layer=2).layer == 2


def test_units_of_an_unknown_layer_have_no_function():
    kmeans = KMeans(torch.randn(7, 16))
    with pytest.raises(ValueError, match="without a layer"):
        kmeans.units_of(SmallHubert(TINY))
