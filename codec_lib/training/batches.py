r"""What a run eats: crops of the training utterances, and fixed crops of held-out ones.

Which crop comes when is decided in ``data/segments.py``, from seed and number alone. So the data
position is the step, any number of workers gives the same batches, and several processes together
see what one process would see.

Read next: ``validation.py``.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from codec_lib.data.corpora import corpus as find_corpus
from codec_lib.data.segments import CropDataset, batches
from codec_lib.data.utterances import Corpus
from codec_lib.training.config import TrainConfig

HELD_OUT = 50  # one utterance in 50 validates where a corpus has no dev split


def training_and_held_out(config: TrainConfig, sample_rate: int) -> tuple[Corpus, Corpus]:
    r"""Return the training utterances and the held-out ones.

    Test utterances are never trained on: only split ``train``, or no split, counts as training.

    Parameters
    ----------
    config
        Names the corpora.
    sample_rate
        Rate of the codec, Hz.

    Returns
    -------
    tuple[Corpus, Corpus]
        Disjoint, neither empty.

    Raises
    ------
    ValueError
        If nothing is left to train or to validate on, or the held-out corpus has training speech.
    """
    whole = find_corpus(config.corpus, sample_rate=sample_rate)
    train = whole.select(lambda utterance: utterance.split in ("train", ""))
    if config.valid_corpus is not None:
        held_out = find_corpus(config.valid_corpus, sample_rate=sample_rate)
        held_out = held_out.split("dev") if "dev" in held_out.splits else held_out
        learnt = {utterance.audio_path for utterance in train}
        if both := sum(utterance.audio_path in learnt for utterance in held_out):
            raise ValueError(
                f"valid_corpus: got {both} utterances of {config.valid_corpus} that are trained "
                "on, expected none"
            )
    elif "dev" in whole.splits:
        held_out = whole.split("dev")
    else:
        chosen = {utterance.utterance_id for utterance in list(train)[::HELD_OUT]}
        held_out = train.select(lambda utterance: utterance.utterance_id in chosen)
        train = train.select(lambda utterance: utterance.utterance_id not in chosen)
    return train, held_out


def digest_of(source: str, utterances: Iterable[tuple[str, int]]) -> str:
    r"""Return a digest of what is learnt from.

    Parameters
    ----------
    source
        Fingerprint of what encodes it; empty for waveforms.
    utterances
        Names and lengths, in order.

    Examples
    --------
    >>> digest_of("", [("a", 3)]) == digest_of("", [("a", 4)])
    False
    """
    lines = "".join(f"\n{name} {length}" for name, length in utterances)
    return hashlib.sha256(f"{source}{lines}".encode()).hexdigest()[:16]


def training_batches(
    config: TrainConfig,
    corpus: Corpus,
    hop_length: int,
    features: Callable[[int], Tensor] | None = None,
    first_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[dict[str, Tensor]]:
    r"""Yield this process's batch of every step from ``first_step`` on.

    Parameters
    ----------
    config
        Batch size, crop length, seed, workers.
    corpus
        Training utterances.
    hop_length
        Samples per frame; crops start at frames, so that teacher features stay aligned.
    features
        Teacher features of an utterance by index, (F, D), or None.
    first_step
        The data position.
    rank, world_size
        This process and the number of processes.

    Yields
    ------
    dict
        ``wav`` (b, 1, T), ``index`` (b,), ``start`` (b,), ``num_valid`` (b,), the samples before
        zeros, and with a teacher ``features`` (b, F, D), where b is the batch size over the number
        of processes.

    Raises
    ------
    ValueError
        If the batch does not divide by the number of processes.
    """
    crops = CropDataset(
        corpus,
        whole_frames(config.segment_seconds, corpus.sample_rate, hop_length),
        seed=config.seed,
        features=features,
        hop_length=hop_length,
        cache=config.cache_audio,
    )
    names = batches(
        config.batch_size, first_step, world_size, rank, num_steps=config.steps - first_step
    )
    loader = DataLoader(
        crops,
        batch_sampler=names,
        num_workers=config.num_workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own, so that the run's random state is not touched
        worker_init_fn=_leave_the_stop_to_the_run,
    )
    yield from loader


def _leave_the_stop_to_the_run(worker: int) -> None:
    """Let a worker outlive a SIGTERM to the whole group: the run saves first and then ends it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def held_out_crops(config: TrainConfig, corpus: Corpus, hop_length: int) -> Tensor:
    r"""Return the crops that every validation reconstructs.

    They do not depend on the run's seed, so that runs with different seeds can be compared.

    Parameters
    ----------
    config
        Number and length of the crops.
    corpus
        Held-out utterances.
    hop_length
        Samples per frame.

    Returns
    -------
    Tensor
        Shape (n, 1, T).
    """
    samples = whole_frames(config.valid_seconds, corpus.sample_rate, hop_length)
    crops = CropDataset(corpus, samples, length=config.valid_crops, hop_length=hop_length)
    return torch.stack([crop["wav"] for crop in crops])


def whole_frames(seconds: float, sample_rate: int, hop_length: int) -> int:
    r"""Return the samples of the nearest whole number of frames, at least one.

    Parameters
    ----------
    seconds
        Length in s.
    sample_rate, hop_length
        Hz; samples of a frame.
    """
    return max(1, round(seconds * sample_rate / hop_length)) * hop_length
