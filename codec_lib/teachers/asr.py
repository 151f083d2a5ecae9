r"""Published recognisers of English through torchaudio, as aligners: times of words from letters.

wav2vec 2.0 and HuBERT fine-tuned by CTC on the 960 h of LibriSpeech [Baevski et al. 2020,
wav2vec 2.0], [Hsu et al. 2021, HuBERT]: 28 characters and the blank. What comes out is a
``CtcRecogniser`` like those trained here, with frames that line up with the codec's. DM-Codec takes
its text from such a model [Ahasan et al. 2024, DM-Codec]. Nothing is downloaded unless asked for.

Used by notebook 11. Leaves out: language models. Read next: ``codec_lib/evaluation/ctc_probe.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchaudio
from torch import Tensor

from .ctc import CtcRecogniser, RecogniserConfig
from .pretrained import PretrainedTeacher, Published, published_file

PUBLISHED_ASR = {
    "wav2vec2_asr_base_960h": Published(
        "WAV2VEC2_ASR_BASE_960H", "wav2vec2_fairseq_base_ls960_asr_ls960.pth", "360 MB"
    ),
    "wav2vec2_asr_large_960h": Published(
        "WAV2VEC2_ASR_LARGE_960H", "wav2vec2_fairseq_large_ls960_asr_ls960.pth", "1.2 GB"
    ),
    "hubert_asr_large": Published(
        "HUBERT_ASR_LARGE", "hubert_fairseq_large_ll60k_asr_ls960.pth", "1.2 GB"
    ),
}


def published_recogniser(
    name: str = "wav2vec2_asr_base_960h", path: str | Path | None = None, download: bool = False
) -> CtcRecogniser:
    r"""Load a published recogniser of characters from disk.

    Parameters
    ----------
    name
        One of ``PUBLISHED_ASR``.
    path
        File of the weights; by default where torch.hub keeps them.
    download
        True fetches the weights where they are missing.

    Returns
    -------
    CtcRecogniser
        In eval mode, without gradient.

    Raises
    ------
    ValueError
        If the name is unknown, the weights are not there (the message names file, size, address and
        place), or they do not fit.
    """
    if name not in PUBLISHED_ASR:
        raise ValueError(f"recogniser: got {name!r}, expected one of {sorted(PUBLISHED_ASR)}")
    entry = PUBLISHED_ASR[name]
    file = published_file(name, entry.file, entry.url, entry.size, path, download)
    bundle = getattr(torchaudio.pipelines, entry.bundle)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        return _recogniser(bundle, state)
    except Exception as error:  # unpickling and loading fail in many ways; all mean the same here
        raise ValueError(
            f"{file}: got a file that does not hold the weights of {name} ({error}); "
            "is the download complete?"
        ) from error


def _recogniser(bundle: Any, state: Mapping[str, Tensor]) -> CtcRecogniser:
    """Put published weights into a teacher and a head, whose symbols are in our order."""
    head = {key: state[f"aux.{key}"] for key in ("weight", "bias")}
    rest = {key: value for key, value in state.items() if not key.startswith("aux.")}
    with torch.device("meta"):
        model = torchaudio.models.wav2vec2_model(**{**bundle._params, "aux_num_out": None})
    model.load_state_dict(rest, assign=True)
    teacher = PretrainedTeacher(model, bundle._normalize_waveform)
    recogniser = CtcRecogniser(teacher, RecogniserConfig("characters", trained_layers=0))
    labels = [label.lower() for label in bundle.get_labels()]
    rows = [row for row in range(len(head["bias"])) if row not in bundle._remove_aux_axis]
    rows = rows if len(head["bias"]) > len(labels) else list(range(len(labels)))
    order = [rows[labels.index(symbol)] for symbol in recogniser.symbols.names]
    own = recogniser.head.to_symbol
    own.load_state_dict({key: value[order] for key, value in head.items()})
    return recogniser.requires_grad_(False).eval()
