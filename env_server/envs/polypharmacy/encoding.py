"""The 166 discrete actions of a review and their exact mask, with a choice of features.

105 questions (pairs of the 15 places on the list), 60 changes (four kinds a place), finish. Places are
those of the list as it stands, so an index means another drug once the list has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import numpy.typing as npt

from env_server.contract import Action, Encoding, Episode, Observation, RoundsError, nearest
from env_server.envs.polypharmacy.actions import (
    FINISH,
    INTERVENTION_TYPES,
    ReviewAction,
    intervene,
    query,
)
from env_server.envs.polypharmacy.drug_features import DrugFeatures, Layout
from env_server.envs.polypharmacy.features import (
    PAIR_AT,
    PAIRS,
    SEED16,
    SLOTS,
    Floats,
    OfList,
    SlotFeatures,
    places_of,
    seed16,
)
from env_server.envs.polypharmacy.observation import ReviewObservation

if TYPE_CHECKING:
    from env_server.envs.polypharmacy.seed_cohort import SeedCohort

KINDS: Final = len(INTERVENTION_TYPES)
FIRST_CHANGE: Final = len(PAIRS)
FINISH_AT: Final = FIRST_CHANGE + SLOTS * KINDS
N_ACTIONS: Final = FINISH_AT + 1
NAMES: Final = ("slots", "seed16", "drugs")  # the first is the default

Mask = npt.NDArray[np.bool_]


class UnknownEncoding(RoundsError, KeyError):
    """The family has no encoding of that name."""

    __str__ = Exception.__str__


class NoSuchPlace(RoundsError, IndexError):
    """A discrete action names a place that the list does not have."""


def _open_pairs(drugs: int) -> Mask:
    return np.array([second < drugs for _, second in PAIRS])


_PAIRS_OF: Final = tuple(_open_pairs(n) for n in range(SLOTS + 1))


def _list_mask(seen: ReviewObservation) -> tuple[Mapping[str, int], Mask]:
    """(where each drug stands, what is possible on this list while budgets last)."""
    places, replaceable = places_of(seen), set(seen.substitutable)
    mask = np.zeros(N_ACTIONS, dtype=np.bool_)
    mask[FINISH_AT] = True
    mask[:FIRST_CHANGE] = _PAIRS_OF[len(places)]
    mask[FIRST_CHANGE : FIRST_CHANGE + KINDS * len(places)] = [
        possible
        for m in seen.current_medications
        for possible in (True, m.can_reduce, m.drug_id in replaceable, not m.monitored)
    ]
    return places, mask


_OF_LIST: Final = OfList(_list_mask)


class ReviewEncoding:
    """A review as numbers. Satisfies `contract.Encoding`; the same for all six tasks."""

    n_actions = N_ACTIONS

    def __init__(
        self,
        size: int,
        features: Callable[[ReviewObservation], Floats],
        layout: Layout | None = None,
    ) -> None:
        self.size = size
        self.layout = layout  # for networks that share weights between places; None: a plain vector
        self._features = features

    def features(self, observation: Observation) -> Floats:
        """float32 array of shape (size,)."""
        return self._features(cast(ReviewObservation, observation))

    def mask(self, observation: Observation) -> Mask:
        """bool array of shape (166,): exactly the indices whose action is legal; none once done."""
        seen = cast(ReviewObservation, observation)
        if seen.done:
            return np.zeros(N_ACTIONS, dtype=np.bool_)
        places, of_list = _OF_LIST(seen)
        mask = of_list.copy()
        if seen.remaining_query_budget <= 0:
            mask[:FIRST_CHANGE] = False
        else:
            for asked in seen.interaction_queries:
                at = _pair_at(places, asked.drug_id_1, asked.drug_id_2)
                if at is not None:
                    mask[at] = False
        if seen.remaining_intervention_budget <= 0:
            mask[FIRST_CHANGE:FINISH_AT] = False
        return mask

    def action(self, observation: Observation, index: int) -> Action:
        """The action of `index` on the list as it stands; a substitution takes the best listed drug.

        Raises NoSuchPlace where the list is too short for it, or `index` is outside [0, 166).
        """
        drugs = cast(ReviewObservation, observation).current_medications
        if not 0 <= index < N_ACTIONS:
            raise NoSuchPlace(f"no discrete action {index}; a review has 0 to {FINISH_AT}")
        if index == FINISH_AT:
            return FINISH
        if index < FIRST_CHANGE:
            first, second = PAIRS[index]
            _demand(second, len(drugs), index)
            return query(drugs[first].drug_id, drugs[second].drug_id)
        place, kind = divmod(index - FIRST_CHANGE, KINDS)
        _demand(place, len(drugs), index)
        return intervene(drugs[place].drug_id, INTERVENTION_TYPES[kind])

    def together(self, episodes: Sequence[Episode]) -> SeedCohort | None:
        """The same reviews as arrays, at their start; None where they can only be played one by one.

        What it shows of each is what `features` and `mask` make of its observations, to the last bit.
        """
        from env_server.envs.polypharmacy.seed_cohort import cohort

        return cohort(episodes) if self._features is seed16 else None

    def index(self, observation: Observation, action: Action) -> int | None:
        """The index of `action`; None for a named substitute or a drug that is not on the list.

        A free-text rationale is not part of what an index says.
        """
        if not isinstance(action, ReviewAction):
            return None
        if action.action_type == "finish_review":
            return FINISH_AT
        drugs = cast(ReviewObservation, observation).current_medications
        slot_of = {m.drug_id: at for at, m in enumerate(drugs)}
        if action.action_type == "query_ddi":
            return _pair_at(slot_of, action.drug_id_1 or "", action.drug_id_2 or "")
        place = slot_of.get(action.target_drug_id or "")
        if place is None or action.proposed_new_drug_id or action.intervention_type is None:
            return None
        return FIRST_CHANGE + KINDS * place + INTERVENTION_TYPES.index(action.intervention_type)


def _pair_at(slot_of: Mapping[str, int], drug_a: str, drug_b: str) -> int | None:
    first, second = slot_of.get(drug_a), slot_of.get(drug_b)
    if first is None or second is None:
        return None
    return PAIR_AT.get((first, second) if first < second else (second, first))


def _demand(place: int, drugs: int, index: int) -> None:
    if place >= drugs:
        raise NoSuchPlace(
            f"discrete action {index} means place {place + 1} of a list of {drugs}; use the mask"
        )


@lru_cache(maxsize=8)
def encoding(task_name: str, name: str = "default", tables: str | None = None) -> Encoding:
    """The encoding called `name` (`default` is `slots`). Raises UnknownEncoding.

    All tasks share one layout, so that one network can play them all; `task_name` is for the caller's words.
    """
    if name in ("default", "slots"):
        features = SlotFeatures(tables)
        return ReviewEncoding(features.size, features)
    if name == "seed16":
        return ReviewEncoding(len(SEED16), seed16)
    if name == "drugs":
        drugs = DrugFeatures(tables)
        return ReviewEncoding(drugs.size, drugs, drugs.layout)
    raise UnknownEncoding(
        f"{task_name} has no encoding {name!r}{nearest(name, NAMES)}; encodings: {', '.join(NAMES)}"
    )
