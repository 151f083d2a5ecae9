r"""Keep what a network says of a recording on disk, found again by the sound itself.

Evaluations hear the same recordings many times: another probe, another seed, another number of
units. ``remembered`` wraps any function from a waveform to codes or features; the file's name is
the digest of the samples, in a folder named after the network's weights (``key_of``), so that
renamed files are found again and changed files and weights are not. Codes are kept as int32,
features as float16; what comes out the first time has been rounded, too, so that two runs agree.

No paper. Leaves out: training crops (``teachers/features.py``). Read next: ``studies.py``.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from codec_lib import hub, paths

_log = logging.getLogger(__name__)
Extract = Callable[[Tensor], Tensor]  # a waveform (1, 1, T) -> codes or features (1, F, ...)


def key_of(network: nn.Module, *asked: object) -> str:
    r"""Return a name that changes with a network's weights and with what is asked of it.

    Parameters
    ----------
    network
        Its class, its ``config`` where it has one, and its weights are read: 0.1 s for 20 M
        numbers.
    asked
        What else matters, e.g. a layer.

    Examples
    --------
    >>> layer = nn.Linear(2, 2)
    >>> before = key_of(layer)
    >>> layer.weight.data += 1
    >>> key_of(layer) != before != key_of(layer, "other layer")
    True
    """
    about = (type(network).__qualname__, getattr(network, "config", None), *asked)
    digest = hashlib.sha256(repr(about).encode())
    for key, value in network.state_dict().items():
        if key.endswith(hub.STATISTICS):  # of training only; a shipped file draws them anew
            continue
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:24]


def remembered(extract: Extract, name: str, root: str | Path | None = None) -> Extract:
    r"""Return a function that computes only what is not on disk yet.

    Parameters
    ----------
    extract
        Function from a waveform (1, 1, T) to codes (1, F) or (1, F, K) int64, or to features
        (1, F, D) float; the same for the same waveform.
    name
        Of the folder, see ``key_of``.
    root
        Folder of such folders; ``heard`` in the cache by default.

    Returns
    -------
    Extract
        Codes int64; features float32, rounded to float16.

    Raises
    ------
    ValueError
        If the name is empty or holds a separator of folders.

    Notes
    -----
    Several processes may share a folder. A damaged file is logged, removed and computed again.
    """
    if not name or Path(name).name != name:
        raise ValueError(f"name: got {name!r}, expected the name of one folder")
    folder = Path(root or paths.cache_root() / "heard") / name

    @torch.no_grad()
    def hear(wav: Tensor) -> Tensor:
        digest = hashlib.sha256(wav.detach().cpu().float().numpy().tobytes()).hexdigest()
        file = folder / digest[:2] / f"{digest}.npy"
        stored = _read(file)
        if stored is None:
            found = extract(wav).cpu()
            stored = found.half() if found.is_floating_point() else found.int()
            _keep(file, stored.numpy())
        return stored.float() if stored.is_floating_point() else stored.long()

    return hear


def _read(file: Path) -> Tensor | None:
    """Read an array; None where there is none or it is damaged."""
    try:
        stored = np.load(file, allow_pickle=False)
        if stored.dtype not in (np.float16, np.int32) or not np.isfinite(stored).all():
            raise ValueError(f"got {stored.dtype}, or values not finite")
    except FileNotFoundError:
        return None
    except (ValueError, OSError, EOFError) as error:
        _log.warning("%s: damaged file removed, computed again: %s", file, error)
        file.unlink(missing_ok=True)
        return None
    return torch.from_numpy(stored)


def _keep(file: Path, array: np.ndarray) -> None:
    """Write an array under another name, then rename."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.stem}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as stream:
            np.save(stream, array, allow_pickle=False)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
