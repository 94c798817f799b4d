"""An episode that lives on a server, with the verbs of one that lives here.

Knows no family: observations, parts and outcomes are what arrived.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from websockets.exceptions import ConnectionClosed

from env_server.contract import (
    Action,
    EpisodeOver,
    EpisodeRunning,
    JsonObject,
    Refusal,
    Split,
    Step,
    Task,
    canonical,
)
from env_server.line import EpisodeLost, Line, Refused, RemoteObservation, ServerError

if TYPE_CHECKING:
    from env_server.client import Connection


class RemoteEpisode:
    """An episode that lives on a server; the verbs of `contract.Episode` that an agent needs."""

    def __init__(self, connection: Connection, line: Line, begun: JsonObject) -> None:
        self._connection = connection
        self.line: Line | None
        self.task = _task(begun["task"])
        self.seed: int = begun["seed"]
        self.split: Split = begun["split"]
        self.episode_id: str = begun["episode_id"]
        self._start(line, begun)

    def _start(self, line: Line, begun: JsonObject) -> None:
        self.line = line
        self.steps = 0
        self.done: bool = begun["done"]
        self.actions: list[JsonObject] = []  # as sent: what replay() sends again
        self._observation = RemoteObservation(begun["observation"])
        self._last: JsonObject = begun
        # an episode that nobody holds any more gives its socket back
        self._forgotten = weakref.finalize(self, self._connection.release_soon, line)
        self._forgotten.atexit = False

    def observe(self) -> RemoteObservation:
        return self._observation

    def step(self, action: Action | Refusal) -> Step:
        """Act once. Raises EpisodeOver, or EpisodeLost (Deadline) where the server did not answer."""
        self.check_running()
        return self._connection.run(self._connection.step_one(self, action))

    def score(self) -> float:
        """The grader's score. Raises EpisodeRunning before the end."""
        score: float = self._ended()["score"]
        return score

    def outcome(self) -> Mapping[str, Any]:
        """What was hidden. Raises EpisodeRunning before the end."""
        outcome: JsonObject = self._ended()["outcome"]
        return outcome

    def state(self) -> JsonObject:
        """The counters, asked of the server while the episode lives. Raises EpisodeLost."""
        if self.done:
            state: JsonObject = self._last["state"]
            return state
        return self._connection.run(self._asked("state", None))

    def drop(self) -> None:
        """Give the socket back without finishing; the episode is lost."""
        self.line = None
        self._forgotten()

    def replay(self) -> None:
        """Play the same case and the same actions on a new socket, up to where this episode was.

        Raises ServerError if the server plays another game than it did, and what `begin` raises.
        """
        self._connection.run(self._replay())

    def check_running(self) -> None:
        """Raise EpisodeOver if the episode has ended."""
        if self.done:
            raise EpisodeOver(f"episode {self.episode_id} has ended; begin another one")

    # -- on the loop --------------------------------------------------------------------------

    def record(self, sent: JsonObject, body: JsonObject) -> Step:
        """Take in the server's answer to the action `sent`."""
        self.steps += 1
        self.actions.append(sent)
        self._last = body
        self.done = body["done"]
        self._observation = RemoteObservation(body["observation"])
        if self.done:
            self.line = None
            self._forgotten()
        refusal = body["refusal"]
        return Step(
            self._observation,
            body["reward"],
            body["parts"],
            self.done,
            Refusal(**refusal) if refusal else None,
            body["info"],
        )

    async def _asked(self, kind: str, data: JsonObject | None) -> JsonObject:
        if self.line is None:
            raise EpisodeLost(f"episode {self.episode_id} was lost; replay() plays it again")
        try:
            return await self.line.ask(kind, data, self._connection.deadline_s)
        except (TimeoutError, Refused, ConnectionClosed, OSError, ValueError) as error:
            self.drop()
            why = str(error) or type(error).__name__
            raise EpisodeLost(f"episode {self.episode_id} was lost: {why}") from None

    async def _replay(self) -> None:
        actions, seen = self.actions, canonical(self._observation.to_json())
        self._connection.give_back(self)
        line, begun = await self._connection.reset((self.task.name, self.seed, self.split))
        self._start(line, begun)
        for action in actions:
            self.record(action, await self._asked("step", action))
        if canonical(self._observation.to_json()) != seen:
            self.drop()
            raise ServerError(
                f"{self._connection.url} no longer plays episode {self.episode_id} as it did; "
                f"was another version started?"
            )

    def _ended(self) -> JsonObject:
        if not self.done:
            raise EpisodeRunning(f"episode {self.episode_id} has not ended")
        return self._last


def _task(body: JsonObject) -> Task:
    return Task(**{**body, "splits": tuple(body["splits"])})
