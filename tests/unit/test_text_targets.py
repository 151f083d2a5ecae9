"""Text vectors over time: where they stand, what pauses get, the padded form, the run's targets."""

import dataclasses

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

import codec_lib
from codec_lib.codecs.dm_codec import DmCodec
from codec_lib.data import Corpus, CropDataset, Phoneme, Utterance, corpus
from codec_lib.data.words import word_times
from codec_lib.teachers.ctc import CtcRecogniser
from codec_lib.teachers.features import FeatureCache
from codec_lib.teachers.hubert import HubertConfig, SmallHubert
from codec_lib.teachers.small_text import SmallTextEncoder, save_text_encoder
from codec_lib.teachers.text_targets import TextCache, TextTargets
from codec_lib.training import teaching as teaching_module
from codec_lib.training.config import load_config
from codec_lib.training.teaching import Teaching, _units, make_teaching

HOP = 320


class Lengths:
    """A language model that knows how long words are, and where a piece stands."""

    dim, num_layers, fingerprint = 2, 1, "lengths"

    def encode(self, words, layer="avg"):
        return torch.tensor([[len(word), place + 1.0] for place, word in enumerate(words)])

    def hidden_pieces(self, text, layer="avg", length=None):
        rows = self.encode(text.split())
        padding = torch.full((length - len(rows), 2), -7.0)
        return torch.cat([rows, padding])


@pytest.fixture(scope="module")
def spoken():
    return corpus("synthetic/small", "train")


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    """A text encoder with random weights on disk."""
    path = tmp_path_factory.mktemp("text") / "text.safetensors"
    return str(save_text_encoder(SmallTextEncoder(), path))


def test_each_frame_in_a_word_has_its_vector_and_pauses_have_none(spoken):
    targets = TextTargets(Lengths(), spoken)
    assert targets.num_spoken == len(spoken)
    for index in (0, 3):
        found, words = targets(index), word_times(spoken[index])
        frames = -(-spoken.length(index) // HOP)
        assert found.shape == (frames, 3) and found.dtype == torch.float16
        expected = torch.zeros(frames, 3)
        for frame in range(frames):
            centre = (frame + 0.5) * HOP
            for place, word in enumerate(words):
                if word.start <= centre < word.end:
                    expected[frame] = torch.tensor([len(word.text), place + 1, 1])
        assert torch.equal(found.float(), expected)
        assert 0.5 < found[:, 2].float().mean() < 1  # leading silence is no word


def test_the_padded_form_pairs_piece_and_frame_whatever_is_said(spoken):
    aligned, padded = (TextTargets(Lengths(), spoken, form=form) for form in ("aligned", "padded"))
    found, words = padded(0), word_times(spoken[0])
    assert found[:, 2].all()
    clip = [word for word in words if word.start < 150 * HOP]
    assert found[: len(clip), 0].tolist() == [len(word.text) for word in clip]
    assert (found[len(clip) : 150, 0] == -7).all()
    assert not torch.equal(found, aligned(0))


def test_other_words_keep_the_times_of_the_utterance(spoken):
    targets = TextTargets(Lengths(), spoken)
    own, found = targets(0), targets.with_words(0, ["a", "bc"])
    count = len(word_times(spoken[0]))
    assert torch.equal(found[:, 2], own[:, 2]) and not found[found[:, 2] == 0].any()
    said = found[found[:, 2] > 0, :2].unique_consecutive(dim=0).tolist()
    assert said == [[1, 1], [2, 2]] * (count // 2) + [[1, 1]] * (count % 2)
    with pytest.raises(ValueError, match="none empty"):
        targets.with_words(0, ["a", " "])
    itself = targets.with_words(0, [word.text for word in targets.words(0)])
    assert torch.equal(itself, own)


def test_other_words_keep_the_letters_of_each_clip(spoken):
    read = []

    class Remembers(Lengths):
        def hidden_pieces(self, text, layer="avg", length=None):
            read.append(text)
            return super().hidden_pieces(text, layer, length)

    targets = TextTargets(Remembers(), spoken, form="padded", window=40)
    own, right = targets(0), list(read)
    found = targets.with_words(0, ["some", "more"])
    wrong = read[-len(right) :]
    assert len(right) > 1 and [len(text) for text in wrong] == [len(text) for text in right]
    assert all(text and text in "some more " * 40 for text in wrong)
    assert torch.equal(found[:, 2], own[:, 2]) and not torch.equal(found, own)


def test_speech_without_text_or_times_has_no_target(tmp_path, spoken, make_speech):
    codec_lib.audio.write(tmp_path / "a.wav", make_speech(0.5), 16000)
    bare = [
        Utterance("silent", str(tmp_path / "a.wav")),
        Utterance("untimed", str(tmp_path / "a.wav"), text="two words"),
    ]
    with pytest.raises(ValueError, match="no utterance with text and phonemes"):
        TextTargets(Lengths(), Corpus("bare", bare))
    timed = Utterance(
        "timed",
        str(tmp_path / "a.wav"),
        text="I see",
        sample_rate=8000,  # times count at the file's rate, frames at the corpus's
        phonemes=(Phoneme("AY", 0, 1600), Phoneme("S", 1600, 2000), Phoneme("IY", 2000, 4000)),
    )
    targets = TextTargets(Lengths(), Corpus("mixed", [*bare, timed]))
    assert targets.num_spoken == 1
    assert not targets(0).any() and not targets(1).any() and targets.words(0) == []
    assert targets(2)[:, 0].tolist() == [1] * 10 + [3] * 15
    with pytest.raises(ValueError, match="got 'shuffled'"):
        TextTargets(Lengths(), spoken, form="shuffled")


def test_targets_come_apart_again():
    parts = {"semantic": lambda index: torch.ones(4, 3), "text": lambda index: torch.zeros(4, 3)}
    teaching = Teaching(parts, (3, 3))
    batch = {"features": torch.stack([teaching.features(0), teaching.features(1)])}
    batch |= {"wav": torch.zeros(2, 1, 4 * HOP), "num_valid": torch.tensor([4 * HOP, 4 * HOP])}
    found = teaching.targets(batch)
    features, inside = found["semantic"]
    assert torch.equal(features, torch.ones(2, 4, 3)) and inside.all()
    vectors, heard = found["text"]
    assert vectors.shape == (2, 4, 2) and heard.dtype == torch.bool and not heard.any()
    assert Teaching().features is None and Teaching().targets(batch) is None


@pytest.mark.parametrize("distill", ["none", "continuous", "pseudo_label"])
def test_a_run_has_the_teachers_it_asks_for(distill, spoken, text_file, tmp_path, monkeypatch):
    monkeypatch.setenv("CODEC_LIB_CACHE", str(tmp_path))
    lines = []
    changes = {"codec": "dm_codec", "teacher": "hubert-small", "distill": distill, "units": 8}
    config = load_config("smoke", changes={**changes, "text_teacher": text_file})
    codec = codec_lib.build("dm_codec", "smoke")
    first = {spoken[0].utterance_id, spoken[1].utterance_id}
    few = spoken.select(lambda utterance: utterance.utterance_id in first)
    teaching = make_teaching(config, few, codec, torch.device("cpu"), lines.append)
    assert lines[-1] == "text teacher: 2 of 2 utterances have words with times"
    assert len(list((tmp_path / "text").rglob("*.npy"))) == 2
    names = {"none": ("text",), "continuous": ("semantic", "text")}
    assert teaching.projections == names.get(distill, ("units", "text"))
    # One map for both where widths are equal: both small teachers have 192.
    assert teaching.overrides["text_dim"] == (192 if distill == "none" else 0)
    fitted = DmCodec(dataclasses.replace(codec.config, **teaching.overrides))
    out = fitted(0.1 * torch.randn(1, 1, 20 * HOP))
    batch = {"features": teaching.features(0)[None, :20], "wav": torch.zeros(1, 1, 20 * HOP)}
    targets = teaching.targets({**batch, "num_valid": torch.tensor([20 * HOP])})
    for name, target in targets.items():
        width = {"semantic": 192, "text": 192, "units": 8}[name]
        assert out.projections[name].shape == (1, 20, width), name
        expected = (1, 20) if name == "units" else (1, 20, width)
        assert (target[0] if isinstance(target, tuple) else target).shape == expected, name


def test_other_codecs_have_no_text_teacher(spoken):
    config = load_config("smoke", changes={"text_teacher": "bert_base"})
    codec = codec_lib.build("speechtokenizer", "smoke")
    with pytest.raises(ValueError, match="speechtokenizer, which has no projection"):
        make_teaching(config, spoken, codec, torch.device("cpu"))


@pytest.mark.parametrize("form", ["aligned", "padded"])
def test_no_word_is_said_behind_the_end_of_a_recording(form, spoken, tmp_path):
    """The last frame is repeated there: with a word in it, it would count."""
    first = word_times(spoken[0])[0]
    end = (first.start + first.end) // 2  # a recording that stops within a word
    path = tmp_path / "short.wav"
    codec_lib.audio.write(path, spoken.load(0)[:, :end], 16000)
    short = dataclasses.replace(spoken[0], audio_path=str(path), num_samples=end)
    text = TextTargets(Lengths(), Corpus("short", [short]), form=form)
    frames = -(-end // HOP)
    assert text(0)[-1, -1] == 1
    teaching = Teaching({"semantic": lambda index: text(index) + 1, "text": text}, (3, 3))
    samples = 2 * frames * HOP
    crops = CropDataset(
        Corpus("short", [short]), samples, features=teaching.features, hop_length=HOP
    )
    batch = next(iter(DataLoader(crops, batch_size=1)))
    assert batch["num_valid"] == end
    found = teaching.targets(batch)
    heard = found["text"][1][0]
    assert heard[frames - 1] and not heard[frames:].any()
    assert torch.equal(heard[:frames], text(0)[:, -1] > 0)
    assert torch.equal(found["semantic"][1][0], torch.arange(2 * frames) < frames)


class Strict(Lengths):
    """As BERT: reads no more than three words."""

    def encode(self, words, layer="avg"):
        if len(words) > 3:
            raise ValueError(f"text: got {len(words)} pieces, expected at most 3")
        return super().encode(words)


def test_a_text_that_does_not_fit_is_logged_once_and_has_no_target(spoken, caplog):
    few = dataclasses.replace(spoken[1], utterance_id="fast", text="a b " * 80)
    long = dataclasses.replace(spoken[2], utterance_id="long", text="one two three four")
    fits = dataclasses.replace(spoken[3], text="one two")
    targets = TextTargets(Strict(), Corpus("mixed", [few, long, fits]))
    for _ in range(2):
        assert not targets(0).any() and not targets(1).any() and targets(2)[:, 2].any()
    assert targets(0).shape == (-(-few.num_samples // HOP), 3)
    assert len(caplog.records) == 2 and targets.words(0) == []
    assert "fast: no text target: fast: words: got 160 words for" in caplog.text
    assert "long: no text target: text: got 4 pieces" in caplog.text
    assert sorted(targets.failures) == [0, 1] and targets.num_spoken == 3


class Counted(Lengths):
    """Counts what it reads."""

    read = 0

    def encode(self, words, layer="avg"):
        self.read += 1
        return super().encode(words)


@pytest.mark.parametrize("form", ["aligned", "padded"])
def test_targets_are_kept_on_disk_as_they_are(form, spoken, tmp_path, caplog):
    few, done = spoken[:3], []
    direct = TextTargets(Lengths(), few, form=form)
    cache = TextCache(TextTargets(Lengths(), few, form=form), tmp_path)
    cache.fill(lambda *one: done.append(one))
    assert done == [(1, 3), (2, 3), (3, 3)]
    again = TextCache(TextTargets(Counted(), few, form=form), tmp_path)
    assert all(torch.equal(again(index), direct(index)) for index in range(3))
    assert again.targets.encoder.read == 0
    files = list(tmp_path.rglob("*.npy"))
    assert len(files) == 3
    if form == "aligned":
        assert sum(file.stat().st_size for file in files) < 0.4 * sum(
            direct(index).numel() * 2 for index in range(3)
        )
    files[0].write_bytes(files[0].read_bytes()[:-4])
    np.save(files[1], np.zeros((2, 4), np.float16))
    mended = TextCache(TextTargets(Counted(), few, form=form), tmp_path)
    assert all(torch.equal(mended(index), direct(index)) for index in range(3))
    assert mended.targets.encoder.read >= 2 and caplog.text.count("damaged text targets") == 2


def test_long_pauses_survive_the_file(tmp_path, make_speech):
    codec_lib.audio.write(tmp_path / "a.wav", torch.zeros(1, 3000 * 16), 800)
    phones = (Phoneme("sil", 0, 2900 * 16), Phoneme("AY", 2900 * 16, 3000 * 16))
    one = Utterance("a", str(tmp_path / "a.wav"), text="I", sample_rate=800, phonemes=phones)
    targets = TextTargets(Lengths(), Corpus("pause", [one], 800), hop_length=16)
    direct = targets(0)
    TextCache(targets, tmp_path)(0)
    again = TextCache(TextTargets(Counted(), targets.corpus, hop_length=16), tmp_path)
    assert torch.equal(again(0), direct) and again.targets.encoder.read == 0
    assert direct[:, 2].sum() == 100 and len(direct) == 3000


def test_kept_targets_belong_to_audio_text_reader_layer_and_form(spoken, tmp_path):
    def read(encoder=None, corpus=spoken[:1], **options):
        counted = encoder or Counted()
        TextCache(TextTargets(counted, corpus, **options), tmp_path)(0)
        return counted.read

    other = Counted()
    other.fingerprint = "other"
    said_otherwise = dataclasses.replace(spoken[0], text="something else")
    heard_otherwise = dataclasses.replace(spoken[0], phonemes=spoken[0].phonemes[:-2])
    assert read() == 1 and read() == 0
    assert read(other) == 1 and read(layer=1) == 1 and read(form="padded") > 0
    assert read(corpus=Corpus("text", [said_otherwise])) == 1
    assert read(corpus=Corpus("phonemes", [heard_otherwise])) == 1
    assert read() == 0


def test_texts_that_do_not_fit_are_not_kept(spoken, tmp_path, caplog):
    bad = dataclasses.replace(spoken[0], utterance_id="bad", text="a b " * 80)
    for _ in range(2):  # every run says so again
        cache = TextCache(TextTargets(Lengths(), Corpus("bad", [bad])), tmp_path)
        assert not cache(0).any() and not cache(0).any()
    assert caplog.text.count("bad: no text target") == 2
    assert not list(tmp_path.rglob("*.npy"))


def test_a_recogniser_hears_16_khz(spoken):
    recogniser = CtcRecogniser(SmallHubert(HubertConfig(dim=32, num_layers=1, ffn_dim=64)))
    fast = Corpus("fast", list(spoken[:2]), sample_rate=24000)
    with pytest.raises(ValueError, match="fast: got 24000 Hz, expected the recogniser's 16000 Hz"):
        TextTargets(Lengths(), fast, recogniser=recogniser)
    assert (
        TextTargets(Lengths(), fast, hop_length=480)(0).shape[0]
        == TextTargets(Lengths(), spoken)(0).shape[0]
    )  # known times need no recogniser


def test_the_text_part_is_checked_before_anybody_hears_the_corpus(spoken, text_file, monkeypatch):
    def deaf(name):
        raise AssertionError(f"{name} was loaded")

    monkeypatch.setattr(teaching_module, "load_teacher", deaf)
    asked = []
    monkeypatch.setattr(teaching_module.asr, "published_recogniser", asked.append)
    codec = codec_lib.build("dm_codec", "smoke")
    base = {"codec": "dm_codec", "teacher": "hubert-small", "distill": "continuous"}
    for changes, message in (
        ({"text_teacher": "nobody"}, "nobody"),
        ({"text_teacher": text_file, "text_aligner": "nobody"}, "nobody"),
        ({"text_teacher": text_file, "text_layer": 99}, "layer: got 99"),
    ):
        config = load_config("smoke", changes={**base, **changes})
        with pytest.raises(ValueError, match=message):
            make_teaching(config, spoken, codec, torch.device("cpu"))
    paper = {"text_teacher": text_file, "text_aligner": load_config("dm_codec-paper").text_aligner}
    with pytest.raises(AssertionError, match="hubert-small was loaded"):
        make_teaching(
            load_config("smoke", changes={**base, **paper}), spoken, codec, torch.device("cpu")
        )
    assert asked == ["wav2vec2_asr_base_960h"]


def test_a_run_without_any_text_that_fits_is_refused(spoken, text_file, tmp_path, monkeypatch):
    monkeypatch.setenv("CODEC_LIB_CACHE", str(tmp_path))
    bad = [dataclasses.replace(spoken[0], utterance_id="bad", text="a b " * 80)]
    config = load_config("smoke", changes={"codec": "dm_codec", "text_teacher": text_file})
    codec = codec_lib.build("dm_codec", "smoke")
    with pytest.raises(ValueError, match="got 1 utterances, none of whose texts fits"):
        make_teaching(config, Corpus("bad", bad), codec, torch.device("cpu"))


def test_units_belong_to_the_audio_and_not_to_its_names(tmp_path, make_speech, monkeypatch):
    monkeypatch.setenv("CODEC_LIB_CACHE", str(tmp_path / "cache"))

    def named(folder, seed):
        (tmp_path / folder).mkdir()
        for number in range(3):
            path = tmp_path / folder / f"{number}.wav"
            codec_lib.audio.write(path, make_speech(0.5, seed=10 * seed + number), 16000)
        path = tmp_path / folder / "3.wav"  # header in order, samples not
        soundfile.write(path, np.full(8000, np.nan, np.float32), 16000, subtype="FLOAT")
        return Corpus("same", [Utterance(str(n), str(path.with_stem(str(n)))) for n in range(4)])

    class Levels:
        sample_rate, hop_length, dim, num_layers, fingerprint = 16000, HOP, 1, 1, "levels"

        def features(self, wav, layer="avg"):
            return wav.unflatten(-1, (-1, HOP)).abs().mean(-1)[:, 0, :, None]

    config = load_config("smoke", changes={"units": 4})
    one, other = (FeatureCache(Levels(), named(name, seed)) for seed, name in enumerate("ab"))
    centres = [_units(config, part.corpus, part, "levels").centres for part in (one, other, one)]
    assert torch.equal(centres[0], centres[2]) and not torch.equal(centres[0], centres[1])
    assert len(list((tmp_path / "cache" / "units").glob("*.safetensors"))) == 2
