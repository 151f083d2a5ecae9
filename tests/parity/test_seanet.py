"""SEANet against EnCodec's, causal and not, with the same random weights."""

from __future__ import annotations

import pytest
import torch
from encodec.modules import SEANetDecoder as OfficialDecoder
from encodec.modules import SEANetEncoder as OfficialEncoder
from torch import nn

from codec_lib.blocks.seanet import SEANetDecoder, SEANetEncoder
from codec_lib.codecs.published import published_names

SIZES = {"latent_dim": 12, "width": 4}


@pytest.mark.parametrize("causal", [False, True])
def test_same_latents_and_waveform(causal: bool) -> None:
    options = {"dimension": 12, "n_filters": 4, "norm": "weight_norm", "causal": causal}
    theirs = nn.ModuleDict(
        {"encoder": OfficialEncoder(**options), "decoder": OfficialDecoder(**options)}
    )
    options = {**SIZES, "bidirectional": False, "causal": causal}
    ours = nn.ModuleDict({"encoder": SEANetEncoder(**options), "decoder": SEANetDecoder(**options)})
    names = published_names(ours, {})
    assert sorted(names.values()) == sorted(theirs.state_dict())
    ours.load_state_dict({key: theirs.state_dict()[name] for key, name in names.items()})
    for num_samples in (1, 319, 3333):
        wav = torch.randn(2, 1, num_samples)
        z = theirs["encoder"](wav)
        assert torch.allclose(ours["encoder"](wav), z, atol=1e-6)
        assert torch.allclose(ours["decoder"](z), theirs["decoder"](z), atol=1e-6)
