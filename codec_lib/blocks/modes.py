r"""Parts that are run as in use although they are in training.

No paper. Leaves out: freezing, which lasts (``training/freezing.py``). Read next: ``bigcodec.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put a module and its parts into eval mode, and afterwards each into the mode it had."""
    changed = [part for part in module.modules() if part.training]
    for part in changed:
        part.training = False
    try:
        yield
    finally:
        for part in changed:
            part.training = True
