r"""Codecs by name and scale.

``build("speechtokenizer", "small", width=128)`` gives random weights; ``hub.load`` gives trained
ones. A codec's module registers its class when it is imported; the modules are listed here and
imported on first use. Read next: ``codecs/speechtokenizer.py``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from codec_lib.codecs.base import Codec

MODULES = (
    "speechtokenizer",
    "dm_codec",
    "encodec",
    "bigcodec",
    "dac",
    "sacodec",
    "ds_codec",
    "codecslime",
)  # one published codec a file
_REGISTRY: dict[str, type[Codec]] = {}

CodecClass = TypeVar("CodecClass", bound=type[Codec])


def register(name: str) -> Callable[[CodecClass], CodecClass]:
    r"""Register a codec class under a name (class decorator).

    Raises
    ------
    ValueError
        If another class has the name.
    """

    def decorate(cls: CodecClass) -> CodecClass:
        known = _REGISTRY.get(name)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise ValueError(f"name: got {name!r}, which {known.__qualname__} has already")
        cls.name = name
        _REGISTRY[name] = cls
        return cls

    return decorate


def names() -> list[str]:
    r"""Return the names of all codecs.

    Examples
    --------
    >>> "speechtokenizer" in names()
    True
    """
    for module in MODULES:
        importlib.import_module(f"codec_lib.codecs.{module}")
    return sorted(_REGISTRY)


def codec_class(name: str) -> type[Codec]:
    r"""Return the class of a codec.

    Raises
    ------
    ValueError
        If the name is unknown; the known ones are listed.
    """
    known = names()
    if name not in known:
        raise ValueError(f"codec: got {name!r}, expected one of {known}")
    return _REGISTRY[name]


def build(name: str, scale: str = "small", **overrides: Any) -> Codec:
    r"""Build a codec with random weights.

    Parameters
    ----------
    name
        See ``names()``.
    scale
        ``"smoke"`` (tests), ``"small"`` (trainable on a CPU) or ``"paper"`` (as published).
    **overrides
        Fields of the codec's config.

    Returns
    -------
    Codec
        In training mode, on the CPU.

    Raises
    ------
    ValueError
        If name, scale or a field is unknown.

    Examples
    --------
    >>> build("speechtokenizer", "smoke", num_quantizers=4).num_quantizers
    4
    """
    cls = codec_class(name)
    if scale not in cls.scales:
        raise ValueError(f"scale: got {scale!r}, expected one of {sorted(cls.scales)}")
    config = cls.scales[scale]
    _check_fields(cls, overrides)
    return cls(replace(config, **_tuples(overrides)))


def build_from_config(name: str, values: Mapping[str, Any]) -> Codec:
    r"""Build a codec from the values of ``config.to_dict()``, as a file stores them.

    The weights are expected to follow: what the config would read from files stays random.

    Raises
    ------
    ValueError
        If the name or a field is unknown.
    """
    cls = codec_class(name)
    _check_fields(cls, values)
    config = cls.config_class(**_tuples(values))
    codec = cls(config.without_files())
    codec.config = config
    return codec


def with_rate(
    codec: Codec, max_length: int | None = None, token_rate: float | None = None
) -> Codec:
    r"""Return a copy of a codec whose codes may stand for several frames, untrained for it.

    Parameters
    ----------
    codec
        Any, not frozen for inference.
    max_length, token_rate
        Longest segment U and tokens per second, Hz; None for the codec's own, or 4 and every frame
        where its rate is fixed.

    Returns
    -------
    Codec
        The same weights, mode, card and device.

    Raises
    ------
    ValueError
        If segments of at most U frames cannot have the rate.

    Examples
    --------
    >>> with_rate(build("bigcodec", "smoke"), token_rate=40).bitrate()
    320.0
    """
    own = codec.config
    longest = max_length or (own.max_length if own.max_length > 1 else 4)
    rate = own.token_rate if token_rate is None else token_rate
    config = replace(own, max_length=longest, token_rate=rate)
    other = type(codec)(config.without_files())
    other.config = config
    if other.state_dict().keys() != codec.state_dict().keys():
        other.fold_weight_norm()  # as the codec's is
    other.load_state_dict(codec.state_dict())
    other.card, other.fingerprint = codec.card, codec.fingerprint
    return other.to(codec.device).train(codec.training)


def _check_fields(cls: type[Codec], values: Mapping[str, Any]) -> None:
    """Raise for a name that the config does not have."""
    known = [field.name for field in fields(cls.config_class)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{cls.name}: got unknown fields {unknown}, expected some of {known}")


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn JSON's lists into tuples, which a frozen config can hold."""
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
