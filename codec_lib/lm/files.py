r"""Files of language models: safetensors, with sizes and a card in the metadata.

No paper. Leaves out: the released layout (``published.py``). Read next: ``speaking.py``.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from codec_lib import hub

from .unified import UnifiedSpeechLanguageModel, build_unified


def save_language_model(
    model: UnifiedSpeechLanguageModel, path: str | Path, card: dict[str, Any], half: bool = True
) -> Path:
    r"""Write a model to a .safetensors file.

    Parameters
    ----------
    model, path
        The model and its file.
    card
        Anything JSON can hold; ``codec`` names the codec whose codes it writes.
    half
        True stores float16.
    """
    described = {"unified": asdict(model.config), **card}
    return hub.save_module(model, path, half, described)


def load_language_model(name_or_path: str | Path) -> UnifiedSpeechLanguageModel:
    r"""Load a model by name (``data/checkpoints``) or path, in eval mode.

    Returns
    -------
    UnifiedSpeechLanguageModel
        ``model.card`` is what it was saved with.

    Raises
    ------
    ValueError
        If there is no such file, or it holds something else.
    """

    def build(card: dict[str, Any]) -> UnifiedSpeechLanguageModel:
        if "unified" not in card:
            raise ValueError(f"{name_or_path}: expected the file of a unified language model")
        values = dict(card)
        model = build_unified(**{"scale": "small", **values.pop("unified")})
        model.card = values
        return model

    return hub.load_module(name_or_path, build)
