r"""What the teachers of a run say of a batch: where an utterance ends, and who lets them hear."""

import pytest
import torch
from torch.utils.data import DataLoader

import codec_lib
from codec_lib import audio
from codec_lib.data import Corpus, CropDataset, Utterance
from codec_lib.losses import GeneratorObjective
from codec_lib.losses.distillation import distillation_loss, pseudo_label_loss
from codec_lib.shapes import CodecOutput, Codes
from codec_lib.training import teaching as teaching_module
from codec_lib.training.config import load_config
from codec_lib.training.teaching import Teaching, make_teaching

HOP, HEARD, FRAMES = 320, 50, 150  # 1 s of speech in crops of 3 s


@pytest.fixture
def short(tmp_path, make_speech):
    """A corpus of one utterance of 1 s."""
    audio.write(tmp_path / "a.wav", make_speech(1.0), 16000)
    return Corpus("short", [Utterance("a", str(tmp_path / "a.wav"))])


def _batch(corpus, part, seconds=3.0):
    """Return a batch of one crop with what a teacher says of it."""
    crops = CropDataset(corpus, round(16000 * seconds), features=part, hop_length=HOP, length=1)
    return next(iter(DataLoader(crops, batch_size=1)))


def test_no_frame_behind_the_end_of_an_utterance_is_taught(short):
    spoken = torch.randn(HEARD, 8)
    teaching = Teaching({"semantic": lambda index: spoken}, (8,))
    features, inside = teaching.targets(_batch(short, teaching.features))["semantic"]
    assert inside[0].tolist() == [True] * HEARD + [False] * (FRAMES - HEARD)
    perfect = torch.cat([spoken, torch.randn(FRAMES - HEARD, 8)])[None]
    out = CodecOutput(
        torch.zeros(1, 1, FRAMES * HOP), Codes(torch.zeros(1, 1, FRAMES).long(), FRAMES * HOP),
        perfect, perfect, projections={"semantic": perfect.requires_grad_()},
    )  # fmt: skip
    objective = GeneratorObjective("small")
    told = objective(out, out.wav, targets={"semantic": (features, inside)}).terms["distill_loss"]
    assert told.item() == pytest.approx(0.3133, abs=1e-4)  # a cosine of 1 in every dimension
    told.backward()
    assert not perfect.grad[:, HEARD:].any()
    assert distillation_loss(perfect, features) > 0.4  # what padding made of it


def test_units_of_padding_are_ignored(short):
    units = torch.arange(HEARD)[:, None]
    teaching = Teaching({"units": lambda index: units}, (1,))
    found = teaching.targets(_batch(short, teaching.features))["units"]
    assert found[0].tolist() == [*range(HEARD), *[-100] * (FRAMES - HEARD)]
    logits = torch.nn.functional.one_hot(torch.arange(FRAMES) % HEARD, HEARD)[None] * 100.0
    logits[:, HEARD:] = torch.randn(FRAMES - HEARD, HEARD)
    assert pseudo_label_loss(logits, found) < 1e-6


def test_full_crops_are_taught_to_the_bit_as_without_a_mask(short):
    spoken = torch.randn(HEARD, 8)
    teaching = Teaching({"semantic": lambda index: spoken}, (8,))
    batch = _batch(short, teaching.features, seconds=0.5)
    features, inside = teaching.targets(batch)["semantic"]
    student = torch.randn(1, 25, 8)
    for options in ({}, {"centred": True}, {"axis": "t"}):
        masked = distillation_loss(student, features, heard=inside, **options)
        assert torch.equal(masked, distillation_loss(student, batch["features"], **options))
    units = Teaching({"units": lambda index: torch.arange(HEARD)[:, None]}, (1,))
    batch = _batch(short, units.features, seconds=0.5)
    assert torch.equal(units.targets(batch)["units"], batch["features"][..., 0].long())


class Speaker(torch.nn.Module):
    """A teacher that counts what it hears."""

    sample_rate, hop_length, dim, num_layers, fingerprint = 16000, HOP, 4, 1, "speaker"

    def __init__(self):
        super().__init__()
        self.weight, self.heard = torch.nn.Parameter(torch.zeros(1)), 0

    def features(self, wav, layer="avg"):
        self.heard += 1
        return torch.zeros(1, -(-wav.shape[-1] // HOP), 4)


def test_only_the_first_process_lets_the_teacher_hear(short, tmp_path, monkeypatch):
    monkeypatch.setenv("CODEC_LIB_CACHE", str(tmp_path / "cache"))
    teacher = Speaker()
    monkeypatch.setattr(teaching_module, "load_teacher", lambda name: teacher)
    config = load_config("smoke", changes={"teacher": "speaker"})
    given = config, short, codec_lib.build("speechtokenizer", "smoke"), torch.device("cpu")
    with pytest.raises(ValueError, match="expected those that process 0 has made"):
        make_teaching(*given, is_first=False)
    assert teacher.heard == 0
    make_teaching(*given)
    later = make_teaching(*given, is_first=False)
    assert teacher.heard == 1 and later.features(0).shape == (HEARD, 4) and teacher.heard == 1


def test_features_that_do_not_fit_are_refused_before_the_teacher_hears(
    short, tmp_path, monkeypatch
):
    monkeypatch.setenv("CODEC_LIB_CACHE", str(tmp_path / "cache"))
    teacher = Speaker()
    monkeypatch.setattr(teaching_module, "load_teacher", lambda name: teacher)
    changes = {"teacher": "speaker", "feature_disk_gb": 3e-7}  # 300 bytes for 400
    codec = codec_lib.build("speechtokenizer", "smoke")
    with pytest.raises(ValueError, match="features of short: got 4e-07 GB to write"):
        make_teaching(load_config("smoke", changes=changes), short, codec, torch.device("cpu"))
    assert teacher.heard == 0 and not (tmp_path / "cache").exists()
    enough = load_config("smoke", changes={**changes, "feature_disk_gb": 5e-7})
    make_teaching(enough, short, codec, torch.device("cpu"))
    assert teacher.heard == 1
