r"""The teachers of a run: what they say of every utterance, and which projection must agree.

SpeechTokenizer distils features (Eq. 2) into the projection ``semantic`` or k-means units (Eq. 3)
into ``units``; DM-Codec distils what a language model says of the words into ``text`` as well.
Both are computed once, on whole utterances, and kept on disk; crops cut them. Where an utterance
ends before its crop, zeros follow: a codec learns to reproduce them, and its critics hear them, but
no teacher speaks of them.

Read next: ``run.py``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from codec_lib import audio, paths
from codec_lib.codecs.base import Codec
from codec_lib.data.utterances import Corpus
from codec_lib.teachers import asr, load_teacher
from codec_lib.teachers.ctc import load_recogniser
from codec_lib.teachers.features import FeatureCache
from codec_lib.teachers.kmeans import KMeans, fit_kmeans, load_kmeans, save_kmeans
from codec_lib.teachers.text import load_text_teacher
from codec_lib.teachers.text_targets import TextCache, TextTargets
from codec_lib.training.config import TrainConfig

PROJECTIONS = ("semantic", "units", "text")  # heads of a codec, whose widths the teachers decide


@dataclass
class Teaching:
    r"""What training needs to know about distillation; empty where there is none.

    Attributes
    ----------
    parts
        Function from an utterance's index to what a teacher says of it, by the name of the codec's
        projection that must agree: ``"semantic"`` (F, D_S), ``"units"`` (F, 1), or ``"text"``
        (F, D_T + 1), whose last column is 1 where there is a word.
    widths
        Columns of each.
    overrides
        Fields of the codec's config that the teachers decide.
    fingerprint
        Of the teachers, and of the aligner.
    """

    parts: dict[str, Callable[[int], Tensor]] = field(default_factory=dict)
    widths: tuple[int, ...] = ()
    overrides: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    @property
    def projections(self) -> tuple[str, ...]:
        """Names of the codec's projections that a loss reads."""
        return tuple(self.parts)

    @property
    def features(self) -> Callable[[int], Tensor] | None:
        """Function from an utterance's index to all parts side by side; None without a teacher."""
        if not self.parts:
            return None
        return next(iter(self.parts.values())) if len(self.parts) == 1 else self._side_by_side

    def _side_by_side(self, index: int) -> Tensor:
        """Return all parts of an utterance, (F, sum of widths), float32."""
        return torch.cat([part(index).float() for part in self.parts.values()], 1)

    def targets(self, batch: dict[str, Tensor]) -> dict[str, Any] | None:
        r"""Return projection name to target; of features and text, vectors and where they count.

        Parameters
        ----------
        batch
            With ``features`` (B, F, D), ``wav`` (B, 1, T) and ``num_valid`` (B,).
        """
        if not self.parts:
            return None
        told = batch["features"]
        hop = batch["wav"].shape[-1] // told.shape[1]
        begins = hop * torch.arange(told.shape[1], device=told.device)  # first sample, (F,)
        inside = begins < batch["num_valid"][:, None]  # not in padding, (B, F)
        targets: dict[str, Any] = {}
        for name, part in zip(self.parts, told.split(self.widths, -1), strict=True):
            if name == "units":
                targets[name] = part[..., 0].long().masked_fill(~inside, -100)  # the loss skips it
            elif name == "text":
                targets[name] = part[..., :-1], (part[..., -1] > 0) & inside
            else:
                targets[name] = part, inside
        return targets


def make_teaching(
    config: TrainConfig,
    corpus: Corpus,
    codec: Codec,
    device: torch.device,
    say: Callable[[str], None] | None = None,
    is_first: bool = True,
) -> Teaching:
    r"""Load the teachers and let them hear, or read, every utterance.

    Parameters
    ----------
    config
        Teachers, layers and kind of distillation.
    corpus
        Training utterances.
    codec
        Its frames must be the teacher's.
    device
        Where the teacher runs.
    say
        Called with lines about the progress.
    is_first
        False in a process that waited for another one, which has let the speech teacher hear.

    Returns
    -------
    Teaching
        Empty where ``config.distill`` is ``"none"`` and there is no text teacher.

    Raises
    ------
    ValueError
        If a teacher is unknown, its weights are not there, its frames are not the codec's, the
        codec has no projection for it, no text fits its recording, or what the teachers say takes
        more of the disk than there is or ``config.feature_disk_gb`` allows.
    """
    # What is cheap to check comes before the hours that a speech teacher may take.
    check_projections(config, codec)
    text = None if config.text_teacher is None else _text(config, corpus, codec)
    if text is not None:
        text.check_room()
    teaching = Teaching()
    if config.distill != "none":
        teaching = _speech(config, corpus, codec, device, say, is_first)
    return teaching if text is None else _with_text(teaching, text, device, say)


def check_projections(config: TrainConfig, codec: Codec) -> None:
    r"""Raise ValueError if a teacher is to speak to a codec that has no projection for it.

    Parameters
    ----------
    config, codec
        See ``make_teaching``.
    """
    wanted = {"teacher": (config.teacher if config.distill != "none" else None, "teacher_dim")}
    wanted["text_teacher"] = (config.text_teacher, "text_dim")
    for field_name, (teacher, width) in wanted.items():
        if teacher is not None and not hasattr(codec.config, width):
            able = "dm_codec" if width == "text_dim" else "speechtokenizer or dm_codec"
            raise ValueError(
                f"{field_name}: got {teacher!r} for {codec.name}, which has no projection for it; "
                f"expected {able}"
            )


def _speech(
    config: TrainConfig,
    corpus: Corpus,
    codec: Codec,
    device: torch.device,
    say: Callable[[str], None] | None,
    is_first: bool,
) -> Teaching:
    """Return what a speech model says: its features, or their k-means units."""
    teacher = load_teacher(config.teacher)
    if (teacher.sample_rate, teacher.hop_length) != (codec.sample_rate, codec.hop_length):
        raise ValueError(
            f"teacher {config.teacher}: got {teacher.hop_length} samples a frame at "
            f"{teacher.sample_rate} Hz, expected the codec's {codec.hop_length} at "
            f"{codec.sample_rate} Hz"
        )
    features = FeatureCache(teacher, corpus, config.teacher_layer, disk_bytes=_limit(config))
    if is_first:
        teacher.to(device)
        features.fill(_progress(say, "teacher"))
        teacher.to("cpu")  # loader workers are forked, and a fork cannot use a GPU
    else:
        features.check_filled()
    if config.distill == "continuous":
        told = {"teacher_dim": teacher.dim}
        return Teaching({"semantic": features}, (teacher.dim,), told, teacher.fingerprint)
    kmeans = _units(config, corpus, features, f"{teacher.fingerprint}-{config.teacher_layer}")

    def units(index: int) -> Tensor:
        return kmeans(features(index).float()).unsqueeze(-1)  # (F, 1)

    overrides = {"teacher_dim": teacher.dim, "num_units": kmeans.num_units}
    centres = hashlib.sha256(kmeans.centres.numpy().tobytes()).hexdigest()[:16]
    return Teaching({"units": units}, (1,), overrides, f"{teacher.fingerprint} {centres}")


def _text(config: TrainConfig, corpus: Corpus, codec: Codec) -> TextCache:
    """Load the language model and the aligner; neither reads or hears anything yet."""
    recogniser, name = None, config.text_aligner
    if name is not None:
        published = name in asr.PUBLISHED_ASR
        recogniser = asr.published_recogniser(name) if published else load_recogniser(name)
    encoder, form = load_text_teacher(config.text_teacher), config.text_form
    found = TextTargets(encoder, corpus, config.text_layer, form, recogniser, codec.hop_length)
    return TextCache(found, disk_bytes=_limit(config))


def _limit(config: TrainConfig) -> int | None:
    """Return the bytes that each teacher's files may take; None for as many as there are."""
    return int(config.feature_disk_gb * 1e9) or None


def _with_text(
    teaching: Teaching,
    text: TextCache,
    device: torch.device,
    say: Callable[[str], None] | None,
) -> Teaching:
    """Add what a language model says of the words, once it has read all of them."""
    found = text.targets
    networks = [one for one in (found.encoder, found.recogniser) if one is not None]
    for network in networks:
        network.to(device)
    text.fill(_progress(say, "text teacher"))
    for network in networks:
        network.to("cpu")  # as the speech teacher
    spoken, total = found.num_spoken - len(found.failures), len(found.corpus)
    if not spoken:
        raise ValueError(
            f"text teacher: got {total} utterances, none of whose texts fits, e.g. "
            f"{next(iter(found.failures.values()))}"
        )
    if say is not None:
        say(f"text teacher: {spoken} of {total} utterances have words with times")
    shared = found.dim == teaching.overrides.get("teacher_dim")
    overrides = {**teaching.overrides, "text_dim": 0 if shared else found.dim}
    parts = {**teaching.parts, "text": text}
    prints = [teaching.fingerprint, *(getattr(one, "fingerprint", "") for one in networks)]
    return Teaching(parts, (*teaching.widths, found.dim + 1), overrides, " ".join(prints))


def _units(config: TrainConfig, corpus: Corpus, features: FeatureCache, source: str) -> KMeans:
    """Return the k-means units of a corpus; they are fitted once and cached by what they are of."""
    digests = _of_each(corpus, lambda index: features._file(index).stem)  # sha256 of the audio
    # Always the same numbers: a head that names units is handed from stage to stage.
    of = [source, config.units, 0, *digests]
    digest = hashlib.sha256(repr(of).encode()).hexdigest()[:16]
    path = paths.cache_root() / "units" / f"{digest}.safetensors"
    if not path.exists():
        kmeans = fit_kmeans(_of_each(corpus, features), config.units, seed=0)
        save_kmeans(kmeans, path, {"source": source, "corpus": corpus.name})
    return load_kmeans(path)


def _of_each(corpus: Corpus, read: Callable[[int], Any]) -> Iterator[Any]:
    """Read every utterance; leave out bad files, which the corpus has reported."""
    for index in range(len(corpus)):
        try:
            found = read(index) if corpus.length(index) else None
        except audio.AudioError:
            continue
        if found is not None:
            yield found


def _progress(say: Callable[[str], None] | None, who: str) -> Callable[[int, int], None] | None:
    """Return a callback that says every 10 s how many utterances the teacher has heard."""
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 10:
            last = time.monotonic()
            say(f"{who}: {done} of {total} utterances")

    return report if say is not None else None
