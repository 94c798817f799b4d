"""How many dangerous combinations each method finds, at what precision, for how many evaluations.

`python -m bench.bandit` runs every method on four sets and keeps bench/results/bandit.json;
`--quick` is one seed of the cheap ones. Published rows are quoted, and say so.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from bench.promise import Figure, machine, report
from configs.loader import load as load_config
from training.bandit import BanditConfig
from training.combinations import Combinations, Recipe, load
from training.flagging import Flags, judged
from training.optim_neural_ts import OptimNeuralTS, Search
from training.plain_screens import Screened, marginal, remembered, ridge_line, ridge_search

SETS = {
    "neutral": Recipe("paper", "neutral"),
    "protective": Recipe("paper", "protective"),
    "cooccur": Recipe("cooccur", "neutral"),
    "cooccur protective": Recipe("cooccur", "protective"),
}
# rows of the paper (arXiv 2212.05190), as it prints them: never measured here
PUBLISHED = (
    "published: warm-up 20 000 + 10 000 | 30 000 | neutral .068 (529 true, 5 false) | protective .330 (688 true, 1 false)",
    "published: warm-up 10 000 + 20 000 | 30 000 | neutral .105 @ .976 | protective .723 @ .999",
)
Method = Callable[[Combinations, int, int], Screened]


@dataclass(frozen=True, slots=True)
class Row:
    """A method with its budget, and how many seeds it is worth."""

    name: str
    budget: int
    seeds: int
    run: Method
    quick: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """One method on one set; sd is None for one seed, precision where nothing was flagged."""

    method: str
    evaluations: int
    set: str
    n: int
    recall: float
    recall_sd: float | None
    precision: float | None
    precision_sd: float | None
    never_asked: float | None
    patterns: float
    seconds: float


def plain(method: Callable[[Combinations, int, np.random.Generator], Screened]) -> Method:
    return lambda data, budget, seed: method(data, budget, np.random.default_rng(seed))


def searched(config: str, **changes: object) -> Method:
    """A search by a file of configs/bandit, with some of its knobs changed."""
    settings = load_config(f"configs/bandit/{config}.yaml", BanditConfig)
    settings = replace(settings, **changes)  # type: ignore[arg-type]

    def run(data: Combinations, budget: int, seed: int) -> Screened:
        return search(data, settings.search(), budget, seed, settings.ensemble_every)

    return run


def search(
    data: Combinations, knobs: Search, budget: int, seed: int, ensemble_every: int
) -> Screened:
    """Play a search out; flags are the union over snapshots where the method keeps one."""
    found = OptimNeuralTS(data, knobs, seed)
    union: Flags = np.zeros(len(data.risk), bool)
    taken = 0
    while len(found.rows) < budget:
        found.advance(budget)
        due = (len(found.rows) - knobs.warmup) // ensemble_every + 1 if ensemble_every else 0
        if due > taken:
            union, taken = union | found.flags(), due
    return union | found.flags(), found.rows


def rows() -> list[Row]:
    """Every method, cheap ones first. The paper's search is a tenth of its length and trained less often."""
    pool = {"repeats": False, "over": "pool", "refresh": True, "noise_scaled": True}
    return [
        Row("remember what was sampled", 30_000, 3, plain(remembered), quick=True),
        Row("ridge, mean - 3 sd", 3_000, 3, plain(ridge_line), quick=True),
        Row("one-drug marginal screen", 1_000, 3, plain(marginal), quick=True),
        Row("ridge, active search, exact rewards", 10_000, 2, plain(ridge_search)),
        Row(
            "ridge, active search, exact rewards capped at 1.3",
            10_000,
            2,
            plain(partial(ridge_search, cap=1.3)),
        ),
        Row(
            "paper, a tenth: warm-up 2 000 + 1 000, retrained every 50",
            3_000,
            1,
            searched("paper", warmup=2_000, retrain_every=50),
        ),
        Row("best", 10_000, 3, searched("best")),
        Row("best, exact rewards", 10_000, 1, searched("best", reward_noise=0.0)),
        Row("best, asked for precision .999", 10_000, 3, searched("best", precision=0.999)),
        Row("best, answers as they are", 10_000, 2, searched("best", cap=None, bold=False)),
        Row("best, no bold line", 10_000, 1, searched("best", bold=False)),
        Row("best without pairs", 10_000, 1, searched("best", pairs=0)),
        Row(
            "best, network alone",
            10_000,
            1,
            searched("best", leg=False, pairs=0, bold=False, **pool),
        ),
        Row("best, U never refreshed", 10_000, 1, searched("best", refresh=False)),
        Row("best, spread not scaled by noise", 10_000, 1, searched("best", noise_scaled=False)),
        Row("best, rows asked again", 10_000, 1, searched("best", repeats=True)),
        Row("best, 250 rows a step", 10_000, 1, searched("best", rows_a_step=250)),
        Row(
            "best, evolution instead of the pool",
            2_500,
            1,
            searched("best", over="evolution", rows_a_step=1, retrain_every=100, bold=False),
        ),
    ]


def measure(row: Row, name: str, data: Combinations, seeds: int) -> Result:
    begun = time.process_time()
    figures = []
    for seed in range(seeds):
        flags, asked = row.run(data, row.budget, seed)
        figures.append(judged(data, flags, asked))
    spent = (time.process_time() - begun) / seeds
    precision = [f["precision"] for f in figures if f["flagged"]]
    never = [f["never_asked"] for f in figures if f["flagged"]]
    recall = [f["recall"] for f in figures]
    return Result(
        row.name,
        row.budget,
        name,
        seeds,
        round(mean(recall), 4),
        round(stdev(recall), 4) if seeds > 1 else None,
        round(mean(precision), 4) if precision else None,
        round(stdev(precision), 4) if len(precision) > 1 else None,
        round(mean(never), 4) if never else None,
        mean(f["patterns"] for f in figures),
        round(spent, 1),
    )


def shown(result: Result) -> str:
    def of(value: float | None, sd: float | None) -> str:
        if value is None:
            return "-"
        return f"{value:.3f}" + (f" ± {sd:.3f}" if sd is not None else "")

    return (
        f"| {result.method} | {result.evaluations} | {result.set} | {result.n} |"
        f" {of(result.recall, result.recall_sd)} | {of(result.precision, result.precision_sd)} |"
        f" {of(result.never_asked, None)} | {result.patterns:.1f} | {result.seconds:.0f} |"
    )


# what "best" must reach with its 10 000 evaluations, where one drug decides
PROMISED = {("best", "protective"): {"recall": 0.95, "precision": 0.999}}


def figures(results: Sequence[Result]) -> list[Figure]:
    """Recall and precision of each; n is seeds."""
    found = []
    for r in results:
        for what, value in (("recall", r.recall), ("precision", r.precision)):
            if value is None:
                continue
            bound = PROMISED.get((r.method, r.set), {}).get(what)
            name = f"{r.set}: {r.method}, {r.evaluations} evaluations: {what}"
            found.append(Figure(name, value, "share", r.n, "least" if bound else None, bound))
    return found


HEAD = (
    "| method | evaluations | set | n | recall | precision | never asked | patterns | CPU s |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.bandit", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one seed, nothing kept; the cheap methods, or those of --methods",
    )
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="WORDS",
        help="only rows whose name, with a full stop, has one",
    )
    parser.add_argument("--seeds", type=int, help="seeds of every row (default: each row's own)")
    parser.add_argument("--out", default="bench/results/bandit.json", help="where results are kept")
    parser.add_argument("--kept", action="store_true", help="print what is kept, run nothing")
    parser.add_argument("--json", action="store_true", help="print JSON with the machine, no table")
    options = parser.parse_args(argv)
    table = (lambda words: None) if options.json else partial(print, flush=True)
    if options.kept:
        table(kept(Path(options.out)))
        results = known(Path(options.out))
    else:
        table(HEAD)
        results = measured(options, table)
        table("\n".join(f"| {quoted} |" for quoted in PUBLISHED))
    if not options.json:
        return 0
    seeds = "0 up, as many as n says"
    return report("bench.bandit", figures(results), as_json=True, seeds=seeds)


def measured(options: argparse.Namespace, table: Callable[[str], None]) -> list[Result]:
    """Run what was asked for; every result is told as soon as it is there, and kept if not quick."""
    if options.methods:
        chosen = [r for r in rows() if any(words in f"{r.name}." for words in options.methods)]
    else:
        chosen = [r for r in rows() if r.quick or not options.quick]
    results = []
    for row in chosen:
        for name in options.sets:
            seeds = options.seeds or (1 if options.quick else row.seeds)
            results.append(measure(row, name, load(SETS[name]), seeds))
            table(shown(results[-1]))
            if not options.quick:
                keep(Path(options.out), results[-1])
    return results


def known(path: Path) -> list[Result]:
    """The results in `path`, methods in the order of `rows`."""
    results = [Result(**r) for r in json.loads(path.read_text("utf-8"))["results"]]
    order = [row.name for row in rows()]
    return sorted(results, key=lambda r: (order.index(r.method), list(SETS).index(r.set)))


def kept(path: Path) -> str:
    """The table of the results in `path`."""
    return "\n".join([HEAD, *map(shown, known(path))])


def keep(path: Path, result: Result) -> None:
    """Put one result among those kept, in place of an older one of its method and set."""
    body = json.loads(path.read_text("utf-8")) if path.is_file() else {"results": []}
    mine = (result.method, result.set)
    others = [r for r in body["results"] if (r["method"], r["set"]) != mine]
    body = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "command": "python -m bench.bandit",
        "results": [*others, asdict(result)],
    }
    path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
