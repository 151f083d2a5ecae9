r"""What features or codes know: linear probes for phonemes, speakers and words.

A linear probe is a softmax regression on frozen features: it can use only what is laid out in the
open. Fixed seeds, features standardised on the training part, and speakers and sentences of the
test part never seen. For codes the best linear probe on one-hot vectors is known in closed form:
the most frequent label of each code. Phone-normalised mutual information (PNMI): [Hsu et al. 2021,
HuBERT], §IV-D. Probing SpeechTokenizer: [Zhang et al. 2024, SpeechTokenizer].

Notebooks 10, 11 and 12. Leaves out: probes with hidden layers. Read next: ``codec_probe.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from codec_lib import audio
from codec_lib.data import Corpus, Utterance, check_recordings, check_speakers

from .softmax_probe import fit_linear_probe

SILENCE = "sil"
FeatureFunction = Callable[[Tensor], Tensor]  # (1, 1, T) -> (1, F, D) float or (1, F) int64


@dataclass(frozen=True)
class ProbeResult:
    r"""What a probe found. ``to_dict`` makes a row of a result file.

    Attributes
    ----------
    accuracy
        Share of the test items whose label was found.
    balanced_accuracy
        Mean over labels of the share found, so that frequent labels do not count more.
    majority
        Accuracy of always naming the most frequent training label.
    num_classes, num_train, num_test
        Labels, and items (frames or utterances) in each part.
    """

    accuracy: float
    balanced_accuracy: float
    majority: float
    num_classes: int
    num_train: int
    num_test: int

    def to_dict(self) -> dict[str, float]:
        """Return the fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class CodeStatistics:
    r"""How codes and phonemes go together on the same frames; see ``code_statistics``."""

    pnmi: float
    phone_purity: float
    code_purity: float
    perplexity: float
    num_codes: int


def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    epochs: int = 12,
    seed: int = 0,
) -> ProbeResult:
    r"""Fit a softmax regression on frozen features and test it.

    Parameters
    ----------
    train_features, test_features
        Shape (n, D), float; or (n,) int64 codes, each of which then takes its most frequent label.
    train_labels, test_labels
        Shape (n,), int64.
    epochs, seed
        Passes over the training part; seed of its order. Codes need neither.

    Returns
    -------
    ProbeResult
        On the test part.

    Raises
    ------
    ValueError
        If the sizes do not fit or a part is empty.
    """
    if len(train_features) != len(train_labels) or len(test_features) != len(test_labels):
        raise ValueError(
            f"probe: got {len(train_features)} and {len(test_features)} features for "
            f"{len(train_labels)} and {len(test_labels)} labels, expected as many"
        )
    if not len(train_labels) or not len(test_labels):
        raise ValueError(
            f"probe: got {len(train_labels)} and {len(test_labels)} items, expected some"
        )
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    if train_features.ndim == 1:
        found = _most_frequent(train_features, train_labels, classes, test_features)
    else:
        found = _softmax(train_features, train_labels, classes, test_features, epochs, seed)
    return _scored(found, train_labels, test_labels)


def _scored(found: Tensor, train_labels: Tensor, test_labels: Tensor) -> ProbeResult:
    """Count how many labels of the test part were found."""
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    common = torch.bincount(train_labels, minlength=classes).argmax()
    hit = (found == test_labels).double()
    count = torch.bincount(test_labels, minlength=classes)
    hits = torch.bincount(test_labels, hit, minlength=classes)
    return ProbeResult(
        accuracy=float(hit.mean()),
        balanced_accuracy=float((hits / count)[count > 0].mean()),
        majority=float((test_labels == common).double().mean()),
        num_classes=classes,
        num_train=len(train_labels),
        num_test=len(test_labels),
    )


def _most_frequent(codes: Tensor, labels: Tensor, classes: int, tested: Tensor) -> Tensor:
    """Name the most frequent label of each code; of an unseen code, that of all."""
    size = int(max(codes.max(), tested.max())) + 1
    table = torch.bincount(codes * classes + labels, minlength=size * classes).view(size, classes)
    table[table.sum(1) == 0] = table.sum(0)
    return table.argmax(1)[tested]


def _softmax(
    features: Tensor, labels: Tensor, classes: int, tested: Tensor, epochs: int, seed: int
) -> Tensor:
    """Fit a softmax regression and name the labels of the tested part."""
    name = fit_linear_probe(features, labels, classes, epochs, seed)
    return torch.cat([name(rows) for rows in tested.split(65536)])


def phoneme_frames(
    extract: FeatureFunction,
    corpus: Corpus,
    symbols: Sequence[str],
    max_frames: int = 60_000,
    silence: bool = False,
    seed: int = 0,
    frame_rate: float = 50.0,
) -> tuple[Tensor, Tensor]:
    r"""Collect frames and the phoneme in the middle of each.

    Parameters
    ----------
    extract
        Function from a waveform (1, 1, T) to features (1, F, D) or codes (1, F).
    corpus
        Aligned utterances.
    symbols
        Names of the labels, in order.
    max_frames
        Frames to collect at most, spread evenly over all utterances.
    silence
        True counts silence as a phoneme; it is easy and makes every figure better.
    seed
        Of the choice of frames.
    frame_rate
        Frames per second of ``extract``.

    Returns
    -------
    tuple[Tensor, Tensor]
        Features (n, D) or codes (n,), and labels (n,) int64. Bad files are left out; ``ValueError``
        if all are.
    """
    number = {symbol: label for label, symbol in enumerate(symbols)}
    number |= {} if silence else {SILENCE: -1}
    rng, kept, labels = np.random.default_rng(seed), [], []
    for index, utterance in enumerate(corpus):
        try:
            wav = corpus.load(index)[None]  # (1, 1, T)
        except audio.AudioError:
            continue  # the corpus has reported it
        with torch.no_grad():
            frames = extract(wav)[0].cpu()  # (F, D) or (F,)
        named = utterance.frame_symbols(frame_rate, len(frames))
        label = torch.tensor([number.get(one, -1) for one in named], dtype=torch.int64)
        rows = torch.nonzero(label >= 0).flatten()
        share = max(1, round(1.25 * max_frames / len(corpus)))  # a little more than needed
        rows = rows[torch.from_numpy(rng.permutation(len(rows))[:share].copy())]
        kept.append(frames[rows])
        labels.append(label[rows])
    _check_some(corpus, kept)
    features, label = torch.cat(kept), torch.cat(labels)
    chosen = torch.from_numpy(np.sort(rng.permutation(len(label))[:max_frames]))
    return features[chosen], label[chosen]


def phoneme_probe(
    extract: FeatureFunction,
    train: Corpus,
    test: Corpus,
    max_train_frames: int = 60_000,
    max_test_frames: int = 30_000,
    silence: bool = False,
    seed: int = 0,
    frame_rate: float = 50.0,
) -> ProbeResult:
    r"""Measure how well frames tell which phoneme is spoken, to speakers never heard.

    Parameters
    ----------
    extract
        Function from a waveform (1, 1, T) to features (1, F, D), e.g. a teacher's or the codebook
        vectors of RVQ-1, or to codes (1, F), e.g. ``lambda wav: codec.encode(wav, 1).codes[:, 0]``.
    train, test
        Aligned corpora without common speakers or sentences, e.g. ``corpus("synthetic", "train")``
        and ``"test"``.
    max_train_frames, max_test_frames
        Frames used at most.
    silence
        True counts silence as a phoneme.
    seed
        Of the choice of frames and of the probe.
    frame_rate
        Frames per second of ``extract``.

    Returns
    -------
    ProbeResult
        On the test corpus.

    Raises
    ------
    ValueError
        If a corpus is not aligned, or a speaker or a recording is in both.
    """
    check_speakers(train, [test])
    symbols = sorted(set(train.phoneme_set) | set(test.phoneme_set) | {SILENCE})
    how = silence, seed, frame_rate
    features, labels = phoneme_frames(extract, train, symbols, max_train_frames, *how)
    tested, truth = phoneme_frames(extract, test, symbols, max_test_frames, *how)
    return linear_probe(features, labels, tested, truth, seed=seed)


def utterance_probe(
    extract: FeatureFunction,
    train: Corpus,
    test: Corpus,
    label: Callable[[Utterance], Any],
    num_codes: int | None = None,
    seed: int = 0,
) -> ProbeResult:
    r"""Measure how well a whole utterance's features tell its word or its speaker.

    Features are pooled to the means of the first, second and last third and the standard deviation
    over time (the mean of all would be 0 for features normalised per utterance); codes to the share
    of each.

    Parameters
    ----------
    extract
        As in ``phoneme_probe``.
    train, test
        Corpora without common recordings; for words without common speakers, for speakers with the
        same ones.
    label
        Function from an utterance to its label, e.g. ``lambda u: u.label`` or ``u.speaker_id``.
    num_codes
        Size of the codebook, where ``extract`` gives codes.
    seed
        Of the probe.

    Returns
    -------
    ProbeResult
        On the test corpus; labels that only occur there count as missed.

    Raises
    ------
    ValueError
        If a recording is in both corpora.
    """
    check_recordings(train, [test])
    names = sorted({str(label(one)) for corpus in (train, test) for one in corpus})
    known, truth = pooled_features(extract, train, label, names, num_codes)
    tested, expected = pooled_features(extract, test, label, names, num_codes)
    return linear_probe(known.flatten(1), truth, tested.flatten(1), expected, epochs=60, seed=seed)


def pooled_features(
    extract: FeatureFunction,
    corpus: Corpus,
    label: Callable[[Utterance], Any],
    names: Sequence[str],
    num_codes: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Pool the features of each utterance over time.

    Parameters
    ----------
    extract, corpus, label, num_codes
        As in ``utterance_probe``.
    names
        Labels in order.

    Returns
    -------
    tuple[Tensor, Tensor]
        Means of the three thirds and standard deviation, shape (n, D, 4), or shares of the codes
        (n, num_codes); and labels (n,) int64. Bad files are left out; ``ValueError`` if all are.
    """
    pooled, labels = [], []
    for index, utterance in enumerate(corpus):
        try:
            wav = corpus.load(index)[None]  # (1, 1, T)
        except audio.AudioError:
            continue  # the corpus has reported it
        with torch.no_grad():
            pooled.append(_pool(extract(wav)[0].cpu(), num_codes))
        labels.append(names.index(str(label(utterance))))
    _check_some(corpus, pooled)
    return torch.stack(pooled), torch.tensor(labels)


def _check_some(corpus: Corpus, heard: Sequence[Tensor]) -> None:
    """Raise ValueError where no utterance of a corpus could be read."""
    if not heard:
        raise ValueError(f"{corpus.name}: got {len(corpus)} bad files, expected one that is good")


def _pool(frames: Tensor, num_codes: int | None) -> Tensor:
    """Pool frames (F, D) to (D, 4), or codes (F,) to their shares (num_codes,)."""
    if frames.ndim == 1:
        if num_codes is None:
            raise ValueError("num_codes: got None for codes, expected the size of the codebook")
        return torch.bincount(frames, minlength=num_codes).float() / len(frames)
    thirds = functional.adaptive_avg_pool1d(frames.float().T[None], 3)[0]  # (D, 3)
    return torch.cat([thirds, frames.float().std(0, correction=0)[:, None]], 1)


def code_statistics(codes: Tensor, labels: Tensor) -> CodeStatistics:
    r"""Measure how codes and phonemes go together.

    .. math:: \mathrm{PNMI} = \frac{I(X; Y)}{H(X)} = 1 - \frac{H(X \mid Y)}{H(X)}

    Parameters
    ----------
    codes
        Codes Y, shape (n,), int64.
    labels
        Phonemes X, shape (n,), int64.

    Returns
    -------
    CodeStatistics
        ``pnmi``: share of the uncertainty about the phoneme that the code removes; grows with the
        number of codes, so compare only equal numbers. ``phone_purity``: share of frames that have
        the most frequent phoneme of their code. ``code_purity``: share that have the most frequent
        code of their phoneme. ``perplexity`` of the codes. ``num_codes`` that occur. ``ValueError``
        if there are no labels.

    Examples
    --------
    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> code_statistics(torch.tensor([5, 5, 7, 7]), labels).pnmi
    1.0
    """
    if not len(labels):
        raise ValueError("labels: got none, expected some. Hint: is all of it silence?")
    width = int(labels.max()) + 1
    table = torch.bincount(codes * width + labels, minlength=(int(codes.max()) + 1) * width)
    joint = table.view(-1, width).double() / len(codes)  # (codes, phonemes)
    of_code, of_phone = joint.sum(1), joint.sum(0)
    entropy = torch.special.entr(of_phone).sum()
    conditional = torch.special.entr(joint).sum() - torch.special.entr(of_code).sum()  # H(X | Y)
    return CodeStatistics(
        pnmi=float(1 - conditional / entropy) if entropy > 0 else 0.0,
        phone_purity=float(joint.amax(1).sum()),
        code_purity=float(joint.amax(0).sum()),
        perplexity=float(torch.special.entr(of_code).sum().exp()),
        num_codes=int((of_code > 0).sum()),
    )
