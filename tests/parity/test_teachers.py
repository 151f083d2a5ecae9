r"""Teachers against torchaudio and transformers with the same random weights."""

import pytest
import torch
import torchaudio

from codec_lib.teachers.kmeans import KMeans
from codec_lib.teachers.mhubert import UnitsOfLayer
from codec_lib.teachers.pretrained import PretrainedTeacher

# The shape of HuBERT base in small: seven convolutions with 320 samples between frames, seeing 400.
CONVOLUTIONS = [(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2


def make_model(layer_norm_first=False, mode="group_norm", wavlm=False):
    """Make a small torchaudio model of the base or the large kind with random weights."""
    maker = torchaudio.models.wavlm_model if wavlm else torchaudio.models.wav2vec2_model
    relative = {"encoder_num_buckets": 32, "encoder_max_distance": 64} if wavlm else {}
    return maker(
        extractor_mode=mode,
        extractor_conv_layer_config=CONVOLUTIONS,
        extractor_conv_bias=layer_norm_first,
        encoder_embed_dim=32,
        encoder_projection_dropout=0.1,
        encoder_pos_conv_kernel=16,
        encoder_pos_conv_groups=4,
        encoder_num_layers=3,
        encoder_num_heads=4,
        encoder_attention_dropout=0.1,
        encoder_ff_interm_features=64,
        encoder_ff_interm_dropout=0.1,
        encoder_dropout=0.1,
        encoder_layer_norm_first=layer_norm_first,
        encoder_layer_drop=0.05,
        aux_num_out=None,
        **relative,
    ).eval()


@pytest.mark.parametrize("kind", ["base", "large", "wavlm"])
def test_layers_are_torchaudios(kind, speech_batch):
    large = kind == "large"
    model = make_model(large, "layer_norm" if large else "group_norm", kind == "wavlm")
    teacher = PretrainedTeacher(model)
    theirs, _ = model.extract_features(speech_batch[:, 0])
    ours = teacher.hidden_states(speech_batch)
    assert len(ours) == 4 and ours[0].shape == (4, (8000 - 400) // 320 + 1, 32)
    assert torch.allclose(ours[1], theirs[0], atol=1e-6)
    assert torch.allclose(ours[2], theirs[1], atol=1e-6)
    # The last one also passes through the final norm of the pre-norm models, as the output does.
    assert torch.allclose(ours[3], model(speech_batch[:, 0])[0], atol=1e-6)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kind", ["Wav2Vec2", "Hubert", "WavLM"])
def test_hidden_states_are_numbered_as_in_transformers(kind, large, speech_batch):
    """The published SpeechTokenizer averages transformers' 13 hidden states of HuBERT base."""
    transformers = pytest.importorskip("transformers")
    from torchaudio.models.wav2vec2.utils import import_huggingface_model

    eager = {} if kind == "WavLM" else {"attn_implementation": "eager"}
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=[c for c, _, _ in CONVOLUTIONS],
        conv_kernel=[k for _, k, _ in CONVOLUTIONS],
        conv_stride=[s for _, _, s in CONVOLUTIONS],
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        feat_extract_norm="layer" if large else "group",
        do_stable_layer_norm=large,
        conv_bias=large,
        apply_spec_augment=False,
        **eager,
    )
    published = getattr(transformers, f"{kind}Model")(config).eval()
    teacher = PretrainedTeacher(import_huggingface_model(published).eval())
    with torch.no_grad():
        output = published(speech_batch[:, 0], output_hidden_states=True)
    # Of pre-norm models, transformers before version 5 returned the last state normalised.
    theirs = [*output.hidden_states[:-1], output.last_hidden_state]
    ours = teacher.hidden_states(speech_batch)
    assert len(ours) == len(theirs) == 4
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert torch.allclose(one, other, atol=1e-5), number
    centres = torch.cat([state[:, ::4].flatten(0, 1) for state in theirs])
    for layer in (1, 2):  # units of a layer, as mHuBERT's of layer 11 of 12
        units = UnitsOfLayer(teacher, KMeans(centres), layer, True)(speech_batch)
        assert torch.equal(units, torch.cdist(theirs[layer], centres).argmin(-1))


def test_frames_line_up_with_the_codecs(speech):
    """As many frames as a codec of hop 320; frame f is centred on its samples."""
    teacher = PretrainedTeacher(make_model())
    for num_samples in (1, 320, 321, 8000):
        features = teacher.features(speech[None, :, :num_samples], layer=1)
        assert features.shape == (1, -(-num_samples // 320), 32)
    click = torch.zeros(1, 1, 6400)
    click[..., 10 * 320 + 160] = 1.0
    front, _ = teacher.model.feature_extractor(torch.nn.functional.pad(click[:, 0], (40, 40)), None)
    moved = (front - front[:, :1]).abs().sum(-1)[0]
    assert int(moved.argmax()) == 10


def test_average_and_normalisation(speech):
    model = make_model()
    teacher = PretrainedTeacher(model)
    layers = torch.stack([teacher.features(speech[None], n) for n in range(4)])
    assert torch.allclose(teacher.features(speech[None]), layers.mean(0), atol=1e-6)
    scaled = PretrainedTeacher(model, normalise_waveform=True)
    assert torch.allclose(
        scaled.features(speech[None]), scaled.features(0.1 * speech[None] + 0.2), atol=1e-2
    )
    with pytest.raises(ValueError, match="got 399 samples"):
        teacher.hidden_states(speech[None, :, :399])
    with pytest.raises(ValueError, match="expected 'avg' or 0 to 3"):
        teacher.features(speech[None], 4)
