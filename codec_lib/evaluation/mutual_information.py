r"""How much codes tell about what is said: mutual information from likelihoods of a CTC probe.

SLMTokBench [Zhang et al. 2024, SpeechTokenizer], §4, Eq. (1), has no public implementation. A probe
q gives the likelihood of every text given every recording's codes; the estimate is the contrast
between the right texts and all of them,

.. math:: \hat I(X; Y) = \frac{1}{N^2} \sum_{i=1}^{N} \sum_{j=1}^{N}
          \left[ \log q(y_i \mid x_i) - \log q(y_j \mid x_i) \right]

the variational form of CLUB [Cheng et al. 2020, CLUB], Eq. (7): an upper bound of the mutual
information where q is the true conditional, and no bound otherwise. It grows with the texts: it is
given in nats an utterance, as published, and in nats a symbol, divided by the mean length. Beside
it stands InfoNCE [van den Oord et al. 2018, CPC], a lower bound whatever q is, from the same
numbers; it cannot exceed log N.

No notebook yet. Leaves out: training the probe (``ctc_probe.py``).
Read next: ``slmtokbench.py``.
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
    likelihoods: Tensor,
    lengths: Sequence[int],
    resamples: int = 500,
    seed: int = 0,
) -> dict[str, float]:
    r"""Estimate mutual information from a matrix of log-likelihoods; see the module.

    Parameters
    ----------
    likelihoods
        Shape (N, N), see ``likelihood_matrix``.
    lengths
        Symbols of each text.
    resamples, seed
        Of the bootstrap over utterances.

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

    Examples
    --------
    >>> round(text_information(torch.tensor([[0.0, -4.0], [-4.0, 0.0]]), [2, 2])["mi"], 3)
    2.0
    """
    count = check_shape(likelihoods, "N M", name="likelihoods", M=len(lengths))["N"]
    if count != len(lengths) or count < 2:
        raise ValueError(f"likelihoods: got {tuple(likelihoods.shape)}, expected (N, N), N above 1")
    table = likelihoods.double().numpy().copy()
    sizes = np.asarray(lengths, dtype=np.float64)
    unfit = ~np.isfinite(table)
    if unfit.diagonal().any():
        raise ValueError("likelihoods: got texts that do not fit into their own utterances")
    found = _estimates(table, sizes)
    draws = np.random.default_rng(seed).integers(count, size=(resamples, count))
    several = [_estimates(table[np.ix_(draw, draw)], sizes[draw]) for draw in draws]
    row: dict[str, float] = {}
    for name, value in found.items():
        low, high = np.nanpercentile([one[name] for one in several], [2.5, 97.5])
        row |= {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}
    best = np.where(unfit, -np.inf, likelihoods.double().numpy() / sizes[None]).argmax(1)
    row["right_share"] = float(np.mean(best == np.arange(count)))
    row["unfit_share"] = float(unfit.mean())
    return row


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
