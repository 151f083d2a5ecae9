r"""Files of Spin and DC-Spin: all weights, or only what learnt beside the name of the teacher.

No paper. Leaves out: files of other teachers (``hubert.py``). Read next: ``spin_training.py``.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .hubert import HubertConfig, SmallHubert
from .spin import Spin, SpinSizes


def save_spin(
    spin: Spin,
    path: str | Path,
    card: dict[str, Any] | None = None,
    base: str = "",
    auxiliary: bool = False,
) -> Path:
    r"""Write a Spin to a .safetensors file in half precision.

    Parameters
    ----------
    spin, path
        What to write, and the file.
    card
        Anything JSON can hold that says how it was made.
    base
        Name or file of the teacher that was tuned: then only what learnt is written, and loading
        needs the teacher. A ``SmallHubert`` may be written whole, without it.
    auxiliary
        True keeps the auxiliary codes.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If ``base`` is missing.
    """
    from codec_lib import hub

    spin = spin if auxiliary else spin.without_auxiliary()
    state, described = spin.state_dict(), {**(card or {}), "spin": asdict(spin.config)}
    if isinstance(spin.teacher, SmallHubert):
        described["hubert"] = asdict(spin.teacher.config)
        if base:
            kept = _base_weights(base, spin.base_fingerprint)
            state = {key: v for key, v in state.items() if not _is_same(v, kept.get(key))}
            described["base"] = base
    elif not base:
        raise ValueError(
            "base: got '', expected the name or file of the teacher, e.g. 'hubert_base': "
            "only what learnt is written"
        )
    else:
        parts = set(spin.trained_parts())
        names = tuple(f"{name}." for name, part in spin.named_modules() if part in parts)
        names += ("teacher.feature_mean", "teacher.feature_scale")  # measured anew, where there are
        state = {key: value for key, value in state.items() if key.startswith(names)}
        described["base"] = base
    described["base_fingerprint"] = spin.base_fingerprint
    return hub.save_tensors(state, path, True, {"card": described})


def load_spin(name_or_path: str | Path) -> Spin:
    r"""Load a Spin by name (``data/checkpoints``) or path, in eval mode, without gradient.

    Raises
    ------
    ValueError
        If the file holds no Spin, its weights do not fit, or its teacher is not the one it was
        made from.
    """
    from codec_lib import hub

    from . import load_teacher

    path = hub.resolve(name_or_path)
    described, state = hub.read_tensors(path)
    card = described.get("card", {})
    if "spin" not in card:
        raise ValueError(f"{path}: got a file that holds no Spin, expected one of save_spin")
    small, known = "hubert" in card, card.get("base_fingerprint", "")
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced below
        teacher = (
            SmallHubert(HubertConfig(**card["hubert"])) if small else load_teacher(card["base"])
        )
    if not small and teacher.fingerprint != known:
        raise ValueError(_other_teacher(card["base"], teacher.fingerprint, known))
    spin = Spin(teacher, SpinSizes(**card["spin"]))
    kept = spin.state_dict()
    if small:
        kept = _base_weights(card["base"], known) if "base" in card else {}
        kept = {key: value for key, value in kept.items() if key in spin.state_dict()}
    try:
        spin.load_state_dict({**kept, **state})
    except RuntimeError as error:
        raise ValueError(f"{path}: got weights that do not fit its config: {error}") from error
    spin.base_fingerprint = known
    spin.normalize_codes()  # half precision has moved them a little
    return spin.eval().requires_grad_(False)


def _base_weights(base: str, fingerprint: str) -> dict[str, Tensor]:
    """Return the weights of the small teacher that was tuned, by their names in a Spin."""
    from . import load_teacher

    teacher = load_teacher(base)
    if teacher.fingerprint != fingerprint:
        raise ValueError(_other_teacher(base, teacher.fingerprint, fingerprint))
    return {f"teacher.{key}": value for key, value in teacher.state_dict().items()}


def _other_teacher(base: str, got: str, expected: str) -> str:
    """Say that a teacher is not the one that was tuned."""
    return (
        f"base: got a teacher {base!r} with fingerprint {got}, expected {expected}, which was tuned"
    )


def _is_same(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and torch.equal(one.half(), other.half())
