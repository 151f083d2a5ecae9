r"""Many probes on the same syllables, compared item by item; shares of variance; pairs of tokens.

``SyllableProbes`` asks for tone and vowel from one input after the other (features, units,
centroids), keeps what was named, and gives accuracies with intervals over syllables: tokens of one
syllable stand or fall together. ``omega_squared`` says how much of the features a label moves,
``pair_means`` how far tokens are apart that differ in one thing only.

The protocol is that of [Osakuade and King 2024]. Notebook 34. Leaves out: fitting codebooks
(``tone.py``). Read next: ``units.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .results import bootstrap_interval
from .tone import Syllables, named_by_probe

LABELS = ("tones", "vowels")


class SyllableProbes:
    r"""Probes of tone and vowel, all on the same training and test syllables.

    Parameters
    ----------
    known, tested
        Labels are read from them, not features.
    seeds
        Of the probes: one is trained for each.
    **options
        Of ``tone.named_by_probe``: ``epochs``, ``batch_size``, ``learning_rate``.
    """

    def __init__(
        self, known: Syllables, tested: Syllables, seeds: Sequence[int] = (0,), **options: Any
    ) -> None:
        self.known, self.tested, self.seeds, self.options = known, tested, tuple(seeds), options
        self.named: dict[tuple[str, str], Tensor] = {}  # (input, label) -> (seeds, N)

    def ask(
        self,
        name: str,
        known: Tensor,
        tested: Tensor,
        sizes: Sequence[int] = (),
        labels: Sequence[str] = LABELS,
        seeds: Sequence[int] | None = None,
    ) -> None:
        r"""Train probes on one input and keep what they name.

        Parameters
        ----------
        name
            Of the input.
        known, tested
            Features (N, L, D), or units (N, L, K).
        sizes
            Of the K codebooks; empty for features.
        labels
            ``"tones"``, ``"vowels"`` or both.
        seeds
            Those of the object by default.
        """
        for label in labels:
            truth = getattr(self.known, label)
            self.named[name, label] = torch.stack(
                [
                    named_by_probe(known, truth, tested, sizes, seed=seed, **self.options)
                    for seed in seeds or self.seeds
                ]
            )

    def right(self, name: str, label: str = "tones") -> np.ndarray:
        r"""Return 100 for each test token that was named rightly, (N,), the mean over seeds."""
        hit = self.named[name, label] == getattr(self.tested, label)
        return 100 * hit.double().mean(dim=0).numpy()

    def spread(self, values: np.ndarray) -> tuple[float, float, float]:
        r"""Return the mean of values (N,) of tokens, and its 95 % interval over syllables."""
        number = np.unique(self.tested.syllables, return_inverse=True)[1]
        sums, sizes = np.bincount(number, values), np.bincount(number)
        mean = float(values.mean())
        # The mean of these is that of the tokens; their spread that of a ratio, to first order.
        return mean, *bootstrap_interval(mean + (sums - mean * sizes) / sizes.mean())

    def accuracy(self, name: str, label: str = "tones") -> tuple[float, float, float]:
        r"""Return the accuracy of an input in per cent, and its interval over syllables."""
        return self.spread(self.right(name, label))

    def gain(self, one: str, other: str, label: str = "tones") -> tuple[float, float, float]:
        r"""Return how many points the first input is above the second, and the interval."""
        return self.spread(self.right(one, label) - self.right(other, label))

    def chance(self, label: str = "tones") -> float:
        r"""Return the accuracy, in per cent, of always naming the most frequent known class."""
        common = getattr(self.known, label).bincount().argmax()
        return float(100 * (getattr(self.tested, label) == common).double().mean())

    def confusion(self, name: str, label: str = "tones") -> Tensor:
        r"""Return the confusion matrix (said, named), in per cent of what was said."""
        truth, count = getattr(self.tested, label), len(getattr(self.tested, f"{label[:-1]}_names"))
        table = torch.zeros(count, count)
        for guess in self.named[name, label]:
            table.index_put_((truth, guess), torch.tensor(1.0), accumulate=True)
        return 100 * table / table.sum(dim=1, keepdim=True).clamp_min(1)


def taken(syllables: Syllables, rows: Tensor) -> Syllables:
    r"""Return some of the tokens, by number (n,) int64."""
    parts = {name: getattr(syllables, name)[rows] for name in ("features", "tones", "vowels")}
    for name in ("speakers", "syllables"):
        parts[name] = [getattr(syllables, name)[row] for row in rows.tolist()]
    return replace(syllables, **parts)


def omega_squared(x: Tensor, labels: Sequence[Any]) -> float:
    r"""Return the share of variance that a label moves, less what chance would give.

    .. math:: \omega^2 = \frac{\sum_g n_g \lVert \bar x_g - \bar x \rVert^2 - (G - 1) s^2}
              {\sum_n \lVert x_n - \bar x \rVert^2 + s^2}, \qquad
              s^2 = \frac{1}{N - G} \sum_g \sum_{n \in g} \lVert x_n - \bar x_g \rVert^2

    Parameters
    ----------
    x
        Shape (N, ...), a token a row.
    labels
        N of them, G different ones.

    Returns
    -------
    float
        About 0 for labels that say nothing, 1 where tokens of one label are equal.

    Examples
    --------
    >>> omega_squared(torch.tensor([[0.0], [0.0], [1.0], [1.0]]), "aabb")
    1.0
    """
    rows = x.flatten(1).double() - x.flatten(1).double().mean(dim=0)
    names = {one: number for number, one in enumerate(sorted(set(labels)))}
    group = torch.nn.functional.one_hot(torch.tensor([names[one] for one in labels])).double()
    counts = group.sum(dim=0)  # (G,)
    means = (group.T @ rows) / counts[:, None]
    total, between = rows.square().sum(), (counts * means.square().sum(dim=1)).sum()
    within = (total - between) / (len(rows) - len(counts))
    return float((between - (len(counts) - 1) * within) / (total + within))


def pair_means(table: Tensor, syllables: Syllables) -> dict[str, float]:
    r"""Return the mean of a table over pairs of tokens, by what is another in them.

    Parameters
    ----------
    table
        Shape (N, N), e.g. distances.
    syllables
        The N tokens.

    Returns
    -------
    dict[str, float]
        For pairs in which only the tone is another, only the voice, only the syllable, or all
        three; NaN where there is no such pair.
    """
    what: Mapping[str, Sequence] = {
        "tone": syllables.tones.tolist(),
        "voice": syllables.speakers,
        "syllable": syllables.syllables,
    }
    other = {}
    for name, values in what.items():
        _, number = np.unique(np.array(values), return_inverse=True)
        other[name] = torch.from_numpy(number[:, None] != number)
    found = {}
    for name in what:
        rest = [~other[one] for one in what if one != name]
        found[f"only the {name}"] = float(table[other[name] & rest[0] & rest[1]].mean())
    every = other["tone"] & other["voice"] & other["syllable"]
    return {**found, "all three": float(table[every].mean())}
