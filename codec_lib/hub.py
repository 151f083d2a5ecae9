r"""Checkpoints as safetensors: save, load by name or path, verify.

A file holds tensors only (half precision by default) and, in its metadata, the codec's name, its
config and a card as JSON: no pickle, so opening a file runs no code. Names are files of
``data/checkpoints``, whose ``checkpoints.json`` lists the sha256 of each.

An inference file leaves out the moving averages behind the codebooks; training can still go on
from it. Notebook: 00_start_here. Leaves out: optimisers and schedules (``training/checkpoints``).
Read next: ``bitstream.py``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from codec_lib.codecs.base import Codec
from codec_lib.codecs.registry import build_from_config
from codec_lib.paths import checkpoints_root, replace_text

FORMAT = "codec_lib/1"
LISTING = "checkpoints.json"
STATISTICS = ("codebook_sum", "cluster_size", "random_state")  # only training needs them


def save_codec(
    codec: Codec,
    path: str | Path,
    half: bool = True,
    metadata: Mapping[str, Any] | None = None,
    statistics: bool = False,
) -> Path:
    r"""Write a codec to a .safetensors file.

    Parameters
    ----------
    codec
        With weight norm not folded, so that training can go on from the file.
    path
        Where to; written under another name first and renamed, so never half a file.
    half
        True stores float16 (half the size; the codebooks too).
    metadata
        A card: anything JSON can hold, e.g. data, licence, steps, figures.
    statistics
        True keeps the moving averages of the codebooks.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If a weight is not finite, or weight norm was folded.
    """
    state = {
        key: value
        for key, value in codec.state_dict().items()
        if statistics or not key.endswith(STATISTICS)
    }
    described = {"name": codec.name, "config": codec.config.to_dict(), "card": dict(metadata or {})}
    with torch.device("meta"):  # names only: no weights, and nothing is drawn
        fresh = build_from_config(codec.name, codec.config.to_dict()).state_dict()
    if set(fresh) != set(codec.state_dict()):
        raise ValueError(
            f"codec: got weights {_differences(codec.state_dict(), fresh)}; "
            "expected those of its config; save before fold_weight_norm() or for_inference()"
        )
    return save_tensors(state, path, half, described)


def save_module(
    module: nn.Module,
    path: str | Path,
    half: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    r"""Write any module's state dict, e.g. a teacher's, with metadata that says how to build it.

    Parameters
    ----------
    module, path, half
        As in ``save_codec``.
    metadata
        JSON-able; ``load_module`` hands it to the function that builds the module.
    """
    return save_tensors(module.state_dict(), path, half, {"card": dict(metadata or {})})


def save_tensors(
    state: Mapping[str, Tensor], path: str | Path, half: bool, described: Mapping[str, Any]
) -> Path:
    r"""Write tensors and a description; the file appears whole or not at all.

    Parameters
    ----------
    state
        Tensors by name.
    path, half
        As in ``save_codec``.
    described
        Anything JSON can hold; ``read_tensors`` returns it.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If a value is not finite in the chosen precision.
    """
    path = Path(path)
    tensors = {}
    for key, value in state.items():
        if value.is_floating_point():
            value = value.half() if half else value
            if not bool(torch.isfinite(value).all()):
                hint = " in float16; hint: half=False" if half else ""
                raise ValueError(f"{key}: got values that are not finite{hint}")
        tensors[key] = value.detach().cpu().contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        header = {"format": FORMAT, "description": json.dumps(described, sort_keys=True)}
        save_file(tensors, partial, metadata=header)
        partial.chmod(0o644)  # safetensors leaves it readable for the owner alone
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def load(name_or_path: str | Path, fold: bool = True, device: str | torch.device = "cpu") -> Codec:
    r"""Load a codec by its name in ``data/checkpoints``, or from a path.

    Parameters
    ----------
    name_or_path
        E.g. ``"speechtokenizer-small"`` or ``"runs/1/codec.safetensors"``.
    fold
        True folds weight norm, for use; False leaves it, for training on.
    device
        Where to put it.

    Returns
    -------
    Codec
        In eval mode, float32. ``codec.card`` is the card it was saved with, ``codec.fingerprint``
        the first 16 digits of the file's sha256.

    Raises
    ------
    ValueError
        If name or path is unknown (known names are listed), the file is damaged, or its weights do
        not fit its config.
    """
    path = resolve(name_or_path)
    description, state = read_tensors(path)
    if "config" not in description or "name" not in description:
        raise ValueError(f"{path}: got no codec config in its metadata, expected a codec's file")
    codec = build_from_config(description["name"], description["config"])
    _load_state(codec, state, path)
    codec.card, codec.fingerprint = description.get("card", {}), sha256(path)[:16]
    if fold:
        codec.fold_weight_norm()
    return codec.eval().to(device)


def load_module(
    name_or_path: str | Path, build: Callable[[dict[str, Any]], nn.Module]
) -> nn.Module:
    r"""Load a module that ``save_module`` wrote.

    Parameters
    ----------
    name_or_path
        As in ``load``.
    build
        Makes the module from the metadata it was saved with.

    Returns
    -------
    nn.Module
        In eval mode, float32; ``module.fingerprint`` as in ``load`` unless its class has one.
    """
    path = resolve(name_or_path)
    description, state = read_tensors(path)
    if "card" not in description:
        raise ValueError(
            f"{path}: got a file that does not say what it is (it holds {sorted(description)}), "
            "expected a saved module. Hint: the weights of a run in training are none; export them"
        )
    module = build(description["card"])
    _load_state(module, state, path)
    if not hasattr(module, "fingerprint"):
        module.fingerprint = sha256(path)[:16]
    return module.eval()


def read_tensors(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    r"""Read a file's description and its tensors, floats as float32.

    Raises
    ------
    ValueError
        If it is no safetensors file, is damaged, or has another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: got a file that cannot be read as safetensors ({error}); "
            "is the download or copy complete?"
        ) from error
    if header.get("format") != FORMAT:
        raise ValueError(f"{path}: got format {header.get('format')!r}, expected {FORMAT!r}")
    floats = {key: value.float() for key, value in state.items() if value.is_floating_point()}
    return json.loads(header["description"]), {**state, **floats}


def read_published(path: str | Path) -> dict[str, Any]:
    r"""Read someone else's checkpoint (.pt or .safetensors) for ``codec.load_published``.

    A .pt file is unpickled with ``weights_only=True``: tensors and plain containers only.

    Raises
    ------
    ValueError
        If the file is not there or holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"path: got {path}, expected a file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in many ways; all mean the same here
        raise ValueError(f"{path}: got a file that holds more than weights ({error})") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path}: got {type(state).__name__}, expected a dict of tensors")
    return state


def resolve(name_or_path: str | Path) -> Path:
    r"""Return the file of a name or path; a shipped file's sha256 is compared with the list.

    Raises
    ------
    ValueError
        If there is no such file, or a shipped one differs from the list.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    named = checkpoints_root() / f"{name_or_path}.safetensors"
    if path.name != str(name_or_path) or not named.is_file():
        raise ValueError(
            f"checkpoint: got {str(name_or_path)!r}, expected a file or one of {known_names()}"
        )
    listed = listing().get(named.name)
    if listed is not None and listed != sha256(named):
        raise ValueError(
            f"{named}: got sha256 {sha256(named)[:16]}..., expected {listed[:16]}... as "
            f"{LISTING} lists it; the file is damaged or was replaced"
        )
    return named


def known_names() -> list[str]:
    r"""Return the names of the files in ``data/checkpoints``."""
    return sorted(path.stem for path in checkpoints_root().glob("*.safetensors"))


def known_codecs() -> list[str]:
    r"""Return those of ``known_names`` that hold a codec, which ``load`` reads."""
    folder = checkpoints_root()
    described = {n: read_tensors(folder / f"{n}.safetensors")[0] for n in known_names()}
    return [name for name, description in described.items() if "config" in description]


def listing() -> dict[str, str]:
    r"""Return the sha256 of each listed file by its name."""
    path = checkpoints_root() / LISTING
    return json.loads(path.read_text()) if path.is_file() else {}


def list_file(path: Path) -> None:
    r"""List the sha256 of one file of ``data/checkpoints``; the others stay as they are listed."""
    listed = dict(sorted({**listing(), path.name: sha256(path)}.items()))
    replace_text(checkpoints_root() / LISTING, json.dumps(listed, indent=2) + "\n")


def sha256(path: str | Path) -> str:
    r"""Return the sha256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_state(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load strictly but for the statistics that inference files leave out."""
    own = module.state_dict()
    needed = {key for key in own if not key.endswith(STATISTICS)}
    differing = [key for key in own if key in state and state[key].shape != own[key].shape]
    if differing or not needed <= set(state) or not set(state) <= set(own):
        raise ValueError(
            f"{path}: got weights that do not fit its config: {_differences(state, own)}, "
            f"differing shapes {differing[:5]}"
        )
    module.load_state_dict(dict(state), strict=False)


def _differences(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Name a few keys that are missing or unexpected."""
    missing = [key for key in expected if key not in got and not key.endswith(STATISTICS)]
    return f"missing {missing[:5]}, unexpected {[key for key in got if key not in expected][:5]}"
