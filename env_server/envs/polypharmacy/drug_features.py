"""A review for a network that shares weights between drugs: a name and a few numbers a place, pairs, the patient.

A drug stands as an index into a table of what the list shows of every drug (class, effects, flags of
old age); what is particular to this patient stands beside it. Reads the typed observation alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from data.polypharmacy.tables import EFFECTS, Drug, load
from env_server.envs.polypharmacy.features import (
    PAIRS,
    SEED16,
    SLOTS,
    Floats,
    OfList,
    SlotFeatures,
    places_of,
    seed16,
    write_pairs,
)
from env_server.envs.polypharmacy.observation import Medication, ReviewObservation
from env_server.envs.polypharmacy.regimen import DOSE_STEPS

SET_EFFECTS: Final = (
    "kidney_triple",
    "bleeding_stack",
    "unprotected_nsaid",
    "anticholinergic_burden",
    "sedation_stack",
    "qt_stack",
    "potassium_stack",
    "duplicate_class",
    "cascade",
    "trimethoprim_ras",
    "theophylline_alone",
)
_FLAGS: Final = ("avoid", "avoid_in", "dose_adjust", "caution")
_STILL: Final = 2 + 5 + len(_FLAGS)  # two names, then what only a change of this drug changes
_LIVE: Final = 3 + len(SET_EFFECTS)  # replaceable, others for its need, changed before, set effects
_CHANGED: Final = _STILL + 2
_EFFECT_AT: Final = {name: _STILL + 3 + at for at, name in enumerate(SET_EFFECTS)}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things stand in the feature vector, for a network with one set of weights a kind of thing.

    head: numbers of the whole review, first. Then `places` rows of `width`: the index of a drug
    (0 = empty place), the index of its indication, and `width` - 2 numbers. Then two numbers a pair.
    facts: float32 array (drugs + 1, n): what is known of each drug, row 0 of the empty place.
    pairs: the places of each pair, in the order of pair features and of the first actions; then
    `kinds` actions a place, then one that ends the review.
    """

    head: int
    places: int
    width: int
    pairs: tuple[tuple[int, int], ...]
    kinds: int
    indications: int
    facts: Floats


class DrugFeatures:
    """Callable on an observation. All numbers lie between 0 and a few, but for the two indices a row."""

    width: Final = _STILL + _LIVE

    def __init__(self, directory: str | None = None) -> None:
        tables = load(directory)
        self._person = SlotFeatures(directory).person
        self._drug = {name: 1 + at for at, name in enumerate(tables.drugs)}
        self._indication = {name: 1 + at for at, name in enumerate(tables.conditions)}
        self._rows_at = len(SEED16) + 8 + len(tables.conditions)
        self._pairs_at = self._rows_at + SLOTS * self.width
        self.size = self._pairs_at + 2 * len(PAIRS)
        self._row = lru_cache(maxsize=65536)(self._make_row)
        self._still = OfList(self._write_list)
        self.layout = Layout(
            head=self._rows_at,
            places=SLOTS,
            width=self.width,
            pairs=PAIRS,
            kinds=4,
            indications=1 + len(tables.conditions),
            facts=_facts(tuple(tables.drugs.values())),
        )

    def __call__(self, observation: ReviewObservation) -> Floats:
        places, still = self._still(observation)
        out = still.copy()
        out[: len(SEED16)] = seed16(observation)
        for change in observation.interventions:
            at = places.get(change.proposed_new_drug_id or change.target_drug_id)
            if at is not None:
                out[self._rows_at + at * self.width + _CHANGED] = 1.0
        write_pairs(observation, out[self._pairs_at :])
        return out

    def _write_list(self, observation: ReviewObservation) -> tuple[Mapping[str, int], Floats]:
        """(where each drug stands, everything that stays until the list changes)."""
        out = np.zeros(self.size, dtype=np.float32)
        patient = observation.patient
        out[len(SEED16) : self._rows_at] = self._person(
            patient.sex, patient.crcl_ml_min, patient.liver_function_category, patient.conditions
        )
        places = places_of(observation)
        rows = out[self._rows_at : self._pairs_at].reshape(SLOTS, self.width)
        needs = Counter(m.indication for m in observation.current_medications)
        for at, medication in enumerate(observation.current_medications):
            rows[at, :_STILL] = self._row(medication)
            rows[at, _STILL + 1] = (needs[medication.indication] - 1) / 2
        for drug in observation.substitutable:
            rows[places[drug], _STILL] = 1.0
        for effect in observation.view.get("set_effects", ()):
            column = _EFFECT_AT[effect["effect"]]
            for drug in effect["drugs"]:
                if drug in places:
                    rows[places[drug], column] = 1.0
        return places, out

    def _make_row(self, drug: Medication) -> Floats:
        kinds = [flag.partition(":")[0] for flag in drug.beers_flags]
        return np.array(
            (
                self._drug[drug.drug_id],
                self._indication[drug.indication],
                1.0,
                drug.dose_step / DOSE_STEPS,
                drug.can_reduce,
                drug.monitored,
                min(len(kinds) / 4, 1.0),
                *(min(kinds.count(kind) / 2, 1.0) for kind in _FLAGS),
            ),
            dtype=np.float32,
        )


def _facts(drugs: tuple[Drug, ...]) -> Floats:
    """What the list shows of each drug whoever takes it: a row a drug, row 0 for the empty place."""
    words: dict[str, int] = {}
    rows = [_words(drug) for drug in drugs]
    for row in rows:
        for word in row:
            words.setdefault(word, len(words))
    table = np.zeros((1 + len(drugs), len(words)), dtype=np.float32)
    for at, row in enumerate(rows):
        for word, value in row.items():
            table[1 + at, words[word]] = value
    return table


def _words(drug: Drug) -> dict[str, float]:
    found = {f"group:{drug.substitution_group}": 1.0, f"class:{drug.drug_class}": 1.0}
    found |= dict.fromkeys(sorted(drug.effects & EFFECTS), 1.0)
    found |= {"high_risk": float(drug.is_high_risk_elderly), "critical": float(drug.is_critical)}
    found |= {"taper": float(drug.needs_taper), "acb": drug.acb_score / 3}
    if drug.qt_risk != "none":
        found[f"qt:{drug.qt_risk}"] = 1.0
    return found
