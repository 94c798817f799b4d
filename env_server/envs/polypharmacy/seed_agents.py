"""Players of a review that need no learning: the seed's heuristics, random, and the degenerate canaries.

They see observations and legal actions only; `SeedReference` alone sees the case. What a good grader
must not reward is here on purpose: every table shows `blind_stop` beside the heuristic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, cast

from env_server.contract import Action, AgentCard, Episode, Observation
from env_server.envs.polypharmacy.actions import FINISH, ReviewAction, intervene, query
from env_server.envs.polypharmacy.observation import InteractionQuery, Medication, ReviewObservation
from env_server.envs.polypharmacy.tasks import REVIEWS
from env_server.seeds import Stream

if TYPE_CHECKING:
    from env_server.envs.polypharmacy.episode import ReviewEpisode
    from env_server.envs.polypharmacy.seed_case import SeedCase

Legal = Callable[[], Sequence[Action]]
PairOrder = Callable[[tuple[Medication, ...]], Iterable[tuple[Medication, Medication]]]
SEED_TASKS = tuple(name for name, review in REVIEWS.items() if review.kind == "seed")


# -- the seed's heuristics --------------------------------------------------------------------


def list_order(medications: tuple[Medication, ...]) -> Iterable[tuple[Medication, Medication]]:
    """Every pair in the order of the list: the specification's."""
    return combinations(medications, 2)


def high_risk_first(
    medications: tuple[Medication, ...],
) -> Iterable[tuple[Medication, Medication]]:
    """Pairs of two high-risk drugs, then of one, then the rest: the README's."""
    return sorted(
        combinations(medications, 2),
        key=lambda pair: -pair[0].is_high_risk_elderly - pair[1].is_high_risk_elderly,
    )


class SeedHeuristic:
    """Ask about pairs while the budget lasts, then defuse every severe pair found, then finish."""

    def __init__(self, order: PairOrder = list_order) -> None:
        self._order = order

    def act(self, observation: Observation, legal: Legal) -> Action:
        seen = cast(ReviewObservation, observation)
        return self._question(seen) or self._change(seen, legal) or FINISH

    def _question(self, seen: ReviewObservation) -> ReviewAction | None:
        # all questions come before the first change
        if seen.remaining_query_budget <= 0 or seen.interventions:
            return None
        asked = {(q.drug_id_1, q.drug_id_2) for q in seen.interaction_queries}
        for first, second in self._order(seen.current_medications):
            question = query(first.drug_id, second.drug_id)
            if (question.drug_id_1, question.drug_id_2) not in asked:
                return question
        return None

    def _change(self, seen: ReviewObservation, legal: Legal) -> ReviewAction | None:
        """Substitute a drug of the first severe pair still taken, else stop its higher-risk drug."""
        if seen.remaining_intervention_budget <= 0:
            return None
        taken = {m.drug_id: m for m in seen.current_medications}
        for pair in filter(_is_severe, seen.interaction_queries):
            if pair.drug_id_1 in taken and pair.drug_id_2 in taken:
                both = sorted((taken[pair.drug_id_1], taken[pair.drug_id_2]), key=_danger)
                possible = set(legal())
                for drug in both:
                    swap = intervene(drug.drug_id, "substitute")
                    if swap in possible:
                        return swap
                return intervene(both[0].drug_id, "stop")
        return None


def _is_severe(found: InteractionQuery) -> bool:
    return found.severity == "severe"


def _danger(drug: Medication) -> tuple[bool, int, str]:
    """Sorts the higher-risk drug first: high-risk in old age, then more flags, then by id."""
    return (not drug.is_high_risk_elderly, -len(drug.beers_flags), drug.drug_id)


class SeedReference:
    """Plays the best plan known: telling queries, then the planned interventions, then finish."""

    def __init__(self, episode: Episode) -> None:
        case = cast("SeedCase", cast("ReviewEpisode", episode).case)
        self._left = iter(case.plan().actions)

    def act(self, observation: Observation, legal: Legal) -> Action:
        return next(self._left, FINISH)


# -- random and degenerate --------------------------------------------------------------------


class Random:
    """Draws a form among those possible, then an action of that form.

    Uniform over actions would hardly ever finish: one action of eighty ends a long review.
    """

    def __init__(self, episode: Episode) -> None:
        self._stream = Stream("random", episode.task.name, episode.split, episode.seed)

    def act(self, observation: Observation, legal: Legal) -> Action:
        by_form: dict[str, list[Action]] = {}
        for action in legal():
            by_form.setdefault(cast(ReviewAction, action).action_type, []).append(action)
        return self._stream.choice(by_form[self._stream.choice(list(by_form))])


class BlindStop:
    """Stops flagged drugs, most flags first, and asks nothing.

    Flagged is high-risk in old age, or under a criterion that applies. No need is ever weighed.
    """

    def act(self, observation: Observation, legal: Legal) -> Action:
        seen = cast(ReviewObservation, observation)
        flagged = [m for m in seen.current_medications if _flags(m)]
        if not flagged or seen.remaining_intervention_budget <= 0:
            return FINISH
        return intervene(max(flagged, key=_flags).drug_id, "stop")


def _flags(drug: Medication) -> int:
    return len(drug.beers_flags) + drug.is_high_risk_elderly


class StopEverything:
    """Stops the first drug on the list while interventions last."""

    def act(self, observation: Observation, legal: Legal) -> Action:
        seen = cast(ReviewObservation, observation)
        if not seen.current_medications or seen.remaining_intervention_budget <= 0:
            return FINISH
        return intervene(seen.current_medications[0].drug_id, "stop")


class QueryOnly:
    """Asks about pairs in list order while queries last, and changes nothing."""

    def act(self, observation: Observation, legal: Legal) -> Action:
        return next(
            (a for a in legal() if cast(ReviewAction, a).action_type == "query_ddi"), FINISH
        )


class FirstLegal:
    """Takes the first legal action each time."""

    def act(self, observation: Observation, legal: Legal) -> Action:
        return legal()[0]


class RepeatAction:
    """Repeats its first action until the clock runs out, whether or not it is refused."""

    def __init__(self) -> None:
        self._action: Action | None = None

    def act(self, observation: Observation, legal: Legal) -> Action:
        self._action = self._action or legal()[0]
        return self._action


class FinishAtOnce:
    """Closes the review without looking."""

    def act(self, observation: Observation, legal: Legal) -> Action:
        return FINISH


CARDS: tuple[AgentCard, ...] = (
    AgentCard("random", "random", Random, "a form at random, then an action of that form"),
    AgentCard(
        "heuristic_highrisk",
        "heuristic",
        lambda episode: SeedHeuristic(high_risk_first),
        "the seed's heuristic with high-risk pairs first (README)",
        tasks=SEED_TASKS,
    ),
    AgentCard(
        "blind_stop",
        "canary",
        lambda episode: BlindStop(),
        "stops flagged drugs and asks nothing: games the seed graders",
    ),
    AgentCard(
        "finish_at_once", "canary", lambda episode: FinishAtOnce(), "closes the review at once"
    ),
    AgentCard(
        "first_legal", "canary", lambda episode: FirstLegal(), "takes the first legal action"
    ),
    AgentCard(
        "query_only", "canary", lambda episode: QueryOnly(), "asks while it can, changes nothing"
    ),
    AgentCard(
        "stop_everything",
        "canary",
        lambda episode: StopEverything(),
        "stops the first drug on the list while it can",
    ),
    AgentCard(
        "repeat_action", "canary", lambda episode: RepeatAction(), "repeats its first action"
    ),
)
