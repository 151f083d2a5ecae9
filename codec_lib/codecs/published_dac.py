r"""Load checkpoints in the key layouts of DAC, BigCodec and CodecSlime, whose networks are one.

DAC publishes ``encoder.block.N``, ``decoder.model.N`` and ``quantizer.quantizers.k``; BigCodec two
state dicts, ``CodecEnc`` with ``block.N`` and ``generator`` with ``model.N`` and
``quantizer.layers.k``, and with every activation its constant low-pass filters, which are compared
with ours; CodecSlime one, with ``encoder.block.N`` and all else in ``decoder``. Leaves out:
discriminators, which none publishes. Read next: ``codecs/chunked.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from codec_lib.blocks.activations import Snake
from codec_lib.blocks.antialias import AntiAliasedSnakeBeta, kaiser_lowpass
from codec_lib.blocks.conv import Conv1d, ConvTranspose1d
from codec_lib.blocks.recurrent import SkipLSTM
from codec_lib.codecs.published import WEIGHT_NORM, load_named
from codec_lib.quantizers.scalar import FiniteScalarQuantizer
from codec_lib.quantizers.vector import VectorQuantizer

Layout = Mapping[str, str]
DAC_LAYOUT: Layout = {
    "encoder.layers": "encoder.block",
    "decoder.layers": "decoder.model",
    "quantizer": "quantizer.quantizers",
    "codebook": "codebook.weight",
}
BIGCODEC_LAYOUT: Layout = {
    "encoder.layers": "CodecEnc.block",
    "decoder.layers": "generator.model",
    "quantizer": "generator.quantizer.layers",
    "codebook": "_codebook.weight",
}
CODECSLIME_LAYOUT: Layout = {
    "encoder.layers": "encoder.block",
    "decoder.layers": "decoder.model",
    "quantizer": "decoder.quantizer.layers",
    "codebook": "_codebook.weight",
    "in_proj": "decoder.quantizer.project_in",  # of the finite scalar form
    "out_proj": "decoder.quantizer.project_out",
}
BIGCODEC_PARTS = ("CodecEnc", "generator")
FILTERS = ("upsample.filter", "downsample.lowpass.filter")  # of every activation of BigCodec


def load_dac_layout(codec: nn.Module, state_dict: Mapping[str, Any]) -> None:
    r"""Load a published DAC into a codec on the BigCodec backbone, strictly, in place.

    Parameters
    ----------
    codec
        Has ``encoder``, ``decoder`` and ``quantizer``, weight norm not folded.
    state_dict
        Bare, or a release file, which holds it as ``"state_dict"``.

    Raises
    ------
    ValueError
        If keys are missing or unexpected or a shape differs, with their names.
    """
    state = dict(state_dict.get("state_dict", state_dict))
    for name, value in state.items():
        if name.startswith("quantizer") and value.ndim == 3:
            state[name] = value.squeeze(2)  # published as convolutions k 1, here linear
    load_named(codec, layout_names(codec, DAC_LAYOUT), state)


def load_bigcodec_layout(codec: nn.Module, state_dict: Mapping[str, Any]) -> None:
    r"""Load the published BigCodec into a codec on its backbone, strictly, in place.

    Parameters
    ----------
    codec
        Has ``encoder``, ``decoder`` and ``quantizer``, weight norm not folded.
    state_dict
        The published dict of two state dicts, ``"CodecEnc"`` and ``"generator"``.

    Raises
    ------
    ValueError
        If a part or keys are missing, keys are unexpected, a shape differs, or a filter is not the
        one that the network is computed with.
    """
    if set(state_dict) != set(BIGCODEC_PARTS):
        raise ValueError(
            f"state_dict: got the keys {sorted(state_dict)[:5]}, expected two state dicts, "
            f"{' and '.join(BIGCODEC_PARTS)}"
        )
    state = {
        f"{part}.{name}": value
        for part in BIGCODEC_PARTS
        for name, value in state_dict[part].items()
    }
    _take_filters(state)
    load_named(codec, layout_names(codec, BIGCODEC_LAYOUT), state)


def load_codecslime_layout(codec: nn.Module, state_dict: Mapping[str, Any]) -> None:
    r"""Load a release of CodecSlime into a codec on BigCodec's backbone, strictly, in place.

    Parameters
    ----------
    codec
        Has ``encoder``, ``decoder`` and ``quantizer``, weight norm not folded.
    state_dict
        The tensors of a release file, e.g. ``codecslime-vq8k.safetensors``.

    Raises
    ------
    ValueError
        As in ``load_bigcodec_layout``.
    """
    state = dict(state_dict)
    _take_filters(state)
    load_named(codec, layout_names(codec, CODECSLIME_LAYOUT), state)


def layout_names(codec: nn.Module, layout: Layout) -> dict[str, str]:
    r"""Return our state-dict key -> published key, for every published key but the filters.

    Parameters
    ----------
    codec
        A codec on the BigCodec backbone.
    layout
        ``DAC_LAYOUT``, ``BIGCODEC_LAYOUT`` or ``CODECSLIME_LAYOUT``: what stands for what.
    """
    names: dict[str, str] = {}
    codebooks = 0
    for path, module in codec.named_modules():
        root = ".".join(path.split(".")[:2])  # encoder.layers or decoder.layers
        published = layout.get(root, "") + path.removeprefix(root)
        if isinstance(module, VectorQuantizer):
            published = f"{layout['quantizer']}.{codebooks}"
            names |= {f"{path}.codebook": f"{published}.{layout['codebook']}"}
            for key in module.state_dict():
                if "proj." in key:
                    part, _, weight = key.partition(".")
                    names[f"{path}.{key}"] = f"{published}.{part}.{WEIGHT_NORM.get(weight, weight)}"
            codebooks += 1
        elif isinstance(module, FiniteScalarQuantizer) and "in_proj" in layout:
            for key in module.state_dict():
                part, _, weight = key.partition(".")
                names[f"{path}.{key}"] = f"{layout[part]}.{weight}"
        elif isinstance(module, Conv1d | ConvTranspose1d):
            for key in module.conv.state_dict():
                names[f"{path}.conv.{key}"] = f"{published}.{WEIGHT_NORM.get(key, key)}"
        elif isinstance(module, SkipLSTM | Snake):
            names |= {f"{path}.{key}": f"{published}.{key}" for key in module.state_dict()}
        elif isinstance(module, AntiAliasedSnakeBeta):
            names |= {f"{path}.{key}": f"{published}.act.{key}" for key in ("alpha", "beta")}
    return names


def _take_filters(state: dict[str, Tensor]) -> None:
    """Take the filters out of a state; every activation has two, and they are ours."""
    taps = kaiser_lowpass()
    for activation in [name.removesuffix("act.alpha") for name in state if "act.alpha" in name]:
        for name in (activation + part for part in FILTERS):
            got = state.pop(name, torch.zeros(0)).float().cpu()
            if got.numel() != len(taps) or not torch.allclose(got.flatten(), taps, atol=1e-5):
                raise ValueError(
                    f"state_dict: got {name} = {got.flatten().tolist()}, expected the published "
                    f"low-pass {taps.tolist()}"
                )
