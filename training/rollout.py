"""What the trainer learns from: whole episodes played by the policy of this very step.

`make_rollout_func` gives TRL's GRPOTrainer one row an episode: ids, mask, log-probabilities, and
what the environment said of it. Knows TRL's side of that bargain; nothing of any family, and
nothing of where the environment runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, cast

from env_server.contract import Family, JsonObject, RoundsError, Split
from eval.dialogue import Limits, converse
from eval.door import ClockedDoor, Door, Request
from eval.generate import Generate, TransformersGenerate
from eval.kept_cache import KeptCache
from eval.trajectory import Trajectory
from prompts.render import Style
from training.curriculum import Curriculum, groups_of

Prompt = Sequence[Mapping[str, Any]]
Rows = dict[str, list[Any]]


class NotATrainingCase(RoundsError, ValueError):
    """A prompt names a split that must not be learned from, or no case at all."""


class TooManyLost(RoundsError, RuntimeError):
    """The environment loses more episodes than a run may go on without."""


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """How the episodes of a step are played.

    style: `brief` for the embedded tiny model, `full` for chat models.
    max_lost_share: above this share of lost episodes in one batch the run stops.
    template_options: handed to the chat template (`enable_thinking: false`).
    keep_cache: transformers reads every token of a conversation once; wants top_p 1.
    answer_schema: what vLLM holds every answer to; None leaves the policy free.
    """

    limits: Limits = field(default_factory=Limits)
    style: Style = "full"
    max_lost_share: float = 0.1
    template_options: Mapping[str, Any] = field(default_factory=dict)
    keep_cache: bool = False
    answer_schema: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """One batch of rollouts in numbers. Lost episodes are counted and left out of the rest."""

    episodes: int
    lost: int
    mean_score: float
    mean_return: float
    mean_turns: float
    refusal_share: float  # refused answers among all answers
    tied_groups: float  # share of groups whose attempts all paid the same: nothing to learn there
    sampled_tokens: int
    seconds: float

    def figures(self) -> dict[str, float]:
        """What a metrics line says of the batch."""
        return {
            "score": self.mean_score,
            "turns": self.mean_turns,
            "refusal_share": self.refusal_share,
            "tied_groups": self.tied_groups,
            "lost": float(self.lost),
            "sampled_tokens": float(self.sampled_tokens),
            "rollout_s": self.seconds,
            "tokens_per_s": self.sampled_tokens / self.seconds if self.seconds else 0.0,
        }


def case_prompt(request: Request) -> list[dict[str, Any]]:
    """A dataset row's `prompt`: the case's name, and its coordinates as extra keys.

    Extra keys survive the dataset and every chat template ignores them; TRL hands only `prompt`
    to the rollout, and this is how all attempts of a group get the same patient. The words the
    model sees come from the environment when the episode begins.
    """
    name = f"{request.task} {request.split} {request.seed}"
    case = {"task": request.task, "seed": request.seed, "split": request.split}
    return [{"role": "user", "content": name, **case}]


def slot_prompt(slot: int) -> list[dict[str, Any]]:
    """A dataset row's `prompt` where a curriculum chooses the case when its turn comes."""
    return [{"role": "user", "content": f"slot {slot}", "slot": slot}]


def request_of(prompt: Prompt, curriculum: Curriculum | None = None) -> Request:
    """The case that a prompt names. Raises NotATrainingCase, also for any split but train."""
    case = prompt[-1]
    if curriculum is not None and case.get("slot") is not None:
        return curriculum.request(int(case["slot"]))
    missing = [key for key in ("task", "seed", "split") if case.get(key) is None]
    if missing:
        raise NotATrainingCase(
            f"a prompt without {', '.join(missing)}: {dict(case)!r}; build it with case_prompt()"
        )
    if case["split"] != "train":
        raise NotATrainingCase(
            f"{case['task']} seed {case['seed']} is of split {case['split']!r};"
            " only train may be learned from"
        )
    return Request(str(case["task"]), int(case["seed"]), cast(Split, case["split"]))


class Rollout:
    """The `rollout_func` of a run. Keeps the last batch's trajectories and its report."""

    def __init__(
        self, door: Door, settings: RolloutSettings, curriculum: Curriculum | None = None
    ) -> None:
        self._door = ClockedDoor(door)
        self.settings = settings
        self.curriculum = curriculum
        self.last: list[Trajectory] = []
        self.report: Report | None = None

    def __call__(self, prompts: Sequence[Prompt], trainer: Any) -> Rows:
        """One row a prompt, in the same order. Raises NotATrainingCase, TooManyLost.

        TRL repeats each prompt `num_generations` times before it calls this.
        """
        requests = [request_of(prompt, self.curriculum) for prompt in prompts]
        began, self._door.seconds = perf_counter(), 0.0
        with asking(trainer, self.settings) as generate:
            self.last = self.play(requests, generate, trainer.processing_class)
        self.report = report(self.last, perf_counter() - began)
        self._check_losses()
        figures = {
            **self.report.figures(),
            "environment_s": self._door.seconds,
            **self._learned(trainer),
        }
        table = rows(self.last, trainer.processing_class.eos_token_id)
        return {**table, "batch": [figures] * len(self.last)}

    def _learned(self, trainer: Any) -> dict[str, float]:
        """Tell the curriculum what all processes have seen, and have its figures."""
        if self.curriculum is None:
            return {}
        own = [(t.task, t.seed, t.episode_return, t.score) for t in self.last if t.lost is None]
        if trainer.accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            own = gather_object(own)
        self.curriculum.learn(groups_of(own))
        return self.curriculum.figures()

    def family_of(self, task: str) -> Family:
        return self._door.family_of(task)

    def play(
        self, requests: Sequence[Request], generate: Generate, tokenizer: Any
    ) -> list[Trajectory]:
        """Whatever cases one likes, with this run's limits and style: training and validation alike."""
        return converse(
            self._door,
            requests,
            generate,
            tokenizer,
            limits=self.settings.limits,
            style=self.settings.style,
            template_options=dict(self.settings.template_options),
        )

    def _check_losses(self) -> None:
        lost = [t for t in self.last if t.lost is not None]
        if len(lost) > self.settings.max_lost_share * len(self.last):
            raise TooManyLost(
                f"{len(lost)} of {len(self.last)} episodes were lost"
                f" (allowed: {self.settings.max_lost_share:.0%}); the first: {lost[0].lost}."
                " See that the environment server is up, then run the same command again to resume."
            )


def make_rollout_func(
    door: Door, settings: RolloutSettings | None = None, curriculum: Curriculum | None = None
) -> Rollout:
    """A `rollout_func` for TRL's GRPOTrainer that plays through `door`."""
    return Rollout(door, settings or RolloutSettings(), curriculum)


@contextmanager
def asking(
    trainer: Any, settings: RolloutSettings, temperature: float | None = None
) -> Iterator[Generate]:
    """The trainer's current policy as a `Generate`, at the trainer's temperature unless one is given.

    With vLLM the trainer's own temperature is the engine's; any other is sampled with transformers.
    """
    if getattr(trainer, "use_vllm", False) and temperature is None:
        from training.vllm_answers import VllmGenerate

        engine = VllmGenerate(trainer, settings.limits.answer_tokens, settings.answer_schema)
        yield engine
        engine.finish()
        return
    from trl.models import unwrap_model_for_generation

    args = trainer.args
    with (
        unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=args.ds3_gather_for_generation,
        ) as model,
        trainer.accelerator.autocast(),
    ):
        warmth = args.temperature if temperature is None else temperature
        if settings.keep_cache and args.top_p == 1.0:
            yield KeptCache(model, trainer.processing_class, warmth, settings.limits.answer_tokens)
            return
        yield TransformersGenerate(
            model,
            trainer.processing_class,
            temperature=warmth,
            top_p=args.top_p,
            max_new_tokens=settings.limits.answer_tokens,
        )


def rows(trajectories: Sequence[Trajectory], end: int) -> Rows:
    """TRL's columns. A lost episode is a row without reward and without a token to learn from."""
    told: Rows = defaultdict(list)
    for played in trajectories:
        for name, value in (_row(played, end) if played.lost is None else _lost(end)).items():
            told[name].append(value)
    return dict(told)


def _row(played: Trajectory, end: int) -> dict[str, Any]:
    tokens = played.tokens
    assert tokens is not None, "converse() records tokens"
    said = bool(tokens.completion_ids)  # a case too long for one answer has said nothing
    return {
        "prompt_ids": list(tokens.prompt_ids),
        "completion_ids": list(tokens.completion_ids) if said else [end],
        "env_mask": list(tokens.mask) if said else [0],
        "logprobs": list(tokens.logprobs) if said else [0.0],
        "episode_return": played.episode_return,
        "score": played.score,
        "parts": played.part_sums(),
        "turns": len(played.turns),
        "refusals": played.refusals,
    }


def _lost(end: int) -> dict[str, Any]:
    return {
        "prompt_ids": [end],
        "completion_ids": [end],  # TRL cannot hold an empty row
        "env_mask": [0],
        "logprobs": [0.0],
        "episode_return": None,
        "score": None,
        "parts": {},
        "turns": 0,
        "refusals": 0,
    }


def report(trajectories: Sequence[Trajectory], seconds: float) -> Report:
    """The batch in numbers; means over what was finished, 0.0 where nothing was."""
    finished = [t for t in trajectories if t.lost is None]
    turns = sum(len(t.turns) for t in finished)
    return Report(
        episodes=len(trajectories),
        lost=len(trajectories) - len(finished),
        mean_score=_mean([t.score for t in finished]),
        mean_return=_mean([t.episode_return for t in finished]),
        mean_turns=turns / max(len(finished), 1),
        refusal_share=sum(t.refusals for t in finished) / max(turns, 1),
        tied_groups=_tied(finished),
        sampled_tokens=sum(sum(t.tokens.mask) for t in finished if t.tokens),
        seconds=seconds,
    )


def _tied(finished: Sequence[Trajectory]) -> float:
    """TRL's `frac_reward_zero_std` reads 0 when rewards are scaled by the batch: this does not."""
    groups: dict[tuple[str, int], set[float]] = defaultdict(set)
    for played in finished:
        groups[(played.task, played.seed)].add(round(played.episode_return, 6))
    return _mean([float(len(paid) == 1) for paid in groups.values()])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def episode_return(episode_return: list[float | None], **columns: Any) -> list[float | None]:
    """Reward function: the sum of the step rewards. Logs each reward part and the batch beside it."""
    log_metric = columns.get("log_metric")
    if log_metric is not None:
        for name, value in columns["batch"][0].items():
            log_metric(name, value)
        told = [
            p for p, paid in zip(columns["parts"], episode_return, strict=True) if paid is not None
        ]
        for name in sorted({name for parts in told for name in parts}):
            for parts in told:  # an episode without the part has had 0 of it
                log_metric(f"parts/{name}", parts.get(name, 0.0))
    return episode_return


def score(score: list[float | None], **_: Any) -> list[float | None]:
    """Reward function: the grader's score of the finished episode."""
    return score
