"""The tables behind the seed tasks as arrays, by drugs in the order of their ids.

The same numbers as `seed_risk.Known`, for whoever looks at many lists at once. Knows no patient and no
order of events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from data.polypharmacy.tables import Criterion
from env_server.envs.polypharmacy.regimen import DOSE_STEPS
from env_server.envs.polypharmacy.seed_risk import OPEN_TO_ALL, RULES, Known, flag

Array = npt.NDArray[Any]
SEVERITIES: Final = ("none", "mild", "moderate", "severe")
MODERATE: Final = SEVERITIES.index("moderate")
SEVERE: Final = SEVERITIES.index("severe")
_ALWAYS, _NEVER, _CIRCUMSTANCES = 0, 1, 2  # columns of what is true of a patient, then conditions


class Arrays:
    """D drugs in the order of their ids, then `none` (an empty place) and `barred` (on every list).

    C what may hold of a patient, K criteria a drug or stand-ins for a drug and its need.
    """

    def __init__(self, known: Known) -> None:
        drugs = known.tables.drugs
        self.drug: Mapping[str, int] = {name: at for at, name in enumerate(sorted(drugs))}
        self.none, self.barred = len(drugs), len(drugs) + 1
        self.rows = len(drugs) + 2
        self.indication = {name: at for at, name in enumerate(known.tables.conditions)}
        in_order = [drugs[name] for name in self.drug]
        self.high_risk_D = self._column([d.is_high_risk_elderly for d in in_order], np.bool_)
        self.own_D = np.where(self.high_risk_D, RULES.high_risk, 0.0)
        self.critical_D = self._column([d.is_critical for d in in_order], np.bool_)
        steps = [DOSE_STEPS if d.min_dose_mg < d.default_dose_mg else 0 for d in in_order]
        self.steps_D = self._column(steps, np.int16)  # how often the dose may be lowered
        self._read_pairs(known)
        self._read_pools(known)
        self._read_criteria(known)

    def _column(self, values: list[Any], kind: Any) -> Array:
        column = np.zeros(self.rows, dtype=kind)
        column[: len(values)] = values
        return column

    def _read_pairs(self, known: Known) -> None:
        self.risk_DD = np.zeros((self.rows, self.rows))
        self.severity_DD = np.zeros((self.rows, self.rows), dtype=np.int8)
        for a, partners in known.partners.items():
            for b, pair in partners.items():
                at = self.drug[a], self.drug[b]
                self.risk_DD[at] = pair.base_risk_score
                self.severity_DD[at] = SEVERITIES.index(pair.severity)
        self.severe_DD = (self.severity_DD == SEVERE).astype(np.uint8)

    def _read_pools(self, known: Known) -> None:
        """pool_DI: which row of pools_RK; row 0 is nobody."""
        pools: list[list[int]] = [[]]
        self.pool_DI = np.zeros((self.rows, len(self.indication)), dtype=np.int32)
        for name, drug in known.tables.drugs.items():
            for indication in drug.indications:
                pool = known.pool(name, indication)
                self.pool_DI[self.drug[name], self.indication[indication]] = len(pools)
                pools.append([self.drug[new] for new in pool])
        widest = max(1, *map(len, pools))
        self.pools_RK = np.array([p + [self.barred] * (widest - len(p)) for p in pools])

    def _read_criteria(self, known: Known) -> None:
        rows = {self.drug[name]: own for name, own in known.tables.criteria.items()}
        shape = self.rows, max(1, *map(len, rows.values())) if rows else 1
        self.condition: dict[str, int] = {}
        self.needs_DK = np.full(shape, _NEVER)
        self.below_DK = np.full(shape, np.inf)
        self.weight_DK = np.zeros(shape)
        self.dosed_DK = np.zeros(shape, dtype=np.bool_)
        self.flag_DK = np.zeros(shape, dtype=np.int64)
        for drug, criteria in rows.items():
            words = list(dict.fromkeys(map(flag, criteria)))
            for k, criterion in enumerate(criteria):
                at = drug, k
                self.needs_DK[at] = self._need(criterion)
                if criterion.crcl_below is not None:
                    self.below_DK[at] = criterion.crcl_below
                self.weight_DK[at] = RULES.criterion[criterion.criterion_type]
                self.dosed_DK[at] = criterion.criterion_type == "dose_adjust"
                self.flag_DK[at] = 1 << words.index(flag(criterion))

    def _need(self, criterion: Criterion) -> int:
        """What must hold of the patient, as `seed_risk.applies` has it."""
        if criterion.circumstance is not None:
            return _ALWAYS if criterion.condition == OPEN_TO_ALL else _NEVER
        if not criterion.condition:
            return _ALWAYS
        return self.condition.setdefault(criterion.condition, _CIRCUMSTANCES + len(self.condition))

    def holds(self, patients: list[tuple[str, ...]]) -> Array:
        """bool (P, C): what is true of patients with these conditions."""
        holds_PC = np.zeros((len(patients), _CIRCUMSTANCES + len(self.condition)), dtype=np.bool_)
        holds_PC[:, _ALWAYS] = True
        for patient, conditions in enumerate(patients):
            for name in conditions:
                at = self.condition.get(name)
                if at is not None:
                    holds_PC[patient, at] = True
        return holds_PC

    def own(
        self, holds_MC: Array, crcl_M: Array, drug_M: Array, dose_M: Array
    ) -> tuple[Array, Array, Array]:
        """(what each drug risks by itself, how many criteria it breaks, how many flags that shows)."""
        broken_MK = np.take_along_axis(holds_MC, self.needs_DK[drug_M], 1)
        broken_MK &= crcl_M[:, None] < self.below_DK[drug_M]
        broken_MK &= ~(self.dosed_DK[drug_M] & (dose_M[:, None] > 0))
        # one after the other, as the scalar rules add them: the last bit must agree
        weight_M = np.where(broken_MK, self.weight_DK[drug_M], 0.0).cumsum(1)[:, -1]
        shown_M = np.bitwise_or.reduce(np.where(broken_MK, self.flag_DK[drug_M], 0), axis=1)
        return self.own_D[drug_M] + weight_M, broken_MK.sum(1), np.bitwise_count(shown_M)


_arrays: dict[str, Arrays] = {}


def arrays(known: Known) -> Arrays:
    """The arrays of these tables, made once for each version of them."""
    version = known.tables.version
    if version not in _arrays:
        _arrays[version] = Arrays(known)
    return _arrays[version]
