"""Conversations to imitate: agents of a family at work, with a share of their moves left to chance.

A pure expert teaches a policy that explores nothing, so that reinforcement has nothing to choose
from; hence the noise. And one that never errs teaches nothing about the turn after an error; hence
the slips, which are shown and not learned. Renders with the very code the rollouts use. Knows no
model and no tokenizer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from env_server import registry
from env_server.contract import (
    Action,
    Agent,
    BadSplit,
    Episode,
    Family,
    JsonObject,
    Refusal,
    RoundsError,
)
from env_server.seeds import Stream
from prompts.history import Dialogue
from prompts.parse import spell
from prompts.render import Style

# role and content; `weight` 0 on an answer that is not to be learned, as fine-tuning formats have it
Line = dict[str, Any]


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
    # shares of turns at which an answer that is refused comes first; one an episode
    slips: tuple[float, ...] = (0.0,)
    seed_from: int = 0  # the first patient's seed; the following ones are consecutive
    min_score: float | None = None  # keep an episode only if it scores this; None keeps all
    style: Style = "brief"  # how the conversation is worded
    split: str = "train"  # anything else is refused: nobody trains on what they are judged by


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation, and what is needed to play it again."""

    messages: tuple[Line, ...]
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
    return collection(mixture, kept, tried)


def part(
    mixture: Mixture, which: int, of: int, tick: Callable[[int], None] | None = None
) -> list[Example]:
    """Every `of`-th of the episodes that `collect` would keep, from number `which` on.

    For a mixture that turns none down (`min_score` None): only then it is known which those are.
    """
    assert mixture.min_score is None, "which episodes are kept is known when all are played"
    family = registry.get(mixture.family)
    _check(mixture, family)
    played: list[Example] = []
    for task, seed in islice(_patients(mixture), which, mixture.episodes, of):
        played.append(imitate(family, task, seed, mixture))
        if tick:
            tick(len(played))
    return played


def collection(mixture: Mixture, kept: Sequence[Example], tried: int) -> Collection:
    """`kept` of the first `tried` episodes, and the patients that were looked at for them."""
    seed_to = mixture.seed_from + -(-tried // len(mixture.tasks))
    return Collection(mixture, tuple(kept), tried, seed_to)


def imitate(family: Family, task: str, seed: int, mixture: Mixture) -> Example:
    """One episode by one of the mixture's agents; chance decides `noise` of its moves."""
    stream = Stream("imitate", mixture.family, task, seed)
    card = family.agents[stream.choice(mixture.agents)]
    noise = stream.choice(mixture.noise)
    episode = family.begin(task, seed, "train")
    slips = Slips(family, task, seed, mixture.slips)
    recording = _Recording(episode, Dialogue.begin(family, task, _seen(episode), mixture.style))
    agent = card.make(episode)
    while not episode.done:
        if (wrong := slips.draw(episode, recording.actions)) is not None:
            recording.act(wrong, learned=False)
            continue
        action = _next(agent, episode)
        if action is None or stream.chance(noise):
            action = stream.choice(episode.legal_actions())
        recording.act(action)
    return Example(
        messages=recording.lines(),
        actions=tuple(action.to_json() for action in recording.actions),
        family=family.name,
        task=task,
        split="train",
        seed=seed,
        version=family.version,
        agent=card.name,
        noise=noise,
        score=episode.score(),
    )


@dataclass(slots=True)
class _Recording:
    """An episode as the conversation that it makes."""

    episode: Episode
    dialogue: Dialogue
    actions: list[Action] = field(default_factory=list)
    unlearned: set[int] = field(default_factory=set)  # places of messages that are mistakes

    def act(self, action: Action, learned: bool = True) -> None:
        if not learned:
            self.unlearned.add(len(self.dialogue.messages))
        before = _seen(self.episode)
        self.dialogue.answer(spell(action))
        self.actions.append(action)
        self.dialogue.result(before, self.episode.step(action).observation.to_json())

    def lines(self) -> tuple[Line, ...]:
        marked = enumerate(self.dialogue.messages)
        return tuple({**m, "weight": 0} if at in self.unlearned else dict(m) for at, m in marked)


def _next(agent: Agent, episode: Episode) -> Action | None:
    """The agent's next move that can be made; None where chance has left it none.

    An agent that plays a plan holds on to it when chance has moved in between.
    """
    legal = {spell(action) for action in episode.legal_actions()}
    for _ in legal:
        action = agent.act(episode.observe(), episode.legal_actions)
        if isinstance(action, Refusal):
            raise RuntimeError(f"an agent to imitate declined to act: {action.why}")
        if spell(action) in legal:
            return action
    return None


def _seen(episode: Episode) -> JsonObject:
    return episode.observe().to_json()


class Slips:
    """Answers that the environment refuses: what was right before, or for another patient.

    Draws from a stream of its own, so that the other moves stay what they are without it.
    """

    def __init__(self, family: Family, task: str, seed: int, shares: Sequence[float]) -> None:
        self._family, self._task, self._seed = family, task, seed
        self._stream = Stream("slips", family.name, task, seed)
        self._share = self._stream.choice(tuple(shares))
        self._strange: Sequence[Action] | None = None

    def draw(self, episode: Episode, done: Sequence[Action]) -> Action | None:
        """A move that is not legal now, or None where none is due or none is known."""
        if not self._share or not self._stream.chance(self._share):
            return None
        legal = {spell(action) for action in episode.legal_actions()}
        source = done if done and self._stream.chance(0.5) else self._another()
        wrong = [action for action in source if spell(action) not in legal]
        return self._stream.choice(wrong) if wrong else None

    def _another(self) -> Sequence[Action]:
        if self._strange is None:
            other = self._family.begin(self._task, self._seed + 1, "train")
            self._strange = other.legal_actions()
        return self._strange


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
