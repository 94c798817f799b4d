"""Proof before a long run: what the policy plays here is what the trainer would learn from.

Plays groups of patients with the policy of this moment, audits every token and reward of them
(`ledger.py`), and says whether there is anything to learn: groups that do not all tie, episodes that
fit the context, memory, versions. Knows how to ask and to tell; what counts as wrong is the ledger's.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.loader import ConfigError
from env_server import registry
from env_server.contract import Family, JsonObject, RoundsError
from eval import stopped
from training import extras, threads

if TYPE_CHECKING:
    from eval.door import Request
    from eval.generate import Generate
    from eval.trajectory import Trajectory
    from training.ledger import Violation
    from training.rollout import Rollout

threads.settle()

ENOUGH_GROUPS = 4  # fewer that tie may be chance
TRIPLE = ("trl", "transformers", "vllm")
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2, "float16": 0.05}  # nats a token


class NotProved(RoundsError, RuntimeError):
    """The rollout is not what the trainer takes it for, or has nothing to teach."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What one task's probe groups showed.

    tied: share of groups whose attempts all paid the same. tokens_p95: of prompt and completion
    together. full: episodes that ran out of context. memory_mib: the process's peak so far.
    """

    task: str
    episodes: int
    groups: int
    lost: int
    tokens: int  # masked in: those that would get gradient
    tied: float
    tokens_p95: int
    context: int
    full: int
    memory_mib: int
    likelihood: bool  # whether log-probabilities were compared
    violations: tuple[Violation, ...] = ()
    versions: JsonObject = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether there was a token to check, and no promise was broken."""
        return self.tokens > 0 and not self.violations

    def advice(self) -> list[str]:
        """What speaks against a long run, in words; nothing where nothing does."""
        told = []
        if self.groups and self.tied == 1.0:
            told.append(
                f"{self.task}: all {self.groups} probe groups tie, so no advantage is other than zero:"
                " raise the temperature, take more attempts a group, choose an easier task,"
                " or warm-start on noisier episodes"
            )
        if self.full > 0.05 * self.episodes:
            told.append(
                f"{self.task}: {self.full} of {self.episodes} episodes ran out of {self.context}"
                f" tokens (95 % need {self.tokens_p95} or fewer): raise context_tokens"
            )
        if self.lost:
            told.append(f"{self.task}: {self.lost} of {self.episodes} episodes were lost")
        return told

    def to_json(self) -> JsonObject:
        return {**asdict(self), "advice": self.advice()}


def prove(
    rollout: Rollout,
    requests: Sequence[Request],
    generate: Generate,
    tokenizer: Any,
    model: Any | None,
    temperature: float = 1.0,
) -> Proof:
    """Play `requests` (groups side by side, one task) and audit them. Reads, learns nothing.

    model: whose plain forward pass must agree; None leaves the comparison out.
    """
    from eval.chat import ChatTokens
    from training.ledger import audit
    from training.rollout import report

    settings = rollout.settings
    played = rollout.play(requests, generate, tokenizer)
    chat = ChatTokens(tokenizer, dict(settings.template_options))
    violations = audit(
        rollout.family_of(requests[0].task),
        requests,
        played,
        chat,
        settings.style,
        model,
        temperature,
        _TOLERANCE.get(_dtype(model), 1e-3),
    )
    seen = report(played, seconds=0.0)
    return Proof(
        task=requests[0].task,
        episodes=seen.episodes,
        groups=len({(r.task, r.seed) for r in requests}),
        lost=seen.lost,
        tokens=seen.sampled_tokens,
        tied=seen.tied_groups,
        tokens_p95=_p95(played),
        context=settings.limits.context_tokens,
        full=sum(any(turn.text is None for turn in t.turns) for t in played),
        memory_mib=_memory_mib(),
        likelihood=model is not None,
        violations=tuple(violations),
        versions=_versions(),
    )


def probe(tasks: Sequence[str], groups: int, attempts: int, seed_from: int) -> list[list[Request]]:
    """For each task, `groups` train patients with `attempts` attempts side by side."""
    from eval.door import Request

    return [
        [
            Request(task, seed, "train")
            for seed in range(seed_from, seed_from + groups)
            for _ in range(attempts)
        ]
        for task in tasks
    ]


def demand(proofs: Sequence[Proof]) -> None:
    """Raise NotProved on any violation, and where no group of any task has anything to teach.

    Fewer than ENOUGH_GROUPS groups that tie are passed: that may be chance.
    """
    violations = [v for proof in proofs for v in proof.violations]
    if violations:
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        raise NotProved(f"the rollout broke its contract: {violations[0]}{more}")
    tied = all(proof.tied == 1.0 for proof in proofs)
    if tied and sum(proof.groups for proof in proofs) >= ENOUGH_GROUPS:
        raise NotProved("; ".join(proof.advice()[0] for proof in proofs))


def _dtype(model: Any | None) -> str:
    return "" if model is None else str(next(model.parameters()).dtype).removeprefix("torch.")


def _p95(played: Sequence[Trajectory]) -> int:
    lengths = sorted(
        len(t.tokens.prompt_ids) + len(t.tokens.completion_ids) for t in played if t.tokens
    )
    return lengths[int(0.95 * (len(lengths) - 1))] if lengths else 0


def _memory_mib() -> int:
    """Peak of the GPU where there is one, else of the process."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated() / 2**20)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)


def _versions() -> JsonObject:
    found = {}
    for name in TRIPLE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


# -- the command -------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m training.prove --model FOLDER`: 0 where every promise holds, 1 where one does not."""
    asked = arguments().parse_args(argv)
    try:
        proofs = _proofs(asked)
    except (ConfigError, RoundsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if asked.json:
        print(json.dumps([proof.to_json() for proof in proofs], indent=2))
    else:
        _tell(proofs)
    return 0 if all(proof.holds for proof in proofs) else 1


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.prove",
        description="Prove that rollouts are what the trainer takes them for: masks, tokens,"
        " log-probabilities, patients, rewards.",
        epilog="Exit code 1 where a promise does not hold. python -m training.grpo runs the same"
        " checks on its own first patients before it begins (--preflight_groups).",
    )
    add = parser.add_argument
    add("--model", required=True, help="a model's folder, or a Hub id; tiny builds one untrained")
    add("--family", default="polypharmacy", help="environment family (default: %(default)s)")
    add("--tasks", nargs="+", help="tasks (default: every task of the family)")
    add("--groups", type=int, default=2, help="train patients a task (default: %(default)s)")
    add("--attempts", type=int, default=4, help="attempts a patient (default: %(default)s)")
    add("--temperature", type=float, default=1.0, help="of sampling (default: %(default)s)")
    add("--style", choices=("brief", "full"), help="wording (default: as the model was taught)")
    add("--answer-tokens", type=int, default=64, help="cap of one answer (default: %(default)s)")
    add("--context-tokens", type=int, default=4096, help="cap of all (default: %(default)s)")
    add("--env-url", help="play through this server (default: one started for the purpose)")
    add("--in-process", action="store_true", help="play in this process, without a server")
    add("--seed", type=int, default=0, help="of the sampling (default: %(default)s)")
    add("--json", action="store_true", help="print a list of proofs")
    return parser


def _proofs(asked: argparse.Namespace) -> list[Proof]:
    extras.demand("torch", "transformers", "trl")
    import torch

    from eval.dialogue import Limits
    from eval.generate import TransformersGenerate
    from training.rollout import RolloutSettings, make_rollout_func

    for name in ("groups", "attempts", "answer_tokens", "context_tokens"):
        if getattr(asked, name) < 1:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} is {getattr(asked, name)}; it must be at least 1")
    if not asked.temperature > 0:
        raise ConfigError(
            f"--temperature is {asked.temperature}; it must be above 0: a greedy answer has no"
            " log-probability to compare"
        )
    family = registry.get(asked.family)
    tasks = asked.tasks or list(family.tasks)
    for task in tasks:
        registry.task(family, task)
    model, tokenizer, style = _policy(asked, family, tasks)
    longest = getattr(model.config, "max_position_embeddings", None) or asked.context_tokens
    limits = Limits(asked.answer_tokens, min(asked.context_tokens, longest))
    torch.manual_seed(asked.seed)
    generate = TransformersGenerate(
        model, tokenizer, temperature=asked.temperature, max_new_tokens=limits.answer_tokens
    )
    proofs = []
    with _door(asked, family) as door:
        rollout = make_rollout_func(door, RolloutSettings(limits=limits, style=style))
        for requests in probe(tasks, asked.groups, asked.attempts, seed_from=1_000_000):
            proofs.append(prove(rollout, requests, generate, tokenizer, model, asked.temperature))
            print(f"{proofs[-1].task}: {len(proofs[-1].violations)} violations", file=sys.stderr)
    return proofs


def _policy(
    asked: argparse.Namespace, family: Family, tasks: Sequence[str]
) -> tuple[Any, Any, Any]:
    """(model, tokenizer, style)."""
    from tempfile import TemporaryDirectory

    from training import tiny
    from training.handover import history
    from training.sft import load_start

    if asked.model not in tiny.SIZES:
        model, tokenizer = load_start(asked.model, lora=False, cpu=not _cuda())
        return model, tokenizer, asked.style or history(asked.model).get("style", "full")
    with TemporaryDirectory() as folder:
        built = tiny.build(Path(folder) / "model", family.name, tasks, seed=asked.seed)
        return *load_start(str(built), lora=False, cpu=not _cuda()), asked.style or "brief"


def _cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _door(asked: argparse.Namespace, family: Family) -> Any:
    from tempfile import mkdtemp

    from training.grpo import open_door
    from training.grpo_settings import GrpoSettings

    settings = GrpoSettings(in_process=asked.in_process, env_url=asked.env_url or "")
    return open_door(
        settings, dict.fromkeys(family.tasks, family), Path(mkdtemp(prefix="rounds-prove-"))
    )


def _tell(proofs: Sequence[Proof]) -> None:
    for proof in proofs:
        wrong = f"{len(proof.violations)} VIOLATIONS" if proof.violations else "nothing was sampled"
        state = "proved" if proof.holds else wrong
        print(
            f"{proof.task:<24} {state}: {proof.episodes} episodes, {proof.tokens} tokens that would"
            f" get gradient, 95 % within {proof.tokens_p95} tokens, {proof.tied:.0%} of groups tie"
        )
        for violation in proof.violations:
            print(f"  {violation}")
        for sentence in proof.advice():
            print(f"  advice: {sentence}")
    if proofs:
        told = ", ".join(f"{name} {number}" for name, number in proofs[0].versions.items())
        print(f"{told}; peak memory {max(p.memory_mib for p in proofs)} MiB")


if __name__ == "__main__":
    raise SystemExit(stopped.stoppable(main))
