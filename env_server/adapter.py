"""Rounds as OpenEnv's own types: for code that holds an `Environment`, and for OpenEnv's own server.

The only module that imports openenv, which takes seconds; our doors do not need it.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, cast

from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, EnvironmentMetadata, Observation, State
from pydantic import BaseModel

from env_server import contract, registry, wire
from env_server.contract import Episode, EpisodeOver, Family, JsonObject, Step
from env_server.play import NoEpisode


class RoundsEnvironment(Environment):  # type: ignore[misc]
    """One family behind OpenEnv's verbs; `reset` begins an episode, and may be called again.

    The async verbs are overridden so that OpenEnv's server plays on its event loop: the default
    costs a thread a session.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(
        self, family: str = "polypharmacy", reward_style: wire.RewardStyle = "signed"
    ) -> None:
        super().__init__()
        self.family: Family = registry.get(family)
        self.reward_style = reward_style
        self.episode: Episode | None = None

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, **named: Any
    ) -> Observation:
        """Begin `task_id` in `split`, with the family's options by name.

        Raises BadMessage, UnknownTask, BadSplit or BadOption.
        """
        given = {"seed": seed, "episode_id": episode_id, **named}
        wanted = wire.read_begin(self.family, given)
        self.episode = contract.begin(
            self.family, wanted.task.name, wanted.seed, wanted.split, wanted.options
        )
        if wanted.episode_id is not None:
            self.episode.episode_id = wanted.episode_id
        return self._shown(wire.begun(self.episode, self.reward_style, wanted.options))

    def step(self, action: Action, timeout_s: float | None = None, **named: Any) -> Observation:
        """Act once; an action that cannot be done comes back as the observation's refusal.

        Raises NoEpisode or EpisodeOver.
        """
        episode = self._running()
        if episode.done:
            raise EpisodeOver(f"episode {episode.episode_id} has ended; reset begins another")
        payload = action.model_dump(exclude_none=True, exclude={"metadata"})
        step: Step = episode.step(wire.read_action(self.family, payload))
        return self._shown(wire.stepped(step, episode, self.reward_style))

    async def reset_async(
        self, seed: int | None = None, episode_id: str | None = None, **named: Any
    ) -> Observation:
        return self.reset(seed, episode_id, **named)

    async def step_async(
        self, action: Action, timeout_s: float | None = None, **named: Any
    ) -> Observation:
        return self.step(action, timeout_s, **named)

    @property
    def state(self) -> State:
        """The counters; OpenEnv's empty state before the first reset."""
        if self.episode is None:
            return State()
        return state_model(self.family.name)(**self.episode.state())

    def get_metadata(self) -> EnvironmentMetadata:
        family = self.family
        return EnvironmentMetadata(
            name=family.name,
            description=family.summary,
            version=family.version,
            author="Rounds contributors",
        )

    def _running(self) -> Episode:
        if self.episode is None:
            raise NoEpisode("no episode yet; reset begins one")
        return self.episode

    def _shown(self, reply: JsonObject) -> Observation:
        """The reply's observation as OpenEnv's type, with what it keeps beside it."""
        beside = {key: reply[key] for key in ("parts", "refusal", "info") if key in reply}
        fields = {**reply["observation"], "done": reply["done"], "reward": reply["reward"]}
        return observation_model(self.family.name)(**fields, metadata=beside)


@cache
def action_model(family: str) -> type[Action]:
    """The family's action as a subclass of OpenEnv's, for `create_app` and typed clients."""
    return cast("type[Action]", _joined(family, "Action", Action))


@cache
def observation_model(family: str) -> type[Observation]:
    """The family's observation as a subclass of OpenEnv's."""
    return cast("type[Observation]", _joined(family, "Observation", Observation))


@cache
def state_model(family: str) -> type[State]:
    """The family's state as a subclass of OpenEnv's."""
    return cast("type[State]", _joined(family, "State", State))


def _joined(
    family: str, name: Literal["Action", "Observation", "State"], base: type[BaseModel]
) -> type[BaseModel]:
    """Our model with OpenEnv's as a second base: its `metadata`, `reward` and checks come along."""
    ours = wire.model(registry.get(family), name)
    return type(ours.__name__, (ours, base), {"__module__": __name__, "__doc__": ours.__doc__})
