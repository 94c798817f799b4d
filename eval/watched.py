"""A family lent to a player by somebody who looks over its shoulder: at every step, or at one alone.

Any player of whole episodes can so be followed live, be asked for a single decision in the middle
of an episode, or play on a server. Knows the contract; nothing of players or families.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from env_server.contract import (
    Action,
    Episode,
    Family,
    Refusal,
    RoundsError,
    Split,
    Step,
    begin,
    canonical,
    read_options,
)
from env_server.remote import RemoteEpisode
from eval.roster import Player

Watch = Callable[[Episode, "Action | Refusal", Step], None]
Begin = Callable[[str, int, Split], Episode]


class OtherGame(RoundsError, RuntimeError):
    """The server plays another game than this checkout does."""


class _Decided(Exception):
    """A decision was made, and that was all that was wanted."""

    def __init__(self, decision: Action | Refusal) -> None:
        self.decision = decision


class _Seen:
    """An episode whose steps are seen; in all else the episode itself."""

    def __init__(self, episode: Episode, watch: Watch) -> None:
        self._episode, self._watch = episode, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._episode, name)

    def step(self, action: Action | Refusal) -> Step:
        step = self._episode.step(action)
        self._watch(self._episode, action, step)
        return step


class _Asked:
    """An episode that takes the first decision as its answer, and ends there."""

    def __init__(self, episode: Episode) -> None:
        self._episode = episode

    def __getattr__(self, name: str) -> Any:
        return getattr(self._episode, name)

    def step(self, action: Action | Refusal) -> Step:
        raise _Decided(action)


class _Lent:
    """The family with another way to begin."""

    def __init__(self, family: Family, begin: Begin) -> None:
        self._family, self._begin = family, begin

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def begin(self, task: str | None = None, seed: int = 0, split: Split = "train") -> Episode:
        return self._begin(task or self._family.default_task, seed, split)


def choosing(family: Family, options: Mapping[str, Any]) -> Family:
    """The family, with these options chosen of every episode begun in it. Raises BadOption."""
    chosen = read_options(family, options)
    if not chosen:
        return family
    return cast(
        Family, _Lent(family, lambda task, seed, split: begin(family, task, seed, split, chosen))
    )


class Mirrored:
    """An episode played here and on a server at once: what is seen here is demanded of the server."""

    def __init__(self, here: Episode, there: RemoteEpisode) -> None:
        self._here, self._there = here, there
        self._same()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._here, name)

    def step(self, action: Action | Refusal) -> Step:
        """Act once in both places. Raises OtherGame, and EpisodeLost."""
        step = self._here.step(action)
        self._there.step(action)
        self._same()
        return step

    def _same(self) -> None:
        here, there = (canonical(e.observe().to_json()) for e in (self._here, self._there))
        if here != there:
            raise OtherGame(
                f"the server's episode {self._there.episode_id} is not the one played here after"
                f" {self._here.steps} steps; start it from the same version with signed rewards"
            )


def watched(family: Family, watch: Watch, begin: Begin | None = None) -> Family:
    """The family, with `watch` called after every step of every episode begun in it."""
    opened = begin or family.begin
    return cast(Family, _Lent(family, lambda *which: cast(Episode, _Seen(opened(*which), watch))))


def decision(player: Player, family: Family, episode: Episode) -> Action | Refusal | None:
    """What the player would do now, in the middle of this episode; None where it does nothing.

    The episode is not touched. The player sees it as it stands and remembers nothing of how it came
    there. Raises what the player raises.
    """
    here = cast(Episode, _Asked(episode.copy()))
    lent = cast(Family, _Lent(family, lambda *_: here))
    try:
        for _ in player.play(lent, episode.task.name, episode.split, [episode.seed]):
            break
    except _Decided as made:
        return made.decision
    return None
