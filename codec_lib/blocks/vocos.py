r"""Vocos decoder: ConvNeXt blocks at the frame rate, then one inverse STFT.

[Siuzdak 2024], and with ``pos_net`` the decoder of WavTokenizer [Ji 2024], which SACodec takes
over: residual convolutions and one attention layer before the ConvNeXt blocks, so that every frame
hears the whole utterance. At width 768, depth 12 and latent width 768 it has 64,263,682 parameters
(``pos_net`` 16,539,648, head 985,858). Published weights load through ``codecs/published.py``.

Notebook: 05_encoders_and_decoders. Leaves out: mel frames (``losses/mel.py``), causal forms. Read
next: ``codecs/published.py``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec_lib.blocks.convnext import ConvNeXtBlock, frame_norm
from codec_lib.blocks.stft import InverseSTFT, full_precision, polar_spectrum
from codec_lib.shapes import check_shape

GROUPS = 32  # of the group norms, as published
DROPOUT = 0.1  # inside the residual convolutions, as published
MAX_MAGNITUDE = 100.0  # published clip of the spectrum's magnitude


def group_norm(width: int) -> nn.GroupNorm:
    """Return the group norm of ``pos_net``: 32 groups, fewer where the width has no such factor."""
    return nn.GroupNorm(math.gcd(GROUPS, width), width, eps=1e-6)


class ResidualConv(nn.Module):
    r"""Two normalised convolutions k 3 beside an identity: y = x + conv(swish(norm(...))).

    Parameters
    ----------
    width
        Channels D.

    Examples
    --------
    >>> ResidualConv(8)(torch.zeros(2, 8, 5)).shape
    torch.Size([2, 8, 5])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(width), group_norm(width)
        self.conv1 = nn.Conv1d(width, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, padding=1)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, F) to (B, D, F)."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(self.dropout(F.silu(self.norm2(hidden))))


class FrameAttention(nn.Module):
    r"""Single-head attention over all frames, without mask or positions, beside an identity.

    .. math:: y = x + W_o\, V\, \mathrm{softmax}(Q^\top K / \sqrt{D})^\top

    Nothing tells it where a frame stands, so inputs much longer than the training crops are
    unlike anything it has seen.

    Parameters
    ----------
    width
        Channels D.

    Examples
    --------
    >>> FrameAttention(8)(torch.zeros(2, 8, 5)).shape
    torch.Size([2, 8, 5])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = group_norm(width)
        self.q, self.k, self.v = (nn.Conv1d(width, width, 1) for _ in range(3))
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, F) to (B, D, F)."""
        hidden = self.norm(x)
        q, k, v = (layer(hidden).transpose(1, 2) for layer in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.proj_out(attended.transpose(1, 2))


class VocosDecoder(nn.Module):
    r"""Decode latent frames into a waveform through ConvNeXt blocks and an inverse STFT.

    .. math:: \hat{x} = \mathrm{iSTFT}\big(\min(e^{a}, 100)\,(\cos p + i \sin p)\big)

    with a and p the two halves of the last linear layer's output [Siuzdak 2024].

    Parameters
    ----------
    hop_length
        Samples per frame.
    latent_dim
        Latent width D.
    width, depth, expansion
        Of the ConvNeXt blocks; WavTokenizer and SACodec have 768, 12, 3.
    n_fft
        Window of the inverse STFT, samples; None is 4 * hop_length.
    pos_net
        True puts WavTokenizer's residual convolutions and attention before the blocks.
    num_conditions
        Above 0, the norms are adaptive and ``forward`` takes a condition below it.
    padding
        ``"same"``: F frames give F * hop_length samples; ``"center"`` (Vocos on mel frames):
        (F - 1) * hop_length.
    max_magnitude
        Clip of the magnitude: 100 as published, which a loud vowel reaches; ``n_fft`` is safe.

    Raises
    ------
    ValueError
        If the padding is unknown or ``n_fft`` does not fit the hop.

    Examples
    --------
    >>> decoder = VocosDecoder(320, latent_dim=8, width=32, depth=1)
    >>> decoder(torch.zeros(2, 8, 4)).shape
    torch.Size([2, 1, 1280])
    """

    def __init__(
        self,
        hop_length: int = 320,
        latent_dim: int = 768,
        width: int = 768,
        depth: int = 12,
        expansion: int = 3,
        n_fft: int | None = None,
        pos_net: bool = True,
        num_conditions: int = 0,
        padding: str = "same",
        max_magnitude: float = MAX_MAGNITUDE,
    ) -> None:
        super().__init__()
        n_fft = 4 * hop_length if n_fft is None else n_fft
        self.hop_length, self.num_conditions = hop_length, num_conditions
        self.max_magnitude = max_magnitude
        self.embed = nn.Conv1d(latent_dim, width, 7, padding=3)
        self.norm = frame_norm(width, num_conditions)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(width, expansion, 7, 1 / max(depth, 1), "none", num_conditions)
            for _ in range(depth)
        )
        self.final_norm = nn.LayerNorm(width, eps=1e-6)
        self.apply(_initialize)
        self.pos_net = _pos_net(width) if pos_net else None  # keeps torch's defaults, as published
        self.out = nn.Linear(width, n_fft + 2)
        self.istft = InverseSTFT(n_fft, hop_length, padding)
        context = 3 * (depth + 1) + -(-(n_fft - hop_length) // (2 * hop_length))
        self.receptive_field = None if pos_net else context  # frames on each side; None: all

    def forward(self, z_q: Tensor, condition: int | Tensor | None = None) -> Tensor:
        r"""Decode.

        Parameters
        ----------
        z_q
            Latent, shape (B, D, F).
        condition
            Only with ``num_conditions``: one for all, or one for each, shape (B,) int64.

        Returns
        -------
        Tensor
            Waveform, shape (B, 1, F * hop_length), one hop less with ``padding="center"``.

        Raises
        ------
        ValueError
            If the shape or the condition does not fit.
        """
        check_shape(z_q, "B D F", name="z_q")
        conditions = self._conditions(condition, z_q)
        x = self.embed(z_q)  # (B, width, F)
        if self.pos_net is not None:
            x = self.pos_net(x)
        x = self.norm(x.transpose(1, 2), *conditions)  # (B, F, width)
        for block in self.blocks:
            x = block(x, *conditions)
        with full_precision(x):  # no complex numbers in bf16, nor phases of more than a turn
            x = self.out(self.final_norm(x.float()))  # (B, F, n_fft + 2)
            log_magnitude, phase = x.chunk(2, dim=-1)  # each (B, F, n_fft / 2 + 1)
            spectrum = polar_spectrum(log_magnitude, phase, self.max_magnitude)
            return self.istft(spectrum).unsqueeze(1)

    def _conditions(self, condition: int | Tensor | None, z_q: Tensor) -> tuple[Tensor, ...]:
        """Return the condition as what every norm takes: a tensor (B,) or (1,), or nothing."""
        if (condition is None) == bool(self.num_conditions):
            raise ValueError(
                f"condition: got {condition!r} with num_conditions={self.num_conditions}; "
                "expected one exactly where there are conditions"
            )
        if condition is None:
            return ()
        condition = torch.as_tensor(condition, device=z_q.device).reshape(-1)
        if len(condition) not in (1, len(z_q)) or not (
            0 <= int(condition.min()) and int(condition.max()) < self.num_conditions
        ):
            raise ValueError(
                f"condition: got {condition.tolist()} for a batch of {len(z_q)}, expected one or "
                f"as many, from 0 to {self.num_conditions - 1}"
            )
        return (condition,)


def _pos_net(width: int) -> nn.Sequential:
    """Return WavTokenizer's stage, in the order of its published indices."""
    before, after = ([ResidualConv(width), ResidualConv(width)] for _ in range(2))
    return nn.Sequential(*before, FrameAttention(width), *after, group_norm(width))


def _initialize(layer: nn.Module) -> None:
    """Draw weights from a normal distribution of 0.02, as published."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
