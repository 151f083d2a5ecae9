r"""ScheDFR [CodecSlime]: the best way to cut F frames into K segments of at most U frames.

The recurrence of Eq. (3) fills a table over frames j and segments i. With e = j - i, the frames
that have been saved so far,

.. math:: D_i[e] = \min_{0 \le r < U} \; D_{i-1}[e - r] + C[r, i + e],

one row follows from the one before by U shifted additions and a minimum, and only the cells from
which the end can still be reached are filled. The optimum is exact. Notebook: 14_codecslime. Leaves
out: choosing K by a threshold, streaming (the whole utterance is seen). Read next:
``reference.py``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from codec_lib.rate.costs import check_features, check_options, segment_costs

SOLVERS = ("auto", "numba", "torch")


NOT_FINITE = "z: got NaN, infinite or huge features, expected finite ones below 1e18"


class NonFiniteFeatures(ValueError):
    """Features are NaN, infinite or too large to compare."""


def schedule(
    z: Tensor,
    num_segments: int | Tensor,
    max_length: int = 4,
    cost: str = "paper",
    lengths: Tensor | None = None,
    solver: str = "auto",
) -> Tensor:
    r"""Find the segmentation with the least distortion [CodecSlime], Eqs. (2) and (3).

    Parameters
    ----------
    z
        Features, shape (B, F, D), any floating dtype; computed in float32 without gradient.
    num_segments
        K, one for all or one each, shape (B,): F / U <= K <= F for every item.
    max_length
        Longest segment U, 1 to 8 frames.
    cost
        ``"paper"``, ``"released"`` or ``"squared"``, see ``segment_costs``.
    lengths
        Frames of each item of a padded batch, shape (B,), int64; None: all F.
    solver
        ``"numba"``: compiled, one CPU thread; only costs of features elsewhere, 4 U F bytes an
        item, come to the host. ``"torch"`` stays on the device. ``"auto"`` is numba.

    Returns
    -------
    Tensor
        Frames of each segment, shape (B, K), int64, on the device of ``z``: from 1 to U, of sum F;
        0 after an item's last one. Of equal ways the one with the shorter last segment is taken.

    Raises
    ------
    TypeError, ValueError
        If the features are not floating, K segments cannot hold the frames, or a cost is not
        finite. (Where U or F is 1 nothing is compared, and NaN goes unseen.)

    Notes
    -----
    Extra memory of ``"numba"``: U F numbers and a table of 8 K (F - K) bytes for one item; one of
    more than 64 MB is computed twice instead, in 16 sqrt(K) (F - K) bytes (20 minutes at 80 Hz:
    170 MB). Features that are not float32 and contiguous are copied. Of ``"torch"``: that of
    ``segment_costs`` and K (F - K) bytes an item.

    Examples
    --------
    >>> z = torch.tensor([0.0, 0.0, 5.0, 5.0, 5.0, 9.0]).reshape(1, 6, 1)
    >>> schedule(z, num_segments=3)
    tensor([[2, 3, 1]])
    """
    check_features(z)
    check_options(max_length, cost)
    frames = _per_item("lengths", z.shape[1] if lengths is None else lengths, z.shape[0])
    segments = _per_item("num_segments", num_segments, z.shape[0])
    _check_feasible(frames, segments, z.shape[1], max_length)
    found, finite = _solve(z, frames, segments, max_length, cost, solver)
    if not finite:
        raise NonFiniteFeatures(NOT_FINITE)
    return found.to(z.device)


def num_segments_at(frames: int, frame_rate: float, wanted: float, max_length: int = 4) -> int:
    r"""Return K = ceil(F / R_S) for a wanted rate, kept within what U allows.

    Parameters
    ----------
    frames
        Frames F of the utterance.
    frame_rate, wanted
        Of the codec and of the tokens, Hz; R_S is their ratio.
    max_length
        Longest segment U.

    Raises
    ------
    ValueError
        If the wanted rate is not in (0, ``frame_rate``].

    Examples
    --------
    >>> num_segments_at(101, 80.0, 40.0)
    51
    """
    if not 0 < wanted <= frame_rate:
        raise ValueError(f"wanted: got {wanted} Hz, expected more than 0 and at most {frame_rate}")
    exact = math.ceil(frames * (wanted / frame_rate) - 1e-9)
    return min(frames, max(exact, -(-frames // max_length)))


def _per_item(name: str, value: int | Tensor, batch: int) -> Tensor:
    """Return one int64 number an item, shape (B,), on the host."""
    numbers = torch.as_tensor(value)
    if numbers.is_floating_point() or numbers.dtype == torch.bool:
        raise TypeError(f"{name}: got dtype {numbers.dtype}, expected whole numbers")
    if numbers.ndim > 1 or numbers.numel() not in (1, batch):
        raise ValueError(f"{name}: got shape {tuple(numbers.shape)}, expected one or ({batch},)")
    return numbers.to("cpu", torch.int64).expand(batch).contiguous()


def _check_feasible(frames: Tensor, segments: Tensor, width: int, max_length: int) -> None:
    """Raise ``ValueError`` unless 1 <= F_b <= F and F_b / U <= K_b <= F_b."""
    for b, (f, k) in enumerate(zip(frames.tolist(), segments.tolist(), strict=True)):
        if not 1 <= f <= width:
            raise ValueError(f"lengths: got {f} for item {b}, expected 1 to {width} frames")
        least = -(-f // max_length)
        if not least <= k <= f:
            reason = (
                f"segments of at most {max_length} hold {k * max_length}"
                if k < least
                else "no segment is shorter than a frame"
            )
            raise ValueError(
                f"num_segments: got {k} for the {f} frames of item {b}, but {reason}; expected "
                f"{least} to {f}"
            )


def _solve(
    z: Tensor, frames: Tensor, segments: Tensor, max_length: int, cost: str, solver: str
) -> tuple[Tensor, bool]:
    """Return the lengths (B, K) and whether all costs that were compared are finite."""
    if solver not in SOLVERS:
        raise ValueError(f"solver: got {solver!r}, expected one of {', '.join(SOLVERS)}")
    if solver != "torch" and z.device.type == "cpu":
        from codec_lib.rate.compiled import solve_features  # numba takes a moment to import

        features = z.detach().float().contiguous().numpy()
        items = (frames.numpy(), segments.numpy())
        found, finite = solve_features(features, *items, max_length, cost)
        return torch.from_numpy(found), finite
    costs = segment_costs(z, max_length, cost)
    real = torch.arange(1, z.shape[1]) < frames[:, None]  # frames with one before: (B, F - 1)
    if max_length > 1 and not bool(costs[:, 1, 1:][real.to(z.device)].isfinite().all()):
        return frames, False
    if solver == "torch":
        from codec_lib.rate.rows import solve_by_rows

        return solve_by_rows(costs, frames, segments), True
    from codec_lib.rate.compiled import solve_costs

    return torch.from_numpy(
        solve_costs(costs.cpu().numpy(), frames.numpy(), segments.numpy())
    ), True
