r"""Train one quantizer on bare frames: the smallest setting in which codebooks live or die.

A two-layer encoder and decoder around any quantizer, or nothing around it; mean squared error, the
quantizer's own losses, Adam. Seconds on one core, so that quantizers can be compared on the same
frames, start weights, batches and steps.

Notebook: ``04_scalar_and_simvq``. Left out: waveforms, schedules, checkpoints (``loop.py``).
Read next: ``schedule.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec_lib.quantizers import Bottleneck, HealthTracker
from codec_lib.shapes import check_shape

WEIGHTS = {"commitment_loss": 0.25, "codebook_loss": 1.0}
WINDOW = 20  # batches that usage and perplexity look back on


def train_on_frames(
    quantizer: Bottleneck,
    frames: Tensor,
    unheard: Tensor,
    steps: int,
    width: int = 128,
    batch_size: int = 512,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> dict[str, Tensor]:
    r"""Train a quantizer inside a small autoencoder of frames and say how its codes fared.

    .. math:: L = \|\hat x - x\|^2 + 0.25 \, \|z - \mathrm{sg}[e]\|^2 + \|\mathrm{sg}[z] - e\|^2

    Parameters
    ----------
    quantizer
        Trained in place and left in eval mode. Its ``latent_dim`` D is the autoencoder's.
    frames, unheard
        Frames to learn from and to be measured on, each (V, M), about unit variance.
    steps
        Batches.
    width
        Hidden units of encoder and decoder; 0 leaves both out, so that D must be M.
    batch_size, learning_rate
        Frames a batch, drawn with replacement; of Adam, for everything that has a gradient.
    seed
        Of start weights and batches; that of the quantizer's own start is the caller's.

    Returns
    -------
    dict[str, Tensor]
        ``usage`` (a share) and ``perplexity`` of the last 20 batches at each step, (steps, K);
        ``error``, the root mean square error on ``unheard``, in units of the frames; its latents
        ``z`` (V, D) and ``codes`` (1, K, V).

    Raises
    ------
    ValueError
        If the frames are no matrix, or ``width`` is 0 and D is not M.

    Examples
    --------
    >>> from codec_lib.quantizers import SimVQ
    >>> x = torch.randn(200, 6)
    >>> record = train_on_frames(SimVQ(4, 16), x, x, steps=3)
    >>> record["usage"].shape, record["z"].shape
    (torch.Size([3, 1]), torch.Size([200, 4]))
    """
    bands = check_shape(frames, "V M", name="frames")["M"]
    check_shape(unheard, "V M", name="unheard", M=bands)
    torch.manual_seed(seed)
    encoder, decoder = _networks(bands, width, quantizer.latent_dim)
    log = _fit(encoder, decoder, quantizer, frames, steps, batch_size, learning_rate)
    with torch.no_grad():
        z = encoder(unheard)
        codes = quantizer.eval().encode(z.T.unsqueeze(0))
        error = (decoder(quantizer.decode(codes)[0].T) - unheard).pow(2).mean().sqrt()
    return log | {"error": error, "z": z, "codes": codes}


def _fit(
    encoder: nn.Module,
    decoder: nn.Module,
    quantizer: Bottleneck,
    frames: Tensor,
    steps: int,
    batch_size: int,
    learning_rate: float,
) -> dict[str, Tensor]:
    """Train all three; return usage and perplexity, (steps, K)."""
    parts = nn.ModuleList([encoder, decoder, quantizer]).train()
    # moving averages have no parameter, and Adam wants one
    optimizer = torch.optim.Adam([*parts.parameters(), torch.zeros(1)], learning_rate)
    tracker = HealthTracker(quantizer.num_quantizers, quantizer.codebook_sizes, WINDOW)
    log: dict[str, list[Tensor]] = {"usage": [], "perplexity": []}
    for _ in range(steps):
        x = frames[torch.randint(len(frames), (batch_size,))]  # (V, M)
        out = quantizer(encoder(x).T.unsqueeze(0))  # latent (1, D, V)
        loss = (decoder(out.z_q[0].T) - x).pow(2).mean()
        loss = loss + sum(WEIGHTS[name] * value.sum() for name, value in out.losses.items())
        if loss.requires_grad:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        tracker.update(out.codes)
        health = tracker.compute()
        for name, values in log.items():
            values.append(health[name])
    return {name: torch.stack(values) for name, values in log.items()}


def _networks(bands: int, width: int, latent_dim: int) -> tuple[nn.Module, nn.Module]:
    """Return encoder M -> D and decoder D -> M of rows."""
    if width == 0:
        if latent_dim != bands:
            raise ValueError(f"width: got 0 with D = {latent_dim}, expected D = {bands} or width")
        return nn.Identity(), nn.Identity()
    encoder = nn.Sequential(nn.Linear(bands, width), nn.GELU(), nn.Linear(width, latent_dim))
    decoder = nn.Sequential(nn.Linear(latent_dim, width), nn.GELU(), nn.Linear(width, bands))
    return encoder, decoder
