"""The bandit agent of the polypharmacy family: learn from train patients which pairs are risky and which changes pay.

`python -m training.bandit --environment polypharmacy --task review_budgeted`; stopped, the same command goes on and
ends with the same bits. Only what was asked or done is learned from. The player itself is eval/pair_risk.py; what
is sure enough is chosen on validation patients.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import fmean

import numpy as np

from configs.loader import ConfigError
from env_server import registry
from env_server.contract import Action, AgentCard, Episode, Family, JsonObject, RoundsError
from eval.episode import play
from eval.neural_ts import Floats, Leg, Neural, NeuralTS, Weights
from eval.pair_risk import (
    ABOUT,
    Look,
    Manner,
    PairRisk,
    Reviewer,
    Row,
    answer,
    change_row,
    matrix,
    named,
    pair_row,
    save,
)
from training import flags
from training.fitting import Fit, fit
from training.progress import Interrupted, Progress, line, lines, stoppable
from training.run_folder import BadRun, open_run

HEARD = "heard.jsonl"  # a line a patient while the run lasts: what it taught, and the dice after it


@dataclass(frozen=True, slots=True)
class PairBanditConfig:
    """One bandit for one task."""

    environment: str = "polypharmacy"
    """The family that is played; only polypharmacy has pairs of drugs."""
    task: str = "review_easy"
    """The task whose train patients are played."""
    output: str | None = None
    """Folder of the run; none means runs/bandit/<task>. A finished run is left as it is."""
    patients: int = 4000
    """Train patients to play, seeds from 0."""
    validation: int = 150
    """Validation patients on which it is settled how sure is sure."""
    hidden: int = 64
    """Units of each network's hidden layer."""
    epochs: int = 20
    """Passes over everything heard, in each training."""
    explore: float = 0.3
    """Share of the changes in training that are drawn at random."""
    seed: int = 0
    """Seeds exploration and the networks."""

    def __post_init__(self) -> None:
        for knob in ("patients", "validation", "hidden", "epochs"):
            if getattr(self, knob) < 1:
                raise ValueError(f"{knob} is {getattr(self, knob)}; it must be at least 1")
        if self.environment != "polypharmacy":
            raise ValueError(
                f"environment is {self.environment!r}; only polypharmacy has pairs of drugs to ask about"
            )
        if not 0 <= self.explore <= 1:
            raise ValueError(f"explore is {self.explore}; it lies in 0..1")

    @property
    def folder(self) -> Path:
        return Path(self.output or f"runs/bandit/{self.task}")


@dataclass(slots=True)
class Heard:
    """What train patients have taught: rows and rewards of both kinds."""

    pairs: list[Row] = field(default_factory=list)
    risks: list[float] = field(default_factory=list)
    changes: list[Row] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    known: dict[tuple[str, str], float] = field(default_factory=dict)

    def add(self, taught: JsonObject) -> None:
        """What one patient taught, as `_explore` tells it."""
        for row, first, second, risk in taught["asked"]:
            self.pairs.append(row)
            self.risks.append(risk)
            self.known[first, second] = risk
        for row, gain in taught["changed"]:
            self.changes.append(row)
            self.gains.append(gain)


def train(
    config: PairBanditConfig,
    progress: Progress | None = None,
    asked: threading.Event | None = None,
) -> Path:
    """Play, learn and settle the manner; returns the folder, with what was trained on in seeds.json.

    Goes on after the last patient that a stopped run has played, with the same dice, so that it ends with
    the same bits. Raises BadRun, RoundsError, and Interrupted once `asked` is set.
    """
    registry.task(registry.get(config.environment), config.task)  # a wrong name ends here
    run = open_run(config.folder, config)
    if (run / ABOUT).is_file():
        return run
    family = registry.get(config.environment)
    with stoppable(asked or threading.Event()) as stop:
        model = _learned(run, family, config, progress, stop)
        model.manner, score = settle(family, model, config, progress, stop)
    _finish(run, family, config, model, score)
    return run


def _learned(
    run: Path,
    family: Family,
    config: PairBanditConfig,
    progress: Progress | None,
    stop: threading.Event,
) -> PairRisk:
    """The belief after every train patient, those of a stopped run read back from its journal."""
    before, rng = _journal(run), np.random.default_rng(config.seed)
    if before:
        rng.bit_generator.state = before[-1]["dice"]
    (run / "metrics.jsonl").unlink(missing_ok=True)  # told again while the journal is read
    relearn = {config.patients // 2**k for k in range(6)}
    latest = max((n for n in relearn if n <= len(before)), default=0)
    heard, model = Heard(), None
    with (run / HEARD).open("a", encoding="utf-8") as journal:
        for seed in range(config.patients):
            if seed < len(before):
                taught = before[seed]
            else:
                taught = _explore(family.begin(config.task, seed, "train"), model, config, rng)
                dice = {"dice": rng.bit_generator.state}
                journal.write(json.dumps({**taught, **dice}) + "\n")
            heard.add(taught)
            if seed + 1 in relearn:
                _note(run, seed + 1, heard)
                # beliefs that a later one has replaced are not needed again
                model = learn(heard, config) if seed + 1 >= latest else None
            _tell(progress, stop, "play", seed + 1, config.patients)
    if model is None or not heard.gains:
        raise BadRun(f"{config.patients} patients taught nothing; raise --patients")
    return model


def _journal(run: Path) -> list[JsonObject]:
    """What the patients of a stopped run taught, in order; a line cut short is dropped from the file too."""
    path = run / HEARD
    told = lines(path)
    half = path.with_suffix(".part")
    half.write_text("".join(json.dumps(patient) + "\n" for patient in told), encoding="utf-8")
    half.replace(path)
    return told


def _tell(progress: Progress | None, stop: threading.Event, stage: str, done: int, of: int) -> None:
    """How far it is; ends here where that was asked for."""
    if progress:
        progress(stage, done, of, {})
    if stop.is_set():
        raise Interrupted(
            f"stopped at {stage} {done} of {of}; the same command goes on after the last patient played"
        )


def _finish(
    run: Path, family: Family, config: PairBanditConfig, model: PairRisk, score: float
) -> None:
    """Who was learned from, then the model, whose presence says that the run is over."""
    trained = {
        "family": config.environment,
        "task": config.task,
        "split": "train",
        "seed_from": 0,
        "seed_to": config.patients,
    }
    settled = {**trained, "split": "validation", "seed_to": config.validation}
    seeds = {"trained_on": [trained, settled]}
    (run / "seeds.json").write_text(json.dumps(seeds, indent=1) + "\n", encoding="utf-8")
    about: JsonObject = {
        "kind": "pairs",
        "task": config.task,
        "version": family.version,
        "validation_score": score,
        "patients": config.patients,
    }
    save(model, run, about)
    (run / HEARD).unlink()


def _note(run: Path, patients: int, heard: Heard) -> None:
    told = {
        "patients": patients,
        "queries": len(heard.risks),
        "pairs": len(heard.known),
        "changes": len(heard.gains),
        "gain": fmean(heard.gains[-500:]) if heard.gains else 0.0,
    }
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as journal:
        journal.write(json.dumps(told) + "\n")


def _explore(
    episode: Episode,
    model: PairRisk | None,
    config: PairBanditConfig,
    rng: np.random.Generator,
) -> JsonObject:
    """One train patient: ask a random number of times, then change all that may be changed.

    Returns `asked`, [row, drug, drug, risk] each, and `changed`, [row, gain] each, ready for JSON.
    """
    asked, changed = [], []
    seen = episode.observe().to_json()
    for _ in range(int(rng.integers(seen["remaining_query_budget"] + 1))):
        asks = _forms(episode, "query_ddi")
        if not asks or episode.done:
            break
        look = {m["drug_id"]: m for m in episode.observe().to_json()["current_medications"]}
        pairs = [(look[t["drug_id_1"]], look[t["drug_id_2"]]) for _, t in asks]
        risks = rng.random(len(pairs)) if model is None else model.pair_risk(pairs, rng)
        at = int(np.argmax(risks))
        told = episode.step(asks[at][0]).observation.to_json()["interaction_queries"][-1]
        asked.append([pair_row(*pairs[at]), *named(*pairs[at]), answer(told)])
    while not episode.done and (changes := _forms(episode, "propose_intervention")):
        look_now = Look.at(episode.observe().to_json(), model)
        rows = [change_row(look_now, told, model) for _, told in changes]
        at = _pick(rows, changes, model, config, rng)
        step = episode.step(changes[at][0])
        changed.append([rows[at], step.parts.get("regimen", 0.0)])
    return {"asked": asked, "changed": changed}


def _pick(
    rows: Sequence[Row],
    changes: Sequence[tuple[Action, JsonObject]],
    model: PairRisk | None,
    config: PairBanditConfig,
    rng: np.random.Generator,
) -> int:
    """The change whose sampled gain is highest; some at random, each kind as often."""
    if model is None or rng.random() < config.explore:
        kinds = sorted({told["intervention_type"] for _, told in changes})
        kind = kinds[rng.integers(len(kinds))]
        return int(
            rng.choice([i for i, (_, t) in enumerate(changes) if t["intervention_type"] == kind])
        )
    features = matrix(rows, model.gain_columns)
    return int(model.gain.sample(features, rng, nu=1.0, noise_scaled=True).argmax())


def _forms(episode: Episode, form: str) -> list[tuple[Action, JsonObject]]:
    told = [(action, action.to_json()) for action in episode.legal_actions()]
    return [(action, body) for action, body in told if body["action_type"] == form]


def learn(heard: Heard, config: PairBanditConfig) -> PairRisk:
    """Both beliefs from everything heard so far."""
    rng = np.random.default_rng((config.seed, len(heard.risks)))
    risk_columns, gain_columns = _columns(heard.pairs), _columns(heard.changes)
    risk = _belief(heard.pairs, heard.risks, risk_columns, config, rng)
    gain = _belief(heard.changes, heard.gains, gain_columns, config, rng)
    return PairRisk(risk, gain, risk_columns, gain_columns, dict(heard.known), Manner())


def _columns(rows: Sequence[Row]) -> dict[str, int]:
    return {name: at for at, name in enumerate(sorted({name for row in rows for name in row}))}


def _belief(
    rows: Sequence[Row],
    rewards: Sequence[float],
    columns: dict[str, int],
    config: PairBanditConfig,
    rng: np.random.Generator,
    scatter: float = 0.05,
) -> NeuralTS:
    """A straight line with its posterior, and a network that learns what it leaves."""
    features = matrix(rows, columns)
    values: Floats = np.array(rewards, dtype=np.float32)
    weight = np.full(len(values), 1 / scatter**2)
    leg = Leg.fitted(features, values, weight, ridge=20.0)
    left = (values - leg(features)).astype(np.float32)
    neural = Neural.fresh(Weights.drawn(len(columns), config.hidden, rng), lam=1.0)
    fit(neural.weights, features, left, Fit(config.epochs, 64, 0.003, decay=1.0), rng)
    neural.refresh(features)
    rest = float(np.std(left - neural.weights(features)))
    none = np.zeros((0, 2), np.int64)
    return NeuralTS(neural, leg, none, np.zeros(0), np.array([max(rest, 1e-3)]))


def settle(
    family: Family,
    model: PairRisk,
    config: PairBanditConfig,
    progress: Progress | None,
    stop: threading.Event,
) -> tuple[Manner, float]:
    """(the manner with the best mean score on validation patients, that score)."""
    grid = [Manner(*knobs) for knobs in product((0.05, 0.15, 0.4), (0.0, 0.015, 0.03), (0.0,))]
    few = max(config.validation // 3, 1)
    tried = []
    for done, manner in enumerate(grid):
        tried.append((score(family, replace(model, manner=manner), config.task, few), manner))
        _tell(progress, stop, "settle", done + 1, len(grid))
    finalists = [m for _, m in sorted(tried, key=lambda t: -t[0])[:3]]
    finals = [
        (score(family, replace(model, manner=m), config.task, config.validation), m)
        for m in finalists
    ]
    best = max(finals, key=lambda t: t[0])
    return best[1], best[0]


def score(family: Family, model: PairRisk, task: str, patients: int) -> float:
    """Mean score on validation patients with seeds from 0."""
    card = AgentCard(
        "bandit",
        "heuristic",
        lambda episode: Reviewer(model, episode.task.name, episode.split, episode.seed),
        "",
    )
    return fmean(play(family, task, s, "validation", card).score for s in range(patients))


def main(argv: Sequence[str] | None = None) -> int:
    parser = flags.parser(
        PairBanditConfig,
        "python -m training.bandit",
        "Train the bandit agent of the polypharmacy family on one task.",
        config="configs/bandit/polypharmacy.yaml",
    )
    try:
        config = flags.resolve(PairBanditConfig, parser.parse_args(argv))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        with line() as progress:
            run = train(config, progress)
    except RoundsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 130
    print(run)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
