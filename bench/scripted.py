"""Episodes whose every reply is known beforehand: what a road or a server did to them shows at once.

The moves are drawn in process; played anywhere else they must lead to the same observations,
rewards and scores, however often the episode was lost on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from env_server import registry
from env_server.contract import Action, Episode, JsonObject, Refusal
from env_server.seeds import Stream
from eval.door import Door, Lost, Request


@dataclass(frozen=True, slots=True)
class Script:
    """One case, the moves made in it, and what was said to each."""

    request: Request
    moves: tuple[Action | Refusal, ...]
    told: tuple[tuple[float, bool, JsonObject], ...]  # reward, done, observation
    score: float


@dataclass(slots=True)
class Performance:
    """What became of scripts that were played through a door."""

    episodes: int
    lost: int = 0
    wrong: int = 0  # replies, or scores, that are not what the script says
    seconds: float = 0.0
    longest_s: float = 0.0  # the longest turn
    why: str = ""  # of the first loss


def scripts(task: str, count: int, longest: int = 12) -> list[Script]:
    """Random legal moves on the first train patients, one refusal among them, played to the end."""
    family = registry.get("polypharmacy")
    return [_script(family.begin(task, seed, "train"), longest) for seed in range(count)]


def _script(episode: Episode, longest: int) -> Script:
    draws = Stream("scripted", episode.task.name, episode.seed)
    moves: list[Action | Refusal] = []
    told = []
    while not episode.done:
        legal = episode.legal_actions()
        last = len(moves) >= longest
        move = legal[-1] if last else draws.choice(legal)
        taken: Action | Refusal = Refusal("empty", "") if len(moves) == 1 else move
        step = episode.step(taken)
        moves.append(taken)
        told.append((step.reward, step.done, step.observation.to_json()))
    request = Request(episode.task.name, episode.seed, episode.split)
    return Script(request, tuple(moves), tuple(told), episode.score())


def perform(
    door: Door, wanted: Sequence[Script], between: Callable[[int], None] | None = None
) -> Performance:
    """Play all scripts side by side; `between` is called with the number of each turn before it."""
    seen = Performance(len(wanted))
    began = perf_counter()
    live: list[tuple[Script, Episode]] = []
    for script, episode in zip(wanted, door.begin_many([s.request for s in wanted]), strict=True):
        if isinstance(episode, Lost):
            _lose(seen, episode)
        else:
            live.append((script, episode))
    turn = 0
    while live:
        if between is not None:
            between(turn)
        started = perf_counter()
        steps = door.step_many([(episode, script.moves[turn]) for script, episode in live])
        seen.longest_s = max(seen.longest_s, perf_counter() - started)
        going = []
        for (script, episode), step in zip(live, steps, strict=True):
            if isinstance(step, Lost):
                _lose(seen, step)
                continue
            said = (step.reward, step.done, step.observation.to_json())
            seen.wrong += said != script.told[turn]
            if not step.done:
                going.append((script, episode))
            else:
                seen.wrong += episode.score() != script.score
        live = going
        turn += 1
    seen.seconds = perf_counter() - began
    return seen


def _lose(seen: Performance, lost: Lost) -> None:
    seen.lost += 1
    seen.why = seen.why or lost.why
