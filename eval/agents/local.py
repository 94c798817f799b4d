"""`local:FOLDER`: a whole language model, as training or the Hub leaves it on disk."""

from __future__ import annotations

import os
import re
from pathlib import Path

from eval.language import LanguagePlayer, model_folder
from eval.roster import NotReady, Options, Player

USAGE = "local:FOLDER"
HOW = (
    "make one with: make run, or by itself with python -m training.sft --config configs/sft/demo.yaml"
    " and then python -m training.grpo --config configs/grpo/demo.yaml"
)

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def player(argument: str, name: str, options: Options) -> Player:
    """The model in the folder, or a Hub model downloaded earlier. Raises NotReady."""
    try:
        folder = model_folder(argument, "config.json", HOW)
    except NotReady:
        downloaded = in_hub_cache(argument)
        if downloaded is None:
            raise
        folder = downloaded
    return LanguagePlayer(name, folder, options)


def in_hub_cache(repository: str) -> Path | None:
    """Where a Hub model lies that was downloaded before; None if it was not. Fetches nothing."""
    if os.path.exists(repository) or not _HUB_ID.fullmatch(repository):
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, "config.json")
    return Path(config).parent if isinstance(config, str) else None
