"""Widgets draw a static strip always, and controls only where somebody can move them."""

import pytest
import torch

from codec_lib import cells, nb, plotting, widgets
from codec_lib.shapes import Codes


def draw(height, color="C0"):
    fig, axes = plotting.new(width=2, height=1)
    axes[0, 0].plot([0, height], color=color)
    return fig


class HalvingCodec(torch.nn.Module):
    """Codebook k of 4 brings half of what is left of a waveform."""

    sample_rate, num_quantizers = 16000, 4

    def __init__(self, wav):
        super().__init__()
        self.wav = torch.nn.Parameter(wav, requires_grad=False)

    def encode(self, wav):
        return Codes(torch.zeros(1, 4, 10, dtype=torch.int64), wav.shape[-1])

    def decode(self, codes, layers=None):
        share = sum(0.5 ** (layer + 1) for layer in layers)
        noise = torch.ones_like(self.wav)
        noise[..., ::2] = -1
        return self.wav + (1 - share) * 0.1 * noise

    def bitrate(self, n_q=None):
        return 500.0 * (n_q or 4)


def captured(run):
    """Return what a call displays."""
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        for module in (cells, widgets):
            patch.setattr(module, "display", lambda thing, **_: shown.append(thing))
        run()
    return shown


def test_static_under_pytest_and_when_asked(monkeypatch):
    assert widgets.is_static()
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.delenv("CODEC_STATIC", raising=False)
    assert not widgets.is_static()
    monkeypatch.setenv("CODEC_STATIC", "1")
    assert widgets.is_static()


def test_explore_draws_a_strip_and_adds_sliders_where_live(monkeypatch):
    shown = captured(lambda: widgets.explore(draw, [{"height": 1}, {"height": 2}], alt="two lines"))
    assert len(shown) == 1
    monkeypatch.setattr(widgets, "is_static", lambda: False)
    shown = captured(lambda: widgets.explore(draw, [{"height": 1}, {"height": 2}], alt="two lines"))
    assert type(shown[-1]).__name__ == "VBox" and len(shown[-1].children) == 2


def test_explore_plays_what_it_draws(monkeypatch):
    def sound(height: int) -> nb.Clip:
        return nb.Clip(f"at {height}", torch.full((800,), 0.01 * height))

    stops = [{"height": 1}, {"height": 2}]
    options = {"alt": "two lines", "sound": sound, "choices": {"height": range(1, 9)}}
    shown = captured(lambda: widgets.explore(draw, stops, **options))
    assert shown[1].data.count("<audio") == 2
    monkeypatch.setattr(widgets, "is_static", lambda: False)
    made = []
    monkeypatch.setattr(widgets, "_sliders", lambda *arguments: made.append(arguments))
    captured(lambda: widgets.explore(draw, stops, **options))
    react, choices, start = made[0]
    assert list(choices["height"]) == list(range(1, 9)) and start == stops[0]
    assert "at 5" in captured(lambda: react(height=5))[1].data
    with pytest.raises(ValueError, match="choices: got height without the first stop's 1"):
        widgets.explore(draw, stops, alt="two lines", choices={"height": [2, 3]})


@pytest.mark.parametrize("stops", [[], [{"height": 1}] * 7, [{"height": 1}, {"color": "C1"}]])
def test_explore_refuses(stops):
    with pytest.raises(ValueError, match="stops: got"):
        widgets.explore(draw, stops, alt="x")


def test_strip_has_a_panel_per_figure():
    fig = widgets.strip([draw(1), draw(2), draw(3), draw(4)], columns=3)
    assert [len(ax.images) for ax in fig.axes] == [1, 1, 1, 1, 0, 0]


def test_layers_are_played_in_order_beside_the_original(monkeypatch):
    wav = 0.3 * torch.sin(torch.arange(8000) * 0.05)[None, None]
    codec = HalvingCodec(wav)
    decoded = []
    page = captured(lambda: decoded.extend(widgets.listen_by_layers(codec, wav)))[0].data
    assert page.count("<audio") == 4 and "0.50 kbit/s · SI-SDR" in page
    errors = [float((wav - est).abs().mean()) for est in decoded]
    assert errors == sorted(errors, reverse=True) and len(errors) == 3
    with pytest.raises(ValueError, match=r"got \[5\], expected numbers of codebooks from 1 to 4"):
        widgets.listen_by_layers(codec, wav, stops=[1, 5])
    monkeypatch.setattr(widgets, "is_static", lambda: False)
    boxes = captured(lambda: widgets.listen_by_layers(codec, wav))[-1].children[0].children
    assert [box.value for box in boxes] == [True, False, False, False]
    boxes[0].value = False  # nothing chosen: no error
