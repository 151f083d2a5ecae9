r"""Product quantizer: the latent is cut along its channels, and each part has a small codebook.

The quantizer of DS-Codec-PQ: four parts of 16 entries stand for 16^4 = 65,536 joint codes, sent as
one codebook. With ``joint=False`` every part is a stream of its own.

Notebook: ``03_residual_and_product_quantization``. Left out: learnt rotations before the cut.
Read next: ``simvq.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from codec_lib.quantizers.bottleneck import Bottleneck, QuantizedRows
from codec_lib.quantizers.rows import check_codes, check_sizes
from codec_lib.quantizers.vector import VectorQuantizer
from codec_lib.shapes import check_shape


class ProductQuantizer(Bottleneck):
    r"""Quantize parts of the latent on their own and send one number for all of them.

    .. math:: i = ((i_1 N + i_2) N + i_3) N + i_4, \quad L = \sum_p L_p

    [DS-Codec], section 2 (as reported: the parts do not overlap, their outputs are concatenated,
    the losses summed). The paper leaves the order of digits open; here the first part is the most
    significant.

    Parameters
    ----------
    latent_dim
        Width D of the latent; part p takes channels p D / P to (p + 1) D / P.
    num_parts
        Parts P.
    codebook_size
        Entries N of each part.
    joint
        True sends one stream of N^P codes; False sends P streams of N.
    **vector_options
        Further arguments of every part's ``VectorQuantizer``.

    Raises
    ------
    ValueError
        If a size is below 1, D is no multiple of P, or N^P does not fit in 63 bits.

    Examples
    --------
    >>> quantizer = ProductQuantizer(latent_dim=8, num_parts=4, codebook_size=16)
    >>> codes = quantizer(torch.randn(2, 8, 50)).codes
    >>> codes.shape, quantizer.codebook_sizes, quantizer.split(codes).shape
    (torch.Size([2, 1, 50]), (65536,), torch.Size([2, 4, 50]))
    """

    def __init__(
        self,
        latent_dim: int,
        num_parts: int = 4,
        codebook_size: int = 16,
        joint: bool = True,
        **vector_options: Any,
    ) -> None:
        super().__init__()
        check_sizes(latent_dim=latent_dim, num_parts=num_parts, codebook_size=codebook_size)
        if latent_dim % num_parts:
            raise ValueError(
                f"latent_dim: got {latent_dim}, expected a multiple of num_parts = {num_parts}"
            )
        if codebook_size**num_parts >= 1 << 63:
            raise ValueError(
                f"codebook_size: got {codebook_size} to the power of {num_parts}, expected a joint "
                "index below 2^63. Hint: joint=False with fewer parts"
            )
        self.latent_dim, self.num_parts, self.joint = latent_dim, num_parts, joint
        self.part_size = codebook_size
        self.codebook_sizes = (codebook_size**num_parts,) if joint else (codebook_size,) * num_parts
        self.codebook_size = self.codebook_sizes[0]
        self.parts = nn.ModuleList(
            VectorQuantizer(latent_dim // num_parts, codebook_size, **vector_options)
            for _ in range(num_parts)
        )

    def join(self, digits: Tensor) -> Tensor:
        r"""Return the joint codes (B, 1, F) of the parts' codes (B, P, F), by mixed radix.

        Raises ``TypeError`` or ``ValueError`` where those are no codes of the parts.
        """
        check_shape(digits, "B P F", name="digits", P=self.num_parts)
        check_codes(digits, self.part_size)
        return self._join(list(digits.unbind(1))).unsqueeze(1)

    def split(self, codes: Tensor) -> Tensor:
        r"""Return the parts' codes (B, P, F) of joint codes (B, 1, F), by repeated division.

        Raises ``TypeError`` or ``ValueError`` where those are no joint codes.
        """
        check_shape(codes, "B 1 F", name="codes")
        check_codes(codes, self.part_size**self.num_parts)
        return torch.stack(self._split(codes[:, 0]), dim=1)

    def _join(self, digits: list[Tensor]) -> Tensor:
        joint = digits[0]
        for digit in digits[1:]:
            joint = joint * self.part_size + digit
        return joint

    def _split(self, codes: Tensor) -> list[Tensor]:
        powers = [self.part_size**p for p in reversed(range(self.num_parts))]
        return [codes // power % self.part_size for power in powers]

    def search_rows(self, rows: Tensor, k: int = 0) -> Tensor:
        """Return the joint codes (V,) of rows (V, D), or those of part k."""
        cut = rows.chunk(self.num_parts, dim=1)
        if not self.joint:
            return self.parts[k].search_rows(cut[k])
        return self._join([p.search_rows(x) for p, x in zip(self.parts, cut, strict=True)])

    def contribution(self, codes: Tensor, k: int = 0) -> Tensor:
        """Return what unchecked codes (...), of part k or joint, add to the latent, (..., D)."""
        if not self.joint:
            return self._place(self.parts[k].contribution(codes), k)
        digits = self._split(codes)
        return torch.cat([p.contribution(d) for p, d in zip(self.parts, digits, strict=True)], -1)

    def _place(self, part: Tensor, k: int) -> Tensor:
        """Return part k (..., D/P) between zeros, (..., D)."""
        width = part.shape[-1]
        return nn.functional.pad(part, (k * width, (self.num_parts - 1 - k) * width))

    def quantize_streams(
        self, rows: Tensor, depth: int, masks: list[Tensor] | None
    ) -> tuple[Tensor, list[QuantizedRows]]:
        """Quantize every part of rows (V, D); see ``Bottleneck``."""
        cut = rows.chunk(self.num_parts, dim=1)
        used = self.num_parts if self.joint else depth
        outs = [p.quantize_rows(x) for p, x in zip(self.parts[:used], cut, strict=False)]
        if self.joint:
            out = self._joined(outs)
            return out.z_q, [out]
        outs = [out._replace(z_q=self._place(out.z_q, k)) for k, out in enumerate(outs)]
        shares = [o.z_q if masks is None else o.z_q * masks[k] for k, o in enumerate(outs)]
        return sum(shares[1:], start=shares[0]), outs

    def _joined(self, outs: list[QuantizedRows]) -> QuantizedRows:
        """Return the parts as one stream: outputs concatenated, losses summed."""
        codes, entries, z_q, commitment, codebook = zip(*outs, strict=True)
        return QuantizedRows(
            self._join(list(codes)),
            torch.cat(entries, dim=1),
            torch.cat(z_q, dim=1),
            sum(commitment[1:], start=commitment[0]),
            None if codebook[0] is None else sum(codebook[1:], start=codebook[0]),
        )
