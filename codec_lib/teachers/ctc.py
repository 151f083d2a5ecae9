r"""Teach a teacher what is said: CTC fine-tuning on phonemes or characters.

DC-Spin fine-tunes its encoder so before it learns units; phonemes did better than characters
[Chang et al. 2025, DC-Spin], §2, stage II; as for HuBERT a linear map from the last hidden state to
the symbols is all that is added [Hsu et al. 2021, HuBERT], §III-E. CTC: [Graves et al. 2006].

Used by notebook 21. Leaves out: beam search, language models. Read next: ``ctc_training.py``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from codec_lib.data.transcripts import Symbols
from codec_lib.losses.ctc import ctc_greedy

from .base_hubert import BaseHubert, BaseHubertConfig
from .frontend import HOP, frame_count
from .hubert import HubertConfig, SmallHubert
from .pretrained import PretrainedTeacher
from .standardised import weights_digest

Encoder = SmallHubert | BaseHubert | PretrainedTeacher
_BUILT = {"SmallHubert": (SmallHubert, HubertConfig), "BaseHubert": (BaseHubert, BaseHubertConfig)}


@dataclass(frozen=True)
class RecogniserConfig:
    r"""What a recogniser names, and which part of its teacher learns. JSON-able.

    Attributes
    ----------
    symbols
        Kind, see ``data.transcripts.Symbols``.
    trained_layers
        Top Transformer layers that are trained with the head; None trains the whole teacher (of a
        network on the waveform all but the convolutions, as published).
    dropout
        Share of the last hidden state dropped in training.
    """

    symbols: str = "phonemes"
    trained_layers: int | None = None
    dropout: float = 0.1


class CtcHead(nn.Module):
    r"""Dropout and a linear map from hidden states (B, F, D) to logits (B, F, V).

    Parameters
    ----------
    dim, num_symbols
        D and V, the blank among them.
    dropout
        Share dropped in training.
    """

    def __init__(self, dim: int, num_symbols: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout, self.to_symbol = dropout, nn.Linear(dim, num_symbols)

    def forward(self, state: Tensor) -> Tensor:
        r"""Map (B, F, D) to (B, F, V)."""
        return self.to_symbol(functional.dropout(state, self.dropout, self.training))


class CtcRecogniser(nn.Module):
    r"""A teacher and a head that names phonemes or characters at 50 frames a second.

    Parameters
    ----------
    teacher
        ``SmallHubert``, ``BaseHubert`` or a published one; it is trained in place.
    config
        What is named, and what is trained.
    seed
        Of the head's weights.

    Attributes
    ----------
    symbols
        The symbol set.
    fingerprint
        Text that changes with the weights and the symbols.

    Raises
    ------
    ValueError
        If the teacher has fewer layers than are to be trained.

    Examples
    --------
    >>> teacher = SmallHubert(HubertConfig(dim=32, num_layers=2, ffn_dim=64))
    >>> recogniser = CtcRecogniser(teacher, RecogniserConfig(trained_layers=1)).eval()
    >>> recogniser.log_probs(torch.randn(1, 1, 16001)).shape
    torch.Size([51, 40])
    """

    def __init__(
        self, teacher: Encoder, config: RecogniserConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.config = config = config or RecogniserConfig()
        self.symbols, self.teacher = Symbols(config.symbols), teacher
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = CtcHead(teacher.dim, len(self.symbols), config.dropout)
        self.head.to(next(teacher.parameters()).device)
        self._choose_trained()

    def _choose_trained(self) -> None:
        """Ask for gradients of what is trained, and of nothing else."""
        count = self.config.trained_layers
        if count is not None and not 0 <= count <= self.teacher.num_layers:
            raise ValueError(
                f"trained_layers: got {count}, expected None or 0 to {self.teacher.num_layers}"
            )
        network = _network_of(self.teacher)
        self.teacher.requires_grad_(count is None)
        if count is None and network is not self.teacher:
            network.feature_extractor.requires_grad_(False)
        transformer = self.teacher if network is self.teacher else network.encoder.transformer
        norm = "final_norm" if network is self.teacher else "layer_norm"
        if count:
            transformer.layers[-count:].requires_grad_(True)
            getattr(transformer, norm).requires_grad_(True)

    @property
    def fingerprint(self) -> str:
        r"""16 hexadecimal digits that change with the weights and the symbols."""
        return weights_digest(self, self.symbols.kind)

    def forward(
        self,
        wav: Tensor,
        num_samples: Tensor,
        mask: Tensor | None = None,
        warp: Tensor | None = None,
    ) -> Tensor:
        r"""Name the symbols of a padded batch.

        Parameters
        ----------
        wav
            Shape (B, 1, T), float32, 16 kHz.
        num_samples
            Samples of each item that are no padding, shape (B,).
        mask, warp
            As in ``SmallHubert.hidden_states``; a published teacher takes neither.

        Returns
        -------
        Tensor
            Logits (B, F, V), F = ceil(T / 320).
        """
        if not isinstance(self.teacher, PretrainedTeacher):
            frames = -(-num_samples // HOP)
            return self.head(self.teacher.hidden_states(wav, mask, frames, warp)[-1])
        # A published network hears padding, so each item is heard by itself.
        alone = zip(wav, num_samples.tolist(), strict=True)
        states = [self.teacher.aligned_states(one[None, :, :size])[-1][0] for one, size in alone]
        padded = nn.utils.rnn.pad_sequence(states, batch_first=True)
        missing = frame_count(wav.shape[-1]) - padded.shape[1]
        return self.head(functional.pad(padded, (0, 0, 0, missing)))

    @torch.no_grad()
    def log_probs(self, wav: Tensor) -> Tensor:
        r"""Return log probabilities (F, V) of one waveform (1, 1, T); the blank is symbol 0."""
        wav = wav.to(self.head.to_symbol.weight.device)
        length = torch.tensor([wav.shape[-1]], device=wav.device)
        return functional.log_softmax(self(wav, length)[0].float(), -1)

    def transcribe(self, wav: Tensor) -> list[str]:
        r"""Return the symbols heard in one waveform (1, 1, T), decoded greedily."""
        found = self.log_probs(wav)
        return self.symbols.decode(ctc_greedy(found[None], torch.tensor([len(found)]))[0])


def _network_of(teacher: Encoder) -> nn.Module:
    """Return torchaudio's network inside a teacher, or the teacher where it is our own."""
    if isinstance(teacher, PretrainedTeacher):
        return teacher.model
    return teacher.model.wav2vec2 if isinstance(teacher, BaseHubert) else teacher


def save_recogniser(
    recogniser: CtcRecogniser, path: str | Path, card: dict[str, Any] | None = None
) -> Path:
    r"""Write a recogniser with its teacher to a .safetensors file in half precision.

    Parameters
    ----------
    recogniser, path
        The recogniser and its file.
    card
        Anything JSON can hold that says how it was made. ``recogniser``, ``teacher`` and
        ``teacher_config`` are written here, whatever it says of them.
    """
    from codec_lib import hub

    teacher = recogniser.teacher
    described = {"recogniser": asdict(recogniser.config), "teacher": type(teacher).__name__}
    if type(teacher).__name__ in _BUILT:
        described["teacher_config"] = asdict(teacher.config)
    return hub.save_module(recogniser, path, metadata={**(card or {}), **described})


def load_recogniser(name_or_path: str | Path, teacher: Encoder | None = None) -> CtcRecogniser:
    r"""Load a recogniser by name (``data/checkpoints``) or path, in eval mode, without gradient.

    Parameters
    ----------
    name_or_path
        What ``save_recogniser`` wrote.
    teacher
        A teacher of the same size, to be filled; needed where it is a published one.

    Raises
    ------
    ValueError
        If the file holds no recogniser, or one of a published teacher and none is given, or
        weights do not fit.
    """
    from codec_lib import hub

    def build(card: dict[str, Any]) -> CtcRecogniser:
        if not {"recogniser", "teacher"} <= card.keys():
            raise ValueError(
                f"{name_or_path}: got the weights of something else, expected a recogniser's. "
                "Hint: codec-lib teacher recogniser makes one"
            )
        config, kind = RecogniserConfig(**card["recogniser"]), card["teacher"]
        if teacher is not None:
            return CtcRecogniser(teacher, config)
        if kind not in _BUILT:
            raise ValueError(
                f"{name_or_path}: got a recogniser on a {kind}, expected a teacher of its size "
                "too. Hint: load_recogniser(path, pretrained('hubert_base'))"
            )
        make, sizes = _BUILT[kind]
        return CtcRecogniser(make(sizes(**card["teacher_config"])), config)

    return hub.load_module(name_or_path, build).requires_grad_(False)
