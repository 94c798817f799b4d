"""What every other legal action would have brought at a point of a recorded episode.

The episode is played up to there, copied once an action, and each copy steps once; a policy may then
play it to its end. Knows episodes and policies; nothing of files or of how it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from env_server.contract import Action, AgentCard, Episode, Family, JsonObject, RoundsError
from eval.episode import SLACK, NeverEnded
from eval.replay import decision
from eval.trajectory import Trajectory, Turn

CLOSE = 1e-9


class AnotherWorld(RoundsError, ValueError):
    """The recorded episode does not play again as it was: another version, or other tables."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One legal action and what it would have paid at once.

    to_go: the sum of rewards from here to the end, this step included, if the policy went on;
    None where no policy was asked. taken: whether it is what was done.
    """

    action: JsonObject
    reward: float
    parts: Mapping[str, float]
    done: bool
    to_go: float | None
    taken: bool


def choices(
    recorded: Trajectory, family: Family, policy: AgentCard | None = None
) -> Iterator[tuple[Choice, ...]]:
    """For every turn of the episode its legal actions, best first: by to_go if asked for, else reward.

    Raises AnotherWorld where the episode does not repeat.
    """
    episode = family.begin(recorded.task, recorded.seed, recorded.split)
    for number, turn in enumerate(recorded.turns, start=1):
        if episode.done:
            raise AnotherWorld(f"{_name(recorded)}: over after {number - 1} of its recorded turns")
        yield tuple(sorted(_choices(episode, turn, policy), key=_worth, reverse=True))
        step = episode.step(decision(turn, family))
        if abs(step.reward - turn.reward) > CLOSE:
            raise AnotherWorld(
                f"{_name(recorded)}: turn {number} paid {turn.reward:+.4f}, and {step.reward:+.4f} when"
                f" played again; it was recorded with version {recorded.version}, this is"
                f" {family.version}: python -m eval.replay names the first difference"
            )


def _choices(episode: Episode, turn: Turn, policy: AgentCard | None) -> Iterator[Choice]:
    for action in episode.legal_actions():
        yield _choice(episode.copy(), action, turn, policy)


def _choice(twin: Episode, action: Action, turn: Turn, policy: AgentCard | None) -> Choice:
    step = twin.step(action)
    later = None if policy is None else step.reward + played_on(twin, policy)
    body = action.to_json()
    return Choice(body, step.reward, dict(step.parts), step.done, later, body == turn.action)


def played_on(episode: Episode, policy: AgentCard) -> float:
    """The sum of rewards if `policy` goes on from here. Raises NeverEnded."""
    total = 0.0
    agent = None if episode.done else policy.make(episode)
    while agent is not None and not episode.done:
        if episode.steps > episode.task.max_steps + SLACK:
            raise NeverEnded(f"{policy.name} went on past {episode.task.max_steps} steps")
        total += episode.step(agent.act(episode.observe(), episode.legal_actions)).reward
    return total


def _worth(choice: Choice) -> float:
    return choice.reward if choice.to_go is None else choice.to_go


def _name(recorded: Trajectory) -> str:
    return f"{recorded.agent} on {recorded.task}, {recorded.split} seed {recorded.seed}"
