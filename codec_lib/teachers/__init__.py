r"""Teachers: networks whose frame features a codec's first codebook learns from.

``load_teacher("hubert-small")`` or ``load_teacher("hubert_base")``; every teacher has
``sample_rate``, ``frame_rate`` (50), ``hop_length`` (320), ``dim``, ``num_layers``, ``fingerprint``
and ``features(wav, layer)``. Read next: ``frontend.py``.
"""

from __future__ import annotations

from pathlib import Path

from .base_hubert import BaseHubert, BaseHubertConfig
from .ctc import load_recogniser
from .features import FeatureCache, Teacher, long_features
from .hubert import HubertConfig, SmallHubert, load_hubert, save_hubert
from .iterations import train_hubert
from .kmeans import KMeans, fit_kmeans, load_kmeans, save_kmeans
from .mhubert import mhubert_units
from .pretrained import PUBLISHED, PretrainedTeacher, pretrained
from .spin import Spin, SpinSizes
from .spin_files import load_spin, save_spin
from .text import TextTeacher, load_text_teacher


def load_teacher(name_or_path: str | Path = "hubert-small") -> Teacher:
    r"""Load a teacher by name or file.

    Parameters
    ----------
    name_or_path
        A published one (``"hubert_base"``, see ``PUBLISHED``), one of ``data/checkpoints``
        (``"hubert-small"``), or a file that ``save_hubert``, ``save_spin`` or ``save_recogniser``
        wrote; of a recogniser its tuned teacher.

    Returns
    -------
    Teacher
        In eval mode, without gradient.

    Raises
    ------
    ValueError
        If there is no such teacher or its weights are not on disk.
    """
    from codec_lib import hub

    if str(name_or_path) in PUBLISHED:
        return pretrained(str(name_or_path))
    card = hub.read_tensors(hub.resolve(name_or_path))[0].get("card", {})
    if "recogniser" in card:
        return load_recogniser(name_or_path).teacher
    return load_spin(name_or_path) if "spin" in card else load_hubert(name_or_path)


__all__ = [
    "PUBLISHED",
    "BaseHubert",
    "BaseHubertConfig",
    "FeatureCache",
    "HubertConfig",
    "KMeans",
    "PretrainedTeacher",
    "SmallHubert",
    "Spin",
    "SpinSizes",
    "Teacher",
    "TextTeacher",
    "fit_kmeans",
    "load_hubert",
    "load_kmeans",
    "load_spin",
    "load_teacher",
    "load_text_teacher",
    "long_features",
    "mhubert_units",
    "pretrained",
    "save_hubert",
    "save_kmeans",
    "save_spin",
    "train_hubert",
]
