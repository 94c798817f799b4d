"""`adapter:FOLDER`: a LoRA adapter, played on the base model that it names."""

from __future__ import annotations

import json
from pathlib import Path

from eval.agents.local import in_hub_cache
from eval.language import LanguagePlayer, model_folder
from eval.roster import NotReady, Options, Player

USAGE = "adapter:FOLDER"
HOW = "make one with: python -m training.grpo --config configs/grpo/demo.yaml"


def player(argument: str, name: str, options: Options) -> Player:
    """The adapter in the folder on its base. Raises NotReady where either is missing."""
    folder = model_folder(argument, "adapter_config.json", HOW)
    return LanguagePlayer(name, folder, options, base=base_of(folder))


def base_of(folder: Path) -> Path:
    """The folder of the model an adapter was trained on: named in it, perhaps relative to it."""
    named = json.loads((folder / "adapter_config.json").read_text("utf-8")).get(
        "base_model_name_or_path"
    )
    if not named:
        raise NotReady(f"{folder / 'adapter_config.json'} names no base_model_name_or_path; {HOW}")
    for place in (Path(named), folder / named):
        if (place / "config.json").is_file():
            return place
    downloaded = in_hub_cache(str(named))
    if downloaded is None:
        raise NotReady(
            f"{folder} is an adapter of {named}, which is neither a folder nor in the Hub's cache;"
            f" put the model there, or download it with: hf download {named}"
        )
    return downloaded
