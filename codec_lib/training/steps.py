r"""One training step: the critics learn to tell, then the codec learns to please them.

The codec runs forward once per step. The critics are updated first, on its detached output; then
the codec, through the updated critics. Order as in the official trainer of SpeechTokenizer (critics
first, 1:1). Gradients are cleared right after each update, so that the codec's update, which runs
through frozen critics, can neither leave gradients on them nor meet old ones.

Notebook 06 walks through both functions. Left out: several critic updates per codec update,
gradient accumulation and loss balancing by gradient norm.

Read next: ``loop.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from codec_lib.codecs.base import Codec
from codec_lib.discriminators import DiscriminatorOutput
from codec_lib.losses.adversarial import discriminator_loss
from codec_lib.losses.objective import GeneratorObjective
from codec_lib.rate.schedule import NonFiniteFeatures
from codec_lib.shapes import CodecOutput, Codes
from codec_lib.training.rates import Segment


class NonFiniteLoss(ValueError):
    """A loss term or gradient became NaN or infinite; the message names it."""


@dataclass
class Networks:
    r"""The networks of a run and their optimisers.

    Attributes
    ----------
    codec, critics
        Modules as Fabric wraps them; ``critics`` is None where the recipe has none.
    codec_optimizer, critic_optimizer
        Their optimisers, as Fabric wraps them.
    objective
        The generator's loss.
    clip_norm
        Largest gradient norm of each; 0 clips nothing.
    heard
        Crops of a batch that the critics hear; None for all.
    """

    codec: nn.Module
    codec_optimizer: Optimizer
    objective: GeneratorObjective
    critics: nn.Module | None = None
    critic_optimizer: Optimizer | None = None
    clip_norm: float = 0.0
    heard: int | None = None


class Trainee(nn.Module):
    r"""The codec as training wraps it: plain tensors out, and no projection that no loss reads.

    A wrapper for several processes looks for parameters behind the outputs: an output without a
    loss would make it wait for gradients that never come. ``codec_forward`` undoes the plainness.

    Parameters
    ----------
    codec
        The codec in training.
    projections
        Names of the projections that a loss reads.
    """

    def __init__(self, codec: Codec, projections: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.codec, self.projections = codec, projections

    def forward(self, wav: Tensor, segment: Segment | None = None) -> dict[str, Any]:
        """Return the fields of ``codec(wav)`` by name, codes as tensors."""
        output = self.codec(wav, segment=segment)
        return {
            "wav": output.wav,
            "codes": output.codes.codes,
            "lengths": output.codes.lengths,
            "z": output.z,
            "z_q": output.z_q,
            "losses": output.losses,
            "projections": {name: output.projections[name] for name in self.projections},
        }


def codec_forward(networks: Networks, wav: Tensor, segment: Segment | None = None) -> CodecOutput:
    r"""Run the codec: the only forward pass of it in a step.

    Parameters
    ----------
    networks
        Has the codec.
    wav
        Speech, shape (B, 1, T).
    segment
        Cuts its latent, see ``Codec.forward``.

    Raises
    ------
    NonFiniteLoss
        If a latent that is to be cut is not finite.
    """
    try:
        fields = networks.codec(wav, segment)
    except NonFiniteFeatures:  # before any loss could become so
        raise NonFiniteLoss("the latent is not finite") from None
    codes = Codes(fields.pop("codes"), wav.shape[-1], fields.pop("lengths"))
    return CodecOutput(codes=codes, **fields)


def discriminator_step(
    fabric: Fabric, networks: Networks, wav: Tensor, wav_hat: Tensor
) -> dict[str, Tensor]:
    r"""Update the critics once, to score ``wav`` as real and ``wav_hat`` as made.

    Parameters
    ----------
    fabric
        Runs the backward pass.
    networks
        Critics and their optimiser; the codec is not touched.
    wav, wav_hat
        Speech and its reconstruction, shape (B, 1, T); the latter is detached here.

    Returns
    -------
    dict
        ``disc_loss``, ``disc_real``, ``disc_fake`` (mean scores) and ``disc_grad_norm``, scalars.

    Raises
    ------
    NonFiniteLoss
        If the loss is NaN or infinite; nothing is updated.
    """
    wav, wav_hat = wav[: networks.heard], wav_hat[: networks.heard].detach()
    both = networks.critics(torch.cat([wav, wav_hat]))  # one pass: DDP wants one forward
    real, fake = _halves(both)
    loss = discriminator_loss(real, fake, networks.objective.recipe.adversarial_form)  # Eq. 5
    check_finite({"disc_loss": loss})
    fabric.backward(loss)
    norm = update(fabric, networks.critics, networks.critic_optimizer, networks.clip_norm)
    scores = {"disc_real": _mean_score(real), "disc_fake": _mean_score(fake)}
    return {"disc_loss": loss.detach(), **scores, "disc_grad_norm": norm}


def generator_step(
    fabric: Fabric,
    networks: Networks,
    wav: Tensor,
    output: CodecOutput,
    targets: dict[str, Any] | None = None,
    is_adversarial: bool = False,
) -> dict[str, Tensor]:
    r"""Update the codec once, with the forward pass that ``output`` came from.

    Parameters
    ----------
    fabric, networks
        As in ``discriminator_step``.
    wav
        Speech, shape (B, 1, T).
    output
        ``codec(wav)``, still attached to its graph.
    targets
        What to distil: projection name to teacher features (B, F, D_S), with the frames that count
        (B, F) bool, or units (B, F), -100 where none counts.
    is_adversarial
        True adds the adversarial and feature terms, through frozen critics.

    Returns
    -------
    dict
        ``loss``, every term by name before its weight, ``quantizer_mse`` and ``latent_power`` (mean
        squares of z - z_q and of z), and ``grad_norm``; scalars.

    Raises
    ------
    NonFiniteLoss
        If a term or the gradient is NaN or infinite; nothing is updated.
    """
    real = fake = None
    if is_adversarial:
        with frozen(networks.critics) as critics, fabric.autocast(), parametrize.cached():
            with torch.no_grad():
                real = critics(wav[: networks.heard])
            fake = critics(output.wav[: networks.heard])
    result = networks.objective(output, wav, real, fake, targets)  # Eq. 8
    check_finite({**result.terms, "loss": result.total})
    fabric.backward(result.total)
    norm = update(fabric, networks.codec, networks.codec_optimizer, networks.clip_norm)
    terms = {name: term.detach() for name, term in result.terms.items()}
    return {"loss": result.total.detach(), **terms, **_latent_squares(output), "grad_norm": norm}


def _latent_squares(output: CodecOutput) -> dict[str, Tensor]:
    """Return the mean squares of what the quantizer loses and of what it is given, scalars."""
    z, z_q = output.z.detach().float(), output.z_q.detach().float()
    return {"quantizer_mse": (z - z_q).square().mean(), "latent_power": z.square().mean()}


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    r"""Yield the bare module with its parameters frozen, and unfreeze them afterwards.

    Bare, because a wrapper for several processes would wait for gradients that never come.
    """
    bare = getattr(module, "module", module)
    bare.requires_grad_(False)
    try:
        yield bare
    finally:
        bare.requires_grad_(True)


def _halves(
    outputs: list[DiscriminatorOutput],
) -> tuple[list[DiscriminatorOutput], list[DiscriminatorOutput]]:
    """Split every critic's output on a (2 B, 1, T) batch into those of its two halves."""
    halves: tuple[list[Any], list[Any]] = ([], [])
    for output in outputs:
        logits = output.logits.chunk(2)
        features = [feature.chunk(2) for feature in output.features]
        for index, half in enumerate(halves):
            half.append(DiscriminatorOutput(logits[index], [pair[index] for pair in features]))
    return halves


def update(fabric: Fabric, module: nn.Module, optimizer: Optimizer, clip_norm: float) -> Tensor:
    r"""Clip, step and clear; return the gradient's norm before clipping, a scalar.

    Parameters
    ----------
    fabric, module, optimizer
        As set up.
    clip_norm
        Largest norm; 0 clips nothing.

    Raises
    ------
    NonFiniteLoss
        If the norm is not finite.
    """
    limit = clip_norm if clip_norm > 0 else float("inf")
    norm = fabric.clip_gradients(module, optimizer, max_norm=limit, error_if_nonfinite=False)
    if not torch.isfinite(norm):
        raise NonFiniteLoss(
            f"the gradient norm is {norm.item()} although every loss term is finite"
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm.detach()


def _mean_score(outputs: list[DiscriminatorOutput]) -> Tensor:
    """Mean of the critics' mean logits, a scalar."""
    return torch.stack([output.logits.detach().float().mean() for output in outputs]).mean()


def check_finite(terms: dict[str, Tensor]) -> None:
    """Raise NonFiniteLoss that names the terms which are not finite."""
    values = torch.stack([term.detach().float() for term in terms.values()]).tolist()
    finite = torch.isfinite(torch.tensor(values)).tolist()
    bad = [
        f"{name} is {value}"
        for name, value, good in zip(terms, values, finite, strict=True)
        if not good
    ]
    if bad:
        raise NonFiniteLoss(", ".join(bad))
