r"""Read the weights out of a fairseq checkpoint without running anything of it, and rename them.

A fairseq checkpoint holds, besides weights, its settings and dictionaries as objects of fairseq,
omegaconf and argparse. torch's reader for weights refuses names it does not know. Here it is told
of a stand-in for each: a class that takes whatever it is given and does nothing. So no module
named in the file is imported and no function named in it is called.

Names of weights: fairseq's ``HubertModel`` and ``Wav2Vec2Model`` against torchaudio's
``Wav2Vec2Model``. Used by notebook 10. Leaves out: files older than torch 1.6, fine-tuned heads.
Read next: ``mhubert.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_LAYER = r"encoder\.layers\.(\d+)\."
_OURS = r"encoder.transformer.layers.\1."
_CONVOLUTION = "encoder.transformer.pos_conv_embed.conv."
RENAMED = (
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (
        r"feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?",
        r"feature_extractor.conv_layers.\1.layer_norm.",
    ),
    (r"post_extract_proj\.", "encoder.feature_projection.projection."),
    (r"layer_norm\.", "encoder.feature_projection.layer_norm."),
    (r"encoder\.pos_conv\.0\.weight_g$", _CONVOLUTION + "parametrizations.weight.original0"),
    (r"encoder\.pos_conv\.0\.weight_v$", _CONVOLUTION + "parametrizations.weight.original1"),
    (r"encoder\.pos_conv\.0\.bias$", _CONVOLUTION + "bias"),
    (r"encoder\.layer_norm\.", "encoder.transformer.layer_norm."),
    (_LAYER + r"self_attn\.", _OURS + "attention."),
    (_LAYER + r"self_attn_layer_norm\.", _OURS + "layer_norm."),
    (_LAYER + r"fc1\.", _OURS + "feed_forward.intermediate_dense."),
    (_LAYER + r"fc2\.", _OURS + "feed_forward.output_dense."),
    (_LAYER + r"final_layer_norm\.", _OURS + "final_layer_norm."),
)
# Of pre-training and fine-tuning only.
LEFT_OUT = re.compile(r"(mask_emb|final_proj|label_embs_concat|quantizer|project_q|target_glu)\b")


class Inert:
    r"""Stands for an object of a class that is not imported; keeps what it is given, does nothing.

    Attributes
    ----------
    args, state
        What the object would have been called with and filled with.
    """

    def __new__(cls, *args: Any, **_: Any) -> Inert:
        one = super().__new__(cls)
        one.args, one.state = args, None
        return one

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take anything."""

    def __setstate__(self, state: Any) -> None:
        """Keep the state as it is."""
        self.state = state


def read_inert(path: str | Path) -> Any:
    r"""Return what a torch file holds: tensors, plain containers, and ``Inert`` s for all the rest.

    Raises
    ------
    ValueError
        If there is no such file, it is damaged or too old, or asks for modules of the system.
    """
    if not Path(path).is_file():
        raise ValueError(f"path: got {path}, expected a file")
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        stand_ins = [(type(name.rpartition(".")[2], (Inert,), {}), name) for name in names]
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in many ways; all mean the same here
        raise ValueError(
            f"{path}: got a file that cannot be read as weights ({error}); is it complete, and a "
            "checkpoint of torch 1.6 or later?"
        ) from error


def read_fairseq(path: str | Path) -> dict[str, Tensor]:
    r"""Return the weights of a fairseq checkpoint under torchaudio's names.

    Raises
    ------
    ValueError
        If the file cannot be read, holds no model, or one of another kind.
    """
    found = read_inert(path)
    model = found.get("model") if isinstance(found, dict) else None
    if not isinstance(model, dict) or not all(isinstance(one, Tensor) for one in model.values()):
        raise ValueError(f"{path}: got no weights under 'model', expected a fairseq checkpoint")
    return torchaudio_names(model)


def torchaudio_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Rename the weights of fairseq's HuBERT or wav2vec 2.0 for ``Wav2Vec2Model``.

    Returns
    -------
    dict[str, Tensor]
        float32; what only pre-training needs is left out.

    Raises
    ------
    ValueError
        If a name is unknown.

    Examples
    --------
    >>> one = torch.zeros(1)
    >>> list(torchaudio_names({"post_extract_proj.bias": one, "mask_emb": one}))
    ['encoder.feature_projection.projection.bias']
    """
    renamed = {}
    for name, value in state.items():
        if LEFT_OUT.match(name):
            continue
        fitting = [(old, new) for old, new in RENAMED if re.match(old, name)]
        if len(fitting) != 1:
            raise ValueError(f"state: got {name!r}, expected a weight of HuBERT or wav2vec 2.0")
        renamed[re.sub(*fitting[0], name, count=1)] = value.float()
    return renamed
