"""The README's pictures can be drawn from what ships."""

from codec_lib import figures


def test_pictures_are_drawn_from_what_ships(tmp_path):
    files = figures.main(tmp_path)
    names = "rates codebooks segments dynamic_rates leaderboard".split()
    assert [path.stem for path in files] == names
    for path in files:
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 500_000
