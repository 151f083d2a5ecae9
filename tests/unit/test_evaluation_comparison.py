"""Several codecs measured alike: the rows, the untrained twin, the printed tables."""

from functools import partial

import torch

import codec_lib
from codec_lib.data import corpus
from codec_lib.evaluation import codec_probe
from codec_lib.evaluation.comparison import as_text, compare_codecs, untrained
from codec_lib.evaluation.ctc_probe import ctc_probe


def _codec(**overrides):
    torch.manual_seed(1)
    return codec_lib.build("speechtokenizer", "smoke", num_quantizers=2, **overrides).eval()


def test_untrained_has_the_config_but_not_the_weights():
    codec = _codec()
    state = torch.get_rng_state()
    twin = untrained(codec, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert twin.config == codec.config and not twin.training
    weights, others = codec.semantic.weight, untrained(codec, seed=5).semantic.weight
    assert not torch.equal(twin.semantic.weight, weights)
    assert torch.equal(twin.semantic.weight, others)


def test_every_codec_and_measure_has_its_rows(monkeypatch):
    monkeypatch.setattr(codec_probe, "ctc_probe", partial(ctc_probe, steps=2, hidden=8))
    speech = corpus("synthetic/small")
    codecs = {"one": _codec(), "two": untrained(_codec(), seed=2)}
    test, kept = speech.split("test"), []
    limits = {"n_q": (1, 2, 8), "max_utterances": 2, "max_seconds": 1.0}
    rows = compare_codecs(codecs, test, **limits, keep=lambda rows: kept.append(len(rows)))
    assert kept == [2, 4]
    train = speech.split("train")
    rows += compare_codecs(codecs, aligned=(train, test))
    read = compare_codecs({"one": codecs["one"]}, spoken=(train, [test], ["phonemes"]))
    assert [(row["measure"], row["n_q"], row["test"]) for row in read] == [
        ("reading", count, test.name) for count in (1, 2)
    ]
    assert all(row["per"] > 0.3 for row in read)  # hardly trained
    assert f"{read[0]['per']:.3f}" in as_text(read)
    seen = [(row["measure"], row["codec"]) for row in rows]
    assert seen.count(("reconstruction", "one")) == 2  # it has no 8 codebooks
    assert seen.count(("phonemes", "two")) == 2
    by_key = {(row["codec"], row.get("n_q")): row for row in rows if "n_q" in row}
    assert by_key["one", 1]["mel_distance"] != by_key["two", 1]["mel_distance"]
    text = as_text(rows)
    assert text.count("one") == 4 and "pnmi" in text and "pesq" in text
