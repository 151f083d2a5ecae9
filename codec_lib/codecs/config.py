r"""What describes a codec: one frozen config, which a checkpoint stores as JSON.

Codecs extend it by what is theirs. Values of another type and unknown names are errors, with the
nearest known name as a hint, here and in every other config of the package. Notebook:
00_start_here. Leaves out: what a training run sets (``training/config.py``). Read next:
``codecs/base.py``.
"""

from __future__ import annotations

import difflib
import inspect
import math
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

Made = TypeVar("Made")


@dataclass(frozen=True)
class CodecConfig:
    r"""What every codec's config has: rate, backbone and quantizer sizes. JSON-able.

    Attributes
    ----------
    sample_rate
        Hz.
    strides
        Decoder order; their product is ``hop_length`` (also for the spectral backbone).
    backbone
        ``"spectral"``, ``"seanet"``, ``"bigcodec"``, or ``"vocos"`` (SEANet's encoder and Vocos).
    width, decoder_width
        Channels: of all blocks (spectral), of the encoder's first convolution (the others); of the
        decoder's last (bigcodec; None: ``width``) or of all its blocks (vocos; None: 768).
    latent_dim, num_quantizers, codebook_size, codebook_dim
        Latent width D, codebooks, entries N of each, their width (None: D).
    encoder_depth, decoder_depth, expansion, kernel_size
        Spectral: ConvNeXt blocks.
    n_fft, num_mels, encoder_subframes
        Spectral: log-mel frames.
    decoder_n_fft, decoder_subframes, head
        Spectral: inverse STFT; None is 4 hops (of a subframe). Vocos: the first of them.
    pos_net
        Vocos: True puts residual convolutions and attention before the blocks.
    lstm_layers, bidirectional, activation, causal, norm
        SEANet; BigCodec, without the second and fourth. ``causal`` needs ``backbone="seanet"`` and
        ``bidirectional=False``; the other backbones have no causal form.
    quantizer
        Further arguments of the quantizer, e.g. ``{"decay": 0.9, "as_published": True}``.
    max_length
        Most frames U that one code may stand for; 1: the rate is fixed [CodecSlime].
    token_rate
        Codes per second (of each codebook) where a caller names no other, Hz; None: every frame.
    segment_cost, segment_form
        What the scheduler makes small (``rate.segment_costs``), and whether a training step counts
        every token once, ``"tokens"``, or once a frame, ``"frames"`` (``rate.quantize_segments``).

    Raises
    ------
    TypeError
        If a value is of another type than its field; lists become tuples.
    """

    sample_rate: int = 16000
    strides: tuple[int, ...] = (8, 5, 4, 2)
    backbone: str = "spectral"
    width: int = 192
    decoder_width: int | None = None
    latent_dim: int = 64
    num_quantizers: int = 8
    codebook_size: int = 1024
    codebook_dim: int | None = None
    encoder_depth: int = 4
    decoder_depth: int = 5
    expansion: int = 3
    kernel_size: int = 7
    n_fft: int = 1024
    num_mels: int = 80
    encoder_subframes: int = 1
    decoder_n_fft: int | None = None
    decoder_subframes: int = 1
    head: str = "magnitude_phase"
    pos_net: bool = True
    lstm_layers: int = 2
    bidirectional: bool = True
    activation: str = "elu"
    causal: bool = False
    norm: str = "weight_norm"
    quantizer: Mapping[str, Any] = field(default_factory=dict)
    max_length: int = 1
    token_rate: float | None = None
    segment_cost: str = "paper"
    segment_form: str = "tokens"

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(type(self)).items():
            object.__setattr__(self, name, _typed(name, kind, getattr(self, name)))

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.strides)

    def without_files(self) -> CodecConfig:
        """Return the config for weights that are loaded next: building it reads no file."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON stores them."""
        return {**asdict(self), "strides": list(self.strides), "quantizer": dict(self.quantizer)}


# The spectral backbone at a test's size, for the scale "smoke" of every codec.
SMOKE: dict[str, Any] = {
    "width": 32,
    "latent_dim": 16,
    "encoder_depth": 1,
    "decoder_depth": 1,
    "expansion": 2,
    "n_fft": 640,
    "num_mels": 40,
}


def scaled_config(scales: Mapping[str, Any], scale: str, overrides: Mapping[str, Any]) -> Any:
    r"""Return the frozen config of a scale with some fields changed; lists become tuples.

    Parameters
    ----------
    scales
        Config by scale.
    scale, overrides
        Which one, and its changed fields.

    Raises
    ------
    ValueError
        If there is no such scale or field.
    """
    if scale not in scales:
        raise ValueError(f"scale: got {scale!r}, expected one of {sorted(scales)}")
    known = asdict(scales[scale])
    if not set(overrides) <= set(known):
        raise ValueError(
            f"config: got {sorted(set(overrides) - set(known))}, expected some of {list(known)}"
        )
    fixed = {key: tuple(v) if isinstance(v, list) else v for key, v in overrides.items()}
    return replace(scales[scale], **fixed)


def make_quantizer(
    kinds: Sequence[Callable[..., Made]], options: Mapping[str, Any], **own: Any
) -> Made:
    r"""Build a codec's quantizer with the further arguments that its config names, all checked.

    Parameters
    ----------
    kinds
        The quantizer's class, then those that it hands further arguments on to.
    options
        ``config.quantizer``.
    **own
        Arguments that follow from the config's other fields.

    Raises
    ------
    TypeError
        If an option is of another type.
    ValueError
        If an option is unknown or follows from another field.

    Examples
    --------
    >>> from codec_lib.quantizers import FiniteScalarQuantizer
    >>> make_quantizer((FiniteScalarQuantizer,), {"levels": [4, 4]}, latent_dim=8).codebook_sizes
    (16,)
    """
    taken: dict[str, Any] = {}  # argument to its type
    for kind in kinds:
        hints = typing.get_type_hints(kind.__init__)
        for name, argument in inspect.signature(kind).parameters.items():
            if argument.kind is not argument.VAR_KEYWORD:
                taken.setdefault(name, hints[name])
    further = [name for name in taken if name not in own]
    for name in options:
        if name in own:
            raise ValueError(
                f"quantizer: got {name!r}, which follows from the config's other fields, expected "
                f"some of {further}; hint: change those fields, e.g. codebook_size"
            )
        known(name, further, "quantizer option")
    checked = {name: _typed(f"quantizer.{name}", taken[name], options[name]) for name in options}
    return kinds[0](**own, **checked)


def _typed(name: str, kind: Any, value: Any) -> Any:
    """Return a value as ``coerce`` does, but raise TypeError, and read no string as a number."""
    if isinstance(value, str) and kind is not str and str not in typing.get_args(kind):
        raise TypeError(f"{name}: got {value!r}, expected {getattr(kind, '__name__', kind)}")
    try:
        return coerce(name, kind, value)
    except ValueError as error:
        raise TypeError(str(error)) from None


def coerce(name: str, kind: Any, value: Any) -> Any:
    r"""Return a value in its field's own type; YAML gives lists for tuples and strings for 1e-4.

    Parameters
    ----------
    name, kind
        Of the field.
    value
        What was given.

    Raises
    ------
    ValueError
        If it cannot be had.

    Examples
    --------
    >>> coerce("lr", float, "1e-4"), coerce("codebook_dim", int | None, None)
    (0.0001, None)
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if parts[1:] == (type(None),):  # X | None
        return None if value is None else coerce(name, parts[0], value)
    if origin is dict and parts[1:] == (float,) and isinstance(value, dict):
        return {key: coerce(f"{name}.{key}", float, item) for key, item in value.items()}
    try:
        origin = tuple if origin is Sequence else origin
        if origin is tuple and not isinstance(value, (str, Mapping)):
            read = partial(coerce, name, parts[0]) if parts[0] in (int, float) else parts[0]
            return tuple(map(read, value))
        if kind is float and not isinstance(value, bool):
            return float(value)
        if kind is int and not isinstance(value, bool) and float(value).is_integer():
            return int(float(value))
    except (TypeError, ValueError):
        pass
    else:
        plain = origin if origin in (tuple, dict, Mapping) else (parts or kind)
        if isinstance(value, plain) and not (isinstance(value, bool) and kind is not bool):
            return value
    raise ValueError(f"{name}: got {value!r}, expected {getattr(kind, '__name__', kind)}")


def known(name: str, choices: Iterable[str], what: str) -> str:
    r"""Return a name that is among the choices, or raise ValueError with the nearest ones.

    Parameters
    ----------
    name, choices
        What was given, and what there is.
    what
        What the message calls it.
    """
    choices = list(choices)
    if name in choices:
        return name
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(choices)}"
    raise ValueError(f"unknown {what} {name!r}; {hint}")
