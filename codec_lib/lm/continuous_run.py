r"""Train the language model of continuous tokens, and speak with it.

Notebook: 41. Leaves out: what every run shares (``module_run.py``). Read next: ``heads.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from codec_lib import hub
from codec_lib.codecs.continuous import ContinuousTokenizer

from .config import SMOKE_RUN, ModuleConfig
from .continuous import ContinuousSpeechModel, TokenBatch, build_continuous_model, write_tokens
from .examples import Group, collate_tokens, token_spoken_of
from .joined_run import JoinedRun
from .module_run import train_module
from .speaking import Prompt, written_down
from .tokenizer_run import load_tokenizer


@dataclass(frozen=True)
class ContinuousRunConfig(ModuleConfig):
    r"""Describe one training run of a language model of continuous tokens.

    Attributes
    ----------
    tokenizer
        Name or file of the tokenizer. Utterances of the corpus need texts.
    most_frames, most_joined
        Tokens of an example at most; utterances of one speaker joined in it at most.
    guided_steps
        As in ``LanguageConfig``.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {**SMOKE_RUN, "most_frames": 150},
        "small": {},
        "paper": {
            "scale": "paper",
            "tokenizer": "continuous-paper",
            "batch_size": 64,
            "most_frames": 1050,
            "most_joined": 1,
            "guided_steps": 0,
            "lr": 5e-4,
            "steps": 200_000,
            "corpus": "librispeech/train-clean-100",
            "precision": "bf16-mixed",
        },
    }
    positive: ClassVar[str] = "most_frames most_joined"
    from_zero: ClassVar[str] = "guided_steps"
    tokenizer: str = "continuous-small"
    most_frames: int = 250
    most_joined: int = 3
    guided_steps: int = 5000
    out_dir: str = "runs/continuous"


class ContinuousRun(JoinedRun):
    r"""A run of a language model of continuous tokens; see ``ModuleRun``."""

    title, collated = "language model of continuous tokens", staticmethod(collate_tokens)
    shown: ClassVar[tuple[str, ...]] = ("train/loss", "train/token", "train/stop")
    config: ContinuousRunConfig

    def build(self) -> ContinuousSpeechModel:
        """Make the model, for the tokenizer's width."""
        self.tokenizer = load_tokenizer(self.config.tokenizer).requires_grad_(False)
        overrides = {"token_dim": self.tokenizer.config.token_dim, **self.config.overrides}
        model = build_continuous_model(self.config.scale, **overrides)
        if self.config.init_from is not None:
            model.load_state_dict(load_continuous_model(self.config.init_from).state_dict())
        return model

    def find_data(self) -> None:
        """Encode the corpora, or find their tokens on disk."""
        tokenizer = self.tokenizer.to(self.fabric.device)
        self.frame_rate = tokenizer.token_rate
        encode = partial(token_spoken_of, tokenizer=tokenizer)
        self.hear(tokenizer.sample_rate, encode, tokenizer.fingerprint)

    def about(self) -> str:
        """Return what the data is, for the log."""
        return f"tokens of {Path(self.config.tokenizer).name}, {len(self.spoken)} utterances"

    def losses(self, batch: tuple[list[Group], TokenBatch]) -> dict[str, Tensor]:
        """Return the losses of the next token and of the end."""
        return self.wrapped(batch[1])

    def measure(self, module: ContinuousSpeechModel) -> dict[str, float]:
        """Measure the losses of held-out utterances, with the same noise each time."""
        devices = [self.fabric.device] if self.fabric.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            found = module(self.held_out_batch())
        return {name: float(value) for name, value in found.items()}

    def write(self, path: Path, steps: int) -> None:
        """Write the averaged weights."""
        card = {"steps": steps, "corpus": self.config.corpus}
        card |= {"tokenizer": Path(self.config.tokenizer).name, **self.validated}
        card |= {"tokenizer_fingerprint": self.tokenizer.fingerprint}
        save_continuous_model(self.average.module, path, card, half=False)


def train_continuous_model(config: ContinuousRunConfig, fresh: bool = False) -> Path:
    r"""Train a language model of continuous tokens, or go on with an interrupted run.

    Parameters
    ----------
    config, fresh
        As in ``module_run.train_module``, as is what is returned and raised;
        ``load_continuous_model`` reads the weights.
    """
    return train_module(ContinuousRun, config, fresh)


def save_continuous_model(
    model: ContinuousSpeechModel, path: str | Path, card: dict[str, Any], half: bool = True
) -> Path:
    r"""Write a model to a .safetensors file.

    Parameters
    ----------
    model, path
        The model and its file.
    card
        Anything JSON can hold; ``tokenizer`` names the tokenizer whose tokens it writes.
    half
        True stores float16.
    """
    described = {"continuous_language": asdict(model.config), **card}
    return hub.save_module(model, path, half, described)


def load_continuous_model(name_or_path: str | Path) -> ContinuousSpeechModel:
    r"""Load a model by name (``data/checkpoints``) or path, in eval mode; its ``card`` too.

    Raises
    ------
    ValueError
        If there is no such file, or it holds something else.
    """

    def build(card: dict[str, Any]) -> ContinuousSpeechModel:
        if "continuous_language" not in card:
            raise ValueError(f"{name_or_path}: expected a language model of continuous tokens")
        values = dict(card)
        model = build_continuous_model("small", **values.pop("continuous_language"))
        model.card = values
        return model

    return hub.load_module(name_or_path, build)


@torch.no_grad()
def synthesise_continuous(
    model: ContinuousSpeechModel,
    tokenizer: ContinuousTokenizer,
    texts: Sequence[str],
    prompts: Sequence[Prompt | None],
    seed: int = 0,
    tokens_per_symbol: float = 8.0,
    temperature: float = 1.0,
) -> list[Tensor]:
    r"""Say texts in the voices of prompts; see ``speaking.synthesise``.

    Parameters
    ----------
    model, tokenizer
        In eval mode.
    texts, prompts, seed
        As in ``speaking.synthesise``.
    tokens_per_symbol
        Length guard.
    temperature
        As in ``heads.FlowHead.draw_token``.

    Returns
    -------
    list[Tensor]
        Waveforms (1, T) without the prompts, on the CPU; of no sample where the model ended at
        once.

    Raises
    ------
    ValueError
        If there is not one prompt for each text, the widths differ, or a text has no word.
    """
    width = tokenizer.config.token_dim
    if width != model.config.token_dim:
        raise ValueError(f"tokenizer: got width {width}, expected {model.config.token_dim}")

    def encode(wav: Tensor) -> Tensor:
        return tokenizer.encode(wav.to(tokenizer.device))[0].cpu()

    nothing, pace = torch.zeros(width, 0), model.config.pace
    items, sizes, start = written_down(texts, prompts, encode, nothing, pace)
    most = [max(1, int(tokens_per_symbol * size)) for size in sizes]
    batch = collate_tokens(items).to(model.stop.weight.device)
    start = start.to(batch.text.device)
    written = write_tokens(model, batch, most, seed, start=start, temperature=temperature)
    device = tokenizer.device
    return [tokenizer.decode(one.T[None].to(device))[0].cpu() if len(one) else torch.zeros(1, 0)
            for one in written]  # fmt: skip
