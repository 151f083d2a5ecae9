r"""Adversarial and feature-matching losses in the paper's and in the official code's form.

Source: [SpeechTokenizer], §3.3, Eqs. (5) and (6): hinge averaged over K discriminators, relative
feature matching. The official code has least squares and absolute distances, both summed. Notebook:
``06_losses_and_discriminators``. Convention: D_k is the mean of its score map. Left out: the
critics (``discriminators``). Read next: ``distillation.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from codec_lib.discriminators import DiscriminatorOutput
from codec_lib.quantizers.ranks import is_distributed, sum_over_ranks

# Per score map: what the generator pays on fake, what the discriminator pays on real and on fake.
Score = Callable[[Tensor], Tensor]
FORMS: dict[str, tuple[Score, Score, Score]] = {
    "hinge": (
        lambda fake: F.relu(1 - fake).mean(),
        lambda real: F.relu(1 - real).mean(),
        lambda fake: F.relu(1 + fake).mean(),
    ),
    "least_squares": (
        lambda fake: (1 - fake).square().mean(),
        lambda real: (1 - real).square().mean(),
        lambda fake: fake.square().mean(),
    ),
}
REDUCTIONS = {"hinge": "mean", "least_squares": "sum"}  # over K, as published
# Feature matching: over the L maps of a critic, over the K critics, and a factor.
FEATURE_FORMS = {
    "relative": ("mean", "mean", 1.0),  # Eq. (6)
    "absolute": ("sum", "sum", 2.0),  # the official code
    "averaged": ("sum", "mean", 1.0),  # Vocos and its descendants
    "hidden": ("sum", "sum", 1.0),  # DAC and BigCodec: without the score maps
}


def _form(form: str, reduction: str | None) -> tuple[tuple[Score, Score, Score], str]:
    if form not in FORMS:
        raise ValueError(f"form: got {form!r}, expected one of {list(FORMS)}")
    reduction = REDUCTIONS[form] if reduction is None else reduction
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction: got {reduction!r}, expected 'mean' or 'sum'")
    return FORMS[form], reduction


def _reduce(values: Sequence[Tensor], reduction: str) -> Tensor:
    stacked = torch.stack(list(values))
    return stacked.mean() if reduction == "mean" else stacked.sum()


def _check_outputs(*outputs: Sequence[DiscriminatorOutput]) -> None:
    """Raise unless every list is non-empty and all are equally long."""
    counts = [len(each) for each in outputs]
    if 0 in counts or len(set(counts)) != 1:
        raise ValueError(f"discriminator outputs: got {counts}, expected equally many, at least 1")


def _check_features(
    real: Sequence[DiscriminatorOutput], fake: Sequence[DiscriminatorOutput]
) -> None:
    """Raise unless every critic has feature maps, as many on both sides."""
    for r, f in zip(real, fake, strict=True):
        if not r.features or len(r.features) != len(f.features):
            raise ValueError(
                f"features: got {len(r.features)} real and {len(f.features)} fake maps, "
                "expected equally many, at least 1"
            )


def adversarial_loss(
    fake: Sequence[DiscriminatorOutput], form: str = "hinge", reduction: str | None = None
) -> Tensor:
    r"""What the generator pays for being recognised.

    .. math:: L_g = \frac{1}{K} \sum_k \max(1 - D_k(\hat x), 0)

    [SpeechTokenizer], §3.3 (``"hinge"``); the official code has
    :math:`\sum_k (1 - D_k(\hat x))^2` (``"least_squares"``).

    Parameters
    ----------
    fake
        Outputs on the reconstruction, K of them, with gradient.
    form
        ``"hinge"`` or ``"least_squares"``.
    reduction
        ``"mean"`` or ``"sum"`` over K; None takes the published one (mean for hinge, sum for least
        squares).

    Returns
    -------
    Tensor
        Scalar, float32, with gradient.

    Raises
    ------
    ValueError
        If a name is unknown or there are no outputs.

    Examples
    --------
    >>> adversarial_loss([DiscriminatorOutput(torch.full((2, 1, 5), -0.5), [])]).item()
    1.5
    """
    _check_outputs(fake)
    (generator, _, _), reduction = _form(form, reduction)
    return _reduce([generator(output.logits.float()) for output in fake], reduction)


def discriminator_loss(
    real: Sequence[DiscriminatorOutput],
    fake: Sequence[DiscriminatorOutput],
    form: str = "hinge",
    reduction: str | None = None,
) -> Tensor:
    r"""What the discriminators pay for being fooled.

    .. math:: L_D = \frac{1}{K} \sum_k \max(1 - D_k(x), 0) + \max(1 + D_k(\hat x), 0)

    [SpeechTokenizer], Eq. (5) (``"hinge"``); the official code has
    :math:`\sum_k (1 - D_k(x))^2 + D_k(\hat x)^2` (``"least_squares"``).

    Parameters
    ----------
    real, fake
        Outputs on the original and on the detached reconstruction, K each.
    form, reduction
        See ``adversarial_loss``.

    Returns
    -------
    Tensor
        Scalar, float32, with gradient to the discriminators.

    Raises
    ------
    ValueError
        If a name is unknown or the numbers of outputs differ.

    Examples
    --------
    >>> undecided = [DiscriminatorOutput(torch.zeros(2, 1, 5), [])]
    >>> discriminator_loss(undecided, undecided).item()
    2.0
    """
    _check_outputs(real, fake)
    (_, on_real, on_fake), reduction = _form(form, reduction)
    values = [
        on_real(r.logits.float()) + on_fake(f.logits.float())  # Eq. (5)
        for r, f in zip(real, fake, strict=True)
    ]
    return _reduce(values, reduction)


def feature_matching_loss(
    real: Sequence[DiscriminatorOutput],
    fake: Sequence[DiscriminatorOutput],
    form: str = "relative",
) -> Tensor:
    r"""Distance of the critics' feature maps of original and reconstruction.

    .. math:: L_{feat} = \frac{1}{KL} \sum_k \sum_l
        \frac{\|D_k^l(x) - D_k^l(\hat x)\|_1}{\mathrm{mean}(\|D_k^l(x)\|_1)}

    [SpeechTokenizer], Eq. (6), with the numerator as a mean too, so that the ratio has no unit
    (``"relative"``); the official code has :math:`2 \sum_k \sum_l \mathrm{mean} |D_k^l(x) -
    D_k^l(\hat x)|` (``"absolute"``); Vocos and WavTokenizer take half of it as a mean over the
    critics (``"averaged"``); DAC and BigCodec half of it without the score maps (``"hidden"``).

    Parameters
    ----------
    real, fake
        Outputs on original and reconstruction; the original's maps are taken as constants.
    form
        ``"relative"``, ``"absolute"``, ``"averaged"`` or ``"hidden"``.

    Returns
    -------
    Tensor
        Scalar, float32, with gradient to the reconstruction.

    Raises
    ------
    ValueError
        If the form is unknown, the numbers of outputs differ or a critic has no features.

    Notes
    -----
    The families differ in L (6, 8 and 5 maps): the mean is taken over each critic's maps, then over
    the critics, so that every critic counts the same.

    Examples
    --------
    >>> real = [DiscriminatorOutput(torch.zeros(1), [torch.full((1, 2, 3), 4.0)])]
    >>> fake = [DiscriminatorOutput(torch.zeros(1), [torch.full((1, 2, 3), 3.0)])]
    >>> [feature_matching_loss(real, fake, form).item() for form in ("relative", "absolute")]
    [0.25, 2.0]
    """
    if form not in FEATURE_FORMS:
        raise ValueError(f"form: got {form!r}, expected one of {list(FEATURE_FORMS)}")
    over_maps, over_critics, factor = FEATURE_FORMS[form]
    _check_outputs(real, fake)
    if form == "hidden":
        real, fake = ([_without_logits(output) for output in side] for side in (real, fake))
    _check_features(real, fake)
    scales = iter(_magnitudes(real)) if form == "relative" else repeat(1.0)
    per_critic = []
    for r, f in zip(real, fake, strict=True):
        distances = [
            (a.detach().float() - b.float()).abs().mean() / next(scales)
            for a, b in zip(r.features, f.features, strict=True)
        ]
        per_critic.append(_reduce(distances, over_maps))
    return factor * _reduce(per_critic, over_critics)  # Eq. (6)


def _without_logits(output: DiscriminatorOutput) -> DiscriminatorOutput:
    """Return an output whose features are hidden layers only."""
    features = output.features[:-1] if output.has_logits else output.features
    return DiscriminatorOutput(output.logits, features)


@torch.no_grad()
def _magnitudes(real: Sequence[DiscriminatorOutput]) -> Tensor:
    """Mean magnitude of every feature map over the joint batch of all processes, (K L,)."""
    means = torch.stack([m.float().abs().mean() for output in real for m in output.features])
    if is_distributed():
        means = sum_over_ranks(means) / dist.get_world_size()
    return means.clamp_min(1e-8)  # a silent map must not divide by zero
