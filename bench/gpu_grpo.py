"""GRPO on this machine's GPU, from nothing, in under ten minutes: how fast, and does it learn.

Builds a model of 30 to 300 M parameters from the environment's own words, warm-starts it, and lets
GRPO play and learn for a few steps through a real environment server. Everything is read from what
the runs themselves wrote. On a CPU (`--size tiny`) the same code runs, for what its figures are worth.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from bench.promise import Figure, report
from env_server.contract import RoundsError

TASK = "review_easy"
ENVIRONMENT_SHARE = 0.05  # of a step, at most: specs promise of the rollout
WARM_UP = 2  # steps left out of timings: compilation, allocator, caches


def warm_start(folder: Path, size: str, steps: int, episodes: int, seed: int) -> tuple[Path, float]:
    """(the model, seconds): imitation of heuristic and reference, on train patients."""
    from training.sft import SftConfig, train

    began = time.perf_counter()
    model = train(
        SftConfig(
            output=str(folder / "sft"),
            tasks=(TASK,),
            init=size,
            episodes=episodes,
            steps=steps,
            agents=("heuristic", "reference", "reference"),
            noise=(0.0, 0.1, 0.2, 0.4),
            batch=32,
            lr=3e-3 if size == "tiny" else 4e-4,
            reading=0.2 if size == "tiny" else 0.0,
            device="auto",
            seed=seed,
        )
    )
    return model, time.perf_counter() - began


def reinforce(
    folder: Path, model: Path, lora: bool, steps: int, batch: int, seed: int
) -> list[dict[str, Any]]:
    """The metrics lines of a GRPO run through a server of its own, validation included."""
    import torch

    from training.grpo import train
    from training.grpo_settings import parse
    from training.progress import lines

    run = folder / ("lora" if lora else "full")
    gpu = torch.cuda.is_available()
    flags = {
        "output": run,
        "model": model,
        "tasks": TASK,
        "answer_tokens": 24,
        "context_tokens": 700,
        "per_device_train_batch_size": batch,
        "num_generations": 8,
        "max_steps": steps,
        "learning_rate": 2e-4 if lora else 3e-5 if gpu else 3e-4,
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.98,
        "beta": 0.0,
        "loss_type": "dapo",
        "scale_rewards": "batch",
        "bf16": gpu,
        "gradient_checkpointing": False,
        "validation_patients": 128 if gpu else 8,
        "validation_every": max(steps // 4, 4),  # so few steps are looked at before and after
        "save_steps": steps,
        "lora_r": 16 if lora else 0,
        "preflight_groups": 2,
        "seed": seed,
    }
    settings, config = parse([w for k, v in flags.items() for w in (f"--{k}", str(v))])
    train(settings, config)
    return lines(run / "metrics.jsonl")


def figures_of(
    name: str, told: Sequence[dict[str, Any]], curve: Sequence[dict[str, Any]]
) -> list[Figure]:
    """What a run's own lines say: speed after warming up, the environment's share, the curve."""
    steady = list(told[WARM_UP:]) or list(told)
    n = len(steady)
    step_s = median(line["step_time"] for line in steady)
    share = fmean(line["environment_s"] for line in steady) / fmean(
        line["step_time"] for line in steady
    )
    first, best = curve[0], max(curve, key=lambda line: line["score"])
    return [
        Figure(f"{name}: step", step_s, "s", n),
        Figure(f"{name}: rollout", median(x["tokens_per_s"] for x in steady), "tokens/s", n),
        Figure(f"{name}: sampled a step", fmean(x["sampled_tokens"] for x in steady), "tokens", n),
        Figure(f"{name}: environment", share, "of a step", n, "most", ENVIRONMENT_SHARE),
        Figure(f"{name}: validation before", first["score"], "score", first["n"]),
        Figure(f"{name}: validation best", best["score"], "score", best["n"]),
        Figure(
            f"{name}: lost episodes", sum(x["lost"] for x in told), "episodes", len(told), "most", 0
        ),
    ]


def measure(folder: Path, size: str, quick: bool, seed: int) -> list[Figure]:
    import torch

    from training.progress import lines

    gpu = torch.cuda.is_available()
    sft_steps, episodes = (20, 120) if quick else (400, 6000)
    steps, batch = (4, 16) if quick else (24, 256 if gpu else 64)
    began = time.perf_counter()
    model, warm_s = warm_start(folder, size, sft_steps, episodes, seed)
    parameters = sum(p.numel() for p in _loaded(model).parameters())
    figures = [
        Figure("parameters", parameters / 1e6, "million", 1),
        Figure("warm start", warm_s, "s", sft_steps),
    ]
    for lora in (False, True):
        name = "LoRA" if lora else "full"
        told = reinforce(folder, model, lora, steps, batch, seed)
        curve = lines(folder / ("lora" if lora else "full") / "validation.jsonl")
        figures += figures_of(name, told, curve)
        print(f"{name}: {steps} steps of {batch} episodes", file=sys.stderr)
    if gpu:
        peak = torch.cuda.max_memory_allocated() / 2**30
        figures.append(Figure("GPU memory, peak", peak, "GiB", 1))
    figures.append(Figure("all of it", time.perf_counter() - began, "s", 1, "most", 600.0))
    return figures


def _loaded(model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_grpo", description=__doc__)
    add = parser.add_argument
    add("--size", default=None, help="tiny, 30m, 100m or 300m (default: 100m on a GPU, else tiny)")
    add("--quick", action="store_true", help="every stage for real, too short to learn")
    add("--seed", type=int, default=0)
    add("--keep", type=Path, help="keep the runs in this folder (default: a temporary one)")
    add("--json", action="store_true", help="print JSON with the machine")
    asked = parser.parse_args(argv)
    import torch

    gpu = torch.cuda.is_available()
    size = asked.size or ("100m" if gpu else "tiny")
    name = torch.cuda.get_device_name() if gpu else "no GPU"
    try:
        with tempfile.TemporaryDirectory(prefix="rounds-gpu-") as temporary:
            folder = asked.keep or Path(temporary)
            figures = measure(folder, size, asked.quick, asked.seed)
    except RoundsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    title = f"bench.gpu_grpo: {size} on {name}"
    seeds = json.dumps({"seed": asked.seed, "task": TASK, "quick": asked.quick})
    return report(title, figures, as_json=asked.json, seeds=seeds)


if __name__ == "__main__":
    sys.exit(main())
