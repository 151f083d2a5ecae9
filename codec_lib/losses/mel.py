r"""Mel spectrograms for losses: scales, named recipes, and the transform with cached filters.

Source: [SpeechTokenizer], §3.3, Eq. (4), and the official code. Notebook:
``06_losses_and_discriminators``. Conventions: Hann window, magnitude (power 1), reflection padding
by (n_fft - hop_length) / 2, so that T samples give T / hop_length frames (published recipes that
centre their frames do so here). Left out: distances
(``losses/reconstruction.py``) and figures (``plotting.py``). Read next: ``reconstruction.py``.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

COMPRESSIONS = ("linear", "log", "log10")


@dataclass(frozen=True)
class MelScale:
    r"""One window size of a multi-scale mel loss.

    Attributes
    ----------
    n_fft
        Window and transform size, samples.
    hop_length
        Samples between frames.
    n_mels
        Mel bins M.
    weight
        Weight of this scale within the loss.
    """

    n_fft: int
    hop_length: int
    n_mels: int
    weight: float = 1.0


@dataclass(frozen=True)
class MelRecipe:
    r"""How mel spectrograms are made and compared.

    Attributes
    ----------
    scales
        Window sizes.
    l1, l2
        Factor on the L1 and on the L2 distance of every scale; 0 leaves it out.
    l2_form
        ``"mean_square"`` or ``"norm"`` (Euclidean norm per clip, over the root of the element
        count, averaged over clips).
    l1_compression, l2_compression
        ``"linear"``, ``"log"`` (natural) or ``"log10"``: what the L1 and the L2 compare.
    floor
        Magnitudes are clamped here before a logarithm; far below audible.
    centred
        True pads by n_fft / 2, so that frames are centred on whole hops and T samples give
        T / hop_length + 1 of them; False pads by (n_fft - hop_length) / 2.
    normalized
        True divides the spectrum by the window's L2 norm, so that levels agree between windows.
    mel_scale, mel_norm
        ``"htk"`` or ``"slaney"`` frequency scale; ``"slaney"`` (equal area) or None (peak 1).
    f_min, f_max
        Band in Hz; None is half the sample rate.
    """

    scales: tuple[MelScale, ...]
    l1: float = 1.0
    l2: float = 0.0
    l2_form: str = "mean_square"
    l1_compression: str = "log"
    l2_compression: str = "log"
    floor: float = 1e-5
    centred: bool = False
    normalized: bool = False
    mel_scale: str = "htk"
    mel_norm: str | None = "slaney"
    f_min: float = 0.0
    f_max: float | None = None

    def __post_init__(self) -> None:
        allowed = {
            "l2_form": ("mean_square", "norm"),
            "l1_compression": COMPRESSIONS,
            "l2_compression": COMPRESSIONS,
        }
        for name, options in allowed.items():
            if getattr(self, name) not in options:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected one of {options}")
        if not self.scales or (self.l1 == 0 and self.l2 == 0):
            raise ValueError("got no scales, or l1 = l2 = 0; expected something to compare")


MEL_RECIPES: dict[str, MelRecipe] = {
    # Eq. (4): windows 2^5 ... 2^11, hop a quarter, 64 bins, L1 + L2. The paper follows EnCodec:
    # normalised transform, L1 on linear and L2 on log magnitudes.
    "paper": MelRecipe(
        scales=tuple(MelScale(2**i, 2**i // 4, 64) for i in range(5, 12)),
        l2=1.0,
        l1_compression="linear",
        normalized=True,
    ),
    # Official code: 80 bins, log only, L1 only, the first scale counts 45 times.
    "official": MelRecipe(
        scales=(
            MelScale(1024, 240, 80, 45.0),
            MelScale(512, 120, 80, 1.0),
            MelScale(256, 60, 80, 1.0),
            MelScale(128, 30, 80, 1.0),
        )
    ),
    # For a CPU: fewer frames per scale, bins that no filter leaves empty.
    "small": MelRecipe(
        scales=(
            MelScale(2048, 512, 80, 1.0),
            MelScale(1024, 256, 64, 1.0),
            MelScale(512, 128, 32, 1.0),
            MelScale(256, 64, 16, 1.0),
        ),
        mel_scale="slaney",
    ),
    # DAC's and BigCodec's: windows 2^5 ... 2^11, hop a quarter, 5 ... 320 bins, L1 of log10.
    "dac": MelRecipe(
        scales=tuple(MelScale(2**i, 2**i // 4, 5 * 2 ** (i - 5)) for i in range(5, 12)),
        l1_compression="log10",
        centred=True,
        mel_scale="slaney",
    ),
    # Vocos's and WavTokenizer's single scale, to which the weight 45 belongs.
    "vocos": MelRecipe(scales=(MelScale(1024, 256, 100),), floor=1e-7, centred=True, mel_norm=None),
}


def mel_recipe(which: str | MelRecipe, **changes: object) -> MelRecipe:
    r"""Return a named mel recipe, with some fields changed.

    Parameters
    ----------
    which
        ``"paper"``, ``"official"``, ``"small"``, ``"dac"``, ``"vocos"``, or a recipe.
    **changes
        Fields of ``MelRecipe``.

    Raises
    ------
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> [scale.hop_length for scale in mel_recipe("paper").scales]
    [8, 16, 32, 64, 128, 256, 512]
    """
    if isinstance(which, MelRecipe):
        return replace(which, **changes)
    if which not in MEL_RECIPES:
        raise ValueError(f"mel recipe: got {which!r}, expected one of {list(MEL_RECIPES)}")
    return replace(MEL_RECIPES[which], **changes)


def mel_filters(scale: MelScale, recipe: MelRecipe, sample_rate: int) -> Tensor:
    r"""Return the triangular filters of one scale.

    With short windows some filters lie between two transform bins and are empty: their mel bin is
    always 0 (log: the floor), equal in both signals, and adds nothing to the loss but counts in
    its mean.

    Parameters
    ----------
    scale, recipe
        Sizes of the transform, and the frequency scale, norm and band of the filters.
    sample_rate
        Hz.

    Returns
    -------
    Tensor
        Filters, (n_fft/2 + 1, M).
    """
    f_max = sample_rate / 2 if recipe.f_max is None else recipe.f_max
    with warnings.catch_warnings():  # torchaudio warns of empty filters; the docstring says why not
        warnings.simplefilter("ignore")
        return melscale_fbanks(
            scale.n_fft // 2 + 1,
            recipe.f_min,
            f_max,
            scale.n_mels,
            sample_rate,
            norm=recipe.mel_norm,
            mel_scale=recipe.mel_scale,
        )


class MelSpectrogram(nn.Module):
    r"""Magnitude mel spectrogram with T / hop_length frames (for whole hops).

    The clip is padded by reflection with (n_fft - hop_length) / 2 samples on each side (n_fft / 2
    in a centred recipe). Computed in float32 also under autocast. Filters and window are buffers
    that no checkpoint stores.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, scale: MelScale, recipe: MelRecipe, sample_rate: int) -> None:
        super().__init__()
        if scale.hop_length > scale.n_fft:
            raise ValueError(f"hop_length: got {scale.hop_length}, expected at most {scale.n_fft}")
        self.scale = scale
        # both sides together; an odd one is longer on the right
        self.padding = scale.n_fft if recipe.centred else scale.n_fft - scale.hop_length
        window = torch.hann_window(scale.n_fft)
        # the norm moves into the filters: |X| / norm @ filters = |X| @ (filters / norm)
        norm = window.square().sum().sqrt() if recipe.normalized else torch.ones(())
        self.register_buffer("window", window, persistent=False)
        filters = mel_filters(scale, recipe, sample_rate) / norm
        self.register_buffer("filters", filters, persistent=False)

    @property
    def num_empty(self) -> int:
        """Number of mel bins whose filter holds no transform bin."""
        return int((self.filters.amax(dim=0) == 0).sum())

    def forward(self, wav: Tensor) -> Tensor:
        r"""Return the mel magnitudes of (B, 1, T), shape (B, F, M)."""
        n_fft, hop = self.scale.n_fft, self.scale.hop_length
        left = self.padding // 2
        with torch.autocast(wav.device.type, enabled=False):
            padded = F.pad(wav.float(), (left, self.padding - left), mode="reflect").squeeze(1)
            spectrum = torch.stft(
                padded, n_fft, hop, window=self.window, center=False, return_complex=True
            )
            return spectrum.abs().transpose(1, 2) @ self.filters  # (B, F, M)
