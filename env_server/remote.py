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
)
from env_server.line import (
    EpisodeLost,
    Line,
    Refused,
    RemoteError,
    RemoteObservation,
    ServerError,
)

if TYPE_CHECKING:
    from env_server.client import Connection


class RemoteEpisode:
    """An episode that lives on a server; the verbs of `contract.Episode` that an agent needs."""

    def __init__(self, connection: Connection, line: Line, begun: JsonObject) -> None:
        self._connection = connection
        self.line: Line | None = line
        self.task = _task(begun["task"])
        self.seed: int = begun["seed"]
        self.split: Split = begun["split"]
        self.options: JsonObject = begun.get("options", {})  # chosen beyond these three
        self.episode_id: str = begun["episode_id"]
        self.steps = 0
        self.done: bool = begun["done"]
        self.actions: list[JsonObject] = []  # as sent: what replay() sends again
        self._heard = [begun]  # what a replay must hear again
        self._observation = RemoteObservation(begun["observation"])
        self._held_by(line)

    def _held_by(self, line: Line) -> None:
        # an episode that nobody holds any more gives its socket back
        self._forgotten = weakref.finalize(self, self._connection.release_soon, line)
        self._forgotten.atexit = False

    def observe(self) -> RemoteObservation:
        return self._observation

    def step(self, action: Action | Refusal) -> Step:
        """Act once. Raises EpisodeOver, or EpisodeLost (Deadline) where the server did not answer."""
        self.check_running()
        return self._connection.run(self._connection.step_one(self, spelled(action)))

    async def astep(self, action: Action | Refusal) -> Step:
        """`step` for a caller on an event loop."""
        self.check_running()
        return await self._connection.arun(self._connection.step_one(self, spelled(action)))

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
            state: JsonObject = self._heard[-1]["state"]
            return state
        return self._connection.run(self._state())

    def drop(self) -> None:
        """Give the socket back without finishing; the episode is lost."""
        self.line = None
        self._forgotten()

    def replay(self) -> None:
        """Play the same case and the same actions on a new socket, up to where this episode was.

        Where that fails the episode is as lost as before, and may be replayed again. Raises ServerError
        if the server plays another game than it did, EpisodeLost, and what `begin` raises.
        """
        self._connection.run(self.play_again())

    async def areplay(self) -> None:
        """`replay` for a caller on an event loop."""
        await self._connection.arun(self.play_again())

    def check_running(self) -> None:
        """Raise EpisodeOver if the episode has ended."""
        if self.done:
            raise EpisodeOver(f"episode {self.episode_id} has ended; begin another one")

    # -- on the loop --------------------------------------------------------------------------

    def record(self, sent: JsonObject, body: JsonObject) -> Step:
        """Take in the server's answer to the action `sent`. Raises ServerError for one without a step."""
        try:
            step = _step(body)
        except (KeyError, TypeError, AttributeError) as error:
            raise ServerError(f"the reply to a step is no step: {error!r}") from None
        self.steps += 1
        self.actions.append(sent)
        self._heard.append(body)
        self.done = step.done
        self._observation = RemoteObservation(body["observation"])
        if self.done:
            self.line = None
            self._forgotten()
        return step

    async def _state(self) -> JsonObject:
        if self.line is None:
            raise EpisodeLost(f"episode {self.episode_id} was lost; replay() plays it again")
        try:
            return await self.line.ask("state", None, self._connection.deadline_s)
        except (TimeoutError, Refused, RemoteError, ConnectionClosed, OSError, ValueError) as error:
            self.drop()
            why = str(error) or type(error).__name__
            raise EpisodeLost(f"episode {self.episode_id} was lost: {why}") from None

    async def play_again(self) -> None:
        """`replay`, on the client's own loop: on a twin, so that a failure changes nothing here."""
        self._give_back()
        twin = await self._connection.begun((self.task.name, self.seed, self.split, self.options))
        if not _alike(twin._heard[0], self._heard[0]):
            raise self._another_game(twin)
        for action, before in zip(self.actions, self._heard[1:], strict=True):
            if twin.done:
                raise self._another_game(twin)
            await self._connection.step_one(twin, action)
            if not _alike(twin._heard[-1], before):
                raise self._another_game(twin)
        line, twin.line = twin.line, None
        if line is not None:
            twin._forgotten.detach()
            self.line = line
            self._held_by(line)

    def _give_back(self) -> None:
        line, self.line = self.line, None
        if line is not None:
            self._forgotten.detach()
            line.home.release(line)

    def _another_game(self, twin: RemoteEpisode) -> ServerError:
        twin.drop()
        return ServerError(
            f"{self._connection.url} no longer plays episode {self.episode_id} as it did; "
            f"was another version started?"
        )

    def _ended(self) -> JsonObject:
        if not self.done:
            raise EpisodeRunning(f"episode {self.episode_id} has not ended")
        return self._heard[-1]


def spelled(action: Action | Refusal) -> JsonObject:
    """A decision as the wire has it."""
    return {"refusal": action.to_json()} if isinstance(action, Refusal) else action.to_json()


def _step(body: JsonObject) -> Step:
    refusal = body["refusal"]
    return Step(
        RemoteObservation(body["observation"]),
        body["reward"],
        body["parts"],
        body["done"],
        Refusal(**refusal) if refusal else None,
        body["info"],
    )


def _alike(one: JsonObject, other: JsonObject) -> bool:
    """Whether two replies tell the same of the game."""
    return all(one.get(key) == other.get(key) for key in ("observation", "reward", "done"))


def _task(body: JsonObject) -> Task:
    return Task(**{**body, "splits": tuple(body["splits"])})
