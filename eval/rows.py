"""From results to the rows of the table: one row an agent and task, and sums over tasks.

Knows which patients two agents share; nothing of how a row is shown or an episode is played.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from statistics import fmean
from typing import Any, TypeAlias

from env_server.contract import Family, JsonObject, Measure
from eval import calibration
from eval.calibration import Bin, Forecast
from eval.metrics import Difference, estimate, holm, interquartile_estimate, paired_difference
from eval.metrics import share_of_optimum as optimum_reached
from eval.result import Result

Patient: TypeAlias = tuple[str, int]  # (task, seed)
ALL_TASKS = "all"


@dataclass(frozen=True, slots=True)
class Row:
    """One agent on one task. None means that it cannot be told; `note` says why.

    n: patients. score: mean in [0.001, 0.999] with its 95 % interval; iqm: mean of the middle half,
    with its own. Over several tasks patients are drawn within each (a stratified bootstrap).
    episode_return: `return` in JSON. regret: the reference's score less this agent's, mean.
    share_of_optimum: of what could be gained. refusal_share: of all steps. overcall_share: of clean
    patients, how many were changed at all. steps, queries, interventions, tokens (written),
    prompt_tokens (read), cost_usd, seconds (to decide): a mean episode. diff: score less the
    baseline's on the same patients; p as tested, p_holm corrected for the block's rows. wins:
    probability of improvement with its interval. detectable: the smallest difference this n would
    have found. measures: the family's own columns by heading. measure_diffs: mean, low and high of those
    less the baseline's on the same patients. reliability: bins of what was stated.
    """

    family: str
    task: str
    agent: str
    role: str
    split: str
    n: int = 0
    score: float | None = None
    score_low: float | None = None
    score_high: float | None = None
    iqm: float | None = None
    iqm_low: float | None = None
    iqm_high: float | None = None
    episode_return: float | None = None
    regret: float | None = None
    share_of_optimum: float | None = None
    steps: float | None = None
    queries: float | None = None
    interventions: float | None = None
    refusal_share: float | None = None
    overcall_share: float | None = None
    tokens: float | None = None
    prompt_tokens: float | None = None
    cost_usd: float | None = None
    seconds: float | None = None
    baseline: str | None = None
    diff: float | None = None
    diff_low: float | None = None
    diff_high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    wins: float | None = None
    wins_low: float | None = None
    wins_high: float | None = None
    detectable: float | None = None
    lost: int = 0
    note: str = ""
    measures: Mapping[str, float | None] = field(default_factory=dict)
    measure_diffs: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    reliability: tuple[Bin, ...] = ()

    def to_json(self) -> JsonObject:
        return {KEYS.get(f.name, f.name): getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Row:
        """What `to_json` wrote; fields that a later version wrote are left out."""
        known = {KEYS.get(f.name, f.name): f.name for f in fields(cls)}
        told = {known[key]: value for key, value in body.items() if key in known}
        told["reliability"] = tuple(tuple(one) for one in told.get("reliability", ()))
        gaps = told.get("measure_diffs", {})
        told["measure_diffs"] = {name: tuple(one) for name, one in gaps.items()}
        return cls(**told)


KEYS = {"episode_return": "return"}  # a word Python keeps for itself


@dataclass(frozen=True, slots=True)
class Played:
    """What one agent did on one task: results, or why there are none."""

    task: str
    agent: str
    role: str
    results: tuple[Result, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Extras:
    """What a family wants measured beside what is measured of all: see `contract.Measure`."""

    measures: Mapping[str, Measure] = field(default_factory=dict)
    forecast: Callable[[Mapping[str, Any]], Forecast | None] | None = None


NONE = Extras()


def extras(family: Family) -> Extras:
    """The columns that this family offers; none where it offers none."""
    return Extras(getattr(family, "measures", {}), getattr(family, "forecast", None))


# of any forecasts; a family's own columns come first
STATED: Mapping[str, Callable[[Sequence[Forecast]], float | None]] = {
    "Brier": calibration.brier,
    "log loss": calibration.log_loss,
    "ECE": calibration.calibration_error,
}


def rows(
    family: str,
    split: str,
    played: Sequence[Played],
    baseline: str | None,
    more: Extras = NONE,
) -> list[Row]:
    """A block of rows a task in the order played, then sums where there are several tasks."""
    tasks = list(dict.fromkeys(block.task for block in played))
    table: list[Row] = []
    for task in tasks:
        table += _block(family, split, [p for p in played if p.task == task], baseline, more)
    if len(tasks) > 1:
        table += _block(family, split, _sums(played, len(tasks)), baseline, more)
    return table


def _sums(played: Sequence[Played], n_tasks: int) -> list[Played]:
    """Each agent over all its tasks, with a note where it did not play them all."""
    sums: list[Played] = []
    for agent in dict.fromkeys(p.agent for p in played):
        own = [p for p in played if p.agent == agent]
        done = [p for p in own if p.results]
        note = "" if len(done) == n_tasks else f"{len(done)} of {n_tasks} tasks"
        results = tuple(r for p in done for r in p.results)
        sums.append(Played(ALL_TASKS, agent, own[0].role, results, note))
    return sums


def _block(
    family: str, split: str, played: Sequence[Played], baseline: str | None, more: Extras
) -> list[Row]:
    theirs = next((p for p in played if p.agent == baseline), None)
    block = [_compared(_told(_row(family, split, p), p, more, theirs), p, theirs) for p in played]
    tested = [i for i, row in enumerate(block) if row.p is not None]
    corrected = holm([block[i].p or 0.0 for i in tested])
    for i, p in zip(tested, corrected, strict=True):
        block[i] = replace(block[i], p_holm=p)
    return block


def _row(family: str, split: str, played: Played) -> Row:
    kept = [r for r in played.results if r.lost is None]
    lost = len(played.results) - len(kept)
    speechless = sum(r.speechless for r in kept)
    remarks = [
        played.note,
        f"{lost} lost, left out" if lost else "",
        f"{speechless} patients do not fit the model's context" if speechless else "",
    ]
    note = "; ".join(filter(None, remarks))
    row = Row(family, played.task, played.agent, played.role, split, lost=lost, note=note)
    return _measured(row, kept) if kept else row


def _measured(row: Row, kept: Sequence[Result]) -> Row:
    scores, tasks = [r.score for r in kept], [r.task for r in kept]
    patients = [(r.task, r.seed) for r in kept]
    found = estimate(scores, patients, tasks)
    middle = interquartile_estimate(scores, patients, tasks)
    gains = [(r.attained, r.optimum) for r in kept if None not in (r.attained, r.optimum)]
    steps = sum(r.steps for r in kept)
    return replace(
        row,
        n=found.n,
        score=found.mean,
        score_low=found.low,
        score_high=found.high,
        iqm=middle.mean,
        iqm_low=middle.low,
        iqm_high=middle.high,
        episode_return=fmean(r.episode_return for r in kept),
        regret=_mean(kept, lambda r: r.regret),
        share_of_optimum=optimum_reached(
            [a or 0.0 for a, _ in gains], [o or 0.0 for _, o in gains]
        ),
        steps=steps / len(kept),
        queries=_mean(kept, lambda r: r.queries),
        interventions=_mean(kept, lambda r: r.interventions),
        refusal_share=sum(r.refusals for r in kept) / steps if steps else 0.0,
        overcall_share=_overcalled(kept),
        tokens=_mean(kept, lambda r: r.sampled_tokens),
        prompt_tokens=_mean(kept, lambda r: r.prompt_tokens),
        cost_usd=_mean(kept, lambda r: r.cost_usd),
        seconds=fmean(r.seconds for r in kept),
    )


def _told(row: Row, played: Played, more: Extras, theirs: Played | None) -> Row:
    """The row with the family's own columns."""
    if theirs is not None and theirs is not played:
        row = replace(row, measure_diffs=_measure_gaps(played, theirs, more.measures))
    outcomes = [r.told for r in played.results if r.lost is None]
    if not outcomes:
        return row
    found = {name: _own(measure, outcomes) for name, measure in more.measures.items()}
    if more.forecast is None:
        return replace(row, measures=found)
    stated = [one for one in map(more.forecast, outcomes) if one is not None]
    found |= {name: of(stated) for name, of in STATED.items()}
    return replace(row, measures=found, reliability=calibration.reliability(stated))


def _own(measure: Measure, outcomes: Sequence[Mapping[str, Any]]) -> float | None:
    """The mean of what is told, or a ratio of sums; None where nothing is."""
    per = measure.per or (lambda told: 1.0)
    pairs = [(measure.of(told), per(told)) for told in outcomes]
    known = [(of, by) for of, by in pairs if of is not None and by is not None]
    below = sum(by for _, by in known)
    return sum(of for of, _ in known) / below if below else None


def _measure_gaps(
    ours: Played, theirs: Played, measures: Mapping[str, Measure]
) -> dict[str, tuple[float | None, ...]]:
    """(mean, low, high) of the difference in each measure that is a mean, patient by patient."""
    found: dict[str, tuple[float | None, ...]] = {}
    for name, measure in measures.items():
        if measure.per is not None:
            continue
        own, other = _values(ours, measure), _values(theirs, measure)
        both = [patient for patient in own if patient in other]
        if both:
            gap = estimate([own[p] - other[p] for p in both], both, [task for task, _ in both])
            found[name] = (gap.mean, gap.low, gap.high)
    return found


def _values(played: Played, measure: Measure) -> dict[Patient, float]:
    """The measure of each patient; of several attempts the last."""
    told = {(r.task, r.seed): measure.of(r.told) for r in played.results if r.lost is None}
    return {patient: value for patient, value in told.items() if value is not None}


def _mean(kept: Iterable[Result], of: Callable[[Result], float | None]) -> float | None:
    told = [value for value in map(of, kept) if value is not None]
    return fmean(told) if told else None


def _overcalled(kept: Iterable[Result]) -> float | None:
    """Of the patients who needed nothing, the share that was changed at all."""
    clean = [r.interventions > 0 for r in kept if r.clean and r.interventions is not None]
    return fmean(clean) if clean else None


def _compared(row: Row, ours: Played, theirs: Played | None) -> Row:
    if theirs is None or theirs is ours:
        return replace(row, baseline=theirs.agent if theirs else None)
    row = replace(row, baseline=theirs.agent)
    found = _difference(_scores(ours.results), _scores(theirs.results))
    if found is None:
        return row
    return replace(
        row,
        diff=found.mean,
        diff_low=found.low,
        diff_high=found.high,
        p=found.p,
        wins=found.wins,
        wins_low=found.wins_low,
        wins_high=found.wins_high,
        detectable=found.detectable,
    )


def _difference(
    ours: Mapping[Patient, float], theirs: Mapping[Patient, float]
) -> Difference | None:
    if not ours.keys() & theirs.keys():
        return None
    return paired_difference(ours, theirs, lambda patient: patient[0])


def _scores(results: Iterable[Result]) -> dict[Patient, float]:
    """Mean score of each patient that was not lost."""
    by_patient: dict[Patient, list[float]] = {}
    for r in results:
        if r.lost is None:
            by_patient.setdefault((r.task, r.seed), []).append(r.score)
    return {patient: fmean(scores) for patient, scores in by_patient.items()}
