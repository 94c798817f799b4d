"""Any family as a task of Inspect AI: its models play our episodes, our graders score them.

    inspect eval eval/inspect_task.py -T family=polypharmacy -T task=review_easy --model ...

A sample is a patient, and its score is the grader's. Knows Inspect's words for these things; what is
said comes from `prompts`, and the model is Inspect's business.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

if find_spec("env_server") is None:  # Inspect runs this file from its own folder, installed or not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from env_server import registry
from env_server.contract import Action, Episode, Family, JsonObject, Refusal, Split
from eval.episode import take_turn
from eval.question import ask
from eval.trajectory import Turn, plain
from prompts.history import Dialogue
from prompts.parse import parse
from prompts.render import STYLES, Style, UnknownStyle

PLAYED = "rounds"  # where a sample's store keeps what came of its episode
CUT_OFF = ("max_tokens", "model_length")
NO_MORE = Refusal("truncated", "the conversation was ended before the review was")


@task  # type: ignore[untyped-decorator]
def rounds(
    family: str = "polypharmacy",
    task: str | None = None,
    samples: int = 50,
    split: Split = "test",
    seed0: int = 0,
    style: Style = "full",
    tables: str | None = None,
) -> Task:
    """Patients seed0 .. seed0+samples-1 of one task.

    task: None takes the family's default. style: `full` for chat models, `brief` for models trained
    here. tables: a hospital's own tables. Raises a RoundsError on anything unknown.
    """
    if style not in get_args(Style):
        raise UnknownStyle(f"no prompt style {style!r}; styles: {', '.join(STYLES)}")
    home = registry.on_tables(family, tables)
    asked = ask(home, [task or home.default_task], split, seed0, samples)
    name = asked.tasks[0].name
    patients = [_sample(home, name, split, seed, style) for seed in asked.seeds]
    return Task(
        dataset=MemoryDataset(patients, name=f"{family}-{name}-{split}"),
        solver=ward_round(family, style),
        scorer=graded(),
        name=f"{family}_{name}",
        version=home.version,
        metadata={"family": family, "task": name, "split": split, "style": style},
    )


@solver  # type: ignore[untyped-decorator]
def ward_round(family: str, style: Style = "full") -> Solver:
    """Play the sample's episode to its end: one answer of the model is one step."""
    home = registry.get(family)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        told = state.metadata
        episode = home.begin(told["task"], told["seed"], told["split"])
        turns: list[Turn] = []
        try:
            state = await _converse(state, generate, home, episode, style, turns)
        finally:  # where Inspect ends a sample at a limit, the episode gets the score it has earned
            while not episode.done:
                turns.append(take_turn(episode, NO_MORE))
            state.store.set(PLAYED, _outcome(episode, turns))
        return state

    return solve


@scorer(metrics=[mean(), stderr()])  # type: ignore[untyped-decorator]
def graded() -> Scorer:
    """The grader's score in [0.001, 0.999]; return, steps, refusals and outcome beside it."""

    async def score(state: TaskState, target: Target) -> Score:
        found: JsonObject = state.store.get(PLAYED)
        told = ", ".join(f"{name} {found[name]:.4g}" for name in ("return", "steps", "refusals"))
        return Score(value=found["score"], answer=found["answer"], explanation=told, metadata=found)

    return score


async def _converse(
    state: TaskState,
    generate: Generate,
    home: Family,
    episode: Episode,
    style: Style,
    turns: list[Turn],
) -> TaskState:
    before = episode.observe().to_json()
    dialogue = Dialogue.begin(home, episode.task, before, style)
    while not episode.done:
        state = await generate(state)
        turns.append(take_turn(episode, _heard(state, home)))
        after = episode.observe().to_json()
        dialogue.answer(state.output.completion).result(before, after)
        if not episode.done:
            state.messages.append(ChatMessageUser(content=dialogue.messages[-1]["content"]))
        before = after
    return state


def _heard(state: TaskState, home: Family) -> Action | Refusal:
    return parse(home, state.output.completion, truncated=state.output.stop_reason in CUT_OFF)


def _sample(home: Family, name: str, split: Split, seed: int, style: Style) -> Sample:
    first = home.begin(name, seed, split).observe().to_json()
    system, user = Dialogue.begin(home, name, first, style).messages
    return Sample(
        id=f"{name}-{split}-{seed}",
        input=[
            ChatMessageSystem(content=system["content"]),
            ChatMessageUser(content=user["content"]),
        ],
        metadata={"task": name, "split": split, "seed": seed},
    )


def _outcome(episode: Episode, turns: list[Turn]) -> dict[str, Any]:
    last = turns[-1].action if turns else None
    return {
        "score": episode.score(),
        "return": sum(turn.reward for turn in turns),
        "steps": len(turns),
        "refusals": sum(turn.refusal is not None for turn in turns),
        "answer": str(last) if last else "",
        "outcome": plain(episode.outcome()),
        "turns": [
            {"action": t.action, "refusal": t.refusal, "reward": t.reward, "parts": dict(t.parts)}
            for t in turns
        ],
    }
