"""What playing costs a training step: batched against one by one, waiting, and reading twice.

The policy is the embedded tiny model after a short warm start, the sampler transformers on the CPU. Against
TRL, its own loop over environments runs here, with the same environment behind the same slow road.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median
from types import SimpleNamespace
from typing import Any

from bench.bad_road import slow_road
from bench.kills import warm_start
from bench.promise import Figure, report
from bench.scripted import Script, scripts
from env_server.contract import RoundsError

ROOT = Path(__file__).resolve().parents[1]
FAMILY, TASK = "polypharmacy", "review_easy"
EPISODES, CALLS, CALL_S = 32, 7, 0.020
ANSWER_TOKENS, CONTEXT_TOKENS = 24, 700


def batched_against_sequential(
    policy: Any, tokenizer: Any, batch: int, alone: int, rounds: int, quick: bool
) -> list[Figure]:
    """Answers a CPU second, all patients side by side and one after another: the median of some rounds.

    Promised of the sampler that the demo trains with, which reads every token once; both ways use it.
    Answers, because episodes that are sampled have no fixed length. quick: that sampler only.
    """
    from eval.generate import TransformersGenerate

    def plain() -> Any:
        return TransformersGenerate(policy, tokenizer, max_new_tokens=ANSWER_TOKENS)

    def kept() -> Any:
        return _sampler(policy, tokenizer)

    figures = []
    samplers = (("kept cache", kept, 3.0), ("plain generate", plain, None))
    for name, sampler, bound in samplers[:1] if quick else samplers:
        pairs = [
            (
                _rate(policy, tokenizer, batch, batch, sampler),
                _rate(policy, tokenizer, alone, 1, sampler),
            )
            for _ in range(rounds)
        ]
        times = sorted(many / one for many, one in pairs)
        figures += [
            Figure(
                f"{name}, {batch} at once", median(p[0] for p in pairs), "answers/CPU s", rounds
            ),
            Figure(f"{name}, one by one", median(p[1] for p in pairs), "answers/CPU s", rounds),
            Figure(
                f"{name}, batched against one by one",
                median(times),
                "times",
                rounds,
                "least" if bound else None,
                bound,
                low=times[0],
                high=times[-1],
            ),
        ]
    return figures


def _rate(policy: Any, tokenizer: Any, count: int, width: int, sampler: Callable[[], Any]) -> float:
    """Answers a CPU second, so many patients side by side."""
    began, answers = time.process_time(), 0
    for start in range(0, count, width):
        played = _play(_here(), policy, tokenizer, _requests(start, width), sampler())
        answers += sum(len(one.turns) for one in played)
    return answers / (time.process_time() - began)


def same_over_the_socket(policy: Any, tokenizer: Any, count: int, url: str) -> Figure:
    """Episodes that differ in anything, tokens and probabilities included, between the two doors."""
    import torch

    from eval.door import RemoteDoor

    played = []
    door = RemoteDoor(url, FAMILY, count)
    for one in (_here(), door):
        torch.manual_seed(0)
        played.append(_play(one, policy, tokenizer, _requests(0, count)))
    door.close()
    differ = sum(
        (a.turns, a.score, a.final, a.tokens) != (b.turns, b.score, b.final, b.tokens)
        for a, b in zip(*played, strict=True)
    )
    return Figure("traces that differ over the socket", differ, "episodes", count, "most", 0)


def read_again(policy: Any, tokenizer: Any, count: int) -> list[Figure]:
    """What it would save to keep the cache from turn to turn: greedy, the same patients both ways."""
    from eval.generate import TransformersGenerate
    from eval.kept_cache import KeptCache

    spent, said = [], []
    for sample in (
        TransformersGenerate(policy, tokenizer, 0.0, max_new_tokens=ANSWER_TOKENS),
        KeptCache(policy, tokenizer, 0.0, ANSWER_TOKENS),
    ):
        began = time.process_time()
        said.append(_play(_here(), policy, tokenizer, _requests(0, count), sample))
        spent.append(time.process_time() - began)
    again = zip(*said, strict=True)
    differ = sum([t.text for t in a.turns] != [t.text for t in b.turns] for a, b in again)
    return [
        Figure("rollout that reads everything again", spent[0], "CPU s", count),
        Figure("rollout with a kept cache", spent[1], "CPU s", count),
        Figure("kept cache against reading again", spent[0] / spent[1], "times", count),
        Figure("kept cache: other answers", differ, "episodes", count),
    ]


# -- waiting ---------------------------------------------------------------------------------------


def waiting(url: str, rounds: int) -> list[Figure]:
    """Seconds for `EPISODES` x `CALLS` environment calls of 20 ms each, in TRL's loop and in ours.

    The 20 ms are the road's: each answer is held back for so long, whoever asked. Both loops ask the
    same server for the same moves, and neither generates anything. The median of a few rounds of both,
    and the least and the most.
    """
    wanted = [s for s in scripts("review_budgeted", 3 * EPISODES) if len(s.moves) > CALLS]
    wanted = [Script(s.request, s.moves[:CALLS], s.told[:CALLS], s.score) for s in wanted]
    with slow_road(url, CALL_S) as road:
        pairs = [
            (trls_loop(road, wanted[:EPISODES]), our_loop(road, wanted[:EPISODES]))
            for _ in range(rounds)
        ]
    times = sorted(theirs / ours for theirs, ours in pairs)
    calls = EPISODES * CALLS
    return [
        Figure(
            "waiting, TRL's environment_factory loop", median(one for one, _ in pairs), "s", calls
        ),
        Figure("waiting, all at once", median(one for _, one in pairs), "s", calls),
        Figure(
            "less waiting than TRL's loop",
            median(times),
            "times",
            rounds,
            "least",
            20.0,
            low=times[0],
            high=times[-1],
        ),
    ]


def our_loop(road: str, wanted: Sequence[Script]) -> float:
    from eval.door import ClockedDoor, RemoteDoor

    remote = RemoteDoor(road, FAMILY, len(wanted))
    door = ClockedDoor(remote)
    episodes = door.begin_many([s.request for s in wanted])
    door.seconds = 0.0
    for turn in range(CALLS):
        steps = door.step_many([(e, s.moves[turn]) for e, s in zip(episodes, wanted, strict=True)])  # type: ignore[misc]
        _check(steps, [s.told[turn] for s in wanted])
    remote.close()
    return door.seconds


class Environment:
    """One rollout's environment as TRL wants it: a class with a method that is a tool."""

    def __init__(self, episode: Any, script: Script) -> None:
        self._episode, self._script = episode, script
        self.seconds, self.told = 0.0, []  # type: ignore[var-annotated]

    def act(self) -> str:
        """Make the next move."""
        began = time.perf_counter()
        self.told.append(self._episode.step(self._script.moves[len(self.told)]))
        self.seconds += time.perf_counter() - began
        return "done"


def trls_loop(road: str, wanted: Sequence[Script]) -> float:
    """The seconds that TRL's own `_tool_call_loop` spends in its environments."""
    from env_server.client import connect

    with connect(road, FAMILY, pool=len(wanted)) as link:
        begun = link.begin_many([(s.request.task, s.request.seed, s.request.split) for s in wanted])
        environments = [Environment(e, s) for e, s in zip(begun, wanted, strict=True)]
        _run_trls_loop(environments)
    for turn in range(CALLS):
        _check([e.told[turn] for e in environments], [s.told[turn] for s in wanted])
    return sum(e.seconds for e in environments)


def _run_trls_loop(environments: Sequence[Environment]) -> None:
    """`GRPOTrainer._tool_call_loop` itself, around a model that calls the tool and says nothing else."""
    from trl.trainer import grpo_trainer

    call = {"type": "function", "function": {"name": "act", "arguments": {}}}
    calling = {"role": "assistant", "content": "", "tool_calls": [call]}
    count = len(environments)
    trainer = SimpleNamespace(
        _sync_tool_dicts=[{"act": e.act} for e in environments],
        _async_tool_dicts=[{} for _ in environments],
        max_tool_calling_iterations=CALLS,
        max_completion_length=10_000,
        use_vllm=False,
        _is_vlm=False,
        _tokenizer=None,
        tools=[],
        environment_factories=None,
        model=SimpleNamespace(config=SimpleNamespace(max_position_embeddings=100_000)),
        _get_tool_suffix_ids=lambda messages: [2],
        _generate_single_turn=lambda ids, *_, **__: ([[1] for _ in ids], [[0.0] for _ in ids]),
    )
    before = grpo_trainer.parse_response
    grpo_trainer.parse_response = lambda *_, **__: dict(calling)
    try:
        grpo_trainer.GRPOTrainer._tool_call_loop(
            trainer,
            [[{"role": "user", "content": "begin"}] for _ in range(count)],
            [[0] for _ in range(count)],
            [[1] for _ in range(count)],
            [[dict(calling)] for _ in range(count)],
            [[0.0] for _ in range(count)],
            None,
            {},
        )
    finally:
        grpo_trainer.parse_response = before


def _check(steps: Sequence[Any], told: Sequence[Any]) -> None:
    got = [(s.reward, s.done, s.observation.to_json()) for s in steps]
    if got != list(told):
        raise RuntimeError("the loop heard something else than the script says")


# -- a step ----------------------------------------------------------------------------------------


def share_of_a_step(folder: Path, model: Path, steps: int, batch: int) -> list[Figure]:
    """The environment's share of a real GRPO step's wall time, through the server the run starts."""
    from training.grpo import train
    from training.grpo_settings import parse
    from training.progress import lines

    flags = {
        "output": folder / "grpo",
        "model": model,
        "tasks": TASK,
        "answer_tokens": ANSWER_TOKENS,
        "context_tokens": CONTEXT_TOKENS,
        "per_device_train_batch_size": batch,
        "num_generations": 8,
        "max_steps": steps,
        "learning_rate": 7e-4,
        "beta": 0.0,
        "validation_patients": 0,
        "preflight_groups": 0,
        "keep_cache": "true",  # as the demo: generation takes less, so the environment's share is more
        "save_steps": steps,
    }
    settings, config = parse([w for k, v in flags.items() for w in (f"--{k}", str(v))])
    train(settings, config)
    told = lines(folder / "grpo" / "metrics.jsonl")[1:]  # the first one warms up
    share = fmean(x["environment_s"] for x in told) / fmean(x["step_time"] for x in told)
    return [
        Figure("GRPO step", median(x["step_time"] for x in told), "s", len(told)),
        Figure("environment", share, "of a step", len(told), "most", 0.05),
    ]


# -- the client ------------------------------------------------------------------------------------


IMPORT = """
import time
started = time.process_time()
import env_server.client
print(time.process_time() - started)
"""


def client_import(runs: int = 7) -> Figure:
    """CPU seconds that a program pays to import the client, the median."""
    command = [sys.executable, "-c", IMPORT]
    told = (
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        for _ in range(runs)
    )
    took = sorted(float(done.stdout) for done in told)
    name, middle = "import of env_server.client", median(took)
    return Figure(name, middle, "CPU s", runs, "most", 0.2, low=took[0], high=took[-1])


# -- pieces ----------------------------------------------------------------------------------------


def _here() -> Any:
    from eval.door import LocalDoor

    return LocalDoor(FAMILY)


def _requests(start: int, count: int) -> list[Any]:
    from eval.door import Request

    return [Request(TASK, seed, "train") for seed in range(start, start + count)]


def _sampler(policy: Any, tokenizer: Any) -> Any:
    from eval.kept_cache import KeptCache

    return KeptCache(policy, tokenizer, max_new_tokens=ANSWER_TOKENS)


def _play(
    door: Any, policy: Any, tokenizer: Any, requests: Sequence[Any], sample: Any = None
) -> list[Any]:
    from eval.dialogue import Limits, converse

    limits = Limits(ANSWER_TOKENS, CONTEXT_TOKENS)
    ask = sample or _sampler(policy, tokenizer)
    return converse(door, requests, ask, tokenizer, limits=limits, style="brief")


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    from training.own_server import own_server

    with own_server(folder / "server.log") as url:
        yield url


def measure(folder: Path, quick: bool) -> list[Figure]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = warm_start(folder)
    policy = AutoModelForCausalLM.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    _play(_here(), policy, tokenizer, _requests(0, 64))  # the first call of everything
    figures = [client_import()]
    rounds = 3 if quick else 9
    figures += batched_against_sequential(policy, tokenizer, 64, 16, rounds, quick)
    if not quick:
        figures += read_again(policy, tokenizer, 64)
    with _server(folder) as url:
        figures.append(same_over_the_socket(policy, tokenizer, 16 if quick else 64, url))
        figures += waiting(url, 3 if quick else 5)
    return figures + share_of_a_step(folder, model, 4 if quick else 12, 64)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.rollout", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="the promised figures only, fewer episodes and steps")
    add("--json", action="store_true", help="print JSON with the machine")
    asked = parser.parse_args(argv)
    from training import threads

    threads.settle()
    try:
        with tempfile.TemporaryDirectory(prefix="rounds-rollout-") as folder:
            figures = measure(Path(folder), asked.quick)
    except RoundsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    seeds = f"train patients of {TASK} and review_budgeted from 0"
    return report("bench.rollout", figures, as_json=asked.json, seeds=seeds)


if __name__ == "__main__":
    sys.exit(main())
