r"""The linear probe itself: a softmax regression on frozen features, and the answers it gives.

Fixed seed, Adam with a falling rate, features standardised on the training part. Notebook 31 asks
it for its answers frame by frame. Leaves out: scores, codes and the collecting of features
(``probes.py``).
Read next: ``probes.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


def fit_linear_probe(
    features: Tensor,
    labels: Tensor,
    num_classes: int | None = None,
    epochs: int = 12,
    seed: int = 0,
) -> Callable[[Tensor], Tensor]:
    r"""Fit the softmax regression of ``linear_probe`` and return what names the labels.

    For whoever needs its answers, frame by frame, and not only how many are right.

    Parameters
    ----------
    features
        Shape (n, D), float.
    labels
        Shape (n,), int64.
    num_classes
        Labels there are; by default up to the highest that occurs.
    epochs, seed
        As in ``linear_probe``.

    Returns
    -------
    Callable[[Tensor], Tensor]
        From features (..., D) to labels (...), int64, without gradient.

    Raises
    ------
    ValueError
        If the sizes do not fit or there are no features.
    """
    if features.ndim != 2 or len(features) != len(labels) or not len(labels):
        raise ValueError(
            f"probe: got features {tuple(features.shape)} and {len(labels)} labels, expected (n, D)"
            " and n, above 0"
        )
    classes = int(labels.max()) + 1 if num_classes is None else num_classes
    mean, scale = features.float().mean(0), features.float().std(0).clamp_min(1e-5)
    features = (features.float() - mean) / scale
    batch = min(512, max(16, len(features) // 8))
    total = max(1, epochs * -(-len(features) // batch))
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        probe = nn.Linear(features.shape[1], classes)
        optimizer = torch.optim.AdamW(probe.parameters(), 5e-3, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
        for _ in range(epochs):
            for rows in torch.randperm(len(features)).split(batch):
                loss = functional.cross_entropy(probe(features[rows]), labels[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()

    @torch.no_grad()
    def name(tested: Tensor) -> Tensor:
        return probe((tested.float() - mean) / scale).argmax(-1)

    return name
