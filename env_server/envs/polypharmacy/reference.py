"""The best review that the budget allows, found exactly: branch and bound over interventions.

A plan is a set of changes to drugs that give a reason to be changed (an interacting pair, a
criterion, a set effect of the starting list). Knows nothing of queries beyond "a pair can be asked".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from env_server.envs.polypharmacy.harm import HarmModel
from env_server.envs.polypharmacy.reference_bound import Bound, Partial, largest, promising
from env_server.envs.polypharmacy.reference_options import TINY, Change, Choices, Swaps
from env_server.envs.polypharmacy.reference_starts import Fits, Standing, Starts
from env_server.envs.polypharmacy.regimen import Regimen, reduced, swapped, watched, without

__all__ = ["Change", "Optimum", "apply", "optimum"]


@dataclass(frozen=True, slots=True)
class Optimum:
    """A certified best plan. `value` is U after it; `nodes` is how many partial plans were looked at."""

    value: float
    regimen: Regimen
    changes: tuple[Change, ...]
    nodes: int


Orders = Callable[[tuple[Change, ...]], bool]


def optimum(
    harm: HarmModel,
    start: Regimen,
    budget: int,
    swaps: Swaps,
    fits: Fits,
    playable: Orders,
) -> Optimum:
    """The regimen of highest U within `budget` interventions, and the changes that lead to it.

    `swaps(slot)` lists substitutes before the rest of the list is looked at; `fits(drug, rest)` looks
    at the rest, drug by drug; `playable(changes)` says whether some order of the changes is accepted
    and justified step by step, and is asked only of plans that would be the best so far.
    """
    search = Search(harm, start, budget, swaps, fits, playable)
    search.descend(search.bound.root, budget, (), 0.0, Standing())
    return Optimum(search.best_value, search.best_regimen, search.best, search.nodes)


class Search:
    """Depth-first over drugs in order of promise; a bound drops what cannot beat the best found.

    `tests/test_reference.py` holds the result against brute force.
    """

    def __init__(
        self,
        harm: HarmModel,
        start: Regimen,
        budget: int,
        swaps: Swaps,
        fits: Fits,
        playable: Orders,
    ) -> None:
        self.harm, self.start, self.playable = harm, start, playable
        self.best_value = harm.value(start)
        self.best: tuple[Change, ...] = ()
        self.best_regimen = start
        self.nodes = 0
        effects = harm.set_effects(start.slots)
        choices = Choices(harm, start, effects, budget, swaps)
        options = promising(harm, start.slots, choices, effects, budget)
        self.bound = Bound(harm, start.slots, options, choices.certain)
        self.starts = Starts(start.slots, fits)
        order = self.bound.order
        self._open_to = [sum(1 << i for i in order[k:]) for k in range(len(order) + 1)]

    def descend(
        self,
        partial: Partial,
        left: int,
        changes: tuple[Change, ...],
        disruption: float,
        standing: Standing,
    ) -> None:
        """Change one more drug at or after the position in every way that the bound leaves open."""
        self.nodes += 1
        floor = self.harm.harm(partial.hazard) + partial.unmet + disruption
        if changes and not standing.must and floor < -self.best_value - TINY:
            self._consider(partial, changes)
        if left == 0 or partial.position == len(self.bound.order):
            return
        found = (
            self._open(partial, left, floor, standing)
            if left > 1
            else self.bound.last(partial, floor + self.best_value + TINY)
        )
        for k, n in found:
            option = self.bound.options[k][n]
            rest = left - len(option.changes)
            after = self.starts.after(standing, self.bound.order[k], option, self._open_to[k + 1])
            if after is None or after.must.bit_count() > rest:
                continue
            self.descend(
                self.bound.settle(partial, k, n, over=rest == 0),
                rest,
                changes + option.changes,
                disruption + option.disruption,
                after,
            )

    def _open(
        self, partial: Partial, left: int, floor: float, standing: Standing
    ) -> Iterator[tuple[int, int]]:
        """Drugs (by place in the order) and options that may lead to a better plan than the best.

        The best is looked at again at each step, for it may have been found meanwhile.
        """
        nets, alone, shared, chord = self.bound.promise(partial, left)
        promise = [max(row) for row in nets]
        single = [max(row) for row in alone]
        rests, rests_alone = largest(promise, left), largest(single, left)
        for k, row in enumerate(nets):
            needed = floor + self.best_value + TINY
            if min(rests[k][left], shared + rests_alone[k][left]) <= needed:
                return
            if standing.must & ~self._open_to[partial.position + k]:
                return  # a drug that had to leave was passed over
            after, after_alone = rests[k + 1], rests_alone[k + 1]
            most = min(promise[k] + after[left - 1], single[k] + shared + after_alone[left - 1])
            if most <= needed:
                continue  # no plan that changes this drug is good enough
            options = self.bound.options[partial.position + k]
            for n in range(len(row)):
                option = options[n]
                rest = left - len(option.changes)
                if rest < 0:
                    continue
                most = min(row[n] + after[rest], alone[k][n] + shared + after_alone[rest])
                if rest == 0:  # nothing follows: H itself instead of its chord
                    gain = (row[n] + option.price) / chord
                    most = min(most, self._gained(partial.hazard, gain) - option.price)
                if most > floor + self.best_value + TINY:
                    yield partial.position + k, n

    def _gained(self, total: float, gain: float) -> float:
        """By how much H falls when `gain` of the hazard goes."""
        return self.harm.harm(total) - self.harm.harm(max(0.0, total - gain))

    # -- what a plan comes to -----------------------------------------------------------------

    def _consider(self, partial: Partial, changes: tuple[Change, ...]) -> None:
        regimen = self._regimen(partial, changes)
        value = self.harm.value(regimen)
        if value > self.best_value + TINY and self.playable(changes):
            self.best_value, self.best_regimen, self.best = value, regimen, changes

    def _regimen(self, partial: Partial, changes: tuple[Change, ...]) -> Regimen:
        kinds = [c.kind for c in changes]
        return Regimen(
            tuple(s for s in partial.now if s is not None),
            withdrawn=self._withdrawn(changes),
            stopped=kinds.count("stop"),
            substituted=kinds.count("substitute"),
            reduced=kinds.count("dose_reduce"),
            monitors=kinds.count("add_monitoring"),
        )

    def _withdrawn(self, changes: tuple[Change, ...]) -> tuple[str, ...]:
        lowered = {c.drug_id for c in changes if c.kind == "dose_reduce"}
        drugs = self.harm.tables.drugs
        return tuple(
            c.drug_id
            for c in changes
            if c.kind == "stop" and drugs[c.drug_id].needs_taper and c.drug_id not in lowered
        )


def apply(regimen: Regimen, change: Change, abrupt: bool) -> Regimen:
    """The list after one change of a plan. Raises ValueError where the drug is not on it."""
    position = regimen.position(change.drug_id)
    if position is None:
        raise ValueError(f"{change.drug_id} is not on the list")
    if change.kind == "stop":
        return without(regimen, position, change.drug_id if abrupt else None)
    if change.kind == "dose_reduce":
        return reduced(regimen, position)
    if change.kind == "add_monitoring":
        return watched(regimen, position)
    return swapped(regimen, position, change.new_drug or change.drug_id)
