"""Whether target validation is worth training on: margins, curated cases, calibration, optimality, speed.

`python -m bench.drug_target` plays every agent on test cases of all four tiers. Scores are the proper
return in units of skill (0: saying nothing, 1: certain and right at no cost), intervals are 95 % over cases.
Times are CPU seconds of one process, so that a busy machine counts less.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from statistics import NormalDist, mean, median, stdev
from typing import Any, cast

import numpy as np

from bench import small_problems
from bench.promise import Figure, report
from env_server import registry
from env_server.contract import Family
from env_server.envs.drug_target.actions import ASSAYS, ORDERS, DrugTargetAction
from env_server.envs.drug_target.belief import Belief, likelihoods, of_row, opening
from env_server.envs.drug_target.episode import ValidationEpisode
from env_server.envs.drug_target.planner import (
    STEP_COST,
    Offer,
    choose,
)
from env_server.envs.drug_target.tasks import VALIDATIONS
from env_server.seeds import Stream

TASKS = tuple(VALIDATIONS)
NULL = -STEP_COST  # one half, reported after no evidence and not charged for it
CANARIES = ("null", "always_go", "never_sure", "spam_flags", "buy_all", "lookup_certain")
PLAYERS = (
    "random",
    "heuristic",
    "buy_all_bayes",
    "voi_ratio",
    "voi_binned",
    "reference",
    "voi_informed",
    "oracle_report",
    "oracle",
    *CANARIES,
)
JUDGED = ("random", "heuristic", "reference", "oracle_report", "oracle", *CANARIES)


@dataclass(frozen=True, slots=True)
class Told:
    """What one finished validation is remembered by."""

    proper: float
    correct: bool
    brier: float
    spent: int
    score: float


@cache
def play(agent: str, task: str, seed: int, split: str, rubric: str = "proper_sparse") -> Told:
    """One case from first look to report. Sparse rubric: it grades like the dense one."""
    family = registry.get("drug_target")
    episode = cast(Any, family).begin(task, seed, split, rubric=rubric)
    player = family.agents[agent].make(episode)
    while not episode.done:
        episode.step(player.act(episode.observe(), episode.legal_actions))
    books = episode.books()
    filed = books.report
    p = filed.p_go if filed else 0.5
    from env_server.envs.drug_target import rubrics

    right = "go" if books.go else "no_go"
    return Told(
        rubrics.proper(books),
        bool(filed and filed.decision == right),
        (p - float(books.go)) ** 2,
        books.spent,
        episode.score(),
    )


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) of a normal 95 % interval."""
    half = 1.96 * stdev(values) / len(values) ** 0.5
    middle = mean(values)
    return middle, middle - half, middle + half


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    from scipy.stats import binomtest

    low, high = binomtest(hits, n).proportion_ci(method="wilson")
    return float(low), float(high)


def margins(task: str, cases: int, players: Sequence[str] = PLAYERS) -> list[Figure]:
    """Means of every agent, and the paired differences that the order of agents is judged by."""
    told = {a: [play(a, task, seed, "test") for seed in range(cases)] for a in players}
    proper = {a: [t.proper for t in told[a]] for a in players}
    figures = []
    for agent in players:
        middle, low, high = interval(proper[agent])
        bound = ("most", NULL) if agent in CANARIES or agent == "random" else (None, None)
        figures.append(
            Figure(f"{task}: {agent}", middle, "skill", cases, *bound, low, high)  # type: ignore[arg-type]
        )
        accuracy = mean(t.correct for t in told[agent])
        if agent not in CANARIES:
            figures += [
                Figure(f"{task}: {agent}, right", accuracy, "share", cases),
                Figure(f"{task}: {agent}, Brier", mean(t.brier for t in told[agent]), "", cases),
                Figure(
                    f"{task}: {agent}, spent", mean(t.spent for t in told[agent]), "credits", cases
                ),
            ]
    for lower, higher, least in (
        ("random", "heuristic", 0.0),
        ("heuristic", "reference", 0.2),
        ("reference", "oracle_report", 0.0),
        ("reference", "oracle", 0.0),
    ):
        gaps = [b - a for a, b in zip(proper[lower], proper[higher], strict=True)]
        middle, low, high = interval(gaps)
        figures.append(
            Figure(
                f"{task}: {higher} less {lower}", middle, "skill", cases, "least", least, low, high
            )
        )
    return figures


def over_tiers(cases: int) -> list[Figure]:
    """The heuristic beats saying nothing, on the mean over tiers; the reference by far."""
    found = []
    for agent, least in (("heuristic", NULL), ("reference", 0.4)):
        tiers = [[play(agent, t, s, "test").proper for s in range(cases)] for t in TASKS]
        means = [mean(t) for t in tiers]
        half = 1.96 * sum(stdev(t) ** 2 / len(t) for t in tiers) ** 0.5 / len(tiers)
        middle = mean(means)
        name = f"mean over tiers: {agent}"
        found.append(
            Figure(name, middle, "skill", cases, "least", least, middle - half, middle + half)
        )
    return found


def judged_by_interval(figures: Sequence[Figure]) -> list[Figure]:
    """So few cases prove a promise broken only where the whole interval is beyond it."""
    return [replace(f, sampled=f.low is not None) for f in figures]


def curated(family: Family, seeds: int) -> list[Figure]:
    """How often each curated case is decided rightly, over noise seeds."""
    figures = []
    names = {
        "egfr_nsclc_viable": "target_easy",
        "kras_pdac_borderline": "target_medium",
        "tp53_solid_tumors_clear_fail": "target_medium",
        "cd33_aml_misleading": "target_hard",
        "ptpn11_juvenile_mml_complex": "target_very_hard",
    }
    for scenario, task in names.items():
        for agent in ("heuristic", "buy_all_bayes", "reference"):
            right, asked = 0, 0
            for seed in range(seeds):
                episode = cast(Any, family).begin(
                    task, seed, "curated", scenario=scenario, rubric="proper_sparse"
                )
                player = family.agents[agent].make(episode)
                while not episode.done:
                    episode.step(player.act(episode.observe(), episode.legal_actions))
                right += (
                    episode.report is not None and episode.report.decision == episode.case.decision
                )
                asked += "binding_site_allosteric" in episode.seen
            low, high = wilson(right, seeds)
            figure = Figure(
                f"{scenario}: {agent}, right", right / seeds, "share", seeds, low=low, high=high
            )
            judged = agent == "reference"
            figures.append(replace(figure, at="least", bound=0.8) if judged else figure)
            if scenario.startswith("ptpn11") and agent == "reference":
                name = f"{scenario}: {agent} asks for the allosteric site"
                figures.append(Figure(name, asked / seeds, "share", seeds))
    return figures


def calibration(family: Family, episodes: int) -> list[Figure]:
    """Stated P(go) of the exact posterior on random evidence against how often go is right, by tenth."""
    stated, true = [], []
    for seed in range(episodes):
        task = TASKS[seed % len(TASKS)]
        episode = cast(Any, family).begin(task, seed, "test", rubric="proper_sparse")
        draws = Stream("bench drug_target calibration", seed)
        for action in draws.sample(ORDERS, draws.between(1, 9)):
            if action in episode.legal_actions():
                episode.step(action)
        stated.append(episode.books().posterior)
        true.append(episode.case.decision == "go")
    p, y = np.array(stated), np.array(true, dtype=float)
    tenths, figures = [], []
    for low, high in pairwise(np.linspace(0, 1, 11)):
        inside = (p >= low) & ((p < high) | (high == 1))
        gap = float(y[inside].mean() - p[inside].mean())
        # what chance alone makes of a perfectly calibrated tenth
        chance = float(1.96 * (p[inside] * (1 - p[inside])).sum() ** 0.5 / inside.sum())
        tenths.append((abs(gap), chance))
        name = f"calibration {low:.1f}-{high:.1f}: true less stated"
        figures.append(Figure(name, gap, "share", int(inside.sum()), None, None, -chance, chance))
    # ten are looked at: an interval of the worst is one for all ten at once (Bonferroni)
    wider = NormalDist().inv_cdf(1 - 0.025 / len(tenths)) / 1.96
    worst, low = max(g for g, _ in tenths), max(g - wider * c for g, c in tenths)
    high = max(g + wider * c for g, c in tenths)
    name = "calibration: worst tenth"
    return [Figure(name, worst, "share", episodes, "most", 0.03, max(low, 0.0), high), *figures]


def telescoping(family: Family, episodes: int) -> list[Figure]:
    """The largest distance between an episode's return and its score under dense rewards."""
    worst = 0.0
    for seed in range(episodes):
        episode = family.begin(TASKS[seed % len(TASKS)], seed, "test")
        draws, earned = Stream("bench drug_target telescoping", seed), 0.0
        while not episode.done:
            earned += episode.step(draws.choice(episode.legal_actions())).reward
        worst = max(worst, abs(earned - episode.score()))
    return [Figure("return less score, largest", worst, "score", episodes, "most", 1e-12)]


# -- speed ------------------------------------------------------------------------------------


def speed(family: Family, episodes: int) -> list[Figure]:
    """CPU time of a filter update with its P(go), of a planner decision, and of steps."""
    belief = opening("small_molecule")
    readings = [v.readings for a in ASSAYS.values() for v in a.variants if v.readings]
    offers = [Offer(v, a.cost) for a in ASSAYS.values() for v in a.variants if v.readings]
    choose(belief, offers, 32)
    n, update = _update_ms(belief, [r for channels in readings for r in channels])
    started = time.process_time()
    for _ in range(100):
        choose(belief, offers, 32)
    decision = 10 * (time.process_time() - started)
    figures = [
        Figure("filter update with P(go), sides alternating", update, "ms", n, "most", 1.0),
        Figure("planner decision over all variants", decision, "ms", 100, "most", 60.0),
    ]
    for rubric in ("proper_dense", "proper_sparse", "seed"):
        rates, steps = steps_a_second(family, rubric, episodes)
        name, ends = f"steps a second, {rubric}", (min(rates), max(rates))
        figures.append(Figure(name, median(rates), "1/s", steps, "least", 10_000.0, *ends))
    return figures


def _update_ms(belief: Belief, readings: Sequence[Any]) -> tuple[int, float]:
    """Rows and columns in turn: no product of the last update can be used again, which is the worst case."""
    rows = [r for r in readings if of_row(r.factor)]
    columns = [r for r in readings if not of_row(r.factor) and r.factor != "decision"]
    for reading in (*rows, *columns):
        likelihoods(reading, "small_molecule")
    started, n = time.process_time(), 0
    for _ in range(40):
        now = belief
        for pair in zip(rows, columns, strict=False):
            for reading in pair:
                now = now.after([(reading, 1)])
                now.p_go  # noqa: B018
                n += 1
    return n, 1e3 * (time.process_time() - started) / n


def steps_a_second(
    family: Family, rubric: str, episodes: int, rounds: int = 5
) -> tuple[list[float], int]:
    """(steps with observations a CPU second of random play, each round; steps a round)."""
    plays: list[tuple[str, int, list[DrugTargetAction]]] = []
    for seed in range(episodes):
        task = TASKS[seed % len(TASKS)]
        episode = cast(ValidationEpisode, family.begin(task, seed, "train"))
        draws = Stream("bench drug_target speed", seed)
        moves: list[DrugTargetAction] = []
        while not episode.done:
            open_ = cast(Sequence[DrugTargetAction], episode.legal_actions())
            # reports end an episode at once: leave them for the last of ten steps
            assays = [a for a in open_ if a.variant] if len(moves) < 9 else []
            moves.append(draws.choice(assays or open_[-10:]))
            episode.step(moves[-1])
        plays.append((task, seed, moves))
    steps = sum(len(moves) for _, _, moves in plays)
    rates = []
    for _ in range(rounds):
        begun = [cast(Any, family).begin(t, s, "train", rubric=rubric) for t, s, _ in plays]
        started = time.process_time()
        for episode, (_, _, moves) in zip(begun, plays, strict=True):
            for move in moves:
                episode.step(move).observation  # noqa: B018
        rates.append(steps / (time.process_time() - started))
    return rates, steps


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything."""

    cases: int = 300  # a tier
    curated: int = 60  # noise seeds of a curated case
    episodes: int = 24_000  # of the calibration
    timed: int = 200
    players: tuple[str, ...] = PLAYERS


FULL, QUICK = Size(), Size(cases=80, curated=12, episodes=6_000, timed=40, players=JUDGED)


def measure(size: Size) -> list[Figure]:
    family = registry.get("drug_target")
    figures = speed(family, size.timed)
    for task in TASKS:
        print(f"{task}: {size.cases} cases", file=sys.stderr)
        figures += margins(task, size.cases, size.players)
    figures += over_tiers(size.cases)
    print("curated cases, calibration, small problems", file=sys.stderr)
    figures += curated(family, size.curated)
    figures += calibration(family, size.episodes)
    figures += telescoping(family, max(size.episodes // 20, 20))
    return figures + small_problems.figures()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.drug_target", description=__doc__)
    add = parser.add_argument
    add("--cases", type=int, help=f"test cases a tier (default: {FULL.cases})")
    add("--curated", type=int, help=f"noise seeds of a curated case (default: {FULL.curated})")
    add("--episodes", type=int, help=f"episodes of the calibration (default: {FULL.episodes})")
    add(
        "--quick",
        action="store_true",
        help="a quarter of everything; a promise is then broken by the whole interval alone",
    )
    add("--json", action="store_true", help="print JSON with the machine")
    options = parser.parse_args(argv)
    asked = {name: getattr(options, name) for name in ("cases", "curated", "episodes")}
    chosen = {name: n for name, n in asked.items() if n is not None}
    size = replace(QUICK if options.quick else FULL, **chosen)
    figures = measure(size)
    if options.quick:
        figures = judged_by_interval(figures)
    said = f"0 to {size.cases - 1} of test (scores), 0 to {size.curated - 1} of curated"
    return report("bench.drug_target", figures, as_json=options.json, seeds=said)


if __name__ == "__main__":
    sys.exit(main())
