r"""One whole training step of DAC at its published size: as its authors' package does it, and ours.

Codec and critics have the same random weights and hear the same crop; the losses, their weights and
the optimisers are those of DAC's released configuration. Ours goes through the functions that every
training here goes through (``training/steps.py``). Leaves out: loading data, schedules. Read next:
``peer_bench.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from codec_lib.discriminators import (
    DiscriminatorEnsemble,
    DiscriminatorOutput,
    build_discriminators,
)
from codec_lib.evaluation.peers import dac_pair
from codec_lib.evaluation.timing import imported
from codec_lib.losses.objective import GeneratorObjective
from codec_lib.training.launch import WaveformPrecision
from codec_lib.training.steps import (
    Networks,
    Trainee,
    codec_forward,
    discriminator_step,
    generator_step,
)

Step = Callable[[], dict[str, float]]
SAMPLE_RATE = 44_100
ADAM = {"lr": 1e-4, "betas": (0.8, 0.99)}
CODEC_NORM, CRITIC_NORM = 1e3, 10.0  # largest gradient norms
WEIGHTS = {"mel": 15.0, "adversarial": 1.0, "features": 2.0, "commitment": 0.25, "codebook": 1.0}
MELS = {
    "n_mels": [5, 10, 20, 40, 80, 160, 320],
    "window_lengths": [32, 64, 128, 256, 512, 1024, 2048],
    "mel_fmin": [0.0] * 7,
    "mel_fmax": [None] * 7,
    "pow": 1.0,
    "mag_weight": 0.0,
}


class LevelledCritics(DiscriminatorEnsemble):
    r"""DAC's critics: what they hear has no offset and a peak of 0.8."""

    def forward(self, wav: Tensor) -> list[DiscriminatorOutput]:
        """Judge (B, 1, T); see ``DiscriminatorEnsemble``."""
        wav = wav - wav.mean(-1, keepdim=True)
        return super().forward(0.8 * wav / (wav.abs().amax(-1, keepdim=True) + 1e-9))


def dac_critics(theirs: nn.Module) -> LevelledCritics:
    r"""Return our critics with the weights of the package's, five periods and three windows."""
    ours = LevelledCritics(dict(build_discriminators(("mpd", "multi_band")).families))
    state = theirs.state_dict()
    for name, first in (("mpd", 0), ("multi_band", 5)):
        family = ours.families[name]
        own = {}
        for number in range(len(family.discriminators)):
            prefix = f"discriminators.{first + number}."
            own |= {f"discriminators.{number}.{key.removeprefix(prefix)}": value
                    for key, value in state.items() if key.startswith(prefix)}  # fmt: skip
        family.load_published(own)
    return ours


def their_step(codec: Any, critics: Any, wav: Tensor, autocast: Callable[[], Any]) -> Step:
    r"""Return DAC's training step from the parts of its package.

    Parameters
    ----------
    codec, critics
        Of the package.
    wav
        A crop, (B, 1, T).
    autocast
        What the forward passes run under.
    """
    losses = imported("dac.nn.loss", "descript-audio-codec")
    signal = imported("audiotools", "descript-audiotools").AudioSignal
    gan, mels = losses.GANLoss(critics), losses.MelSpectrogramLoss(**MELS)
    codec_optimizer = torch.optim.AdamW(codec.parameters(), **ADAM)
    critic_optimizer = torch.optim.AdamW(critics.parameters(), **ADAM)

    def step() -> dict[str, float]:
        real = signal(wav, SAMPLE_RATE)
        with autocast():
            out = codec(wav, SAMPLE_RATE)
            made = signal(out["audio"], SAMPLE_RATE)
            disc = gan.discriminator_loss(made, real)
        critic_optimizer.zero_grad()
        disc.backward()
        nn.utils.clip_grad_norm_(critics.parameters(), CRITIC_NORM)
        critic_optimizer.step()
        with autocast():
            names = ("adversarial", "features")
            terms = dict(zip(names, gan.generator_loss(made, real), strict=True))
            terms |= {"mel": mels(made, real), "commitment": out["vq/commitment_loss"]}
            terms |= {"codebook": out["vq/codebook_loss"]}
            total = sum(WEIGHTS[name] * term for name, term in terms.items())
        codec_optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(codec.parameters(), CODEC_NORM)
        codec_optimizer.step()
        found = {name: float(term.detach()) for name, term in terms.items()}
        return {"critics": float(disc.detach()), **found}

    return step


def our_step(codec: nn.Module, critics: nn.Module, wav: Tensor, fabric: Fabric) -> Step:
    r"""Return the same step by the functions of this package.

    Parameters
    ----------
    codec, critics
        Ours.
    wav
        A crop, (B, 1, T).
    fabric
        Where, and in which precision.
    """
    wanted = {"feat_loss": WEIGHTS["features"]}
    objective = GeneratorObjective("bigcodec", wanted, SAMPLE_RATE).to(wav.device)
    trainee = Trainee(codec)
    codec_optimizer = torch.optim.AdamW(trainee.parameters(), **ADAM, fused=True)
    critic_optimizer = torch.optim.AdamW(critics.parameters(), **ADAM, fused=True)
    trainee, codec_optimizer = fabric.setup(trainee, codec_optimizer)
    critics, critic_optimizer = fabric.setup(critics, critic_optimizer)
    networks = Networks(trainee, codec_optimizer, objective, critics, critic_optimizer)
    names = {"adversarial": "adv_loss", "features": "feat_loss", "mel": "recon_loss/mel",
             "commitment": "commitment_loss", "codebook": "codebook_loss"}  # fmt: skip

    def step() -> dict[str, float]:
        output = codec_forward(networks, wav)
        networks.clip_norm = CRITIC_NORM
        disc = discriminator_step(fabric, networks, wav, output.wav)["disc_loss"]
        networks.clip_norm = CODEC_NORM
        terms = generator_step(fabric, networks, wav, output, is_adversarial=True)
        return {"critics": float(disc), **{ours: float(terms[own]) for ours, own in names.items()}}

    return step


def dac_steps(
    seconds: float, batch: int = 1, device: str = "cpu", bf16: bool = False
) -> dict[str, Step]:
    r"""Return the step of each package, from the same weights, on the same crop of noise.

    Parameters
    ----------
    seconds
        Length of the crop, s; a length that no period of the critics divides is taken, because
        there the package pads by a whole period and we by none.
    batch
        Crops.
    device
        ``"cpu"`` or ``"cuda"``.
    bf16
        True runs forward passes under autocast, theirs and ours.

    Returns
    -------
    dict
        Package name to a step; each call trains on and returns the losses before the update.
    """
    torch.manual_seed(0)
    theirs, ours = dac_pair()
    judges = imported("dac.model", "descript-audio-codec").Discriminator()
    critics = dac_critics(judges)
    for module in (theirs, judges, ours, critics):
        module.to(device)
    samples = round(seconds * SAMPLE_RATE)
    while any(samples % period == 0 for period in (2, 3, 5, 7, 11)):
        samples += 1
    wav = 0.1 * torch.randn(batch, 1, samples, device=device)
    plugins = [WaveformPrecision(device)] if bf16 else None
    fabric = Fabric(accelerator=device, devices=1, plugins=plugins)
    fabric.launch()
    return {
        "descript-audio-codec": their_step(
            theirs.train(), judges, wav, lambda: torch.autocast(device, torch.bfloat16, bf16)
        ),
        "codec_lib": our_step(ours, critics, wav, fabric),
    }
