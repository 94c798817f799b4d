"""A review as float32 numbers for classical learners: `seed16`, the seed's sixteen, and `slots`, a row a drug.

Reads the typed observation alone, so it can tell a learner nothing that an agent may not see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import combinations
from types import MappingProxyType
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from data.polypharmacy.tables import EFFECTS, load
from env_server.envs.polypharmacy.observation import Medication, ReviewObservation
from env_server.envs.polypharmacy.regimen import DOSE_STEPS

Floats = npt.NDArray[np.float32]

SLOTS: Final = 15  # the longest list any task draws
PAIRS: Final = tuple(combinations(range(SLOTS), 2))  # the fixed order of pair features and actions
PAIR_AT: Final = MappingProxyType({pair: at for at, pair in enumerate(PAIRS)})
SEVERITY: Final = MappingProxyType({"none": 0.0, "mild": 1 / 3, "moderate": 2 / 3, "severe": 1.0})

SEED16: Final = (
    "medications",  # of 15
    "high_risk_drugs",  # of 15
    "beers_flagged_drugs",  # of 15
    "beers_flags",  # of 30
    "queries_left",  # of the budget, as all budgets below
    "interventions_left",
    "queries_used",
    "interventions_used",
    "severe_found",  # of the queries used, as the two below
    "moderate_found",
    "little_found",  # mild or nothing
    "risk_found",  # mean risk score
    "severe_unresolved",  # severe pairs found whose drugs are both still taken, of 5
    "pairs_covered",  # pairs of the present list that were asked about
    "steps_used",
    "age",  # above 65, of 30
)


T = TypeVar("T")


class OfList(Generic[T]):
    """What follows from the list as it is shown; worked out when the list changes, not at every step.

    Told apart by identity: an episode shows the same objects until a change. Values must be left alone.
    """

    def __init__(self, make: Callable[[ReviewObservation], T], lists: int = 2048) -> None:
        self._make, self._lists = make, lists
        self._kept: dict[int, tuple[ReviewObservation, T]] = {}

    def __call__(self, seen: ReviewObservation) -> T:
        held = self._kept.get(id(seen.current_medications))
        if held is not None:
            first, value = held
            if (
                first.current_medications is seen.current_medications
                and first.patient is seen.patient  # an empty list is one object for all patients
                and first.substitutable is seen.substitutable
                and first.view is seen.view
            ):
                return value
        if len(self._kept) >= self._lists:
            self._kept.clear()
        value = self._make(seen)
        self._kept[id(seen.current_medications)] = (seen, value)
        return value


def places_of(observation: ReviewObservation) -> Mapping[str, int]:
    """Where each drug of the list stands."""
    return {m.drug_id: at for at, m in enumerate(observation.current_medications)}


def _list16(observation: ReviewObservation) -> tuple[tuple[float, ...], int, float]:
    """(the first four numbers of `SEED16`, pairs of the list, the last number)."""
    drugs = observation.current_medications
    flags = [len(m.beers_flags) for m in drugs]
    counts = (
        len(drugs) / SLOTS,
        sum(m.is_high_risk_elderly for m in drugs) / SLOTS,
        sum(n > 0 for n in flags) / SLOTS,
        min(sum(flags) / 30, 1.0),
    )
    age = min((observation.patient.age - 65) / 30, 1.0)
    return counts, len(drugs) * (len(drugs) - 1) // 2, age


_PLACES: Final = OfList(places_of)
_LIST16: Final = OfList(_list16)


def seed16(observation: ReviewObservation) -> Floats:
    """The sixteen numbers of `SEED16`, in that order, each in [0, 1]."""
    counts, n_pairs, age = _LIST16(observation)
    taken = _PLACES(observation)
    asked = observation.interaction_queries
    queries = len(asked)
    query_budget = queries + observation.remaining_query_budget
    changes = len(observation.interventions)
    change_budget = changes + observation.remaining_intervention_budget
    severe = moderate = still = unresolved = 0
    risk = 0.0
    for q in asked:
        both = q.drug_id_1 in taken and q.drug_id_2 in taken
        still += both
        risk += q.risk_score
        if q.severity == "severe":
            severe += 1
            unresolved += both
        elif q.severity == "moderate":
            moderate += 1
    per_query = 1.0 / queries if queries else 0.0
    return np.array(
        (
            *counts,
            observation.remaining_query_budget / query_budget,
            observation.remaining_intervention_budget / change_budget,
            queries / query_budget,
            changes / change_budget,
            severe * per_query,
            moderate * per_query,
            (queries - severe - moderate) * per_query,
            risk * per_query,
            min(unresolved / 5, 1.0),
            still / n_pairs if n_pairs else 1.0,
            observation.step_index / observation.max_steps,
            age,
        ),
        dtype=np.float32,
    )


def write_pairs(observation: ReviewObservation, out: Floats) -> None:
    """For each of the 105 pairs of places, whether it was asked about and what was found."""
    slot_of = _PLACES(observation)
    for found in observation.interaction_queries:
        first, second = slot_of.get(found.drug_id_1), slot_of.get(found.drug_id_2)
        if first is not None and second is not None:
            at = 2 * PAIR_AT[(first, second) if first < second else (second, first)]
            out[at] = 1.0
            out[at + 1] = SEVERITY[found.severity]


class SlotFeatures:
    """One row a drug (what it is, its dose, its flags, its effects), every pair result, the patient.

    Layout: `seed16`, then the patient, then 15 rows of `width`, then for each of the 105 slot pairs
    (asked, severity). Rows beyond the list are zero.
    """

    _LOOKS: Final = 9  # present ... flags: the scalars at the head of a row
    _LIVE: Final = 2  # substitutable, set effects: the scalars at its end

    def __init__(self, directory: str | None = None) -> None:
        tables = load(directory)
        groups = sorted({d.substitution_group for d in tables.drugs.values()})
        effects = (*sorted(EFFECTS), "qt_conditional", "qt_possible", "qt_known")
        self._group = {name: at for at, name in enumerate(groups)}
        self._effect = {name: at for at, name in enumerate(effects)}
        self._condition = {name: at for at, name in enumerate(tables.conditions)}
        self._effects_at = self._LOOKS + 1
        self._groups_at = self._effects_at + len(effects)
        self._fixed = self._groups_at + len(groups)
        self.width = self._fixed + self._LIVE
        self._patient_at = len(SEED16)
        self._rows_at = self._patient_at + 8 + len(self._condition)
        self._pairs_at = self._rows_at + SLOTS * self.width
        self.size = self._pairs_at + 2 * len(PAIRS)
        self._row = lru_cache(maxsize=65536)(self._make_row)
        self.person = lru_cache(maxsize=4096)(self._make_person)
        self._still = OfList(self._write_list)

    def __call__(self, observation: ReviewObservation) -> Floats:
        out = self._still(observation).copy()
        out[: self._patient_at] = seed16(observation)
        write_pairs(observation, out[self._pairs_at :])
        return out

    def _write_list(self, observation: ReviewObservation) -> Floats:
        out = np.zeros(self.size, dtype=np.float32)
        patient = observation.patient
        out[self._patient_at : self._rows_at] = self.person(
            patient.sex, patient.crcl_ml_min, patient.liver_function_category, patient.conditions
        )
        slot_of = places_of(observation)
        rows = out[self._rows_at : self._pairs_at].reshape(SLOTS, self.width)
        for at, medication in enumerate(observation.current_medications):
            rows[at, : self._fixed] = self._row(medication)
        for drug in observation.substitutable:
            rows[slot_of[drug], self._fixed] = 1.0
        for effect in observation.view.get("set_effects", ()):
            for drug in effect["drugs"]:
                if drug in slot_of:
                    rows[slot_of[drug], self._fixed + 1] += 0.5
        return out

    def _make_row(self, drug: Medication) -> Floats:
        row = np.zeros(self._fixed, dtype=np.float32)
        flags = len(drug.beers_flags)
        row[: self._LOOKS] = (
            1.0,
            drug.dose_step / DOSE_STEPS,
            drug.can_reduce,
            drug.monitored,
            drug.is_high_risk_elderly,
            drug.is_critical,
            drug.needs_taper,
            flags > 0,
            min(flags / 4, 1.0),
        )
        for effect in drug.effects:
            if effect.startswith("acb_"):
                row[self._LOOKS] = int(effect[4:]) / 3
            else:
                row[self._effects_at + self._effect[effect]] = 1.0
        row[self._groups_at + self._group[drug.group]] = 1.0
        return row

    def _make_person(
        self, sex: str, crcl_ml_min: float, liver: str, conditions: tuple[str, ...]
    ) -> Floats:
        person = np.zeros(8 + len(self._condition), dtype=np.float32)
        limits = (15.0, 30.0, 60.0, 90.0)  # ml/min, where criteria and bands change
        person[:8] = (
            sex == "F",
            sex == "M",
            liver == "impaired",
            min(crcl_ml_min / 120, 1.0),
            *(crcl_ml_min < limit for limit in limits),
        )
        for condition in conditions:
            person[8 + self._condition[condition]] = 1.0
        return person
