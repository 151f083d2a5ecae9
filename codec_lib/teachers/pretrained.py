r"""Published teachers through torchaudio: HuBERT, mHuBERT, wav2vec 2.0 and WavLM.

SpeechTokenizer learns from the average of the 13 hidden states of HuBERT base, or from its layer 9
[Zhang et al. 2024, SpeechTokenizer], §3; [Hsu et al. 2021, HuBERT]. The weights are read from disk;
nothing is downloaded unless asked for. Hidden states are numbered as in transformers: 0 enters the
first layer, i leaves layer i; the last one of the large models has passed their final norm.
fairseq's ``extract_features(output_layer=i)`` is the same state i (see ``mhubert.py``).

Used by notebook 10. Leaves out: language models as teachers (``text.py``).
Read next: ``mhubert.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional

from codec_lib.shapes import check_shape

from .base_hubert import RECEPTIVE_FIELD, pad_to_frames
from .fairseq_file import read_fairseq
from .frontend import HOP, SAMPLE_RATE
from .standardised import check_layer, weights_digest


@dataclass(frozen=True)
class Published:
    r"""A published teacher.

    Attributes
    ----------
    bundle
        Name in ``torchaudio.pipelines``.
    file, size
        Weights and their size.
    folder
        Address of the folder in which the file can be had.
    is_fairseq
        True for a checkpoint of fairseq, False for weights in torchaudio's layout.
    """

    bundle: str
    file: str
    size: str
    folder: str = "https://download.pytorch.org/torchaudio/models/"
    is_fairseq: bool = False

    @property
    def url(self) -> str:
        """Where the weights can be had."""
        return self.folder + self.file


PUBLISHED = {
    "hubert_base": Published("HUBERT_BASE", "hubert_fairseq_base_ls960.pth", "360 MB"),
    "hubert_large": Published("HUBERT_LARGE", "hubert_fairseq_large_ll60k.pth", "1.2 GB"),
    "wav2vec2_base": Published("WAV2VEC2_BASE", "wav2vec2_fairseq_base_ls960.pth", "360 MB"),
    "wav2vec2_large": Published("WAV2VEC2_LARGE", "wav2vec2_fairseq_large_ls960.pth", "1.2 GB"),
    "wavlm_base": Published("WAVLM_BASE", "wavlm_base.pth", "360 MB"),
    "wavlm_base_plus": Published("WAVLM_BASE_PLUS", "wavlm_base_plus.pth", "360 MB"),
    "wavlm_large": Published("WAVLM_LARGE", "wavlm_large.pth", "1.2 GB"),
    "mhubert_base": Published(
        "HUBERT_BASE",
        "mhubert_base_vp_en_es_fr_it3.pt",
        "about 1 GB",
        "https://dl.fbaipublicfiles.com/hubert/",
        is_fairseq=True,
    ),
}


class PretrainedTeacher(nn.Module):
    r"""A torchaudio wav2vec-2.0-like model whose frames line up with the codec's.

    Parameters
    ----------
    model
        ``torchaudio.models.Wav2Vec2Model``, without auxiliary output.
    normalise_waveform
        True brings every waveform to mean 0 and variance 1, as the large models expect.

    Attributes
    ----------
    sample_rate, frame_rate, hop_length, dim, num_layers, fingerprint
        See ``features.Teacher``.
    """

    sample_rate, hop_length, frame_rate = SAMPLE_RATE, HOP, SAMPLE_RATE / HOP

    def __init__(
        self, model: torchaudio.models.Wav2Vec2Model, normalise_waveform: bool = False
    ) -> None:
        super().__init__()
        self.model, self.normalise_waveform = model, normalise_waveform
        self.dim = model.encoder.feature_projection.projection.out_features
        self.num_layers = len(model.encoder.transformer.layers)
        self.requires_grad_(False).eval()

    @property
    def fingerprint(self) -> str:
        r"""16 hexadecimal digits that change with the weights."""
        return weights_digest(self, "normalised" if self.normalise_waveform else "plain")

    @torch.no_grad()
    def hidden_states(self, wav: Tensor) -> list[Tensor]:
        r"""Return all hidden states as published: no padding.

        Parameters
        ----------
        wav
            Shape (B, 1, T), T at least 400, 16 kHz.

        Returns
        -------
        list[Tensor]
            ``num_layers + 1`` tensors (B, F, D), F = floor((T - 400) / 320) + 1: 49 for a second.

        Raises
        ------
        ValueError
            If the shape is another or T is below 400.
        """
        if check_shape(wav, "B 1 T", name="wav")["T"] < RECEPTIVE_FIELD:
            raise ValueError(f"wav: got {wav.shape[-1]} samples, expected >= {RECEPTIVE_FIELD}")
        return self._states(self._normalised(wav))

    def _normalised(self, wav: Tensor) -> Tensor:
        """Bring each waveform to mean 0 and variance 1 where the model expects that: (B, 1, T)."""
        return functional.layer_norm(wav, wav.shape[-1:]) if self.normalise_waveform else wav

    def _states(self, wav: Tensor) -> list[Tensor]:
        """Return all hidden states of a waveform (B, 1, T) that is as the model expects it."""
        frames, _ = self.model.feature_extractor(wav[:, 0], None)  # (B, F, channels)
        transformer = self.model.encoder.transformer
        states = [transformer._preprocess(self.model.encoder.feature_projection(frames))]
        bias = None  # of positions; only WavLM has one, made by its first layer
        for layer in transformer.layers:
            state, bias = layer(states[-1], position_bias=bias)
            states.append(state)
        if not transformer.layer_norm_first:  # torchaudio's name: True where the input is normed
            states[-1] = transformer.layer_norm(states[-1])
        return states

    def aligned_states(self, wav: Tensor) -> list[Tensor]:
        r"""Return all hidden states at the codec's frames, with gradient where weights ask for it.

        The published model makes one frame less than the codec for most lengths; with zeros around
        the waveform frame f is centred on the codec's frame f (``base_hubert.pad_to_frames``).

        Parameters
        ----------
        wav
            Shape (B, 1, T), float32, 16 kHz.

        Returns
        -------
        list[Tensor]
            ``num_layers + 1`` tensors (B, F, D), F = ceil(T / 320).

        Raises
        ------
        ValueError
            If the shape is another.
        """
        return self._states(pad_to_frames(self._normalised(wav)))

    @torch.no_grad()
    def features(self, wav: Tensor, layer: int | str = "avg") -> Tensor:
        r"""Return features at the codec's frames, see ``aligned_states``.

        Parameters
        ----------
        wav
            Shape (B, 1, T), float32, 16 kHz.
        layer
            Hidden state 0 to ``num_layers``, or ``"avg"`` for the mean of all.

        Returns
        -------
        Tensor
            Shape (B, F, D), F = ceil(T / 320).

        Raises
        ------
        ValueError
            If there is no such layer, or the shape is another.
        """
        check_layer(layer, self.num_layers)
        states = self.aligned_states(wav)
        return torch.stack(states).mean(0) if layer == "avg" else states[layer]


def weights_path(name: str) -> Path:
    r"""Return where torch.hub keeps the weights of a published teacher.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if name not in PUBLISHED:
        raise ValueError(f"teacher: got {name!r}, expected one of {sorted(PUBLISHED)}")
    return _kept(PUBLISHED[name].file)


def _kept(file: str) -> Path:
    """Return where torch.hub keeps a file."""
    return Path(torch.hub.get_dir()) / "checkpoints" / file


def published_file(
    name: str, file: str, url: str, size: str, path: str | Path | None, download: bool
) -> Path:
    r"""Return a published file that is on disk, or fetch it.

    Parameters
    ----------
    name, file, url, size
        What it is; its name, address and size.
    path
        Where it is; by default where torch.hub keeps it.
    download
        True fetches it where it is missing and ``path`` is None.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If it is not there; the message names file, size, address and place.
    """
    place = _kept(file) if path is None else Path(path)
    if place.is_file():
        return place
    if path is not None or not download:
        raise ValueError(
            f"teacher: got {name!r}, whose weights are not at {place}, expected the file there. "
            f"Hint: download {url} ({size}) to {place}, or call with download=True and no path."
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(url, str(place))
    return place


def pretrained(
    name: str = "hubert_base", path: str | Path | None = None, download: bool = False
) -> PretrainedTeacher:
    r"""Load a published teacher from disk.

    Parameters
    ----------
    name
        One of ``PUBLISHED``.
    path
        File of the weights; by default where torch.hub keeps them.
    download
        True fetches the weights where they are missing.

    Returns
    -------
    PretrainedTeacher
        In eval mode, without gradient.

    Raises
    ------
    ValueError
        If the name is unknown, the weights are not there (the message names file, size, address and
        place), or they do not fit.
    """
    if name not in PUBLISHED:
        raise ValueError(f"teacher: got {name!r}, expected one of {sorted(PUBLISHED)}")
    entry = PUBLISHED[name]
    file = published_file(name, entry.file, entry.url, entry.size, path, download)
    bundle = getattr(torchaudio.pipelines, entry.bundle)
    maker = {"Wav2Vec2": torchaudio.models.wav2vec2_model, "WavLM": torchaudio.models.wavlm_model}
    with torch.device("meta"):
        model = maker[bundle._model_type](**bundle._params)
    try:
        if entry.is_fairseq:
            state = read_fairseq(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        model.load_state_dict(state, assign=True)
    except Exception as error:  # unpickling and loading fail in many ways; all mean the same here
        raise ValueError(
            f"{file}: got a file that does not hold the weights of {name} ({error}); "
            "is the download complete?"
        ) from error
    return PretrainedTeacher(model, bundle._normalize_waveform)
