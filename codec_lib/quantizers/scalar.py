r"""Finite scalar quantizer (FSQ): every channel is bounded and rounded; there is no codebook.

[Mentzer et al. 2023] and the symmetric form of [Parker et al. 2024], section 3.2. The bottleneck of
CodecSlime-FSQ.

Notebook: ``04_scalar_and_simvq``. Left out: residual FSQ, noise in place of rounding.
Read next: ``simvq.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codec_lib.quantizers.bottleneck import Bottleneck, QuantizedRows
from codec_lib.quantizers.gradients import straight_through
from codec_lib.quantizers.rows import check_choice, check_sizes

FORMS = ("centred", "published", "symmetric")
EPSILON = 1e-3
MOST_LEVELS = 1000


class FiniteScalarQuantizer(Bottleneck):
    r"""Round every channel of a narrow latent to one of a few levels.

    With h half the range, o = 1/2 for an even number of levels L and 0 for an odd one, a channel
    becomes an integer n, and n / floor(L / 2) is the value:

    ================= ============================ ===================================
    ``form``          h                            n
    ================= ============================ ===================================
    ``"centred"``     (L - 1)(1 + 0.001) / 2       round(h tanh(x + atanh(o/h)) - o)
    ``"published"``   (L - 1)(1 - 0.001) / 2       round(h tanh(x + tan(o/h)) - o)
    ``"symmetric"``   (L - 1) / 2                  floor(h (tanh(x) + 1) + 1/2)
    ================= ============================ ===================================

    ``"published"`` is the listing of [Mentzer et al. 2023], appendix A.1, in which ``tan`` does not
    undo ``tanh``, so that 0 is not mapped to 0; ``"centred"`` is its cure (CodecSlime, lucidrains).
    ``"symmetric"`` is [Parker et al. 2024], section 3.2, with the value n / h - 1.

    .. math:: i = \sum_j n'_j \prod_{k<j} L_k, \quad n'_j \in \{0, \dots, L_j - 1\}

    Parameters
    ----------
    latent_dim
        Width D of the latent. Where it is not the number of channels, learnt projections
        D -> len(levels) -> D surround the rounding.
    levels
        Levels L of each channel, at least 3, or 2 in the symmetric form; at most 1000, beyond which
        the 0.001 of the range would round to a level too many.
    form
        See the table.

    Raises
    ------
    ValueError
        If a size or the form is wrong, or the codes do not fit in 63 bits.

    Notes
    -----
    There is no loss: gradient reaches the encoder through the rounding unchanged and through the
    tanh. The rounding runs in float32, also under autocast.

    Examples
    --------
    >>> quantizer = FiniteScalarQuantizer(latent_dim=16, levels=(8, 5, 5, 5))
    >>> out = quantizer(torch.randn(2, 16, 50))
    >>> out.codes.shape, quantizer.codebook_sizes, out.losses
    (torch.Size([2, 1, 50]), (1000,), {})
    """

    def __init__(
        self, latent_dim: int, levels: Sequence[int] = (8, 5, 5, 5), form: str = "centred"
    ) -> None:
        super().__init__()
        check_sizes(latent_dim=latent_dim, levels=len(levels))
        check_choice("form", form, FORMS)
        fewest = 2 if form == "symmetric" else 3
        if min(levels) < fewest or max(levels) > MOST_LEVELS:
            raise ValueError(
                f"levels: got {tuple(levels)}, expected {fewest} to {MOST_LEVELS} each"
                + (". Hint: form='symmetric' takes 2" if min(levels) == 2 else "")
            )
        if math.prod(levels) >= 1 << 63:
            raise ValueError(
                f"levels: got {tuple(levels)}, {math.prod(levels):.3g} codes, expected below 2^63"
            )
        self.latent_dim, self.levels, self.form = latent_dim, tuple(levels), form
        self.codebook_size = math.prod(levels)
        self.codebook_sizes = (self.codebook_size,)
        width = len(levels)
        projected = latent_dim != width
        self.in_proj = nn.Linear(latent_dim, width) if projected else nn.Identity()
        self.out_proj = nn.Linear(width, latent_dim) if projected else nn.Identity()
        places = [math.prod(levels[:j]) for j in range(width)]
        self.register_buffer("_levels", torch.tensor(levels), persistent=False)
        self.register_buffer("_places", torch.tensor(places), persistent=False)

    def extra_repr(self) -> str:
        """Show sizes and form when printed."""
        return f"latent_dim={self.latent_dim}, levels={self.levels}, form={self.form!r}"

    def bound(self, x: Tensor) -> Tensor:
        """Return channels (..., len(levels)) squeezed into the range of their levels."""
        sign = {"centred": 1, "published": -1, "symmetric": 0}[self.form]
        half = (self._levels - 1) * (1 + sign * EPSILON) / 2
        if self.form == "symmetric":
            return half * (x.tanh() + 1)
        offset = 0.5 * (self._levels % 2 == 0)
        shift = (offset / half).atanh() if self.form == "centred" else (offset / half).tan()
        return half * (x + shift).tanh() - offset

    def values(self, digits: Tensor) -> Tensor:
        """Return the values in [-1, 1] of digits 0..L-1, both (..., len(levels))."""
        if self.form == "symmetric":
            return digits * (2 / (self._levels - 1)) - 1
        middle = self._levels // 2
        return (digits - middle) / middle

    def to_codes(self, digits: Tensor) -> Tensor:
        """Return the codes (...), int64, of digits (..., len(levels)); the first counts least."""
        return (digits * self._places).sum(dim=-1)

    def to_digits(self, codes: Tensor) -> Tensor:
        """Return the digits (..., len(levels)), int64, of codes (...)."""
        return codes.unsqueeze(-1) // self._places % self._levels

    def _round(self, bounded: Tensor) -> Tensor:
        """Return the digits 0..L-1 (..., len(levels)), int64, of bounded channels."""
        if self.form == "symmetric":
            return (bounded + 0.5).floor().long()
        return bounded.round().long() + self._levels // 2

    def search_rows(self, rows: Tensor, k: int = 0) -> Tensor:
        """Return the codes (V,), int64, of rows (V, D)."""
        return self.to_codes(self._round(self.bound(self.in_proj(rows))))

    def contribution(self, codes: Tensor, k: int = 0) -> Tensor:
        """Return what unchecked codes (...) stand for, (..., D)."""
        return self.out_proj(self.values(self.to_digits(codes)))

    def quantize_rows(self, rows: Tensor) -> QuantizedRows:
        """Round rows (V, D) in float32."""
        bounded = self.bound(self.in_proj(rows))  # (V, len(levels))
        digits = self._round(bounded.detach())
        values = self.values(digits)
        # from bounded to value is a scale and a shift, so the gradient keeps that scale
        scale = 2 / (self._levels - 1) if self.form == "symmetric" else 1 / (self._levels // 2)
        z_q = self.out_proj(straight_through(bounded * scale, values))
        return QuantizedRows(self.to_codes(digits), values, z_q, None, None)
