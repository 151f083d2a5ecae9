r"""Load checkpoints in the key layout that EnCodec's descendants share.

SpeechTokenizer and DM-Codec publish the same 166 keys (192 with Snake): ``encoder.model.N``,
``decoder.model.N``, ``quantizer.vq.layers.k._codebook`` and a linear projection. Every published
key is computed from our own module tree, so a key too many or too few is found and named.

Notebook: 10_speechtokenizer. Leaves out: optimiser states of trainers. Read next: ``hub.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from codec_lib.blocks.activations import Snake
from codec_lib.blocks.conv import Conv1d, ConvTranspose1d
from codec_lib.blocks.recurrent import SkipLSTM
from codec_lib.quantizers.vector import VectorQuantizer

WEIGHT_NORM = {  # our key -> published key; the old weight norm called them g and v
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}
CODEBOOK = {
    "codebook": "embed",
    "codebook_sum": "embed_avg",
    "cluster_size": "cluster_size",
    "initialized": "inited",
}
# Keys that no published file has; the counts are those of codebooks that learn by gradient.
OURS_ALONE = r"(random_state|cluster_size|initialized)$|^(transformer|units|text)\."
SHOWN = 5  # keys that an error lists of each kind


def load_encodec_layout(
    codec: nn.Module, state_dict: Mapping[str, Any], renamed: Mapping[str, str]
) -> None:
    r"""Load a published state dict into a codec on the SEANet backbone, strictly, in place.

    Parameters
    ----------
    codec
        Has ``encoder``, ``decoder`` (SEANet, weight norm not folded), ``quantizer``.
    state_dict
        Bare, or a trainer's dict with the key ``"generator"``.
    renamed
        Further modules by name here and name there, e.g. ``{"semantic": "transform"}``.

    Raises
    ------
    ValueError
        If keys are missing or unexpected or a shape differs, with their names.
    """
    state = state_dict.get("generator", state_dict)
    load_named(codec, published_names(codec, renamed), state)


def load_named(codec: nn.Module, wanted: Mapping[str, str], state: Mapping[str, Any]) -> None:
    r"""Load published weights by name, strictly, in place.

    Parameters
    ----------
    codec
        Any module.
    wanted
        Our state-dict key -> published key, for every published key.
    state
        Published key -> tensor. What is ours alone keeps its weights: a transformer block, the
        heads of pseudo-labels and of a text teacher.

    Raises
    ------
    ValueError
        If keys are missing or unexpected or a shape differs, with their names.
    """
    own = codec.state_dict()
    _check_state(wanted, own, state)
    left_out = [key for key in own if key not in wanted and not re.search(OURS_ALONE, key)]
    if left_out:
        raise ValueError(f"codec: got {', '.join(left_out)}, which no published file has")
    values = {key: torch.as_tensor(state[name]) for key, name in wanted.items()}
    loaded = {key: value.reshape(own[key].shape) for key, value in values.items()}
    codec.load_state_dict(loaded, strict=False)


def published_names(codec: nn.Module, renamed: Mapping[str, str]) -> dict[str, str]:
    r"""Return our state-dict key -> published key, for every published key.

    Parameters
    ----------
    codec, renamed
        As in ``load_encodec_layout``.
    """
    names: dict[str, str] = {}
    codebooks = 0
    for path, module in codec.named_modules():
        published = re.sub(r"^(encoder|decoder)\.layers\.", r"\1.model.", path)
        if isinstance(module, Conv1d):
            names |= _conv_names(module, path, f"{published}.conv.conv")
        elif isinstance(module, ConvTranspose1d):
            names |= _conv_names(module, path, f"{published}.convtr.convtr")
        elif isinstance(module, SkipLSTM | Snake) or path in renamed:
            published = renamed.get(path, published)
            names |= {f"{path}.{key}": f"{published}.{key}" for key in module.state_dict()}
        elif isinstance(module, VectorQuantizer):
            layer = f"quantizer.vq.layers.{codebooks}._codebook"
            names |= {f"{path}.{key}": f"{layer}.{there}" for key, there in CODEBOOK.items()}
            codebooks += 1
    return names


def _conv_names(module: nn.Module, path: str, published: str) -> dict[str, str]:
    """Return the keys of a convolution, its weight norm as g and v."""
    keys = module.conv.state_dict()
    return {f"{path}.conv.{key}": f"{published}.{WEIGHT_NORM.get(key, key)}" for key in keys}


def _check_state(
    wanted: Mapping[str, str], own: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Raise with names where a state dict does not have exactly the wanted keys and sizes."""
    missing = sorted(set(wanted.values()) - set(state))
    unexpected = sorted(set(state) - set(wanted.values()))
    differing = [
        f"{name} has {tuple(state[name].shape)}, expected {tuple(own[key].shape)}"
        for key, name in wanted.items()
        if name in state
        and tuple(state[name].shape) != tuple(own[key].shape)
        and not (state[name].numel() == 1 == own[key].numel())
    ]
    problems = [
        f"{len(found)} {kind} ({', '.join(found[:SHOWN])}{', ...' if len(found) > SHOWN else ''})"
        for kind, found in (
            ("missing keys", missing),
            ("unexpected keys", unexpected),
            ("differing shapes", differing),
        )
        if found
    ]
    if problems:
        raise ValueError(
            f"state_dict: got {'; '.join(problems)}; expected the published layout of this config "
            "(scale='paper': backbone 'seanet' or 'bigcodec', activation, weight norm not folded)"
        )
