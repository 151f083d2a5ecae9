r"""Speech to train on and to measure with: synthetic, recorded, cut into crops.

``corpus(name)`` is the one door: it returns a ``Corpus`` of ``Utterance``; ``CropDataset`` cuts
training crops out of it. Read next: ``utterances.py``.
"""

from .corpora import check_recordings, check_speakers, corpus, describe, found, join
from .pronunciation import pronounce
from .segments import CropDataset, batches
from .synthetic import make_synthetic
from .utterances import Corpus, Phoneme, Utterance
from .words import Word, word_times, words_at_frames

__all__ = [
    "Corpus",
    "CropDataset",
    "Phoneme",
    "Utterance",
    "Word",
    "batches",
    "check_recordings",
    "check_speakers",
    "corpus",
    "describe",
    "found",
    "join",
    "make_synthetic",
    "pronounce",
    "word_times",
    "words_at_frames",
]
