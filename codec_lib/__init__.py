r"""codec_lib: neural speech codecs to read, train and measure.

The three names most users need are here; they are imported on first use, so that
``import codec_lib`` costs nothing::

    codec = codec_lib.build("speechtokenizer", scale="small")   # random weights
    codec = codec_lib.load("speechtokenizer-small")             # a shipped checkpoint, or a path
    codes = codec.encode(wav)                                   # codec_lib.Codes

The reading order is in ``codec_lib/README.md``; start with ``shapes.py``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codec_lib.codecs.registry import build, names
    from codec_lib.hub import load
    from codec_lib.shapes import CodecOutput, Codes

__version__ = "0.1.0"
__all__ = ["CodecOutput", "Codes", "__version__", "build", "load", "names"]

_HOME = {
    "build": "codec_lib.codecs.registry",
    "names": "codec_lib.codecs.registry",
    "load": "codec_lib.hub",
    "Codes": "codec_lib.shapes",
    "CodecOutput": "codec_lib.shapes",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(
        f"module 'codec_lib' has no attribute {name!r}; it has {', '.join(__all__)}"
    )


def __dir__() -> list[str]:
    """List the public names for completion."""
    return __all__
