"""A finished run becomes a model that loads like any other, with its history beside it.

Knows folders and `rounds.json`; nothing of how the weights came about.
"""

from __future__ import annotations

import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from env_server.contract import JsonObject
from training.cases import count, owners
from training.grpo_settings import GrpoSettings

if TYPE_CHECKING:
    from trl import GRPOConfig


def hand_over(trainer: Any, settings: GrpoSettings, config: GRPOConfig, run: Path) -> Path:
    """Merge the best checkpoint, and put the model in place only once it is complete."""
    from training.examiner import BEST
    from training.sft import ROUNDS

    best, half = run / BEST, run / "model.part"
    shutil.rmtree(half, ignore_errors=True)
    merged(settings.model, best, lora=settings.lora_r > 0).save_pretrained(half)
    trainer.processing_class.save_pretrained(half)
    told = json.dumps(record(settings, config), indent=2)
    (half / ROUNDS).write_text(told + "\n", encoding="utf-8")
    half.rename(run / "model")
    return run / "model"


def merged(start: str, best: Path, lora: bool) -> Any:
    """The whole model: `best` itself, or the starting model with the adapter in `best` folded in."""
    from transformers import AutoModelForCausalLM

    if not lora:
        return AutoModelForCausalLM.from_pretrained(best, dtype="auto")
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(start, dtype="auto")
    return PeftModel.from_pretrained(base, str(best)).merge_and_unload()


def record(settings: GrpoSettings, config: GRPOConfig) -> JsonObject:
    """`rounds.json`: every patient the policy has ever learned from, and how it is spoken to."""
    before = history(settings.model)
    families = owners(settings)
    # a curriculum may give any slot's seed to any task
    share = 1 if settings.curriculum else len(settings.tasks)
    seen = -(-count(settings, config) // share)
    here = [
        {
            "family": families[task].name,
            "task": task,
            "split": "train",
            "seed_from": settings.seed_from,
            "seed_to": settings.seed_from + seen,
        }
        for task in settings.tasks
    ]
    return {
        "trained_on": [*before.get("trained_on", []), *here],
        "style": wording(settings),
        "answer_tokens": settings.answer_tokens,
        "context_tokens": settings.context_tokens,
        "template_options": {"enable_thinking": settings.thinking},
        "init": before.get("init", settings.model),
        "versions": {
            **{family.name: family.version for family in families.values()},
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "trl", "peft")},
        },
    }


def wording(settings: GrpoSettings) -> Any:
    """The prompt style: as asked, else as the model's own record says, else `full`."""
    return settings.style or history(settings.model).get("style", "full")


def history(model: str) -> JsonObject:
    """What is recorded beside a model trained here; nothing for one from the Hub."""
    from training.sft import ROUNDS

    path = Path(model) / ROUNDS
    known: JsonObject = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return known
