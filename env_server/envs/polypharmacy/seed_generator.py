"""Who comes to a seed task: lists that hold what each difficulty promises, redrawn until they do.

A list is drawn by need (a disease, then a drug for it) around one or more severe pairs; then the person
who takes it. Knows nothing of budgets, agents or scores.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations
from math import exp
from types import MappingProxyType
from typing import Generic, TypeVar

from data.polypharmacy.tables import Condition, Drug
from env_server.contract import Difficulty, Split
from env_server.envs.polypharmacy.patient import Patient, Prescription, Sex
from env_server.envs.polypharmacy.regimen import Slot
from env_server.envs.polypharmacy.seed_risk import Known, drug_risk, normalised, violations
from env_server.envs.polypharmacy.tasks import ReviewTask
from env_server.seeds import Stream, belongs

T = TypeVar("T")
_ATTEMPTS = (
    5000  # one in a few is kept; this many misses mean that a table set cannot fill the task
)
_USE = {"core": 4.0, "common": 2.0, "full": 1.0}  # how often a drug is met, by formulary
_ONLY = MappingProxyType(
    {
        "bph_luts": "M",
        "erectile_dysfunction": "M",
        "breast_cancer": "F",
        "vasomotor_symptoms": "F",
        "urinary_incontinence_women": "F",
    }
)


class CannotDraw(RuntimeError):
    """The tables hold no patient of the kind that a task promises."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What every list of one difficulty holds; the largest counts keep a first risk below its clip."""

    planted: tuple[int, int]  # severe pairs that the list is drawn around
    severe: tuple[int, int]
    interactions: tuple[int, int]  # of any severity
    severities: int  # how many kinds of severity occur
    beers: int  # criteria broken
    critical: int  # critical drugs
    critical_interactions: int  # interactions with a critical drug in them
    critical_beers: int  # criteria broken by critical drugs
    replaceable: int  # drugs of severe pairs that have a substitute without a severe pair


_PROMISES: Mapping[Difficulty, Promise] = MappingProxyType(
    {
        "easy": Promise((1, 1), (1, 1), (1, 4), 1, 0, 0, 0, 0, 0),
        "medium": Promise((1, 2), (1, 4), (3, 14), 2, 2, 0, 0, 0, 0),
        "hard": Promise((2, 3), (2, 9), (6, 28), 2, 3, 2, 2, 1, 1),
    }
)
# a first risk at the clip would hide what the first changes are worth
_LARGEST_RISK = 0.95


class _Draw(Generic[T]):
    """Weighted choice made ready once, for weights that stay."""

    def __init__(self, items: Sequence[T], weights: Sequence[float]) -> None:
        self.items = items
        self.bounds = list(accumulate(weights))

    def one(self, stream: Stream) -> T:
        at = bisect(self.bounds, stream.uniform(0.0, self.bounds[-1]))
        return self.items[min(at, len(self.items) - 1)]


class Generator:
    """Draws patients from one table set. Equal (task, seed, split) give equal patients."""

    def __init__(self, known: Known) -> None:
        self.known = known
        conditions = known.tables.conditions.values()
        diseases = [c for c in conditions if c.kind == "disease" and known.treating[c.condition_id]]
        self._states = [c for c in conditions if c.kind == "state"]
        self._disease: _Draw[Condition] = _Draw(diseases, [c.prevalence for c in diseases])
        self._drug: dict[str, _Draw[Drug]] = {
            c.condition_id: _Draw(drugs, [_USE[d.formulary] for d in drugs])
            for c in diseases
            for drugs in [known.treating[c.condition_id]]
        }
        self._planted = [
            pair for pair, row in known.tables.pairs.items() if row.severity == "severe"
        ]

    def draw(self, review: ReviewTask, seed: int, split: Split) -> Patient:
        """The patient of this seed. Raises CannotDraw where the tables cannot keep the promise."""
        promise = _PROMISES[review.task.difficulty]
        for attempt in range(_ATTEMPTS):
            name = (review.task.name, split, seed, attempt)
            stream = Stream(*name, "list")
            sex: Sex = stream.weighted(("F", "M", "O"), (0.57, 0.42, 0.01))
            length = stream.between(*review.drugs)
            prescriptions = self._list(promise, length, sex, stream)
            if prescriptions is None or not self._keeps(promise, prescriptions):
                continue
            if not belongs(split, *sorted((p.drug_id, p.indication) for p in prescriptions)):
                continue
            patient = self._person(prescriptions, sex, Stream(*name, "person"))
            if self._keeps_in(promise, patient):
                return patient
        raise CannotDraw(
            f"no patient for {review.task.name} seed {seed} split {split} in {_ATTEMPTS} attempts; "
            f"the tables have {len(self._planted)} severe pairs, which is too few or too many"
        )

    # -- the list -----------------------------------------------------------------------------

    def _list(
        self, promise: Promise, length: int, sex: Sex, stream: Stream
    ) -> tuple[Prescription, ...] | None:
        """`length` drugs around planted pairs in random order, or None where they do not come together."""
        taken: dict[str, str] = {}
        for _ in range(stream.between(*promise.planted)):
            for drug_id in stream.choice(self._planted):
                if drug_id not in taken:
                    indication = self._indication(drug_id, sex, stream)
                    if indication is None:
                        return None
                    taken[drug_id] = indication
        for _ in range(6 * length):
            if len(taken) >= length:
                break
            self._add(taken, promise, sex, stream)
        if len(taken) != length:
            return None
        return tuple(Prescription(d, taken[d]) for d in stream.shuffled(list(taken)))

    def _indication(self, drug_id: str, sex: Sex, stream: Stream) -> str | None:
        conditions = self.known.tables.conditions
        open_to = [i for i in self.known.tables.drugs[drug_id].indications if _suits(i, sex)]
        if not open_to:
            return None
        return stream.weighted(open_to, [conditions[i].prevalence for i in open_to])

    def _add(self, taken: dict[str, str], promise: Promise, sex: Sex, stream: Stream) -> None:
        """Add a drug for a disease, if it fits: no second drug of a class, no more severe pairs than promised."""
        disease = self._disease.one(stream).condition_id
        drug = self._drug[disease].one(stream)
        drugs = self.known.tables.drugs
        if not _suits(disease, sex) or drug.drug_id in taken:
            return
        if any(drugs[other].atc_class == drug.atc_class for other in taken):
            return
        if promise.severe[1] == 1 and not self.known.severe[drug.drug_id].isdisjoint(taken):
            return
        taken[drug.drug_id] = disease

    def _keeps(self, promise: Promise, prescriptions: Sequence[Prescription]) -> bool:
        """Whether the pairs on the list are what the difficulty promises."""
        drugs, partners = self.known.tables.drugs, self.known.partners
        ids = [p.drug_id for p in prescriptions]
        critical = {d for d in ids if drugs[d].is_critical}
        if len(critical) < promise.critical:
            return False
        found = [
            (a, b, partners[a][b].severity) for a, b in combinations(ids, 2) if b in partners[a]
        ]
        severe = [(a, b) for a, b, severity in found if severity == "severe"]
        if not promise.severe[0] <= len(severe) <= promise.severe[1]:
            return False
        if not promise.interactions[0] <= len(found) <= promise.interactions[1]:
            return False
        if len({severity for _, _, severity in found}) < promise.severities:
            return False
        if sum(a in critical or b in critical for a, b, _ in found) < promise.critical_interactions:
            return False
        return self._replaceable(prescriptions, {d for pair in severe for d in pair}) >= (
            promise.replaceable
        )

    def _replaceable(self, prescriptions: Sequence[Prescription], risky: set[str]) -> int:
        """How many of the risky drugs have a stand-in with no severe partner among the others."""
        ids = {p.drug_id for p in prescriptions}
        return sum(
            any(
                new not in ids and self.known.severe[new].isdisjoint(ids - {p.drug_id})
                for new in self.known.pool(p.drug_id, p.indication)
            )
            for p in prescriptions
            if p.drug_id in risky
        )

    # -- the person ---------------------------------------------------------------------------

    def _person(self, prescriptions: tuple[Prescription, ...], sex: Sex, stream: Stream) -> Patient:
        """Someone who takes this list: body, kidneys, liver, and the states that gate criteria."""
        age = 65 + min(stream.below(31), stream.below(31))  # the oldest are fewer
        weight = min(max(stream.normal(68.0 if sex == "F" else 79.0, 13.0), 42.0), 130.0)
        creatinine = min(max(exp(stream.normal(0.05, 0.35)), 0.5), 4.0)
        liver = stream.chance(0.07)
        states = [
            c.condition_id
            for c in self._states
            if stream.chance(c.prevalence / 100.0) and _suits(c.condition_id, sex)
        ]
        treated = dict.fromkeys(p.indication for p in prescriptions)
        return Patient(
            age=age,
            sex=sex,
            weight_kg=round(weight, 1),
            creatinine_mg_dl=round(creatinine, 2),
            liver_function_category="impaired" if liver else "normal",
            conditions=(*treated, *states),
            allergies=(),
            prescriptions=prescriptions,
        )

    def _keeps_in(self, promise: Promise, patient: Patient) -> bool:
        """Whether this person breaks the criteria that the difficulty promises, and the risk is not clipped."""
        tables = self.known.tables
        slots = [Slot(p.drug_id, p.indication) for p in patient.prescriptions]
        broken = {s.drug_id: len(violations(tables, patient, s)) for s in slots}
        if sum(broken.values()) < promise.beers:
            return False
        if (
            sum(n for d, n in broken.items() if tables.drugs[d].is_critical)
            < promise.critical_beers
        ):
            return False
        partners = self.known.partners
        total = sum(drug_risk(tables, patient, s) for s in slots) + sum(
            partners[a][b].base_risk_score for a, b in combinations(broken, 2) if b in partners[a]
        )
        return 0.0 < normalised(total, len(slots)) <= _LARGEST_RISK


def _suits(condition: str, sex: Sex) -> bool:
    return sex == "O" or _ONLY.get(condition, sex) == sex
