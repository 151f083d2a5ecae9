"""Generation: the same with and without the cache, alone and in a batch; ends; sampling."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from codec_lib.lm.examples import collate
from codec_lib.lm.generation import generate, write_first
from codec_lib.lm.prefix import Writer
from codec_lib.lm.sampling import Sampling, draw_codes, nearest_codes, probabilities
from codec_lib.lm.unified import Batch, build_unified

MOST = [12, 20, 15]
WAYS = [
    Sampling(0),
    Sampling(),
    Sampling(0.8, top_k=5),
    Sampling(1.3, top_p=0.6),
]


@pytest.fixture
def model():
    """A model that would rather not end."""
    model = build_unified("smoke").eval()
    with torch.no_grad():
        model.ar.head.weight[-1] = 0
    return model


@pytest.fixture
def batch() -> Batch:
    """Texts and prompts of different lengths; the second has no prompt."""
    items = [(torch.randint(4, 40, (s,)), torch.randint(1024, (8, f)))
             for s, f in ((12, 6), (7, 0), (9, 3))]  # fmt: skip
    return collate(items)


def _alone(batch: Batch, item: int) -> Batch:
    """Return one item without padding."""
    text, codes = batch.text_lengths[item : item + 1], batch.code_lengths[item : item + 1]
    whole = batch.codes[item : item + 1, :, : int(codes)]
    return Batch(batch.text[item : item + 1, : int(text)], text, whole, codes)


@pytest.mark.parametrize("sampling", WAYS)
def test_the_cache_changes_nothing(model, batch, sampling):
    fast = generate(model, batch, MOST, sampling, seed=3)
    slow = generate(model, batch, MOST, sampling, seed=3, use_cache=False)
    assert [one.shape for one in fast] == [(8, most) for most in MOST]
    assert all(torch.equal(a, b) for a, b in zip(fast, slow, strict=True))


def test_states_with_and_without_the_cache(model, batch):
    given = (batch.text, batch.text_lengths, batch.codes[:, 0], batch.code_lengths)
    writers = [Writer(model.ar, *given, 5, use_cache) for use_cache in (True, False)]
    with torch.no_grad():
        one, other = (writer.first() for writer in writers)
        for step in range(5):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
            codes = torch.tensor([step, 2 * step, 7])
            one, other = (writer.following(codes) for writer in writers)


@pytest.mark.parametrize("sampling", WAYS)
def test_each_item_is_said_as_it_would_be_alone(model, batch, sampling):
    together = generate(model, batch, MOST, sampling, seed=5)
    for item, most in enumerate(MOST):
        (found,) = generate(model, _alone(batch, item), [most], sampling, seed=5 + item)
        assert torch.equal(found, together[item])


def test_generation_agrees_with_a_forward_pass(model, batch):
    """Greedy codes are the likeliest at every place of a pass over the finished sequence."""
    firsts = write_first(model.ar, batch, MOST, Sampling(0))
    for item, first in enumerate(firsts):
        alone = _alone(batch, item)
        whole = torch.cat([alone.codes[0, 0], first])[None]
        with torch.no_grad():
            logits = model.ar(replace(alone, codes=whole[:, None]))
        frames = alone.codes.shape[2]
        assert torch.equal(logits[0, frames:-1].argmax(-1), first)


def test_a_sentence_begins_where_its_text_does(batch):
    torch.manual_seed(0)
    model = build_unified("smoke", pace=0.5).eval()
    start, wanted = torch.tensor([6.0, 0.0, 4.0]), [4] * 3
    written = {
        cached: generate(model, batch, wanted, Sampling(0), 0, cached, start)
        for cached in (True, False)
    }
    for item, codes in enumerate(written[True]):
        assert torch.equal(codes, written[False][item])
        alone = _alone(batch, item)
        prompt, length = int(alone.code_lengths), codes.shape[1]
        ahead, behind = 0.5 * torch.arange(prompt), float(start[item]) + 0.5 * torch.arange(length)
        whole = torch.cat([alone.codes, codes[None]], dim=2)
        whole = replace(alone, codes=whole, code_lengths=torch.tensor([prompt + length]),
                        positions=torch.cat([ahead, behind])[None])  # fmt: skip
        with torch.no_grad():
            first = model.ar(whole)[0, prompt:-1].argmax(-1)
            second = model.nar(whole, 1, torch.tensor([prompt]))[0, prompt:].argmax(-1)
        assert torch.equal(first, codes[0]) and torch.equal(second, codes[1])
    assert max(one.shape[1] for one in written[True])


def test_items_end_one_by_one(model, batch):
    """Ends at steps that are forced per item; what comes after an end is not written."""
    ends, seen = {0: 4, 1: 0, 2: 9}, []

    class Forced(torch.nn.Module):
        def forward(self, states):
            logits = torch.zeros(len(states), 1025)
            for item, step in ends.items():
                logits[item, 1024 if len(seen) == step else 10 + item] = 9.0
            return logits

    model.ar.head = Forced()
    firsts = write_first(model.ar, batch, MOST, Sampling(0), watch=seen.append)
    assert [one.tolist() for one in firsts] == [[10] * 4, [], [12] * 9]
    seen.clear()  # and never filled: only the second one ends
    codes = generate(model, batch, MOST, Sampling(0))
    assert [one.shape for one in codes] == [(8, 12), (8, 0), (8, 15)]


def test_an_item_that_ends_at_once_has_no_code(model, batch):
    with torch.no_grad():
        model.ar.decoder.norm.bias.copy_(model.ar.head.weight[-1] + 1)
        model.ar.head.weight[-1] = 100
    assert [one.shape for one in generate(model, batch, MOST)] == [(8, 0)] * 3


def test_the_released_model_needs_a_prompt(batch):
    model = build_unified("smoke", as_published=True).eval()
    with pytest.raises(ValueError, match="without a prompt"):
        generate(model, batch, MOST)
    with pytest.raises(ValueError, match="most"):
        generate(model, batch, [3])


def test_probabilities():
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
    assert probabilities(logits, Sampling(0)).tolist() == [[0, 0, 0, 1]]
    torch.testing.assert_close(probabilities(logits, Sampling()), logits.exp())
    expected = torch.tensor([[0, 0, 3 / 7, 4 / 7]])
    torch.testing.assert_close(probabilities(logits, Sampling(top_k=2)), expected)
    torch.testing.assert_close(probabilities(logits, Sampling(top_p=0.6)), expected)
    assert probabilities(logits, Sampling(top_p=0.01)).tolist() == [[0, 0, 0, 1]]
    sharp = logits.exp().square()
    torch.testing.assert_close(probabilities(logits, Sampling(0.5)), sharp / sharp.sum())


def test_draws_follow_the_distribution():
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log().expand(20_000, 4)
    generator = torch.Generator().manual_seed(0)
    drawn = draw_codes(logits, Sampling(), [generator] * 20_000)
    share = drawn.bincount(minlength=4) / 20_000
    torch.testing.assert_close(share, logits[0].exp(), atol=0.015, rtol=0)
    only = draw_codes(logits, Sampling(top_k=1), [generator] * 20_000)
    assert only.unique().tolist() == [3]


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"frames_per_symbol": 0}]
)
def test_sampling_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_generation_in_bfloat16(model, batch):
    """The cache takes the type of what comes; the codes stay codes."""
    with torch.autocast("cpu", torch.bfloat16):
        codes = generate(model, batch, MOST, Sampling(0))
    assert [one.shape for one in codes] == [(8, most) for most in MOST]


def test_the_nearest_code_to_what_is_expected_errs_least():
    torch.manual_seed(0)
    logits, vectors = 0.3 * torch.randn(2, 5, 20), torch.randn(20, 3)
    found = nearest_codes(logits, vectors)
    share = (logits / 0.3).softmax(-1)
    squares = torch.cdist(vectors, vectors).square()  # of every code if another one is right
    assert torch.equal(found, (share @ squares).argmin(-1))
    assert torch.equal(nearest_codes(logits, vectors, 1e-4), logits.argmax(-1))
