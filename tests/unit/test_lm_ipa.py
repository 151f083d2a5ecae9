"""Symbols of the released language model, and speaking with its weights' layout."""

from __future__ import annotations

import pytest
import torch

import codec_lib
from codec_lib.lm.ipa import SymbolTable, ipa_symbols, released_spelling
from codec_lib.lm.sampling import Sampling
from codec_lib.lm.speaking import Prompt, synthesise
from codec_lib.lm.unified import build_unified

# What phonemizer 3.3.0 with the same espeak-ng gave, cut as the released code cuts it.
PHONEMIZED = {
    "Hello, world!": "h ə l oʊ , _ w ɜː l d !",
    "Well - I see; it's 12 o'clock. Really?": (
        "w ɛ l _ aɪ _ s iː ; _ ɪ t s _ t w ɛ l v _ ə k l ɑː k . _ ɹ iə l i ?"
    ),
    "R&B costs $5.": "ɑːɹ _ æ n d _ b iː _ k ɔ s t s _ d ɑː l ɚ _ f aɪ v .",
    "He said: (quietly) no...": "h iː _ s ɛ d : _ ( k w aɪə t l i ) _ n oʊ . . .",
    "Good morning — sir!": "ɡ ʊ d _ m ɔːɹ n ɪ ŋ _ — _ s ɜː !",
    "(So) it ends": "( s oʊ ) _ ɪ ɾ _ ɛ n d z",
}


@pytest.mark.parametrize("text", PHONEMIZED)
def test_symbols_are_those_of_phonemizer(text):
    assert ipa_symbols(text) == tuple(PHONEMIZED[text].split())


def test_nothing_to_say():
    with pytest.raises(ValueError, match="at least one word"):
        ipa_symbols("...")


def test_a_table_counts_symbols_anew(tmp_path):
    file = tmp_path / "unique_text_tokens.k2symbols"
    file.write_text("<eps> 0\nə 3\n! 2\no 1\nʊ 4\n_ 5\n")
    table = SymbolTable.read(file)
    order = ["<pad>", "<bos>", "<eos>", "!", "<eps>", "_", "o", "ə", "ʊ"]
    assert list(table.numbers) == order
    assert table(["ə", "!"]).tolist() == [1, 7, 3, 2]
    assert table(["oʊ"]).tolist() == [
        1,
        6,
        8,
        2,
    ]  # in characters, where the table has no diphthongs
    with pytest.raises(ValueError, match="'x'"):
        table(["x"])
    file.write_text("only\n")
    with pytest.raises(ValueError, match="a symbol and a number"):
        SymbolTable.read(file)


def test_a_model_as_released_speaks(tmp_path, make_speech):
    file = tmp_path / "table"
    names = ["<eps>", *sorted({s for line in PHONEMIZED.values() for s in line.split()})]
    file.write_text("".join(f"{name} {n}\n" for n, name in enumerate(names)))
    model = build_unified("smoke", as_published=True).eval()
    with torch.no_grad():
        model.ar.head.weight[-1] = 0  # it goes on to the guard
    codec = codec_lib.build("speechtokenizer", "smoke", codebook_size=1024).eval()
    prompt, options = (
        Prompt(make_speech(0.5), "Hello, world!"),
        {"spelling": released_spelling(file)},
    )
    sampling = Sampling(frames_per_symbol=1)
    (wav,) = synthesise(model, codec, ["(So) it ends"], [prompt], sampling, **options)
    symbols = options["spelling"].symbols("(So) it ends")
    assert wav.shape == (1, len(symbols) * codec.hop_length)
    with pytest.raises(ValueError, match="without a prompt"):
        synthesise(model, codec, ["Hello, world!"], [None], sampling, **options)
    assert torch.isfinite(wav).all()
