r"""The network of the CTC probe: embedded codes or mapped features, a BiLSTM, symbols.

SLMTokBench has two layers of 1024 units [Zhang et al. 2024, SpeechTokenizer], §4. Embeddings of
codes start at random, from k-means centroids or from the codec's own codebooks; several codebooks
are added up, here divided by the root of their number, so that one and eight enter with the same
variance. Notebooks 30 and 33. Leaves out: what is read. Read next: ``ctc_probe.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 128  # channels into the BiLSTM
DROPOUT = 0.2  # of what enters and leaves the BiLSTM: an hour of speech is learnt by heart without


class BiLstm(nn.Module):
    r"""A bidirectional LSTM for padded batches: the second direction begins at each item's end.

    The same as torch's on packed sequences, whose backward pass takes four times as long on a CPU.

    Parameters
    ----------
    width, hidden, layers
        Channels in; units in each direction; layers.
    """

    def __init__(self, width: int, hidden: int, layers: int) -> None:
        super().__init__()
        widths = [width] + [2 * hidden] * (layers - 1)
        self.ahead = nn.ModuleList(nn.LSTM(one, hidden, batch_first=True) for one in widths)
        self.back = nn.ModuleList(nn.LSTM(one, hidden, batch_first=True) for one in widths)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        r"""Map (B, F, width) and lengths (B,) to (B, F, 2 hidden)."""
        place = torch.arange(x.shape[1])
        mirror = torch.where(place < frames[:, None], frames[:, None] - 1 - place, place)[..., None]
        for ahead, back in zip(self.ahead, self.back, strict=True):
            turned = back(x.gather(1, mirror.expand(x.shape)))[0]
            x = torch.cat([ahead(x)[0], turned.gather(1, mirror.expand(turned.shape))], -1)
        return x


class CtcProbe(nn.Module):
    r"""Embeddings of codes or a linear map of features, a BiLSTM, and a linear map to symbols.

    Parameters
    ----------
    num_symbols
        Symbols V with the blank.
    num_codes
        Size of each codebook; None for features.
    dim
        Width of the features, where there are no codes.
    width, hidden, layers
        Of the front; of the BiLSTM in each direction; its layers.
    vectors
        For each codebook what to start its embedding from, (N, D), D the same for all; by default
        random ones of variance 1, whose sum over K codebooks is divided by sqrt(K). They are
        trained on.
    """

    def __init__(
        self,
        num_symbols: int,
        num_codes: Sequence[int] | None,
        dim: int = 0,
        width: int = WIDTH,
        hidden: int = 128,
        layers: int = 1,
        vectors: Sequence[Tensor] | None = None,
    ) -> None:
        super().__init__()
        if vectors is not None and [len(one) for one in vectors] != list(num_codes or ()):
            sizes = [len(one) for one in vectors]
            raise ValueError(f"vectors: got tables of {sizes} rows, expected {num_codes}")
        dim = vectors[0].shape[1] if vectors is not None else dim if num_codes is None else width
        self.tables = nn.ModuleList(nn.Embedding(size, dim) for size in num_codes or ())
        for table, given in zip(self.tables, vectors or (), strict=False):
            table.weight.data.copy_(given)
        self.front = nn.Linear(dim, width) if num_codes is None or vectors is not None else None
        self.register_buffer("mean", torch.zeros(dim))
        spread = len(self.tables) ** 0.5 if self.front is None else 1.0  # of K random vectors' sum
        self.register_buffer("scale", torch.full((dim,), spread))
        self.lstm = BiLstm(width, hidden, layers)
        self.to_symbol = nn.Linear(2 * hidden, num_symbols)

    def forward(self, inputs: Tensor, frames: Tensor) -> Tensor:
        r"""Map codes (B, F, K) or features (B, F, D), and lengths (B,), to logits (B, F, V)."""
        x = inputs
        if len(self.tables):
            x = sum(table(inputs[..., k]) for k, table in enumerate(self.tables))
        x = (x - self.mean) / self.scale
        x = x if self.front is None else self.front(x)  # (B, F, width)
        x = functional.dropout(x, DROPOUT, self.training)
        x = functional.dropout(self.lstm(x, frames), DROPOUT, self.training)
        return self.to_symbol(x)

    @torch.no_grad()
    def standardise(self, inputs: Sequence[Tensor]) -> None:
        r"""Measure mean and scale of what enters the front, over the frames of utterances."""
        if self.front is None:
            return  # random embeddings are known to have mean 0 and variance K
        rows = torch.cat(list(inputs))
        if len(self.tables):
            rows = sum(table(rows[:, k]) for k, table in enumerate(self.tables))
        self.mean.copy_(rows.mean(0))
        self.scale.copy_(rows.std(0).clamp_min(1e-5))


def padded(inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    r"""Stack (F, C) to (B, F, C), filled up with zeros; return it and the lengths (B,)."""
    frames = torch.tensor([len(one) for one in inputs])
    return nn.utils.rnn.pad_sequence(list(inputs), batch_first=True), frames


def train_probe(
    probe: nn.Module,
    loss_of: Callable[[], Tensor],
    steps: int,
    learning_rate: float,
    log: Callable[[str], None] | None = None,
    curve: list[float] | None = None,
) -> float:
    r"""Train a probe by Adam and leave it in eval mode.

    Parameters
    ----------
    probe
        What learns.
    loss_of
        Function that draws the next batch and returns its loss.
    steps, learning_rate
        The rate rises over a tenth of the steps and falls to 0; gradients are cut at norm 5.
    log
        Called with a line every 100 steps.
    curve
        Filled with the loss of every step.

    Returns
    -------
    float
        Mean loss over the last tenth of the steps.
    """
    optimizer = torch.optim.Adam(probe.parameters(), learning_rate)
    losses = [] if curve is None else curve
    probe.train()
    for step in range(steps):
        rate = learning_rate * min(1.0, 10 * (step + 1) / steps, (steps - step) / (0.9 * steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(probe.parameters(), 5.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if log is not None and (step + 1) % 100 == 0:
            log(f"step {step + 1:5d}/{steps}  loss {np.mean(losses[-100:]):.3f}")
    probe.eval()
    return float(np.mean(losses[-max(1, steps // 10) :]))
