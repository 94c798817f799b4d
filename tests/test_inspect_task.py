"""Inspect AI plays our episodes: the scores are those of the same actions played here."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from env_server import registry
from env_server.contract import Action
from eval.episode import play
from eval.trajectory import Trajectory
from prompts import render
from prompts.parse import spell

with warnings.catch_warnings():  # of the library's own imports
    warnings.simplefilter("ignore")
    pytest.importorskip("inspect_ai", reason="needs inspect-ai: pip install -e '.[inspect]'")
    import inspect_ai
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    from eval.inspect_task import rounds

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

ROOT = Path(__file__).resolve().parents[1]
FAMILY = registry.get("polypharmacy")
TASK, SAMPLES = "review_easy", 3


def heuristics() -> dict[str, Trajectory]:
    """What the heuristic does, by the first message it would have been sent."""
    card = FAMILY.agents["heuristic"]
    played = [play(FAMILY, TASK, seed, "test", card) for seed in range(SAMPLES)]
    return {render.opening(FAMILY, t.turns[0].observation): t for t in played}


def evaluated(answer: Any, folder: Path, **limits: Any) -> Any:
    """The log of one evaluation in which `answer(messages)` is the model."""
    model = get_model(
        "mockllm/model",
        custom_outputs=lambda messages, tools, choice, config: answer(messages),
        memoize=False,
    )
    task = rounds(family="polypharmacy", task=TASK, samples=SAMPLES)
    (log,) = inspect_ai.eval(task, model=model, log_dir=str(folder), display="none", **limits)
    return log


def said(text: str, stop: Any = "stop") -> ModelOutput:
    output = ModelOutput.from_content("mockllm/model", text, stop_reason=stop)
    output.usage = ModelUsage(input_tokens=1, output_tokens=1)  # else counted by a download
    return output


def spelled(body: dict[str, Any]) -> str:
    action = FAMILY.action_from_json(body)
    assert not hasattr(action, "why")
    kept: Action = action  # type: ignore[assignment]
    return spell(kept)


def test_a_model_that_says_what_the_heuristic_does_gets_its_scores(tmp_path: Path):
    known = heuristics()

    def answer(messages: list[Any]) -> ModelOutput:
        played = known[messages[1].text]
        turn = played.turns[sum(m.role == "assistant" for m in messages)]
        return said(f"I choose: {spelled(turn.action)}")  # type: ignore[arg-type]

    log = evaluated(answer, tmp_path)
    assert log.status == "success", log.error
    scores = {s.metadata["seed"]: s.scores["graded"].value for s in log.samples}
    assert scores == {t.seed: t.score for t in known.values()}
    (summary,) = log.results.scores
    assert summary.metrics["mean"].value == pytest.approx(sum(scores.values()) / SAMPLES)
    told = {s.metadata["seed"]: s.scores["graded"].metadata for s in log.samples}
    assert {k: v["return"] for k, v in told.items()} == {
        t.seed: pytest.approx(t.episode_return) for t in known.values()
    }
    assert all(v["refusals"] == 0 for v in told.values())


def test_answers_that_cannot_be_read_are_steps_and_the_model_is_told_why(tmp_path: Path):
    log = evaluated(lambda messages: said("let me think"), tmp_path)
    limit = FAMILY.tasks[TASK].max_steps
    for sample in log.samples:
        found = sample.scores["graded"].metadata
        assert found["steps"] == found["refusals"] <= limit
        assert "Refused" in sample.messages[3].text


def test_an_answer_that_ran_out_of_tokens_is_refused_as_truncated(tmp_path: Path):
    log = evaluated(
        lambda messages: said('{"action_type":"finish_review"}', "max_tokens"), tmp_path
    )
    kinds = {
        turn["refusal"]["kind"]
        for sample in log.samples
        for turn in sample.scores["graded"].metadata["turns"]
    }
    assert kinds == {"truncated"}


def test_a_sample_ended_by_a_limit_keeps_the_score_it_has_earned(tmp_path: Path):
    log = evaluated(lambda messages: said("hm"), tmp_path, message_limit=5)
    assert log.status == "success", log.error
    assert all(s.scores["graded"].value >= 0.001 for s in log.samples)
    assert all(
        s.scores["graded"].metadata["turns"][-1]["refusal"]["kind"] == "truncated"
        for s in log.samples
    )


ELSEWHERE = """
import sys, inspect_ai
from inspect_ai.model import ModelOutput, ModelUsage, get_model

def answer(*asked):
    output = ModelOutput.from_content("mockllm/model", '{"action_type":"finish_review"}')
    output.usage = ModelUsage()
    return output

(log,) = inspect_ai.eval(
    sys.argv[1], task_args={"family": "polypharmacy", "task": "review_easy", "samples": 2},
    model=get_model("mockllm/model", custom_outputs=answer), log_dir="logs", display="none",
)
print(log.status, log.eval.task, [s.scores["graded"].metadata["steps"] for s in log.samples])
"""


def test_inspect_finds_the_task_by_its_file_from_any_folder(tmp_path: Path):
    file = os.path.relpath(ROOT / "eval" / "inspect_task.py", tmp_path)  # Inspect wants relative
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE, file],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "success polypharmacy_review_easy [1, 1]"
