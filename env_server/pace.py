"""Which steps are too long for the event loop, learnt from how long they took.

Knows a step by its task, its form and whether it is the last one allowed; nothing of what it does.
A form is played on a thread until it has proved short, and again after it was once long. A step that
waits (for a disk, for another server) is as long as one that computes, but several may wait at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final, Literal

from env_server.contract import Episode, Family, JsonObject

Form = tuple[str, object, bool]
Place = Literal["loop", "thread", "threads"]  # computing takes turns, waiting does not

SHORT_S: Final = 0.005  # of the processor, or of waiting; what a loop may lose without being felt
HELD_S: Final = 0.02  # by the clock, on the loop; less may be another program's doing
WAITED_S: Final = 0.1  # on a thread; less may be the wait for the interpreter or the processor
PROOFS: Final = 16  # short runs before a form is trusted
DOUBTS: Final = 16  # runs on the loop between SHORT_S and HELD_S that cost it the trust
RELAPSE: Final = (
    512  # short runs after a long one: attempts at one case are short all but the first
)
CHECKED: Final = 64  # short runs after one that held the loop: perhaps another program was to blame
SHARE_S: Final = 0.002  # how long one request may hold the loop before others are served


class Pace:
    """The forms of one family."""

    def __init__(self, family: Family) -> None:
        self._field, self._words = _telling(family.action_schema())
        self._trust: dict[Form, int] = {}
        self._waits: set[Form] = set()

    def form(self, episode: Episode, data: object) -> Form:
        """What kind of step this is."""
        task = episode.task
        word = data.get(self._field) if isinstance(data, Mapping) else None
        known = word if isinstance(word, str) and word in self._words else None
        return task.name, known, episode.steps + 1 >= task.max_steps

    def place(self, form: Form) -> Place:
        """Where to play it: off the loop if it was long, or too little is known."""
        if self._trust.get(form, 0) >= PROOFS:
            return "loop"
        return "threads" if form in self._waits else "thread"

    def took(self, form: Form, clock_s: float) -> None:
        """Learn from a step on the loop, where asking for the processor's time costs too much."""
        if clock_s <= SHORT_S:
            self._trust[form] = min(self._trust.get(form, 0) + 1, PROOFS + DOUBTS)
        elif clock_s <= HELD_S:
            self._trust[form] = self._trust.get(form, 0) - 1
        else:
            self._trust[form] = PROOFS - CHECKED

    def took_apart(self, form: Form, clock_s: float, processor_s: float) -> None:
        """Learn from a step on a thread, of which the processor's share is known."""
        waited_s = clock_s - processor_s
        computes, waits = processor_s > SHORT_S, waited_s > SHORT_S
        (self._waits.add if waits and not computes else self._waits.discard)(form)
        if computes or waited_s > WAITED_S:
            self._trust[form] = PROOFS - RELAPSE
        elif not waits:
            trust = self._trust.get(form, 0) + 1
            self._trust[form] = PROOFS + DOUBTS if trust >= PROOFS else trust


@dataclass(slots=True)
class Share:
    """What one request of many parts may take of the loop at a time."""

    since_s: float = field(default_factory=perf_counter)

    async def pause(self) -> None:
        """Let others be served, once the share is used up."""
        if perf_counter() - self.since_s > SHARE_S:
            await asyncio.sleep(0)
            self.since_s = perf_counter()


def _telling(schema: JsonObject) -> tuple[str, frozenset[str]]:
    """The field that names an action's form in every branch of its schema, and its words."""
    branches = [branch.get("properties", {}) for branch in schema.get("oneOf", [schema])]
    for name in branches[0]:
        if all("const" in branch.get(name, {}) for branch in branches):
            return name, frozenset(str(branch[name]["const"]) for branch in branches)
    return "", frozenset()
