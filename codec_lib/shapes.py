r"""Shape letters, shape checks and the result types that every module speaks in.

Letters (used in every docstring): B batch, C audio channels, T samples, F frames, D latent
width, K codebooks used, N codebook size, M mel bins. ``T`` never counts frames.

Read next: ``quantizers/vector.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


def check_shape(tensor: Tensor, pattern: str, name: str = "tensor", **sizes: int) -> dict[str, int]:
    r"""Check a tensor against a pattern of shape letters and return the size of each letter.

    Parameters
    ----------
    tensor
        Any tensor.
    pattern
        Letters or numbers separated by blanks, e.g. ``"B 1 T"``. A number must match exactly, a
        letter matches any size, the same one wherever it stands again.
    name
        What the caller calls the tensor; it is named in the error.
    **sizes
        Sizes that letters must have, e.g. ``D=128``.

    Returns
    -------
    dict[str, int]
        Letter to size.

    Raises
    ------
    TypeError
        If ``tensor`` is not a tensor.
    ValueError
        If the number of axes or a size differs.

    Examples
    --------
    >>> check_shape(torch.zeros(2, 1, 320), "B 1 T", name="wav")
    {'B': 2, 'T': 320}
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"{name}: got {type(tensor).__name__}, expected a tensor of shape ({pattern})"
        )
    axes = pattern.split()
    got = tuple(tensor.shape)
    found = dict(sizes)
    if len(axes) == len(got):
        for axis, size in zip(axes, got, strict=True):
            expected = int(axis) if axis.isdigit() else found.setdefault(axis, size)
            if expected != size:
                break
        else:
            return {axis: found[axis] for axis in axes if not axis.isdigit()}
    fixed = "".join(f", {letter} = {size}" for letter, size in sizes.items())
    raise ValueError(
        f"{name}: got shape {got}, expected ({', '.join(axes)}){fixed}. "
        "Letters: B batch, C channels, T samples, F frames, D latent width, K codebooks."
    )


@dataclass(frozen=True)
class Codes:
    r"""What a codec sends: integers, and how many samples they stand for.

    Attributes
    ----------
    codes
        Code indices, shape (B, K, F), int64; (B, K, S) where S segments have one code each.
    num_samples
        Samples of the waveform that was encoded; ``decode`` returns exactly that many.
    lengths
        Frames that each code stands for, shape (B, S), int64, where the frame rate is dynamic, 0
        after an item's last code; None where every code stands for one frame.
    layers
        The codebook that each of the K rows belongs to; None where they are the first K.

    Raises
    ------
    TypeError
        If codes or lengths are not int64.
    ValueError
        If a shape, the sample count or the layers do not fit.

    Examples
    --------
    >>> codes = Codes(torch.zeros(1, 8, 50, dtype=torch.int64), num_samples=16000)
    >>> codes.select([0, 2]).n_q
    2
    """

    codes: Tensor
    num_samples: int
    lengths: Tensor | None = None
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        sizes = check_shape(self.codes, "B K F", name="codes")
        if self.codes.dtype != torch.int64:
            raise TypeError(f"codes: got dtype {self.codes.dtype}, expected torch.int64")
        if self.lengths is not None:
            check_shape(self.lengths, "B F", name="lengths", B=sizes["B"], F=sizes["F"])
            if self.lengths.dtype != torch.int64:
                raise TypeError(f"lengths: got dtype {self.lengths.dtype}, expected torch.int64")
            if self.lengths.device != self.codes.device:
                got = f"got lengths on {self.lengths.device}"
                raise ValueError(f"lengths: {got}, expected {self.codes.device} as the codes")
        if self.num_samples < 0:
            raise ValueError(f"num_samples: got {self.num_samples}, expected at least 0")
        rows = self.codes.shape[1]
        if self.layers is not None and (
            len(self.layers) != rows or len(set(self.layers)) != rows or min(self.layers) < 0
        ):
            raise ValueError(
                f"layers: got {self.layers} for {rows} rows of codes, expected one different "
                "codebook index >= 0 for each row"
            )

    @property
    def n_q(self) -> int:
        """Number of codebooks K in these codes."""
        return self.codes.shape[1]

    @property
    def codebooks(self) -> tuple[int, ...]:
        """The codebook of each row, (0, 1, ..., K - 1) unless some were selected."""
        return tuple(range(self.n_q)) if self.layers is None else self.layers

    def select(self, layers: Sequence[int]) -> Codes:
        """Keep some codebooks only, e.g. ``[0]`` for content or ``range(4)`` for half the rate.

        Raises ``ValueError`` where a codebook is not there or none is asked for.
        """
        wanted, have = tuple(int(layer) for layer in layers), self.codebooks
        if not wanted or len(set(wanted)) != len(wanted) or not set(wanted) <= set(have):
            raise ValueError(
                f"layers: got {list(wanted)}, expected one or more different of {list(have)} "
                "(codebooks are counted from 0)"
            )
        rows = [have.index(layer) for layer in wanted]
        kept = None if wanted == tuple(range(len(wanted))) else wanted
        return replace(self, codes=self.codes[:, rows], layers=kept)

    def to(self, device: torch.device | str) -> Codes:
        """Return the same codes on another device."""
        lengths = None if self.lengths is None else self.lengths.to(device)
        return replace(self, codes=self.codes.to(device), lengths=lengths)


@dataclass
class QuantizerOutput:
    r"""What a quantizer returns.

    Attributes
    ----------
    z_q
        Quantized latent, shape (B, D, F); carries gradient to the encoder.
    codes
        Indices, shape (B, K, F), int64.
    losses
        ``commitment_loss`` (and ``codebook_loss`` where the codebook is trained by gradient), each
        a tensor of shape (K,): one mean over all elements per quantizer. Recipes reduce them.
    layers
        Per-quantizer contributions, K tensors of shape (B, D, F), each straight-through to the
        encoder; ``layers[0]`` is Q_1, what semantic distillation reads.
    """

    z_q: Tensor
    codes: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    layers: list[Tensor] = field(default_factory=list)


@dataclass
class CodecOutput:
    r"""What ``codec(wav)`` returns.

    Attributes
    ----------
    wav
        Reconstruction, shape (B, 1, T), as long as the input; carries gradient.
    codes
        The codes behind it.
    z, z_q
        Latent before and after quantization, shape (B, D, F); both carry gradient.
    losses
        Losses that belong to the codec itself, by name (see ``QuantizerOutput.losses``).
    projections
        Named projections that distillation compares with a teacher, each (B, F, D_S);
        SpeechTokenizer gives ``"semantic"``, which is A Q_1 of Eqs. (2) and (3).
    """

    wav: Tensor
    codes: Codes
    z: Tensor
    z_q: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    projections: dict[str, Tensor] = field(default_factory=dict)
