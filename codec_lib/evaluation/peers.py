r"""Published packages beside this one, at their published sizes and with the same random weights.

EnCodec, DAC and SpeechTokenizer as their authors package them, EnCodec and DAC as transformers
ports them, and the decoder of Vocos. Each is used as its documentation says; only weights are made
equal. Leaves out: clocks (``peer_bench.py``), small sizes (``tests/parity``). Read next:
``peer_bench.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from codec_lib.blocks.packed import pack_linears
from codec_lib.blocks.vocos import VocosDecoder
from codec_lib.codecs.base import Codec
from codec_lib.codecs.published_vocos import load_vocos_layout
from codec_lib.codecs.registry import build
from codec_lib.evaluation.timing import imported

Action = Callable[[], Tensor]
PARTS = ("encoder", "decoder", "quantizer")
OURS = "codec_lib"
PUBLISHED_CONFIG = {  # the released config.json, as far as it shapes the network
    "n_filters": 64,
    "dimension": 1024,
    "strides": [8, 5, 4, 2],
    "lstm_layers": 2,
    "bidirectional": True,
    "dilation_base": 2,
    "residual_kernel_size": 3,
    "n_residual_layers": 1,
    "activation": "ELU",
    "sample_rate": 16000,
    "n_q": 8,
    "semantic_dimension": 768,
    "codebook_size": 1024,
}


@dataclass(frozen=True)
class Peers:
    r"""One codec by several packages.

    Attributes
    ----------
    name
        Of the codec.
    actions
        ``"encode"`` or ``"decode"`` to package name to what does it; codes (K, B, F) or (B, K, F),
        waveforms (B, 1, T).
    """

    name: str
    actions: dict[str, dict[str, Action]]


def _values(part: nn.Module) -> Iterator[Tensor]:
    """Yield a network's tensors module by module, in each by name: packages order names freely."""
    state = part.state_dict()
    modules: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        module, _, leaf = key.rpartition(".")
        modules.setdefault(module, {})[leaf] = value
    for leaves in modules.values():
        yield from (leaves[leaf] for leaf in sorted(leaves))


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    r"""Copy weights between two forms of one codec whose names differ and whose order does not.

    Parameters
    ----------
    source, target
        Each has an encoder, a decoder and a quantizer.

    Raises
    ------
    ValueError
        If their tensors differ in number or in a shape.
    """
    for part in PARTS:
        pairs = [list(_values(getattr(model, part))) for model in (source, target)]
        shapes = [[tuple(value.shape) for value in values] for values in pairs]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{part}: got tensors of other shapes than those to be copied")
        for theirs, ours in zip(*pairs, strict=True):
            ours.copy_(theirs)


def without_weight_norm(model: nn.Module) -> nn.Module:
    """Return a copy whose weight norms are multiplied out."""
    plain = deepcopy(model)
    for module in plain.modules():
        if hasattr(module, "weight_g"):
            nn.utils.remove_weight_norm(module)
    return plain


def encodec_24khz(seconds: float) -> Peers:
    """EnCodec at 24 kHz and 24 kbit/s, all 32 codebooks: its package, transformers and ours."""
    package = imported("encodec", "encodec")
    transformers = imported("transformers", "transformers")
    theirs = package.EncodecModel.encodec_model_24khz(pretrained=False).eval()
    theirs.set_target_bandwidth(24.0)
    for layer in theirs.quantizer.vq.layers:
        layer._codebook.embed.normal_()
        layer._codebook.inited.fill_(True)
    port = transformers.EncodecModel(transformers.EncodecConfig()).eval()
    copy_weights(theirs, port)
    ours = build("encodec", "paper").eval()
    ours.load_published(theirs.state_dict())
    ours.for_inference()
    wav = noise(seconds, 24_000)
    ((codes, scale),) = theirs.encode(wav)
    ported, mine = port.encode(wav, bandwidth=24.0), ours.encode(wav)
    encode = {
        "encodec": lambda: theirs.encode(wav)[0][0],
        "transformers": lambda: port.encode(wav, bandwidth=24.0).audio_codes[0],
        OURS: lambda: ours.encode(wav).codes,
    }
    decode = {
        "encodec": lambda: theirs.decode([(codes, scale)]),
        "transformers": lambda: port.decode(ported.audio_codes, ported.audio_scales)[0],
        OURS: lambda: ours.decode(mine),
    }
    return Peers("EnCodec 24 kHz", {"encode": encode, "decode": decode})


def dac_pair() -> tuple[nn.Module, Codec]:
    """Return DAC at 44.1 kHz as published and ours, with the same random weights, in training."""
    theirs = imported("dac", "descript-audio-codec").DAC()
    ours = build("dac", "paper")
    ours.load_published({"state_dict": theirs.state_dict(), "metadata": {"kwargs": {}}})
    return theirs, ours.train()


def dac_44khz(seconds: float) -> Peers:
    """DAC at 44.1 kHz, 9 codebooks: its package, transformers and ours."""
    transformers = imported("transformers", "transformers")
    theirs, ours = dac_pair()
    theirs.eval()
    port = transformers.DacModel(transformers.DacConfig()).eval()
    copy_weights(without_weight_norm(theirs), port)
    ours.eval().for_inference()
    wav = noise(seconds, 44_100)
    padded = theirs.preprocess(wav, 44_100)
    codes = theirs.encode(padded)[1]
    mine = ours.encode(wav)
    encode = {
        "descript-audio-codec": lambda: theirs.encode(padded)[1],
        "transformers": lambda: port.encode(padded).audio_codes,
        OURS: lambda: ours.encode(wav).codes,
    }
    decode = {
        "descript-audio-codec": lambda: theirs.decode(theirs.quantizer.from_codes(codes)[0]),
        "transformers": lambda: port.decode(audio_codes=codes).audio_values.view(1, 1, -1),
        OURS: lambda: ours.decode(mine),
    }
    return Peers("DAC 44.1 kHz", {"encode": encode, "decode": decode})


def official_pair() -> tuple[nn.Module, nn.Module]:
    r"""Return the published package's SpeechTokenizer and ours, with the same random weights.

    Raises
    ------
    ValueError
        If the package is not installed.
    """
    official = imported("speechtokenizer", "speechtokenizer==0.1.2")
    torch.manual_seed(0)
    theirs = official.SpeechTokenizer(PUBLISHED_CONFIG).eval()
    for layer in theirs.quantizer.vq.layers:
        layer._codebook.embed.normal_()
        layer._codebook.inited.fill_(True)
    ours = build("speechtokenizer", scale="paper").eval()
    ours.load_published(theirs.state_dict())
    return theirs, ours.for_inference()


def speechtokenizer_16khz(seconds: float) -> Peers:
    """SpeechTokenizer: its package and ours."""
    theirs, ours = official_pair()
    wav = noise(seconds, 16_000)
    codes, mine = theirs.encode(wav), ours.encode(wav)
    encode = {"speechtokenizer": lambda: theirs.encode(wav), OURS: lambda: ours.encode(wav).codes}
    decode = {"speechtokenizer": lambda: theirs.decode(codes), OURS: lambda: ours.decode(mine)}
    return Peers("SpeechTokenizer", {"encode": encode, "decode": decode})


def vocos_24khz(seconds: float) -> Peers:
    """The Vocos of mel spectrograms, decoder only: its package and ours."""
    models, heads = (imported(f"vocos.{name}", "vocos") for name in ("models", "heads"))
    vocos = imported("vocos.pretrained", "vocos").Vocos
    backbone = models.VocosBackbone(100, 512, 1536, 8)
    theirs = vocos(nn.Identity(), backbone, heads.ISTFTHead(512, 1024, 256, "center")).eval()
    ours = VocosDecoder(256, 100, 512, 8, pos_net=False, padding="center").eval()
    load_vocos_layout(ours, theirs.state_dict())
    pack_linears(ours)
    mel = torch.randn(1, 100, round(seconds * 24_000 / 256))
    decode = {"vocos": lambda: theirs.decode(mel)[:, None], OURS: lambda: ours(mel)}
    return Peers("Vocos 24 kHz", {"decode": decode})


def noise(seconds: float, sample_rate: int) -> Tensor:
    r"""Return noise of a length, s, at speech's level: (1, 1, T)."""
    return 0.1 * torch.randn(1, 1, round(seconds * sample_rate))


PEERS: dict[str, Callable[[float], Peers]] = {
    "SpeechTokenizer": speechtokenizer_16khz,
    "EnCodec": encodec_24khz,
    "DAC": dac_44khz,
    "Vocos": vocos_24khz,
}
