r"""Critics: families of discriminators, by name, and the sets of them that papers train with.

Source: [SpeechTokenizer], §3.3: three families, 13 sub-discriminators, 71.2 M parameters at the
published size; BigCodec and WavTokenizer for the multi-resolution ones. Notebook:
``06_losses_and_discriminators``. Left out: losses and optimisers. Read next: ``base.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from codec_lib.discriminators.base import Discriminator, DiscriminatorOutput
from codec_lib.discriminators.multi_period import PERIODS, MultiPeriodDiscriminator
from codec_lib.discriminators.multi_resolution import (
    BAND_N_FFTS,
    MRD_N_FFTS,
    MultiBandDiscriminator,
    MultiResolutionDiscriminator,
)
from codec_lib.discriminators.multi_scale import MultiScaleDiscriminator
from codec_lib.discriminators.multi_scale_stft import N_FFTS, MultiScaleSTFTDiscriminator
from codec_lib.shapes import check_shape

__all__ = [
    "DISCRIMINATORS",
    "Discriminator",
    "DiscriminatorConfig",
    "DiscriminatorEnsemble",
    "DiscriminatorOutput",
    "MultiBandDiscriminator",
    "MultiPeriodDiscriminator",
    "MultiResolutionDiscriminator",
    "MultiScaleDiscriminator",
    "MultiScaleSTFTDiscriminator",
    "build_discriminators",
]


@dataclass(frozen=True)
class DiscriminatorConfig:
    r"""Which critics, and how large.

    Attributes
    ----------
    names
        Any of ``"mpd"``, ``"msd"``, ``"ms_stft"``, ``"mrd"``, ``"multi_band"``.
    width
        Factor on all channels; 1.0 is the published size.
    periods
        Periods of the MPD, samples.
    num_scales
        Scales of the MSD.
    n_ffts, hop_lengths
        Windows and hops of the MS-STFT, samples; None takes a quarter of the window.
    filters
        Channels of the MS-STFT and of the multi-band critics before ``width``.
    representation, frequency_stride
        See ``STFTDiscriminator``.
    mrd_n_ffts, mrd_filters, mrd_layout
        Of the MRD, see ``MagnitudeDiscriminator``; filters before ``width``.
    band_n_ffts
        Windows of the multi-band critics, samples.
    """

    names: tuple[str, ...] = ("mpd", "msd", "ms_stft")
    width: float = 1.0
    periods: tuple[int, ...] = PERIODS
    num_scales: int = 3
    n_ffts: tuple[int, ...] = N_FFTS
    hop_lengths: tuple[int, ...] | None = None
    filters: int = 32
    representation: str = "complex"
    frequency_stride: int = 2
    mrd_n_ffts: tuple[int, ...] = MRD_N_FFTS
    mrd_filters: int = 64
    mrd_layout: str = "univnet"
    band_n_ffts: tuple[int, ...] = BAND_N_FFTS

    def __post_init__(self) -> None:
        for name, value in vars(self).items():  # JSON and YAML give lists
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))


# "small" is what a CPU can afford next to the spectral backbone; docs/recipes.md has the costs.
DISCRIMINATORS: dict[str, DiscriminatorConfig] = {
    "paper": DiscriminatorConfig(),
    # The two that the paper names; sizes of its nearest public relative, WavTokenizer, which trains
    # with a third, "mrd".
    "sacodec": DiscriminatorConfig(names=("mpd", "multi_band")),
    "bigcodec": DiscriminatorConfig(  # also DS-Codec
        names=("mpd", "mrd"),
        width=0.5,
        mrd_n_ffts=(128, 256, 512, 1024, 2048),
        mrd_layout="bigcodec",
    ),
    "small": DiscriminatorConfig(
        names=("ms_stft", "mpd"),
        width=1 / 16,
        n_ffts=(1024, 512, 256),
        hop_lengths=(512, 256, 128),
        filters=128,  # 8 after the width
        representation="compressed",  # learns several times faster than the published form
    ),
    "smoke": DiscriminatorConfig(
        names=("ms_stft",), n_ffts=(512, 256), hop_lengths=(256, 128), filters=4
    ),
}


def _mpd(config: DiscriminatorConfig) -> Discriminator:
    return MultiPeriodDiscriminator(config.periods, config.width)


def _msd(config: DiscriminatorConfig) -> Discriminator:
    return MultiScaleDiscriminator(config.num_scales, config.width)


def _ms_stft(config: DiscriminatorConfig) -> Discriminator:
    return MultiScaleSTFTDiscriminator(
        config.n_ffts,
        config.hop_lengths,
        filters=max(1, round(config.filters * config.width)),
        representation=config.representation,
        frequency_stride=config.frequency_stride,
    )


def _mrd(config: DiscriminatorConfig) -> Discriminator:
    filters = max(1, round(config.mrd_filters * config.width))
    return MultiResolutionDiscriminator(config.mrd_n_ffts, filters, config.mrd_layout)


def _multi_band(config: DiscriminatorConfig) -> Discriminator:
    filters = max(1, round(config.filters * config.width))
    return MultiBandDiscriminator(config.band_n_ffts, filters)


FAMILIES: dict[str, Callable[[DiscriminatorConfig], Discriminator]] = {
    "mpd": _mpd,
    "msd": _msd,
    "ms_stft": _ms_stft,
    "mrd": _mrd,
    "multi_band": _multi_band,
}


class DiscriminatorEnsemble(nn.Module):
    r"""Several families as one module: K sub-discriminators in one list.

    Parameters
    ----------
    families
        Family name to module.
    config
        What built them, kept for checkpoints.

    Examples
    --------
    >>> import torch
    >>> disc = build_discriminators("smoke")
    >>> outputs = disc(torch.zeros(1, 1, 4000))
    >>> len(outputs), disc.num_discriminators
    (2, 2)
    """

    def __init__(
        self, families: dict[str, Discriminator], config: DiscriminatorConfig | None = None
    ) -> None:
        super().__init__()
        self.families = nn.ModuleDict(families)
        self.config = config

    @property
    def num_discriminators(self) -> int:
        """Number of sub-discriminators K."""
        return sum(len(family.discriminators) for family in self.families.values())

    @property
    def min_samples(self) -> int:
        """Samples T that a clip must have."""
        return max(family.min_samples for family in self.families.values())

    def forward(self, wav: Tensor) -> list[DiscriminatorOutput]:
        r"""Judge a batch of waveforms with every critic.

        Parameters
        ----------
        wav
            Waveform, (B, 1, T).

        Returns
        -------
        list[DiscriminatorOutput]
            K outputs, families in the order of the configuration.

        Raises
        ------
        ValueError
            If the shape is wrong or the clip too short.
        """
        check_shape(wav, "B 1 T", name="wav")
        return [output for family in self.families.values() for output in family(wav)]


def build_discriminators(
    which: str | Sequence[str] | DiscriminatorConfig = "paper", **overrides: Any
) -> DiscriminatorEnsemble:
    r"""Build a set of critics.

    Parameters
    ----------
    which
        A named set (``"paper"``, ``"sacodec"``, ``"bigcodec"``, ``"small"``, ``"smoke"``), family
        names such as ``("mpd", "ms_stft")`` or one of them, or a configuration.
    **overrides
        Fields of ``DiscriminatorConfig`` to change, e.g. ``width=0.25``.

    Returns
    -------
    DiscriminatorEnsemble
        The critics with random weights.

    Raises
    ------
    ValueError
        If a name or a field is unknown.

    Examples
    --------
    >>> sum(p.numel() for p in build_discriminators("ms_stft").parameters())
    472330
    """
    config = _config(which)
    try:
        config = replace(config, **overrides)
    except TypeError as error:
        known = ", ".join(DiscriminatorConfig.__dataclass_fields__)
        raise ValueError(f"got fields {sorted(overrides)}, expected among: {known}") from error
    unknown = [name for name in config.names if name not in FAMILIES]
    if unknown or not config.names:
        raise ValueError(f"critics: got {list(config.names)}, expected some of {list(FAMILIES)}")
    return DiscriminatorEnsemble({n: FAMILIES[n](config) for n in config.names}, config)


def _config(which: str | Sequence[str] | DiscriminatorConfig) -> DiscriminatorConfig:
    """Turn a name, family names or a configuration into a configuration."""
    if isinstance(which, DiscriminatorConfig):
        return which
    if not isinstance(which, str):
        return DiscriminatorConfig(names=tuple(which))
    if which in DISCRIMINATORS:
        return DISCRIMINATORS[which]
    if which in FAMILIES:
        return DiscriminatorConfig(names=(which,))
    known = [*DISCRIMINATORS, *FAMILIES]
    raise ValueError(f"discriminators: got {which!r}, expected one of {known}")
