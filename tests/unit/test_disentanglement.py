"""Which codebooks hold the voice: where the answer is known, and on a codec."""

import numpy as np
import pytest
import torch

import codec_lib
from codec_lib.data import corpus
from codec_lib.evaluation.disentanglement import (
    LayerVectors,
    default_groups,
    layer_vectors,
    projected,
    separation,
)


def known_answer() -> LayerVectors:
    """Make vectors that tell the speaker, the phoneme, or nothing."""
    draw = torch.Generator().manual_seed(0)
    speakers = [f"s{i % 6}" for i in range(60)]
    frame_speakers = [f"s{i % 6}" for i in range(600)]
    phonemes = [f"p{i // 6 % 5}" for i in range(600)]
    centres = 5 * torch.randn(6, 8, generator=draw)
    sounds = 5 * torch.randn(5, 8, generator=draw)

    def noise(count: int) -> torch.Tensor:
        return torch.randn(count, 8, generator=draw)

    by_voice = torch.stack([centres[int(name[1])] for name in speakers])
    frame_voice = torch.stack([centres[int(name[1])] for name in frame_speakers])
    by_sound = torch.stack([sounds[int(name[1])] for name in phonemes])
    return LayerVectors(
        {"voice": by_voice + noise(60), "sound": noise(60)},
        speakers,
        {"voice": frame_voice + noise(600), "sound": by_sound + noise(600)},
        phonemes,
        frame_speakers,
    )


def test_numbers_tell_who_holds_what():
    voice, sound = separation(known_answer())
    assert voice["speaker_silhouette"] > 0.5 > 0.1 > sound["speaker_silhouette"]
    assert voice["speaker_accuracy"] == 1 and sound["speaker_accuracy"] < 0.5
    assert sound["phoneme_silhouette"] > 0.5 > 0.1 > voice["phoneme_silhouette"]
    assert sound["phoneme_accuracy"] > 0.95 and voice["phoneme_accuracy"] < 0.4
    assert voice["speaker_chance"] == pytest.approx(1 / 6)


@pytest.mark.parametrize("how", ["tsne", "umap"])
def test_a_map_keeps_clusters_together_and_repeats(how: str):
    vectors = known_answer()
    points = vectors.utterances["voice"]
    made = projected(points, how)
    assert made.shape == (60, 2) and np.array_equal(made, projected(points, how))
    owner = np.array([int(name[1]) for name in vectors.speakers])
    apart = np.linalg.norm(made[:, None] - made[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    assert (owner[apart.argmin(1)] == owner).mean() > 0.9
    with pytest.raises(ValueError, match="one of"):
        projected(points, "pca")


def test_a_codec_gives_a_vector_for_each_group(tiny_corpus):
    codec = codec_lib.build("speechtokenizer", "smoke").eval()
    speech = corpus(str(tiny_corpus))
    found = layer_vectors(codec, speech, frames_each=5)
    names = list(default_groups(codec))
    assert list(found.utterances) == names and names[0] == "RVQ-1"
    assert found.utterances["RVQ-1"].shape == (len(speech), codec.config.latent_dim)
    whole = found.frames[names[0]] + found.frames[names[1]]
    assert torch.allclose(whole, found.frames[names[2]], atol=1e-5)
    assert "sil" not in found.phonemes and len(found.phonemes) == len(found.frames[names[0]])
    with pytest.raises(ValueError, match="expected 0 to"):
        layer_vectors(codec, speech, {"none": [99]})
