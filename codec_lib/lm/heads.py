r"""Heads that say what the next continuous token is: its mean, or a sample of it.

``MeanHead`` is trained by squared error [Li et al. 2024, Cont-SPT]: the best guess is the mean of
all that could follow, which is less than any of it: where a vowel could be said high or low, the
mean is neither. ``FlowHead`` learns a velocity field that carries noise to tokens [Lipman et al.
2023], conditioned on the state, as diffusion heads for tokens do [Li et al. 2024, MAR], and draws.

Notebook: 41. Leaves out: Gaussian mixtures. Read next: ``continuous.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers import sine_positions


class MeanHead(nn.Module):
    r"""The mean of the next token, a linear map of the state.

    Parameters
    ----------
    dim, token_dim
        Widths of states and tokens.
    """

    def __init__(self, dim: int, token_dim: int) -> None:
        super().__init__()
        self.to_token = nn.Linear(dim, token_dim)

    def loss(self, states: Tensor, tokens: Tensor) -> Tensor:
        r"""Return the squared error (V,), a mean over the width, of states (V, dim)."""
        return (self.to_token(states).float() - tokens).square().mean(-1)

    def draw_token(
        self, states: Tensor, generators: Sequence[torch.Generator], temperature: float = 1.0
    ) -> Tensor:
        r"""Return the mean (B, D); nothing is drawn, whatever the temperature."""
        return self.to_token(states)


class FlowHead(nn.Module):
    r"""Flow matching along straight lines from noise to the next token.

    .. math:: x_t = (1 - t)\, \epsilon + t\, x, \qquad
              L = \mathbb E_{t, \epsilon} \lVert v(x_t, t, h) - (x - \epsilon) \rVert^2

    with h the state and noise :math:`\epsilon` normal; a token is drawn by following v from noise
    in equal steps (Euler).

    Parameters
    ----------
    dim, token_dim
        Widths of states and tokens.
    width, depth
        Of the residual layers of v.
    draws
        Pairs of t and noise for each token in a training step.
    steps
        Of Euler's method.
    """

    def __init__(
        self,
        dim: int,
        token_dim: int,
        width: int = 256,
        depth: int = 3,
        draws: int = 4,
        steps: int = 16,
    ) -> None:
        super().__init__()
        self.token_dim, self.draws = token_dim, draws
        self.steps, self.width = steps, width
        self.from_token, self.from_state = nn.Linear(token_dim, width), nn.Linear(dim, width)
        self.from_time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(_FlowLayer(width) for _ in range(depth))
        self.norm, self.to_velocity = nn.LayerNorm(width), nn.Linear(width, token_dim)
        nn.init.zeros_(self.to_velocity.weight)
        nn.init.zeros_(self.to_velocity.bias)

    def velocity(self, x: Tensor, time: Tensor, states: Tensor) -> Tensor:
        r"""Return v(x, t, h): x (V, D), t (V,) in [0, 1], h (V, dim) to (V, D)."""
        wave = sine_positions(1000 * time, self.width).to(x.dtype)
        condition = functional.silu(self.from_state(states) + self.from_time(wave))
        hidden = self.from_token(x)
        for layer in self.layers:
            hidden = layer(hidden, condition)
        return self.to_velocity(self.norm(hidden))

    def loss(self, states: Tensor, tokens: Tensor) -> Tensor:
        r"""Return the squared error of the velocity (V,), a mean over width and draws."""
        states = states.repeat_interleave(self.draws, 0)
        target = tokens.repeat_interleave(self.draws, 0).float()
        noise, time = torch.randn_like(target), torch.rand_like(target[:, 0])
        mixed = torch.lerp(noise, target, time[:, None])
        error = self.velocity(mixed, time, states).float() - (target - noise)
        return error.square().mean(-1).view(-1, self.draws).mean(1)

    def draw_token(
        self, states: Tensor, generators: Sequence[torch.Generator], temperature: float = 1.0
    ) -> Tensor:
        r"""Draw a token for each item.

        Parameters
        ----------
        states
            Shape (B, dim).
        generators
            One on the CPU for each item.
        temperature
            Standard deviation of the noise that is followed: less is surer and less varied.

        Returns
        -------
        Tensor
            Shape (B, D).
        """
        noise = [torch.randn(self.token_dim, generator=one) for one in generators]
        x = temperature * torch.stack(noise).to(states)
        for step in range(self.steps):
            time = torch.full_like(x[:, 0], step / self.steps)
            x = x + self.velocity(x, time, states) / self.steps
        return x


class _FlowLayer(nn.Module):
    """Norm, scaled and shifted by the condition; two linear maps; a gated residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 3 * width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift, gate = self.modulation(condition).chunk(3, dim=-1)
        inner = self.norm(x) * (1 + scale) + shift
        return x + gate * self.down(functional.silu(self.up(inner)))
