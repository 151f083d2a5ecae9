r"""Draw the next code: temperature, the k likeliest, the smallest set that holds a share p.

Every item of a batch has a generator of its own, so what it draws does not depend on the others.
Nucleus sampling: [Holtzman et al. 2020]. Notebook: 40. Leaves out: beam search, penalties for
repetition. Read next: ``generation.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FRAME_RATE = 50  # Hz, of the frames that a length guard counts


@dataclass(frozen=True)
class Sampling:
    r"""How codes are drawn.

    Attributes
    ----------
    temperature
        Logits are divided by it; 0 takes the likeliest code.
    top_k
        Only the k likeliest codes; 0 takes all.
    top_p
        Of these only the likeliest that together have this probability, the first one always.
    frames_per_symbol
        Length guard: frames of 20 ms said at most for each symbol of the text to be said.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    frames_per_symbol: float = 16.0

    def __post_init__(self) -> None:
        ranges = {
            "temperature": self.temperature >= 0,
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "frames_per_symbol": self.frames_per_symbol > 0,
        }
        for name, fits in ranges.items():
            if not fits:
                expected = "above 0 and at most 1" if name == "top_p" else "at least 0"
                expected = "above 0" if name == "frames_per_symbol" else expected
                raise ValueError(f"{name}: got {getattr(self, name)}, expected {expected}")


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    r"""Return what codes are drawn with.

    Parameters
    ----------
    logits
        Shape (B, V).
    sampling
        How.

    Returns
    -------
    Tensor
        Shape (B, V), float32, each row adding up to 1.

    Examples
    --------
    >>> probabilities(torch.tensor([[0.0, 1.0, 2.0]]), Sampling(top_k=1)).tolist()
    [[0.0, 0.0, 1.0]]
    """
    logits = logits.float()
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.softmax(-1).sort(descending=True)
        before = ordered.cumsum(-1) - ordered  # probability of all that are likelier
        unwanted = torch.zeros_like(before >= sampling.top_p)
        unwanted.scatter_(1, order, before >= sampling.top_p)
        logits = logits.masked_fill(unwanted, -torch.inf)
    return logits.softmax(-1)


def nearest_codes(logits: Tensor, vectors: Tensor, temperature: float = 0.3) -> Tensor:
    r"""Return the codes whose vectors are nearest to the expected one.

    .. math:: \hat c = \arg\min_j \Bigl\lVert v_j - \sum_i p_i v_i \Bigr\rVert

    No other code has a smaller expected squared error in what is decoded. Where hundreds of codes
    are about equally likely, the likeliest is hardly ever right, and what it adds is noise. The
    temperature is a choice: at 1 expectations shrink and voices with them, at 0 the likeliest is
    taken.

    Parameters
    ----------
    logits
        Shape (..., N).
    vectors
        What codes stand for, (N, D).
    temperature
        Of the probabilities p, above 0.

    Returns
    -------
    Tensor
        Shape (...), int64.

    Examples
    --------
    >>> logits = torch.tensor([1.0, 0.9, 0.9])  # one code on the left, two on the right
    >>> nearest_codes(logits, torch.tensor([[-1.0], [0.9], [1.0]])).item()
    1
    """
    expected = (logits.float() / temperature).softmax(-1) @ vectors
    found = torch.cdist(expected.reshape(-1, vectors.shape[1]), vectors).argmin(-1)
    return found.view(logits.shape[:-1])


def draw_codes(logits: Tensor, sampling: Sampling, generators: Sequence[torch.Generator]) -> Tensor:
    r"""Draw a code for each item.

    Parameters
    ----------
    logits
        Shape (B, V).
    sampling
        How.
    generators
        One on the CPU for each item; each gives one number.

    Returns
    -------
    Tensor
        Shape (B,), int64.
    """
    numbers = [torch.rand((), generator=one, dtype=torch.float64) for one in generators]
    cumulated = probabilities(logits, sampling).double().cumsum(-1)  # inverse of the distribution
    level = torch.stack(numbers).to(logits.device)[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, level, right=True)[:, 0].clamp_max(logits.shape[-1] - 1)
