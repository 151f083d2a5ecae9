r"""Losses: named terms, each usable alone, and the recipes that weigh them.

Source: [SpeechTokenizer], §3.2 and §3.3, Eqs. (2) to (8). Notebook:
``06_losses_and_discriminators``. Left out: optimisers and steps (``training/steps.py``). Read next:
``mel.py``.
"""

from codec_lib.losses.adversarial import (
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
)
from codec_lib.losses.commitment import reduce_layers
from codec_lib.losses.distillation import distillation_loss, pseudo_label_loss
from codec_lib.losses.mel import MelRecipe, MelScale, MelSpectrogram, mel_recipe
from codec_lib.losses.objective import GeneratorObjective, ObjectiveOutput, Recipe, recipe
from codec_lib.losses.reconstruction import MultiScaleMelLoss, waveform_loss

__all__ = [
    "GeneratorObjective",
    "MelRecipe",
    "MelScale",
    "MelSpectrogram",
    "MultiScaleMelLoss",
    "ObjectiveOutput",
    "Recipe",
    "adversarial_loss",
    "discriminator_loss",
    "distillation_loss",
    "feature_matching_loss",
    "mel_recipe",
    "pseudo_label_loss",
    "recipe",
    "reduce_layers",
    "waveform_loss",
]
