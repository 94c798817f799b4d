"""Whether the review tasks are worth training on, and how fast they are.

`python -m bench.environment` plays every agent on validation patients and times the exact optimum,
the steps and the import. Times are CPU seconds of one process, so that a busy machine counts less.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import mean, median, stdev

from bench.promise import Figure, report
from env_server import registry
from env_server.contract import Episode, Family, Step
from env_server.seeds import Stream

TASKS = ("review_budgeted", "review_easy", "review_complex")
CANARIES = ("blind_stop", "finish_at_once", "first_legal", "query_only")


def play(family: Family, agent: str, episode: Episode) -> Step:
    """Play the episode out and return its last step."""
    player = family.agents[agent].make(episode)
    step = episode.step(player.act(episode.observe(), episode.legal_actions))
    while not step.done:
        step = episode.step(player.act(episode.observe(), episode.legal_actions))
    return step


def worth_training_on(family: Family, task: str, patients: int) -> list[Figure]:
    """The requirements on scores: heuristic between .45 and .80, canaries .10 below it, and so on."""
    scores: dict[str, list[float]] = {}
    clean = 0
    for agent in ("random", "heuristic", *CANARIES, "reference"):
        finals = []
        for seed in range(patients):
            episode = family.begin(task, seed, "validation")
            play(family, agent, episode)
            finals.append(episode.score())
            clean += agent == "reference" and bool(episode.outcome()["clean"])
        scores[agent] = finals
    heuristic = mean(scores["heuristic"])
    figures = [
        _score(task, "heuristic", scores["heuristic"], "least", 0.45),
        _score(task, "heuristic", scores["heuristic"], "most", 0.80),
        _score(task, "random", scores["random"], "most", 0.25),
        # 1.0 is shown as 0.999, the highest score a grader may give
        Figure(
            f"{task}: reference, lowest",
            min(scores["reference"]),
            "score",
            patients,
            "least",
            0.999,
        ),
        Figure(f"{task}: clean patients", clean / patients, "share", patients, "least", 0.10),
        Figure(f"{task}: clean patients", clean / patients, "share", patients, "most", 0.15),
    ]
    return figures + [
        _score(task, name, scores[name], "most", heuristic - 0.10) for name in CANARIES
    ]


def _score(task: str, agent: str, scores: list[float], at: str, bound: float) -> Figure:
    half = 1.96 * stdev(scores) / len(scores) ** 0.5
    middle = mean(scores)
    name = f"{task}: {agent}"
    low, high = middle - half, middle + half
    return Figure(name, middle, "score", len(scores), at, bound, low, high)  # type: ignore[arg-type]


def optimum_times(family: Family, task: str, patients: int) -> list[Figure]:
    """CPU milliseconds to certify the best review, on patients nobody asked about yet."""
    spent = []
    for seed in range(patients):
        case = family.begin(task, seed, "train").case  # type: ignore[attr-defined]
        started = time.process_time()
        case.optimum()
        spent.append(1e3 * (time.process_time() - started))
    spent.sort()
    middle, late = spent[len(spent) // 2], spent[int(0.99 * len(spent))]
    promised = task == "review_complex"
    return [
        Figure(f"{task}: optimum, median", middle, "ms", patients, *_most(promised, 20.0)),
        Figure(f"{task}: optimum, p99", late, "ms", patients, *_most(promised, 300.0)),
    ]


def _most(promised: bool, bound: float) -> tuple[str | None, float | None]:
    return ("most", bound) if promised else (None, None)


def steps_a_second(family: Family, task: str, patients: int, rounds: int) -> list[Figure]:
    """Steps with observations, of legal random play: the median of `rounds` rounds, in CPU time.

    Actions are drawn in a first play and repeated, so that choosing them is not counted and the
    patients (with their optima) are known, as they are to all but the first attempt of a group.
    """
    plays = []
    for seed in range(patients):
        episode = family.begin(task, seed, "train")
        plays.append((seed, _draw_play(episode, seed)))
    steps = sum(len(moves) for _, moves in plays)
    rates = []
    for _ in range(rounds):
        episodes = [(family.begin(task, seed, "train"), moves) for seed, moves in plays]
        started = time.process_time()
        for episode, moves in episodes:
            for move in moves:
                episode.step(move).observation  # noqa: B018
        rates.append(steps / (time.process_time() - started))
    promised = task == "review_budgeted"
    at, bound = ("least", 30_000.0) if promised else (None, None)
    rate = median(rates)
    return [Figure(f"{task}: steps a second", rate, "1/s", rounds * steps, at, bound)]  # type: ignore[arg-type]


def _draw_play(episode: Episode, seed: int) -> list:  # type: ignore[type-arg]
    stream = Stream("bench", episode.task.name, seed)
    moves = []
    while not episode.done:
        move = stream.choice(episode.legal_actions())
        moves.append(move)
        episode.step(move)
    return moves


IMPORT = """
import sys, time
started = time.process_time()
from env_server import registry
registry.get("polypharmacy")
heavy = {"torch", "openenv", "gradio"} & set(sys.modules)
print(time.process_time() - started, len(heavy))
"""


def import_time(runs: int = 5) -> list[Figure]:
    """CPU seconds to import the registry and the family in a fresh interpreter, the median."""
    times, heavy = [], 0
    for _ in range(runs):
        done = subprocess.run(
            [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True
        )
        spent, loaded = done.stdout.split()
        times.append(float(spent))
        heavy = max(heavy, int(loaded))
    times.sort()
    return [
        Figure("import of env_server with polypharmacy", times[runs // 2], "s", runs, "most", 0.5),
        Figure("torch, openenv or gradio imported by it", heavy, "modules", runs, "most", 0),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.environment", description=__doc__)
    parser.add_argument("--patients", type=int, default=500, help="validation patients a task")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--json", action="store_true", help="print JSON with the machine")
    options = parser.parse_args(argv)
    family = registry.get("polypharmacy")
    figures = import_time()
    for task in options.tasks:
        print(f"{task}: {options.patients} patients", file=sys.stderr)
        # times first: thousands of remembered patients make every garbage collection slower
        figures += steps_a_second(family, task, min(options.patients, 100), 7)
        figures += optimum_times(family, task, options.patients)
        figures += worth_training_on(family, task, options.patients)
    seeds = f"0 to {options.patients - 1} of validation (scores) and train (times)"
    return report("bench.environment", figures, as_json=options.json, seeds=seeds)


if __name__ == "__main__":
    sys.exit(main())
