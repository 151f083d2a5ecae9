r"""The generator's objective: named terms, a recipe's weights, one sum.

Source: [SpeechTokenizer], Eq. (8), and the official code's weights; [SACodec], Eq. (5); BigCodec's
code. Notebook: ``06_losses_and_discriminators``. Left out: schedules and warm-up
(``training/steps.py`` passes no discriminator outputs until the critics are on). Read next:
``training/steps.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from codec_lib.discriminators import DiscriminatorOutput
from codec_lib.losses.adversarial import FEATURE_FORMS, adversarial_loss, feature_matching_loss
from codec_lib.losses.adversarial import FORMS as ADVERSARIAL_FORMS
from codec_lib.losses.commitment import reduce_layers
from codec_lib.losses.distillation import distillation_loss, pseudo_label_loss
from codec_lib.losses.reconstruction import MultiScaleMelLoss, waveform_loss
from codec_lib.shapes import CodecOutput

PER_LAYER = ("commitment_loss", "codebook_loss")
TERMS = (
    *("recon_loss", "recon_loss/wave", "recon_loss/mel", "adv_loss", "feat_loss", *PER_LAYER),
    *("distill_loss", "distill_loss/text", "distill_loss/units"),
)


@dataclass(frozen=True)
class Recipe:
    r"""One way to train: forms and weights of all terms.

    Attributes
    ----------
    name
        What the log calls it.
    weights
        Term name to lambda of Eq. (8). A term ``"a/b"`` without a weight of its own takes that of
        ``"a"``.
    mel
        Name of the mel recipe (``losses/reconstruction.py``).
    adversarial_form
        ``"hinge"`` (averaged over critics) or ``"least_squares"`` (summed).
    feature_form
        ``"relative"`` (averaged), ``"absolute"`` (summed, twice), ``"averaged"``, or ``"hidden"``
        (summed, without the score maps).
    layer_reduction, layer_weights
        ``"sum"`` or ``"mean"`` over quantizers of the commitment and codebook losses; weight of
        each quantizer within them, empty for 1.
    distill_axis, distill_centred
        See ``distillation_loss``.
    """

    name: str
    weights: Mapping[str, float] = field(default_factory=dict)
    mel: str = "paper"
    adversarial_form: str = "hinge"
    feature_form: str = "relative"
    layer_reduction: str = "sum"
    layer_weights: tuple[float, ...] = ()
    distill_axis: str = "d"
    distill_centred: bool = False

    def weight(self, term: str) -> float:
        r"""Return the weight of a term.

        Raises
        ------
        ValueError
            If neither the term nor what stands before its slash has a weight.
        """
        for name in (term, term.partition("/")[0]):
            if name in self.weights:
                return self.weights[name]
        raise ValueError(
            f"recipe {self.name!r}: no weight for {term!r}, only for {sorted(self.weights)}; "
            "give one, 0 to leave the term out"
        )


RECIPES: dict[str, Recipe] = {
    # Eq. (8). The paper prints no lambdas. These balance the terms of this form: relative feature
    # matching and averaged hinge are of order 1, as is the sum over seven mel scales.
    "paper": Recipe(
        name="paper",
        weights={
            "recon_loss/wave": 10.0,
            "recon_loss/mel": 1.0,
            "adv_loss": 1.0,
            "feat_loss": 1.0,
            "commitment_loss": 1.0,
            "codebook_loss": 1.0,
            "distill_loss": 10.0,
        },
    ),
    # The official code of SpeechTokenizer and DM-Codec. The 45, 1, 1, 1 of the mel scales are in
    # its mel recipe, the 2 of feature matching in its form.
    "official": Recipe(
        name="official",
        weights={
            "recon_loss/wave": 500.0,
            "recon_loss/mel": 1.0,
            "adv_loss": 1.0,
            "feat_loss": 1.0,
            "commitment_loss": 10.0,
            "codebook_loss": 10.0,
            "distill_loss": 120.0,
        },
        mel="official",
        adversarial_form="least_squares",
        feature_form="absolute",
        layer_reduction="mean",
    ),
    # The spectral backbone on a CPU; docs/recipes.md says how it was settled.
    "small": Recipe(
        name="small",
        weights={
            "recon_loss/wave": 10.0,
            "recon_loss/mel": 1.0,
            "adv_loss": 1.0,
            "feat_loss": 2.0,
            "commitment_loss": 0.25,
            "codebook_loss": 1.0,
            "distill_loss": 2.0,
        },
        mel="small",
        layer_reduction="mean",
    ),
    # SACodec, Eq. (5): 45, 1, 1, 25, 5. Mel, hinge and averaging are WavTokenizer's, whose 45 it
    # cites; the pair 0.25 and 1 within 25 and 5 is SimVQ's. The card has the unknowns.
    "sacodec": Recipe(
        name="sacodec",
        weights={
            "recon_loss/wave": 0.0,
            "recon_loss/mel": 45.0,
            "adv_loss": 1.0,
            "feat_loss": 1.0,
            "commitment_loss": 0.25,
            "codebook_loss": 1.0,
        },
        mel="vocos",
        feature_form="averaged",
        layer_weights=(25.0, 5.0),
    ),
    # BigCodec's released code; DS-Codec does not print its own.
    "bigcodec": Recipe(
        name="bigcodec",
        weights={
            "recon_loss/wave": 0.0,
            "recon_loss/mel": 15.0,
            "adv_loss": 1.0,
            "feat_loss": 1.0,
            "commitment_loss": 0.25,
            "codebook_loss": 1.0,
        },
        mel="dac",
        adversarial_form="least_squares",
        feature_form="hidden",
    ),
}
# DM-Codec: SpeechTokenizer's code; the two teachers share the weight of its one.
for _name, _base in {"dm_codec": "official", "dm_codec_small": "small"}.items():
    _half = RECIPES[_base].weights["distill_loss"] / 2
    _weights = {**RECIPES[_base].weights, "distill_loss": _half, "distill_loss/text": _half}
    RECIPES[_name] = replace(RECIPES[_base], name=_name, weights=_weights)
RECIPES["ds_codec"] = replace(RECIPES["bigcodec"], name="ds_codec")
# For the spectral backbone without critics: four mel scales and the waveform, on which its phase
# depends, as in "small"; the quantizer's terms keep their published ratio to the mel term (45 times
# one scale, or 15 times seven of log10, is 11.25 or 11.4 times the sum of four).
RECIPES["sacodec_small"] = replace(
    RECIPES["small"],
    name="sacodec_small",
    layer_reduction="sum",
    layer_weights=(25 / 11.25, 5 / 11.25),
)
RECIPES["ds_codec_small"] = replace(
    RECIPES["small"],
    name="ds_codec_small",
    weights={**RECIPES["small"].weights, "commitment_loss": 0.25 / 11.4, "codebook_loss": 1 / 11.4},
)


def recipe(which: str | Recipe, **changes: Any) -> Recipe:
    r"""Return a named recipe, with some fields changed.

    Parameters
    ----------
    which
        ``"paper"`` (Eqs. (2) to (8)), ``"official"`` (the released code), ``"small"`` (a CPU);
        ``"dm_codec"``, ``"sacodec"``, ``"bigcodec"``, ``"ds_codec"``, ``"dm_codec_small"``,
        ``"sacodec_small"``, ``"ds_codec_small"``; or a recipe.
    **changes
        Fields of ``Recipe``; ``weights`` is merged into the recipe's own.

    Returns
    -------
    Recipe
        Frozen.

    Raises
    ------
    ValueError
        If the name or a field is unknown, or a weight is no number.

    Examples
    --------
    >>> recipe("official", weights={"distill_loss": 0.0}).weight("distill_loss")
    0.0
    """
    if isinstance(which, str):
        if which not in RECIPES:
            raise ValueError(f"recipe: got {which!r}, expected one of {list(RECIPES)}")
        which = RECIPES[which]
    changed = changes.pop("weights", {})
    for term, weight in changed.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise ValueError(f"weights: got {weight!r} for {term!r}, expected a number")
    weights = {**which.weights, **changed}
    unknown = set(changes) - set(Recipe.__dataclass_fields__)
    if unknown:
        known = sorted(Recipe.__dataclass_fields__)
        raise ValueError(f"recipe fields: got {sorted(unknown)}, expected among {known}")
    return replace(which, weights=weights, **changes)


@dataclass
class ObjectiveOutput:
    r"""The objective and what it is made of.

    Attributes
    ----------
    total
        The scalar to minimise, with gradient: the sum of ``weighted``.
    terms
        Term name to unweighted scalar, with gradient.
    weighted
        Term name to weight times value; terms of weight 0 are left out.
    """

    total: Tensor
    terms: dict[str, Tensor]
    weighted: dict[str, Tensor]

    def scalars(self) -> dict[str, float]:
        """Return total and terms as numbers, for logs."""
        return {"total": self.total.item(), **{k: v.item() for k, v in self.terms.items()}}


class GeneratorObjective(nn.Module):
    r"""Everything that the generator is trained on.

    .. math:: L_G = \lambda_t L_t + \lambda_f L_f + \lambda_g L_g + \lambda_{feat} L_{feat}
        + \lambda_w L_w + \lambda_{distill} L_{distill}

    [SpeechTokenizer], Eq. (8): ``recon_loss/wave``, ``recon_loss/mel``, ``adv_loss``,
    ``feat_loss``, ``commitment_loss`` (and ``codebook_loss`` where the codebook is trained by
    gradient), ``distill_loss``.

    Parameters
    ----------
    which
        Name of a recipe, or a ``Recipe``.
    weights
        Weights that replace the recipe's.
    sample_rate
        Hz.

    Raises
    ------
    ValueError
        If every term has the weight 0, or as in ``recipe``.

    Examples
    --------
    >>> from codec_lib.shapes import Codes
    >>> wav = torch.randn(1, 1, 3200) * 0.1
    >>> codes = Codes(torch.zeros(1, 1, 10, dtype=torch.int64), num_samples=3200)
    >>> z = torch.zeros(1, 4, 10)
    >>> out = CodecOutput(wav, codes, z, z, losses={"commitment_loss": torch.ones(8)})
    >>> GeneratorObjective("paper")(out, wav).total.item()  # perfect waveform, 8 layers of 1
    8.0
    """

    def __init__(
        self,
        which: str | Recipe = "paper",
        weights: Mapping[str, float] | None = None,
        sample_rate: int = 16000,
    ) -> None:
        super().__init__()
        self.recipe = recipe(which, weights=weights or {})
        if not any(self.recipe.weights.values()):
            raise ValueError("weights: got 0 for every term, expected one to train on, at least")
        self.mel_loss = MultiScaleMelLoss(self.recipe.mel, sample_rate)

    def forward(
        self,
        out: CodecOutput,
        wav: Tensor,
        disc_outputs_real: Sequence[DiscriminatorOutput] | None = None,
        disc_outputs_fake: Sequence[DiscriminatorOutput] | None = None,
        targets: Mapping[str, Tensor | tuple[Tensor, Tensor]] | None = None,
    ) -> ObjectiveOutput:
        r"""Compute every term that what is given allows, and their weighted sum.

        Parameters
        ----------
        out
            What the codec returned for ``wav``.
        wav
            The original, (B, 1, T).
        disc_outputs_real, disc_outputs_fake
            What the critics say of ``wav`` and of ``out.wav``; None leaves both terms out.
        targets
            Projection name to what the teacher says: features (B, F, D), those with the frames that
            they speak of (B, F) bool, or units (B, F) int64.

        Returns
        -------
        ObjectiveOutput
            Total and terms. Terms of weight 0 are not computed.

        Raises
        ------
        ValueError
            If a term has no weight or a weight no term, shapes differ, only one side of the critics
            is given, a target names no projection of the codec, or no term is left.
        """
        told = {f"distill_loss/{name}" for name in targets or {}}
        if unknown := set(self.recipe.weights) - {*TERMS, *out.losses, *told}:
            known = sorted({*TERMS, *out.losses})
            raise ValueError(f"weights: got {sorted(unknown)}, expected among {known}")
        terms = self._reconstruction(out, wav)
        for name, values in out.losses.items():
            if self.recipe.weight(name):
                form = (self.recipe.layer_reduction, self.recipe.layer_weights)
                terms[name] = reduce_layers(values, *form) if name in PER_LAYER else values
        if (disc_outputs_real is None) != (disc_outputs_fake is None):
            raise ValueError("disc_outputs: got one of real and fake, expected both or none")
        if disc_outputs_real is not None and disc_outputs_fake is not None:
            terms |= self._adversarial(disc_outputs_real, disc_outputs_fake)
        for name, target in (targets or {}).items():
            term = "distill_loss" if name == "semantic" else f"distill_loss/{name}"
            if self.recipe.weight(term):
                terms[term] = self._distillation(out, name, target)
        if not terms:  # e.g. before critics begin
            raise ValueError(
                f"weights: got {self.recipe.weights}, expected one above 0 of a term that is given"
            )
        weighted = {name: self.recipe.weight(name) * value for name, value in terms.items()}
        total = torch.stack([value.float() for value in weighted.values()]).sum()  # Eq. (8)
        return ObjectiveOutput(total, terms, weighted)

    def _reconstruction(self, out: CodecOutput, wav: Tensor) -> dict[str, Tensor]:
        terms = {}
        if self.recipe.weight("recon_loss/wave"):
            terms["recon_loss/wave"] = waveform_loss(out.wav, wav)
        if self.recipe.weight("recon_loss/mel"):
            terms["recon_loss/mel"] = self.mel_loss(out.wav, wav)
        return terms

    def _adversarial(
        self, real: Sequence[DiscriminatorOutput], fake: Sequence[DiscriminatorOutput]
    ) -> dict[str, Tensor]:
        terms = {}
        if self.recipe.weight("adv_loss"):
            terms["adv_loss"] = adversarial_loss(fake, self.recipe.adversarial_form)
        if self.recipe.weight("feat_loss"):
            terms["feat_loss"] = feature_matching_loss(real, fake, self.recipe.feature_form)
        return terms

    def _distillation(
        self, out: CodecOutput, name: str, target: Tensor | tuple[Tensor, Tensor]
    ) -> Tensor:
        if name not in out.projections:
            raise ValueError(
                f"targets: got {name!r}, expected among the codec's projections "
                f"{sorted(out.projections)}"
            )
        student, own = out.projections[name], self.recipe
        target, heard = target if isinstance(target, tuple) else (target, None)
        if target.dtype == torch.int64:
            return pseudo_label_loss(student, target)
        form = (own.distill_axis, own.distill_centred)
        return distillation_loss(student, target, *form, heard=heard)


def check_forms(own: Recipe) -> None:
    """Raise ValueError for a form that the first step would refuse, or the first of the critics."""
    forms = {"adversarial_form": ADVERSARIAL_FORMS, "feature_form": FEATURE_FORMS}
    forms |= {"layer_reduction": ("sum", "mean"), "distill_axis": ("d", "t")}
    for name, there in forms.items():
        if getattr(own, name) not in there:
            raise ValueError(f"{name}: got {getattr(own, name)!r}, expected one of {list(there)}")
