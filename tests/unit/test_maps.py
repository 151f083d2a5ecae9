"""Maps: a colour for each name, no ticks, as many panels as asked for."""

import numpy as np
import pytest
import torch

from codec_lib.maps import coloured_maps, map_grid


def test_names_have_colours_of_their_own_and_there_are_no_ticks():
    points, names = np.random.default_rng(0).normal(size=(30, 2)), list("abc") * 10
    fig = map_grid(
        [("one", points, names), ("two", points, ["x"] * 30)] * 3, columns=4, legends=[0]
    )
    shown = [ax for ax in fig.axes if ax.get_visible()]
    assert len(fig.axes) == 8 and len(shown) == 6
    colours = {tuple(cloud.get_facecolor()[0]) for cloud in shown[0].collections}
    assert len(colours) == 3 and sum(len(c.get_offsets()) for c in shown[0].collections) == 30
    assert not shown[0].get_xticks().size and shown[0].get_title() == "one"
    assert [text.get_text() for text in shown[0].get_legend().get_texts()] == ["a", "b", "c"]
    assert shown[1].get_legend() is None
    with pytest.raises(ValueError, match="at least one map"):
        map_grid([])


def test_a_cloud_is_mapped_once_and_coloured_twice():
    vectors = torch.randn(24, 5) + 6 * torch.eye(5)[torch.arange(24) % 3]
    right, wrong = [f"g{i % 3}" for i in range(24)], [f"w{i // 8}" for i in range(24)]
    fig = coloured_maps([("a", vectors, right), ("b", vectors, wrong)], neighbours=5)
    first, second = (np.concatenate([c.get_offsets() for c in ax.collections]) for ax in fig.axes)
    assert np.allclose(np.sort(first, 0), np.sort(second, 0))
    scores = [float(ax.get_title().split()[-1]) for ax in fig.axes]
    assert scores[0] > 0.3 > scores[1] and fig.axes[0].get_title().startswith("a, tsne")
