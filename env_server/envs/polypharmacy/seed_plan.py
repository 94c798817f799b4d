"""The best review of a seed task that can be found by someone who sees everything.

Easy: every sequence of interventions, so the optimum. Medium and hard: a beam search over sequences,
the best known planner. Knows the graders; an agent never sees a plan before the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import nlargest
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from env_server.envs.polypharmacy.actions import FINISH, ReviewAction, intervene, query
from env_server.envs.polypharmacy.regimen import Regimen, Slot, reduced, swapped, watched, without
from env_server.envs.polypharmacy.seed_grade import Marks, disruption, reduction
from env_server.envs.polypharmacy.seed_risk import normalised

if TYPE_CHECKING:
    from env_server.envs.polypharmacy.seed_case import SeedCase

_WIDTH = 32  # sequences kept at each length: within .002 of the mean that 200 find on hard patients
_SWAPS = 3  # substitutes tried for one drug: more of them are near copies that crowd the beam
_LESS = 1e-9


@dataclass(frozen=True, slots=True)
class Plan:
    """Queries that find something, then interventions, then finish; what the grader gives for it."""

    actions: tuple[ReviewAction, ...]
    score: float
    risk: float


class _Node(NamedTuple):
    """A sequence so far: where it led and what the graders have seen of it."""

    regimen: Regimen
    total: float  # sum of contributions before it is divided by the length of the list
    changes: tuple[ReviewAction, ...]
    helped: int
    upset: int  # stops and substitutions
    dropped: int  # critical drugs left out
    critical: frozenset[str]
    targeted: bool


class _Move(NamedTuple):
    """One more intervention, worked out only as far as its score."""

    score: float
    node: _Node
    position: int
    kind: str
    started: str | None
    total: float
    helped: bool


def best(case: SeedCase) -> Plan:
    """The best plan found: certified for easy, by beam search otherwise."""
    queries = _telling_queries(case)
    width = None if case.review.task.difficulty == "easy" else _WIDTH
    node, score = _Search(case, 1.0 if queries else 0.0, width).run()
    risk = normalised(node.total, len(node.regimen.slots))
    return Plan((*queries, *node.changes, FINISH), min(max(score, 0.0), 1.0), risk)


def _telling_queries(case: SeedCase) -> tuple[ReviewAction, ...]:
    """Questions about the first list that pay for themselves: severe pairs, then moderate ones."""
    drugs = sorted(s.drug_id for s in case.start.slots)
    found = [(case.finding(a, b).severity, a, b) for a, b in combinations(drugs, 2)]
    telling = [query(a, b) for s in ("severe", "moderate") for t, a, b in found if t == s]
    return tuple(telling[: case.review.query_budget])


class _Search:
    """Sequences of interventions, one longer each round, the best of each length kept."""

    def __init__(self, case: SeedCase, efficiency: float, width: int | None) -> None:
        self.case = case
        self.efficiency = efficiency
        self.width = width  # None keeps and tries everything

    def run(self) -> tuple[_Node, float]:
        drugs = self.case.known.tables.drugs
        ids = [s.drug_id for s in self.case.start.slots]
        first = _Node(
            regimen=self.case.start,
            total=self.case.total(self.case.start),
            changes=(),
            helped=0,
            upset=0,
            dropped=0,
            critical=frozenset(d for d in ids if drugs[d].is_critical),
            targeted=False,
        )
        top, top_score = first, self._score(first, first.total, len(ids))
        beam = [first]
        for _ in range(self.case.review.intervention_budget):
            moves = [move for node in beam for move in self._moves(node)]
            beam = self._kept(moves)
            if beam and (score := self._score_of(beam[0])) > top_score + _LESS:
                top, top_score = beam[0], score
        return top, top_score

    def _kept(self, moves: list[_Move]) -> list[_Node]:
        """The best moves made, those that lead to the same list only once."""
        width = self.width
        kept: dict[frozenset[Slot], _Node] = {}
        # four times the width: the same changes come in several orders
        for move in nlargest(4 * width if width else len(moves), moves, key=lambda m: m.score):
            node = self._made(move)
            kept.setdefault(frozenset(node.regimen.slots), node)
            if width and len(kept) == width:
                break
        return list(kept.values())

    def _score_of(self, node: _Node) -> float:
        return self._score(node, node.total, len(node.regimen.slots))

    def _score(
        self,
        node: _Node,
        total: float,
        drugs: int,
        more: tuple[int, int, int] = (0, 0, 0),
        touched: str = "",
    ) -> float:
        """The grade of `node` and one change more: (helped, upset, dropped) counts, drug touched."""
        case, length = self.case, len(node.changes) + (1 if touched else 0)
        helped, upset, dropped = more
        marks = Marks(
            reduction(case.first_risk, normalised(total, drugs)),
            float(node.targeted or touched in case.in_severe_pair),
            (node.helped + helped) / length if length else 0.0,
            self.efficiency,
            disruption(node.upset + upset, node.dropped + dropped, case.review.intervention_budget),
        )
        return marks.unclipped(case.review.task.difficulty)  # clipped, bad starts all look alike

    def _moves(self, node: _Node) -> Iterator[_Move]:
        case, slots = self.case, node.regimen.slots
        exhaustive = self.width is None
        before = normalised(node.total, len(slots))
        for position, slot in enumerate(slots):
            drug = slot.drug_id
            own, broken = case.contribution(slot)
            pairs = case.pairs_of(drug, slots)
            bare = node.total - own - pairs
            critical = drug in node.critical

            def move(
                kind: str, started: str | None, total: float, drugs: int, broke: int, counts: tuple[int, int],
                position: int = position, broken: int = broken, drug: str = drug,
            ) -> _Move:  # fmt: skip
                helped = normalised(total, drugs) < before - _LESS or broke < broken
                score = self._score(node, total, drugs, (int(helped), *counts), drug)
                return _Move(score, node, position, kind, started, total, helped)

            yield move("stop", None, bare, len(slots) - 1, 0, (1, int(critical)))
            if case.can_reduce(slot):
                lower, broke = case.contribution(slot._replace(dose_step=slot.dose_step + 1))
                # an idle reduction costs nothing: left in, such moves would crowd out all others
                if lower < own or exhaustive:
                    total = bare + lower + pairs
                    yield move("dose_reduce", None, total, len(slots), broke, (0, 0))
            swaps = []
            for started in case.substitutes(node.regimen, slot):
                new, broke = case.contribution(Slot(started, slot.indication))
                total = bare + new + case.pairs_of(started, slots, drug)
                swaps.append(move("substitute", started, total, len(slots), broke, (1, 0)))
            yield from swaps if exhaustive else nlargest(_SWAPS, swaps, key=lambda m: m.score)
            if exhaustive and not slot.monitored:  # moves no grade but easy's
                yield move("add_monitoring", None, node.total, len(slots), broken, (0, 0))

    def _made(self, move: _Move) -> _Node:
        node, position = move.node, move.position
        drug = node.regimen.slots[position].drug_id
        critical, dropped, upset = node.critical, node.dropped, node.upset
        if move.kind == "stop":
            regimen = without(node.regimen, position, None)
            dropped += drug in critical
            critical, upset = critical - {drug}, upset + 1
            action = intervene(drug, "stop")
        elif move.kind == "dose_reduce":
            regimen = reduced(node.regimen, position)
            action = intervene(drug, "dose_reduce")
        elif move.started is not None:
            regimen = swapped(node.regimen, position, move.started)
            heir = self.case.known.tables.drugs[move.started].is_critical or drug in critical
            critical = (critical - {drug}) | ({move.started} if heir else set())
            upset += 1
            action = intervene(drug, "substitute", move.started)
        else:
            regimen = watched(node.regimen, position)
            action = intervene(drug, "add_monitoring")
        return _Node(
            regimen,
            move.total,
            (*node.changes, action),
            node.helped + move.helped,
            upset,
            dropped,
            critical,
            node.targeted or drug in self.case.in_severe_pair,
        )
