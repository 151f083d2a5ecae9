r"""How much codes tell about what is said: mutual information from likelihoods of a CTC probe.

SLMTokBench [Zhang et al. 2024, SpeechTokenizer], §2, Eq. (1), has no public implementation. A probe
q gives the likelihood of every text given every recording's codes; the estimate is the contrast
between the right texts and all of them,

.. math:: \hat I(X; Y) = \frac{1}{N^2} \sum_{i=1}^{N} \sum_{j=1}^{N}
          \left[ \log q(y_i \mid x_i) - \log q(y_j \mid x_i) \right]

the variational form of CLUB [Cheng et al. 2020, CLUB], Eq. (7): an upper bound of the mutual
information where q is the true conditional, and no bound otherwise. It grows with the texts: it is
given in nats an utterance, as Eq. (1) stands, and in nats a symbol, divided by the mean length;
which of them is published is not stated. Beside it stands InfoNCE [van den Oord et al. 2018, CPC],
a lower bound whatever q is, from the same numbers; it cannot exceed log N.

Notebook 30. Leaves out: training the probe (``ctc_probe.py``).
Read next: ``readings.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from codec_lib.losses.ctc import frames_needed
from codec_lib.shapes import check_shape

from .results import jackknife_interval


@torch.no_grad()
def likelihood_matrix(logits: Sequence[Tensor], targets: Sequence[Sequence[int]]) -> Tensor:
    r"""Return the log-likelihood of every target given every utterance, by CTC.

    Parameters
    ----------
    logits
        Of N utterances, shape (F, V) each; symbol 0 is the blank.
    targets
        N sequences of symbols from 1 to V - 1, none empty.

    Returns
    -------
    Tensor
        Shape (N, N), float64, nats: row i the utterance, column j the text. Minus infinity where
        the text needs more frames than the utterance has.

    Raises
    ------
    ValueError
        If there are not as many targets as utterances, or one is empty.

    Notes
    -----
    One batched pass of CTC for each utterance, over all texts at once: 60 utterances of 8 s and 100
    letters take about a second on one core.
    """
    if len(logits) != len(targets) or not all(targets):
        raise ValueError(
            f"likelihoods: got {len(logits)} utterances and {sum(map(bool, targets))} texts that "
            "are not empty, expected as many"
        )
    lengths = torch.tensor([len(target) for target in targets])
    padded = torch.zeros(len(targets), int(lengths.max()), dtype=torch.int64)
    for row, target in zip(padded, targets, strict=True):
        row[: len(target)] = torch.tensor(target)
    rows = []
    for one in logits:
        frames = check_shape(one, "F V", name="logits")["F"]
        log_probs = functional.log_softmax(one.double().cpu(), -1)[:, None]  # (F, 1, V)
        rows.append(
            -functional.ctc_loss(
                log_probs.expand(-1, len(targets), -1).contiguous(),
                padded,
                torch.full((len(targets),), frames),
                lengths,
                reduction="none",
            )
        )  # (N,)
    found = torch.stack(rows)
    needed = torch.tensor([frames_needed(target) for target in targets])
    has = torch.tensor([len(one) for one in logits])
    return found.masked_fill(needed[None] > has[:, None], -math.inf)


def text_information(
    likelihoods: Tensor, lengths: Sequence[int], texts: Sequence[Sequence[int]] = ()
) -> dict[str, float]:
    r"""Estimate mutual information from a matrix of log-likelihoods; see the module.

    Parameters
    ----------
    likelihoods
        Shape (N, N), see ``likelihood_matrix``.
    lengths
        Symbols of each text.
    texts
        The N texts, so that one said in several utterances is right for each of them; all count as
        different if empty.

    Returns
    -------
    dict[str, float]
        ``mi`` (nats an utterance, Eq. (1)), ``mi_per_symbol``, ``info_nce`` (nats an utterance, at
        most log N), each with ``_low`` and ``_high`` (95 % over utterances); ``right_share``, of
        utterances whose own text is the likeliest of all by symbol; ``unfit_share`` of the pairs,
        whose text does not fit into the frames: they are left out of ``mi``, and count as
        impossible in ``info_nce``.

    Raises
    ------
    ValueError
        If there are fewer than two utterances, or one's own text does not fit.

    Notes
    -----
    Intervals are the jackknife's: each utterance is left out once, its row and its column. (The
    bootstrap is biased here: where an utterance is drawn twice, a wrong text is the right one.)

    Examples
    --------
    >>> round(text_information(torch.tensor([[0.0, -4.0], [-4.0, 0.0]]), [2, 2])["mi"], 3)
    2.0
    """
    count = check_shape(likelihoods, "N M", name="likelihoods", M=len(lengths))["N"]
    if count != len(lengths) or count < 2:
        raise ValueError(f"likelihoods: got {tuple(likelihoods.shape)}, expected (N, N), N above 1")
    table = likelihoods.double().numpy()
    sizes = np.asarray(lengths, dtype=np.float64)
    unfit = ~np.isfinite(table)
    if unfit.diagonal().any():
        raise ValueError("likelihoods: got texts that do not fit into their own utterances")
    found, without = _estimates(table, sizes), _without_each(table, sizes)
    row: dict[str, float] = {}
    for name, value in found.items():
        low, high = jackknife_interval(value, [one[name] for one in without])
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    best = np.where(unfit, -np.inf, table / sizes[None]).argmax(1)
    said = [tuple(text) for text in texts] or list(range(count))
    row["right_share"] = float(np.mean([said[i] == said[j] for i, j in enumerate(best)]))
    row["unfit_share"] = float(unfit.mean())
    return row


def information_gain(
    one: Tensor, other: Tensor, lengths: Sequence[int], spread: float = 0.0
) -> tuple[float, float, float]:
    r"""Compare two sets of tokens by the same utterances and texts, with an interval.

    An utterance that is left out is left out of both, so that what is hard for both cancels.

    Parameters
    ----------
    one, other
        Shape (N, N) each, see ``likelihood_matrix``; the same utterances in the same order.
    lengths
        Symbols of each text.
    spread
        Standard deviation of ``mi_per_symbol`` between probes that differ in the seed alone; 0
        leaves it out.

    Returns
    -------
    tuple[float, float, float]
        ``mi_per_symbol`` of ``one`` minus that of ``other``, nats, and the ends of its 95 %
        interval: of utterances by the jackknife as in ``text_information``, and of seeds, two of
        which differ by sqrt(2) ``spread``.

    Raises
    ------
    ValueError
        If the shapes differ, or there are fewer than two utterances.

    Examples
    --------
    >>> sure, blind = torch.tensor([[0.0, -4.0], [-4.0, 0.0]]), torch.zeros(2, 2)
    >>> information_gain(sure, blind, [2, 2])[0]
    1.0
    """
    count, name = len(lengths), "mi_per_symbol"
    for which, table in (("one", one), ("other", other)):
        check_shape(table, "N M", name=which, N=count, M=count)
    if count < 2:
        raise ValueError(f"lengths: got {count} texts, expected two or more")
    sizes = np.asarray(lengths, dtype=np.float64)
    pair = [table.double().numpy() for table in (one, other)]
    first, second = (_estimates(table, sizes)[name] for table in pair)
    without = zip(*(_without_each(table, sizes) for table in pair), strict=True)
    gains = [left[name] - right[name] for left, right in without]
    low, high = jackknife_interval(first - second, gains)
    half = math.hypot((high - low) / 2, 1.96 * 2**0.5 * spread)
    return first - second, first - second - half, first - second + half


def _without_each(table: np.ndarray, sizes: np.ndarray) -> list[dict[str, float]]:
    """Return the estimates without the row and the column of each utterance in turn."""
    found = []
    for left_out in range(len(sizes)):
        kept = np.delete(np.arange(len(sizes)), left_out)
        found.append(_estimates(table[np.ix_(kept, kept)], sizes[kept]))
    return found


def _estimates(table: np.ndarray, sizes: np.ndarray) -> dict[str, float]:
    """Estimate from one matrix (N, N); entries that are not finite are left out of the mean."""
    own = table.diagonal()
    contrast = np.where(np.isfinite(table), own[:, None] - table, np.nan)
    mi = float(np.nanmean(contrast))
    top = table.max(1, keepdims=True)
    partition = top[:, 0] + np.log(np.exp(table - top).mean(1))
    return {
        "mi": mi,
        "mi_per_symbol": mi / float(sizes.mean()),
        "info_nce": float(np.mean(own - partition)),
    }
