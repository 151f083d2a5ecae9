r"""What a whole utterance is about, read from its codes or features: a BiLSTM, a mean, a label.

The probe for global tasks (keyword, intent, speaker): the front and the BiLSTM of
``ctc_network.py``, the mean over frames of what comes out, and a linear map to labels. Units and
features go through the same head, so that only the input differs [Wang et al. 2024, DST study],
after DASB [Mousavi et al. 2024]. Notebook 33. Leaves out: language models as heads.
Read next: ``discrete.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .ctc_network import WIDTH, CtcProbe, padded
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
        On the tested utterances.

    Raises
    ------
    ValueError
        If there are not as many labels as utterances, or one has no frame.
    """
    for part, names in ((known, labels), (tested, expected)):
        if len(part) != len(names) or not all(len(one) for one in part):
            raise ValueError(
                f"class_probe: got {len(part)} utterances, {sum(not len(one) for one in part)} of "
                f"them without a frame, and {len(names)} labels, expected as many, none empty"
            )
    classes = int(max(labels.max(), expected.max())) + 1
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        width = known[0].shape[1]
        probe = ClassProbe(classes, num_codes, width, WIDTH, hidden, layers, vectors)
        _train_probe(probe, known, labels, steps, batch_size, learning_rate)
    with torch.no_grad():
        parts = [tested[at : at + 32] for at in range(0, len(tested), 32)]
        found = torch.cat([probe(*padded(part)).argmax(-1) for part in parts])
    return _scored(found, labels, expected)


def _train_probe(
    probe: ClassProbe,
    known: Sequence[Tensor],
    labels: Tensor,
    steps: int,
    batch_size: int,
    learning_rate: float,
) -> None:
    """Train a probe and leave it in eval mode."""
    probe.train().standardise(known)
    optimizer = torch.optim.Adam(probe.parameters(), learning_rate)
    order = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        if len(order) < batch_size:
            order = torch.cat([order, torch.randperm(len(known))])
        chosen, order = order[:batch_size], order[batch_size:]
        rate = learning_rate * min(1.0, 10 * (step + 1) / steps, (steps - step) / (0.9 * steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        logits = probe(*padded([known[index] for index in chosen.tolist()]))
        loss = functional.cross_entropy(logits, labels[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(probe.parameters(), 5.0)
        optimizer.step()
    probe.eval()
