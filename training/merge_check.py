"""Whether an adapter on its base says what the merged model says: checked on logits before anything is published.

Three models, one in memory at a time, in float32 on the CPU, reading real prompts of the tasks.
Knows weights and prompts; nothing of where they go.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from env_server import registry
from env_server.contract import RoundsError
from prompts.render import briefing, opening

EXACT, HALF = 1e-3, 0.25  # logits; half precision rounds the merged weights to three digits
LONGEST = 512  # tokens of a prompt that are read


class NotTheSame(RoundsError, ValueError):
    """The adapter and the merged model are two different models."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """largest: difference of any logit. moved: what the adapter itself changes, so that a check
    of an adapter that does nothing shows. same_choice: share of positions with one most likely token.
    """

    largest: float
    moved: float
    same_choice: float
    tokens: int
    tolerance: float

    def __str__(self) -> str:
        return (
            f"adapter against merged model: largest difference of a logit {self.largest:.2e} over {self.tokens}"
            f" tokens (tolerance {self.tolerance:g}; the adapter itself moves them by up to {self.moved:.2e});"
            f" the same choice at {100 * self.same_choice:.1f} % of positions"
        )


def agreement(
    base: Path | str, adapter: Path, merged: Path, texts: Sequence[str], tolerance: float | None
) -> Agreement:
    """Compare the logits of base + adapter with the merged model's. Raises NotTheSame.

    tolerance: None takes EXACT where the merged weights are float32, else HALF.
    """
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(merged)
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"][:LONGEST] for text in texts]
    plain = _logits(_load(base), ids)
    adapted = _logits(_adapted(base, adapter), ids)
    whole = _logits(_load(merged), ids)
    if any(a.shape != b.shape for a, b in zip(adapted, whole, strict=True)):
        raise NotTheSame(f"{adapter} and {merged} do not even have one vocabulary")
    found = Agreement(
        largest=largest_gap(adapted, whole),
        moved=largest_gap(adapted, plain),
        same_choice=float(
            torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in zip(adapted, whole, strict=True)])
            .float()
            .mean()
        ),
        tokens=sum(map(len, ids)),
        tolerance=tolerance if tolerance is not None else _tolerance(merged),
    )
    if not found.largest <= found.tolerance:  # a NaN is no agreement
        raise NotTheSame(
            f"{found}. {merged} was not merged from {adapter} on {base}; let the run hand over anew"
            " (delete its model/ and repeat its command), or give the base it was trained on"
        )
    return found


def largest_gap(some: Sequence[Any], others: Sequence[Any]) -> float:
    """The largest difference between the logits of the same prompts; NaN where any of them is none."""
    import torch

    # Python's own max() would pass over a NaN that does not stand first
    gaps = [(a - b).abs().max() for a, b in zip(some, others, strict=True)]
    return float(torch.stack(gaps).max())


def prompts_of(merged: Path, family: str, task: str, style: str, patients: int = 3) -> list[str]:
    """Conversations as they begin: briefing and case, through the model's own chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(merged)
    home = registry.get(family)
    told = []
    for seed in range(patients):
        seen = home.begin(task, seed, "validation").observe().to_json()
        messages = [
            {"role": "system", "content": briefing(home, task, style)},  # type: ignore[arg-type]
            {"role": "user", "content": opening(home, seen, style)},  # type: ignore[arg-type]
        ]
        told.append(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )
    return told


def _tolerance(merged: Path) -> float:
    import json

    config = json.loads((merged / "config.json").read_text("utf-8"))
    kept_in = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return EXACT if kept_in == "float32" else HALF


def _load(place: Path | str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)


def _adapted(base: Path | str, adapter: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(_load(base), str(adapter))


def _logits(model: Any, ids: Sequence[Sequence[int]]) -> list[Any]:
    """(T, vocabulary) of each prompt; the model is let go afterwards."""
    import torch

    model.eval()
    with torch.no_grad():
        found = [model(input_ids=torch.tensor([list(one)])).logits[0].clone() for one in ids]
    del model
    gc.collect()
    return found
