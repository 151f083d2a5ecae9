r"""Reconstruction losses: L1 on the waveform and on mel spectrograms of several window sizes.

Source: [SpeechTokenizer], §3.3, Eq. (4), and the official code, which differs (both are recipes
here). Notebook: ``06_losses_and_discriminators``. Conventions: every distance is a mean over all
elements, so that it does not depend on batch or clip length; scales are summed with their weights;
the "L2" of Eq. (4) is the mean square (as EnCodec's training code has it) or, on request, the norm
per clip. Left out: losses on the complex spectrum (``discriminators/multi_scale_stft.py`` sees
phase). Read next: ``adversarial.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codec_lib.losses.mel import MelRecipe, MelSpectrogram, mel_recipe
from codec_lib.shapes import check_shape


def waveform_loss(wav_hat: Tensor, wav: Tensor) -> Tensor:
    r"""Mean absolute error of the waveform, the time-domain term.

    .. math:: L_t = \|x - \hat x\|_1, \text{ as a mean over B and T}

    [SpeechTokenizer], §3.3; x is ``wav``, \hat x is ``wav_hat``.

    Parameters
    ----------
    wav_hat, wav
        Reconstruction and original, (B, 1, T), in [-1, 1].

    Returns
    -------
    Tensor
        Scalar, float32; carries gradient to ``wav_hat``.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> waveform_loss(torch.zeros(1, 1, 4), torch.tensor([[[0.5, -0.5, 0.5, -0.5]]])).item()
    0.5
    """
    check_pair(wav_hat, wav)
    return (wav_hat.float() - wav.float()).abs().mean()


def check_pair(wav_hat: Tensor, wav: Tensor) -> None:
    """Raise a ValueError unless both are waveforms (B, 1, T) of one shape."""
    sizes = check_shape(wav, "B 1 T", name="wav")
    check_shape(wav_hat, "B 1 T", name="wav_hat", **sizes)


class MultiScaleMelLoss(nn.Module):
    r"""Distance between mel spectrograms, summed over window sizes.

    .. math:: L_f = \sum_{i \in e} \|S_i(x) - S_i(\hat x)\|_1 + \|S_i(x) - S_i(\hat x)\|_2

    [SpeechTokenizer], Eq. (4): S_i is the 64-bin mel spectrogram with window 2^i and hop 2^i / 4,
    e = 5 ... 11; x is ``wav``. Both norms are means here (see the module's first lines).

    Parameters
    ----------
    recipe
        ``"paper"`` (Eq. (4)), ``"official"`` (the released code: 80 bins, L1 of logarithms, four
        scales weighted 45, 1, 1, 1), ``"small"``, ``"dac"``, ``"vocos"``, or a ``MelRecipe``.
    sample_rate
        Hz.

    Notes
    -----
    The paper does not say whether S_i is linear or logarithmic; EnCodec, which it follows, takes L1
    on linear and L2 on log magnitudes of a normalised transform. ``mel_recipe("paper",
    l1_compression="log")`` changes that.

    Examples
    --------
    >>> mel_loss = MultiScaleMelLoss("official", sample_rate=16000)
    >>> wav = torch.randn(1, 1, 4800) * 0.1
    >>> round(mel_loss(wav * torch.e, wav).item(), 1)  # 1 neper: 48, less 15 empty bins of 80
    47.8
    """

    def __init__(self, recipe: str | MelRecipe = "paper", sample_rate: int = 16000) -> None:
        super().__init__()
        self.recipe = mel_recipe(recipe)
        self.sample_rate = sample_rate
        self.transforms = nn.ModuleList(
            MelSpectrogram(scale, self.recipe, sample_rate) for scale in self.recipe.scales
        )
        # reflection needs more samples than it adds
        self.min_samples = max((t.padding + 1) // 2 + 1 for t in self.transforms)
        self.min_samples = max(self.min_samples, *(s.hop_length for s in self.recipe.scales))

    def mels(self, wav: Tensor) -> list[Tensor]:
        r"""Return the mel magnitudes of every scale, each (B, F_i, M_i).

        Raises
        ------
        ValueError
            If the clip is too short for the largest window.
        """
        num_samples = check_shape(wav, "B 1 T", name="wav")["T"]
        if num_samples < self.min_samples:
            largest = max(scale.n_fft for scale in self.recipe.scales)
            raise ValueError(
                f"wav: got {num_samples} samples, expected at least {self.min_samples} for a "
                f"window of {largest}; use longer clips or a recipe with shorter windows"
            )
        return [transform(wav) for transform in self.transforms]

    def per_scale(
        self, wav_hat: Tensor, wav: Tensor, targets: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        r"""Return the unweighted distance at each scale (scalars, in the order of the recipe)."""
        check_pair(wav_hat, wav)
        if targets is None:
            with torch.no_grad():  # the original is data: half of the backward pass saved
                targets = self.mels(wav)
        pairs = zip(self.mels(wav_hat), targets, strict=True)
        return [self.distance(mel_hat, mel) for mel_hat, mel in pairs]

    def distance(self, mel_hat: Tensor, mel: Tensor) -> Tensor:
        """Return the distance of two mel magnitude spectrograms (B, F, M)."""
        recipe, pair = self.recipe, (mel_hat, mel)
        total = mel.new_zeros(())
        if recipe.l1:
            first, second = (_compress(x, recipe.l1_compression, recipe.floor) for x in pair)
            total = total + recipe.l1 * (first - second).abs().mean()
        if recipe.l2:
            first, second = (_compress(x, recipe.l2_compression, recipe.floor) for x in pair)
            total = total + recipe.l2 * _l2(first - second, recipe.l2_form)
        return total

    def forward(
        self, wav_hat: Tensor, wav: Tensor, targets: Sequence[Tensor] | None = None
    ) -> Tensor:
        r"""Compare a reconstruction with its original.

        Parameters
        ----------
        wav_hat, wav
            Waveforms, (B, 1, T).
        targets
            ``mels(wav)``, where the caller has them already.

        Returns
        -------
        Tensor
            Scalar, float32; carries gradient to ``wav_hat`` only.

        Raises
        ------
        ValueError
            If shapes differ or the clip is too short for the largest window.
        """
        distances = self.per_scale(wav_hat, wav, targets)
        scales = self.recipe.scales
        weighted = [s.weight * d for s, d in zip(scales, distances, strict=True)]
        return torch.stack(weighted).sum()  # Eq. (4)


def _compress(mel: Tensor, compression: str, floor: float) -> Tensor:
    """Return a mel spectrogram as it is or as the logarithm of what lies above the floor."""
    if compression == "linear":
        return mel
    return mel.clamp_min(floor).log10() if compression == "log10" else mel.clamp_min(floor).log()


def _l2(difference: Tensor, form: str) -> Tensor:
    """Mean square, or root mean square per clip averaged over clips, of (B, F, M)."""
    if form == "mean_square":
        return difference.square().mean()
    # 1e-12 keeps the gradient of the root finite where the clips are equal
    return (difference.square().mean(dim=(1, 2)) + 1e-12).sqrt().mean()
