r"""Lexical tone: does it survive when features become units?

A syllable, trimmed and stretched to a fixed number of frames (its length would tell the tone), goes
through an LSTM whose last state names the tone, or, as a check, the vowel [Osakuade and King 2024].
The same probe hears continuous features, embedded k-means units, the centroids of these units (what
is lost by clustering alone, without a table to learn), units of the residual on top, and units that
were made with tone in mind: a second codebook on the contour of the pitch. Rows say how many bits.

Notebook 34. Leaves out: sentences, languages other than Mandarin. Read next: ``syllables.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from codec_lib import audio
from codec_lib.data import Corpus
from codec_lib.data.mandarin import main_vowel
from codec_lib.teachers.kmeans import KMeans, fit_kmeans

from .probes import ProbeResult, _scored

FRAMES = 25  # of a syllable after stretching
_QUIET = 30.0  # dB below the loudest frame: what is trimmed


@dataclass(frozen=True)
class Syllables:
    r"""Syllables as the probe hears them.

    Attributes
    ----------
    features
        Shape (N, L, D), float32.
    tones, vowels
        Shape (N,), int64; numbers into ``tone_names`` and ``vowel_names``.
    speakers, syllables
        Of each: who says it; its label, the unit of an interval over syllables.
    """

    features: Tensor
    tones: Tensor
    vowels: Tensor
    speakers: list[str]
    tone_names: Sequence[str]
    vowel_names: Sequence[str]
    syllables: list[str] = field(default_factory=list)


@torch.no_grad()
def syllables_of(
    extract: Callable[[Tensor], Tensor],
    corpus: Corpus,
    tones: Sequence[str] = ("1", "2", "3", "4"),
    vowels: Sequence[str] = ("a", "e", "i", "o", "u", "v"),
    frames: int = FRAMES,
) -> Syllables:
    r"""Compute the features of every syllable, at one length.

    Parameters
    ----------
    extract
        Function from a waveform (1, 1, T) to features (1, F, D).
    corpus
        Single syllables with ``label`` (pinyin) and ``tone``; those of other tones and bad files
        are left out.
    tones, vowels
        Classes, in order.
    frames
        Length L; frames are interpolated linearly.

    Returns
    -------
    Syllables
        In the corpus's order.

    Raises
    ------
    ValueError
        If there is no syllable with one of the tones.
    """
    found, tone, vowel, said = [], [], [], []
    for index, utterance in enumerate(corpus):
        if utterance.tone not in tones:
            continue
        try:
            wav = trimmed(corpus.load(index), corpus.sample_rate)
        except audio.AudioError:
            continue  # the corpus has reported it
        heard = extract(wav[None])[0].float().cpu()  # (F, D)
        found.append(functional.interpolate(heard.T[None], frames, mode="linear")[0].T)
        tone.append(list(tones).index(utterance.tone))
        vowel.append(list(vowels).index(main_vowel(utterance.label)))
        said.append((utterance.speaker_id, utterance.label))
    if not found:
        raise ValueError(f"{corpus.name}: got no syllable of tones {list(tones)}, expected some")
    speakers, labels = ([*column] for column in zip(*said, strict=True))
    numbers = torch.tensor(tone), torch.tensor(vowel)
    return Syllables(torch.stack(found), *numbers, speakers, tones, vowels, labels)


def trimmed(wav: Tensor, sample_rate: int) -> Tensor:
    r"""Cut silence off both ends of wav (1, T): frames of 10 ms 30 dB below the loudest one."""
    hop = sample_rate // 100
    level = (
        wav[0].unfold(0, hop, hop).square().mean(-1) if wav.shape[-1] >= hop else wav.new_ones(1)
    )
    loud = torch.nonzero(level > level.max() * 10 ** (-_QUIET / 10))[:, 0]
    if not len(loud):  # all silent
        return wav
    return wav[:, int(loud[0]) * hop : (int(loud[-1]) + 1) * hop]


class SequenceProbe(nn.Module):
    r"""An LSTM over frames or embedded units, whose last state names a class.

    Parameters
    ----------
    num_classes
        Classes.
    dim
        Width of features; 0 for units.
    num_codes
        Sizes of K codebooks, whose embeddings are put side by side; empty for features.
    hidden, width
        Of the LSTM; of each embedding.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int = 0,
        num_codes: Sequence[int] = (),
        hidden: int = 128,
        width: int = 50,
    ) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in num_codes)
        self.lstm = nn.LSTM(dim or width * len(num_codes), hidden, batch_first=True)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        r"""Map features (B, L, D) or units (B, L, K) to logits (B, classes)."""
        x = inputs
        if len(self.tables):
            x = torch.cat([table(inputs[..., k]) for k, table in enumerate(self.tables)], -1)
        return self.head(self.lstm(x)[1][0][-1])


def sequence_probe(
    known: Tensor,
    labels: Tensor,
    tested: Tensor,
    expected: Tensor,
    num_codes: Sequence[int] = (),
    epochs: int = 20,
    batch_size: int = 32,
    seed: int = 0,
) -> ProbeResult:
    r"""Train an LSTM to name a class, as the study did; test it.

    Parameters
    ----------
    expected
        Classes of the tested part, shape (N,), int64.
    known, labels, tested, num_codes, epochs, batch_size, seed
        As in ``named_by_probe``.

    Returns
    -------
    ProbeResult
        On the tested part.
    """
    classes = int(max(labels.max(), expected.max())) + 1
    options = (num_codes, epochs, batch_size, seed, 1e-3, classes)
    return _scored(named_by_probe(known, labels, tested, *options), labels, expected)


def named_by_probe(
    known: Tensor,
    labels: Tensor,
    tested: Tensor,
    num_codes: Sequence[int] = (),
    epochs: int = 20,
    batch_size: int = 32,
    seed: int = 0,
    learning_rate: float = 1e-3,
    num_classes: int | None = None,
) -> Tensor:
    r"""Train an LSTM to name a class, as the study did; return what it names.

    Parameters
    ----------
    known, tested
        Features (N, L, D), standardised here on the known ones; or units (N, L, K) int64.
    labels
        Shape (N,), int64, of the known part.
    num_codes
        Sizes of the K codebooks; empty for features.
    epochs, batch_size, seed, learning_rate
        Of Adam; the study has 20, 32 and 1e-3.
    num_classes
        One more than the largest label by default.

    Returns
    -------
    Tensor
        Classes of the tested part, shape (N,), int64: for a confusion matrix, or to compare two
        probes item by item.
    """
    if not num_codes:
        mean, scale = known.mean((0, 1)), known.std((0, 1)).clamp_min(1e-5)
        known, tested = (known - mean) / scale, (tested - mean) / scale
    classes = num_classes or int(labels.max()) + 1
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        probe = SequenceProbe(classes, 0 if num_codes else known.shape[-1], num_codes)
        optimizer = torch.optim.Adam(probe.parameters(), learning_rate)
        for _ in range(epochs):
            for rows in torch.randperm(len(known)).split(batch_size):
                loss = functional.cross_entropy(probe(known[rows]), labels[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
    probe.eval()
    with torch.no_grad():
        return torch.cat([probe(part).argmax(-1) for part in tested.split(256)])


@dataclass(frozen=True)
class Discretiser:
    r"""Codebooks fitted to frames, each on what it is given.

    Attributes
    ----------
    name
        For the table.
    books
        k-means of each codebook.
    columns
        Which columns of the features each codebook hears.
    residual
        True gives the second codebook what the first one leaves over.
    """

    name: str
    books: Sequence[KMeans]
    columns: Sequence[slice]
    residual: bool = False

    def units(self, features: Tensor) -> Tensor:
        r"""Map features (N, L, D) to units (N, L, K)."""
        found, left = [], features
        for book, columns in zip(self.books, self.columns, strict=True):
            heard = left[..., columns]
            found.append(book(heard))
            if self.residual:
                left = heard - book.centres[found[-1]]
        return torch.stack(found, -1)

    def centroids(self, features: Tensor) -> Tensor:
        r"""Map features (N, L, D) to what their units stand for, of the same widths."""
        units = self.units(features)
        parts = [book.centres[units[..., k]] for k, book in enumerate(self.books)]
        return sum(parts[1:], start=parts[0]) if self.residual else torch.cat(parts, -1)


def discretise(
    known: Tensor, sizes: Sequence[int], how: str = "k-means", split: int = 0, seed: int = 0
) -> Discretiser:
    r"""Fit codebooks to the frames of syllables.

    Parameters
    ----------
    known
        Shape (N, L, D), of training speakers.
    sizes
        Units of each codebook.
    how
        ``"k-means"`` (one codebook), ``"residual"`` (the second clusters what the first leaves) or
        ``"task-aware"`` (the first hears the columns before ``split``, the second those from it on,
        e.g. the contour of the pitch).
    split
        Column where the second part begins.
    seed
        Of k-means.

    Raises
    ------
    ValueError
        If there is no such way, or not as many sizes as it needs.
    """
    wanted = {"k-means": 1, "residual": 2, "task-aware": 2}
    if how not in wanted or len(sizes) != wanted[how]:
        raise ValueError(f"discretise: got {how!r} and sizes {list(sizes)}, expected {wanted}")
    rows = known.flatten(0, 1)
    columns = [slice(None)] * len(sizes)
    if how == "task-aware":
        columns = [slice(0, split), slice(split, None)]
    books, left = [], rows
    for size, chosen in zip(sizes, columns, strict=True):
        heard = left[:, chosen]
        books.append(fit_kmeans([heard], size, seed=seed))
        if how == "residual":
            left = heard - books[-1].centres[books[-1](heard)]
    return Discretiser(f"{how} {'+'.join(map(str, sizes))}", books, columns, how == "residual")


def pitch_contour(contour: np.ndarray, frames: int) -> Tensor:
    r"""Return the shape of a pitch contour, (L, 3): log pitch less its mean, slope, voicing.

    Parameters
    ----------
    contour
        Shape (F,), Hz, 0 where unvoiced.
    frames
        Length L.
    """
    voiced = contour > 0
    if voiced.sum() < 2:
        return torch.zeros(frames, 3)
    place = np.arange(len(contour))
    log = np.interp(place, place[voiced], np.log2(contour[voiced]))
    log -= log[voiced].mean()
    rows = np.stack([12 * log, 12 * np.gradient(log), voiced.astype(np.float64)], -1)
    stretched = functional.interpolate(torch.from_numpy(rows.T[None]), frames, mode="linear")
    return stretched[0].T.float()


def check_voices(known: Sequence[str], tested: Sequence[str]) -> None:
    r"""Raise ValueError where a voice is learnt from and tested, unless only one is learnt from."""
    learnt, heard = ({name.rpartition("/")[2] for name in part} - {""} for part in (known, tested))
    if len(learnt) > 1 and learnt & heard:
        raise ValueError(
            f"speakers: got {sorted(learnt & heard)[:3]} in both parts, expected other voices to "
            "test on than to learn from"
        )


def tone_rows(
    known: Syllables,
    tested: Syllables,
    discretisers: Sequence[Discretiser],
    epochs: int = 20,
    seeds: Sequence[int] = (0,),
) -> list[dict[str, Any]]:
    r"""Probe tone and vowel from features, from units and from their centroids.

    Parameters
    ----------
    known, tested
        Of other voices; see ``check_voices``.
    discretisers
        See ``discretise``.
    epochs, seeds
        Of the probes; a row per seed.

    Returns
    -------
    list[dict]
        Rows with ``input`` (``"features"``, ``"units"``, ``"centroids"``), ``discretiser``,
        ``bits`` of a frame, ``seed``, ``tone`` and ``vowel`` accuracy, their majorities.

    Raises
    ------
    ValueError
        As ``check_voices``.
    """
    check_voices(known.speakers, tested.speakers)
    sets: list[tuple[str, str, float, Tensor, Tensor, tuple[int, ...]]] = []
    sets.append(("features", "", float("inf"), known.features, tested.features, ()))
    for one in discretisers:
        sizes = tuple(book.num_units for book in one.books)
        bits = float(np.log2(np.array(sizes)).sum())
        both = [one.units(part.features) for part in (known, tested)]
        sets.append(("units", one.name, bits, *both, sizes))
        both = [one.centroids(part.features) for part in (known, tested)]
        sets.append(("centroids", one.name, bits, *both, ()))
    rows = []
    for name, how, bits, train, test, sizes in sets:
        for seed in seeds:
            row: dict[str, Any] = {"input": name, "discretiser": how, "bits": bits, "seed": seed}
            for label in ("tone", "vowel"):
                truth, right = getattr(known, f"{label}s"), getattr(tested, f"{label}s")
                found = sequence_probe(train, truth, test, right, sizes, epochs, seed=seed)
                row |= {label: found.accuracy, f"{label}_majority": found.majority}
            rows.append(row)
    return rows
