"""A family small enough to check by hand: walk along a line and stop at the hidden mark.

Everything the contract asks for, in one file, with a known optimum: what stands above the
environments is tested on it without waiting for a real patient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from env_server.contract import (
    Action,
    AgentCard,
    Episode,
    EpisodeOver,
    EpisodeRunning,
    JsonObject,
    Observation,
    Refusal,
    Split,
    Step,
    Task,
    clamp_score,
)
from env_server.registry import task as find_task
from env_server.seeds import Stream

FAMILY = "number_line"
MOVE_COST, ASK_COST, REFUSED, LATE = -0.01, -0.02, -0.1, -0.2


@dataclass(frozen=True, slots=True)
class Walk:
    """left | right | ask_side | finish."""

    action_type: str

    def to_json(self) -> JsonObject:
        return {"action_type": self.action_type}


LEFT, RIGHT, ASK, FINISH = Walk("left"), Walk("right"), Walk("ask_side"), Walk("finish")
FORMS = (LEFT, RIGHT, ASK, FINISH)


@dataclass(frozen=True, slots=True)
class Sight:
    """Where we stand, how long the line is, and the last answer; never the mark."""

    place: int
    length: int
    told: str | None  # left | right | here, once asked
    steps_left: int
    done: bool
    score: float | None

    def to_json(self) -> JsonObject:
        return {
            "place": self.place,
            "length": self.length,
            "told": self.told,
            "steps_left": self.steps_left,
            "done": self.done,
            "score": self.score,
        }


@dataclass(slots=True)
class LineEpisode:
    task: Task
    seed: int
    split: Split
    place: int
    mark: int
    length: int
    tells: bool
    start: int = field(init=False)
    told: str | None = None
    steps: int = 0
    done: bool = False

    def __post_init__(self) -> None:
        self.start = self.place

    @property
    def episode_id(self) -> str:
        return f"{self.task.name}-{self.split}-{self.seed}"

    def observe(self) -> Sight:
        score = self.score() if self.done else None
        left = self.task.max_steps - self.steps
        return Sight(self.place, self.length, self.told, left, self.done, score)

    def legal_actions(self) -> Sequence[Action]:
        return () if self.done else tuple(a for a in FORMS if self._why_not(a) is None)

    def _why_not(self, action: Walk) -> Refusal | None:
        if action == LEFT and self.place == 0:
            return Refusal("illegal", "the line ends at 0")
        if action == RIGHT and self.place == self.length:
            return Refusal("illegal", f"the line ends at {self.length}")
        return None

    def step(self, action: Action | Refusal) -> Step:
        if self.done:
            raise EpisodeOver(f"{self.episode_id} has ended")
        self.steps += 1
        refusal = action if isinstance(action, Refusal) else self._act(action)
        parts = {"move": MOVE_COST if action in (LEFT, RIGHT) else 0.0}
        if action == ASK:
            parts = {"query": ASK_COST}
        if refusal is not None:
            parts = {"invalid": REFUSED}
        if not self.done and self.steps >= self.task.max_steps:
            self.done, parts["timeout"] = True, LATE
        if self.done:
            parts["score"] = self.score()
        reward = sum(parts.values())
        return Step(self.observe(), reward, MappingProxyType(parts), self.done, refusal)

    def _act(self, action: Action) -> Refusal | None:
        if not isinstance(action, Walk):
            return Refusal("malformed", f"{type(action).__name__} is not a walk")
        if (no := self._why_not(action)) is not None:
            return no
        self.place += {LEFT: -1, RIGHT: 1}.get(action, 0)
        if action == ASK:
            side = "right" if self.place < self.mark else "left"
            self.told = "here" if self.place == self.mark else side
        self.done = action == FINISH
        return None

    def _gain(self, place: int) -> float:
        return (abs(self.mark - self.start) - abs(self.mark - place)) / self.length

    def score(self) -> float:
        if not self.done:
            raise EpisodeRunning(f"{self.episode_id} has not ended")
        return clamp_score(1.0 - abs(self.place - self.mark) / self.length)

    def outcome(self) -> Mapping[str, Any]:
        own = self.score()
        if not self.tells:
            return MappingProxyType({"mark": self.mark})
        best = clamp_score(1.0)
        return MappingProxyType(
            {
                "score_best": best,
                "regret": best - own,
                "optimum": self._gain(self.mark),
                "attained": self._gain(self.place),
                "clean": self.start == self.mark,
                "best_plan": [a.to_json() for a in way(self.start, self.mark)],
            }
        )

    def state(self) -> JsonObject:
        return {"episode_id": self.episode_id, "step_count": self.steps}

    def copy(self) -> LineEpisode:
        twin = LineEpisode(
            self.task, self.seed, self.split, self.place, self.mark, self.length, self.tells
        )
        twin.start, twin.told, twin.steps, twin.done = self.start, self.told, self.steps, self.done
        return twin


def way(place: int, mark: int) -> list[Walk]:
    """The shortest walk from `place` to `mark`, with the finish."""
    return [RIGHT if mark > place else LEFT] * abs(mark - place) + [FINISH]


@dataclass(slots=True)
class Wanderer:
    """Any legal step, at random."""

    draws: Stream

    def act(
        self, observation: Observation, legal: Callable[[], Sequence[Action]]
    ) -> Action | Refusal:
        return self.draws.choice(legal())


@dataclass(slots=True)
class Asker:
    """Asks once which side the mark is on, walks three steps that way, and stops."""

    walked: int = 0

    def act(
        self, observation: Observation, legal: Callable[[], Sequence[Action]]
    ) -> Action | Refusal:
        assert isinstance(observation, Sight)
        if observation.told is None:
            return ASK
        step = {"left": LEFT, "right": RIGHT}.get(observation.told, FINISH)
        if self.walked == 3 or step not in legal():
            return FINISH
        self.walked += 1
        return step


@dataclass(slots=True)
class Script:
    """Plays the given actions in order."""

    left: list[Action | Refusal]

    def act(
        self, observation: Observation, legal: Callable[[], Sequence[Action]]
    ) -> Action | Refusal:
        return self.left.pop(0)


def _knows_the_mark(episode: Episode) -> Script:
    assert isinstance(episode, LineEpisode)
    return Script([*way(episode.place, episode.mark)])


AGENTS = (
    AgentCard(
        "random",
        "random",
        lambda e: Wanderer(Stream("wanderer", e.task.name, e.split, e.seed)),
        "any legal step",
    ),
    AgentCard("heuristic", "heuristic", lambda e: Asker(), "asks once, then walks"),
    AgentCard("finish_at_once", "canary", lambda e: Script([FINISH]), "stops where it stands"),
    AgentCard(
        "near_only", "heuristic", lambda e: Script([FINISH]), "plays near alone", tasks=("near",)
    ),
    AgentCard(
        "reference", "reference", _knows_the_mark, "walks to the mark", exact_on=("near", "far")
    ),
)


@dataclass(frozen=True, slots=True)
class LineEncoding:
    """Place, length and the last answer as numbers; the four forms as indices."""

    size: int = 3
    n_actions: int = len(FORMS)

    def features(self, observation: Observation) -> Any:
        import numpy as np

        assert isinstance(observation, Sight)
        told = {"left": -1.0, "right": 1.0}.get(observation.told or "", 0.0)
        return np.array([observation.place, observation.length, told], dtype=np.float32)

    def mask(self, observation: Observation) -> Any:
        import numpy as np

        assert isinstance(observation, Sight)
        open_ = [observation.place > 0, observation.place < observation.length, True, True]
        return np.array(open_, dtype=bool) & (not observation.done)

    def action(self, observation: Observation, index: int) -> Action:
        return FORMS[index]

    def index(self, observation: Observation, action: Action) -> int | None:
        return FORMS.index(action) if action in FORMS else None


@dataclass(frozen=True, slots=True)
class NumberLine:
    """The family. tells: whether an outcome names the optimum (not every family can)."""

    name: str = FAMILY
    version: str = "1"
    summary: str = "walk to a hidden mark on a line"
    default_task: str = "near"
    tells: bool = True
    tasks: Mapping[str, Task] = field(
        default_factory=lambda: {
            "near": Task("near", FAMILY, "easy", 12, "a line of ten steps"),
            "far": Task("far", FAMILY, "hard", 40, "a line of thirty steps"),
        }
    )
    agents: Mapping[str, AgentCard] = field(
        default_factory=lambda: {card.name: card for card in AGENTS}
    )

    def begin(self, task: str | None = None, seed: int = 0, split: Split = "train") -> LineEpisode:
        chosen = find_task(self, task)
        draws = Stream(FAMILY, chosen.name, split, seed)
        length = 10 if chosen.name == "near" else 30
        mark = draws.between(0, length)
        place = mark if draws.chance(0.15) else draws.between(0, length)
        return LineEpisode(chosen, seed, split, place, mark, length, self.tells)

    def action_from_json(self, payload: object) -> Action | Refusal:
        for form in FORMS:
            if payload == form.to_json():
                return form
        return Refusal("malformed", f"{payload!r} is none of {[f.to_json() for f in FORMS]}")

    def action_schema(self) -> JsonObject:
        return {"oneOf": [{"properties": {"action_type": {"const": f.action_type}}} for f in FORMS]}

    def observation_schema(self) -> JsonObject:
        return {"type": "object"}

    def encoding(self, task: str, name: str = "default") -> LineEncoding:
        return LineEncoding()
