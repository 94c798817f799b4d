"""One player's game: reset, step and state on the episode of a session, whatever door they came by.

Knows neither HTTP nor sockets. Building a case may take long, so it happens on one worker thread:
episodes of one case asked for together are then built once, and the loop stays free. So does a step
that may be long (`pace.py`); one session's requests wait for one another, and keep their order.
Any other step is done at once, without a task, a thread or a wait.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from time import perf_counter, thread_time
from typing import Any, Final

from env_server import contract, wire
from env_server.contract import (
    Action,
    Episode,
    EpisodeOver,
    Family,
    JsonObject,
    Refusal,
    RoundsError,
)
from env_server.metrics import Metrics
from env_server.pace import Form, Pace, Place, Share
from env_server.sessions import Session, SessionTable, Stopping
from env_server.workers import Worker

WAITING: Final = 32  # steps that may wait for something outside at one time


class NoEpisode(RoundsError):
    """A step or a state was asked for before any reset."""


class TooSlow(RoundsError):
    """The case was not built, or the step not done, within the deadline."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long anything may take, how much may be sent, and how often."""

    begin_s: float = 55.0  # building a case, the wait for others included; clients give up at 60
    step_s: float = 30.0  # one step; the episode of a slower one is dropped
    send_s: float = 15.0  # a peer that does not read for so long is dropped
    body_bytes: int = wire.MAX_FRAME  # of one message or body; larger ones are answered, not read
    rate: float = 0.0  # requests a second from one address, frames a second from one socket; 0: any
    burst_s: float = 2.0  # seconds' worth of the rate that may come at once
    batch: int = 256  # messages in one batched frame or request


@dataclass(frozen=True, slots=True)
class Play:
    """The verbs of one family on one server."""

    family: Family
    table: SessionTable
    style: wire.RewardStyle = "signed"
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    builder: Worker = field(default_factory=lambda: Worker("begin"))
    stepper: Worker = field(default_factory=lambda: Worker("step"))
    waiters: Worker = field(default_factory=lambda: Worker("wait", lanes=WAITING))
    pace: Pace = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pace", Pace(self.family))

    async def reset(self, session: Session, wanted: wire.Begin) -> JsonObject:
        """Begin the case that was asked for. Raises TooSlow or Stopping."""
        async with session.turn:
            return await self._reset(session, wanted)

    async def _reset(self, session: Session, wanted: wire.Begin) -> JsonObject:
        if self.table.stopping:
            raise Stopping("this server is stopping and begins nothing new; ask another, or later")
        task = wanted.task.name
        begin = partial(
            contract.begin, self.family, task, wanted.seed, wanted.split, wanted.options
        )
        try:
            episode = await self.builder.do(begin, self.limits.begin_s)
        except TimeoutError:
            raise TooSlow(
                f"{task} seed {wanted.seed} was not ready within "
                f"{self.limits.begin_s:.0f} s; try again or take another seed"
            ) from None
        if wanted.episode_id is not None and wanted.episode_id != episode.episode_id:
            self._rename(episode, wanted.episode_id)
        reply = wire.begun(episode, self.style, wanted.options)
        session.episode, session.played, session.options = episode, [], wanted.options
        self.table.touch(session)
        self.metrics.begun.add(self.family.name, task)
        return reply

    def _rename(self, episode: Episode, name: str) -> None:
        try:
            episode.episode_id = name
        except AttributeError:
            raise wire.BadMessage(
                f"{self.family.name} names its episodes itself; leave episode_id out"
            ) from None

    async def step(self, session: Session, data: object) -> JsonObject:
        """Act once. Raises NoEpisode, EpisodeOver or TooSlow; a bad action is a refusal in the reply."""
        body = self.step_at_once(session, data)
        if body is None:
            async with session.turn:
                body = await self.step_in_turn(session, data)
        return body

    def step_at_once(self, session: Session, data: object) -> JsonObject | None:
        """`step` where nothing has to be waited for; else None, and nothing was done."""
        if not session.turn.free:
            return None
        episode = _playing(session)
        form = self.pace.form(episode, data)
        if self.pace.place(form) != "loop":
            return None
        return self._step_here(session, episode, form, data)

    async def step_in_turn(self, session: Session, data: object) -> JsonObject:
        """`step` for a caller that holds the session's turn."""
        episode = _playing(session)
        form = self.pace.form(episode, data)
        place = self.pace.place(form)
        if place == "loop":
            return self._step_here(session, episode, form, data)
        return await self._step_apart(session, episode, form, data, place)

    def _step_here(
        self, session: Session, episode: Episode, form: Form, data: object
    ) -> JsonObject:
        started = perf_counter()
        action = wire.read_action(self.family, data)
        body = wire.stepped(episode.step(action), episode, self.style)
        took_s = perf_counter() - started
        self.pace.took(form, took_s)
        self._taken(session, episode, action, body, took_s)
        return body

    async def _step_apart(
        self, session: Session, episode: Episode, form: Form, data: object, place: Place
    ) -> JsonObject:
        """The step, done on a thread while the loop serves others."""
        started = perf_counter()
        action = wire.read_action(self.family, data)
        act = partial(_timed, episode, action, self.style)
        worker = self.waiters if place == "threads" else self.stepper
        try:
            body, clock_s, processor_s = await worker.do(act, self.limits.step_s)
        except TimeoutError:
            session.episode = None  # nobody knows where it stands
            raise TooSlow(
                f"a step of episode {episode.episode_id} took over {self.limits.step_s:g} s; "
                f"the episode was dropped, reset begins another"
            ) from None
        self.pace.took_apart(form, clock_s, processor_s)
        self._taken(session, episode, action, body, perf_counter() - started)
        return body

    def _taken(
        self,
        session: Session,
        episode: Episode,
        action: Action | Refusal,
        body: JsonObject,
        took_s: float,
    ) -> None:
        session.played.append(action)
        self.table.touch(session)
        name, metrics = self.family.name, self.metrics
        metrics.steps.add(took_s, name)
        if body["refusal"] is not None:
            metrics.refusals.add(name, body["refusal"]["kind"])
        if body["done"]:
            metrics.finished.add(name, episode.task.name)

    async def state(self, session: Session) -> JsonObject:
        """The episode's counters. Raises NoEpisode."""
        async with session.turn:
            return _begun(session).state()

    async def snapshot(self, session: Session) -> JsonObject:
        """All it takes to play on elsewhere: the case, and what was done. Raises NoEpisode."""
        async with session.turn:
            episode = _begun(session)
            return {
                "family": self.family.name,
                "version": self.family.version,
                "task_id": episode.task.name,
                "seed": episode.seed,
                "split": episode.split,
                "episode_id": episode.episode_id,
                **session.options,
                "actions": [wire.spelled(action) for action in session.played],
                "steps": episode.steps,
                "done": episode.done,
            }

    async def restore(self, session: Session, snapshot: Any) -> JsonObject:
        """Begin the snapshot's case and play its actions; the reply to the last. Raises BadMessage."""
        wanted, actions = wire.read_snapshot(self.family, snapshot)
        async with session.turn:
            reply = await self._reset(session, wanted)
            share = Share()
            for at, action in enumerate(actions):
                await share.pause()
                try:
                    reply = {**reply, **await self.step_in_turn(session, action)}
                except EpisodeOver:
                    raise wire.BadMessage(
                        f"snapshot.actions[{at}]: the episode ended before; leave the rest out"
                    ) from None
            return reply

    async def copied(self, session: Session) -> Episode:
        """An independent episode at the same point, never one in the midst of a step. Raises NoEpisode."""
        async with session.turn:
            return _begun(session).copy()


def _begun(session: Session) -> Episode:
    if session.episode is None:
        raise NoEpisode("no episode yet; reset begins one")
    return session.episode


def _playing(session: Session) -> Episode:
    episode = _begun(session)
    if episode.done:
        raise EpisodeOver(f"episode {episode.episode_id} has ended; reset begins another")
    return episode


def _timed(
    episode: Episode, action: Action | Refusal, style: wire.RewardStyle
) -> tuple[JsonObject, float, float]:
    """The reply to one step (ending an episode may grade it), its seconds by the clock and of the processor."""
    before_s, started = thread_time(), perf_counter()
    body = wire.stepped(episode.step(action), episode, style)
    return body, perf_counter() - started, thread_time() - before_s
