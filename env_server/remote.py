"""An episode that lives on a server, with the verbs of one that lives here.

Knows no family: observations, parts and outcomes are what arrived.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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
    Ask,
    EpisodeLost,
    Place,
    Refused,
    RemoteObservation,
    ServerError,
)

if TYPE_CHECKING:
    from env_server.client import Connection


class RemoteEpisode:
    """An episode that lives on a server; the verbs of `contract.Episode` that an agent needs."""

    def __init__(self, connection: Connection, place: Place, begun: JsonObject) -> None:
        self._connection = connection
        self.place: Place | None
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
        self._live_at(place)

    def _live_at(self, place: Place) -> None:
        # an episode that nobody holds any more gives its place back
        self.place = place
        self._forgotten = weakref.finalize(self, self._connection.release_soon, place)
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
        """Give the place back without finishing; the episode is lost."""
        self.place = None
        self._forgotten()

    def replay(self) -> None:
        """Play the same case and the same actions at a new place, up to where this episode was.

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
            self.leave()
        return step

    def leave(self) -> None:
        """Give the place back: the episode has ended there, or nobody knows how it stands."""
        place, self.place = self.place, None
        if place is not None:
            self._forgotten.detach()
            place.home.release(place)

    async def _state(self) -> JsonObject:
        if self.place is None:
            raise EpisodeLost(f"episode {self.episode_id} was lost; replay() plays it again")
        ask = Ask("state", self.place.name)
        try:
            (told,) = await self.place.line.ask([ask], self._connection.deadline_s)
            if not isinstance(told, Refused):
                return told
            why = str(told)
        except (TimeoutError, ServerError) as error:
            why = str(error) or type(error).__name__
        self.leave()
        raise EpisodeLost(f"episode {self.episode_id} was lost: {why}")

    async def play_again(self) -> None:
        """`replay`, on the client's own loop: on a twin, so that a failure changes nothing here."""
        self.leave()
        twin = await self._connection.begun((self.task.name, self.seed, self.split, self.options))
        if not _alike(twin._heard[0], self._heard[0]):
            raise self._another_game(twin)
        for action, before in zip(self.actions, self._heard[1:], strict=True):
            if twin.done:
                raise self._another_game(twin)
            await self._connection.step_one(twin, action)
            if not _alike(twin._heard[-1], before):
                raise self._another_game(twin)
        place, twin.place = twin.place, None
        if place is not None:
            twin._forgotten.detach()
            self._live_at(place)

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
