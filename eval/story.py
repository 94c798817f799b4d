"""An episode as a reader follows it: what was seen, what was done, what it brought.

The one telling behind the report, the terminal and the Hub's traces. Knows the prompts' words and
the spelling of actions; nothing of pages, terminals or files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from env_server import registry
from env_server.contract import Family, JsonObject, Refusal
from eval.trajectory import Trajectory, Turn
from prompts import render
from prompts.parse import spell
from prompts.render import Style
from prompts.words import MissingWords


@dataclass(frozen=True, slots=True)
class Moment:
    """One turn in words.

    seen: the whole case at the first turn, afterwards what the last answer changed. text: a language
    model's own words, verbatim. action: canonical JSON; None where no action could be read. parts:
    those that are not zero.
    """

    number: int
    seen: str
    text: str | None
    action: str | None
    refusal: str | None
    reward: float
    parts: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Story:
    """A whole episode in words. `ending` is what the last answer led to; no player ever saw it."""

    briefing: str
    moments: tuple[Moment, ...]
    ending: str


def tell(trajectory: Trajectory, family: Family | None = None, style: Style = "full") -> Story:
    """The episode in the family's own words, or in JSON where a family has no prompts.

    family: None finds it by the trajectory's name. Raises UnknownFamily.
    """
    home = family or registry.get(trajectory.family)
    moments = tuple(_moments(trajectory, home, style))
    last = trajectory.turns[-1].observation if trajectory.turns else {}
    ending = _update(home, last, trajectory.final, style) if trajectory.final else ""
    return Story(_briefing(home, trajectory.task, style), moments, ending)


def spelled(action: JsonObject, family: Family) -> str:
    """An action as the prompts teach it, or its compact JSON where the family no longer reads it."""
    read = family.action_from_json(action)
    if isinstance(read, Refusal):
        return json.dumps(action, separators=(",", ":"), ensure_ascii=False)
    return spell(read)


def _moments(trajectory: Trajectory, family: Family, style: Style) -> Iterator[Moment]:
    before: JsonObject | None = None
    for number, turn in enumerate(trajectory.turns, start=1):
        now = turn.observation
        seen = (
            _opening(family, now, style) if before is None else _update(family, before, now, style)
        )
        yield _moment(number, seen, turn, family)
        before = now


def _moment(number: int, seen: str, turn: Turn, family: Family) -> Moment:
    refusal = f"{turn.refusal['kind']}: {turn.refusal['why']}" if turn.refusal else None
    return Moment(
        number=number,
        seen=seen,
        text=turn.text,
        action=None if turn.action is None else spelled(turn.action, family),
        refusal=refusal,
        reward=turn.reward,
        parts=tuple((name, value) for name, value in turn.parts.items() if value),
    )


def _briefing(family: Family, task: str, style: Style) -> str:
    try:
        return render.briefing(family, task, style)
    except MissingWords:
        return family.summary


def _opening(family: Family, now: JsonObject, style: Style) -> str:
    try:
        return render.opening(family, now, style)
    except MissingWords:
        return _as_json(now)


def _update(family: Family, before: JsonObject, now: JsonObject, style: Style) -> str:
    try:
        return render.update(family, before, now, style)
    except MissingWords:
        return _as_json({key: value for key, value in now.items() if before.get(key) != value})


def _as_json(value: JsonObject) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)
