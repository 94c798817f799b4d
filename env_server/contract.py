"""What every environment promises: the words a family, a task, an episode and a step are made of.

Knows nothing of any one family, of the wire, or of who plays. All types here are plain Python;
pydantic lives at the wire (`env_server/app.py`, `env_server/adapter.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import isfinite
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias, cast, runtime_checkable

JsonValue: TypeAlias = (
    "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
)
JsonObject: TypeAlias = dict[str, Any]

# train, validation and test everywhere; any other name is a kind of test that a task lists itself
# (genes or pairs that training never shows, cases made by hand, names hidden)
Split: TypeAlias = str
Difficulty = Literal["easy", "medium", "hard", "very_hard"]
RefusalKind = Literal["malformed", "truncated", "illegal", "budget", "empty"]

SCORE_FLOOR = 0.001
SCORE_CEILING = 0.999
NOTHING: Mapping[str, Any] = MappingProxyType({})


class RoundsError(Exception):
    """A mistake of the caller's: says what, where, which value, and the way out."""


class UnknownFamily(RoundsError, KeyError):
    """No family of that name is installed."""

    __str__ = Exception.__str__


class UnknownTask(RoundsError, KeyError):
    """The family has no task of that name."""

    __str__ = Exception.__str__


class UnknownAgent(RoundsError, KeyError):
    """No agent of that name plays this family."""

    __str__ = Exception.__str__


class BadSplit(RoundsError, ValueError):
    """The split is not one the task has."""


class BadOption(RoundsError, ValueError):
    """An option of an episode that the family does not have, or a value that it does not take."""


class EpisodeOver(RoundsError, RuntimeError):
    """A step was asked of an episode that has ended: an episode is played once, then dropped."""


class EpisodeRunning(RoundsError, RuntimeError):
    """A final score was asked of an episode that has not ended."""


@dataclass(frozen=True, slots=True)
class Task:
    """One job of a family, with the limits an agent plays under."""

    name: str
    family: str
    difficulty: Difficulty
    max_steps: int
    summary: str
    splits: tuple[Split, ...] = ("train", "validation", "test")
    seed: bool = False  # graders kept exact from the source documents; known to be gameable
    margin: float = 0.1  # how far below `yardstick` degenerate policies score, unless `seed`
    # reference where the difficulty is that common sense misleads: there a checklist may score no
    # better than saying nothing, and what matters is how far both are from good play
    yardstick: Literal["heuristic", "reference"] = "heuristic"


@dataclass(frozen=True, slots=True)
class Option:
    """Something a caller may choose of an episode beyond task, seed and split.

    A family offers them as `options: Mapping[str, Option]`, by name; its `begin` takes each as a keyword
    of that name. What is left out, or null, is the case's own.
    """

    kind: Literal["word", "number", "whole", "flag"]
    summary: str
    words: tuple[str, ...] = ()  # of a word
    least: float | None = None  # of a number
    most: float | None = None

    def read(self, name: str, value: object) -> bool | int | float | str:
        """`value`, once it is known to be one that this option takes. Raises BadOption."""
        if self.kind == "flag" and isinstance(value, bool):
            return value
        if self.kind == "word" and isinstance(value, str):
            if value in self.words:
                return value
            raise BadOption(did_you_mean(name, value[:60], self.words))
        if self.kind in ("number", "whole") and _is_number(value, self.kind == "whole"):
            number = cast("int | float", value)
            if (self.least is None or number >= self.least) and (
                self.most is None or number <= self.most
            ):
                # 1 and 1.0 are one value, and so must not be two cases
                return float(number) if self.kind == "number" else number
        raise BadOption(f"{name} must be {self.takes()}, not {str(value)[:60]!r}")

    def takes(self) -> str:
        """What it takes, in words."""
        if self.kind == "flag":
            return "true or false"
        if self.kind == "word":
            return f"one of {', '.join(self.words)}"
        said = "a whole number" if self.kind == "whole" else "a number"
        if self.least is not None and self.most is not None:
            return f"{said} from {self.least:g} to {self.most:g}"
        return said if self.least is None else f"{said} from {self.least:g} up"

    def schema(self) -> JsonObject:
        """JSON schema of a value."""
        kinds = {"word": "string", "number": "number", "whole": "integer", "flag": "boolean"}
        told: JsonObject = {"type": kinds[self.kind], "description": self.summary}
        if self.words:
            told["enum"] = list(self.words)
        bounds = {"minimum": self.least, "maximum": self.most}
        return told | {key: value for key, value in bounds.items() if value is not None}


def _is_number(value: object, whole: bool) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (not whole and isinstance(value, float) and isfinite(value))


class Action(Protocol):
    """One decision of the agent: hashable, comparable, and JSON-ready without nulls."""

    def to_json(self) -> JsonObject: ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer the environment will not act on. It costs a step and changes nothing else.

    kind: malformed (no action could be read), truncated (the answer ran out of tokens), illegal
    (read, but not possible now), budget (possible, but not paid for), empty (nothing was said).
    """

    kind: RefusalKind
    why: str

    def to_json(self) -> JsonObject:
        return {"kind": self.kind, "why": self.why}


class Observation(Protocol):
    """Everything the agent may see, and nothing else. Typed inside, JSON-ready by `to_json`."""

    def to_json(self) -> JsonObject: ...


@dataclass(frozen=True, slots=True)
class Step:
    """What one action led to. `parts` names the components of `reward` and sums to it."""

    observation: Observation
    reward: float
    parts: Mapping[str, float]
    done: bool
    refusal: Refusal | None = None
    info: Mapping[str, Any] = field(default_factory=lambda: NOTHING)

    def to_json(self) -> JsonObject:
        return {
            "observation": self.observation.to_json(),
            "reward": self.reward,
            "parts": dict(self.parts),
            "done": self.done,
            "refusal": self.refusal.to_json() if self.refusal else None,
            "info": dict(self.info),
        }


class Episode(Protocol):
    """One patient (or portfolio, or ward), played once. Same (task, seed, split, actions), same bytes."""

    seed: int
    split: Split
    episode_id: str

    @property
    def task(self) -> Task: ...

    @property
    def done(self) -> bool: ...

    @property
    def steps(self) -> int:
        """Steps taken so far; a refusal counts as one."""
        ...

    def observe(self) -> Observation: ...

    def legal_actions(self) -> Sequence[Action]:
        """Every action the environment would act on now, in a fixed order; empty once done."""
        ...

    def step(self, action: Action | Refusal) -> Step:
        """Act once. An action that is not legal comes back as `Step.refusal`. Raises EpisodeOver."""
        ...

    def score(self) -> float:
        """The grader's score in [0.001, 0.999]. Raises EpisodeRunning before the end."""
        ...

    def outcome(self) -> Mapping[str, Any]:
        """What was hidden, once it is over: optimum, best_plan, regret ... Raises EpisodeRunning."""
        ...

    def state(self) -> JsonObject:
        """Counters for OpenEnv's `state`: nothing hidden, nothing that depends on hidden facts."""
        ...

    def copy(self) -> Episode:
        """An independent episode at the same point: planners and undo are built on it."""
        ...


class Agent(Protocol):
    """Plays one episode. Sees observations and legal actions; only reference agents see more."""

    def act(
        self, observation: Observation, legal: Callable[[], Sequence[Action]]
    ) -> Action | Refusal: ...


AgentFactory = Callable[[Episode], Agent]


@dataclass(frozen=True, slots=True)
class AgentCard:
    """An agent that a family ships. `make(episode)` returns a fresh one for that episode.

    role: random, heuristic, canary (a degenerate policy that a good grader must not reward),
    reference (sees the whole episode; `exact_on` names the tasks where it is the certified optimum,
    elsewhere it is the best known planner).
    """

    name: str
    role: Literal["random", "heuristic", "canary", "reference"]
    make: AgentFactory
    summary: str
    exact_on: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()  # the tasks it plays; empty means all


@dataclass(frozen=True, slots=True)
class Measure:
    """A column that a family adds to every table: the mean of a number that outcomes tell.

    A family offers them as `measures: Mapping[str, Measure]`, by heading. `of` reads one outcome, of
    which only numbers, booleans and strings are kept; None leaves the episode out. With `per` the
    column is a ratio of sums. A family whose agents state chances offers `forecast(outcome)` too:
    (stated chance, whether it came true) or None, from which Brier score and calibration are made.
    """

    of: Callable[[Mapping[str, Any]], float | None]
    per: Callable[[Mapping[str, Any]], float | None] | None = None


@runtime_checkable
class Encoding(Protocol):
    """A task seen as numbers: fixed features, a fixed list of discrete actions and their mask."""

    size: int
    n_actions: int

    def features(self, observation: Observation) -> Any:
        """float32 array of shape (size,)."""
        ...

    def mask(self, observation: Observation) -> Any:
        """bool array of shape (n_actions,): exactly the indices whose action is legal."""
        ...

    def action(self, observation: Observation, index: int) -> Action: ...

    def index(self, observation: Observation, action: Action) -> int | None:
        """The index of `action`, or None where the discrete list cannot express it."""
        ...


class Family(Protocol):
    """A kind of environment. A module-level `family` in `env_server/envs/<name>/` is enough to join."""

    name: str
    version: str
    summary: str
    default_task: str
    tasks: Mapping[str, Task]
    agents: Mapping[str, AgentCard]

    def begin(self, task: str | None = None, seed: int = 0, split: Split = "train") -> Episode: ...

    def action_from_json(self, payload: object) -> Action | Refusal:
        """Read one action strictly; anything else is a Refusal that names the value and the remedy."""
        ...

    def action_schema(self) -> JsonObject:
        """JSON schema of an action: one `oneOf` branch a form."""
        ...

    def observation_schema(self) -> JsonObject: ...

    def encoding(self, task: str, name: str = "default") -> Encoding: ...


def nearest(given: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?` for the known word closest to `given`, or nothing."""
    near = get_close_matches(given, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def did_you_mean(what: str, given: str, known: tuple[str, ...]) -> str:
    """One line that names the wrong value, the nearest right ones, and all there are."""
    return f"no {what} {given!r}{nearest(str(given), known).rstrip('?')}; known: {', '.join(known)}"


def task_of(family: Family, name: str | None) -> Task:
    """The family's task `name`, or its default for None. Raises UnknownTask."""
    wanted = name or family.default_task
    if wanted not in family.tasks:
        raise UnknownTask(did_you_mean(f"{family.name} task", wanted, tuple(family.tasks)))
    return family.tasks[wanted]


def options_of(family: Family) -> Mapping[str, Option]:
    """What may be chosen of the family's episodes beyond task, seed and split; nothing, for most."""
    options: Mapping[str, Option] = getattr(family, "options", NOTHING)
    return options


def read_options(family: Family, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an episode, checked, without those left to the case. Raises BadOption."""
    known = options_of(family)
    for name in given:
        if name not in known:
            if not known:
                raise BadOption(f"{family.name} has no options; leave {name[:60]!r} out")
            raise BadOption(did_you_mean(f"{family.name} option", name[:60], tuple(known)))
    return {name: known[name].read(name, v) for name, v in given.items() if v is not None}


def begin(
    family: Family,
    task: str | None = None,
    seed: int = 0,
    split: Split = "train",
    options: Mapping[str, Any] = NOTHING,
) -> Episode:
    """`family.begin` with options as they are written down. Raises BadOption and what it raises."""
    if not options:
        return family.begin(task, seed, split)
    opened = cast("Callable[..., Episode]", family.begin)
    return opened(task, seed, split, **read_options(family, options))


def clamp_score(raw: float) -> float:
    """`raw` brought into [0.001, 0.999], the open interval OpenEnv's graders ask for."""
    return min(max(raw, SCORE_FLOOR), SCORE_CEILING)


def canonical(value: object) -> bytes:
    """The one JSON spelling of `value`, for hashing and for demanding the same bytes again.

    Raises ValueError on NaN or infinity: no reward or observation may hold one.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()
