r"""What a language model says of an utterance, frame by frame: the text targets of DM-Codec.

[DM-Codec] compares the output of a quantizer with vectors of a language model that has read the
transcript. A language model has no clock: its vectors are one per piece of a word. Two forms:

* ``"aligned"``, the default: every frame inside a word gets that word's vector; of frames in pauses
  nothing is said. The times come from known phonemes (``data/words.py``) or from CTC
  (``alignment.py``).
* ``"padded"``, as in the released code: the pieces of a 3 s clip, filled up with [PAD] to the
  number of its frames, stand one after the other from the clip's first frame on, so that piece i
  meets frame i whatever is said there, and most frames meet what the model says of [PAD].

Utterances without text, or without times, have no target; their crops teach speech alone. Used by
notebook 11. Leaves out: recognising the text of untranscribed speech, which the paper leaves to
wav2vec 2.0. Read next: ``codec_lib/training/teaching.py``.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codec_lib.data import Corpus
from codec_lib.data.words import Word, word_times, words_at_frames

from .text import TextTeacher

if TYPE_CHECKING:
    from .ctc import CtcRecogniser

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
        Finds the times of words where phonemes are not known; without it such utterances have no
        target.
    hop_length
        Samples of a frame at the corpus's rate.
    window
        Frames of a clip of the padded form; 150 are 3 s at 50 Hz.
    max_kept
        Utterances whose vectors are kept in memory.

    Attributes
    ----------
    dim
        Width D_T of the vectors.
    num_spoken
        Utterances that can have a target.

    Raises
    ------
    ValueError
        If the form is unknown or no utterance can have a target.
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
        max_kept: int = 20_000,
    ) -> None:
        if form not in FORMS:
            raise ValueError(f"form: got {form!r}, expected one of {FORMS}")
        self.encoder, self.corpus, self.layer, self.form = encoder, corpus, layer, form
        self.recogniser, self.hop_length, self.window = recogniser, hop_length, window
        self.dim = encoder.dim
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
            have one; all 0 elsewhere.
        """
        frames = -(-self.corpus.length(index) // self.hop_length)
        if not self._is_timed(index):
            return torch.zeros(frames, self.dim + 1, dtype=torch.float16)
        words, vectors = self._words(index)
        rate = self.corpus.sample_rate / self.hop_length
        spoken = words_at_frames(words, frames, rate, self._rate_of(index))
        if self.form == "padded":
            return self._padded(words, spoken)
        said = (spoken >= 0)[:, None]
        return torch.cat([vectors[spoken.clamp_min(0)] * said, said], 1).half()

    def words(self, index: int) -> list[Word]:
        r"""Return the words of an utterance with their times in samples, none where unknown."""
        return self._words(index)[0] if self._is_timed(index) else []

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

    def _padded(self, words: list[Word], spoken: Tensor) -> Tensor:
        """Pair piece i with frame i of each clip: (F, D_T + 1)."""
        targets = torch.zeros(len(spoken), self.dim + 1)
        for begin, clip in enumerate(spoken.split(self.window)):
            text = " ".join(words[number].text for number in clip[clip >= 0].unique().tolist())
            if text:
                pieces = self.encoder.hidden_pieces(text, self.layer, len(clip)).cpu()
                first = begin * self.window
                targets[first : first + len(clip), :-1] = pieces
                targets[first : first + len(clip), -1] = 1
        return targets.half()
