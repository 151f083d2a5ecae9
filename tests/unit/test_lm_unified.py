"""The unified speech language model: size, what may be heard, losses with known answers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from codec_lib.lm.layers import AdaptiveNorm, KeyValueCache, Stack
from codec_lib.lm.unified import SCALES, Batch, UnifiedSpeechLanguageModel, build_unified


@pytest.fixture
def model():
    return build_unified("smoke").eval()


def _batch(lengths=((7, 9), (4, 6)), codebooks: int = 8, codes: int = 1024) -> Batch:
    texts, frames = zip(*lengths, strict=True)
    text = torch.randint(4, 40, (len(lengths), max(texts)))
    spoken = torch.randint(codes, (len(lengths), codebooks, max(frames)))
    return Batch(text, torch.tensor(texts), spoken, torch.tensor(frames))


def test_the_published_size():
    with torch.device("meta"):
        model = UnifiedSpeechLanguageModel(SCALES["paper"])
    sizes = [sum(p.numel() for p in part.parameters()) for part in (model, model.ar, model.nar)]
    assert sizes == [367_386_628, 153_780_226, 213_606_402]


def test_small_fits_into_a_shipped_file():
    assert sum(p.numel() for p in build_unified("small").parameters()) * 2 < 6e6


def test_a_code_hears_all_text_and_no_later_code(model):
    batch = _batch(((7, 9),))
    first = batch.codes[:, 0]
    before = model.ar(replace(batch, codes=first[:, None]))
    other = first.clone()
    other[:, 5:] = (other[:, 5:] + 1) % 1024
    after = model.ar(replace(batch, codes=other[:, None]))
    assert torch.equal(before[:, :6], after[:, :6])  # the code at 5 is predicted from 0 to 4
    assert not torch.allclose(before[:, 6:], after[:, 6:])
    text = batch.text.clone()
    text[:, -1] = (text[:, -1] + 1) % 40
    assert not torch.allclose(before[:, 1], model.ar(replace(batch, text=text))[:, 1])


def test_later_codebooks_hear_all_frames_of_earlier_codebooks_only(model):
    batch = _batch(((7, 9),))
    before = model.nar(batch, 2)
    codes = batch.codes.clone()
    codes[:, 2:] = (codes[:, 2:] + 1) % 1024
    assert torch.equal(before, model.nar(replace(batch, codes=codes), 2))
    codes = batch.codes.clone()
    codes[:, 1, -1] = (codes[:, 1, -1] + 1) % 1024
    assert not torch.allclose(before[:, 0], model.nar(replace(batch, codes=codes), 2)[:, 0])


def test_a_prompt_enters_with_all_codebooks(model):
    batch, prompt = _batch(((7, 9),)), torch.tensor([3])
    before = model.nar(batch, 2, prompt)
    codes = batch.codes.clone()
    codes[:, 7, 3:] = (codes[:, 7, 3:] + 1) % 1024
    assert torch.equal(before, model.nar(replace(batch, codes=codes), 2, prompt))
    codes[:, 7, 2] = (codes[:, 7, 2] + 1) % 1024
    assert not torch.allclose(before, model.nar(replace(batch, codes=codes), 2, prompt))


def test_padding_changes_nothing(model):
    joint = _batch()
    alone = Batch(joint.text[1:, :4], joint.text_lengths[1:], joint.codes[1:, :, :6],
                  joint.code_lengths[1:])  # fmt: skip
    found = model.ar(joint)[1:, :7]
    expected = model.ar(alone)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    found, expected = model.nar(joint, 3)[1:, :6], model.nar(alone, 3)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_loss_of_a_model_that_knows_nothing_and_of_one_that_knows(model):
    batch = _batch()
    with torch.no_grad():
        for table in (model.ar.head.weight, *(e.weight for e in model.nar.code_embeddings)):
            table.zero_()
    with torch.no_grad():
        found = model(batch, 4)
    assert float(found["ar"]) == pytest.approx(math.log(1025), rel=1e-5)
    assert float(found["nar_second"]) == pytest.approx(math.log(1024), rel=1e-5)
    assert float(found["loss"]) == pytest.approx(math.log(1025) / 2 + math.log(1024), rel=1e-5)
    targets = model.ar.targets(batch.codes[:, 0], batch.code_lengths)
    assert targets[1].tolist() == [*batch.codes[1, 0, :6].tolist(), 1024, -100, -100, -100]


def test_frames_of_a_prompt_are_not_counted(model):
    batch, prompt = _batch(((7, 9),)), torch.tensor([8])
    logits = model.nar(batch, 1, prompt)
    last = torch.nn.functional.cross_entropy(logits[:, 8], batch.codes[:, 1, 8])
    with torch.no_grad():
        found, every = model(batch, 1, prompt), model(batch, 1, torch.tensor([9]))
    assert float(found["nar_second"]) == pytest.approx(float(last.detach()), rel=1e-5)
    assert float(every["nar_second"]) == 0 and "nar_later" not in every


def test_the_two_parts_are_the_whole(model):
    batch = _batch()
    whole, first, others = (model(batch, 4, None, part) for part in ("both", "first", "others"))
    assert set(first) == {"ar", "loss"} and set(others) == {"nar_second", "nar_later", "loss"}
    parts = float(first["loss"].detach()) + float(others["loss"].detach())
    assert parts == pytest.approx(float(whole["loss"].detach()))
    first["loss"].backward()
    assert all(p.grad is None for p in model.nar.parameters())


def test_heads_share_the_embedding_of_their_own_codebook(model):
    for codebook in range(1, 8):
        assert model.nar.head(codebook) is model.nar.code_embeddings[codebook].weight
    published = build_unified("smoke", as_published=True).nar
    assert published.head(1) is published.code_embeddings[2].weight
    assert published.head(7) is published.last_head.weight


def test_every_parameter_learns(model):
    batch = _batch()
    for codebook in range(2, 8):
        model(batch, codebook)["loss"].backward()
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []


def test_a_norm_without_condition_is_a_layer_norm():
    norm, x = AdaptiveNorm(8), torch.randn(2, 3, 8)
    with torch.no_grad():
        norm.project.weight.zero_()
        norm.project.bias.copy_(torch.cat([torch.ones(8), torch.zeros(8)]))
    assert torch.allclose(norm(x, torch.randn(8)), torch.nn.functional.layer_norm(x, (8,)))


def test_a_cache_that_is_full_says_so():
    stack = Stack(8, 2, 1, 16)
    cache = KeyValueCache(stack, 1, 3)
    stack(torch.randn(1, 3, 8), cache=cache)
    with pytest.raises(ValueError, match="at most 3"):
        stack(torch.randn(1, 1, 8), cache=cache)


def test_attention_maps_add_up_to_one_and_respect_the_mask(model):
    batch = _batch(((7, 9),))
    from codec_lib.lm.layers import prefix_mask, real

    mask = prefix_mask(real(batch.text_lengths, 7), 9)
    x = model.ar.embedded(batch.text, batch.codes[:, 0])
    maps = model.ar.decoder.attention_maps(x, mask)
    assert len(maps) == 2 and maps[0].shape == (1, 2, 16, 16)
    assert torch.allclose(maps[1].sum(-1), torch.ones(()), atol=1e-5)
    assert float(maps[0].masked_fill(mask, 0).abs().max()) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build_unified("large"), "expected one of"),
        (lambda: build_unified("smoke", width=3), "width"),
        (lambda: build_unified("smoke", num_quantizers=1), "at least 2"),
        (lambda: build_unified("smoke", num_heads=3), "heads divide"),
        (lambda: build_unified("smoke").nar(_batch(), 0), "expected 1 to 7"),
        (lambda: replace(_batch(), codes=torch.zeros(1, 8, 3).long()), "codes: got shape"),
    ],
)
def test_mistakes_are_explained(make, message):
    with pytest.raises(ValueError, match=message):
        make()
