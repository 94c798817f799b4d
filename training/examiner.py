"""Looks at a policy now and then on patients it does not learn from, and keeps the best one seen.

Learning curves are not monotone: what a run hands over is the checkpoint that did best on
validation, the starting point included. Never opens a test episode.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from env_server.contract import JsonObject
from eval.dialogue import Limits
from eval.door import Request
from eval.generate import GREEDY
from eval.trajectory import Trajectory
from training import ranks
from training.rollout import Rollout, TooManyLost, asking, report

CURVE, BEST = "validation.jsonl", "best"


class Examiner(TrainerCallback):
    """Validates every `every` steps, at the start and at the end; writes `validation.jsonl` and `best/`.

    `trainer` is set once there is one. At temperature 0 the policy is read greedily; above, it is
    sampled from a stream of its own, so that a run learns the same whether it is looked at or not.
    """

    def __init__(
        self,
        rollout: Rollout,
        requests: Sequence[Request],
        limits: Limits,
        every: int,
        run: Path,
        temperature: float = GREEDY,
        patience: int = 0,
    ) -> None:
        """`patience`: looks without a better one after which the run ends early; 0 never does."""
        self._patience = patience
        self._rollout, self._requests, self._limits = rollout, requests, limits
        self._every, self._run, self._temperature = every, run, temperature
        self.trainer: Any = None
        self._curve = {line["step"]: line for line in curve(run)}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        # looks of steps that are played again are taken again: nothing is chosen by the future
        self._curve = {at: look for at, look in self._curve.items() if at <= state.global_step}
        if state.global_step not in self._curve:
            self._examine(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step % self._every == 0 or state.global_step >= state.max_steps:
            self._examine(state.global_step)
            if self.tired and state.global_step < state.max_steps:
                control.should_training_stop = True
                control.should_save = True

    @property
    def tired(self) -> bool:
        """Whether the last `patience` looks were none better than the best before them."""
        scores = [self._curve[at]["score"] for at in sorted(self._curve)]
        before, since = scores[: -self._patience], scores[-self._patience :]
        return bool(self._patience and before and max(since) <= max(before))

    def _examine(self, step: int) -> None:
        import torch

        settings = replace(self._rollout.settings, limits=self._limits)
        with (
            torch.random.fork_rng(),
            asking(self.trainer, settings, temperature=self._temperature) as generate,
        ):
            torch.manual_seed(0)  # the same draws at every look: less noise between checkpoints
            share = self._requests[ranks.rank() :: ranks.world()]
            own = self._rollout.play(share, generate, self.trainer.processing_class)
        played = ranks.in_order(own)
        line = {"step": step, **_marks(played)}
        earlier = [known["score"] for at, known in self._curve.items() if at != step]
        if not earlier or line["score"] > max(earlier):
            self._keep(played)
        self._curve[step] = line
        if self.trainer.is_world_process_zero():
            text = "".join(json.dumps(self._curve[at]) + "\n" for at in sorted(self._curve))
            part = self._run / f"{CURVE}.part"
            part.write_text(text, encoding="utf-8")
            part.rename(self._run / CURVE)  # a disk that is full loses no look

    def _keep(self, played: Sequence[Trajectory]) -> None:
        """Weights (the adapter alone with LoRA) and the episodes they were chosen for."""
        half, best = self._run / f"{BEST}.part", self._run / BEST
        self.trainer.save_model(str(half))
        if not self.trainer.is_world_process_zero():
            return
        with (half / "episodes.jsonl").open("w", encoding="utf-8") as episodes:
            episodes.writelines(json.dumps(one.to_json()) + "\n" for one in played)
        shutil.rmtree(best, ignore_errors=True)
        half.rename(best)


def curve(run: Path) -> list[JsonObject]:
    """What validation said so far, by step: `{"step", "score", "return", "refusal_share", "n"}`."""
    path = run / CURVE
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _marks(played: Sequence[Trajectory]) -> JsonObject:
    seen = report(played, seconds=0.0)
    if seen.lost:
        why = next(t.lost for t in played if t.lost is not None)
        raise TooManyLost(
            f"validation lost {seen.lost} of {seen.episodes} episodes; a checkpoint chosen on the rest"
            f" would be chosen on other patients. The first: {why}"
        )
    return {
        "score": seen.mean_score,
        "return": seen.mean_return,
        "turns": seen.mean_turns,
        "refusal_share": seen.refusal_share,
        "n": seen.episodes,
    }
