r"""Commitment and codebook losses: one value per quantizer, reduced as a recipe says.

Source: [SpeechTokenizer], Eq. (7). Notebook: ``06_losses_and_discriminators``. The values
themselves come from the quantizer (``quantizers/vector.py``), each a mean over all elements. Left
out: which side gets the gradient (the quantizer's business). Read next: ``objective.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from codec_lib.shapes import check_shape


def reduce_layers(values: Tensor, reduction: str = "sum", weights: Sequence[float] = ()) -> Tensor:
    r"""Reduce per-quantizer losses to one number.

    .. math:: L_w = \sum_{i=1}^{N_q} \|z_i - z_{q_i}\|_2^2

    [SpeechTokenizer], Eq. (7): ``"sum"``. The official code takes the ``"mean"`` over quantizers.

    Parameters
    ----------
    values
        One loss per quantizer, (K,), each a mean over batch, width and frames: the squared norm of
        Eq. (7) over D.
    reduction
        ``"sum"`` or ``"mean"`` over the K quantizers in use.
    weights
        Weight of each quantizer; empty for 1.

    Returns
    -------
    Tensor
        Scalar, with gradient.

    Raises
    ------
    ValueError
        If the shape or the name is wrong, or there are not K weights.

    Examples
    --------
    >>> import torch
    >>> values = torch.tensor([1.0, 0.5])
    >>> reduce_layers(values, "sum").item(), reduce_layers(values, "mean").item()
    (1.5, 0.75)
    """
    check_shape(values, "K", name="values")
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction: got {reduction!r}, expected 'sum' or 'mean'")
    if weights:
        if len(weights) != len(values):
            raise ValueError(
                f"layer weights: got {list(weights)} for {len(values)} quantizers, expected one "
                "each; hint: recipe_overrides={'layer_weights': [...]}"
            )
        values = values * values.new_tensor(weights)
    return values.sum() if reduction == "sum" else values.mean()
