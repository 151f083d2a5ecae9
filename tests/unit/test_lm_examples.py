"""Texts and codes for the language model: symbols, joined utterances, files, speaking."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import codec_lib
from codec_lib import audio
from codec_lib.cli import app
from codec_lib.data import Corpus, corpus
from codec_lib.data.espeak import EspeakMissing
from codec_lib.lm import examples
from codec_lib.lm.config import LanguageConfig, module_config
from codec_lib.lm.examples import JoinedBatches, Spoken, collate, joined, places_of, spoken_of
from codec_lib.lm.files import load_language_model, save_language_model
from codec_lib.lm.layers import prefix_mask
from codec_lib.lm.loading import load_speaking_model
from codec_lib.lm.run import start_from_codec
from codec_lib.lm.sampling import Sampling
from codec_lib.lm.speaking import Prompt, synthesise
from codec_lib.lm.symbols import SYMBOLS, numbers_of, spoken_symbols
from codec_lib.lm.unified import build_unified


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    return codec_lib.build("speechtokenizer", "smoke", codebook_size=1024).eval()


def _spoken(frames: list[int], speakers: str) -> list[Spoken]:
    return [
        Spoken(f"u{n}", speaker, ("AA", "."), torch.full((2, count), n), torch.tensor([0] * count))
        for n, (count, speaker) in enumerate(zip(frames, speakers, strict=True))
    ]


def test_symbols_are_those_of_the_sentence():
    assert spoken_symbols("Well, the cats.") == [
        *("W", "EH", "L", ",", "_", "DH", "AH", "_", "K", "AE", "T", "S", ".")
    ]
    assert len(set(SYMBOLS)) == len(SYMBOLS) <= 64
    assert numbers_of(["_"]).tolist() == [1, 3, 2]
    with pytest.raises(ValueError, match="'XX'"):
        numbers_of(["XX"])
    with pytest.raises(ValueError, match="word"):
        spoken_symbols("...")


def test_a_corpus_as_symbols_and_codes(codec, tiny_corpus):
    speech = corpus(str(tiny_corpus))
    spoken = spoken_of(speech, codec, 3)
    assert [one.utterance_id for one in spoken] == [one.utterance_id for one in speech]
    wav = speech.load(2)
    assert torch.equal(spoken[2].codes, codec.encode(wav[None]).codes[0, :3])
    assert spoken[2].symbols == tuple(spoken_symbols(speech[2].text))
    silent = Corpus("silent", [replace(one, text="") for one in speech], 16000)
    with pytest.raises(ValueError, match="no utterance with text"):
        spoken_of(silent, codec)


def test_places_are_the_symbols_that_are_spoken(tiny_corpus):
    speech = corpus(str(tiny_corpus))
    for index, one in enumerate(speech):
        symbols, frames = spoken_symbols(one.text), -(-speech.length(index) // 320)
        places = places_of(one, symbols, frames, 320)
        own = [phone for phone in one.phonemes if phone.symbol != "sil"]
        written = [number for number, symbol in enumerate(symbols) if symbol.isupper()]
        assert int((places < 0).sum()) > 5  # the pauses at both ends
        assert places[places >= 0].diff().min() >= 0 and int(places.max()) == written[-1]
        if len(own) != len(written):  # another accent
            continue
        middles = [(phone.start + phone.end) // 640 for phone in own]
        assert [int(places[middle]) for middle in middles] == written
        if "en-us+" in one.speaker_id:  # says it as it is written
            assert [symbols[places[middle]] for middle in middles] == [p.symbol for p in own]
    assert (places_of(replace(speech[0], phonemes=()), symbols, 9, 320) == -1).all()


def test_reading_along_costs_nothing_and_reading_elsewhere_much():
    model = build_unified("smoke", ar_layers=3).eval()
    second, third = (layer.attention for layer in model.ar.decoder.layers[1:])
    weights = torch.zeros(1, 1, 9, 9)
    places = torch.tensor([[0, 2, -1, 4]])  # of four frames behind five symbols
    for frame, symbol in enumerate((1, 2, 0, 4)):  # beside it counts
        weights[:, :, 5 + frame, symbol] = 1
    second.weights = third.weights = lambda x, mask, heads: weights
    given = (torch.ones(1, 5, dtype=torch.long), torch.tensor([5]), torch.zeros(1, 4).long())
    states, loss = model.ar.states_and_reading(*given, None, places)
    assert float(loss) == 0
    assert torch.equal(states, model.ar.states(*given))
    weights[:, :, 5] = torch.eye(9)[4] * 0.5  # the first frame: four symbols away
    _, loss = model.ar.states_and_reading(*given, None, places)
    assert float(loss) == pytest.approx(-math.log(1e-6) / 3, rel=1e-4)
    right = weights.clone()
    right[0, 0, 5] = torch.eye(9)[1]
    third.weights = lambda x, mask, heads: right  # the next layer has seen the mistake
    _, loss = model.ar.states_and_reading(*given, None, places)
    assert float(loss) == pytest.approx(-math.log(1e-6) / 6, rel=1e-4)


def test_joining_and_collating():
    spoken = _spoken([3, 5], "aa")
    text, codes, positions, places = joined(spoken, (1, 0), 0.5)
    symbols = ["<bos>", "AA", ".", "_", "AA", ".", "<eos>"]
    assert [SYMBOLS[n] for n in text.tolist()] == symbols
    assert codes.tolist() == [[1] * 5 + [0] * 3] * 2
    assert [int(text[place]) for place in places.unique()] == [int(text[1])] * 2  # AA, twice
    assert positions.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 3.5, 4.0]  # behind AA . _
    assert joined(spoken, (1, 0))[2].tolist() == [*range(8)]  # as released
    batch = collate([joined(spoken, (0,)), (text, codes, positions, places)])
    assert batch.positions.shape == batch.places.shape
    assert batch.places.shape == (2, codes.shape[1]) and int(batch.places[0, -1]) == -1
    batch = collate([joined(spoken, (0,))[:2], (text, codes)])
    assert batch.places is None and batch.positions is None
    assert batch.text.shape == (2, 7) and batch.text[0, 4:].tolist() == [0, 0, 0]
    assert batch.codes.shape == (2, 2, 8)
    assert batch.text_lengths.tolist() == [4, 7] and batch.code_lengths.tolist() == [3, 8]


def test_groups_are_of_one_speaker_short_enough_and_complete():
    frames, speakers = [10 + n % 7 for n in range(60)], "abc" * 20
    spoken = _spoken([*frames, 99], speakers + "a")
    batches = JoinedBatches(spoken, 4, most_frames=40, most_joined=3, seed=1)
    groups = [group for batch in batches.epoch(0) for group in batch]
    assert len({len(group) for group in groups}) > 1
    for group in groups:
        assert len({spoken[n].speaker for n in group}) == 1
        assert sum(frames[n] for n in group) <= 40
    used = [n for group in groups for n in group]
    assert len(used) == len(set(used)) >= 50 and 60 not in used
    assert batches.epoch(0) == batches.epoch(0) != batches.epoch(1)


def test_batches_go_on_and_are_shared_between_processes():
    spoken = _spoken([10] * 12, "ab" * 6)
    whole = JoinedBatches(spoken, 2, 20, 2)
    every = whole.from_step(0)
    first = [next(every) for _ in range(20)]
    later = whole.from_step(7)
    assert [next(later) for _ in range(13)] == first[7:]
    parts = [whole.from_step(0, rank, 2) for rank in (0, 1)]
    assert [[*next(parts[0]), *next(parts[1])] for _ in range(20)] == first
    with pytest.raises(ValueError, match="batch_size: got 20, expected at most 12"):
        JoinedBatches(spoken, 20, 20, 2)
    with pytest.raises(ValueError, match="most_frames"):
        JoinedBatches(spoken, 2, 5)


def test_a_small_corpus_fills_every_batch_of_every_epoch():
    batches = JoinedBatches(_spoken([5] * 17, "a" * 17), 8, 100, most_joined=3)
    for epoch in range(30):
        first = batches.epoch(epoch)[0]
        assert len(first) == 8
        used = [number for group in first for number in group]
        assert len(set(used)) == len(used)


def test_a_missing_synthesiser_is_not_a_corpus_without_texts(codec, tiny_corpus, monkeypatch):
    def missing(text):
        raise EspeakMissing("espeak-ng: got no package, expected it installed")

    monkeypatch.setattr(examples, "spoken_symbols", missing)
    with pytest.raises(EspeakMissing, match="expected it installed"):
        spoken_of(corpus(str(tiny_corpus)), codec, 3)


def test_a_model_speaks_by_the_codec_it_learnt_from_alone(codec, tmp_path):
    file = codec_lib.hub.save_codec(codec, tmp_path / "codec.safetensors")
    torch.manual_seed(1)  # other weights than the fixture's, whichever test made it
    anew = codec_lib.build("speechtokenizer", "smoke", codebook_size=1024)
    other = codec_lib.hub.save_codec(anew, tmp_path / "other.safetensors")
    card = {"codec": str(file), "codec_fingerprint": codec_lib.hub.sha256(file)[:16]}
    model = build_unified("smoke").eval()
    path = save_language_model(model, tmp_path / "lm.safetensors", card)
    assert load_speaking_model(path).sample_rate == 16000
    with pytest.raises(ValueError, match="trained anew in the same place"):
        load_speaking_model(path, other)
    with pytest.raises(ValueError, match="names no codec, expected one"):
        load_speaking_model(save_language_model(model, tmp_path / "lm.safetensors", {}))


def test_config_says_what_is_wrong():
    assert module_config(LanguageConfig, "smoke", {"lr": "1e-4"}).lr == 1e-4
    for values, message in (
        ({"steps": 0}, "steps"),
        ({"average_decay": 2}, "average_decay"),
        ({"precision": "16"}, "precision"),
        ({"clip_norm": -1}, "clip_norm"),
        ({"guided_steps": -1}, "guided_steps"),
        ({"part": "second"}, "part"),
    ):
        with pytest.raises(ValueError, match=message):
            LanguageConfig(**values)
    with pytest.raises(ValueError, match="most_frames"):
        module_config(LanguageConfig, "small", {"max_frames": 3})


def test_embeddings_start_at_the_vectors_that_codes_stand_for(codec):
    vectors = [codec.quantizer.contribution(torch.arange(1024), k) for k in range(8)]
    model = build_unified("smoke", dim=2 * vectors[0].shape[1])
    start_from_codec(model, codec)
    angles = torch.nn.functional.normalize(sum(one[:9] for one in vectors), dim=-1)
    read = sum(table.weight[:9] for table in model.nar.code_embeddings)
    read = torch.nn.functional.normalize(read, dim=-1)
    torch.testing.assert_close(read @ read.T, angles @ angles.T, atol=1e-5, rtol=0)
    assert torch.equal(model.ar.head.weight[:1024], model.ar.code_embedding.weight[:1024])
    assert float(model.ar.head.weight.detach().std()) == pytest.approx(0.2, rel=0.01)


def test_a_file_gives_the_model_back(tmp_path):
    model = build_unified("smoke", dim=16)
    path = save_language_model(model, tmp_path / "a.safetensors", {"codec": "x"}, half=False)
    again = load_language_model(path)
    assert again.card == {"codec": "x"} and again.config == model.config
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    with pytest.raises(ValueError, match="unified"):
        load_language_model("text-small")


def test_speaking_and_its_command(codec, tmp_path, make_speech):
    model = build_unified("smoke").eval()
    with torch.no_grad():
        model.ar.head.weight[-1] = 0
    prompt, sampling = Prompt(make_speech(1.0), "Hello."), Sampling(frames_per_symbol=2)
    wavs = synthesise(model, codec, ["Two.", "A longer one."], [prompt, None], sampling, seed=1)
    sizes = [len(spoken_symbols(text)) * 2 * codec.hop_length for text in ("Two.", "A longer one.")]
    assert [wav.shape for wav in wavs] == [(1, size) for size in sizes]
    (again,) = synthesise(model, codec, ["A longer one."], [None], sampling, seed=2)
    torch.testing.assert_close(again, wavs[1], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="prompts"):
        synthesise(model, codec, ["Two."], [])
    with pytest.raises(ValueError, match="codebooks"):
        synthesise(model, codec_lib.build("speechtokenizer", "smoke").eval(), ["Two."], [None])

    saved = codec_lib.hub.save_codec(codec, tmp_path / "codec.safetensors")
    file = save_language_model(model, tmp_path / "lm.safetensors", {"codec": str(saved)})
    audio.write(tmp_path / "in.wav", make_speech(1.0), 16000)
    command = ["speak", "Two.", str(tmp_path / "out.wav"), "--model", str(file)]
    voice = ["--prompt", str(tmp_path / "in.wav"), "--prompt-text", "Hello."]
    done = CliRunner().invoke(app, [*command, *voice])
    assert done.exit_code == 0, done.output
    assert audio.read(tmp_path / "out.wav").shape[1] > 0
    done = CliRunner().invoke(app, [*command, *voice[:2]])
    assert done.exit_code == 2 and "--prompt-text" in done.output


def test_the_command_says_what_it_cannot_train():
    for arguments, message in (
        (["parrot"], "expected one of"),
        (["tokenizer", "--codec", "a"], "expected none"),
        (["unified", "--preset", "huge"], "preset"),
        (["unified", "--set", "most_frame=3"], "most_frames"),
    ):
        done = CliRunner().invoke(app, ["train-lm", *arguments])
        assert done.exit_code == 2 and message in done.output, done.output


def test_what_frames_read_is_a_part_of_the_attention_maps():
    torch.manual_seed(0)
    ar = build_unified("smoke").eval().ar
    text, codes = torch.randint(60, (7,)), torch.randint(1024, (5,))
    maps = ar.reading(text, codes)
    assert maps.shape == (2, 2, 5, 7)
    mask = prefix_mask(torch.ones(1, 7, dtype=torch.bool), 5)
    with torch.no_grad():
        x = ar.embedded(text[None], codes[None])
        layer = ar.decoder.layers[0]
        whole = layer.attention.weights(layer.attention_norm(x), mask)[0]  # (heads, 12, 12)
    assert torch.equal(maps[0], whole[:, 7:, :7]) and bool((maps.sum(-1) <= 1 + 1e-6).all())
