r"""k-means units: assignment, sampling on bounded memory, files."""

import pytest
import torch

from codec_lib.teachers.kmeans import KMeans, fit_kmeans, load_kmeans, sample_frames, save_kmeans


def test_units_are_the_nearest_centres_whatever_the_block():
    centres, frames = torch.randn(7, 5), torch.randn(2, 50, 5)
    kmeans = KMeans(centres)
    expected = torch.cdist(frames, centres.expand(2, 7, 5)).argmin(-1)
    assert torch.equal(kmeans(frames), expected)
    assert torch.equal(kmeans(frames, block=3), expected)
    with pytest.raises(ValueError, match="got width 4, expected 5"):
        kmeans(torch.zeros(1, 4))


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
    loaded = load_kmeans(save_kmeans(kmeans, tmp_path / "units.safetensors", {"layer": 4}))
    assert torch.equal(loaded.centres, kmeans.centres)
