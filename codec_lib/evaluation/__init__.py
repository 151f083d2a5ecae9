r"""Measurements: how well a codec reconstructs, and what its codes or a teacher's features know.

``evaluate_codec`` and ``phoneme_probe`` are the two entry points; ``write_results`` keeps what they
found together with the conditions. Read next: ``reconstruction.py``.
"""

from .codec_probe import probe_codebooks, probe_speakers
from .comparison import compare_codecs, untrained
from .ctc_probe import ctc_probe
from .errors import error_rate, recognition_errors
from .frame_rates import rate_scores, summarise_rates
from .probes import (
    CodeStatistics,
    ProbeResult,
    code_statistics,
    linear_probe,
    phoneme_probe,
    utterance_probe,
)
from .reconstruction import (
    METRICS,
    codec_scores,
    evaluate_codec,
    mel_distance,
    pesq_wideband,
    reconstruction_metrics,
    si_sdr,
    stoi,
)
from .results import bootstrap_interval, read_results, summarise, write_results
from .units import measure_units

__all__ = [
    "METRICS",
    "CodeStatistics",
    "ProbeResult",
    "bootstrap_interval",
    "code_statistics",
    "codec_scores",
    "compare_codecs",
    "ctc_probe",
    "error_rate",
    "evaluate_codec",
    "linear_probe",
    "measure_units",
    "mel_distance",
    "pesq_wideband",
    "phoneme_probe",
    "probe_codebooks",
    "probe_speakers",
    "rate_scores",
    "read_results",
    "recognition_errors",
    "reconstruction_metrics",
    "si_sdr",
    "stoi",
    "summarise",
    "summarise_rates",
    "untrained",
    "utterance_probe",
    "write_results",
]
