"""What a result file says of the code that wrote it."""

from __future__ import annotations

import subprocess

import pytest

from codec_lib import paths


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository with one file of code and one of results, as the library's own."""
    for name in ("codec_lib/a.py", "data/results/a.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("1")
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (("init", "-q"), ("add", "."), (*author, "commit", "-q", "-m", "first")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "codec_lib")
    return tmp_path


def test_changed_code_makes_a_revision_dirty_and_a_result_does_not(clone):
    head = paths.revision()
    assert len(head) >= 7 and int(head, 16) > 0
    (clone / "data/results/a.json").write_text("2")
    (clone / "notes.txt").write_text("not tracked")
    assert paths.revision() == head
    (clone / "codec_lib/a.py").write_text("2")
    assert paths.revision() == f"{head}-dirty"


def test_outside_a_clone_nobody_knows(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "site-packages" / "codec_lib")
    assert paths.revision() == "unknown"
