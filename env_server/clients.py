"""Typed clients by the names that the published environments gave them: reset, step, state, in models.

A thin face over `client.py`, in the shape of OpenEnv's EnvClient: what is sent and what comes back are
the family's own pydantic models. Knows no rules; one client plays one episode at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Final, Generic, Self, TypeVar, cast

from pydantic import BaseModel

from env_server import registry, wire
from env_server.client import DEADLINE_S, PATIENCE_S, Connection, connect
from env_server.contract import JsonObject, Refusal, RoundsError, Step
from env_server.envs.drug_target.wire import (
    DrugTargetAction,
    DrugTargetState,
    ValidationObservation,
)
from env_server.remote import RemoteEpisode

LOCAL: Final = "http://127.0.0.1:7860"

A = TypeVar("A", bound=BaseModel)
O = TypeVar("O", bound=BaseModel)  # noqa: E741 - action, observation, state
S = TypeVar("S", bound=BaseModel)


class NotReset(RoundsError, RuntimeError):
    """A step or the state was asked for before any reset."""


@dataclass(frozen=True, slots=True)
class StepResult(Generic[O]):
    """What a reset or a step led to; reward is None after a reset."""

    observation: O
    reward: float | None
    done: bool
    refusal: Refusal | None = None  # why the action was not acted on
    parts: Mapping[str, float] | None = None  # of the reward


class EnvClient(Generic[A, O, S]):
    """One family on a server, in its own models. Use with `with`, or close it."""

    family: ClassVar[str]

    def __init__(
        self,
        base_url: str = LOCAL,
        *,
        deadline_s: float = DEADLINE_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Raises ServerError where no server answers, or none that has the family."""
        family = registry.get(self.family)
        self._seen = cast("type[O]", wire.model(family, "Observation"))
        self._counted = cast("type[S]", wire.model(family, "State"))
        self._connection: Connection = connect(
            base_url, self.family, pool=1, deadline_s=deadline_s, patience_s=patience_s
        )
        self._episode: RemoteEpisode | None = None

    def reset(
        self,
        seed: int = 0,
        task_id: str | None = None,
        split: str = "train",
        **options: Any,
    ) -> StepResult[O]:
        """Begin an episode, leaving the one before. Raises UnknownTask, BadSplit or BadOption."""
        self._leave()
        self._episode = self._connection.begin(task_id, seed, split, **options)
        return StepResult(self._read(self._episode.observe().to_json()), None, self._episode.done)

    def step(self, action: A | JsonObject) -> StepResult[O]:
        """Act once. An action that cannot be done comes back as `refusal`. Raises NotReset, EpisodeOver."""
        spoken = action.model_dump(exclude_none=True) if isinstance(action, BaseModel) else action
        step: Step = self._running().step(_Said(spoken))
        seen = self._read(step.observation.to_json())
        return StepResult(seen, step.reward, step.done, step.refusal, step.parts)

    def state(self) -> S:
        """The counters of the episode. Raises NotReset."""
        return self._counted.model_validate(self._running().state())

    def score(self) -> float:
        """The grader's score. Raises EpisodeRunning before the end."""
        return self._running().score()

    def close(self) -> None:
        self._leave()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self, body: JsonObject) -> O:
        return self._seen.model_validate(body)

    def _running(self) -> RemoteEpisode:
        if self._episode is None:
            raise NotReset("no episode yet; reset() begins one")
        return self._episode

    def _leave(self) -> None:
        if self._episode is not None and not self._episode.done:
            self._episode.drop()
        self._episode = None


@dataclass(frozen=True, slots=True)
class _Said:
    """An action as its model spelled it; the server reads it."""

    body: JsonObject

    def to_json(self) -> JsonObject:
        return self.body


class DrugTargetEnv(EnvClient[DrugTargetAction, ValidationObservation, DrugTargetState]):
    """Drug target validation: `reset(seed, task_id, split, scenario=..., difficulty=..., budget=...)`."""

    family = "drug_target"
