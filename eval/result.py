"""What one episode amounts to: the few numbers a table is made of.

A trajectory with its observations can weigh a megabyte; this does not. Knows what outcomes tell
(regret, optimum, attained, clean) and leaves None where a family does not tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eval.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Result:
    """One agent on one patient.

    regret: the reference's score less this one. optimum, attained: what could be gained and what
    was. clean: the best review changes nothing. queries, interventions: None where actions have no
    `action_type`. sampled_tokens, prompt_tokens: written and read by a language model, None unless
    one played; an API reads its prompt anew at every request. cost_usd: None where no price is known.
    speechless: the patient did not fit the model's context. lost: why there is no score. told: what
    else the outcome says in a number, a word, yes or no.
    """

    task: str
    agent: str
    seed: int
    score: float
    episode_return: float
    steps: int
    refusals: int
    seconds: float
    regret: float | None = None
    optimum: float | None = None
    attained: float | None = None
    clean: bool | None = None
    queries: int | None = None
    interventions: int | None = None
    sampled_tokens: int | None = None
    prompt_tokens: int | None = None
    cost_usd: float | None = None
    speechless: bool = False
    lost: str | None = None
    told: Mapping[str, Any] = field(default_factory=dict)


def result(trajectory: Trajectory) -> Result:
    """The numbers of one trajectory."""
    told = trajectory.outcome
    queries, interventions = _acts(trajectory)
    written, read, cost_usd = _spent(trajectory)
    return Result(
        task=trajectory.task,
        agent=trajectory.agent,
        seed=trajectory.seed,
        score=trajectory.score,
        episode_return=trajectory.episode_return,
        steps=len(trajectory.turns),
        refusals=trajectory.refusals,
        seconds=trajectory.seconds,
        regret=_number(told, "regret"),
        optimum=_number(told, "optimum"),
        attained=_number(told, "attained"),
        clean=told["clean"] if isinstance(told.get("clean"), bool) else None,
        queries=queries,
        interventions=interventions,
        sampled_tokens=written,
        prompt_tokens=read,
        cost_usd=cost_usd,
        speechless=trajectory.tokens is not None and not any(trajectory.tokens.mask),
        lost=trajectory.lost,
        told={k: v for k, v in told.items() if isinstance(v, int | float | str)},
    )


def _spent(trajectory: Trajectory) -> tuple[int | None, int | None, float | None]:
    """(tokens written, tokens read, US dollars): as billed, or counted where a model ran here."""
    if trajectory.usage is not None:
        bill = trajectory.usage
        return (
            _count(bill, "completion_tokens"),
            _count(bill, "prompt_tokens"),
            _number(bill, "cost_usd"),
        )
    if trajectory.tokens is None:
        return None, None, None
    written = sum(trajectory.tokens.mask)
    given = len(trajectory.tokens.prompt_ids) + len(trajectory.tokens.mask) - written
    return written, given, None


def _number(told: Mapping[str, Any], key: str) -> float | None:
    value = told.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _count(told: Mapping[str, Any], key: str) -> int | None:
    value = _number(told, key)
    return None if value is None else int(value)


def _acts(trajectory: Trajectory) -> tuple[int | None, int | None]:
    """(questions, changes) that the environment acted on, told apart by their `action_type`."""
    done = [t.action for t in trajectory.turns if t.action is not None and t.refusal is None]
    kinds = [str(action["action_type"]) for action in done if "action_type" in action]
    if done and not kinds:
        return None, None
    queries = sum(kind.startswith(("query", "ask")) for kind in kinds)
    return queries, sum("intervention" in kind for kind in kinds)
