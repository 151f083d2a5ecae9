"""Figures: units on every axis, one range across a comparison, nothing left open."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from codec_lib import plotting

RATE = 16000
WAV = torch.sin(2 * torch.pi * 1000 * torch.arange(RATE // 2) / RATE)[None, None]  # (1, 1, T)


def figures():
    codes = torch.randint(0, 16, (1, 3, 25))
    return {
        "waveform": plotting.waveform(WAV, RATE, [SimpleNamespace(symbol="AA", start=0, end=4000)]),
        "stft": plotting.spectrograms({"a": WAV, "b": 0.1 * WAV}, RATE),
        "mel": plotting.spectrograms({"a": WAV}, RATE, kind="mel", n_mels=40),
        "curves": plotting.curves({"x": ([1, 2], [3, 4], [2, 3], [4, 5])}, "step", "loss"),
        "bars": plotting.bars(
            {"A": {"u": 1.0, "v": 2.0}, "B": {"u": 2.0, "v": 1.0}}, "count", "set"
        ),
        "usage": plotting.codebook_usage(codes, 16),
        "raster": plotting.code_raster(codes, 16, 50.0),
        "scatter": plotting.scatter({"a": torch.rand(5, 2), "b": torch.rand(5, 2)}, "x", "y"),
    }


def test_every_axis_is_labelled_on_white_and_no_figure_stays_open():
    for name, fig in figures().items():
        shown = [ax for ax in fig.axes if ax.get_visible()]
        assert any(ax.get_xlabel() for ax in shown), name
        assert any(ax.get_ylabel() for ax in shown), name
        assert fig.get_facecolor() == (1.0, 1.0, 1.0, 1.0)
    assert plt.get_fignums() == []


def test_words_are_written_where_they_fit():
    spans = (("one", 0, 0.5), ("much", 0.5, 0.502), ("cut", 0.9, 1.5), ("later", 1.2, 1.9))
    words = [SimpleNamespace(text=t, start=a * RATE, end=b * RATE) for t, a, b in spans]
    _, axes = plotting.new()
    axes[0, 0].set_xlim(0, 1)
    plotting.mark_words(axes[0, 0], words, RATE)
    written = {text.get_text(): text.get_position()[0] for text in axes[0, 0].texts}
    assert written == {"one": 0.25, "cut": pytest.approx(0.95)}
    assert len(axes[0, 0].patches) == 3


def test_spectrograms_share_one_range():
    fig = plotting.spectrograms({"a": WAV, "b": 0.01 * WAV}, RATE, range_db=60)
    limits = {ax.images[0].get_clim() for ax in fig.axes if ax.images}
    assert len(limits) == 1
    low, high = limits.pop()
    assert high - low == pytest.approx(60)


def test_a_full_scale_sine_is_at_zero_db_in_its_bin():
    level = plotting.spectrogram_db(WAV)  # (257, F)
    middle = level[:, level.shape[1] // 2]
    assert int(middle.argmax()) == 32  # 1000 Hz of bins 31.25 Hz apart
    assert float(middle.max()) == pytest.approx(0.0, abs=0.1)
    assert float(level.min()) >= -100.0


def test_mel_scales_differ():
    htk, slaney = (plotting.mel_db(WAV, RATE, mel_scale=scale) for scale in ("htk", "slaney"))
    assert htk.shape == slaney.shape == (80, 32)
    assert int(htk[:, 16].argmax()) != int(slaney[:, 16].argmax())


def test_usage_sums_to_all_frames():
    fig = plotting.codebook_usage(torch.tensor([0, 0, 0, 1]), 4)
    assert fig.axes[0].lines[0].get_ydata() == pytest.approx([75, 25, 0, 0])
    np.testing.assert_allclose(fig.axes[0].lines[-1].get_ydata(), 25)
    named = plotting.codebook_usage(torch.zeros(1, 2, 5, dtype=torch.int64), 4, codebooks=[1, 8])
    assert [line.get_label() for line in named.axes[0].lines] == [
        "codebook 1",
        "codebook 8",
        "even use",
    ]


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind: got 'cqt'"):
        plotting.spectrograms({"a": WAV}, RATE, kind="cqt")


def test_curves_take_views_and_ranges():
    losses = {1: 3.0, 2: 2.0}
    fig = plotting.curves({"loss": (losses.keys(), losses.values())}, "step", "loss", logy=True)
    assert fig.axes[0].lines[0].get_xydata().tolist() == [[1, 3], [2, 2]]
    assert fig.axes[0].get_yscale() == "log"


def test_segmentation_draws_a_strip_a_row_and_every_cut():
    from codec_lib import strips

    wav = torch.randn(16000) * 0.1
    rows = {"one": torch.tensor([2, 4, 1, 0]), "two": torch.tensor([[1, 1, 5]])}
    figure = strips.segmentation(wav, 16000, rows, frame_rate=7, max_length=5, title="two ways")
    mel, first, second = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list("12345")
    cuts = mel.collections[0].get_segments()
    assert [round(float(cut[0, 0]) * 7) for cut in cuts] == [2, 6]
    assert first.collections[0].get_array().flatten().tolist() == [2, 4, 1]
    assert second.collections[0].get_array().flatten().tolist() == [1, 1, 5]
    assert (first.get_ylabel(), second.get_xlabel()) == ("one", "time (s)")
    assert len({tuple(color) for color in strips.palette(5).colors}) == 5


def test_self_similarity_draws_a_box_for_every_segment():
    from codec_lib import strips

    z = torch.arange(7.0).expand(1, 3, 7)
    rows = {"one": torch.tensor([2, 4, 1, 0]), "two": torch.tensor([[1, 1, 5]])}
    figure = strips.self_similarity(z, rows, frame_rate=7, span=(1 / 7, 5 / 7))
    one, two = figure.axes[:2]
    boxes = [(round(7 * box.get_x()), round(7 * box.get_width())) for box in one.patches]
    assert boxes == [(0, 2), (2, 4), (6, 1)] and len(two.patches) == 3
    assert [round(7 * limit) for limit in (*one.get_xlim(), *one.get_ylim())] == [1, 5, 1, 5]
    apart = one.images[0].get_array()
    assert apart.shape == (4, 4) and float(apart[0, 3]) == pytest.approx(3 * 3**0.5)
    assert (one.get_title(), one.get_ylabel()) == ("one", "time (s)")


def test_small_picture_has_the_cuts_and_the_strip():
    from codec_lib import strips

    figure = strips.small(torch.randn(5, 9), torch.tensor([2, 4, 1, 0]), frame_rate=7, title="fast")
    mel, strip = figure.axes
    cuts = [float(cut[0, 0]) * 7 for cut in mel.collections[0].get_segments()]
    assert cuts == pytest.approx([2, 6], rel=1e-5) and mel.images[0].get_extent()[1] == 1
    assert strip.collections[0].get_array().flatten().tolist() == [2, 4, 1]
    assert mel.get_title() == "fast" and figure.get_layout_engine() is None


def test_matrices_share_one_range_and_leave_the_impossible_grey():
    tables = {"one": torch.tensor([[0.0, -9.0], [-1.0, -torch.inf]]), "two": torch.zeros(2, 2)}
    figure = plotting.matrices(tables, "nats", "text", "recording", low=-5)
    one, two, bar = figure.axes
    drawn = [ax.images[0] for ax in (one, two)]
    assert [image.get_clim() for image in drawn] == [(-5, 0)] * 2
    assert drawn[0].get_array().mask.tolist() == [[False, False], [False, True]]
    assert (one.get_title(), one.get_ylabel(), bar.get_ylabel()) == ("one", "recording", "nats")
    assert one.get_ylim()[0] > one.get_ylim()[1]  # row 0 on top


def test_a_plane_names_and_marks_every_point():
    points = {"far": (1.0, 2.0), "near": (0.0, 1.0)}
    figure = plotting.plane(points, "x", "y", lines={"no x": 3.0})
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["far", "near", "no x"]
    far, near, line = ax.lines
    assert (far.get_xdata()[0], far.get_ydata()[0]) == points["far"]
    assert far.get_marker() != near.get_marker() and set(line.get_ydata()) == {3.0}


def test_pitch_lies_on_the_harmonic_it_is_drawn_over():
    time = torch.arange(8000) / 16000
    wav = torch.sin(2 * torch.pi * 800 * time)[None] / 2
    fig = plotting.mel_with_pitch(wav, 16000, np.full(48, 200.0), harmonics=(1, 4))
    ax = fig.axes[0]
    image, line = ax.images[0].get_array(), ax.lines[1].get_ydata()
    assert abs(image[:, 50].argmax() - line[20]) < 1.01
    x = ax.lines[0].get_xdata()
    assert abs(x[0] + x[-1] - 0.5) < 1e-6  # centred in the half second
