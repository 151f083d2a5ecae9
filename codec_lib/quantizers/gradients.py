r"""Gradient estimators: how the loss reaches the encoder through a step that has no gradient.

Both return exactly the quantized vector; they differ in the backward pass only.

- straight-through (Bengio et al. 2013; van den Oord et al. 2017): the Jacobian is the identity;
- rotation trick (Fifty et al. 2024, section 4): the Jacobian is the rotation and scaling that
  carries the encoder's vector onto the entry, held constant.

Notebook: ``02_vector_quantization``. Left out: stochastic and soft assignments.
Read next: ``codebook.py``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TINY = 1e-6
"""Shorter vectors have no usable direction; the rotation falls back to straight-through."""


def straight_through(z: Tensor, z_q: Tensor) -> Tensor:
    r"""Return ``z_q`` with the gradient of ``z``: the backward pass copies it unchanged.

    .. math:: \tilde q = \mathrm{sg}[z_q] + (z - \mathrm{sg}[z])

    Written in this order the value is ``z_q`` to the last bit, so that training and decoding agree.

    Parameters
    ----------
    z, z_q
        Vectors before and after quantization, same shape.

    Returns
    -------
    Tensor
        Values of ``z_q``; gradient goes to ``z`` only.

    Examples
    --------
    >>> z = torch.tensor([0.3], requires_grad=True)
    >>> straight_through(z, torch.tensor([1.0])).backward()
    >>> z.grad
    tensor([1.])
    """
    return z_q.detach() + (z - z.detach())


def rotation_trick(z: Tensor, z_q: Tensor) -> Tensor:
    r"""Return ``z_q`` with the gradient of a rotation and scaling of ``z``.

    .. math:: \tilde q = \lambda R z, \quad \lambda = \|q\| / \|z\|, \quad
              R = I - 2 r r^\top + 2 \hat q \hat z^\top, \quad
              r = (\hat z + \hat q) / \|\hat z + \hat q\|

    [Fifty et al. 2024], section 4.2: lambda and R are constants in the backward pass, so the angle
    between gradient and vector is kept on the way from the entry to the encoder's vector.

    Parameters
    ----------
    z, z_q
        Vectors before and after quantization, shape (..., d).

    Returns
    -------
    Tensor
        Values of ``z_q``; gradient goes to ``z`` only. Where a vector is shorter than ``TINY`` it
        is the straight-through gradient.
    """
    z_norm = z.detach().norm(dim=-1, keepdim=True)  # (..., 1)
    q_norm = z_q.detach().norm(dim=-1, keepdim=True)
    z_hat = z.detach() / z_norm.clamp(min=TINY)
    q_hat = z_q.detach() / q_norm.clamp(min=TINY)
    r = F.normalize(z_hat + q_hat, dim=-1, eps=TINY)
    along_r = (z * r).sum(dim=-1, keepdim=True)
    along_z = (z * z_hat).sum(dim=-1, keepdim=True)
    turned = z - 2 * along_r * r + 2 * along_z * q_hat  # R z, without forming R
    rotated = turned * (q_norm / z_norm.clamp(min=TINY))
    usable = (z_norm > TINY) & (q_norm > TINY)
    return straight_through(torch.where(usable, rotated, z), z_q)


ESTIMATORS = {"straight_through": straight_through, "rotation": rotation_trick}
"""Estimators by the name that ``VectorQuantizer(estimator=...)`` takes."""
