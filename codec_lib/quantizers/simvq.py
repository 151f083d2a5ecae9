r"""SimVQ: a frozen random codebook seen through one learnt linear layer.

Moving the layer moves all entries at once, those that no vector chose too, so none dies
[Zhu et al. 2024, SimVQ]. ``FrozenTableQuantizer`` is the part that SACodec's anchored quantizer
(``anchored.py``) shares.

Notebook: ``04_scalar_and_simvq``. Left out: deeper maps than a linear one.
Read next: ``anchored.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from codec_lib.quantizers.bottleneck import Bottleneck, QuantizedRows
from codec_lib.quantizers.gradients import ESTIMATORS
from codec_lib.quantizers.rows import check_choice, check_sizes
from codec_lib.quantizers.search import half_norms, nearest
from codec_lib.shapes import check_shape


class MadeEntries(NamedTuple):
    """Entries that a map made of a table, and copies of what they were made of."""

    sources: list[Tensor]
    entries: Tensor  # (N, D), without gradient
    half: Tensor  # (N,): their ``half_norms``


class FrozenTableQuantizer(Bottleneck):
    r"""Nearest of N entries that a map makes of a frozen table.

    .. math:: e_i = W c_i + b, \quad c = \arg\min_i \|z - e_i\|^2

    Losses, means over all elements: ``commitment_loss`` = ||z - sg[e]||^2 trains the encoder,
    ``codebook_loss`` = ||sg[z] - e||^2 the map, which the reconstruction never reaches.

    Parameters
    ----------
    latent_dim
        Width D of the latent.
    table
        Frozen points c, shape (N, S), float; kept as a buffer.
    basis
        Map of points (N, S) to entries (N, D), e.g. a linear layer.
    estimator
        ``"straight_through"`` or ``"rotation"`` (see ``gradients.py``).

    Raises
    ------
    TypeError, ValueError
        If the table is no finite matrix, or a size or the estimator is wrong.

    Notes
    -----
    On a CPU the map takes most of the time of ``encode``, so the entries are kept between calls of
    it and, without gradient, of ``decode``. Each call compares table and map, number by number,
    with those that the entries were made of, so that no way of changing them is missed.
    """

    _made: MadeEntries | None = None

    def __init__(
        self,
        latent_dim: int,
        table: Tensor,
        basis: nn.Module,
        estimator: str = "straight_through",
    ) -> None:
        super().__init__()
        check_sizes(latent_dim=latent_dim)
        check_choice("estimator", estimator, tuple(ESTIMATORS))
        sizes = check_shape(table, "N S", name="table")
        if not table.is_meta and not bool(torch.isfinite(table).all()):
            raise ValueError("table: got NaN or infinite numbers, expected finite ones")
        self.latent_dim, self.estimator = latent_dim, estimator
        self.codebook_size, self.table_dim = sizes["N"], sizes["S"]
        self.codebook_sizes = (self.codebook_size,)
        self.register_buffer("frozen_codebook", table.detach().clone().float())
        self.basis = basis

    def extra_repr(self) -> str:
        """Show sizes when printed."""
        return f"latent_dim={self.latent_dim}, frozen table {tuple(self.frozen_codebook.shape)}"

    @property
    def codebook(self) -> Tensor:
        """The entries e as the search sees them, shape (N, D), with gradient to the map."""
        return self.basis(self.frozen_codebook)  # [SACodec], Eq. (1)

    @property
    def keeps_entries(self) -> bool:
        """True where making the entries takes most of the time: by a linear map, on a CPU."""
        return type(self.basis) is nn.Linear and self.frozen_codebook.device.type == "cpu"

    @torch.no_grad()
    def made_entries(self) -> MadeEntries:
        """Return the entries of the present table and map, made anew only where those differ."""
        sources = [self.frozen_codebook, *self.basis.parameters()]
        made = self._made
        if made is None or not _are_same(made.sources, sources):
            with torch.autocast("cpu", enabled=False):
                entries = self.codebook
            copies = [source.clone() for source in sources]
            made = self._made = MadeEntries(copies, entries, half_norms(entries))
        return made

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenTableQuantizer:
        """Move or cast the module; what was kept goes."""
        self._made = None
        return super()._apply(fn, recurse)

    def project(self, rows: Tensor) -> Tensor:
        """Return rows (V, D) as they are compared with the entries."""
        return rows

    def search_rows(self, rows: Tensor, k: int = 0) -> Tensor:
        """Return the codes (V,), int64, of rows (V, D)."""
        if not self.keeps_entries:
            return nearest(self.project(rows), self.codebook)
        made = self.made_entries()
        return nearest(self.project(rows), made.entries, made.half)

    def contribution(self, codes: Tensor, k: int = 0) -> Tensor:
        """Return the entries (..., D) of unchecked codes (...): the table through the map."""
        if torch.is_grad_enabled() or not self.keeps_entries:
            return self.basis(self.frozen_codebook[codes])
        return self.made_entries().entries[codes]

    def quantize_rows(self, rows: Tensor) -> QuantizedRows:
        """Quantize rows (V, D) in float32; nothing but gradient changes anything here."""
        codebook = self.codebook  # (N, D)
        codes = nearest(rows, codebook)  # [SACodec], Eq. (2), and Eq. (4) on r
        entries = codebook[codes]  # (V, D), with gradient to the map
        fixed = entries.detach()
        commitment = (rows - fixed).pow(2).mean(dim=1)
        learnt = (rows.detach() - entries).pow(2).mean(dim=1)
        z_q = ESTIMATORS[self.estimator](rows, fixed)
        return QuantizedRows(codes, fixed, z_q, commitment, learnt)


def _are_same(some: list[Tensor], others: list[Tensor]) -> bool:
    """Say whether tensors are of one kind and hold the same numbers, pair by pair."""
    if [one.dtype for one in some] != [one.dtype for one in others]:
        return False
    return all(map(torch.equal, some, others))


class SimVQ(FrozenTableQuantizer):
    r"""Quantize by a frozen Gaussian table through a learnt basis.

    .. math:: e_i = W c_i + b, \quad c_i \sim \mathcal N(0, 1/d)

    [Zhu et al. 2024, SimVQ]. The recipe weighs the losses, officially 0.25 ``commitment_loss`` +
    1 ``codebook_loss``.

    Parameters
    ----------
    latent_dim
        Width D of the latent.
    codebook_size
        Entries N.
    codebook_dim
        Width d of the table; None means D.
    bias
        True gives the basis a bias (official code); False is lucidrains' form.
    estimator
        ``"straight_through"`` or ``"rotation"``.

    Raises
    ------
    ValueError
        If a size is below 1 or the estimator is unknown.

    Notes
    -----
    The official code returns the table's own row for an index, without the basis, so that codes
    decode to something else than was trained on; here ``decode`` applies it.

    Examples
    --------
    >>> out = SimVQ(latent_dim=8, codebook_size=16)(torch.randn(2, 8, 50))
    >>> out.codes.shape, sorted(out.losses)
    (torch.Size([2, 1, 50]), ['codebook_loss', 'commitment_loss'])
    """

    def __init__(
        self,
        latent_dim: int,
        codebook_size: int,
        codebook_dim: int | None = None,
        bias: bool = True,
        estimator: str = "straight_through",
    ) -> None:
        codebook_dim = latent_dim if codebook_dim is None else codebook_dim
        check_sizes(codebook_size=codebook_size, codebook_dim=codebook_dim, latent_dim=latent_dim)
        table = torch.randn(codebook_size, codebook_dim) * codebook_dim**-0.5
        basis = nn.Linear(codebook_dim, latent_dim, bias=bias)
        super().__init__(latent_dim, table, basis, estimator)
