"""Play recorded episodes again and demand the same bytes.

Knows how an episode is re-executed from its actions and how to name the first difference; who
chose the actions, and why, does not matter.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from env_server import registry
from env_server.contract import (
    Action,
    Episode,
    Family,
    JsonObject,
    Refusal,
    RoundsError,
    begin,
    canonical,
)
from eval import stopped
from eval.episode import take_turn
from eval.record import BadLine, episodes_of, numbered_lines
from eval.trajectory import Trajectory, Turn, plain

FindFamily = Callable[[str], Family]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where an episode, played again, is not what was recorded."""

    line: int
    episode: str
    where: str  # version, turn 3 · observation.place, score ...
    recorded: str
    again: str

    def __str__(self) -> str:
        return (
            f"line {self.line}, {self.episode}: {self.where} was {self.recorded}, now {self.again}"
        )


def replay(path: Path, find: FindFamily = registry.get) -> Iterator[Difference | None]:
    """One item an episode of the file: None where every byte is the same.

    Raises BadLine on a line that is no episode, UnknownFamily, OSError.
    """
    for number, line in numbered_lines(path):
        try:
            body = json.loads(line)
            recorded = Trajectory.from_json(body)
        except (ValueError, KeyError, TypeError) as wrong:
            raise BadLine(f"{path}, line {number}: not an episode ({wrong})") from wrong
        yield check(number, recorded, body, find(recorded.family))


def check(line: int, recorded: Trajectory, body: JsonObject, family: Family) -> Difference | None:
    """The first difference between `body` and the same actions played again, or None."""
    name = f"{recorded.agent} on {recorded.task}, {recorded.split} seed {recorded.seed}"
    try:
        again = plain(play_again(recorded, family))
    except RoundsError as refused:
        return Difference(line, name, "the episode itself", "playable", str(refused))
    if canonical(again) == canonical(body):
        return None
    where, before, now = first_difference(body, again)
    return Difference(line, name, where, before, now)


def play_again(recorded: Trajectory, family: Family) -> JsonObject:
    """The recorded actions on a fresh episode, written as the record is.

    What only the player knows (its words, tokens and time) is taken over; a lost episode has no
    score or outcome to compare.
    """
    episode = begin(family, recorded.task, recorded.seed, recorded.split, recorded.options)
    body = recorded.to_json()
    turns = list(_turns_again(recorded, episode, family))
    body |= {"version": family.version, "turns": [turn.to_json() for turn in turns]}
    if recorded.lost is None:
        body["final"] = episode.observe().to_json()
        body["score"] = episode.score()
        body["outcome"] = plain(episode.outcome())
    return body


def _turns_again(recorded: Trajectory, episode: Episode, family: Family) -> Iterator[Turn]:
    for turn in recorded.turns:
        if episode.done:
            return  # fewer turns than recorded: the difference says so
        again = take_turn(episode, decision(turn, family))
        yield Turn(
            again.observation, again.action, again.refusal, again.reward, again.parts, turn.text
        )


def decision(turn: Turn, family: Family) -> Action | Refusal:
    """What was decided in a recorded turn: an action, or an answer that was refused unread."""
    if turn.action is not None:
        return family.action_from_json(turn.action)
    refusal = turn.refusal or {"kind": "empty", "why": "nothing was recorded"}
    return Refusal(refusal["kind"], refusal["why"])


def first_difference(recorded: JsonObject, again: JsonObject) -> tuple[str, str, str]:
    """(where, recorded, again) of the first value that differs: version and turns before the rest."""
    first = ["version", "turns", "final", "score"]
    for key in [*first, *sorted({*recorded, *again} - {*first})]:
        found = _differs(key, recorded.get(key), again.get(key))
        if found is not None:
            return found
    raise AssertionError("called with two equal episodes")


def _differs(where: str, one: Any, other: Any) -> tuple[str, str, str] | None:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted({*one, *other}):
            if key not in one or key not in other:
                missing = "nothing"
                return (
                    f"{where}.{key}",
                    _short(one[key]) if key in one else missing,
                    _short(other[key]) if key in other else missing,
                )
            if (found := _differs(f"{where}.{key}", one[key], other[key])) is not None:
                return found
        return None
    if isinstance(one, list) and isinstance(other, list):
        for i, (a, b) in enumerate(zip(one, other, strict=False)):
            at = f"turn {i + 1} · " if where == "turns" else f"{where}[{i}]"
            if (found := _differs(at, a, b)) is not None:
                return found[0].replace("· .", "· "), found[1], found[2]
        if len(one) != len(other):
            return f"the number of {where}", str(len(one)), str(len(other))
        return None
    return None if canonical(one) == canonical(other) else (where, _short(one), _short(other))


def _short(value: Any, limit: int = 120) -> str:
    text = canonical(value).decode()
    return text if len(text) <= limit else f"{text[:limit]}…"


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m eval.replay FILE`: 0 where every episode is the same, 1 at the first that is not."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.replay",
        description="Play every recorded episode again and demand the same bytes.",
    )
    parser.add_argument(
        "file", type=Path, help="an episodes.jsonl, the folder of a run, or its name in runs/"
    )
    asked = parser.parse_args(argv)
    same = 0
    try:
        path = episodes_of(asked.file)
        for found in replay(path):
            if found is not None:
                print(f"{path}: {found}; {same} episodes before it are the same")
                return 1
            same += 1
    except (RoundsError, OSError) as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    print(f"{path}: {same} episodes, every byte the same")
    return 0


if __name__ == "__main__":
    sys.exit(stopped.stoppable(main))
