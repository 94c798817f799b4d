"""The best review that the budget allows, found exactly: branch and bound over interventions.

A plan is a set of changes to drugs that give a reason to be changed (an interacting pair, a
criterion, a set effect of the starting list). Knows nothing of queries beyond "a pair can be asked".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp
from typing import NamedTuple

from env_server.envs.polypharmacy.actions import InterventionType
from env_server.envs.polypharmacy.harm import HarmModel, SetEffect
from env_server.envs.polypharmacy.regimen import Regimen, Slot, reduced, swapped, watched, without

TINY = 1e-9


class Change(NamedTuple):
    """One intervention of a plan."""

    drug_id: str
    kind: InterventionType
    new_drug: str | None = None


class Option(NamedTuple):
    """Where one drug of the list can end up, and the changes that lead there."""

    changes: tuple[Change, ...]
    slot: Slot | None  # None = stopped
    withdrawn: bool
    gain: float  # upper bound of the hazard it removes
    price: float  # lower bound of what it costs in disruption and untreated need


@dataclass(frozen=True, slots=True)
class Optimum:
    """A certified best plan. `value` is U after it; `nodes` is how many regimens were looked at."""

    value: float
    regimen: Regimen
    changes: tuple[Change, ...]
    nodes: int


Orders = Callable[[tuple[Change, ...]], bool]


def optimum(
    harm: HarmModel,
    start: Regimen,
    budget: int,
    swaps: Callable[[Slot], tuple[str, ...]],
    playable: Orders,
) -> Optimum:
    """The regimen of highest U within `budget` interventions, and the changes that lead to it.

    `swaps(slot)` lists substitutes before the rest of the list is looked at; `playable(changes)`
    says whether some order of the changes is accepted and justified step by step, and is asked
    only of plans that would be the best so far.
    """
    return _Search(harm, start, budget, swaps, playable).run()


class _Search:
    """Depth-first over drugs in order of promise; a bound drops what cannot beat the best found."""

    def __init__(
        self,
        harm: HarmModel,
        start: Regimen,
        budget: int,
        swaps: Callable[[Slot], tuple[str, ...]],
        playable: Orders,
    ) -> None:
        self.harm, self.start, self.budget = harm, start, budget
        self.swaps, self.playable = swaps, playable
        self.best_value = harm.value(start)
        self.best: tuple[Change, ...] = ()
        self.best_regimen = start
        self.nodes = 1
        self._prepare()

    # -- what each drug could give ------------------------------------------------------------

    def _prepare(self) -> None:
        harm, slots = self.harm, self.start.slots
        n = len(slots)
        self.effects: dict[tuple[str, ...], float] = {}
        member = [0.0] * n
        at = {s.drug_id: i for i, s in enumerate(slots)}
        for effect in harm.set_effects(slots):
            self.effects[self._key(effect)] = effect.hazard
            for drug in set(effect.drugs):
                member[at[drug]] += effect.hazard
        pairs = [
            sum(harm.pair_hazard(slots[i], slots[j]) for j in range(n) if j != i) for i in range(n)
        ]
        own = [harm.drug_hazard(s) for s in slots]
        incident = [own[i] + pairs[i] + member[i] for i in range(n)]
        total = harm.hazard(self.start)
        least = max(0.0, total - sum(sorted(incident, reverse=True)[: self.budget]))
        # H is concave: nowhere between `least` and `total` is it steeper than at `least`
        self.slope = exp(-least / harm.w.scale) / harm.w.scale
        touchable = [i for i in range(n) if incident[i] > TINY]
        options = {i: self._options(i, own[i], pairs[i], member[i]) for i in touchable}
        self._soften_prices(options)
        promise = {i: max((self._net(o) for o in options[i]), default=0.0) for i in touchable}
        self.order = sorted(
            (i for i in touchable if promise[i] > TINY), key=lambda i: (-promise[i], i)
        )
        self.options = [
            sorted(options[i], key=lambda o: (-self._net(o), o.changes)) for i in self.order
        ]
        self.promise = [promise[i] for i in self.order]

    def _net(self, option: Option) -> float:
        return self.slope * option.gain - option.price

    def _options(self, i: int, own: float, pairs: float, member: float) -> list[Option]:
        """Every end of this drug within the budget, cheapest way there, unhelpful ones left out."""
        harm, slot = self.harm, self.start.slots[i]
        w = harm.w
        found: dict[tuple[Slot | None, bool], tuple[Change, ...]] = {}
        frontier: list[tuple[Slot, tuple[Change, ...]]] = [(slot, ())]
        for _ in range(self.budget):
            grown: list[tuple[Slot, tuple[Change, ...]]] = []
            for here, changes in frontier:
                for change, after, withdrawn in self._moves(here):
                    key = (after, withdrawn)
                    if key in found or key == (slot, False):
                        continue
                    found[key] = (*changes, change)
                    if after is not None:
                        grown.append((after, found[key]))
            frontier = grown
        options = []
        for (after, withdrawn), changes in found.items():
            if after is None:
                gain = own + pairs + member - (w.withdrawal if withdrawn else 0.0)
            elif after.drug_id != slot.drug_id:
                gain = own + pairs + member - harm.drug_hazard(after)
            else:
                gain = own - harm.drug_hazard(after) + pairs - self._pairs_left(i, after)
            price = self._disruption(changes)
            if gain > TINY:
                options.append(Option(changes, after, withdrawn, gain, price))
        return options

    def _moves(self, slot: Slot) -> list[tuple[Change, Slot | None, bool]]:
        drug = slot.drug_id
        taper = self.harm.tables.drugs[drug].needs_taper and slot.dose_step == 0
        moves: list[tuple[Change, Slot | None, bool]] = [(Change(drug, "stop"), None, taper)]
        if self.harm.can_reduce(slot):
            lower = slot._replace(dose_step=slot.dose_step + 1)
            moves.append((Change(drug, "dose_reduce"), lower, False))
        if not slot.monitored:
            moves.append((Change(drug, "add_monitoring"), slot._replace(monitored=True), False))
        for new in self.swaps(slot):
            moves.append((Change(drug, "substitute", new), Slot(new, slot.indication), False))
        return moves

    def _pairs_left(self, i: int, after: Slot) -> float:
        slots = self.start.slots
        return sum(
            self.harm.pair_hazard(after, slots[j]) for j in range(len(slots)) if j != i
        )

    def _disruption(self, changes: tuple[Change, ...]) -> float:
        w = self.harm.w
        price = {
            "stop": w.stop,
            "substitute": w.substitute,
            "dose_reduce": w.reduce,
            "add_monitoring": w.monitor,
        }
        return sum(price[c.kind] for c in changes)

    def _soften_prices(self, options: dict[int, list[Option]]) -> None:
        """Add the untreated need that an option must cost: needs that no other drug could meet."""
        harm, slots = self.harm, self.start.slots
        could: dict[str, set[int]] = {need: set() for need, _ in harm.needs}
        for i, slot in enumerate(slots):
            for need in harm.treats(slot.drug_id):
                could[need].add(i)
            for option in options.get(i, ()):
                if option.slot is not None:
                    for need in harm.treats(option.slot.drug_id):
                        could[need].add(i)
        self.only = {need: next(iter(who)) for need, who in could.items() if len(who) == 1}
        gained = {
            need
            for i, found in options.items()
            for o in found
            if o.slot is not None
            for need in set(harm.treats(o.slot.drug_id)) - set(harm.treats(slots[i].drug_id))
        }
        # a need that some change could newly meet is left out of every bound
        self.certain = tuple((c, w) for c, w in harm.needs if c not in gained)
        for i, found in options.items():
            options[i] = [o._replace(price=o.price + self._lost(i, o)) for o in found]

    def _lost(self, i: int, option: Option) -> float:
        harm = self.harm
        lost = 0.0
        for need, weight in harm.needs:
            if self.only.get(need) == i:
                meets = option.slot is not None and need in harm.treats(option.slot.drug_id)
                share = harm.w.efficacy[option.slot.dose_step] if meets and option.slot else 0.0
                lost += weight * (1.0 - share)
        return lost

    # -- search -------------------------------------------------------------------------------

    def run(self) -> Optimum:
        before = list(self.start.slots)
        self._descend(0, self.budget, before, (), [False] * len(before))
        return Optimum(self.best_value, self.best_regimen, self.best, self.nodes)

    def _descend(
        self,
        position: int,
        left: int,
        now: list[Slot | None],
        changes: tuple[Change, ...],
        fresh: list[bool],
    ) -> None:
        """Change one more drug at or after `position` in every way that the bound leaves open.

        `now` is the list with the changes so far; `fresh` marks drugs a substitution started.
        """
        floor = self._floor(now, fresh, changes)
        for k in range(position, len(self.order)):
            if floor - sum(self.promise[k : k + left]) >= -self.best_value - TINY:
                return  # later drugs promise less still
            i = self.order[k]
            rest = sum(self.promise[k + 1 : k + left])
            for option in self.options[k]:
                if floor - self._net(option) - rest >= -self.best_value - TINY:
                    break  # options come in order of promise
                used = len(option.changes)
                if used > left or self._clashes(i, option, now):
                    continue
                kept = now[i]
                now[i] = option.slot
                fresh[i] = self._started(i, option)
                grown = changes + option.changes
                self._consider(now, grown)
                if left > used:
                    self._descend(k + 1, left - used, now, grown, fresh)
                now[i] = kept
                fresh[i] = False

    def _consider(self, now: list[Slot | None], changes: tuple[Change, ...]) -> None:
        regimen = self._regimen(now, changes)
        self.nodes += 1
        value = self.harm.value(regimen)
        if value > self.best_value + TINY and self.playable(changes):
            self.best_value, self.best_regimen, self.best = value, regimen, changes

    def _regimen(self, now: list[Slot | None], changes: tuple[Change, ...]) -> Regimen:
        kinds = [c.kind for c in changes]
        return Regimen(
            tuple(s for s in now if s is not None),
            withdrawn=self._withdrawn(now, changes),
            stopped=kinds.count("stop"),
            substituted=kinds.count("substitute"),
            reduced=kinds.count("dose_reduce"),
            monitors=kinds.count("add_monitoring"),
        )

    def _withdrawn(self, now: list[Slot | None], changes: tuple[Change, ...]) -> tuple[str, ...]:
        reduced_drugs = {c.drug_id for c in changes if c.kind == "dose_reduce"}
        drugs = self.harm.tables.drugs
        return tuple(
            c.drug_id
            for c in changes
            if c.kind == "stop" and drugs[c.drug_id].needs_taper and c.drug_id not in reduced_drugs
        )

    def _floor(
        self, now: list[Slot | None], fresh: list[bool], changes: tuple[Change, ...]
    ) -> float:
        """A lower bound of -U that the promises of untouched drugs may be taken from.

        Hazards that a started drug forms with others are left out, set effects count at most what
        they were at the start: whatever an untouched drug can remove is in its promise.
        """
        harm = self.harm
        slots = [s for s in now if s is not None]
        total = harm.w.withdrawal * len(self._withdrawn(now, changes))
        for i, slot in enumerate(now):
            if slot is None:
                continue
            total += harm.drug_hazard(slot)
            if not fresh[i]:
                for j in range(i + 1, len(now)):
                    other = now[j]
                    if other is not None and not fresh[j]:
                        total += harm.pair_hazard(slot, other)
        total += self._settled_effects(slots)
        met: dict[str, float] = {}
        for slot in slots:
            share = harm.w.efficacy[slot.dose_step]
            for need in harm.treats(slot.drug_id):
                met[need] = max(share, met.get(need, 0.0))
        untreated = sum(weight * (1.0 - met.get(need, 0.0)) for need, weight in self.certain)
        return harm.harm(total) + untreated + self._disruption(changes)

    def _settled_effects(self, slots: list[Slot]) -> float:
        return sum(
            min(effect.hazard, self.effects.get(self._key(effect), 0.0))
            for effect in self.harm.set_effects(slots)
        )

    def _key(self, effect: SetEffect) -> tuple[str, ...]:
        """What makes an effect the same one later: a cascade by its pair, duplicates by their class."""
        if effect.name == "cascade":
            return (effect.name, *effect.drugs)
        if effect.name == "duplicate_class":
            return (effect.name, self.harm.tables.drugs[effect.drugs[0]].drug_class)
        return (effect.name,)

    def _started(self, i: int, option: Option) -> bool:
        return option.slot is not None and option.slot.drug_id != self.start.slots[i].drug_id

    def _clashes(self, i: int, option: Option, now: list[Slot | None]) -> bool:
        """Whether the drug it would start is on the list already."""
        return self._started(i, option) and any(
            s is not None and option.slot is not None and s.drug_id == option.slot.drug_id
            for j, s in enumerate(now)
            if j != i
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
