r"""What every quantizer is from outside: a latent in, K streams of codes out, and back.

A quantizer says what one stream does with rows (``search_rows``, ``contribution``) and how the
streams of a training step come about (``quantize_streams``); shapes, checks, depths and losses are
here, once. Streams may differ in size: ``codebook_sizes`` has one N for each.

Notebook: ``03_residual_and_product_quantization``. Left out: how anything learns.
Read next: ``search.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from codec_lib.quantizers.rows import check_codes, from_rows, to_rows
from codec_lib.shapes import Codes, QuantizerOutput, check_shape


class QuantizedRows(NamedTuple):
    """One stream's result for V rows."""

    codes: Tensor  # (V,) int64
    entries: Tensor  # the chosen entries as they lie in the codebook, without gradient
    z_q: Tensor  # (V, D): their contribution, with gradient to the encoder by the estimator
    commitment: Tensor | None  # (V,): squared error per row, a mean over the width, to the encoder
    codebook: Tensor | None  # (V,): the same with gradient to whatever makes the entries


class Bottleneck(nn.Module):
    r"""Base of every quantizer: ``forward``, ``encode`` and ``decode`` over K streams.

    Attributes
    ----------
    latent_dim
        Width D of the latent.
    codebook_sizes
        Entries N of each stream, K numbers.
    num_quantizers
        Streams K.
    quantizer_dropout
        Share of a training batch's items that use a random number of streams.
    """

    latent_dim: int
    codebook_sizes: tuple[int, ...]
    quantizer_dropout: float = 0.0

    @property
    def num_quantizers(self) -> int:
        """Streams K."""
        return len(self.codebook_sizes)

    def search_rows(self, rows: Tensor, k: int = 0) -> Tensor:
        """Return the codes (V,), int64, that stream k gives to rows (V, D), float32."""
        raise NotImplementedError

    def contribution(self, codes: Tensor, k: int = 0) -> Tensor:
        """Return what unchecked codes (...) of stream k add to the latent, (..., D), float32."""
        raise NotImplementedError

    def quantize_rows(self, rows: Tensor) -> QuantizedRows:
        """Quantize rows (V, D) in float32 where there is one stream; learns in training mode."""
        raise NotImplementedError

    def quantize_streams(
        self, rows: Tensor, depth: int, masks: list[Tensor] | None
    ) -> tuple[Tensor, list[QuantizedRows]]:
        r"""Quantize rows with gradient; the step behind ``forward``.

        Parameters
        ----------
        rows
            Latent vectors, shape (V, D), float32, V at least 1.
        depth
            Streams to run.
        masks
            Per stream which rows count it, each (V, 1) of 0 or 1; None where all do.

        Returns
        -------
        tuple[Tensor, list[QuantizedRows]]
            The quantized rows (V, D) and each stream's own result.
        """
        out = self.quantize_rows(rows)
        return out.z_q, [out]

    def forward(self, z: Tensor, n_q: int | Tensor | None = None) -> QuantizerOutput:
        r"""Quantize a latent; in training mode the codebooks learn from it too.

        Parameters
        ----------
        z
            Latent, shape (B, D, F).
        n_q
            Streams to use: a number, one number per item (B,), or None for all (or what
            ``quantizer_dropout`` draws). With a number, later streams do not run at all.

        Returns
        -------
        QuantizerOutput
            ``z_q`` (B, D, F) in the dtype of ``z``, ``codes`` (B, n_q, F), losses of shape (n_q,),
            and the streams' contributions, each with its own gradient to the encoder.

        Raises
        ------
        ValueError
            If the shape is not (B, D, F), there is no frame, or ``n_q`` is not in 1..K.
        """
        sizes = check_shape(z, "B D F", name="z", D=self.latent_dim)
        batch, frames, depth = sizes["B"], sizes["F"], self.num_quantizers
        if batch * frames == 0:
            raise ValueError("z: got no frames, expected at least one")
        if isinstance(n_q, int):
            depth, n_q = self._depth(n_q), None
        elif n_q is None and self.training and self.quantizer_dropout > 0:
            n_q = self.draw_depths(batch)
        masks = self._masks(n_q, z, depth)
        with torch.autocast(z.device.type, enabled=False):
            total, outs = self.quantize_streams(to_rows(z), depth, masks)
        return QuantizerOutput(
            z_q=from_rows(total, batch, frames).to(z.dtype),
            codes=torch.stack([out.codes.view(batch, frames) for out in outs], dim=1),
            losses=_reduce_losses(outs, masks),
            layers=[from_rows(out.z_q, batch, frames).to(z.dtype) for out in outs],
        )

    @torch.no_grad()
    def encode(self, z: Tensor, n_q: int | None = None) -> Tensor:
        r"""Return the codes (B, n_q, F), int64, of a latent (B, D, F); changes nothing.

        The first k codes do not depend on ``n_q``: what k streams send is a prefix.
        """
        check_shape(z, "B D F", name="z", D=self.latent_dim)
        depth, codes = self._depth(n_q), []
        with torch.autocast(z.device.type, enabled=False):
            residual = to_rows(z)
            for k in range(depth):
                codes.append(self.search_rows(residual, k))
                if k + 1 < depth:
                    residual = residual - self.contribution(codes[-1], k)
        return torch.stack([c.view(z.shape[0], z.shape[2]) for c in codes], dim=1)

    def decode(self, codes: Tensor, layers: Iterable[int] | None = None) -> Tensor:
        r"""Return the sum of the entries that codes stand for, shape (B, D, F), float32.

        Parameters
        ----------
        codes
            Codes, shape (B, n_q, F), int64; row k belongs to stream k.
        layers
            Streams to sum, counted from 0; None for all rows. An empty choice gives zeros.

        Raises
        ------
        TypeError
            If the codes are not int64.
        ValueError
            If a code, the number of rows or a layer is out of range.
        """
        sizes = check_shape(codes, "B K F", name="codes")
        rows = self._depth(sizes["K"])
        check_codes(codes, self.codebook_sizes[:rows])
        chosen = range(rows) if layers is None else sorted(set(layers))
        if any(not 0 <= k < rows for k in chosen):
            raise ValueError(f"layers: got {list(chosen)}, expected numbers from 0 to {rows - 1}")
        with torch.autocast(codes.device.type, enabled=False):
            parts = [self.contribution(codes[:, k], k) for k in chosen]  # each (B, F, D)
        if not parts:
            return torch.zeros(sizes["B"], self.latent_dim, sizes["F"], device=codes.device)
        return sum(parts[1:], start=parts[0]).transpose(1, 2)

    def look_up(self, codes: Codes) -> Tensor:
        r"""Return the latent (B, D, F) of all codebooks or of those that were selected."""
        if codes.layers is None:
            return self.decode(codes.codes)
        batch, _, frames = codes.codes.shape
        rows = codes.codes.new_zeros(batch, max(codes.layers) + 1, frames)
        rows[:, list(codes.layers)] = codes.codes
        return self.decode(rows, layers=list(codes.layers))

    def _depth(self, n_q: int | None) -> int:
        """Return the number of streams to use, checked."""
        n_q = self.num_quantizers if n_q is None else n_q
        if not 1 <= n_q <= self.num_quantizers:
            raise ValueError(f"n_q: got {n_q}, expected 1 to {self.num_quantizers}")
        return n_q

    def draw_depths(self, batch: int) -> Tensor:
        """Draw how many streams each item uses, shape (B,): all, or a random number."""
        drawn = torch.randint(1, self.num_quantizers + 1, (batch,))
        dropped = torch.rand(batch) < self.quantizer_dropout
        return torch.where(dropped, drawn, self.num_quantizers)

    def _masks(self, n_q: Tensor | None, z: Tensor, depth: int) -> list[Tensor] | None:
        """Return per stream which rows use it, each (V, 1) of 0 or 1; None where all do."""
        if n_q is None:
            return None
        check_shape(n_q, "B", name="n_q", B=z.shape[0])
        if n_q.numel() and not 1 <= int(n_q.min()) <= int(n_q.max()) <= depth:
            raise ValueError(f"n_q: got {n_q.tolist()}, expected numbers from 1 to {depth}")
        per_row = n_q.to(z.device).repeat_interleave(z.shape[2]).unsqueeze(1)  # (V, 1)
        return [(per_row > k).float() for k in range(depth)]


def _reduce_losses(outs: list[QuantizedRows], masks: list[Tensor] | None) -> dict[str, Tensor]:
    """Return each loss as one mean per stream, shape (n_q,).

    Masked rows count as zero, and so does a stream without a loss that another stream has.
    """
    losses = {}
    for name in ("commitment", "codebook"):
        found = [getattr(out, name) for out in outs]
        if any(value is not None for value in found):
            zeros = outs[0].entries.new_zeros(len(outs[0].codes))
            values = [zeros if value is None else value for value in found]
            if masks is not None:
                values = [v * mask.squeeze(1) for v, mask in zip(values, masks, strict=False)]
            losses[f"{name}_loss"] = torch.stack([value.mean() for value in values])
    return losses
