"""What happened in one episode: the one record that learning and measuring share.

Knows how to be written and read back; nothing of who played or how it was judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from env_server.contract import JsonObject


@dataclass(frozen=True, slots=True)
class Turn:
    """One decision: what was seen, what was said or done, and what it led to."""

    observation: JsonObject  # before acting
    action: JsonObject | None  # None where the answer was refused unread
    refusal: JsonObject | None
    reward: float
    parts: Mapping[str, float]
    text: str | None = None  # what a language model wrote, verbatim

    def to_json(self) -> JsonObject:
        return {
            "observation": self.observation,
            "action": self.action,
            "refusal": self.refusal,
            "reward": self.reward,
            "parts": dict(self.parts),
            "text": self.text,
        }


@dataclass(frozen=True, slots=True)
class Tokens:
    """An episode as a language model lived it: one prompt, then everything after it.

    `completion_ids`, `mask` and `logprobs` have the same length T; mask is 1 on tokens the model
    sampled and 0 on the environment's; log-probabilities are 0.0 where mask is 0.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    mask: tuple[int, ...]
    logprobs: tuple[float, ...]

    def to_json(self) -> JsonObject:
        return {
            "prompt_ids": list(self.prompt_ids),
            "completion_ids": list(self.completion_ids),
            "mask": list(self.mask),
            "logprobs": list(self.logprobs),
        }


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One episode with what is needed to play it again: (family, task, split, seed, version, options).

    Made of plain values alone, so that it can be sent from one process to another.
    """

    family: str
    task: str
    split: str
    seed: int
    version: str
    agent: str
    turns: tuple[Turn, ...]
    final: JsonObject  # the last observation
    score: float
    outcome: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0  # an in-process agent's own; a model's with everything around it
    tokens: Tokens | None = None
    lost: str | None = None  # why the episode could not be finished; its score means nothing then
    # what a model behind an API spent: requests, prompt_tokens, completion_tokens, and cost_usd where
    # prices are known; None for everybody else
    usage: Mapping[str, Any] | None = None
    # what was chosen of the episode beyond task, split and seed, where the family offers a choice
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def episode_return(self) -> float:
        return sum(turn.reward for turn in self.turns)

    @property
    def refusals(self) -> int:
        return sum(turn.refusal is not None for turn in self.turns)

    def part_sums(self) -> dict[str, float]:
        """Each reward part summed over the episode."""
        sums: dict[str, float] = {}
        for turn in self.turns:
            for name, value in turn.parts.items():
                sums[name] = sums.get(name, 0.0) + value
        return sums

    def to_json(self) -> JsonObject:
        """One line of an episodes.jsonl. Observations are shared with this object, not copied.

        `usage` and `options` are written where there are any, so that older files keep their bytes.
        """
        spent = {} if self.usage is None else {"usage": plain(self.usage)}
        chosen = {"options": dict(self.options)} if self.options else {}
        return {
            "family": self.family,
            "task": self.task,
            "split": self.split,
            "seed": self.seed,
            "version": self.version,
            "agent": self.agent,
            "turns": [turn.to_json() for turn in self.turns],
            "final": self.final,
            "score": self.score,
            "outcome": plain(self.outcome),
            "seconds": self.seconds,
            "tokens": self.tokens.to_json() if self.tokens else None,
            "lost": self.lost,
            **spent,
            **chosen,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Trajectory:
        """Read one line of an episodes.jsonl. Raises KeyError or TypeError on another shape."""
        tokens = body.get("tokens")
        return cls(
            **{
                **body,
                "turns": tuple(Turn(**turn) for turn in body["turns"]),
                "tokens": _tokens(tokens) if tokens else None,
            }
        )


def plain(value: Any) -> Any:
    """`value` with every mapping a dict and every sequence a list, ready for JSON."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def _tokens(body: Mapping[str, Sequence[Any]]) -> Tokens:
    return Tokens(**{name: tuple(values) for name, values in body.items()})
