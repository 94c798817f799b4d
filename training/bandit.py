"""Search a simulated set of drug combinations for the dangerous ones, and keep what was learned.

`python -m training.bandit --config configs/bandit/demo.yaml`; the same command resumes to the bit.
With `--environment polypharmacy` it trains the agent of that family instead (training/pair_bandit.py).
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from configs.loader import ConfigError
from env_server.contract import RoundsError
from training import extras, flags, threads
from training.progress import Interrupted, Progress, lines, stoppable
from training.progress import line as progress_line
from training.run_folder import BadRun, open_run

if TYPE_CHECKING:
    from training.combinations import Combinations, Recipe
    from training.optim_neural_ts import OptimNeuralTS, Search

threads.settle()

MODEL = "model.safetensors"
ABOUT = "model.json"
AGENT_ALONE = ("--task", "--patients", "--validation", "--explore")  # flags of `pair_bandit`


@dataclass(frozen=True, slots=True)
class BanditConfig:
    """One search. The defaults of the method are the authors'."""

    output: str
    """Folder of the run; the model comes to <output>/model.safetensors. The same command resumes it."""
    variant: Literal["paper", "fixed", "soft", "cooccur"] = "paper"
    """Which set: the published simulator's, the same repaired, its later default, or one where drugs must meet."""
    background: Literal["neutral", "protective"] = "neutral"
    """What combinations far from any pattern do: nothing much, or protect."""
    combinations: int = 100_000
    """Rows of the set."""
    drugs: int = 500
    """Columns of the set."""
    patterns: int = 10
    """Dangerous patterns planted in it."""
    set_seed: int | None = None
    """Seeds the set; none is the published one."""
    evaluations: int = 30_000
    """Rows that may be asked about, the warm-up included."""
    warmup: int = 20_000
    """Random rows asked first; their rewards are exact."""
    reward_noise: float = 0.1
    """Sd of the noise on every reward after the warm-up."""
    hidden: int = 128
    """Units of the hidden layer."""
    lam: float = 1.0
    """Where U begins, and the weight decay times the number of rows."""
    nu: float = 1.0
    """How wide Thompson samples are drawn."""
    over: Literal["evolution", "pool"] = "evolution"
    """Where a sample is maximised: a population that evolves, or every row there is."""
    refresh: bool = False
    """Work U out again with the present network after each training."""
    noise_scaled: bool = False
    """Multiply the network's spread by the sd that rewards are seen to have."""
    repeats: bool = True
    """A row may be asked again."""
    rows_a_step: int = 1
    """Rows asked between two looks at the belief."""
    retrain_every: int = 10
    """Steps between two trainings."""
    epochs: int = 100
    """Passes over everything asked, in each training."""
    batch: int = 64
    """Rows of one step of Adam."""
    lr: float = 0.01
    """Adam's rate; a tenth of it after ten epochs without progress."""
    population: int = 32
    """Members of the population that evolves."""
    generations: int = 16
    """Generations of one search."""
    leg: bool = False
    """Put a straight line with its exact posterior beside the network, which then learns the rest."""
    ridge: float = 10.0
    """Precision of the prior of the line's slopes."""
    pairs: int = 0
    """Pairs of drugs, at most, that become features because they stand out."""
    cap: float | None = None
    """Answers above this teach no more than this: danger is sought, not the most of it. None takes them as they are."""
    bold: bool = False
    """Beside a capped belief, a line that takes answers as they are asks too: in proportion to the danger it finds."""
    skip_sure: bool = False
    """Do not ask about rows whose danger is beyond doubt."""
    remember: bool = False
    """Judge a row that was asked by its answer too."""
    precision: float | None = None
    """Flag the largest set of this expected precision; none flags means three spreads above the threshold."""
    ensemble_every: int = 0
    """Keep the union of the flags, taken every so many evaluations after the warm-up; 0 keeps the last alone."""
    report_every: int = 500
    """Evaluations between two lines of metrics.jsonl and two snapshots."""
    seed: int = 0
    """Seeds the draws and the network."""

    def __post_init__(self) -> None:
        positive = (
            "evaluations",
            "warmup",
            "hidden",
            "rows_a_step",
            "retrain_every",
            "report_every",
        )
        sizes = ("combinations", "drugs", "patterns")
        for knob in (*positive, *sizes, "epochs", "batch", "generations"):
            if getattr(self, knob) < 1:
                raise ValueError(f"{knob} is {getattr(self, knob)}; it must be at least 1")
        if self.population < 3:
            raise ValueError(f"population is {self.population}; best/1/bin needs at least 3")
        if self.warmup > self.evaluations:
            raise ValueError(
                f"warmup is {self.warmup}, more than the {self.evaluations} evaluations it is part of"
            )
        if not self.repeats and self.evaluations > self.combinations:
            raise ValueError(
                f"evaluations is {self.evaluations}, but there are {self.combinations} combinations"
                " and repeats is false"
            )
        for knob in ("lam", "lr", "ridge"):
            if not getattr(self, knob) > 0:
                raise ValueError(f"{knob} is {getattr(self, knob)}; it must be above 0")
        for knob in ("reward_noise", "nu", "pairs", "ensemble_every"):
            if not getattr(self, knob) >= 0:
                raise ValueError(f"{knob} is {getattr(self, knob)}; it must be 0 or more")
        if self.precision is not None and not 0 < self.precision < 1:
            raise ValueError(f"precision is {self.precision}; it lies between 0 and 1")
        if self.pairs and not self.leg:
            raise ValueError("pairs are features of the line beside the network; set leg to true")
        if self.cap is not None and not self.cap > 1.1:
            raise ValueError(
                f"cap is {self.cap}; danger begins above 1.1, so the cap lies there too"
            )
        if self.bold and not (self.leg and self.over == "pool"):
            raise ValueError("bold is a second line that asks among all rows; set leg, over pool")

    def recipe(self) -> Recipe:
        from training.combinations import Recipe

        sizes = self.combinations, self.drugs, self.patterns
        return Recipe(self.variant, self.background, *sizes, seed=self.set_seed)

    def search(self) -> Search:
        from training.evolution import Evolution
        from training.fitting import Fit
        from training.optim_neural_ts import Search

        shared = {
            knob: getattr(self, knob)
            for knob in Search.__dataclass_fields__
            if knob in self.__dataclass_fields__
        }
        fit = Fit(self.epochs, self.batch, self.lr, decay=self.lam)
        return Search(**shared, fit=fit, evolution=Evolution(self.population, self.generations))


def train(
    config: BanditConfig, progress: Progress | None = None, stop: threading.Event | None = None
) -> dict[str, Any]:
    """Run or resume the search; returns the last line of metrics.jsonl.

    Raises BadRun, and Interrupted where `stop` (a threading.Event) is set, state saved.
    """
    extras.demand("torch", "safetensors")
    from training.combinations import load
    from training.optim_neural_ts import OptimNeuralTS

    run = open_run(config.output, config)
    data = load(config.recipe())
    search = OptimNeuralTS(data, config.search(), config.seed)
    _restore(search, run)
    _drop_replayed(run, len(search.rows))
    began = time.monotonic()
    while len(search.rows) < config.evaluations:
        before = len(search.rows)
        search.advance(config.evaluations)
        _gather(config, search, before)
        if _due(config, search, before):
            line = _report(run, config, data, search, time.monotonic() - began)
            if progress:
                progress("ask", len(search.rows), config.evaluations, line)
        if stop is not None and stop.is_set() and len(search.rows) < config.evaluations:
            _keep(search, run)
            raise Interrupted(
                f"stopped after {len(search.rows)} of {config.evaluations} evaluations, state in"
                f" {run / 'state.safetensors'}; the same command goes on from there"
            )
    _finish(run, config, data, search)
    return lines(run / "metrics.jsonl")[-1]


def _due(config: BanditConfig, search: OptimNeuralTS, before: int) -> bool:
    asked = len(search.rows)
    every = config.report_every
    return asked // every > before // every or asked >= config.evaluations


def _gather(config: BanditConfig, search: OptimNeuralTS, before: int) -> None:
    """Add the present flags to the union, where the union is kept."""
    every = config.ensemble_every
    beyond_warmup = len(search.rows) - config.warmup, max(before - config.warmup, -1)
    if every and (before == 0 or beyond_warmup[0] // every > beyond_warmup[1] // every):
        search.union |= search.flags()


def _report(
    run: Path, config: BanditConfig, data: Combinations, search: OptimNeuralTS, seconds: float
) -> dict[str, Any]:
    """One line of metrics.jsonl, one snapshot of the belief, and the state to resume from."""
    from eval import neural_ts
    from training.flagging import judged

    found = search.union | search.flags() if config.ensemble_every else search.flags()
    figures = judged(data, found, search.rows)
    plain = {k: None if math.isnan(v) else v for k, v in figures.items()}
    line = {"evaluations": len(search.rows), "seconds": round(seconds, 2), **plain}
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as journal:
        journal.write(json.dumps(line) + "\n")
    snapshots = run / "snapshots"
    snapshots.mkdir(exist_ok=True)
    neural_ts.save(search.model, snapshots / f"{len(search.rows)}.safetensors")
    _keep(search, run)
    return {k: v for k, v in figures.items() if not math.isnan(v)}


def _keep(search: OptimNeuralTS, run: Path) -> None:
    from safetensors.numpy import save_file

    arrays, rest = search.state()
    half = run / "state.part"
    save_file(arrays, half, metadata={"rest": rest})
    half.replace(run / "state.safetensors")


def _restore(search: OptimNeuralTS, run: Path) -> None:
    from safetensors import SafetensorError, safe_open

    path = run / "state.safetensors"
    if not path.is_file():
        return
    try:
        with safe_open(path, framework="numpy") as kept:
            names = list(kept.keys())
            search.restore({n: kept.get_tensor(n) for n in names}, kept.metadata()["rest"])
    except (SafetensorError, KeyError, TypeError) as wrong:
        raise BadRun(
            f"{path} cannot be read ({wrong}); delete it to begin again, or choose another --output"
        ) from wrong


def _drop_replayed(run: Path, asked: int) -> None:
    """Lines of evaluations that will be made again are dropped first."""

    path = run / "metrics.jsonl"
    kept = [line for line in lines(path) if line["evaluations"] <= asked]
    path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def _finish(run: Path, config: BanditConfig, data: Combinations, search: OptimNeuralTS) -> None:
    """The model by its own name, and beside it what it is and how good."""
    from eval import neural_ts
    from training.combinations import THRESHOLD

    neural_ts.save(search.model, run / MODEL)
    about = {
        "kind": "combinations",
        "set": data.recipe.name,
        "drugs": config.drugs,
        "threshold": THRESHOLD,
        "evaluations": len(search.rows),
        "metrics": lines(run / "metrics.jsonl"),
    }
    (run / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    asked = list(sys.argv[1:] if argv is None else argv)
    if any(part.split("=")[0] == "--environment" for part in asked):
        from training import pair_bandit

        return pair_bandit.main(asked)
    parser = flags.parser(
        BanditConfig,
        "python -m training.bandit",
        "Search a simulated set of drug combinations for the dangerous ones by neural Thompson sampling;"
        " with --environment polypharmacy [--task TASK], train the agent of that family instead.",
        config="configs/bandit/demo.yaml",
    )
    given, unknown = parser.parse_known_args(asked)
    if unknown:
        agent = any(word.split("=")[0] in AGENT_ALONE for word in unknown)
        hint = "; the agent's flags go with --environment polypharmacy" if agent else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    try:
        config = flags.resolve(BanditConfig, given)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    try:
        with progress_line() as shown, stoppable(threading.Event()) as stop:
            line = train(config, shown, stop)
    except RoundsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 130
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
