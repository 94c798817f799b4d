"""Patients for the review tasks: drugs with reasons, planted hazards, and some who need nothing.

Random lists hold few severe pairs, so hazards are planted. Knows nothing of agents or budgets
beyond the size of the list; how often what is planted is tuned here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from data.polypharmacy.tables import Drug, Tables, load
from env_server.contract import BadSplit, RoundsError, Split
from env_server.envs.polypharmacy.patient import Patient, Prescription, Sex
from env_server.envs.polypharmacy.regimen import Regimen, reduced, swapped, watched, without
from env_server.envs.polypharmacy.review_case import ReviewCase, severe_pairs
from env_server.envs.polypharmacy.tasks import REVIEWS, ReviewTask
from env_server.seeds import Stream, belongs, digest

MEN_ONLY = frozenset({"bph_luts", "erectile_dysfunction"})
WOMEN_ONLY = frozenset({"urinary_incontinence_women", "vasomotor_symptoms", "breast_cancer"})
SEVERAL_DRUGS = MappingProxyType({"hypertension": 3, "type_2_diabetes": 2, "heart_failure": 3})
FAILING_HEARTS = ("heart_failure_reduced_ef", "heart_failure_preserved_ef")
TIERS = MappingProxyType({"core": 3.0, "common": 1.5, "full": 1.0})


class NoPatient(RoundsError, RuntimeError):
    """The tables in use cannot make a patient for the task."""


@dataclass(frozen=True, slots=True)
class Mix:
    """How the patients of a task are made up."""

    clean: float
    """Share of patients for whom the best review changes nothing."""
    severe: tuple[float, ...]
    """Weights of planting 0, 1, 2 ... severe pairs in the others."""
    states: float
    """How often states (falls, delirium ...) occur, relative to their prevalence."""
    worthwhile: float
    """Smallest gain of U that one change must offer, so that no attainable gain is a rounding error."""
    clutter: float = 0.35
    """Chance of adding an ordinary drug, per interaction it brings and for a row that always applies."""
    allergy: float = 0.12
    attempts: int = 4000


MIXES = MappingProxyType(
    {
        "review_easy": Mix(0.125, (0.1, 0.75, 0.15), 1.0, 0.04),
        "review_budgeted": Mix(0.125, (0.05, 0.35, 0.4, 0.2), 0.8, 0.04),
        "review_complex": Mix(0.12, (0.0, 0.2, 0.4, 0.25, 0.15), 0.7, 0.04, clutter=0.2),
    }
)


def held_out(drug_a: str, drug_b: str) -> bool:
    """Whether a severe pair is kept for `test_unseen_pairs`: 15 % of them, by name."""
    return digest("unseen", *sorted((drug_a, drug_b))) % 100 < 15


@lru_cache(maxsize=2048)
def begin(task_name: str, seed: int, split: Split, directory: str | None = None) -> ReviewCase:
    """The patient of (task, seed, split), always the same. Raises BadSplit, NoPatient."""
    review, mix = REVIEWS[task_name], MIXES[task_name]
    if split not in review.task.splits:
        raise BadSplit(
            f"{task_name} has no split {split!r}; splits: {', '.join(review.task.splits)}"
        )
    tables = load(directory)
    shelf = _shelf(tables, review.formulary)
    # decided before the attempts, so that hard-to-find clean patients keep their share
    clean = Stream("polypharmacy", task_name, split, seed, "clean").chance(mix.clean)
    for attempt in range(mix.attempts):
        stream = Stream("polypharmacy", task_name, split, seed, attempt)
        case = _draw(stream, review, mix, shelf, split, clean and split != "test_unseen_pairs")
        if case is not None:
            return case
    raise NoPatient(
        f"no patient for {task_name} after {mix.attempts} attempts; the tables in {directory or 'use'}"
        " hold too few severe pairs or alternatives"
    )


class Shelf:
    """The formulary arranged for drawing: drugs by condition, severe pairs, conditions by prevalence."""

    def __init__(self, tables: Tables, formulary: str) -> None:
        self.tables = tables
        drugs = tables.formulary(formulary)
        self.by_condition: dict[str, list[Drug]] = {}
        for drug in drugs:
            for condition in drug.indications:
                self.by_condition.setdefault(condition, []).append(drug)
        self.conditions = list(self.by_condition)
        self.prevalence = [tables.conditions[c].prevalence for c in self.conditions]
        every = severe_pairs(tables, tuple(d.drug_id for d in drugs))
        self.seen = [p for p in every if not held_out(*p)]
        self.unseen = [p for p in every if held_out(*p)]
        self.states = [c for c in tables.conditions.values() if c.kind == "state"]


_SHELVES: dict[tuple[str, str], Shelf] = {}


def _shelf(tables: Tables, formulary: str) -> Shelf:
    key = (tables.version, formulary)
    if key not in _SHELVES:
        _SHELVES[key] = Shelf(tables, formulary)
    return _SHELVES[key]


def _draw(
    stream: Stream, review: ReviewTask, mix: Mix, shelf: Shelf, split: Split, clean: bool
) -> ReviewCase | None:
    """One attempt: a case that belongs to the split and is what it was meant to be, or None."""
    unseen = split == "test_unseen_pairs"
    size = stream.between(*review.drugs)
    drugs = [] if clean else _plant(stream, mix, shelf, size, unseen)
    if len(drugs) > size:
        return None
    draft = _Draft(stream, shelf, drugs)
    if not draft.fill(size, 0.0 if clean else mix.clutter):
        return None
    prescriptions = tuple(draft.prescriptions())
    if not belongs(split, *sorted((p.drug_id, p.indication) for p in prescriptions)):
        return None
    pairs = severe_pairs(shelf.tables, tuple(p.drug_id for p in prescriptions))
    if any(held_out(*p) for p in pairs) != unseen:
        return None
    patient = _person(stream, mix, shelf, prescriptions)
    if patient is None:
        return None
    case = ReviewCase(review, patient, shelf.tables)
    if clean:
        return case if case.harm.hazard(case.start) == 0.0 else None
    return case if _worth_reviewing(case, mix.worthwhile) else None


def _plant(stream: Stream, mix: Mix, shelf: Shelf, size: int, unseen: bool) -> list[str]:
    """The drugs of the severe pairs this patient is to have."""
    count = stream.weighted(range(len(mix.severe)), mix.severe)
    drugs: list[str] = []
    for i in range(count):
        pool = shelf.unseen if unseen and i == 0 else shelf.seen
        pair = stream.choice(pool)
        if len(set(drugs) | set(pair)) <= size:
            drugs += [d for d in pair if d not in drugs]
    if unseen and not count:
        drugs = list(stream.choice(shelf.unseen))
    return drugs


class _Draft:
    """A list being written: which drug for which condition."""

    def __init__(self, stream: Stream, shelf: Shelf, planted: list[str]) -> None:
        self.stream, self.shelf, self.tables = stream, shelf, shelf.tables
        self.taken: dict[str, str] = {}  # drug -> condition
        self.count: dict[str, int] = {}
        for drug in planted:
            self._take(self.tables.drugs[drug])

    def _take(self, drug: Drug, condition: str | None = None) -> None:
        if condition is None:
            known = [c for c in drug.indications if c in self.count]
            prevalence = [self.tables.conditions[c].prevalence for c in drug.indications]
            condition = known[0] if known else self.stream.weighted(drug.indications, prevalence)
        self.taken[drug.drug_id] = condition
        self.count[condition] = self.count.get(condition, 0) + 1

    def fill(self, size: int, clutter: float) -> bool:
        """Add ordinary drugs until the list has `size`; False where that does not come about."""
        for _ in range(20 * size):
            if len(self.taken) == size:
                return True
            condition = self.stream.weighted(self.shelf.conditions, self.shelf.prevalence)
            if self.count.get(condition, 0) >= SEVERAL_DRUGS.get(condition, 1):
                continue
            options = self.shelf.by_condition[condition]
            drug = self.stream.weighted(options, [TIERS[d.formulary] for d in options])
            if self._ordinary(drug, clutter):
                self._take(drug, condition)
        return len(self.taken) == size

    def _ordinary(self, drug: Drug, clutter: float) -> bool:
        """Nobody is given a class twice or a severe pair by chance; lesser hazards are thinned out."""
        tables = self.tables
        burden = sum(
            c.condition is None and c.crcl_below is None
            for c in tables.criteria.get(drug.drug_id, ())
        )
        for other in self.taken:
            if other == drug.drug_id or tables.drugs[other].drug_class == drug.drug_class:
                return False
            pair = tables.pair(other, drug.drug_id)
            if pair is not None and pair.severity == "severe":
                return False
            burden += pair is not None
        return not burden or self.stream.chance(clutter**burden)

    def prescriptions(self) -> list[Prescription]:
        """The list in an order that says nothing of what was planted."""
        lines = [Prescription(drug, condition) for drug, condition in self.taken.items()]
        return self.stream.shuffled(lines)


def _person(
    stream: Stream, mix: Mix, shelf: Shelf, prescriptions: tuple[Prescription, ...]
) -> Patient | None:
    """Age, body, kidneys, states and allergies to go with the list; None where sexes clash."""
    diseases = list(dict.fromkeys(p.indication for p in prescriptions))
    men, women = MEN_ONLY.intersection(diseases), WOMEN_ONLY.intersection(diseases)
    if men and women:
        return None
    sex: Sex = "M" if men else "F" if women else stream.choice(("F", "F", "F", "M", "M"))
    age = stream.between(65, 95)
    weight = round(min(max(stream.normal(72 if sex == "F" else 82, 14), 42), 130), 1)
    creatinine = round(min(max(0.85 + 0.012 * (age - 65) + stream.normal(0, 0.28), 0.5), 3.5), 2)
    states = [s.condition_id for s in shelf.states if _has(stream, mix, s.prevalence)]
    states = [s for s in states if not (s in WOMEN_ONLY and sex == "M")]
    if "heart_failure" in diseases:
        states = [s for s in states if s not in FAILING_HEARTS]
        states.append(stream.choice(FAILING_HEARTS))
    else:
        states = [s for s in states if s not in FAILING_HEARTS]
    drugs = shelf.tables.drugs
    groups = {drugs[p.drug_id].substitution_group for p in prescriptions}
    allergies: tuple[str, ...] = ()
    if stream.chance(mix.allergy):
        others = sorted({d.substitution_group for d in drugs.values()} - groups)
        allergies = (stream.choice(others),)
    return Patient(
        age=age,
        sex=sex,
        weight_kg=weight,
        creatinine_mg_dl=creatinine,
        liver_function_category="impaired" if stream.chance(0.08) else "normal",
        conditions=(*diseases, *states),
        allergies=allergies,
        prescriptions=prescriptions,
    )


def _has(stream: Stream, mix: Mix, prevalence: float) -> bool:
    return stream.chance(min(0.9, mix.states * prevalence / 100))


def _worth_reviewing(case: ReviewCase, least: float) -> bool:
    """Whether some single change gains at least `least` of U."""
    wanted = case.value(case.start) + least
    return any(case.value(after) >= wanted for after in _neighbours(case, case.start))


def _neighbours(case: ReviewCase, regimen: Regimen) -> Iterator[Regimen]:
    """Every list one change away, lazily."""
    for i, slot in enumerate(regimen.slots):
        for new in case.substitutes(regimen, slot):
            yield swapped(regimen, i, new)
        yield without(regimen, i, slot.drug_id if case.abrupt(slot) else None)
        if case.can_reduce(slot):
            yield reduced(regimen, i)
        yield watched(regimen, i)


__all__ = ["MIXES", "Mix", "NoPatient", "begin", "held_out"]
