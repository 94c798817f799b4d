"""Which steps are too long for the event loop, learnt from how long they took.

Knows a step by its task, its form and whether it is the last one allowed; nothing of what it does.
A form is played on a thread until it has proved short, and again after it was once long.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from env_server.contract import Episode, Family, JsonObject

Form = tuple[str, object, bool]

SHORT_S: Final = 0.003  # of the processor; what a loop may lose without being felt
HELD_S: Final = 0.02  # by the clock, on the loop; less may be another program's doing
WAITED_S: Final = 0.1  # by the clock, on a thread; above it the step waits, and not for its turn
PROOFS: Final = 16  # short runs before a form is trusted
RELAPSE: Final = (
    512  # short runs after a long one: attempts at one case are short all but the first
)


class Pace:
    """The forms of one family."""

    def __init__(self, family: Family) -> None:
        self._field, self._words = _telling(family.action_schema())
        self._short: dict[Form, int] = {}

    def form(self, episode: Episode, data: object) -> Form:
        """What kind of step this is."""
        task = episode.task
        word = data.get(self._field) if isinstance(data, Mapping) else None
        known = word if isinstance(word, str) and word in self._words else None
        return task.name, known, episode.steps + 1 >= task.max_steps

    def long(self, form: Form) -> bool:
        """Whether it may be long: it was, or too little is known."""
        return self._short.get(form, 0) < PROOFS

    def took(self, form: Form, clock_s: float, processor_s: float | None) -> None:
        """Learn from one step; processor_s is None for one on the loop, where asking costs too much."""
        if processor_s is None:
            long = clock_s > HELD_S
        else:
            long = processor_s > SHORT_S or clock_s > WAITED_S
        self._short[form] = PROOFS - RELAPSE if long else self._short.get(form, 0) + 1


def _telling(schema: JsonObject) -> tuple[str, frozenset[str]]:
    """The field that names an action's form in every branch of its schema, and its words."""
    branches = [branch.get("properties", {}) for branch in schema.get("oneOf", [schema])]
    for name in branches[0]:
        if all("const" in branch.get(name, {}) for branch in branches):
            return name, frozenset(str(branch[name]["const"]) for branch in branches)
    return "", frozenset()
