"""How fast REINFORCE trains in process, and what the source documents' run reaches here.

`python -m bench.reinforce` times training on one core, in CPU seconds, so that a busy machine counts less.
`--table` trains the seed preset with several training seeds and plays test patients greedily.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, Any

from bench.promise import Figure, machine, report
from configs.loader import load
from env_server import registry
from training import threads
from training.reinforce_settings import ReinforceConfig

if TYPE_CHECKING:
    from training.reinforce_learner import Learner

threads.settle()

FAMILY = "polypharmacy"
SEED_PRESET = Path(__file__).parents[1] / "configs" / "reinforce" / "seed.yaml"
THEIRS = {"easy_screening": 0.698, "budgeted_screening": 0.195, "complex_tradeoff": 0.040}
BATCH, ATTEMPTS = 500, 10  # of the timed runs: many attempts share the cost of drawing a patient
STEPS_A_SECOND, EPISODES, SECONDS = 20_000.0, 100_000, 300.0


def learner(task: str) -> Learner:
    """The source documents' network and features, in batches large enough to be worth a forward pass."""
    from training.reinforce_learner import Learner

    config = load(SEED_PRESET, ReinforceConfig)
    config = replace(config, task=task, batch_size=BATCH, attempts=ATTEMPTS, normalise=True)
    return Learner(config, registry.get(FAMILY))


def spent(trained: Learner, updates: range, attempts: int) -> tuple[int, float]:
    """(environment steps, CPU seconds) of these updates: patients drawn, played and learned from."""
    from training.classical_rollout import Patients, roll, sample

    config = replace(trained.config, attempts=attempts)
    trained.config = config
    patients = Patients(trained.family, config.task, "train")
    a_batch = config.batch_size // attempts
    steps, started = 0, time.process_time()
    for update in updates:
        episodes = patients.batch(update * a_batch, a_batch, attempts)
        choose = sample(trained.generator)
        batch = roll(
            trained.policy, trained.encoding, episodes, choose, config.gamma, trained.value
        )
        trained.learn(batch, 0.0)
        steps += batch.steps
    return steps, time.process_time() - started


def speed(task: str, rounds: int, attempts: int, updates: int = 4) -> Figure:
    """Environment steps a second while training: the median of `rounds` rounds of `updates`.

    Promised for several attempts at each patient, told for one: then drawing patients is most of the work.
    """
    trained = learner(task)
    spent(trained, range(1), attempts)  # torch compiles and tables load
    rates, total = [], 0
    for at in range(rounds):
        first = 1 + at * updates
        steps, seconds = spent(trained, range(first, first + updates), attempts)
        rates.append(steps / seconds)
        total += steps
    name = f"{task}: training steps a second, attempts a patient {attempts}"
    if attempts < ATTEMPTS:
        return Figure(name, median(rates), "1/s", total)
    return Figure(name, median(rates), "1/s", total, "least", STEPS_A_SECOND)


def long_run(task: str, episodes: int) -> Figure:
    """CPU seconds to train on so many episodes, every one another patient."""
    trained = learner(task)
    _, seconds = spent(trained, range(episodes // BATCH), 1)
    bound = SECONDS * episodes / EPISODES
    return Figure(f"{task}: {episodes} episodes", seconds, "s", episodes, "most", bound)


def table(seeds: int, patients: int) -> list[dict[str, Any]]:
    """The seed preset on each seed task: the last policy's and the best one's mean test score."""
    from eval.policies import POLICY
    from training.reinforce import LAST, train

    rows = []
    for task, theirs in THEIRS.items():
        found: dict[str, list[float]] = {LAST: [], POLICY: []}
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                config = load(SEED_PRESET, ReinforceConfig)
                run = train(replace(config, task=task, seed=seed, output=folder))
                for name, scores in found.items():
                    scores.append(test_score(run / name, task, patients))
            print(f"{task} seed {seed}: {found[LAST][-1]:.3f}", file=sys.stderr)
        rows.append(
            {
                "task": task,
                "source_documents": theirs,
                "episodes": config.episodes,
                "training_seeds": seeds,
                "test_patients": patients,
                "after_last_update": interval(found[LAST]),
                "best_on_validation": interval(found[POLICY]),
            }
        )
    return rows


def test_score(path: Path, task: str, patients: int) -> float:
    """Mean greedy score of the policy in `path` on the first test patients."""
    from eval import policy_net
    from training.classical_rollout import Patients, mean_greedy_score

    family = registry.get(FAMILY)
    policy, encoding, _ = policy_net.read(path, family)
    episodes = Patients(family, task, "test").batch(0, patients, 1)
    return mean_greedy_score(policy, encoding, episodes)


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean over training seeds with Student's 95 % interval, and the values themselves."""
    from scipy import stats

    half = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    middle = fmean(values)
    return {"mean": middle, "low": middle - half, "high": middle + half, "values": list(values)}


def show(rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    first = rows[0]
    shown = Table(
        title=f"REINFORCE, seed preset, {first['episodes']} episodes, {first['training_seeds']} training"
        f" seeds, {first['test_patients']} test patients, greedy"
    )
    for column in ("task", "source documents", "last policy [95 %]", "best on validation [95 %]"):
        shown.add_column(column)
    for row in rows:
        cells = [
            f"{e['mean']:.3f} [{e['low']:.3f}, {e['high']:.3f}]"
            for e in (row["after_last_update"], row["best_on_validation"])
        ]
        shown.add_row(row["task"], f"{row['source_documents']:.3f}", *cells)
    Console(width=110).print(shown)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.reinforce", description=__doc__)
    parser.add_argument(
        "--table", action="store_true", help="the source documents' table, not speed"
    )
    parser.add_argument("--seeds", type=int, default=8, help="training seeds of the table")
    parser.add_argument("--patients", type=int, default=500, help="test patients of the table")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the timed training")
    parser.add_argument(
        "--episodes", type=int, default=EPISODES, help="of the long run; its promise shrinks along"
    )
    parser.add_argument("--json", action="store_true", help="print JSON with the machine")
    options = parser.parse_args(argv)
    if options.seeds < 2:
        parser.error(f"--seeds {options.seeds}: an interval needs at least 2")
    if options.table:
        rows = table(options.seeds, options.patients)
        title = "bench.reinforce --table"
        if options.json:
            print(json.dumps({"title": title, "machine": machine(), "rows": rows}, indent=1))
        else:
            show(rows)
        return 0
    figures = [
        speed("budgeted_screening", options.rounds, ATTEMPTS),
        speed("budgeted_screening", options.rounds, 1),
        long_run("easy_screening", options.episodes),
    ]
    return report(
        "bench.reinforce", figures, as_json=options.json, seeds="train, from 0 on; training seed 0"
    )


if __name__ == "__main__":
    sys.exit(main())
