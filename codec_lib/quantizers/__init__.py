"""Bottlenecks: a continuous latent in, integers out, one kind a file.

Read in this order: ``rows.py``, ``ranks.py``, ``search.py``, ``gradients.py``, ``codebook.py``,
``vector.py``, ``residual.py``, ``health.py``.
"""

from codec_lib.quantizers.gradients import rotation_trick, straight_through
from codec_lib.quantizers.health import (
    HealthTracker,
    code_counts,
    codebook_health,
    usage_alarms,
)
from codec_lib.quantizers.residual import ResidualVectorQuantizer
from codec_lib.quantizers.search import kmeans, nearest
from codec_lib.quantizers.vector import VectorQuantizer

__all__ = [
    "HealthTracker",
    "ResidualVectorQuantizer",
    "VectorQuantizer",
    "code_counts",
    "codebook_health",
    "kmeans",
    "nearest",
    "rotation_trick",
    "straight_through",
    "usage_alarms",
]
