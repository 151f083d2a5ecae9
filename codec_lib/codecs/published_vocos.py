r"""Load checkpoints in the key layout of Vocos, which WavTokenizer shares.

``backbone.*`` and ``head.*`` of Vocos on mel frames (83 keys) and on EnCodec's codes, and of
WavTokenizer's Lightning files, go into a ``VocosDecoder``; feature extractors and critics in the
same file are left alone. Leaves out: WavTokenizer's encoder and codebook. Read next:
``codecs/encodec.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from codec_lib.blocks.vocos import VocosDecoder
from codec_lib.codecs.published import load_named

PARTS = {  # the start of our key -> the start of the published one
    "embed.": "backbone.embed.",
    "norm.": "backbone.norm.",
    "pos_net.": "backbone.pos_net.",
    "blocks.": "backbone.convnext.",
    "final_norm.": "backbone.final_layer_norm.",
    "out.": "head.out.",
}
LAYERS = {"depthwise.conv": "dwconv", "expand": "pwconv1", "reduce": "pwconv2"}  # of a block
OTHERS = ("feature_extractor.", "multiperioddisc.", "multiresddisc.", "dac.", "melspec_loss.")
WINDOW = "head.istft.window"


def load_vocos_layout(decoder: VocosDecoder, state_dict: Mapping[str, Any]) -> None:
    r"""Load a published Vocos or WavTokenizer into a decoder, strictly, in place.

    Vocos on mel frames is ``VocosDecoder(256, 100, 512, 8, pos_net=False, padding="center")``, on
    EnCodec's codes ``VocosDecoder(320, 128, 384, 8, pos_net=False, num_conditions=4)`` (the
    condition is the bit rate: 1.5, 3, 6 or 12 kbit/s), WavTokenizer's ``VocosDecoder(320, 512,
    num_conditions=4)``.

    Parameters
    ----------
    decoder
        Of the published sizes.
    state_dict
        Bare, or a Lightning file, which holds it as ``"state_dict"``.

    Raises
    ------
    ValueError
        If keys of the decoder are missing or unexpected, a shape differs, or the window is not the
        Hann window that the decoder has.
    """
    state = {
        name: value
        for name, value in state_dict.get("state_dict", state_dict).items()
        if not name.startswith(OTHERS)
    }
    window = state.pop(WINDOW, torch.zeros(0)).float().cpu()
    own = decoder.istft.window.cpu()
    if window.shape != own.shape or not torch.allclose(window, own, atol=1e-5):
        raise ValueError(
            f"state_dict: got {WINDOW} of {tuple(window.shape)}, expected the Hann window of "
            f"{len(own)} samples; hint: n_fft"
        )
    for name, value in state.items():
        if name.endswith("dwconv.weight"):
            state[name] = value.unsqueeze(2)  # (D, 1, 7), here of a 1 x 7 image
    load_named(decoder, vocos_names(decoder), state)


def vocos_names(decoder: VocosDecoder) -> dict[str, str]:
    r"""Return our state-dict key -> published key, for every published key but the window.

    Examples
    --------
    >>> names = vocos_names(VocosDecoder(4, 2, 4, 1, pos_net=False))
    >>> names["blocks.0.expand.bias"]
    'backbone.convnext.0.pwconv1.bias'
    """
    names = {}
    for key in decoder.state_dict():
        start = next(start for start in PARTS if key.startswith(start))
        published = PARTS[start] + key.removeprefix(start)
        for here, there in LAYERS.items():
            published = published.replace(f".{here}.", f".{there}.")
        names[key] = published
    return names
