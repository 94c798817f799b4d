"""How the process behaves before torch is loaded: quiet threads, no telemetry, no accidental uploads.

Import it first; torch reads these once. Sets only what the user has not. Knows nothing of any run.
"""

from __future__ import annotations

import os

_QUIET = {
    # spinning OpenMP threads make a shared two-core machine five times slower
    "OMP_WAIT_POLICY": "PASSIVE",
    "KMP_BLOCKTIME": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}


def settle() -> None:
    """Put the defaults into the environment; what is already there stays."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def keep_wandb_offline() -> None:
    """Let wandb write to disk alone, unless there is a key to log in with."""
    if not os.environ.get("WANDB_API_KEY"):
        os.environ.setdefault("WANDB_MODE", "offline")


settle()
