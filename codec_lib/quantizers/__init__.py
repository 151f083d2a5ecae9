"""Bottlenecks: a continuous latent in, integers out, one kind a file.

Read in this order: ``rows.py``, ``bottleneck.py``, ``ranks.py``, ``search.py``, ``gradients.py``,
``codebook.py``, ``vector.py``, ``residual.py``, ``product.py``, ``scalar.py``, ``simvq.py``,
``anchored.py``, ``anchors.py``, ``health.py``.
"""

from codec_lib.quantizers.anchored import AnchoredQuantizer, AsymmetricDualQuantizer
from codec_lib.quantizers.anchors import load_anchor, random_anchor, random_anchor_like
from codec_lib.quantizers.bottleneck import Bottleneck
from codec_lib.quantizers.gradients import rotation_trick, straight_through
from codec_lib.quantizers.health import (
    HealthTracker,
    code_counts,
    codebook_health,
    usage_alarms,
)
from codec_lib.quantizers.product import ProductQuantizer
from codec_lib.quantizers.residual import ResidualQuantizer, ResidualVectorQuantizer
from codec_lib.quantizers.scalar import FiniteScalarQuantizer
from codec_lib.quantizers.search import kmeans, nearest
from codec_lib.quantizers.simvq import SimVQ
from codec_lib.quantizers.vector import VectorQuantizer

__all__ = [
    "AnchoredQuantizer",
    "AsymmetricDualQuantizer",
    "Bottleneck",
    "FiniteScalarQuantizer",
    "HealthTracker",
    "ProductQuantizer",
    "ResidualQuantizer",
    "ResidualVectorQuantizer",
    "SimVQ",
    "VectorQuantizer",
    "code_counts",
    "codebook_health",
    "kmeans",
    "load_anchor",
    "nearest",
    "random_anchor",
    "random_anchor_like",
    "rotation_trick",
    "straight_through",
    "usage_alarms",
]
