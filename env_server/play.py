"""One player's game: reset, step and state on the episode of a session, whatever door they came by.

Knows neither HTTP nor sockets. Building a case may take long, so it happens on one worker thread:
episodes of one case asked for together are then built once, and the loop stays free.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from env_server import wire
from env_server.contract import Episode, EpisodeOver, Family, JsonObject, RoundsError
from env_server.sessions import Session, SessionTable


class NoEpisode(RoundsError):
    """A step or a state was asked for before any reset."""


class TooSlow(RoundsError):
    """The case was not built within the deadline."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long anything may take."""

    begin_s: float = 55.0  # building a case, the wait for others included; clients give up at 60
    send_s: float = 15.0  # a peer that does not read for so long is dropped


@dataclass(frozen=True, slots=True)
class Play:
    """The verbs of one family on one server."""

    family: Family
    table: SessionTable
    style: wire.RewardStyle = "signed"
    limits: Limits = field(default_factory=Limits)
    builder: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="begin")
    )

    async def reset(self, session: Session, wanted: wire.Begin) -> JsonObject:
        """Begin the case that was asked for. Raises TooSlow."""
        building = asyncio.get_running_loop().run_in_executor(
            self.builder, self.family.begin, wanted.task.name, wanted.seed, wanted.split
        )
        try:
            episode = await asyncio.wait_for(building, self.limits.begin_s)
        except TimeoutError:
            raise TooSlow(
                f"{wanted.task.name} seed {wanted.seed} was not ready within "
                f"{self.limits.begin_s:.0f} s; try again or take another seed"
            ) from None
        if wanted.episode_id is not None:
            self._rename(episode, wanted.episode_id)
        reply = wire.begun(episode, self.style)
        session.episode = episode
        self.table.touch(session)
        return reply

    def _rename(self, episode: Episode, name: str) -> None:
        try:
            episode.episode_id = name
        except AttributeError:
            raise wire.BadMessage(
                f"{self.family.name} names its episodes itself; leave episode_id out"
            ) from None

    def step(self, session: Session, data: object) -> JsonObject:
        """Act once. Raises NoEpisode or EpisodeOver; a bad action is a refusal in the reply."""
        episode = session.episode
        if episode is None:
            raise NoEpisode("no episode yet; reset begins one")
        if episode.done:
            raise EpisodeOver(f"episode {episode.episode_id} has ended; reset begins another")
        step = episode.step(wire.read_action(self.family, data))
        self.table.touch(session)
        return wire.stepped(step, episode, self.style)

    def state(self, session: Session) -> JsonObject:
        """The episode's counters. Raises NoEpisode."""
        if session.episode is None:
            raise NoEpisode("no episode yet; reset begins one")
        return session.episode.state()
