"""The listening test without a screen: orders, letters, the file, a killed process, anchors."""

import multiprocessing
import os
import signal

import pytest
import torch

from codec_lib.evaluation import mushra
from codec_lib.evaluation.mushra import REFERENCE, Design, Rating, Session, append_trial

CONDITIONS = (REFERENCE, "low anchor, 3.5 kHz", "codec “ä”", "codec B")
UTTERANCES = tuple(f"utterance {n}" for n in range(6))


@pytest.fixture
def design():
    return Design(UTTERANCES, CONDITIONS)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ratings.csv"


def score_of(trial, condition):
    """Return a score that depends on utterance and condition alone."""
    return 10 * UTTERANCES.index(trial.utterance) + 5 * CONDITIONS.index(condition)


def sit(session, count=100):
    """Finish up to ``count`` trials."""
    while session.trial and count:
        for letter, condition in session.trial.letters.items():
            session.rate(letter, score_of(session.trial, condition))
        session.next_trial()
        count -= 1


def test_every_listener_hears_everything_in_an_order_of_their_own(design):
    one, other = design.trials("Ada"), design.trials("Grace")
    for trials in (one, other):
        assert sorted(trial.utterance for trial in trials) == sorted(UTTERANCES)
        assert [trial.number for trial in trials] == list(range(len(UTTERANCES)))
        for trial in trials:
            assert list(trial.letters) == ["A", "B", "C", "D"]
            assert sorted(trial.letters.values()) == sorted(CONDITIONS)
    assert [t.utterance for t in one] != [t.utterance for t in other]
    assert one == design.trials("Ada")
    assert one != Design(UTTERANCES, CONDITIONS, seed=1).trials("Ada")


def test_letters_say_nothing_of_the_condition():
    """Over many trials every letter hides every condition about equally often."""
    design = Design(tuple(map(str, range(100))), CONDITIONS)
    counts = {}
    for listener in map(str, range(10)):
        for trial in design.trials(listener):
            for pair in trial.letters.items():
                counts[pair] = counts.get(pair, 0) + 1
    assert len(counts) == 16
    assert max(counts.values()) - min(counts.values()) < 100  # 250 each, 14 of standard deviation
    numbers = {d.letters["A"] for d in design.trials("x")[:20]}
    assert len(numbers) > 2  # drawn for each trial anew


def test_nothing_is_saved_before_every_slider_has_been_moved(design, path):
    session = Session(design, "Ada", path)
    assert session.unmoved == ["A", "B", "C", "D"]
    for letter in "ABD":
        session.rate(letter, 50)
    with pytest.raises(ValueError, match="trial 1: got no score for C"):
        session.next_trial()
    assert not path.exists() and session.finished == 0
    session.rate("C", 0)  # where the slider stood: moved there and back counts
    session.rate("A", 99.6)
    assert session.next_trial().number == 1
    assert {one.letter: one.score for one in mushra.read_ratings(path, design)}["A"] == 100


@pytest.mark.parametrize("score", [-1, 101, float("nan"), "80", None])
def test_scores_that_are_none(design, path, score):
    with pytest.raises(ValueError, match=r"score of A: got .* expected a number from 0 to 100"):
        Session(design, "Ada", path).rate("A", score)


def test_unknown_letters_and_the_end(design, path):
    session = Session(design, "Ada", path)
    with pytest.raises(ValueError, match="letter: got 'E', expected one of"):
        session.rate("E", 1)
    sit(session)
    assert session.trial is None and session.finished == 6
    with pytest.raises(ValueError, match="Ada: got all 6 trials finished already"):
        session.next_trial()


def test_the_file_gives_back_what_was_scored(design, path):
    for listener in ("Ada, the first", 'Grace "H"', "Łukasz"):
        sit(Session(design, listener, path, revision="abc123"))
    rows = mushra.read_ratings(path, design)
    assert len(rows) == 3 * 6 * 4
    for row in rows:
        trial = design.trials(row.listener)[row.trial]
        assert trial.utterance == row.utterance and trial.letters[row.letter] == row.condition
        assert row.score == score_of(trial, row.condition)
        assert row.revision == "abc123" and row.time.endswith("+00:00")
    assert path.read_text().splitlines()[0] == ",".join(mushra.COLUMNS)


def test_two_listeners_may_take_turns_in_one_file(design, path):
    ada, grace = Session(design, "Ada", path), Session(design, "Grace", path)
    for _ in range(6):
        sit(ada, 1)
        sit(grace, 1)
    assert len(mushra.read_ratings(path, design)) == 48


def test_a_second_window_of_the_same_listener_is_refused(design, path):
    first, second = Session(design, "Ada", path), Session(design, "Ada", path)
    sit(first, 1)
    with pytest.raises(ValueError, match="trial 1 of Ada: got it in the file"):
        sit(second, 1)
    assert len(mushra.read_ratings(path, design)) == 4


def test_a_file_cut_off_anywhere_keeps_all_finished_trials_and_goes_on(design, path):
    session = Session(design, "Łukasz", path)
    sit(session, 2)
    two = path.stat().st_size
    sit(session, 1)
    whole = path.read_bytes()
    sit(session)
    everything = [(r.trial, r.letter, r.score) for r in mushra.read_ratings(path, design)]
    for length in sorted({*range(0, len(whole), 5), *range(two - 3, two + 4)}):
        path.write_bytes(whole[:length])
        kept = len({one.trial for one in mushra.read_ratings(path, design)})
        assert kept == 2 if length >= two else kept < 2, length
        again = Session(design, "Łukasz", path)
        assert again.finished == kept
        if length % 35 == 0 or length in (two - 1, two, two + 1):
            sit(again)
            rows = mushra.read_ratings(path, design)
            assert [(r.trial, r.letter, r.score) for r in rows] == everything, length


def write_until_killed(design, path, pipe):
    """Sit the test, and say after each trial how many are finished."""
    session = Session(design, "Ada", path)
    while session.trial:
        for letter in session.trial.letters:
            session.rate(letter, session.trial.number % 101)
        session.next_trial()
        pipe.send(session.finished)


def test_a_killed_process_loses_no_finished_trial(path):
    many = Design(tuple(f"u{n}" for n in range(2000)), CONDITIONS)
    context, finished = multiprocessing.get_context("fork"), 0
    for _ in range(3):
        inlet, outlet = context.Pipe(duplex=False)
        writer = context.Process(target=write_until_killed, args=(many, path, outlet))
        writer.start()
        outlet.close()
        said = [inlet.recv() for _ in range(7)]
        assert said[0] == finished + 1  # it goes on where the one before had stopped
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
        while inlet.poll():
            try:
                said.append(inlet.recv())
            except EOFError:
                break
        rows = mushra.read_ratings(path, many)
        finished = len(rows) // 4
        assert finished >= said[-1] and [row.trial for row in rows[::4]] == list(range(finished))
    assert Session(many, "Ada", path).trial.number == finished


def test_other_files_are_refused(design, path):
    sit(Session(design, "Ada", path), 2)
    other = Design(UTTERANCES, (REFERENCE, "codec C"))
    with pytest.raises(
        ValueError, match=r"ratings\.csv, line 2: .*another test needs another file"
    ):
        Session(other, "Ada", path)
    with pytest.raises(ValueError, match="another test needs another file"):
        Session(Design(("else",), CONDITIONS), "Ada", path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3] + lines[4:]))  # a line lost in the middle
    with pytest.raises(ValueError, match="line 2"):
        mushra.read_ratings(path, design)
    path.write_text("a,b,c\n1,2,3\n")
    with pytest.raises(ValueError, match="got 'a,b,c' as its first line"):
        mushra.read_ratings(path, design)
    path.write_text(lines[0] + "Ada,zero\n")
    with pytest.raises(ValueError, match="got the line 'Ada,zero'"):
        mushra.read_ratings(path, design)
    assert mushra.read_ratings(path.with_name("none.csv"), design) == []


def test_half_a_trial_is_not_written(design, path):
    rows = [Rating("Ada", 0, UTTERANCES[0], name, "A", 1) for name in CONDITIONS[:3]]
    with pytest.raises(ValueError, match="rows: got conditions"):
        append_trial(path, rows, design)
    assert not path.exists()


@pytest.mark.parametrize(
    ("utterances", "conditions", "message"),
    [
        ((), CONDITIONS, "utterances: got"),
        (("a", "a"), CONDITIONS, "expected different names"),
        (("a\nb",), CONDITIONS, "expected a name on one line"),
        (("a",), ("codec",), "expected 'hidden reference' too"),
        (("a",), (REFERENCE, *map(str, range(30))), "at most 26"),
    ],
)
def test_designs_that_are_none(utterances, conditions, message):
    with pytest.raises(ValueError, match=message):
        Design(utterances, conditions)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", 7])
def test_listeners_need_a_name(design, path, name):
    with pytest.raises(ValueError, match=r"listener: got .* expected a name on one line"):
        Session(design, name, path)


@pytest.mark.parametrize(("rate", "cutoff"), [(16000, 3500), (16000, 7000), (24000, 3500)])
def test_a_low_pass_lets_pass_what_is_below_and_nothing_above(rate, cutoff):
    click = torch.zeros(1, rate)
    click[0, rate // 2] = 1
    gain = (
        20 * torch.fft.rfft(mushra.low_pass(click, rate, cutoff)[0]).abs().clamp_min(1e-9).log10()
    )
    assert gain[:cutoff].abs().max() < 0.1  # dB; one bin is 1 Hz
    assert gain[cutoff + 500 :].max() < -55
    assert mushra.low_pass(click, rate, cutoff)[0].argmax() == rate // 2  # nothing moves


def test_anchors_are_those_that_the_rate_allows():
    assert list(mushra.anchors(torch.zeros(1, 100), 16000)) == list(mushra.ANCHORS)
    assert list(mushra.anchors(torch.zeros(1, 100), 8000)) == [mushra.LOW_ANCHOR]
    with pytest.raises(ValueError, match="cutoff: got 7000 Hz, expected at most 3500 Hz"):
        mushra.low_pass(torch.zeros(1, 100), 8000, 7000)
