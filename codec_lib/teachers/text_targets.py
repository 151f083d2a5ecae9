r"""What a language model says of an utterance, frame by frame: the text targets of DM-Codec.

[DM-Codec] compares the output of a quantizer with vectors of a language model that has read the
transcript. A language model has no clock: its vectors are one per piece of a word. Two forms:

* ``"aligned"``, the default: every frame inside a word gets that word's vector; of frames in pauses
  nothing is said. The times come from known phonemes (``data/words.py``) or from CTC
  (``alignment.py``).
* ``"padded"``, as in the released code: the pieces of a 3 s clip, filled up with [PAD] to the
  number of its frames, stand one after the other from the clip's first frame on, so that piece i
  meets frame i whatever is said there, and most frames meet what the model says of [PAD].

Utterances without text, without times, or with a text that does not fit what is heard have no
target; their crops teach speech alone. Aligning and reading take longer than a training step, so a
run keeps what comes out on disk (``TextCache``). Used by notebook 11. Leaves out: recognising the
text of untranscribed speech, which the paper leaves to wav2vec 2.0.
Read next: ``codec_lib/training/teaching.py``.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from codec_lib import audio, paths
from codec_lib.data import Corpus
from codec_lib.data.words import Word, accent_of, word_times, words_at_frames

from .features import FeatureCache
from .text import TextTeacher

if TYPE_CHECKING:
    from .ctc import CtcRecogniser

_log = logging.getLogger(__name__)
_SHARED = 10  # frames that share a row of the aligned form, about
_RUN = 1024  # equal frames that one row of a file stands for at most: float16 counts them exactly
FORMS = ("aligned", "padded")


class TextTargets:
    r"""Function from utterance index to text vectors over time, for ``CropDataset(features=...)``.

    Parameters
    ----------
    encoder
        Reads the text, see ``text.TextTeacher``.
    corpus
        The utterances.
    layer
        Hidden state of the encoder, or ``"avg"``.
    form
        ``"aligned"`` or ``"padded"``.
    recogniser
        Finds the times of words where phonemes are not known, at 16 kHz; without it such utterances
        have no target.
    hop_length
        Samples of a frame at the corpus's rate.
    window
        Frames of a clip of the padded form; 150 are 3 s at 50 Hz.
    max_kept
        Utterances whose words are kept in memory.

    Attributes
    ----------
    dim
        Width D_T of the vectors.
    num_spoken
        Utterances with text that can be placed in time.
    failures
        Those of them found to have no target, by index, and why; each was logged once.

    Raises
    ------
    ValueError
        If the form is unknown, no utterance can have a target, or a recogniser is given and the
        corpus is not heard at 16 kHz.
    """

    def __init__(
        self,
        encoder: TextTeacher,
        corpus: Corpus,
        layer: int | str = "avg",
        form: str = "aligned",
        recogniser: CtcRecogniser | None = None,
        hop_length: int = 320,
        window: int = 150,
        max_kept: int = 1000,
    ) -> None:
        if form not in FORMS:
            raise ValueError(f"form: got {form!r}, expected one of {FORMS}")
        self.encoder, self.corpus, self.layer, self.form = encoder, corpus, layer, form
        self.recogniser, self.hop_length, self.window = recogniser, hop_length, window
        self.dim, self.failures = encoder.dim, {}
        if recogniser is not None:
            from .alignment import check_rate  # needs espeak-ng and torchaudio, this file does not

            check_rate(corpus)
        self.num_spoken = sum(map(self._is_timed, range(len(corpus))))
        if not self.num_spoken:
            raise ValueError(
                f"{corpus.name}: got no utterance with text and phonemes, expected some. Hint: the "
                "synthetic corpus has both; with text alone, give a recogniser that aligns it."
            )
        self._kept: OrderedDict[int, tuple[list[Word], Tensor]] = OrderedDict()
        self._max_kept = max_kept

    def _is_timed(self, index: int) -> bool:
        """Return whether the words of an utterance can be placed in time."""
        utterance = self.corpus[index]
        return bool(utterance.text and (utterance.phonemes or self.recogniser is not None))

    def is_spoken(self, index: int) -> bool:
        r"""Return whether an utterance has words with times, as far as is known."""
        return self._is_timed(index) and index not in self.failures

    def __call__(self, index: int) -> Tensor:
        r"""Return the vectors of one utterance.

        Parameters
        ----------
        index
            Utterance in the corpus.

        Returns
        -------
        Tensor
            Shape (F, D_T + 1), float16, F = ceil(T / hop_length): vectors, and 1 at the frames that
            have one; all 0 elsewhere, and everywhere where the text does not fit.

        Raises
        ------
        codec_lib.audio.AudioError
            If the recogniser is to hear a file that cannot be read.
        """
        frames = -(-self.corpus.length(index) // self.hop_length)
        if self.is_spoken(index):
            try:
                return self._over_time(index, frames)
            except audio.AudioError:
                raise
            except ValueError as error:  # text and recording do not fit, or the text is too long
                self.failures[index] = str(error)
                _log.warning("%s: no text target: %s", self.corpus[index].utterance_id, error)
        return torch.zeros(frames, self.dim + 1, dtype=torch.float16)

    def words(self, index: int) -> list[Word]:
        r"""Return the words of an utterance with their times in samples, none where unknown."""
        return self._words(index)[0] if self.is_spoken(index) else []

    @torch.no_grad()
    def with_words(self, index: int, others: Sequence[str]) -> Tensor:
        r"""Return the target of an utterance as if other words were said in it: a control.

        The times and the frames that count stay those of the utterance; in the padded form so does
        the number of letters of every clip. A student that does no worse on this target than on
        that of a call has learnt rhythm, pauses or padding, and nothing about the words.

        Parameters
        ----------
        index
            Utterance in the corpus.
        others
            Words to put in the place of its own, as many as needed; repeated if they are too few.

        Returns
        -------
        Tensor
            Shape (F, D_T + 1), float16, as of a call.

        Raises
        ------
        ValueError
            If there is no other word, or one is empty.
        """
        if not others or not all(word.strip() for word in others):
            raise ValueError(f"others: got {list(others)}, expected at least one, and none empty")
        target, words = self(index), self.words(index)
        rate = self.corpus.sample_rate / self.hop_length
        spoken = words_at_frames(words, len(target), rate, self._rate_of(index))
        if self.form == "aligned":
            vectors = self.encoder.encode(others[: len(words) or 1], self.layer).cpu()
            target[:, :-1] = vectors[spoken % len(vectors)] * target[:, -1:]
            return target
        texts, rest = [], ""
        for own in self._clips(words, spoken):
            while len(rest) < len(own):
                rest = " ".join([rest, *others]).lstrip()
            texts.append(rest[: len(own)])
            rest = rest[len(own) :].lstrip()
        return self._padded(texts, len(target))

    def _over_time(self, index: int, frames: int) -> Tensor:
        """Lay the vectors of an utterance over its frames: (F, D_T + 1)."""
        words, vectors = self._words(index)
        rate = self.corpus.sample_rate / self.hop_length
        spoken = words_at_frames(words, frames, rate, self._rate_of(index))
        if self.form == "padded":
            return self._padded(self._clips(words, spoken), frames)
        said = (spoken >= 0)[:, None]
        return torch.cat([vectors[spoken.clamp_min(0)] * said, said], 1).half()

    def _rate_of(self, index: int) -> int:
        """Return the rate in which the times of an utterance's words are counted, Hz."""
        utterance = self.corpus[index]
        return utterance.sample_rate if utterance.phonemes else self.corpus.sample_rate

    @torch.no_grad()
    def _words(self, index: int) -> tuple[list[Word], Tensor]:
        """Return the words of an utterance and their vectors (W, D_T)."""
        if index not in self._kept:
            utterance = self.corpus[index]
            if utterance.phonemes:
                words = word_times(utterance)
            else:
                from .alignment import align_utterance

                wav = self.corpus.load(index)
                words = align_utterance(self.recogniser, wav, utterance.text)[1]
            vectors = self.encoder.encode([word.text for word in words], self.layer).cpu()
            self._kept[index] = words, vectors.half().float()
        self._kept.move_to_end(index)
        if len(self._kept) > self._max_kept:
            self._kept.popitem(last=False)
        return self._kept[index]

    def _clips(self, words: list[Word], spoken: Tensor) -> list[str]:
        """Return the text of each clip of ``window`` frames, empty where nobody speaks."""
        numbers = [clip[clip >= 0].unique().tolist() for clip in spoken.split(self.window)]
        return [" ".join(words[number].text for number in clip) for clip in numbers]

    def _padded(self, texts: list[str], frames: int) -> Tensor:
        """Pair piece i with frame i of each clip: (F, D_T + 1)."""
        targets = torch.zeros(frames, self.dim + 1)
        for text, clip in zip(texts, targets.split(self.window), strict=True):  # views
            if text:
                clip[:, :-1] = self.encoder.hidden_pieces(text, self.layer, len(clip)).cpu()
                clip[:, -1] = 1
        return targets.half()


class TextCache(FeatureCache):
    r"""Text targets kept on disk, so that crops wait neither for a recogniser nor for a reader.

    A file is found by the sha256 of the audio, by the text and the phonemes known of it, and by
    what made it: reader, layer, form, recogniser and sizes. Equal neighbours share a row, so the
    aligned form takes a tenth of what features of speech take.

    Parameters
    ----------
    targets
        What to keep. Texts that do not fit are not kept, but tried and logged again by every run.
    root
        Folder of the cache; ``cache_root() / "text"`` by default.
    disk_bytes
        See ``FeatureCache``.
    """

    def __init__(
        self,
        targets: TextTargets,
        root: str | Path | None = None,
        disk_bytes: int | None = None,
    ) -> None:
        self.targets, encoder = targets, targets.encoder
        heard = targets.recogniser.fingerprint if targets.recogniser is not None else ""
        made = [encoder.fingerprint, heard, targets.form, targets.hop_length, targets.window]
        described = SimpleNamespace(
            sample_rate=targets.corpus.sample_rate,
            hop_length=targets.hop_length,
            dim=targets.dim + 1,
            num_layers=encoder.num_layers,
            fingerprint=hashlib.sha256(repr(made).encode()).hexdigest()[:16],
        )
        root = root or paths.cache_root() / "text"
        super().__init__(described, targets.corpus, targets.layer, root, disk_bytes=disk_bytes)

    def __call__(self, index: int) -> Tensor:
        r"""Return the vectors of one utterance; see ``TextTargets``."""
        return super().__call__(index) if self.targets.is_spoken(index) else self.targets(index)

    def _file(self, index: int) -> Path:
        """Name the file of an utterance by its audio and by what is known to be said in it."""
        file, one = super()._file(index), self.corpus[index]
        known = repr((one.text, one.phonemes, one.sample_rate, accent_of(one)))
        return file.with_stem(f"{file.stem}-{hashlib.sha256(known.encode()).hexdigest()[:16]}")

    def _is_wanted(self, index: int) -> bool:
        """Return whether an utterance has a target to be kept, as far as is known."""
        return super()._is_wanted(index) and self.targets.is_spoken(index)

    def _size(self, index: int) -> int:
        """Return the bytes that an utterance takes on disk, about."""
        return super()._size(index) // (_SHARED if self.targets.form == "aligned" else 1)

    def _compute(self, index: int) -> Tensor:
        """Align and read an utterance."""
        return self.targets(index)

    def _write(self, file: Path, features: Tensor) -> None:
        """Write the rows that differ, (R, D_T + 2); the last column counts the frames of each."""
        if not features[:, -1].any():
            return  # does not fit, or no word is as long as a frame
        differs = (features[1:] != features[:-1]).any(1)
        differs[_RUN - 1 :: _RUN] = True
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + differs.nonzero()[:, 0]])
        counts = torch.diff(starts, append=torch.tensor([len(features)]))
        super()._write(file, torch.cat([features[starts], counts[:, None].half()], 1))

    def _read(self, file: Path, index: int) -> Tensor | None:
        """Read an utterance's rows and repeat them; None where there are none or wrong ones."""
        frames = -(-self.corpus.length(index) // self.targets.hop_length)
        try:
            rows = np.load(file, allow_pickle=False)
            if rows.dtype != np.float16 or rows.ndim != 2 or rows.shape[1] != self.dim + 1:
                raise ValueError(f"got {rows.dtype} {rows.shape}, expected float16 rows")
            counts = rows[:, -1]
            if not np.isfinite(rows).all() or (counts < 1).any() or counts.sum(dtype=int) != frames:
                raise ValueError(f"got values not finite, or other frames than {frames}")
        except FileNotFoundError:
            return None
        except (ValueError, OSError, EOFError) as error:
            _log.warning("%s: damaged text targets, made again: %s", file, error)
            return None
        return torch.from_numpy(rows[:, :-1].repeat(counts.astype(np.int64), 0))
