r"""Speech language models: text and a voice in, codes or continuous tokens out.

Read in this order: ``layers``, ``prefix``, ``symbols``, ``unified``, ``examples``, ``module_run``,
``run``, ``sampling``, ``generation``, ``speaking``; then ``tokenizer_run``, ``heads``,
``continuous``, ``continuous_run``. ``published`` reads the released weights.
"""

from .config import LanguageConfig, module_config
from .continuous import ContinuousSpeechModel, TokenBatch, build_continuous_model, write_tokens
from .continuous_run import (
    ContinuousRunConfig,
    load_continuous_model,
    synthesise_continuous,
    train_continuous_model,
)
from .files import load_language_model, save_language_model
from .generation import generate
from .run import train_language_model
from .sampling import Sampling
from .speaking import Prompt, synthesise
from .tokenizer_run import TokenizerConfig, load_tokenizer, train_tokenizer
from .unified import Batch, UnifiedConfig, UnifiedSpeechLanguageModel, build_unified

__all__ = [
    "Batch",
    "ContinuousRunConfig",
    "ContinuousSpeechModel",
    "LanguageConfig",
    "Prompt",
    "Sampling",
    "TokenBatch",
    "TokenizerConfig",
    "UnifiedConfig",
    "UnifiedSpeechLanguageModel",
    "build_continuous_model",
    "build_unified",
    "generate",
    "load_continuous_model",
    "load_language_model",
    "load_tokenizer",
    "module_config",
    "save_language_model",
    "synthesise",
    "synthesise_continuous",
    "train_continuous_model",
    "train_language_model",
    "train_tokenizer",
    "write_tokens",
]
