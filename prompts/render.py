"""What a model is told: the briefing once, the whole case once, then only what changed.

Knows three moments and two styles; the words and the layout of each are in `<family>.md`.
"""

from __future__ import annotations

import json
from typing import Any, Literal, get_args

from env_server import registry
from env_server.contract import Family, JsonObject, RoundsError, Task
from prompts import words
from prompts.forms import forms

Style = Literal["full", "brief"]
STYLES: tuple[Style, ...] = get_args(Style)


class UnknownStyle(RoundsError, ValueError):
    """A style that is neither full nor brief."""


def briefing(family: Family, task: Task | str, style: Style = "full") -> str:
    """The system message: role, rules, the menu of forms and one example of each.

    `full` is for chat models, `brief` (one line) for the embedded tiny model.
    """
    chosen = registry.task(family, task) if isinstance(task, str) else task
    known = words.load(family.name)
    return _say(
        family.name,
        "briefing",
        style,
        family={"name": family.name, "summary": family.summary},
        task={
            "name": chosen.name,
            "difficulty": chosen.difficulty,
            "max_steps": chosen.max_steps,
            "summary": chosen.summary,
            "seed": chosen.seed,
        },
        forms=[
            {
                "verb": form.verb,
                "skeleton": form.skeleton(),
                "options": form.options(),
                "purpose": known.purposes.get(form.verb, ""),
            }
            for form in forms(family)
        ],
        examples=[
            json.dumps(example, separators=(",", ":"), ensure_ascii=False)
            for example in known.examples
        ],
    )


def opening(family: Family | str, observation: JsonObject, style: Style = "full") -> str:
    """The first user message: the whole case, from `observation.to_json()`."""
    name = family if isinstance(family, str) else family.name
    return _say(name, "opening", style, now=observation)


def update(
    family: Family | str, before: JsonObject, after: JsonObject, style: Style = "full"
) -> str:
    """A later user message: what one answer led to, from the observations around it."""
    name = family if isinstance(family, str) else family.name
    return _say(name, "update", style, before=before, now=after)


def _say(name: str, moment: str, style: Style, /, **facts: Any) -> str:
    if style not in STYLES:
        raise UnknownStyle(f"no prompt style {style!r}; styles: {', '.join(STYLES)}")
    return words.load(name).templates[f"{moment}.{style}"].render(facts).strip()
