r"""Connectionist temporal classification: learn a sequence whose times are not known.

[Graves et al. 2006, CTC]: every frame names a symbol or the blank; a sequence of symbols is as
probable as all ways together to stretch it over the frames. Repeats are one symbol unless a blank
lies between them, so F frames can hold L symbols only if F >= L + number of equal neighbours.

Used by notebooks 11 and 21. Leaves out: beam search, language models. Read next:
``teachers/ctc.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from codec_lib.shapes import check_shape


def frames_needed(target: Sequence[int]) -> int:
    r"""Return the fewest frames in which CTC can say a sequence.

    Examples
    --------
    >>> frames_needed([1, 2, 2, 3])
    5
    """
    return len(target) + sum(left == right for left, right in pairwise(target))


def ctc_loss(logits: Tensor, frames: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
    r"""Return the negative log probability of the targets, per symbol, averaged over the batch.

    .. math:: L = -\frac{1}{B} \sum_b \frac{1}{L_b} \log \sum_{\pi \to y_b} \prod_f p_f(\pi_f)
              \qquad \text{[Graves et al. 2006], Eqs. (2), (3)}

    Parameters
    ----------
    logits
        Shape (B, F, V); symbol 0 is the blank.
    frames
        Frames of each item that are no padding, shape (B,).
    targets
        B sequences of symbols from 1 to V - 1.

    Returns
    -------
    Tensor
        Scalar that carries gradient. An item that does not fit its frames counts 0.

    Notes
    -----
    On CUDA torch adds up the gradient in no fixed order: two backward passes may differ in the last
    bits, and ``torch.use_deterministic_algorithms`` refuses it. On the CPU they are equal.
    """
    batch = check_shape(logits, "B F V", name="logits")["B"]
    if len(frames) != batch or len(targets) != batch:
        raise ValueError(
            f"ctc_loss: got {len(frames)} lengths and {len(targets)} targets, expected {batch}"
        )
    flat = torch.tensor([symbol for target in targets for symbol in target], dtype=torch.int64)
    lengths = torch.tensor([len(target) for target in targets])
    log_probs = functional.log_softmax(logits.float(), -1).transpose(0, 1)  # (F, B, V)
    return functional.ctc_loss(
        log_probs, flat.to(logits.device), frames.cpu(), lengths, zero_infinity=True
    )


def ctc_greedy(logits: Tensor, frames: Tensor) -> list[list[int]]:
    r"""Name the best symbol of each frame, then take repeats and blanks out.

    Parameters
    ----------
    logits
        Shape (B, F, V).
    frames
        Frames of each item that are no padding, shape (B,).

    Returns
    -------
    list[list[int]]
        B sequences of symbols.

    Examples
    --------
    >>> logits = torch.eye(3)[torch.tensor([[1, 1, 0, 1, 2, 0, 2]])]
    >>> ctc_greedy(logits, torch.tensor([6]))
    [[1, 1, 2]]
    """
    found = []
    for best, count in zip(logits.argmax(-1), frames.tolist(), strict=True):
        kept = torch.unique_consecutive(best[:count])
        found.append(kept[kept > 0].tolist())
    return found
