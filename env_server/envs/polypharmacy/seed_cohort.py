"""Many reviews of one seed task at once, as arrays: they start together and take their steps together.

Move for move what `ReviewEpisode`, `SeedCase`, the discrete actions and `seed16` do for one review, to the
last bit, at a fraction of the cost. Knows no policy and nothing of review tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from env_server.contract import Episode, clamp_score
from env_server.envs.polypharmacy.actions import INTERVENTION_TYPES
from env_server.envs.polypharmacy.encoding import FINISH_AT, FIRST_CHANGE, KINDS, N_ACTIONS
from env_server.envs.polypharmacy.episode import ReviewEpisode
from env_server.envs.polypharmacy.features import PAIRS, SEED16, SLOTS, Floats
from env_server.envs.polypharmacy.seed_arrays import MODERATE, SEVERE, SEVERITIES, arrays
from env_server.envs.polypharmacy.seed_case import CHARGES, SeedCase
from env_server.envs.polypharmacy.seed_grade import LESS, Marks, disruption, reduction, share
from env_server.envs.polypharmacy.seed_risk import RULES

Array = npt.NDArray[Any]
STOP, REDUCE, SUBSTITUTE, MONITOR = range(KINDS)
_DRUG, _NEED, _DOSE, _WATCHED, _CRITICAL, _BROKEN, _FLAGS = range(7)  # of each place of a list
_WIDE: Final = SLOTS + 1  # a place that is always empty moves up when a drug is stopped
_FIRST: Final = np.array([first for first, _ in PAIRS])
_SECOND: Final = np.array([second for _, second in PAIRS])
_PAIR: Final = np.zeros((SLOTS, SLOTS), dtype=np.int64)
_PAIR[_FIRST, _SECOND] = _PAIR[_SECOND, _FIRST] = np.arange(len(PAIRS))
_OPEN_PAIRS: Final = np.arange(_WIDE)[:, None] > _SECOND  # of a list of each length
_UP_TO: Final = tuple((_FIRST[open_], _SECOND[open_]) for open_ in _OPEN_PAIRS)
_COLUMNS: Final = np.arange(_WIDE)
_FEW: Final = 12  # fewer reviews than this are faster one by one than as arrays
_BONUS: Final = np.array([CHARGES.discovery.get(severity, 0.0) for severity in SEVERITIES])
assert INTERVENTION_TYPES == ("stop", "dose_reduce", "substitute", "add_monitoring")


class IllegalMove(ValueError):
    """An action that the mask shuts was chosen."""


class SeedCohort:
    """E reviews at their start, one a case. P patients, L reviews that still run, M lists that change.

    Satisfies `training.cohort.Cohort`.
    """

    def __init__(self, cases: Sequence[SeedCase]) -> None:
        at: dict[int, int] = {}
        patient_E = np.array([at.setdefault(id(case), len(at)) for case in cases])
        drawn = list({id(case): case for case in cases}.values())
        review = drawn[0].review
        self._difficulty, self._max_steps = review.task.difficulty, review.task.max_steps
        self._queries, self._changes = review.query_budget, review.intervention_budget
        self._tables = arrays(drawn[0].known)
        self._meet(drawn)
        for name in (
            "_places",
            "_own",
            "_severe",
            "_place_of",
            "_list4",
            "_length",
            "_list_open",
            "_stand_in",
        ):
            setattr(self, name, getattr(self, name)[patient_E])
        self._patient, self._risk = patient_E, self._first_risk[patient_E]
        self._begin(len(cases))

    def _meet(self, cases: Sequence[SeedCase]) -> None:
        """What stays with a patient, and the lists as they are first shown."""
        t, many = self._tables, len(cases)
        self._holds = t.holds([case.patient.conditions for case in cases])
        self._crcl = np.array([case.patient.crcl_ml_min for case in cases])
        self._age = np.minimum((np.array([case.patient.age for case in cases]) - 65) / 30, 1.0)
        self._first_risk = np.array([case.first_risk for case in cases])
        self._in_severe_pair = np.zeros((many, t.rows), dtype=np.bool_)
        self._places = np.zeros((many, _WIDE, 7), dtype=np.int16)
        self._places[:, :, _DRUG] = t.none
        for row, case in enumerate(cases):
            slots = case.start.slots
            self._places[row, : len(slots), _DRUG] = [t.drug[s.drug_id] for s in slots]
            self._places[row, : len(slots), _NEED] = [t.indication[s.indication] for s in slots]
            self._in_severe_pair[row, [t.drug[name] for name in case.in_severe_pair]] = True
        drug = self._places[:, :, _DRUG]
        self._longest = int((drug != t.none).sum(1).max())
        self._places[:, :, _CRITICAL] = t.critical_D[drug]
        self._own = np.zeros((many, _WIDE))
        self._patient = np.arange(many)
        rows, at = np.nonzero(drug != t.none)
        self._weigh(rows, at)
        self._severe = t.severe_DD[drug[:, : self._longest]].sum(1, dtype=np.uint8)
        self._place_of = np.full((many, t.rows), -1, dtype=np.int8)
        self._place_of[:, t.barred] = 0
        self._risk = np.zeros(many)
        self._list4 = np.zeros((many, 4), dtype=np.float32)
        self._length = np.zeros(many, dtype=np.int64)
        self._list_open = np.zeros((many, N_ACTIONS), dtype=np.bool_)
        self._list_open[:, FINISH_AT] = True
        self._stand_in = np.zeros((many, self._longest), dtype=np.int64)
        self._look_at(np.arange(many))

    def _begin(self, many: int) -> None:
        self.live: Array = np.arange(many)
        self._steps = 0
        self._asked = np.full((many, self._queries, 2), self._tables.none)
        self._found = np.zeros((many, self._queries), dtype=np.int8)
        self._n_asked = np.zeros(many, dtype=np.int64)
        self._n_severe = np.zeros(many, dtype=np.int64)
        self._n_moderate = np.zeros(many, dtype=np.int64)
        self._risk_found = np.zeros(many)
        self._n_changed = np.zeros(many, dtype=np.int64)
        self._n_helped = np.zeros(many, dtype=np.int64)
        self._n_upset = np.zeros(many, dtype=np.int64)
        self._n_dropped = np.zeros(many, dtype=np.int64)
        self._targeted = np.zeros(many, dtype=np.bool_)
        self._score = np.full(many, np.nan)
        self._look()

    # -- lists --------------------------------------------------------------------------------

    def _weigh(self, rows_M: Array, at_M: Array) -> None:
        """What the drug at one place of each of these lists risks by itself."""
        patient_M = self._patient[rows_M]
        place_MF = self._places[rows_M, at_M]
        own_M, broken_M, flags_M = self._tables.own(
            self._holds[patient_M], self._crcl[patient_M], place_MF[:, _DRUG], place_MF[:, _DOSE]
        )
        self._own[rows_M, at_M] = own_M
        self._places[rows_M, at_M, _BROKEN] = broken_M
        self._places[rows_M, at_M, _FLAGS] = flags_M

    def _look_at(self, rows_M: Array) -> None:
        """All that follows from these lists as they now are."""
        t, n = self._tables, self._longest
        row_M1 = rows_M[:, None]
        places_MPF = self._places[rows_M][:, :n]
        drug_MP = places_MPF[:, :, _DRUG]
        here_MP = drug_MP != t.none
        length_M = here_MP.sum(1)
        self._place_of[rows_M] = -1
        self._place_of[row_M1, drug_MP] = _COLUMNS[:n]
        self._place_of[rows_M, t.none] = -1
        self._place_of[rows_M, t.barred] = 0
        self._risk[rows_M] = self._risk_of(rows_M, drug_MP, length_M)
        self._length[rows_M] = length_M
        flags_MP = places_MPF[:, :, _FLAGS]
        self._list4[rows_M, 0] = length_M / SLOTS
        self._list4[rows_M, 1] = t.high_risk_D[drug_MP].sum(1) / SLOTS
        self._list4[rows_M, 2] = (flags_MP > 0).sum(1) / SLOTS
        self._list4[rows_M, 3] = np.minimum(flags_MP.sum(1) / 30, 1.0)
        stand_in_MP = self._stand_ins(rows_M, drug_MP, places_MPF[:, :, _NEED])
        self._stand_in[rows_M] = stand_in_MP
        open_MPK = np.empty((*drug_MP.shape, KINDS), dtype=np.bool_)
        open_MPK[:, :, STOP] = here_MP
        open_MPK[:, :, REDUCE] = places_MPF[:, :, _DOSE] < t.steps_D[drug_MP]
        open_MPK[:, :, SUBSTITUTE] = stand_in_MP >= 0
        open_MPK[:, :, MONITOR] = here_MP & (places_MPF[:, :, _WATCHED] == 0)
        self._list_open[rows_M, :FIRST_CHANGE] = _OPEN_PAIRS[length_M]
        changes = slice(FIRST_CHANGE, FIRST_CHANGE + KINDS * n)
        self._list_open[rows_M, changes] = open_MPK.reshape(len(rows_M), -1)

    def _risk_of(self, rows_M: Array, drug_MP: Array, length_M: Array) -> Array:
        """`SeedCase.risk`: added up one after the other in its order, since the last bit must agree."""
        by_id_MP = np.sort(drug_MP, 1)
        first, second = _UP_TO[self._longest]
        pairs_MR = self._tables.risk_DD[by_id_MP[:, first], by_id_MP[:, second]]
        total_M = self._own[rows_M].cumsum(1)[:, -1] + pairs_MR.cumsum(1)[:, -1]
        mean_M = total_M / np.maximum(length_M, 1)
        return np.where(length_M > 0, np.minimum(np.maximum(mean_M, 0.0), 1.0), 0.0)

    def _stand_ins(self, rows_M: Array, drug_MP: Array, need_MP: Array) -> Array:
        """The best stand-in at each place, -1 where there is none."""
        t = self._tables
        pool_MPK = t.pools_RK[t.pool_DI[drug_MP, need_MP]]
        row_M11 = rows_M[:, None, None]
        leaving_MPK = t.severe_DD[pool_MPK, drug_MP[:, :, None]]
        fits_MPK = self._severe[row_M11, pool_MPK] == leaving_MPK
        fits_MPK &= self._place_of[row_M11, pool_MPK] < 0
        first_MP1 = fits_MPK.argmax(2)[:, :, None]
        best_MP = np.take_along_axis(pool_MPK, first_MP1, 2)[:, :, 0]
        return np.where(np.take_along_axis(fits_MPK, first_MP1, 2)[:, :, 0], best_MP, -1)

    # -- looking ------------------------------------------------------------------------------

    def _look(self) -> None:
        """What each running review now shows: where the drugs of each question stand, and what is open."""
        live = self.live
        place_LQ2 = self._place_of[live[:, None, None], self._asked[live]]
        self._both = (place_LQ2 >= 0).all(2)
        row_S, query_S = np.nonzero(self._both)
        place_S2 = place_LQ2[row_S, query_S]
        self._open = self._list_open[live]
        self._open[row_S, _PAIR[place_S2[:, 0], place_S2[:, 1]]] = False
        self._open[self._n_asked[live] >= self._queries, :FIRST_CHANGE] = False
        self._open[self._n_changed[live] >= self._changes, FIRST_CHANGE:FINISH_AT] = False

    def mask(self) -> Array:
        """bool (L, A): what is possible now."""
        return self._open

    def features(self) -> Floats:
        """float32 (L, 16): `seed16` of each running review."""
        live = self.live
        asked_L, changed_L = self._n_asked[live], self._n_changed[live]
        severe_L, moderate_L = self._n_severe[live], self._n_moderate[live]
        length_L = self._length[live]
        pairs_L = length_L * (length_L - 1) // 2
        still_L = self._both.sum(1)
        unresolved_L = (self._both & (self._found[live] == SEVERE)).sum(1)
        per_query_L = np.where(asked_L > 0, 1.0 / np.maximum(asked_L, 1), 0.0)
        out = np.empty((len(live), len(SEED16)), dtype=np.float32)
        out[:, :4] = self._list4[live]
        out[:, 4] = (self._queries - asked_L) / self._queries
        out[:, 5] = (self._changes - changed_L) / self._changes
        out[:, 6] = asked_L / self._queries
        out[:, 7] = changed_L / self._changes
        out[:, 8] = severe_L * per_query_L
        out[:, 9] = moderate_L * per_query_L
        out[:, 10] = (asked_L - severe_L - moderate_L) * per_query_L
        out[:, 11] = self._risk_found[live] * per_query_L
        out[:, 12] = np.minimum(unresolved_L / 5, 1.0)
        out[:, 13] = np.where(pairs_L > 0, still_L / np.maximum(pairs_L, 1), 1.0)
        out[:, 14] = self._steps / self._max_steps
        out[:, 15] = self._age[self._patient[live]]
        return out

    # -- acting -------------------------------------------------------------------------------

    def step(self, actions_L: Array) -> Array:
        """Rewards (L,) of one action a running review; those that end leave `live`. Raises IllegalMove."""
        live = self.live
        legal_L = self._open[np.arange(len(live)), actions_L]
        if not legal_L.all():
            which = int(legal_L.argmin())
            raise IllegalMove(
                f"action {int(actions_L[which])} is not possible for review {int(live[which])}; use the mask"
            )
        self._steps += 1
        asks_L = actions_L < FIRST_CHANGE
        ends_L = actions_L == FINISH_AT
        changes_L = ~(asks_L | ends_L)
        rewards_L = np.zeros(len(live))
        rewards_L[asks_L] = self._ask(live[asks_L], actions_L[asks_L])
        if changes_L.any():
            at_M, kind_M = np.divmod(actions_L[changes_L] - FIRST_CHANGE, KINDS)
            rewards_L[changes_L] = self._change(live[changes_L], at_M, kind_M)
        if self._steps >= self._max_steps:
            rewards_L[~ends_L] += CHARGES.timeout
            ends_L[:] = True
        if ends_L.any():
            rewards_L[ends_L] += self._close(live[ends_L])
            self.live = live[~ends_L]
        self._look()
        return rewards_L

    def _ask(self, rows_M: Array, pair_M: Array) -> Array:
        first_M = self._places[rows_M, _FIRST[pair_M], _DRUG]
        second_M = self._places[rows_M, _SECOND[pair_M], _DRUG]
        severity_M = self._tables.severity_DD[first_M, second_M]
        nth_M = self._n_asked[rows_M]
        self._asked[rows_M, nth_M, 0], self._asked[rows_M, nth_M, 1] = first_M, second_M
        self._found[rows_M, nth_M] = severity_M
        self._n_asked[rows_M] += 1
        self._n_severe[rows_M] += severity_M == SEVERE
        self._n_moderate[rows_M] += severity_M == MODERATE
        self._risk_found[rows_M] += self._tables.risk_DD[first_M, second_M]
        bonus_M: Array = _BONUS[severity_M]
        return CHARGES.query + bonus_M

    def _change(self, rows_M: Array, at_M: Array, kind_M: Array) -> Array:
        t = self._tables
        old_MF = self._places[rows_M, at_M]
        drug_M, risk_M = old_MF[:, _DRUG], self._risk[rows_M]
        swaps_M, stops_M = kind_M == SUBSTITUTE, kind_M == STOP
        new_M = np.where(swaps_M, self._stand_in[rows_M, at_M], drug_M)
        dropped_M = stops_M & (old_MF[:, _CRITICAL] > 0)
        new_MF = old_MF.copy()
        new_MF[:, _DRUG] = new_M
        new_MF[:, _DOSE] = np.where(swaps_M, 0, old_MF[:, _DOSE] + (kind_M == REDUCE))
        new_MF[:, _WATCHED] = np.where(swaps_M, 0, old_MF[:, _WATCHED] | (kind_M == MONITOR))
        new_MF[:, _CRITICAL] |= swaps_M & t.critical_D[new_M]
        self._places[rows_M, at_M] = new_MF
        self._weigh(rows_M, at_M)
        left_M = np.where(stops_M, 0, self._places[rows_M, at_M, _BROKEN])
        self._close_up(rows_M[stops_M], at_M[stops_M])
        moved = rows_M[stops_M | swaps_M]
        self._severe[moved] -= t.severe_DD[drug_M[stops_M | swaps_M]]
        self._severe[rows_M[swaps_M]] += t.severe_DD[new_M[swaps_M]]
        self._look_at(rows_M)
        worth_M: Array = risk_M - self._risk[rows_M]
        self._n_changed[rows_M] += 1
        self._n_helped[rows_M] += (worth_M > LESS) | (old_MF[:, _BROKEN] > left_M)
        self._n_upset[rows_M] += stops_M | swaps_M
        self._n_dropped[rows_M] += dropped_M
        self._targeted[rows_M] |= self._in_severe_pair[self._patient[rows_M], drug_M]
        return worth_M + CHARGES.intervention

    def _close_up(self, rows_M: Array, at_M: Array) -> None:
        """Take one drug off each of these lists; those after it move up."""
        from_MW = np.minimum(_COLUMNS + (at_M[:, None] <= _COLUMNS), SLOTS)
        self._places[rows_M] = self._places[rows_M[:, None], from_MW]
        self._own[rows_M] = self._own[rows_M[:, None], from_MW]

    # -- ending -------------------------------------------------------------------------------

    def _close(self, rows_M: Array) -> Array:
        counts = (
            self._first_risk[self._patient[rows_M]],
            self._risk[rows_M],
            self._targeted[rows_M],
            self._n_helped[rows_M],
            self._n_changed[rows_M],
            self._n_severe[rows_M] + self._n_moderate[rows_M],
            self._n_asked[rows_M],
            self._n_upset[rows_M],
            self._n_dropped[rows_M],
        )
        scores_M = np.array(
            [self._grade(*row) for row in zip(*(c.tolist() for c in counts), strict=True)]
        )
        self._score[rows_M] = scores_M
        return scores_M

    def _grade(
        self,
        start: float,
        end: float,
        targeted: bool,
        helped: int,
        changed: int,
        found: int,
        asked: int,
        upset: int,
        dropped: int,
    ) -> float:
        marks = Marks(
            reduction=reduction(start, end),
            targeted=float(targeted),
            precision=share(helped, changed, RULES.precision_of_no_intervention),
            efficiency=share(found, asked, RULES.efficiency_of_no_query),
            disruption=disruption(upset, dropped, self._changes),
        )
        return clamp_score(marks.score(self._difficulty))

    def scores(self) -> list[float]:
        """The grader's score of every review, in [0.001, 0.999]. NaN before its end."""
        scores: list[float] = self._score.tolist()
        return scores


def cohort(episodes: Sequence[Episode]) -> SeedCohort | None:
    """These reviews as arrays; None unless all are of one seed task, on one set of tables, at their start.

    None for a few, too, which are played faster one by one.
    """
    if len(episodes) < _FEW:
        return None
    cases = []
    for episode in episodes:
        if not isinstance(episode, ReviewEpisode) or episode.steps:
            return None
        if not isinstance(episode.case, SeedCase):
            return None
        cases.append(episode.case)
    if any(
        case.review is not cases[0].review or case.known is not cases[0].known for case in cases
    ):
        return None
    return SeedCohort(cases)
