"""One medication review, step by step: budgets, refusals, the clock and the books.

Long because a third of it is the `Case` protocol that both kinds of task fill in.

What a regimen is worth and how a review is graded comes from the `Case` (`seed_case.py`,
`review_case.py`); this file knows only the order of events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from types import MappingProxyType
from typing import Any, Protocol

from env_server.contract import (
    NOTHING,
    Action,
    EpisodeOver,
    EpisodeRunning,
    JsonObject,
    Refusal,
    Split,
    Step,
    Task,
    clamp_score,
    nearest,
)
from env_server.envs.polypharmacy.actions import (
    FINISH,
    INTERVENTION_TYPES,
    ReviewAction,
    intervene,
    query,
)
from env_server.envs.polypharmacy.observation import (
    InteractionQuery,
    Intervention,
    Medication,
    ReviewObservation,
)
from env_server.envs.polypharmacy.patient import Patient
from env_server.envs.polypharmacy.regimen import Regimen, Slot, reduced, swapped, watched, without
from env_server.envs.polypharmacy.tasks import ReviewTask


@dataclass(frozen=True, slots=True)
class Finding:
    """What the reference work says of a pair."""

    severity: str
    recommendation: str
    risk_score: float
    mechanism: str


@dataclass(frozen=True, slots=True)
class Charges:
    """What events cost (negative) or pay, in units of reward."""

    query: float
    intervention: float
    invalid: float
    timeout: float
    discovery: Mapping[str, float]  # bonus by severity found


@dataclass(frozen=True, slots=True)
class Books:
    """What a finished review is graded on."""

    regimen: Regimen
    queries: tuple[InteractionQuery, ...]
    interventions: tuple[Intervention, ...]
    worth: tuple[float, ...]  # change of value of each intervention, uncredited
    supported: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Grade:
    """A raw score (clamped by the episode) and what may be told once it is over."""

    score: float
    outcome: Mapping[str, Any]


class Case(Protocol):
    """A patient under a task's rules: everything that stays the same while the review goes on.

    Shared by all episodes of one (task, seed, split) and by their copies; pure, so it may remember.
    """

    review: ReviewTask
    patient: Patient
    start: Regimen
    charges: Charges

    def value(self, regimen: Regimen) -> float:
        """The potential: higher is better. Its change is what an intervention pays."""
        ...

    def finding(self, drug_a: str, drug_b: str) -> Finding: ...

    def medication(self, regimen: Regimen, slot: Slot) -> Medication: ...

    def view(self, regimen: Regimen) -> Mapping[str, Any]: ...

    def can_reduce(self, slot: Slot) -> bool: ...

    def abrupt(self, slot: Slot) -> bool:
        """Whether stopping this drug at this dose leaves a withdrawal behind."""
        ...

    def substitutes(self, regimen: Regimen, slot: Slot) -> tuple[str, ...]:
        """Drugs that may replace it now, best first; empty where there is none."""
        ...

    def credit(
        self, regimen: Regimen, slot: Slot, queries: tuple[InteractionQuery, ...], worth: float
    ) -> tuple[float, bool]:
        """(what a change of this slot worth `worth` is credited with, whether it was supported)."""
        ...

    def grade(self, books: Books) -> Grade: ...

    def info(self, regimen: Regimen, grade: Grade | None) -> Mapping[str, Any]:
        """What `Step.info` tells; nothing hidden in review tasks. `grade` is None until the end."""
        ...


@dataclass(frozen=True, slots=True)
class Shown:
    """What an observation shows of one regimen."""

    regimen: Regimen
    medications: tuple[Medication, ...]
    substitutable: tuple[str, ...]
    view: Mapping[str, Any]


@dataclass(slots=True)
class ReviewEpisode:
    """One review, played once. Satisfies `contract.Episode`."""

    case: Case
    seed: int
    split: Split
    episode_id: str
    regimen: Regimen
    queries: tuple[InteractionQuery, ...] = ()
    interventions: tuple[Intervention, ...] = ()
    worth: tuple[float, ...] = ()
    supported: tuple[bool, ...] = ()
    steps: int = 0
    refusals: int = 0
    done: bool = False
    _asked: frozenset[tuple[str, str]] = frozenset()
    _grade: Grade | None = None
    _last: tuple[float, Mapping[str, float], Refusal | None] = (0.0, NOTHING, None)
    _seen: ReviewObservation | None = field(default=None, repr=False)
    _shown: Shown | None = field(default=None, repr=False)

    @property
    def task(self) -> Task:
        return self.case.review.task

    @property
    def queries_left(self) -> int:
        return self.case.review.query_budget - len(self.queries)

    @property
    def interventions_left(self) -> int:
        return self.case.review.intervention_budget - len(self.interventions)

    # -- looking ------------------------------------------------------------------------------

    def observe(self) -> ReviewObservation:
        if self._seen is None:
            self._seen = self._look()
        return self._seen

    def _look(self) -> ReviewObservation:
        case, shown = self.case, self._show()
        reward, parts, refusal = self._last
        over = self._grade
        return ReviewObservation(
            episode_id=self.episode_id,
            task_id=self.task.name,
            patient=case.patient,
            current_medications=shown.medications,
            interaction_queries=self.queries,
            interventions=self.interventions,
            step_index=self.steps,
            max_steps=self.task.max_steps,
            remaining_query_budget=self.queries_left,
            remaining_intervention_budget=self.interventions_left,
            legal_action_types=self._legal_types(),
            substitutable=shown.substitutable,
            view=shown.view,
            shaped_reward=reward,
            reward_parts=parts,
            refusal=refusal,
            done=self.done,
            score=clamp_score(over.score) if over else None,
            outcome=over.outcome if over else None,
        )

    def _show(self) -> Shown:
        """The list as it is seen; most steps leave it as it was, so it is kept until it changes."""
        case, regimen = self.case, self.regimen
        shown = self._shown
        if shown is None or shown.regimen is not regimen:
            shown = self._shown = Shown(
                regimen,
                tuple([case.medication(regimen, s) for s in regimen.slots]),
                tuple([s.drug_id for s in regimen.slots if case.substitutes(regimen, s)]),
                case.view(regimen),
            )
        return shown

    def _legal_types(self) -> tuple[str, ...]:
        if self.done:
            return ()
        n = len(self.regimen.slots)
        types = ["finish_review"]
        if self.interventions_left > 0 and n:
            types.insert(0, "propose_intervention")
        if self.queries_left > 0 and n > 1 and self._unasked():
            types.insert(0, "query_ddi")
        return tuple(types)

    def _unasked(self) -> bool:
        n = len(self.regimen.slots)
        if len(self._asked) < n * (n - 1) // 2:
            return True
        return any(p not in self._asked for p in self._pairs())

    def _pairs(self) -> list[tuple[str, str]]:
        return list(combinations(sorted(s.drug_id for s in self.regimen.slots), 2))

    def legal_actions(self) -> Sequence[Action]:
        """Queries of unasked pairs, then changes drug by drug, then finish; a fixed order."""
        if self.done:
            return ()
        actions: list[Action] = []
        if self.queries_left > 0:
            actions += [query(*pair) for pair in self._pairs() if pair not in self._asked]
        if self.interventions_left > 0:
            for slot in self.regimen.slots:
                actions += self._legal_changes(slot)
        return (*actions, FINISH)

    def _legal_changes(self, slot: Slot) -> list[ReviewAction]:
        drug = slot.drug_id
        changes = [intervene(drug, "stop")]
        if self.case.can_reduce(slot):
            changes.append(intervene(drug, "dose_reduce"))
        substitutes = self.case.substitutes(self.regimen, slot)
        if substitutes:
            changes.append(intervene(drug, "substitute"))
            changes += [intervene(drug, "substitute", new) for new in substitutes]
        if not slot.monitored:
            changes.append(intervene(drug, "add_monitoring"))
        return changes

    def state(self) -> JsonObject:
        return {
            "episode_id": self.episode_id,
            "task_id": self.task.name,
            "step_count": self.steps,
            "max_steps": self.task.max_steps,
            "num_query_actions": len(self.queries),
            "num_interventions": len(self.interventions),
        }

    # -- acting -------------------------------------------------------------------------------

    def step(self, action: Action | Refusal) -> Step:
        self._demand_running()
        self.steps += 1
        parts: dict[str, float] = {}
        refusal = action if isinstance(action, Refusal) else self._act(action, parts)
        if refusal is not None:
            self.refusals += 1
            parts = {"invalid": self.case.charges.invalid}
        if not self.done and self.steps >= self.task.max_steps:
            parts["timeout"] = self.case.charges.timeout
            self.done = True
        if self.done:
            parts["score"] = self._close()
        reward = sum(parts.values())
        self._last = (reward, MappingProxyType(parts), refusal)
        self._seen = None
        return Step(
            self.observe(),
            reward,
            self._last[1],
            self.done,
            refusal,
            self.case.info(self.regimen, self._grade),
        )

    def _demand_running(self) -> None:
        if self.done:
            raise EpisodeOver(f"episode {self.episode_id} has ended; begin another one")

    def _act(self, action: Action, parts: dict[str, float]) -> Refusal | None:
        if not isinstance(action, ReviewAction):
            return Refusal(
                "malformed", f"{type(action).__name__} is not a medication review action"
            )
        if action.action_type == "query_ddi":
            return self._ask(action, parts)
        if action.action_type == "propose_intervention":
            return self._change(action, parts)
        self.done = True
        return None

    def _ask(self, action: ReviewAction, parts: dict[str, float]) -> Refusal | None:
        if self.queries_left <= 0:
            return Refusal("budget", "no queries left; change the regimen or finish_review")
        first, second = action.drug_id_1 or "", action.drug_id_2 or ""
        for drug in (first, second):
            if self.regimen.position(drug) is None:
                return self._not_taken(drug)
        pair = (first, second) if first < second else (second, first)
        if first == second:
            return Refusal("illegal", f"a query needs two different drugs, not {first!r} twice")
        if pair in self._asked:
            return Refusal("illegal", f"{pair[0]} with {pair[1]} was asked before")
        found = self.case.finding(*pair)
        self._asked |= {pair}
        self.queries = (
            *self.queries,
            InteractionQuery(
                *pair,
                found.severity,
                found.recommendation,
                found.risk_score,
                found.mechanism,
                self.steps,
            ),
        )
        parts["query"] = self.case.charges.query
        if bonus := self.case.charges.discovery.get(found.severity):
            parts["discovery"] = bonus
        return None

    def _change(self, action: ReviewAction, parts: dict[str, float]) -> Refusal | None:
        if self.interventions_left <= 0:
            return Refusal("budget", "no interventions left; finish_review")
        target, kind = action.target_drug_id or "", action.intervention_type
        position = self.regimen.position(target)
        if position is None:
            return self._not_taken(target)
        slot = self.regimen.slots[position]
        started: str | None = None
        if kind == "stop":
            after = without(self.regimen, position, target if self.case.abrupt(slot) else None)
        elif kind == "dose_reduce":
            if not self.case.can_reduce(slot):
                return Refusal("illegal", f"{target} is at its lowest dose; stop or substitute it")
            after = reduced(self.regimen, position)
        elif kind == "add_monitoring":
            if slot.monitored:
                return Refusal("illegal", f"{target} is monitored already")
            after = watched(self.regimen, position)
        elif kind == "substitute":
            options = self.case.substitutes(self.regimen, slot)
            started = action.proposed_new_drug_id or (options[0] if options else None)
            if started is None or started not in options:
                return self._no_substitute(target, started, options)
            after = swapped(self.regimen, position, started)
        else:
            known = ", ".join(INTERVENTION_TYPES)
            return Refusal("malformed", f"intervention_type {kind!r} is none of {known}")
        self._record(action, slot, started, after, parts)
        return None

    def _record(
        self,
        action: ReviewAction,
        slot: Slot,
        started: str | None,
        after: Regimen,
        parts: dict[str, float],
    ) -> None:
        worth = self.case.value(after) - self.case.value(self.regimen)
        credited, supported = self.case.credit(self.regimen, slot, self.queries, worth)
        self.worth += (worth,)
        self.supported += (supported,)
        self.interventions += (
            Intervention(
                slot.drug_id,
                action.intervention_type or "stop",
                started,
                action.rationale or "",
                self.steps,
            ),
        )
        self.regimen = after
        parts["regimen"] = credited
        parts["intervention"] = self.case.charges.intervention

    def _close(self) -> float:
        self._grade = self.case.grade(
            Books(self.regimen, self.queries, self.interventions, self.worth, self.supported)
        )
        return clamp_score(self._grade.score)

    def _not_taken(self, drug: str) -> Refusal:
        taken = tuple(s.drug_id for s in self.regimen.slots)
        return Refusal("illegal", f"{drug!r} is not on the list{nearest(drug, taken)}")

    def _no_substitute(self, target: str, wanted: str | None, options: tuple[str, ...]) -> Refusal:
        if not options:
            return Refusal("illegal", f"no listed substitute for {target} is safe here")
        why = f"{wanted!r} cannot replace {target} here; possible: {', '.join(options)}"
        return Refusal("illegal", why)

    # -- ending -------------------------------------------------------------------------------

    def score(self) -> float:
        return clamp_score(self._ended().score)

    def outcome(self) -> Mapping[str, Any]:
        return self._ended().outcome

    def _ended(self) -> Grade:
        if self._grade is None:
            raise EpisodeRunning(f"episode {self.episode_id} has not ended; finish_review first")
        return self._grade

    def copy(self) -> ReviewEpisode:
        return ReviewEpisode(**{name: getattr(self, name) for name in ReviewEpisode.__slots__})


Begin = Callable[[str, int, Split], Case]
