r"""The released checkpoint of the unified speech language model, key by key.

``USLM.pt`` holds 372 tensors under ``model`` [code of SpeechTokenizer's authors, ``models/uslm.py``
and ``modules/transformer.py``]. Heads that share their weights with an embedding lie in it twice.
Notebook: 40. Leaves out: writing that layout. Read next: ``generation.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .unified import UnifiedConfig

_PARTS = {  # inside a layer
    "self_attn.in_proj_": "attention.in_proj.",
    "self_attn.out_proj.": "attention.out_proj.",
    "linear1.": "up.",
    "linear2.": "down.",
    "norm1.": "attention_norm.",
    "norm2.": "feed_forward_norm.",
}
_TABLE = ".word_embeddings.weight"


def own_keys(state: Mapping[str, Tensor], config: UnifiedConfig) -> dict[str, Tensor]:
    r"""Rename a released state dict.

    Parameters
    ----------
    state
        Its tensors.
    config
        Sizes of the model.

    Returns
    -------
    dict[str, Tensor]
        For ``UnifiedSpeechLanguageModel.load_state_dict``.

    Raises
    ------
    ValueError
        If a shared head differs from its embedding, or a stage embedding is missing.
    """
    found, stages = {}, {}
    shared = config.num_quantizers - 2
    for key, value in state.items():
        number = re.match(r"nar_(predict_layers|stage_embeddings)\.(\d+)\.", key)
        if number and number[1] == "stage_embeddings":
            stages[int(number[2])] = value[0]
        elif number and int(number[2]) < shared:
            table = state.get(f"nar_audio_embeddings.{int(number[2]) + 2}{_TABLE}")
            if table is None or not torch.equal(table, value):
                raise ValueError(
                    f"{key}: got weights of its own, expected those of the embedding of the next "
                    "codebook, which the released model shares"
                )
        else:
            found[_renamed(key)] = value
    if sorted(stages) != list(range(config.num_quantizers - 1)):
        raise ValueError(
            f"nar_stage_embeddings: got {sorted(stages)}, expected one for each of "
            f"{config.num_quantizers - 1} codebooks"
        )
    found["nar.stage_embeddings"] = torch.stack([stages[k] for k in sorted(stages)])
    return found


def _renamed(key: str) -> str:
    """Return the own name of a released key."""
    model, _, rest = key.partition("_")
    rest = re.sub(r"^audio_embeddings\.(\d+)" + re.escape(_TABLE), r"code_embeddings.\1.weight",
                  rest)  # fmt: skip
    rest = rest.replace("audio_", "code_").replace(_TABLE, ".weight").replace(
        "predict_layer.", "head.")  # fmt: skip
    rest = re.sub(r"^predict_layers\.\d+\.", "last_head.", rest)
    rest = rest.replace("project_layer.", "project.")
    for theirs, ours in _PARTS.items():
        rest = re.sub(rf"^(decoder\.layers\.\d+\.){re.escape(theirs)}", rf"\g<1>{ours}", rest)
    if model == "ar":
        rest = rest.replace("code_position", "frame_position")
    return f"{model}.{rest}"
