"""The listening panel: levels, the page on paper, and the live one driven without a browser."""

import numpy as np
import pytest
import torch

from codec_lib import audio, cells, listening, widgets
from codec_lib.evaluation.mushra import MID_ANCHOR, REFERENCE, Design, low_pass, read_ratings

CONDITIONS = (REFERENCE, MID_ANCHOR, "quiet codec")
DESIGN = Design(("one", "two"), CONDITIONS)


@pytest.fixture(scope="module")
def sounds(request):
    generator = torch.Generator().manual_seed(0)
    found = {}
    for utterance in DESIGN.utterances:
        wav = 0.1 * torch.randn(1, 8000, generator=generator)
        made = (wav, low_pass(wav, 16000, 7000), 0.25 * wav)
        found[utterance] = dict(zip(CONDITIONS, made, strict=True))
    return found


@pytest.fixture
def shown(monkeypatch):
    """Collect what is displayed."""
    things = []
    for module in (cells, listening):
        monkeypatch.setattr(module, "display", lambda thing, **_: things.append(thing))
    return things


def test_equal_levels_are_equal_and_shared_ones_keep_their_distance(sounds):
    levels = {
        how: {k: float(audio.rms_db(v)) for k, v in listening.levelled(sounds["one"], how).items()}
        for how in listening.LEVELS
    }
    assert np.ptp([*levels["equal"].values()]) < 0.01
    apart = levels["shared"][REFERENCE] - levels["shared"]["quiet codec"]
    assert apart == pytest.approx(20 * np.log10(4), abs=0.01)
    for found in levels.values():
        assert found[REFERENCE] == pytest.approx(-20, abs=0.1)


def test_sounds_that_cannot_be_compared(sounds):
    good = sounds["one"]
    with pytest.raises(ValueError, match="level: got 'loud'"):
        listening.levelled(good, "loud")
    with pytest.raises(ValueError, match="expected 'hidden reference' among them"):
        listening.levelled({"codec": good[REFERENCE]})
    for bad in (torch.zeros(1, 8000), torch.full((1, 8000), torch.nan), torch.zeros(1, 0)):
        with pytest.raises(ValueError, match="codec: got a sound that is empty, silent or not"):
            listening.levelled(good | {"codec": bad})
    with pytest.raises(ValueError, match="codec: got 100 samples, expected the original's 8000"):
        listening.levelled(good | {"codec": torch.ones(1, 100)})


def test_on_paper_there_are_spectrograms_players_and_an_explanation(sounds, shown, tmp_path):
    path = tmp_path / "ratings.csv"
    session = listening.listening_test(DESIGN, sounds, "Ada", path)
    _pictures, players, text = shown
    assert players.data.count("<audio") == 4  # the reference, and three letters
    for name in CONDITIONS[1:]:
        assert name not in players.data  # blind
    assert "Trial 1 of 2" in text.data and "Excellent 80–100" in text.data
    assert session.finished == 0 and not path.exists()


def test_a_missing_sound_is_named(sounds, tmp_path):
    lacking = {"one": sounds["one"], "two": {REFERENCE: sounds["two"][REFERENCE]}}
    with pytest.raises(ValueError, match=r"sounds of 'two': got none of \['mid anchor"):
        listening.listening_test(DESIGN, lacking, "Ada", tmp_path / "r.csv")


def test_live_sliders_save_trial_by_trial_and_go_on(sounds, shown, tmp_path, monkeypatch):
    monkeypatch.setattr(widgets, "is_static", lambda: False)
    path = tmp_path / "ratings.csv"
    session = listening.listening_test(DESIGN, sounds, "Ada <b>", path)
    assert len(shown) == 1  # no spectrogram: it would give the letters away
    panel = listening.LivePanel(session, sounds, 16000)
    assert list(panel.sliders) == ["A", "B", "C"] and panel.button.disabled
    assert "Ada &lt;b&gt;, trial 1 of 2" in panel.title.value
    for letter, score in zip("AB", (100, 35), strict=True):
        panel.sliders[letter].value = score
    assert panel.button.disabled and panel.message.value == "not moved yet: C"
    panel.forward()  # as if the button could be pressed
    assert "got no score for C" in panel.message.value and not path.exists()
    panel.sliders["C"].value = 1
    panel.sliders["C"].value = 0
    assert not panel.button.disabled
    panel.button.click()
    assert "trial 2 of 2" in panel.title.value and panel.button.description == "Save and finish"
    assert [slider.value for slider in panel.sliders.values()] == [0, 0, 0]
    ratings = read_ratings(path, DESIGN)
    assert {one.letter: one.score for one in ratings} == {"A": 100, "B": 35, "C": 0}
    again = listening.listening_test(DESIGN, sounds, "Ada <b>", path)  # a new kernel
    panel = listening.LivePanel(again, sounds, 16000)
    assert "trial 2 of 2" in panel.title.value
    for slider in panel.sliders.values():
        slider.value = 50
    panel.button.click()
    assert "Thank you" in panel.title.value and panel.body.children == ()
    assert len(read_ratings(path, DESIGN)) == 6
