r"""Where things lie on disk: shipped data, caches, corpora and checkpoints.

Two environment variables move them: ``CODEC_LIB_DATA`` names a folder of real corpora, which only
``codec-lib corpus excerpt`` writes to, ``CODEC_LIB_CACHE`` names where computed features and
anything else that can be made again are kept.

No paper. Used by every notebook. Leaves out: making the folders; whoever writes makes its own.
Read next: ``audio.py``.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _checkout_data() -> Path | None:
    """Return ``data/`` of the repository that this file lies in, or None in a wheel."""
    folder = _PACKAGE.parent / "data"
    return folder if (folder / "sentences").is_dir() else None


def _writable_root() -> Path:
    """Return the folder under which corpora and caches are written."""
    return _checkout_data() or Path.home() / ".cache" / "codec_lib"


def _from_environment(variable: str) -> Path | None:
    """Return the folder that an environment variable names, or None when it is unset or blank."""
    value = os.environ.get(variable, "").strip()
    return Path(value).expanduser() if value else None


def data_root() -> Path:
    r"""Return the folder of shipped data: sentence lists, checkpoints, result tables.

    Returns
    -------
    Path
        ``data/`` in a clone; ``codec_lib/_data`` in an installed package.
    """
    return _checkout_data() or _PACKAGE / "_data"


def cache_root() -> Path:
    r"""Return the folder for what can be made again (``$CODEC_LIB_CACHE`` or ``data/cache``)."""
    return _from_environment("CODEC_LIB_CACHE") or _writable_root() / "cache"


def corpora_root() -> Path:
    r"""Return the folder where corpora are made and downloaded to (``data/corpora``)."""
    return _writable_root() / "corpora"


def checkpoints_root() -> Path:
    r"""Return the folder of shipped checkpoints (``data/checkpoints``)."""
    return data_root() / "checkpoints"


def real_data_root() -> Path | None:
    r"""Return the folder of real corpora that ``$CODEC_LIB_DATA`` names, or None when it is unset.

    Raises
    ------
    ValueError
        If the variable is set and names no folder: silence would hide a typing error.
    """
    folder = _from_environment("CODEC_LIB_DATA")
    if folder is not None and not folder.is_dir():
        raise ValueError(
            f"CODEC_LIB_DATA: got {folder}, expected an existing folder of corpora. "
            "Hint: unset it to use the synthetic corpus alone."
        )
    return folder


def replace_text(path: Path, text: str) -> None:
    r"""Write a text file whole or not at all: under another name, then renamed.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.json"
    >>> replace_text(target, "{}")
    >>> target.read_text()
    '{}'
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def revision() -> str:
    r"""Return the commit that the library runs from, with ``-dirty`` where files differ.

    Result files do not count: one that is being written says nothing of what wrote it.
    ``"unknown"`` where it does not run from a clone of its own: ``site-packages`` may lie inside
    somebody else's repository.
    """
    if not (_PACKAGE.parent / ".git").exists():
        return "unknown"
    try:
        head = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!data/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}-dirty" if changed else head


def _git(*arguments: str) -> str:
    """Return what git says of the clone that the library runs from."""
    return subprocess.check_output(["git", *arguments], cwd=_PACKAGE.parent, text=True).strip()
