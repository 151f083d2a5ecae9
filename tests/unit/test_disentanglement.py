"""Which codebooks hold the voice: where the answer is known, and on a codec."""

import numpy as np
import pytest
import torch

import codec_lib
from codec_lib.data import corpus
from codec_lib.evaluation.disentanglement import (
    LayerVectors,
    default_groups,
    feature_vectors,
    layer_vectors,
    pooled_frames,
    projected,
    separation,
    speaker_accuracy_by_frames,
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


def test_only_a_random_start_makes_another_map_of_another_seed():
    points = known_answer().utterances["voice"]
    one, other = (projected(points, seed=seed) for seed in (0, 1))
    assert np.abs(one - other).max() < 0.1 * np.abs(one).max()
    one, other = (projected(points, seed=seed, start="random") for seed in (0, 1))
    assert np.abs(one - other).max() > 0.5 * np.abs(one).max()


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


def test_any_features_go_the_same_way_as_codes(tiny_corpus):
    codec = codec_lib.build("speechtokenizer", "smoke").eval()
    speech = corpus(str(tiny_corpus))

    def first(wav: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"RVQ-1": codec.latent(codec.encode(wav, n_q=1))[0].T}

    by_codec = layer_vectors(codec, speech, {"RVQ-1": [0]}, frames_each=5)
    by_hand = feature_vectors(first, speech, codec.frame_rate, frames_each=5)
    assert torch.equal(by_codec.frames["RVQ-1"], by_hand.frames["RVQ-1"])
    assert torch.equal(by_codec.utterances["RVQ-1"], by_hand.utterances["RVQ-1"])
    assert by_hand.phonemes == by_codec.phonemes
    owners = by_hand.frame_utterances
    assert owners == sorted(owners) and set(owners) == set(range(len(speech)))
    assert by_hand.frame_speakers == [by_hand.speakers[owner] for owner in owners]


def test_a_voice_under_loud_sounds_takes_many_frames():
    """A weak voice in strong noise: one frame tells little, fifty tell all; noise never tells."""
    draw = torch.Generator().manual_seed(0)
    owners = torch.arange(24).repeat_interleave(50)
    voices = 0.7 * torch.randn(4, 8, generator=draw)
    noise = [torch.randn(len(owners), 8, generator=draw) for _ in range(2)]
    frames = {"voice": voices[owners % 4] + noise[0], "noise": noise[1]}
    names = [f"s{i % 4}" for i in range(24)]
    means = {name: torch.stack([one[owners == i].mean(0) for i in range(24)])
             for name, one in frames.items()}  # fmt: skip
    vectors = LayerVectors(
        means, names, frames, [], [names[i] for i in owners.tolist()], owners.tolist()
    )
    rows = speaker_accuracy_by_frames(vectors, (1, 50))
    found = {(row["layers"], row["frames"]): row["speaker_accuracy"] for row in rows}
    assert 0.3 < found["voice", 1] < 0.9 and found["voice", 50] == 1
    assert found["noise", 1] < 0.45 and found["noise", 50] < 0.7
    assert rows[0]["speaker_chance"] == 0.25 and rows[0]["num_tests"] == 12 * 50
    pooled, whose = pooled_frames(vectors, "voice", 20)  # two means of 20 of 50 frames each
    assert pooled.shape == (48, 8) and whose == sorted(list(range(24)) * 2)
    assert 0.15 < pooled_frames(vectors, "noise", 25)[0].std() < 0.25  # 1 / sqrt(25)
    with pytest.raises(ValueError, match="at most the frames kept"):
        pooled_frames(vectors, "voice", 51)
    with pytest.raises(ValueError, match="at most the frames kept"):
        speaker_accuracy_by_frames(vectors, (51,))
