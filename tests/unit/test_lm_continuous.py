"""Continuous tokens: the tokenizer, heads with known answers, the model, what it writes."""

from __future__ import annotations

import math

import pytest
import torch
from typer.testing import CliRunner

from codec_lib import audio
from codec_lib.cli import app
from codec_lib.codecs.continuous import DiscreteTwin, build_continuous
from codec_lib.data import Corpus, Utterance, corpus
from codec_lib.data.utterances import Phoneme
from codec_lib.lm.continuous import build_continuous_model, write_tokens
from codec_lib.lm.continuous_run import (
    load_continuous_model,
    save_continuous_model,
    synthesise_continuous,
)
from codec_lib.lm.examples import collate_tokens, joined, spoken_of, token_spoken_of
from codec_lib.lm.heads import FlowHead, MeanHead
from codec_lib.lm.sampling import Sampling
from codec_lib.lm.speaking import Prompt, synthesise
from codec_lib.lm.symbols import spoken_symbols
from codec_lib.lm.tokenizer_run import (
    load_codes_of,
    load_tokenizer,
    save_tokenizer,
    spoken_frames,
    spoken_within,
)
from codec_lib.lm.unified import build_unified

MOST = [6, 9, 4]


@pytest.fixture
def tokenizer():
    return build_continuous("smoke").eval()


@pytest.fixture(params=["mean", "flow"])
def model(request):
    """A model that never ends by itself."""
    model = build_continuous_model("smoke", head=request.param).eval()
    with torch.no_grad():
        model.stop.weight.zero_()
        model.stop.bias.fill_(-20.0)
    return model


def _batch(lengths=((12, 6), (7, 0), (9, 3))):
    items = [(torch.randint(4, 40, (s,)), torch.randn(8, f)) for s, f in lengths]
    return collate_tokens(items)


@pytest.mark.parametrize("samples", [1, 639, 640, 641, 5000])
def test_every_length_comes_back(tokenizer, samples):
    wav = 0.1 * torch.randn(2, 1, samples)
    tokens = tokenizer.encode(wav)
    assert tokens.shape == (2, 8, -(-samples // 640))
    assert tokenizer.decode(tokens, samples).shape == wav.shape
    torch.testing.assert_close(tokens.mean(1), torch.zeros_like(tokens[:, 0]), atol=1e-5, rtol=0)
    square = tokens.square().mean(1)
    torch.testing.assert_close(square, torch.ones_like(square), atol=1e-2, rtol=0)


def test_what_the_recogniser_hears_teaches_the_encoder(make_speech):
    wav = make_speech(0.5)[None]
    for listener, frames in (("reconstruction", 25), ("tokens", 13)):
        tokenizer = build_continuous("smoke", listener=listener)
        out = tokenizer(wav)
        assert out.logits.shape == (1, frames, 40)
        out.logits.square().mean().backward()
        heard = {
            name.split(".")[0] for name, p in tokenizer.named_parameters() if p.grad is not None
        }
        assert {"encoder", "embedding", "listener"} <= heard
        assert ("decoder" in heard) == (listener == "reconstruction")
    assert build_continuous("smoke", listener="none")(wav).logits is None


def test_the_discrete_twin_sends_codebook_entries(make_speech):
    tokenizer, wav = build_continuous("smoke", discrete=True), make_speech(1.0)[None]
    tokenizer(wav)
    tokens = tokenizer.eval().encode(wav)
    codes = tokenizer.quantizer.encode(tokenizer.embed(wav))
    assert codes.shape == (1, 2, 25)
    assert torch.equal(tokens, tokenizer.quantizer.decode(codes))


def test_phonemes_within_a_crop():
    phonemes = (Phoneme("sil", 0, 640), Phoneme("AA", 640, 1600), Phoneme("B", 1600, 2240))
    utterance = Utterance("a", "a.wav", phonemes=phonemes, num_samples=2240, sample_rate=16000)
    bare = Utterance("b", "b.wav", num_samples=960, sample_rate=16000)
    two = Corpus("two", [utterance, bare])
    two._lengths.update({0: 2240, 1: 960})
    rows = spoken_frames(two, 320)(0)
    assert rows[:, 0].tolist() == [0, 0, 2, 2, 2, 3, 3]
    assert spoken_within(rows) == [rows[2, 1], rows[5, 1]]
    assert spoken_within(rows[:3]) == [] and spoken_within(rows[3:6]) == [rows[2, 1], rows[5, 1]]
    assert spoken_within(spoken_frames(two, 320)(1)) is None


def test_the_mean_heads_loss_is_the_squared_error():
    head, states, tokens = MeanHead(4, 3), torch.randn(5, 4), torch.randn(5, 3)
    expected = (head.to_token(states) - tokens).square().mean(1)
    torch.testing.assert_close(head.loss(states, tokens), expected)


def test_flow_matching_learns_two_clouds_where_the_mean_lies_between():
    """Tokens are +1 or -1 in each of two places by chance; a state says which pair is likelier."""
    flow, mean = FlowHead(1, 1, width=32, depth=2, steps=32), MeanHead(1, 1)
    optimizer = torch.optim.Adam([*flow.parameters(), *mean.parameters()], 3e-3)
    for _ in range(400):
        signs = torch.where(torch.rand(256, 1) < 0.75, 1.0, -1.0)
        states = torch.ones(256, 1)
        loss = flow.loss(states, signs).mean() + mean.loss(states, signs).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    generators = [torch.Generator().manual_seed(n) for n in range(1000)]
    with torch.no_grad():
        drawn = flow.draw_token(torch.ones(1000, 1), generators)[:, 0]
        middle = mean.draw_token(torch.ones(1, 1), generators)[0, 0]
    assert float((drawn > 0).double().mean()) == pytest.approx(0.75, abs=0.07)
    assert float((drawn.abs() - 1).abs().mean()) < 0.2
    assert float(middle) == pytest.approx(0.5, abs=0.1)


def test_without_noise_every_draw_is_the_same():
    torch.manual_seed(0)
    head, states = FlowHead(4, 3), torch.randn(1, 4).expand(2, -1)
    torch.nn.init.normal_(head.to_velocity.weight)
    draws = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    first, second = head.draw_token(states, draws, 0.0)
    assert torch.allclose(first, second, atol=1e-6)
    first, second = head.draw_token(states, draws, 0.5)
    assert not torch.allclose(first, second, atol=1e-2)


def test_losses_with_known_answers():
    model = build_continuous_model("smoke").eval()
    with torch.no_grad():
        for layer in (model.head.to_token, model.stop):
            layer.weight.zero_()
            layer.bias.zero_()
    batch = _batch(((5, 4), (7, 2)))
    found = model(batch)
    real = torch.cat([batch.tokens[0], batch.tokens[1, :2]])
    torch.testing.assert_close(found["token"], real.square().mean())
    assert float(found["stop"].detach()) == pytest.approx(math.log(2), rel=1e-5)
    assert float(found["loss"].detach()) == pytest.approx(
        float(found["token"].detach()) + math.log(2)
    )


def test_a_token_hears_no_later_one_and_no_padding(model):
    batch = _batch(((9, 6), (5, 3)))
    states = model.states(batch.text, batch.text_lengths, batch.tokens)
    other = batch.tokens.clone()
    other[0, 4:] += 1.0
    again = model.states(batch.text, batch.text_lengths, other)
    assert torch.equal(states[0, :5], again[0, :5]) and not torch.equal(states[0, 5], again[0, 5])
    alone = model.states(batch.text[1:, :5], batch.text_lengths[1:], batch.tokens[1:, :3])
    torch.testing.assert_close(states[1:, :4], alone, atol=1e-5, rtol=1e-5)


def test_the_cache_and_the_batch_change_nothing(model):
    batch = _batch()
    fast, slow = (write_tokens(model, batch, MOST, 3, use_cache) for use_cache in (True, False))
    assert [one.shape for one in fast] == [(most, 8) for most in MOST]
    for item, (one, other) in enumerate(zip(fast, slow, strict=True)):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.mean(-1), torch.zeros(len(one)), atol=1e-5, rtol=0)
        text, tokens = int(batch.text_lengths[item]), int(batch.token_lengths[item])
        alone = collate_tokens([(batch.text[item, :text], batch.tokens[item, :tokens].T)])
        (found,) = write_tokens(model, alone, [MOST[item]], 3 + item)
        torch.testing.assert_close(found, one, atol=1e-4, rtol=1e-4)


def test_an_item_ends_where_the_second_output_says_so(model):
    with torch.no_grad():
        model.stop.bias.fill_(20.0)
    assert [one.shape for one in write_tokens(model, _batch(), MOST)] == [(0, 8)] * 3
    with pytest.raises(ValueError, match="most"):
        write_tokens(model, _batch(), [1])


def test_texts_tokens_files_and_speech(
    model, tokenizer, tiny_corpus, tmp_path, make_speech, monkeypatch
):
    monkeypatch.setenv("CODEC_LIB_CACHE", str(tmp_path))
    speech = corpus(str(tiny_corpus))
    spoken = token_spoken_of(speech, tokenizer)
    expected = tokenizer.encode(speech.load(1)[None])[0]
    torch.testing.assert_close(spoken[1].codes, expected, atol=2e-3, rtol=2e-3)
    batch = collate_tokens([joined(spoken, (0, 1)), joined(spoken, (2,))])
    assert set(model(batch)) == {"token", "stop", "reading", "loss"}
    saved = save_tokenizer(tokenizer, tmp_path / "t.safetensors", {"a": 1}, half=False)
    assert torch.equal(load_tokenizer(saved).encode(speech.load(1)[None])[0], expected)
    saved = save_continuous_model(model, tmp_path / "m.safetensors", {"b": 2}, half=False)
    again = load_continuous_model(saved)
    assert again.card == {"b": 2} and again.config == model.config
    prompts = [Prompt(make_speech(1.0), "Hello."), None]
    wavs = synthesise_continuous(again, tokenizer, ["Two.", "Three."], prompts, 1, 1.0)
    assert [wav.shape for wav in wavs] == [(1, 3 * 640), (1, 4 * 640)]
    out, codec = tmp_path / "said.wav", str(tmp_path / "t.safetensors")
    command = ["speak", "Two.", str(out), "--model", str(saved), "--codec", codec]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and audio.read(out).shape[1] > 0, done.output
    for load, file in (
        (load_tokenizer, saved),
        (load_continuous_model, tmp_path / "t.safetensors"),
    ):
        with pytest.raises(ValueError, match="expected"):
            load(file)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build_continuous("huge"), "expected one of"),
        (lambda: build_continuous("smoke", wide=1), "wide"),
        (lambda: build_continuous("smoke", listener="cat"), "listener"),
        (lambda: build_continuous("smoke", downsample=0), "at least 1"),
        (lambda: build_continuous_model("smoke", head="median"), "head"),
        (lambda: build_continuous("smoke").decode(torch.zeros(1, 9, 3)), "tokens"),
        (lambda: build_continuous("smoke").decode(torch.zeros(1, 8, 3), 9999), "num_samples"),
    ],
)
def test_mistakes_are_explained(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_discrete_twin_makes_codes_as_a_codec_does(
    tiny_corpus, tmp_path, make_speech, monkeypatch
):
    """Encoded, learnt from, spoken and loaded like a codec."""
    monkeypatch.setenv("CODEC_LIB_CACHE", str(tmp_path))
    tokenizer, wav = build_continuous("smoke", discrete=True, codebook_size=32), make_speech(1.3)
    tokenizer(wav[None])  # entries start from data
    saved = save_tokenizer(tokenizer.eval(), tmp_path / "twin.safetensors", {}, half=False)
    twin = load_codes_of(saved)
    codes = twin.encode(wav[None])
    assert codes.codes.shape == (1, 2, 33) and twin.frame_rate == 25
    expected = tokenizer.decode(tokenizer.encode(wav[None]), wav.shape[-1])
    torch.testing.assert_close(twin.decode(codes), expected)
    second = tokenizer.quantizer.decode(codes.codes, layers=[1])
    expected = tokenizer.decode(second, wav.shape[-1])
    torch.testing.assert_close(twin.decode(codes.select([1])), expected)
    speech = corpus(str(tiny_corpus))
    spoken = spoken_of(speech, twin)
    assert torch.equal(spoken[3].codes, twin.encode(speech.load(3)[None]).codes[0])
    model = build_unified("smoke", num_quantizers=2, num_codes=32).eval()
    with torch.no_grad():
        model.ar.head.weight[-1] = 0  # it goes on to the guard: 2 frames of 20 ms, a token each
    said = synthesise(model, twin, ["Two."], [Prompt(wav, "Hello.")], Sampling(frames_per_symbol=2))
    assert said[0].shape == (1, len(spoken_symbols("Two.")) * twin.hop_length)
    with pytest.raises(ValueError, match="discrete=True"):
        DiscreteTwin(build_continuous("smoke"))
    assert load_codes_of("speechtokenizer-small").num_quantizers == 8
