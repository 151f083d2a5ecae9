r"""The claims of the papers, tested over seeds at a small scale: ``codec-lib claims``.

Reading order: ``workshop.py`` data and codecs, ``codec_claims.py``, ``token_claims.py`` and
``model_claims.py`` what is compared, ``catalogue.py`` who claims it, ``report.py`` the verdicts.
"""

from .catalogue import CLAIMS, Claim
from .report import (
    claim_rows,
    claims_table,
    known_values,
    put_table,
    run_claims,
    seeds_interval,
    verdict,
)
from .workshop import ClaimSettings, OutOfTime, Workshop, settings_of

__all__ = [
    "CLAIMS",
    "Claim",
    "ClaimSettings",
    "OutOfTime",
    "Workshop",
    "claim_rows",
    "claims_table",
    "known_values",
    "put_table",
    "run_claims",
    "seeds_interval",
    "settings_of",
    "verdict",
]
