"""What notebooks use: set-up, checks, players, tables, artefacts."""

import base64
import io
import json

import numpy as np
import pytest
import soundfile
import torch

from codec_lib import cells, nb
from codec_lib.codecs.base import Codec


@pytest.fixture
def ctx(tmp_path, monkeypatch):
    monkeypatch.setenv("CODEC_LIB_BUILD", str(tmp_path))
    monkeypatch.delenv("CODEC_PROFILE", raising=False)
    return nb.setup("01", profile="smoke", seed=3, quiet=True)


def html(run):
    """Return the HTML that a call displays."""
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "display", lambda shown_object: shown.append(shown_object.data))
        run()
    return "".join(shown)


def test_setup_seeds_and_finds_the_notebook(ctx):
    first = torch.rand(1), np.random.rand()  # noqa: NPY002
    nb.setup("01", profile="smoke", seed=3, quiet=True)
    assert (torch.rand(1), np.random.rand()) == first  # noqa: NPY002
    assert (ctx.name, ctx.profile, ctx.device.type) == (
        "01_speech_and_spectrograms",
        "smoke",
        "cpu",
    )


def test_the_environment_variable_wins(ctx, monkeypatch):
    monkeypatch.setenv("CODEC_PROFILE", "gpu")
    assert nb.setup("00", profile="smoke", device="cpu", quiet=True).profile == "gpu"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("99", "smoke", "auto"), "number: got '99'"),
        (("01", "tiny", "auto"), "profile: got 'tiny'"),
        (("01", "smoke", "abacus"), "device: got 'abacus'"),
    ],
)
def test_setup_says_what_is_wrong(ctx, arguments, message):
    number, profile, device = arguments
    with pytest.raises(ValueError, match=message):
        nb.setup(number, profile=profile, device=device, quiet=True)


def test_setup_shows_one_table_without_paths(ctx):
    page = html(lambda: nb.setup("01", profile="smoke"))
    assert page.count("<table>") == 1 and torch.__version__ in page
    assert str(cells.ROOT) not in page


def test_pick_falls_back_to_the_next_smaller_profile(ctx):
    assert ctx.pick(smoke=1, cpu=2) == 1
    ctx.profile = "paper"
    assert ctx.pick(smoke=1, cpu=2) == 2
    assert ctx.pick(smoke=1, cpu=2, gpu=3) == 3


def test_check_passes_or_gives_the_hint(capsys):
    nb.check("all positive", torch.ones(3) > 0)
    assert capsys.readouterr().out == "✓ all positive\n"
    with pytest.raises(AssertionError, match=r"all positive\n.*Hint: look at the sign"):
        nb.check("all positive", torch.tensor([1.0, -1.0]) > 0, "look at the sign")


def heard(page):
    """Return the samples of every player of a page."""
    sources = [part.split("'")[0] for part in page.split("base64,")[1:]]
    return [soundfile.read(io.BytesIO(base64.b64decode(source)))[0] for source in sources]


def test_players_share_one_gain_and_stay_below_full_scale():
    wav = 0.01 * torch.sin(torch.arange(16000) * 0.1)[None, None]
    page = html(lambda: nb.audio_row([("ref", wav), ("half", wav / 2, 4000.0, "STOI 0.5")], 16000))
    ref, half = heard(page)
    assert np.sqrt(np.mean(ref**2)) == pytest.approx(0.1, rel=0.01)  # -20 dBFS
    assert np.abs(half).max() / np.abs(ref).max() == pytest.approx(0.5, rel=0.01)
    assert "4.00 kbit/s · STOI 0.5" in page
    loud = heard(html(lambda: nb.audio_row([("ref", wav), ("loud", 40 * wav)], 16000)))
    assert np.abs(loud[1]).max() == pytest.approx(0.99, abs=0.001)
    assert np.abs(loud[0]).max() == pytest.approx(0.99 / 40, abs=0.001)


def test_players_are_cut_and_silence_is_allowed():
    page = html(lambda: nb.audio_row([("silence", torch.zeros(1, 1, 100_000))], 16000))
    assert len(heard(page)[0]) == 64_000


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "got 0, expected 1 to 12"),
        ([("x", torch.ones(9))] * 13, "got 13"),
        ([("x", torch.ones(0))], "empty"),
        ([("x", torch.full((9,), torch.nan))], "'x': got NaN"),
    ],
)
def test_players_refuse(clips, message):
    with pytest.raises(ValueError, match=message):
        nb.audio_row(clips, 16000)


def test_table_escapes_and_rounds():
    page = html(lambda: nb.table([{"a<b": 0.123456, "n": 1_234_567, "t": torch.tensor(2.0)}]))
    assert "a&lt;b" in page and "0.1235" in page and "1,234,567" in page and ">2<" in page
    with pytest.raises(ValueError, match="rows: got none"):
        nb.table([])


@pytest.mark.parametrize(
    ("value", "verdict"), [(3, "reproduced"), (-3, "not reproduced"), (1, "inconclusive")]
)
def test_an_interval_decides_a_verdict(value, verdict):
    row = nb.verdict_row("more", value, value - 2, value + 2, digits=1)
    assert row["verdict"] == verdict and row["paper"] == "–"
    assert row["measured"] == f"{value:+.1f} ({value - 2:+.1f} to {value + 2:+.1f})"


def test_results_are_kept_and_finish_insists_on_them(ctx, capsys):
    with pytest.raises(FileNotFoundError, match=r"01_results\.json"):
        nb.finish()
    row = {"claim": "c", "measured": "1 ± 0.1", "paper": "–", "verdict": "reproduced"}
    published = row | {"paper": "4 %"}
    html(lambda: nb.results([row, published]))
    record = json.loads((ctx.artefacts / "01_results.json").read_text())
    assert record["results"] == [row | {"verdict": "holds"}, published]
    assert record["environment"]["profile"] == "smoke"
    nb.finish(ctx)
    assert "1 artefact(s) written" in capsys.readouterr().out
    with pytest.raises(ValueError, match="verdict"):
        nb.results([row | {"verdict": "great"}])


@pytest.mark.parametrize("holds", [True, np.True_, torch.tensor(True)])
def test_a_condition_is_a_verdict(ctx, holds):
    row = {"claim": "c", "measured": "1", "paper": "1", "verdict": holds}
    html(lambda: nb.results([row, row | {"verdict": ~torch.tensor(bool(holds))}]))
    record = json.loads((ctx.artefacts / "01_results.json").read_text())
    assert [one["verdict"] for one in record["results"]] == ["reproduced", "not reproduced"]


def test_an_artefact_is_found_or_made_once(ctx, capsys):
    made = []

    def make(path):
        made.append(path)
        path.write_text("x")

    first = nb.artefact("thing.json", make)
    assert nb.artefact("thing.json", make) == first and len(made) == 1
    with pytest.raises(FileNotFoundError, match=r"other\.json"):
        nb.artefact("other.json")


def test_source_is_the_librarys_own_without_docstrings(ctx):
    page = html(lambda: nb.show_source(nb.check))
    assert "codec_lib/nb.py:" in page and "holds" in page and "Parameters" not in page
    assert "codec_lib/codecs/base.py:" in html(lambda: nb.show_source(Codec.decode))  # decorated
    assert "Parameters" in html(lambda: nb.show_source(nb.check, docstring=True))
    assert "..." in cells.without_docstrings('class A(Exception):\n    """Say."""\n')


def test_a_figure_needs_words():
    from matplotlib.figure import Figure

    with pytest.raises(ValueError, match="alt"):
        nb.show(Figure(), alt=" ")


def test_progress_speaks_now_and_then(capsys):
    assert list(nb.progress(range(3), 3, "step", every=0.0)) == [0, 1, 2]
    assert "step 2/3, about" in capsys.readouterr().out
