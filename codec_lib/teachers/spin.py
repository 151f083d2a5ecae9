r"""Spin and DC-Spin: units that stay the same when the voice changes.

A linear map takes the top state of a teacher to the unit sphere, where learnt codes lie. Two voices
say the same; each has to name, frame by frame, the code that the other was assigned, and
assignments are balanced over all codes [Chang et al. 2023, Spin]. Only the top two layers learn.
DC-Spin trains a second, larger set of codes beside the first and throws it away afterwards
[Chang et al. 2025, DC-Spin].

Differences: no released code of DC-Spin gives the weight of its second loss, so it is an argument.
Notebook: 21. Leaves out: hard targets and mixed views, which the official code has switched off.
Read next: ``spin_files.py``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from codec_lib.quantizers.ranks import sum_over_ranks
from codec_lib.shapes import check_shape

from .features import Teacher
from .hubert import SmallHubert, weights_digest
from .sinkhorn import sinkhorn

HEADS = ("primary", "auxiliary")


@dataclass(frozen=True)
class SpinSizes:
    r"""Sizes of what Spin adds to a teacher. JSON-able.

    Attributes
    ----------
    num_codes
        Codes of the units.
    num_auxiliary
        Codes of the second head; 0 for plain Spin, 4096 in DC-Spin.
    code_dim
        Width in which frames and codes are compared; 256 as published on a teacher of width 768.
    num_trained
        Layers that learn, from the top; 2 as published.
    """

    num_codes: int = 128
    num_auxiliary: int = 0
    code_dim: int = 128
    num_trained: int = 2


class SpinHead(nn.Module):
    r"""Cosines between frames and codes.

    Parameters
    ----------
    dim, code_dim, num_codes
        Width D of the frames, width of the codes, number K of codes.
    """

    def __init__(self, dim: int, code_dim: int, num_codes: int) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, code_dim)
        self.codes = nn.Parameter(torch.randn(num_codes, code_dim))
        self.normalize_codes()

    def forward(self, state: Tensor) -> Tensor:
        r"""Return cosines (..., K) of frames (..., D) with codes of length 1."""
        return functional.normalize(self.projection(state), dim=-1) @ self.codes.T

    @torch.no_grad()
    def normalize_codes(self) -> None:
        r"""Bring every code to length 1: after each update, before the gradients are cleared."""
        self.codes.copy_(functional.normalize(self.codes, dim=-1))


class Spin(nn.Module):
    r"""A teacher with one or two sets of codes on its top state; itself a teacher.

    Parameters
    ----------
    teacher
        Copied. A ``SmallHubert`` (without the part that predicted hidden units), a
        ``PretrainedTeacher``, a ``BaseHubert``, or any module with ``layers`` and
        ``hidden_states(wav, frames=...)``.
    sizes
        Numbers of codes and of trained layers.
    seed
        Of the new weights.

    Attributes
    ----------
    sample_rate, frame_rate, hop_length, dim, num_layers, fingerprint
        See ``features.Teacher``.
    teacher, heads
        The copy; ``"primary"`` and perhaps ``"auxiliary"``.
    base_fingerprint
        What the teacher said of itself before it was tuned.

    Raises
    ------
    ValueError
        If there are fewer layers than are to be trained, or a number of codes is no such thing.

    Examples
    --------
    >>> from codec_lib.teachers import HubertConfig
    >>> teacher = SmallHubert(HubertConfig(dim=32, num_layers=3, ffn_dim=64))
    >>> spin = Spin(teacher, SpinSizes(num_codes=10)).eval()
    >>> spin.units(torch.randn(2, 1, 16001)).shape
    torch.Size([2, 51])
    """

    def __init__(self, teacher: Teacher, sizes: SpinSizes | None = None, seed: int = 0) -> None:
        super().__init__()
        self.config = sizes = sizes or SpinSizes()
        counts = [sizes.num_codes, *([sizes.num_auxiliary] if sizes.num_auxiliary else [])]
        if min(counts) < 2 or not 1 <= sizes.num_trained <= teacher.num_layers:
            raise ValueError(
                f"spin: got {sizes} on {teacher.num_layers} layers, expected at least 2 codes each "
                f"(or no auxiliary ones) and 1 to {teacher.num_layers} trained layers"
            )
        self.base_fingerprint = teacher.fingerprint
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.teacher = _body(teacher)
            heads = [SpinHead(teacher.dim, sizes.code_dim, count) for count in counts]
        self.heads = nn.ModuleDict(dict(zip(HEADS, heads, strict=False)))
        self.sample_rate, self.hop_length = teacher.sample_rate, teacher.hop_length
        self.frame_rate = teacher.sample_rate / teacher.hop_length
        self.dim, self.num_layers = teacher.dim, teacher.num_layers
        self.to(next(teacher.parameters()).device)
        self.release()

    @property
    def fingerprint(self) -> str:
        r"""16 hexadecimal digits that change whenever a weight or a size does."""
        return weights_digest(self, json.dumps(asdict(self.config), sort_keys=True))

    def trained_parts(self) -> list[nn.Module]:
        r"""Return what learns: the top layers, the norm behind them if there is one, the heads."""
        if hasattr(self.teacher, "layers"):
            layers, norm = self.teacher.layers, getattr(self.teacher, "final_norm", None)
        else:
            model = getattr(self.teacher.model, "wav2vec2", self.teacher.model)
            transformer = model.encoder.transformer
            layers = transformer.layers  # torchaudio's name: the norm comes first, not last
            norm = None if transformer.layer_norm_first else transformer.layer_norm
        top = list(layers[-self.config.num_trained :])
        return [*top, *([] if norm is None else [norm]), self.heads]

    def release(self) -> list[nn.Parameter]:
        r"""Let gradients into the parts that learn, and nowhere else; return their parameters."""
        self.requires_grad_(False)
        for part in self.trained_parts():
            part.requires_grad_(True)
        return [weight for weight in self.parameters() if weight.requires_grad]

    def train(self, mode: bool = True) -> Spin:
        r"""Set the mode of the parts that learn; the rest stays in eval mode: no dropout there."""
        super().train(False)
        for part in self.trained_parts():
            part.train(mode)
        self.training = mode
        return self

    def top_state(self, wav: Tensor, frames: Tensor | None = None) -> Tensor:
        r"""Return the last hidden state, with gradient into the parts that learn.

        Parameters
        ----------
        wav
            Shape (B, 1, T), float32, at ``sample_rate``; nothing is masked.
        frames
            Frames of each item that are no padding, shape (B,); published teachers hear padding.

        Returns
        -------
        Tensor
            Shape (B, F, D), F = ceil(T / hop_length).
        """
        if hasattr(self.teacher, "aligned_states"):
            return self.teacher.aligned_states(wav)[-1]
        return self.teacher.hidden_states(wav, frames=frames)[-1]

    def forward(self, wav: Tensor, frames: Tensor | None = None) -> dict[str, Tensor]:
        r"""Return cosines (B, F, K) by head; arguments as in ``top_state``."""
        state = self.top_state(wav, frames)
        return {name: head(state) for name, head in self.heads.items()}

    @torch.no_grad()
    def units(self, wav: Tensor, head: str = "primary") -> Tensor:
        r"""Return the nearest code of every frame.

        Parameters
        ----------
        wav
            Shape (B, 1, T), float32, at ``sample_rate``.
        head
            ``"primary"`` or ``"auxiliary"``.

        Returns
        -------
        Tensor
            Shape (B, F), int64.

        Raises
        ------
        ValueError
            If there is no such head.
        """
        if head not in self.heads:
            raise ValueError(f"head: got {head!r}, expected one of {list(self.heads)}")
        return self.heads[head](self.top_state(wav)).argmax(-1)

    @torch.no_grad()
    def features(self, wav: Tensor, layer: int | str = "avg") -> Tensor:
        r"""Return (B, F, D) as the teacher does; the top layers are the tuned ones."""
        return self.teacher.features(wav, layer)

    def set_statistics(self, wavs: Iterable[Tensor]) -> None:
        r"""Measure anew what a teacher trained here removes; published ones remove nothing."""
        if hasattr(self.teacher, "set_statistics"):
            self.teacher.set_statistics(wavs)

    def normalize_codes(self) -> None:
        r"""Bring the codes of every head to length 1."""
        for head in self.heads.values():
            head.normalize_codes()

    def without_auxiliary(self) -> Spin:
        r"""Return a copy that has the primary codes only."""
        left = copy.deepcopy(self)
        left.heads = nn.ModuleDict({"primary": left.heads["primary"]})
        left.config = replace(self.config, num_auxiliary=0)
        return left


def _body(teacher: nn.Module) -> nn.Module:
    """Copy a teacher; of a small HuBERT leave behind what predicted hidden units."""
    if not isinstance(teacher, SmallHubert):
        return copy.deepcopy(teacher)
    body = SmallHubert(replace(teacher.config, num_units=1, unit_dim=1))
    fresh = {key: value for key, value in body.state_dict().items() if "unit" in key}
    body.load_state_dict({**teacher.state_dict(), **fresh})
    return body


def swapped_prediction_loss(
    one: Tensor,
    two: Tensor,
    valid: Tensor,
    temperature: float = 0.1,
    epsilon: float = 0.02,
    iterations: int = 3,
) -> dict[str, Tensor]:
    r"""Let each voice predict the codes that the other was assigned.

    .. math:: L = -\frac{1}{2N} \sum_n \sum_k q^{(1)}_{nk} \log p^{(2)}_{nk}
              + q^{(2)}_{nk} \log p^{(1)}_{nk}, \qquad p = \mathrm{softmax}(s / \tau)
              \qquad \text{[Chang et al. 2023, Spin], Eqs. (1)--(3)}

    Parameters
    ----------
    one, two
        Cosines s of the same frames in two voices, shape (N, K).
    valid
        False at padding, shape (N,).
    temperature
        tau.
    epsilon, iterations
        Of the targets q, see ``sinkhorn``; they carry no gradient.

    Returns
    -------
    dict[str, Tensor]
        ``loss``, with gradient; ``agreement``, share of frames whose nearest code is the same in
        both voices; ``perplexity`` of the nearest codes. In a distributed run N counts the frames
        of all processes: losses and gradients are to be summed over them. The other two are of all.
    """
    sizes = check_shape(one, "N K", name="one")
    check_shape(two, "N K", name="two", **sizes)
    count = sum_over_ranks(valid.sum()).clamp_min(1)
    loss = one.new_zeros(())
    for predicted, assigned in ((two, one), (one, two)):
        target = sinkhorn(assigned.detach(), epsilon, iterations, valid)  # (N, K), 0 at padding
        loss = loss - (target * (predicted.float() / temperature).log_softmax(-1)).sum()
    first, second = one.detach().argmax(-1)[valid], two.detach().argmax(-1)[valid]
    used = torch.bincount(torch.cat([first, second]), minlength=sizes["K"])
    share = sum_over_ranks(used).double() / (2 * count)
    return {
        "loss": loss / (2 * count),
        "agreement": sum_over_ranks((first == second).sum()) / count,
        "perplexity": torch.special.entr(share).sum().exp(),
    }
