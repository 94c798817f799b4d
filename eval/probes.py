"""One task as a validator looks at it: what every shipped and every degenerate player came to there.

Plays each player once and remembers. Knows how to find thoughtless policies in any action space;
nothing of what a check makes of the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from env_server.contract import (
    Action,
    Agent,
    AgentCard,
    Episode,
    Family,
    Observation,
    Refusal,
    Split,
    Step,
    Task,
)
from env_server.seeds import Stream
from eval.episode import SLACK, NeverEnded

NOT_AN_ANSWER = Refusal("malformed", "no action could be read")
MOST_FORMS = 12  # of an action space, that a one-track policy is made of each


@dataclass(frozen=True, slots=True)
class Played:
    """One player over the patients of a subject, in their order."""

    name: str
    scores: tuple[float, ...]
    returns: tuple[float, ...]
    outcomes: tuple[Mapping[str, Any], ...]

    @property
    def score(self) -> float:
        return sum(self.scores) / len(self.scores)

    @property
    def episode_return(self) -> float:
        return sum(self.returns) / len(self.returns)


@dataclass(slots=True)
class Subject:
    """A task under examination, and the patients it is examined on."""

    family: Family
    task: Task
    patients: int
    split: Split = "validation"
    _played: dict[str, Played] = field(default_factory=dict)
    _endings: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def begin(self, seed: int) -> Episode:
        return self.family.begin(self.task.name, seed, self.split)

    def cards(self, role: str) -> list[AgentCard]:
        """The shipped agents of a role that play this task."""
        here = self.task.name
        return [c for c in self.family.agents.values()
                if c.role == role and here in (c.tasks or (here,))]  # fmt: skip

    def play(self, card: AgentCard) -> Played:
        """The card's agent on every patient; played once."""
        if card.name not in self._played:
            self._played[card.name] = _over(card, [self.begin(s) for s in range(self.patients)])
        return self._played[card.name]

    def random(self) -> Played | None:
        return next((self.play(card) for card in self.cards("random")), None)

    def heuristic(self) -> Played | None:
        """The agent called heuristic, or the first of that role."""
        cards = sorted(self.cards("heuristic"), key=lambda c: c.name != "heuristic")
        return self.play(cards[0]) if cards else None

    def oracle(self) -> AgentCard | None:
        """The reference that is exact on this task, or else the one that scores best."""
        cards = self.cards("reference")
        exact = [card for card in cards if self.task.name in card.exact_on]
        return exact[0] if exact else max(cards, key=lambda c: self.play(c).score, default=None)

    def reference(self) -> Played | None:
        card = self.oracle()
        return None if card is None else self.play(card)

    def references(self) -> list[Played]:
        return [self.play(card) for card in self.cards("reference")]

    def others(self) -> list[Played]:
        """Everybody but the references: what the family ships, and the thoughtless."""
        roles = ("random", "heuristic", "canary")
        shipped = [self.play(card) for role in roles for card in self.cards(role)]
        return [*shipped, *self.degenerate()]

    def degenerate(self) -> list[Played]:
        """Every thoughtless policy that this action space has, none of them the family's own."""
        words, endings = words_of(self.family.action_schema()), self._endings
        policies: dict[str, Callable[[Episode], Agent]] = {
            "*silent": lambda _: Thoughtless(lambda legal: NOT_AN_ANSWER),
            "*first_legal": lambda _: Thoughtless(lambda legal: legal[0]),
            "*last_legal": lambda _: Thoughtless(lambda legal: legal[-1]),
            "*finish_at_once": lambda episode: OneTrack(episode, None, words, endings),
        }
        for form in self._forms(words):
            policies["*only " + " ".join(form)] = _one_track(form, words, endings)
        return [
            self.play(AgentCard(name, "canary", make, "a thoughtless policy"))
            for name, make in policies.items()
        ]

    def _forms(self, words: frozenset[str]) -> list[tuple[str, ...]]:
        """The kinds of actions that the first openings offer."""
        openings = [self.begin(seed).legal_actions() for seed in range(min(3, self.patients))]
        found = dict.fromkeys(form_of(a, words) for legal in openings for a in legal)
        return [form for form in found if form][:MOST_FORMS]


def _over(card: AgentCard, episodes: Sequence[Episode]) -> Played:
    returns = [_return(card, episode) for episode in episodes]
    scores = tuple(episode.score() for episode in episodes)
    return Played(card.name, scores, tuple(returns), tuple(e.outcome() for e in episodes))


def _return(card: AgentCard, episode: Episode) -> float:
    """Play to the end, without the record that nobody reads here. Raises NeverEnded."""
    agent, paid, limit = card.make(episode), 0.0, episode.task.max_steps + SLACK
    while not episode.done:
        if episode.steps >= limit:
            raise NeverEnded(
                f"{card.name} on {episode.task.name}: {episode.steps} steps and not done"
            )
        paid += episode.step(agent.act(episode.observe(), episode.legal_actions)).reward
    return paid


@dataclass(frozen=True, slots=True)
class Thoughtless:
    """Chooses by place in the list of legal actions, whatever it sees."""

    choose: Callable[[Sequence[Action]], Action | Refusal]

    def act(
        self, observation: Observation, legal: Callable[[], Sequence[Action]]
    ) -> Action | Refusal:
        return self.choose(legal())


@dataclass(slots=True)
class OneTrack:
    """Acts in one form while it may, then ends the episode; with no form, ends it at once."""

    episode: Episode
    form: tuple[str, ...] | None
    words: frozenset[str]
    endings: dict[str, tuple[str, ...]]  # the form that ended an episode of a task before

    def act(
        self, observation: Observation, legal: Callable[[], Sequence[Action]]
    ) -> Action | Refusal:
        open_ = legal()
        if self.form is not None:
            for action in open_:
                if form_of(action, self.words) == self.form:
                    return action
        return self._end(open_)

    def _end(self, open_: Sequence[Action]) -> Action:
        """The first action that ends the episode, tried on copies; else the first of all."""
        task = self.episode.task.name
        likely = sorted(open_, key=lambda a: form_of(a, self.words) != self.endings.get(task))
        for action in likely:
            if self.episode.copy().step(action).done:
                self.endings[task] = form_of(action, self.words)
                return action
        return open_[0]


def _one_track(
    form: tuple[str, ...], words: frozenset[str], endings: dict[str, tuple[str, ...]]
) -> Callable[[Episode], Agent]:
    return lambda episode: OneTrack(episode, form, words, endings)


def words_of(schema: Any) -> frozenset[str]:
    """Every string that a JSON schema fixes by `const` or `enum`: the grammar of an action."""
    if isinstance(schema, Mapping):
        fixed = [schema["const"]] if "const" in schema else list(schema.get("enum", ()))
        inner = frozenset().union(*(words_of(value) for value in schema.values()))
        return inner | {word for word in fixed if isinstance(word, str)}
    if isinstance(schema, list | tuple):
        return frozenset().union(*(words_of(value) for value in schema))
    return frozenset()


def form_of(action: Action, words: frozenset[str]) -> tuple[str, ...]:
    """What kind of action it is: its fixed words, in the order of its fields."""
    body = action.to_json()
    return tuple(str(v) for v in body.values() if isinstance(v, str) and v in words)


def wander(episode: Episode, name: object = "wander") -> Iterator[Step]:
    """Random legal steps, with an unreadable answer now and then, until it is over."""
    draws = Stream("validate", name, episode.task.name, episode.seed)
    while not episode.done:
        refuse = draws.chance(0.1)
        yield episode.step(NOT_AN_ANSWER if refuse else draws.choice(episode.legal_actions()))
