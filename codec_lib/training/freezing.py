r"""Parts of a codec that a run leaves as they are: how they are held still, and that they were.

A frozen part is in eval mode, so that codebooks neither start nor move nor revive, its parameters
take no gradient and are not given to the optimiser, and its tensors are compared bit for bit with
those of the run's first step before every checkpoint. DS-Codec's second stage freezes encoder and
quantizer. Left out: parts that thaw during a run; a stage of its own does that.

Read next: ``run.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import nn


class FrozenPartChanged(ValueError):
    """A part that a run should leave alone is not what it was; the message names the tensors."""


class FrozenParts:
    r"""Freeze parts of a codec for the length of a run.

    Parameters
    ----------
    codec
        In training mode, with the weights it is to keep; changed in place.
    names
        Its modules, e.g. ``("encoder", "quantizer")`` or ``("decoder.blocks",)``.

    Attributes
    ----------
    digests
        Tensor name to 16 digits of the sha256 of its bytes.

    Raises
    ------
    ValueError
        If the codec has no such module, or nothing is left to train.

    Examples
    --------
    >>> codec = nn.ModuleDict({"encoder": nn.Linear(1, 1), "decoder": nn.Linear(1, 1)})
    >>> parts = FrozenParts(codec, ("encoder",))
    >>> codec.encoder.weight.requires_grad, codec.encoder.training, codec.decoder.training
    (False, False, True)
    >>> parts.check(codec)
    """

    def __init__(self, codec: nn.Module, names: Sequence[str]) -> None:
        self.names = tuple(names)
        hold_still(codec, self.names)
        self.digests = self._digests(codec)

    def check(self, codec: nn.Module, what: str = "the codec") -> None:
        r"""Compare the frozen parts bit for bit with what they were.

        Parameters
        ----------
        codec
            The codec that was frozen, or a copy of it.
        what
            What the message calls it.

        Raises
        ------
        FrozenPartChanged
            If a value, shape or type of any of their tensors differs.
        """
        now = self._digests(codec)
        changed = [name for name, digest in self.digests.items() if now.get(name) != digest]
        if changed:
            raise FrozenPartChanged(
                f"freeze: {len(changed)} tensors of {', '.join(self.names)} have changed in "
                f"{what}, e.g. {changed[0]}; expected the same bits as at the start of the run"
            )

    def _digests(self, codec: nn.Module) -> dict[str, str]:
        """Return the digest of every tensor of the frozen parts, by its name in the codec."""
        prefixes = tuple(f"{name}." for name in self.names)
        state = codec.state_dict().items()
        return {key: _digest(value) for key, value in state if key.startswith(prefixes)}


def hold_still(codec: nn.Module, names: Sequence[str]) -> None:
    r"""Put parts of a codec in eval mode and let them take no gradient; see ``FrozenParts``."""
    for name in names:
        find_part(codec, name).eval().requires_grad_(False)
    if not any(parameter.requires_grad for parameter in codec.parameters()):
        raise ValueError(f"freeze: got {list(names)}, expected something left to train")


def find_part(codec: nn.Module, name: str) -> nn.Module:
    """Return a module of a codec by its name, or raise ValueError with those that are there."""
    parts = dict(codec.named_modules())
    if not name or name not in parts:
        there = ", ".join(child for child, _ in codec.named_children())
        raise ValueError(f"freeze: got {name!r}, expected a part of the codec, e.g. {there}")
    return parts[name]


def _digest(value: torch.Tensor) -> str:
    """Return 16 digits that stand for type, shape and bytes of a tensor."""
    plain = value.detach().cpu().contiguous()
    described = f"{plain.dtype} {tuple(plain.shape)}".encode()
    data = plain.reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(described + data.tobytes()).hexdigest()[:16]
