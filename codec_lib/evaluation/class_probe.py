r"""What a whole utterance is about, read from its codes or features: a BiLSTM, a mean, a label.

The probe for global tasks (keyword, intent, speaker): the front and the BiLSTM of
``ctc_network.py``, the mean over frames of what comes out, and a linear map to labels. Units and
features go through the same head, so that only the input differs [Wang et al. 2024, DST study],
after DASB [Mousavi et al. 2024]. Notebook 33. Leaves out: language models as heads.
Read next: ``discrete.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .ctc_network import WIDTH, CtcProbe, padded, train_probe
from .probes import ProbeResult, _scored


class ClassProbe(CtcProbe):
    r"""A ``CtcProbe`` whose logits are averaged over the frames of an utterance."""

    def forward(self, inputs: Tensor, frames: Tensor) -> Tensor:
        r"""Map codes (B, F, K) or features (B, F, D), and lengths (B,), to logits (B, classes)."""
        logits = super().forward(inputs, frames)  # (B, F, classes)
        inside = torch.arange(logits.shape[1])[None] < frames[:, None]
        return (logits * inside[..., None]).sum(1) / frames[:, None]


def class_probe(
    known: Sequence[Tensor],
    labels: Tensor,
    tested: Sequence[Tensor],
    expected: Tensor,
    num_codes: Sequence[int] | None = None,
    vectors: Sequence[Tensor] | None = None,
    steps: int = 400,
    batch_size: int = 16,
    hidden: int = 128,
    layers: int = 1,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> ProbeResult:
    r"""Train a probe to label utterances; test it on others.

    Parameters
    ----------
    known, tested
        Codes (F, K) int64 or features (F, D) float of each utterance.
    labels, expected
        Shape (N,), int64.
    num_codes, vectors
        As in ``CtcProbe``; None for features.
    steps, batch_size, learning_rate
        Of Adam; the rate rises over a tenth of the steps and falls to 0.
    hidden, layers
        Of the BiLSTM, in each direction.
    seed
        Of weights and batches.

    Returns
    -------
    ProbeResult
        On the tested part.

    Raises
    ------
    ValueError
        If there are not as many labels as utterances, or one has no frame.
    """
    _check_labels(known, labels)
    _check_labels(tested, expected)
    classes = int(max(labels.max(), expected.max())) + 1
    options = {"num_codes": num_codes, "vectors": vectors, "steps": steps, "seed": seed}
    options |= {"batch_size": batch_size, "hidden": hidden, "layers": layers}
    probe = fit_class_probe(known, labels, classes, learning_rate=learning_rate, **options)
    return _scored(name_labels(probe, tested), labels, expected)


def fit_class_probe(
    known: Sequence[Tensor],
    labels: Tensor,
    classes: int,
    num_codes: Sequence[int] | None = None,
    vectors: Sequence[Tensor] | None = None,
    steps: int = 400,
    batch_size: int = 16,
    hidden: int = 128,
    layers: int = 1,
    learning_rate: float = 3e-3,
    seed: int = 0,
    curve: list[float] | None = None,
) -> ClassProbe:
    r"""Train a probe to label utterances.

    Parameters
    ----------
    known, labels, num_codes, vectors, steps, batch_size, hidden, layers, learning_rate, seed
        As in ``class_probe``.
    classes
        How many labels there are.
    curve
        Filled with the loss of every step, nats.

    Returns
    -------
    ClassProbe
        In eval mode.

    Raises
    ------
    ValueError
        If there are not as many labels as utterances, or one has no frame.
    """
    _check_labels(known, labels)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        probe = ClassProbe(classes, num_codes, known[0].shape[1], WIDTH, hidden, layers, vectors)
        probe.standardise(known)
        batches = _batches(len(known), batch_size)

        def loss_of() -> Tensor:
            chosen = next(batches)
            logits = probe(*padded([known[index] for index in chosen.tolist()]))
            return functional.cross_entropy(logits, labels[chosen])

        train_probe(probe, loss_of, steps, learning_rate, curve=curve)
    return probe


@torch.no_grad()
def name_labels(probe: ClassProbe, inputs: Sequence[Tensor]) -> Tensor:
    r"""Let a probe label utterances, codes (F, K) or features (F, D) each; shape (N,), int64."""
    parts = [inputs[at : at + 32] for at in range(0, len(inputs), 32)]
    return torch.cat([probe(*padded(part)).argmax(-1) for part in parts])


def _batches(count: int, size: int) -> Iterator[Tensor]:
    """Yield numbers below ``count``, ``size`` at a time, all of them before any comes again."""
    order = torch.empty(0, dtype=torch.int64)
    while True:
        while len(order) < size:
            order = torch.cat([order, torch.randperm(count)])
        yield order[:size]
        order = order[size:]


def _check_labels(part: Sequence[Tensor], labels: Tensor) -> None:
    """Raise ValueError unless every utterance has a frame and a label."""
    empty = sum(not len(one) for one in part)
    if len(part) != len(labels) or empty:
        raise ValueError(
            f"class_probe: got {len(part)} utterances, {empty} of them without a frame, and "
            f"{len(labels)} labels, expected as many, none empty"
        )
