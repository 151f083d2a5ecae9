"""Charts that read tables and intervals, and shares of segment lengths."""

from types import SimpleNamespace

import matplotlib.colors
import pytest
import torch

from codec_lib import ladders, plotting, strips


def test_numbers_leave_out_what_is_not_finite_and_mark_cells():
    _, axes = plotting.new()
    plotting.numbers([[0.0, 1.25], [float("inf"), 3.0]], axes[0, 0], mark=[(1, 1)])
    texts = {text.get_position(): text for text in axes[0, 0].texts}
    assert {where: text.get_text() for where, text in texts.items()} == {
        (0, 0): "0.0",
        (1, 0): "1.2",
        (1, 1): "3.0",
    }
    assert [where for where, text in texts.items() if text.get_weight() == "bold"] == [(1, 1)]
    image = axes[0, 0].images[0]
    assert image.get_array().mask.sum() == 1 and image.norm.vmax > 3.0


def test_intervals_stand_below_each_other_in_order():
    fig = plotting.intervals({"a": (1.0, 0.5, 2.0), "b": (-1.0, -1.5, 0.0)}, "gain (dB)")
    ax = fig.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    ends = [segment[:, 0].tolist() for segment in ax.collections[0].get_segments()]
    assert ends == [[0.5, 2.0], [-1.5, 0.0]]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first is on top


@pytest.mark.parametrize("bars", [False, True])
def test_length_shares_fill_the_whole_height_in_the_colours_of_the_strips(bars):
    _, axes = plotting.new()
    shares = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    strips.length_shares(axes[0, 0], [3, 4], shares, bars)
    labels = axes[0, 0].get_legend_handles_labels()[1]
    assert labels == ["1 frame", "2 frames", "3 frames"] and axes[0, 0].get_ylim() == (0, 100)
    if bars:
        tops = [[bar.get_y() + bar.get_height() for bar in row] for row in axes[0, 0].containers]
        assert tops == [[50, 100], [75, 100], [100, 100]]
    else:
        colors = [area.get_facecolor()[0] for area in axes[0, 0].collections]
        expected = [matplotlib.colors.to_rgba(color) for color in strips.palette(3).colors]
        assert [tuple(color) for color in colors] == expected


def test_neighbours_draw_the_distance_from_frame_to_frame():
    z = torch.tensor([[[0.0, 3.0, 3.0, 7.0], [0.0, 4.0, 4.0, 4.0]]])
    fig = strips.neighbours(torch.randn(1, 8000), 16000, z, frame_rate=8, ylabel="distance (dB)")
    x, y = fig.axes[1].lines[0].get_data()
    assert x.tolist() == [1 / 8, 2 / 8, 3 / 8] and y.tolist() == [5, 0, 4]
    assert fig.axes[0].get_xlim() == fig.axes[1].get_xlim() == (0, 0.5)


def test_unit_strips_cross_out_the_frames_whose_unit_is_another():
    wav, first, second = (
        torch.randn(1, 8000),
        torch.tensor([3, 3, 5, 7]),
        torch.tensor([3, 4, 5, 0]),
    )
    phonemes = [SimpleNamespace(symbol="AA", start=0, end=4000)]
    voices = {"one": (wav, first), "two": (wav, second)}
    fig = strips.unit_strips(voices, 16000, frame_rate=8, phonemes=phonemes)
    assert len(fig.axes) == 4 and fig.axes[2].get_title() == "two"
    crosses = [ax.lines[0].get_xdata().tolist() for ax in fig.axes[1::2]]
    assert crosses == [[], [1.5 / 8, 3.5 / 8]]  # in the middle of frames 1 and 3
    colours = [ax.images[0].get_array()[0] for ax in fig.axes[1::2]]
    assert (colours[0][0] == colours[1][0]).all() and (colours[0][2] == colours[1][2]).all()
    assert (colours[0][1] != colours[1][1]).any()
    assert [t.get_text() for t in fig.axes[0].texts] == ["AA"]


def test_unit_runs_name_every_run_below_the_spectrogram():
    phonemes = [SimpleNamespace(symbol="AA", start=0, end=4000)]
    rows = {"one": torch.tensor([3, 3, 5, 3]), "two": torch.tensor([4, 4, 4, 4])}
    fig = strips.unit_runs(torch.randn(1, 8000), 16000, rows, 8, phonemes, (0.0, 0.5), "said")
    mel, one, two = fig.axes
    assert mel.get_title(loc="left") == "said" and [t.get_text() for t in mel.texts] == ["AA"]
    assert [t.get_text() for t in one.texts] == ["3", "5", "3"]
    assert [t.get_position()[0] for t in one.texts] == [1 / 8, 2.5 / 8, 3.5 / 8]  # middles
    assert [t.get_text() for t in two.texts] == ["4"] and two.get_ylabel() == "two"
    shade = one.collections[0].get_array().ravel()
    assert shade[0] == shade[2] != shade[1]  # equal units have equal colours


def test_a_unit_has_one_colour_in_every_row_and_an_empty_row_is_white():
    rows = {
        "a": torch.tensor([3, 3, 9]),
        "": torch.tensor([], dtype=torch.long),
        "b": torch.tensor([9]),
    }
    image = plotting.unit_table(rows, title="two").axes[0].images[0].get_array()
    assert image.shape == (3, 3, 4)
    assert (image[0, 0] == image[0, 1]).all() and (image[0, 2] == image[2, 0]).all()
    assert (image[0, 0] != image[0, 2]).any() and (image[1] == 1).all()


def test_points_stand_beside_each_other_or_at_their_x():
    values = [(1.0, 0.5, 2.0), (3.0, 2.0, 3.5)]
    panels = {"a": {"x": values, "y": values}, "b": {"x": ([10, 20], values)}}
    fig = plotting.points(panels, "error (%)", levels={"b": 2.5})
    left, right = fig.axes
    first, second = (box.lines[0].get_xdata().tolist() for box in left.containers)
    assert first == pytest.approx([-0.06, 0.94]) and second == pytest.approx([0.06, 1.06])
    line = right.containers[0]
    assert line.lines[0].get_xdata().tolist() == [10, 20]
    ends = [bar.tolist() for bar in line.lines[2][0].get_segments()]
    assert ends == [[[10, 0.5], [10, 2.0]], [[20, 2.0], [20, 3.5]]]
    assert right.lines[-1].get_ydata()[0] == 2.5 and left.get_ylabel() == "error (%)"


def test_sequence_shows_what_is_written_and_names_the_end():
    codes, weights = torch.tensor([3, 3, 5]), torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.0, 0.3]])
    chances = torch.tensor([[0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.02]] * 3 + [[0.1] * 6 + [0.4]])
    empty, all_ = (plotting.sequence(["M", "AY"], codes, n, weights, chances) for n in (0, 3))
    assert not empty.axes[1].images and (empty.axes[0].images[0].get_array() == 0).all()
    text, row, following = all_.axes
    assert text.images[0].get_array()[0].tolist() == pytest.approx([0.0, 0.3])
    (colors,) = row.images[0].get_array()
    assert (colors[0] == colors[1]).all() and (colors[1] != colors[2]).any()
    assert row.get_xlim() == (0, 3) and following.get_yticklabels()[0].get_text() == "end"
    assert following.patches[0].get_width() == pytest.approx(0.4)
    with pytest.raises(ValueError, match="written: got 4, expected 0 to 3"):
        plotting.sequence(["M", "AY"], codes, 4, weights, chances)


def test_ladder_has_a_panel_for_every_rung_and_time_only_where_there_is_some():
    units = torch.tensor([4, 4, 7, 1, 1, 1])
    vectors = {"continuous": torch.randn(6, 30), "centroids": torch.randn(6, 30)}
    rows = {"merged": units.unique_consecutive()}
    fig = ladders.ladder(torch.randn(1, 16000), 16000, vectors, {"units": units}, rows, (), 1, 6)
    mel, first, second, timed, merged = fig.axes
    assert len(first.images[0].get_array()) == ladders.CHANNELS == 24
    assert [text.get_text() for text in timed.texts] == ["4", "7", "1"]
    assert merged.get_xlim() == (0, 3) and timed.get_xlim() == mel.get_xlim() == (0, 1)
    assert second.get_ylabel() == "centroids"


def test_what_is_not_read_is_whitened():
    fig = ladders.cut_short(torch.randn(1, 16000), 16000, torch.arange(10), 7, 10)
    mel, strip = fig.axes
    (box,) = mel.patches
    assert (box.get_x(), box.get_width()) == pytest.approx((0.7, 0.3))
    assert strip.get_xlim() == (0, 1)
