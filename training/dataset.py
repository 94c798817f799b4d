"""Conversations to imitate: agents of a family at work, with a share of their moves left to chance.

A pure expert teaches a policy that explores nothing, so that reinforcement has nothing to choose
from; hence the noise. Renders with the very code the rollouts use. Knows no model and no tokenizer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from env_server import registry
from env_server.contract import (
    AgentCard,
    BadSplit,
    Episode,
    Family,
    JsonObject,
    Refusal,
    RoundsError,
)
from env_server.seeds import Stream
from prompts.history import Dialogue, Message
from prompts.parse import spell
from prompts.render import Style


class NotEnoughEpisodes(RoundsError, RuntimeError):
    """Too few episodes reach the score that was asked for."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Who is imitated, how unsteadily, and on which patients."""

    family: str
    tasks: tuple[str, ...]  # episodes go round them in turn
    episodes: int  # how many to keep
    agents: tuple[str, ...] = ("heuristic",)  # drawn afresh for every episode
    noise: tuple[float, ...] = (0.0, 0.3, 0.3, 1.0)  # shares of random legal moves; one an episode
    seed_from: int = 0  # the first patient's seed; the following ones are consecutive
    min_score: float | None = None  # keep an episode only if it scores this; None keeps all
    style: Style = "brief"  # how the conversation is worded
    split: str = "train"  # anything else is refused: nobody trains on what they are judged by


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation, and what is needed to play it again."""

    messages: tuple[Message, ...]
    actions: tuple[JsonObject, ...]
    family: str
    task: str
    split: str
    seed: int
    version: str
    agent: str
    noise: float
    score: float


@dataclass(frozen=True, slots=True)
class Collection:
    """The examples kept, and which patients were looked at: seeds [seed_from, seed_to) of each task."""

    mixture: Mixture
    examples: tuple[Example, ...]
    tried: int
    seed_to: int

    def trained_on(self) -> list[JsonObject]:
        """One record a task, for `rounds.json` and for whoever must not measure on them."""
        mixture = self.mixture
        return [
            {
                "family": mixture.family,
                "task": task,
                "split": mixture.split,
                "seed_from": mixture.seed_from,
                "seed_to": self.seed_to,
            }
            for task in mixture.tasks
        ]


def collect(mixture: Mixture, tick: Callable[[int], None] | None = None) -> Collection:
    """Play until `mixture.episodes` are kept; `tick(kept)` is called after each one.

    Raises BadSplit for any split but train, NotEnoughEpisodes where fewer than one in twenty is kept.
    """
    family = registry.get(mixture.family)
    _check(mixture, family)
    kept: list[Example] = []
    tried = 0
    for task, seed in _patients(mixture):
        if len(kept) == mixture.episodes:
            break
        if tried >= 20 * mixture.episodes:
            raise NotEnoughEpisodes(
                f"{len(kept)} of {tried} episodes score {mixture.min_score} or more; "
                f"lower min_score or the noise {mixture.noise}"
            )
        example = imitate(family, task, seed, mixture)
        tried += 1
        if mixture.min_score is None or example.score >= mixture.min_score:
            kept.append(example)
            if tick:
                tick(len(kept))
    seed_to = mixture.seed_from + -(-tried // len(mixture.tasks))
    return Collection(mixture, tuple(kept), tried, seed_to)


def imitate(family: Family, task: str, seed: int, mixture: Mixture) -> Example:
    """One episode by one of the mixture's agents; chance decides `noise` of its moves."""
    stream = Stream("imitate", mixture.family, task, seed)
    card = family.agents[stream.choice(mixture.agents)]
    noise = stream.choice(mixture.noise)
    episode = family.begin(task, seed, "train")
    messages, actions = _converse(episode, family, card, noise, stream, mixture.style)
    return Example(
        messages=messages,
        actions=actions,
        family=family.name,
        task=task,
        split="train",
        seed=seed,
        version=family.version,
        agent=card.name,
        noise=noise,
        score=episode.score(),
    )


def _converse(
    episode: Episode, family: Family, card: AgentCard, noise: float, stream: Stream, style: Style
) -> tuple[tuple[Message, ...], tuple[JsonObject, ...]]:
    agent = card.make(episode)
    observation = episode.observe()
    seen = observation.to_json()
    dialogue = Dialogue.begin(family, episode.task.name, seen, style)
    actions: list[JsonObject] = []
    while not episode.done:
        action = agent.act(observation, episode.legal_actions)
        if stream.chance(noise):
            action = stream.choice(episode.legal_actions())
        if isinstance(action, Refusal):
            raise RuntimeError(f"agent {card.name} declined to act: {action.why}")
        dialogue.answer(spell(action))
        actions.append(action.to_json())
        observation = episode.step(action).observation
        before, seen = seen, observation.to_json()
        dialogue.result(before, seen)
    return tuple(dict(m) for m in dialogue.messages), tuple(actions)


def _patients(mixture: Mixture) -> Iterator[tuple[str, int]]:
    seed = mixture.seed_from
    while True:
        for task in mixture.tasks:
            yield task, seed
        seed += 1


def _check(mixture: Mixture, family: Family) -> None:
    if mixture.split != "train":
        raise BadSplit(f"training reads split 'train' only, not {mixture.split!r}")
    for task in mixture.tasks:
        registry.task(family, task)
    for agent in mixture.agents:
        registry.agent(family, agent)


def write(collection: Collection, directory: Path) -> Path:
    """Write `episodes.jsonl` and its card `README.md`; returns the JSONL's path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "episodes.jsonl"
    with path.open("w", encoding="utf-8") as lines:
        for example in collection.examples:
            lines.write(json.dumps(asdict(example), ensure_ascii=False) + "\n")
    (directory / "README.md").write_text(card(collection), encoding="utf-8")
    return path


def card(collection: Collection) -> str:
    """The dataset card: where the conversations come from and how good their players were."""
    mixture, examples = collection.mixture, collection.examples
    rows = "\n".join(
        f"| {agent} | {noise:g} | {len(scores)} | {fmean(scores):.3f} |"
        for (agent, noise), scores in sorted(_scores(examples).items())
    )
    tasks = ", ".join(f"{t} ({n})" for t, n in Counter(e.task for e in examples).items())
    turns = fmean(len(e.actions) for e in examples)
    return f"""---
language: en
tags: [rounds, openenv, sft, {mixture.family}]
task_categories: [text-generation]
---
# Rounds: conversations to imitate

{len(examples)} episodes of family `{mixture.family}` {examples[0].version}, tasks {tasks}, {turns:.1f} turns each.
Split `{mixture.split}`, seeds {mixture.seed_from} to {collection.seed_to - 1}; {collection.tried} played,
kept {"all" if mixture.min_score is None else f"those that score at least {mixture.min_score}"}.

| agent | share of random moves | episodes | mean score |
|---|---:|---:|---:|
{rows}

Synthetic patients. Research only, not medical advice.
"""


def _scores(examples: Sequence[Example]) -> dict[tuple[str, float], list[float]]:
    scores: dict[tuple[str, float], list[float]] = {}
    for example in examples:
        scores.setdefault((example.agent, example.noise), []).append(example.score)
    return scores
