r"""Judges of whose voice it is: cosine of speaker embeddings.

``speaker`` is a three-layer LSTM trained by the generalised end-to-end loss [Wan et al. 2018, GE2E]
on some thousands of speakers; the package Resemblyzer carries its weights (MIT licence), and only
these are read: the package itself asks for modules that newer Pythons no longer have.
``speaker=FOLDER`` is WavLM with a head for speakers [Chen et al. 2022, WavLM], in the layout of
Hugging Face; SpeechTokenizer and DM-Codec report its large form.

The LSTM hears 1.6 s at a time, and what it says of them is averaged. Pauses are not cut out, as
the package does with a voice detector. Notebooks 30, 31, 35. Leaves out: verification thresholds.
Read next: ``quality.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional

from codec_lib import audio

from .base import Judge, JudgedClip, Score, from_folder

RATE = 16_000  # Hz
_WINDOW, _STEP = 160, 77  # frames of 10 ms that the LSTM hears at once, and from one to the next
_LEAST = 0.75  # share of the last window that must be there for it to count
_LEVEL = -30.0  # dB of full scale; what is quieter is raised to it
Embedder = Callable[[Sequence[Tensor]], Tensor]  # waveforms (1, T) at RATE -> (N, D), length 1


class SpeakerJudge(Judge):
    r"""Cosine between the embeddings of a clip and of its ``target``: ``speaker_similarity``.

    Parameters
    ----------
    embedder
        Empty for the LSTM of Resemblyzer, or a folder with a WavLM for speakers; or a function from
        waveforms (1, T) at 16 kHz to embeddings (N, D) of length 1.

    Raises
    ------
    ValueError
        If the weights are not there.
    """

    name: ClassVar[str] = "speaker"
    needs: ClassVar[tuple[str, ...]] = ("target",)

    def __init__(self, embedder: str | Embedder = "") -> None:
        if not callable(embedder):
            embedder = wavlm_speakers(embedder) if embedder else SpeakerEncoder.resemblyzer()
        self.embed = embedder

    def judge(self, clips: Sequence[JudgedClip]) -> dict[str, Score]:
        """Embed every clip and every target once."""
        wavs = [audio.resample(clip.wav, clip.sample_rate, RATE) for clip in clips]
        voices: dict[int, int] = {}  # by identity: one target may serve many clips
        for clip in clips:
            if id(clip.target) not in voices:
                voices[id(clip.target)] = len(wavs)
                wavs.append(audio.resample(clip.target, clip.sample_rate, RATE))  # type: ignore[arg-type]
        found = self.embed(wavs)  # (N, D)
        targets = found[[voices[id(clip.target)] for clip in clips]]
        cosines = (found[: len(clips)] * targets).sum(-1)
        return {"speaker_similarity": Score(cosines.double().numpy())}


def voice_scale(judge: Judge, clips: Sequence[JudgedClip]) -> tuple[float, float]:
    r"""Say what a similarity means: that of a voice to itself elsewhere, and to another voice.

    Parameters
    ----------
    judge
        A ``SpeakerJudge``.
    clips
        Recordings; those with a ``voice``, another recording of the speaker, count. Neighbours in
        the list, half of it apart, should be different speakers.

    Returns
    -------
    tuple[float, float]
        Mean similarity to the own ``voice``, and to that of the clip half the list away.

    Raises
    ------
    ValueError
        If fewer than two have a voice.
    """
    voiced = [clip for clip in clips if clip.voice is not None]
    if len(voiced) < 2:
        raise ValueError(f"clips: got {len(voiced)} with a voice, expected two or more")
    half = len(voiced) // 2
    others = zip(voiced, voiced[half:] + voiced[:half], strict=True)
    turned = [replace(one, voice=other.voice) for one, other in others]
    same, other = (judge(one)["speaker_similarity"].values.mean() for one in (voiced, turned))
    return float(same), float(other)


class SpeakerEncoder(nn.Module):
    r"""The GE2E network: mel frames, three LSTM layers of 256, the last state, a ReLU, length 1.

    Parameters
    ----------
    num_mels, width, layers
        Of the network; those of the published weights by default.
    """

    def __init__(self, num_mels: int = 40, width: int = 256, layers: int = 3) -> None:
        super().__init__()
        self.lstm = nn.LSTM(num_mels, width, layers, batch_first=True)
        self.linear = nn.Linear(width, width)
        self.mel = torchaudio.transforms.MelSpectrogram(
            RATE, 400, hop_length=160, n_mels=num_mels, norm="slaney", mel_scale="slaney",
            pad_mode="constant",
        )  # fmt: skip
        self.mel.requires_grad_(False)

    @classmethod
    def resemblyzer(cls) -> SpeakerEncoder:
        r"""Return the encoder with the weights that the package Resemblyzer carries.

        Raises
        ------
        ValueError
            If the package is not installed, or its file is not as it was.
        """
        found = find_spec("resemblyzer")
        file = Path(found.origin or "").with_name("pretrained.pt") if found else None
        if file is None or not file.exists():
            raise ValueError(
                "speaker: got no Resemblyzer, expected it to be installed, for its weights (16 MB)."
                " Hint: pip install --no-deps Resemblyzer==0.1.4"
            )
        state = torch.load(file, map_location="cpu", weights_only=True)["model_state"]
        encoder = cls()
        kept = {key: state[key] for key in encoder.state_dict() if not key.startswith("mel.")}
        encoder.load_state_dict(kept, strict=False)
        return encoder.requires_grad_(False).eval()

    def forward(self, mel: Tensor) -> Tensor:
        r"""Map mel frames (N, F, M) to embeddings (N, width) of length 1."""
        state = self.lstm(mel)[1][0][-1]  # (N, width)
        return functional.normalize(functional.relu(self.linear(state)), dim=-1)

    @torch.no_grad()
    def __call__(self, wavs: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        r"""Embed waveforms.

        Parameters
        ----------
        wavs
            Shape (1, T) each, 16 kHz, T at least 1.

        Returns
        -------
        Tensor
            Shape (N, width), each of length 1, none negative.
        """
        windows = [self._windows(_raised(wav)) for wav in wavs]  # (W, 160, M) each
        owner = torch.repeat_interleave(torch.tensor([len(one) for one in windows]))
        said = torch.cat([self.forward(part) for part in torch.cat(windows).split(256)])
        total = torch.zeros(len(wavs), said.shape[1]).index_add_(0, owner, said)
        return functional.normalize(total, dim=-1)

    def _windows(self, wav: Tensor) -> Tensor:
        """Cut mel frames of (1, T) into windows (W, 160, M), filled up with silence."""
        hop, length = 160, wav.shape[-1]
        frames = -(-(length + 1) // hop)
        starts = list(range(0, max(1, frames - _WINDOW + _STEP + 1), _STEP))
        if len(starts) > 1 and (length - starts[-1] * hop) / (_WINDOW * hop) < _LEAST:
            starts.pop()
        padded = functional.pad(wav, (0, max(0, (starts[-1] + _WINDOW) * hop - length)))
        mel = self.mel(padded)[0].T  # (F, M)
        return torch.stack([mel[start : start + _WINDOW] for start in starts])


def speaker_cosines(embeddings: Tensor, speakers: Sequence[str]) -> tuple[Tensor, Tensor]:
    r"""Return the cosines of all pairs of one speaker, and of all pairs of two: can a judge judge?

    Parameters
    ----------
    embeddings
        Shape (N, D), each of length 1.
    speakers
        Of each, N names.

    Returns
    -------
    tuple[Tensor, Tensor]
        Cosines of one speaker's pairs and of two speakers', one-dimensional; a pair counts once.
    """
    order = sorted(set(speakers))
    who = torch.tensor([order.index(name) for name in speakers])
    pairs = torch.triu_indices(len(who), len(who), 1)
    cosines, same = (embeddings @ embeddings.T)[tuple(pairs)], who[pairs[0]] == who[pairs[1]]
    return cosines[same], cosines[~same]


def wavlm_speakers(folder: str | Path) -> Embedder:
    r"""Return a WavLM for speakers, in the layout of Hugging Face.

    Parameters
    ----------
    folder
        With ``config.json`` and weights as safetensors, as ``microsoft/wavlm-base-plus-sv`` on
        huggingface.co has them (0.4 GB).

    Raises
    ------
    ValueError
        If transformers is not installed, or the folder holds no such model.
    """
    expected = (
        "nothing (Resemblyzer) or a folder with a WavLM for speakers. Hint: the files of "
        "https://huggingface.co/microsoft/wavlm-base-plus-sv (0.4 GB)"
    )
    model = from_folder("speaker", "WavLMForXVector", folder, expected)

    @torch.no_grad()
    def embed(wavs: Sequence[Tensor]) -> Tensor:
        found = []
        for wav in wavs:  # one by one: padding changes what the group norm of the base model hears
            heard = (wav - wav.mean()) / (wav.var() + 1e-7).sqrt()  # as it was trained
            found.append(functional.normalize(model(heard).embeddings, dim=-1))
        return torch.cat(found)

    return embed


def _raised(wav: Tensor) -> Tensor:
    """Raise what is quieter than -30 dB of full scale to that level; silence stays silent."""
    level = float(wav.double().square().mean().sqrt())
    gain = 10 ** (_LEVEL / 20) / level if level > 0 else 1.0
    return wav * max(1.0, gain)
