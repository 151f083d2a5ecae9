"""The README's pictures can be drawn from what ships."""

from codec_lib import figures


def test_pictures_are_drawn_from_what_ships(tmp_path):
    files = figures.main(tmp_path)
    assert [path.name for path in files] == ["rates.png", "codebooks.png", "segments.png"]
    for path in files:
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 500_000
