"""Play one episode with one agent, and keep what happened.

Knows the order of things (begin, look, act, score), and nothing of any family, agent or measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

from env_server.contract import (
    NOTHING,
    Action,
    AgentCard,
    Episode,
    Family,
    Refusal,
    RoundsError,
    Split,
    begin,
)
from eval.trajectory import Trajectory, Turn, plain

# an episode that outlives its task's limit by more has broken the contract
SLACK = 2


class NeverEnded(RoundsError, RuntimeError):
    """An episode went on past its task's max_steps."""


def play(
    family: Family,
    task: str,
    seed: int,
    split: Split,
    card: AgentCard,
    options: Mapping[str, Any] = NOTHING,
) -> Trajectory:
    """One episode of `task` played by the card's agent in process, from first look to score.

    What the agent or the episode raises is raised: a broken agent must not read as a bad score.
    """
    episode = begin(family, task, seed, split, options)
    turns, seconds = take_turns(episode, card)
    return replace(written_down(family, episode, card.name, turns, seconds), options=dict(options))


def written_down(
    family: Family,
    episode: Episode,
    agent: str,
    turns: Sequence[Turn],
    seconds: float,
    lost: str | None = None,
) -> Trajectory:
    """The record of an episode that has ended, or of one that could not be finished and says why.

    Raises EpisodeRunning for one that goes on.
    """
    return Trajectory(
        family=family.name,
        task=episode.task.name,
        split=episode.split,
        seed=episode.seed,
        version=family.version,
        agent=agent,
        turns=tuple(turns),
        final=episode.observe().to_json(),
        score=episode.score() if lost is None else 0.0,
        outcome=plain(episode.outcome()) if lost is None else {},
        seconds=seconds,
        lost=lost,
    )


def take_turns(episode: Episode, card: AgentCard) -> tuple[tuple[Turn, ...], float]:
    """(every decision until the episode ends, the seconds the agent took to decide).

    The environment's own time is left out: whoever plays a patient first would pay for its set-up.
    """
    begun = perf_counter()
    agent = card.make(episode)
    seconds = perf_counter() - begun
    turns: list[Turn] = []
    while not episode.done:
        if len(turns) >= episode.task.max_steps + SLACK:
            raise NeverEnded(
                f"{card.name} on {episode.task.name}, seed {episode.seed}: {len(turns)} steps and not"
                f" done; the task allows {episode.task.max_steps}"
            )
        seen, begun = episode.observe(), perf_counter()
        decision = agent.act(seen, episode.legal_actions)
        seconds += perf_counter() - begun
        turns.append(take_turn(episode, decision))
    return tuple(turns), seconds


def take_turn(episode: Episode, decision: Action | Refusal) -> Turn:
    """Act once, and write down what was seen before and what came of it."""
    seen = episode.observe().to_json()
    step = episode.step(decision)
    return Turn(
        observation=seen,
        action=None if isinstance(decision, Refusal) else decision.to_json(),
        refusal=step.refusal.to_json() if step.refusal else None,
        reward=step.reward,
        parts=dict(step.parts),
    )
