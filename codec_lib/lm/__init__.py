r"""Speech language models: text and a voice in, codes out.

Read in this order: ``layers``, ``symbols``, ``unified``, ``examples``, ``run``, ``sampling``,
``generation``, ``speaking``; ``published`` reads the released weights.
"""

from .config import LanguageConfig, language_config
from .files import load_language_model, save_language_model
from .generation import generate
from .run import train_language_model
from .sampling import Sampling
from .speaking import Prompt, synthesise
from .unified import Batch, UnifiedConfig, UnifiedSpeechLanguageModel, build_unified

__all__ = [
    "Batch",
    "LanguageConfig",
    "Prompt",
    "Sampling",
    "UnifiedConfig",
    "UnifiedSpeechLanguageModel",
    "build_unified",
    "generate",
    "language_config",
    "load_language_model",
    "save_language_model",
    "synthesise",
    "train_language_model",
]
