r"""Train a continuous tokenizer: reconstruct, and let a recogniser hear the phonemes in it.

.. math:: L = L_{REC}(x, \hat x) + \lambda L_{ASR}(\hat x, y)

[Li et al. 2024, Cont-SPT], first stage; the similarity of L_REC is not printed, here it is a
recipe's mel and waveform terms. y are the phonemes spoken within a crop, known to the sample on
synthetic speech; crops of speech without known phonemes teach sound alone.

Notebook: 41. Leaves out: critics. Read next: ``continuous.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchaudio.functional import edit_distance

from codec_lib import hub
from codec_lib.codecs.base import Codec
from codec_lib.codecs.continuous import ContinuousTokenizer, DiscreteTwin, build_continuous
from codec_lib.data import Corpus, CropDataset, batches
from codec_lib.data.transcripts import Symbols
from codec_lib.losses.commitment import reduce_layers
from codec_lib.losses.ctc import ctc_greedy, ctc_loss, frames_needed
from codec_lib.losses.objective import recipe
from codec_lib.losses.reconstruction import MultiScaleMelLoss, waveform_loss
from codec_lib.training.batches import digest_of, training_and_held_out

from .config import SMOKE_RUN, ModuleConfig
from .module_run import ModuleRun, train_module


@dataclass(frozen=True)
class TokenizerConfig(ModuleConfig):
    r"""Describe one training run of a continuous tokenizer.

    Attributes
    ----------
    segment_seconds
        Of a crop; ``batch_size`` crops a step.
    recipe
        Whose mel and waveform terms are taken, with their weights.
    ctc_weight
        lambda; 0 leaves the recogniser out.
    cache_audio
        True decodes the corpus into memory first.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {**SMOKE_RUN, "segment_seconds": 0.5},
        "small": {},
        "paper": {
            "scale": "paper",
            "recipe": "paper",
            "segment_seconds": 3.0,
            "corpus": "librispeech/train-clean-100",
            "precision": "bf16-mixed",
        },
    }
    positive: ClassVar[str] = "segment_seconds"
    segment_seconds: float = 1.0
    recipe: str = "small"
    ctc_weight: float = 0.3
    cache_audio: bool = True
    steps: int = 3000
    warmup_steps: int = 50
    out_dir: str = "runs/tokenizer"


def spoken_frames(corpus: Corpus, hop_length: int) -> Callable[[int], Tensor]:
    r"""Return a function from an utterance to what is spoken in each frame.

    Parameters
    ----------
    corpus
        Utterances.
    hop_length
        Samples of a frame.

    Returns
    -------
    Callable
        Index to (F, 3) int64: which of the utterance's phonemes, counted from 1, or 0 in silence
        and -1 where phonemes are not known; its number in ``Symbols("phonemes")``; its frames.
    """
    numbers = {name: number for number, name in enumerate(Symbols("phonemes").names)}

    def frames(index: int) -> Tensor:
        utterance = corpus[index]
        count = -(-corpus.length(index) // hop_length)
        rows = torch.zeros(count, 3, dtype=torch.int64)
        if not utterance.phonemes:
            rows[:, 0] = -1
        scale = corpus.sample_rate / (utterance.sample_rate or corpus.sample_rate) / hop_length
        for order, phoneme in enumerate(utterance.phonemes, start=1):
            if phoneme.symbol in numbers:
                first, last = (round(at * scale) for at in (phoneme.start, phoneme.end))
                rows[first:last] = torch.tensor([order, numbers[phoneme.symbol], last - first])
        return rows

    return frames


def spoken_within(rows: Tensor) -> list[int] | None:
    r"""Return the numbers of the phonemes of which at least half lies within frames.

    Parameters
    ----------
    rows
        Of ``spoken_frames``, (F, 3).

    Returns
    -------
    list[int] or None
        In order; None where phonemes are not known.

    Examples
    --------
    >>> spoken_within(torch.tensor([[1, 7, 4], [2, 5, 2], [2, 5, 2], [0, 0, 0]]))
    [5]
    """
    if bool((rows[:, 0] < 0).any()):
        return None
    kept, counts = torch.unique_consecutive(rows, dim=0, return_counts=True)
    whole = (kept[:, 0] > 0) & (2 * counts >= kept[:, 2])
    return kept[whole, 1].tolist()


class TokenizerRun(ModuleRun):
    r"""A run of a continuous tokenizer; see ``ModuleRun``."""

    title = "continuous speech tokenizer"
    shown: ClassVar[tuple[str, ...]] = ("train/loss", "train/mel", "train/ctc")
    config: TokenizerConfig

    def build(self) -> ContinuousTokenizer:
        """Make the tokenizer."""
        tokenizer = build_continuous(self.config.scale, **self.config.overrides)
        if self.config.init_from is not None:
            tokenizer.load_state_dict(load_tokenizer(self.config.init_from).state_dict())
        return tokenizer

    def find_data(self) -> None:
        """Find the corpora, and cut held-out crops."""
        config, sizes = self.config, self.module.config
        with self.fabric.rank_zero_first():
            train, held_out = training_and_held_out(config, sizes.sample_rate)
        hop = sizes.token_hop
        samples = max(1, round(config.segment_seconds * sizes.sample_rate / hop)) * hop
        options = {"hop_length": sizes.hop_length, "cache": config.cache_audio}
        self.crops = CropDataset(train, samples, config.seed, **options,
                                 features=spoken_frames(train, sizes.hop_length))  # fmt: skip
        held = CropDataset(held_out, samples, length=config.valid_examples,
                           features=spoken_frames(held_out, sizes.hop_length),
                           hop_length=sizes.hop_length)  # fmt: skip
        self.held_out = [held[number] for number in range(config.valid_examples)]
        said = [f"{one.utterance_id} {one.phonemes}" for one in train]
        lengths = [train.length(index) for index in range(len(train))]
        self.data_print = digest_of("", zip(said, lengths, strict=True))
        own = recipe(config.recipe)
        self.weights = [own.weight(f"recon_loss/{part}") for part in ("mel", "wave")]
        self.recipe = own
        self.mel = MultiScaleMelLoss(own.mel, sizes.sample_rate).to(self.fabric.device)
        self._data: Iterator[list[int]] | None = None

    @property
    def audio_seconds(self) -> float:
        """Seconds of speech in a step of all processes."""
        return self.config.batch_size * self.config.segment_seconds

    def open_data(self) -> None:
        """Open the data at the present step."""
        ranks = self.fabric.world_size, self.fabric.global_rank
        self._data = iter(batches(self.config.batch_size, self.step, *ranks))

    def next_batch(self) -> list[dict[str, Any]]:
        """Return this process's crops of the present step."""
        return [self.crops[item] for item in next(self._data)]

    def losses(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return reconstruction, CTC and, with a quantizer, commitment."""
        return self._terms(self.wrapped, batch)[0]

    def _terms(self, module: Any, batch: list[dict[str, Any]]) -> tuple[dict[str, Tensor], Any]:
        """Return the losses of crops, and the recogniser's symbols beside the right ones."""
        wav = torch.stack([crop["wav"] for crop in batch]).to(self.fabric.device)
        out = module(wav)
        found = {"mel": self.mel(out.wav, wav), "wave": waveform_loss(out.wav, wav)}
        total = self.weights[0] * found["mel"] + self.weights[1] * found["wave"]
        for name, each in out.losses.items():  # commitment, and of entries that learn by gradient
            short = name.removesuffix("_loss")
            found[short] = reduce_layers(each, "mean", ())
            total = total + self.recipe.weight(name) * found[short]
        pairs: list[tuple[list[int], list[int]]] = []
        if out.logits is not None and self.config.ctc_weight:
            said = [spoken_within(crop["features"]) for crop in batch]
            frames = out.logits.shape[1]
            rows = [n for n, one in enumerate(said) if one and frames_needed(one) <= frames]
            lengths, targets = torch.full((len(rows),), frames), [said[n] for n in rows]
            found["ctc"] = out.logits.sum() * 0
            if rows:
                found["ctc"] = ctc_loss(out.logits[rows], lengths, targets)
                heard = ctc_greedy(out.logits[rows].detach(), lengths)
                pairs = list(zip(heard, targets, strict=True))
            total = total + self.config.ctc_weight * found["ctc"]
        return {**found, "loss": total}, pairs

    def measure(self, module: ContinuousTokenizer) -> dict[str, float]:
        """Measure the losses of held-out crops, and the recogniser's phoneme error rate."""
        found, pairs = self._terms(module, self.held_out)
        values = {name: float(value) for name, value in found.items()}
        if pairs:
            edits = sum(edit_distance(heard, right) for heard, right in pairs)
            values["per"] = edits / sum(len(right) for _, right in pairs)
        return values

    def names(self, batch: list[dict[str, Any]]) -> list[str]:
        """Name the utterances of a batch."""
        return [self.crops.corpus[int(crop["index"])].utterance_id for crop in batch]

    def write(self, path: Path, steps: int) -> None:
        """Write the averaged weights."""
        card = {"steps": steps, "corpus": self.config.corpus, "recipe": self.config.recipe}
        save_tokenizer(self.average.module, path, {**card, **self.validated}, half=False)


def train_tokenizer(config: TokenizerConfig, fresh: bool = False) -> Path:
    r"""Train a continuous tokenizer, or go on with a run that was interrupted.

    Parameters
    ----------
    config, fresh
        As in ``module_run.train_module``, as is what is returned and raised; ``load_tokenizer``
        reads the weights.
    """
    return train_module(TokenizerRun, config, fresh)


def save_tokenizer(
    tokenizer: ContinuousTokenizer, path: str | Path, card: dict[str, Any], half: bool = True
) -> Path:
    r"""Write a tokenizer to a .safetensors file.

    Parameters
    ----------
    tokenizer, path
        The tokenizer and its file.
    card
        Anything JSON can hold.
    half
        True stores float16.
    """
    return hub.save_module(tokenizer, path, half, {"continuous": asdict(tokenizer.config), **card})


def load_codes_of(
    name_or_path: str | Path, device: str | torch.device = "cpu"
) -> Codec | DiscreteTwin:
    r"""Load what makes codes, by name or path: a codec, or the discrete twin of a tokenizer.

    Parameters
    ----------
    name_or_path
        As in ``hub.load``.
    device
        Where to put it.

    Raises
    ------
    ValueError
        If there is no such file, or it makes no codes.
    """
    path = hub.resolve(name_or_path)
    if "continuous" in hub.read_tensors(path)[0].get("card", {}):
        return DiscreteTwin(load_tokenizer(path).to(device))
    return hub.load(path, device=device)


def load_tokenizer(name_or_path: str | Path) -> ContinuousTokenizer:
    r"""Load a tokenizer by name (``data/checkpoints``) or path, in eval mode; its ``card`` too.

    Raises
    ------
    ValueError
        If there is no such file, or it holds something else.
    """

    def build(card: dict[str, Any]) -> ContinuousTokenizer:
        if "continuous" not in card:
            raise ValueError(f"{name_or_path}: expected the file of a continuous tokenizer")
        values = dict(card)
        tokenizer = build_continuous("small", **values.pop("continuous"))
        tokenizer.card = values
        return tokenizer

    return hub.load_module(name_or_path, build)
