"""The lines of a transcript: `[START]`, `[STEP]` and `[END]` as plain fields, or as JSON.

Knows spelling alone: what is said when is `transcript`'s business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from env_server.contract import Action, JsonObject, Refusal, Step
from prompts.parse import spell


@dataclass(frozen=True, slots=True)
class Ending:
    """How one episode ended. score is 0 where it did not come to its end."""

    success: bool
    score: float
    rewards: tuple[float, ...]
    episode_id: str | None = None


class Lines(Protocol):
    """One way to spell a transcript; each method returns the lines due at that moment."""

    def task(self, task: str) -> Sequence[str]: ...

    def episode(self, task: str) -> Sequence[str]: ...

    def step(
        self, task: str, episode_id: str, number: int, action: Action | Refusal, step: Step
    ) -> Sequence[str]: ...

    def end(self, task: str, ending: Ending) -> Sequence[str]: ...

    def task_over(self, task: str, endings: Sequence[Ending]) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class Plain:
    """The fields of OpenEnv's sample script: one START and one END an episode."""

    benchmark: str
    model: str

    def task(self, task: str) -> Sequence[str]:
        return ()

    def episode(self, task: str) -> Sequence[str]:
        return (f"[START] task={task} env={self.benchmark} model={one_line(self.model)}",)

    def step(
        self, task: str, episode_id: str, number: int, action: Action | Refusal, step: Step
    ) -> Sequence[str]:
        said = "null" if isinstance(action, Refusal) else one_line(spell(action))
        wrong = one_line(step.refusal.why) if step.refusal else "null"
        done = str(step.done).lower()
        return (
            f"[STEP] step={number} action={said} reward={fixed(step.reward, 2)} done={done}"
            f" error={wrong}",
        )

    def end(self, task: str, ending: Ending) -> Sequence[str]:
        rewards = ",".join(fixed(reward, 2) for reward in ending.rewards)
        return (
            f"[END] success={str(ending.success).lower()} steps={len(ending.rewards)}"
            f" score={fixed(ending.score, 3)} rewards={rewards}",
        )

    def task_over(self, task: str, endings: Sequence[Ending]) -> Sequence[str]:
        return ()


@dataclass(frozen=True, slots=True)
class Json:
    """One START and one END a task, with a STEP for each step of each of its episodes."""

    run_id: str
    benchmark: str
    model: str

    def task(self, task: str) -> Sequence[str]:
        return (_tagged("START", {**self._of(task), "model": self.model, "env": self.benchmark}),)

    def episode(self, task: str) -> Sequence[str]:
        return ()

    def step(
        self, task: str, episode_id: str, number: int, action: Action | Refusal, step: Step
    ) -> Sequence[str]:
        body = {
            **self._of(task),
            "episode_id": episode_id,
            "step_index": number,
            "observation_summary": summary(step.observation.to_json()),
            "action_payload": None if isinstance(action, Refusal) else action.to_json(),
            "reward": step.reward,
            "done": step.done,
        }
        return (_tagged("STEP", body),)

    def end(self, task: str, ending: Ending) -> Sequence[str]:
        return ()

    def task_over(self, task: str, endings: Sequence[Ending]) -> Sequence[str]:
        episodes = [
            {
                "episode_id": ending.episode_id,
                "success": ending.success,
                "steps": len(ending.rewards),
                "total_reward": sum(ending.rewards),
                "score": ending.score,
            }
            for ending in endings
        ]
        return (_tagged("END", {**self._of(task), "episodes": episodes, **_means(endings)}),)

    def _of(self, task: str) -> JsonObject:
        return {"run_id": self.run_id, "task_id": task}


def _means(endings: Sequence[Ending]) -> JsonObject:
    n = max(len(endings), 1)
    return {
        "mean_score": sum(ending.score for ending in endings) / n,
        "mean_reward": sum(sum(ending.rewards) for ending in endings) / n,
        "success_rate": sum(ending.success for ending in endings) / n,
    }


def summary(observation: Mapping[str, Any]) -> JsonObject:
    """The short values of an observation, and of each long one how many it holds."""
    short: JsonObject = {}
    for name, value in observation.items():
        if isinstance(value, str | int | float) or value is None:
            short[name] = value[:80] if isinstance(value, str) else value
        elif isinstance(value, Sequence):
            short[f"n_{name}"] = len(value)
    return short


def one_line(text: str) -> str:
    """Text that cannot begin a line of its own."""
    return " ".join(text.split())


def fixed(value: float, digits: int) -> str:
    """So many decimals, and no minus before a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def _tagged(tag: str, body: JsonObject) -> str:
    return f"[{tag}] {json.dumps(body, separators=(',', ':'), ensure_ascii=False)}"
