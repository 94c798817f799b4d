"""The best review that the budget allows, found exactly: branch and bound over interventions.

A plan is a set of changes to drugs that give a reason to be changed (an interacting pair, a
criterion, a set effect of the starting list). Knows nothing of queries beyond "a pair can be asked".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
    price: float  # lower bound of what it costs in disruption and untreated need


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
    swaps: Callable[[Slot], tuple[str, ...]],
    playable: Orders,
) -> Optimum:
    """The regimen of highest U within `budget` interventions, and the changes that lead to it.

    `swaps(slot)` lists substitutes before the rest of the list is looked at; `playable(changes)`
    says whether some order of the changes is accepted and justified step by step, and is asked
    only of plans that would be the best so far.
    """
    search = Search(harm, start, budget, swaps, playable)
    search.descend(0, budget, Partial.of(start), ())
    return Optimum(search.best_value, search.best_regimen, search.best, search.nodes)


class Partial(NamedTuple):
    """A list with some drugs settled. `now[i]` is what became of drug i, None once stopped."""

    now: tuple[Slot | None, ...]
    fresh: frozenset[int]  # positions of drugs that a substitution started
    withdrawn: int

    @classmethod
    def of(cls, start: Regimen) -> Partial:
        return cls(start.slots, frozenset(), 0)

    def settle(self, i: int, option: Option, started: bool) -> Partial:
        return Partial(
            (*self.now[:i], option.slot, *self.now[i + 1 :]),
            self.fresh | {i} if started else self.fresh,
            self.withdrawn + option.withdrawn,
        )


class Search:
    """Depth-first over drugs in order of promise; a bound drops what cannot beat the best found.

    The bound: let T be the hazard of the list with untouched drugs left as they are, and `gain` of
    a drug the most that changing it alone removes. No choice of r more drugs removes more than the
    r largest gains together, G. H is concave, so over [T - G, T] it falls at most along its chord;
    each change pays at least its price. Hence -U >= H(T) + needs + disruption - sum of the r largest
    (chord * gain - price). `tests/test_reference.py` holds it against brute force.
    """

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
        self.nodes = 0
        w = harm.w
        self._prices = {
            "stop": w.stop,
            "substitute": w.substitute,
            "dose_reduce": w.reduce,
            "add_monitoring": w.monitor,
        }
        self._prepare()

    # -- what each drug could give ------------------------------------------------------------

    def _prepare(self) -> None:
        harm, slots = self.harm, self.start.slots
        n = len(slots)
        self.effects: dict[tuple[str, ...], float] = {}
        justified: set[str] = set()
        for effect in harm.set_effects(slots):
            self.effects[_key(harm, effect)] = effect.hazard
            justified.update(effect.drugs)
        self.pairs = [
            [harm.pair_hazard(a, b) if i != j else 0.0 for j, b in enumerate(slots)]
            for i, a in enumerate(slots)
        ]
        self.own = [harm.drug_hazard(s) for s in slots]
        touchable = [
            i
            for i in range(n)
            if self.own[i] > TINY or sum(self.pairs[i]) > TINY or slots[i].drug_id in justified
        ]
        found = {i: self._options(i) for i in touchable}
        self._add_needs(found)
        # gain of an option = fixed + share * (hazard of the drug's pairs now) + whole * (its set effects now)
        self.terms = {
            i: [(self._fixed(i, o), self._share(i, o), self._leaves(i, o)) for o in options]
            for i, options in found.items()
        }
        self.options = found
        self.rows = {i: [self._row(i, o) for o in options] for i, options in found.items()}
        self.order = touchable
        nets = self._nets(Partial.of(self.start), self.budget, 0)[1]
        promise = [max(row, default=0.0) for row in nets]
        ranked = sorted(range(len(touchable)), key=lambda k: (-promise[k], touchable[k]))
        self.order = [touchable[k] for k in ranked if promise[k] > 0.0]

    def _options(self, i: int) -> list[Option]:
        """Every end of this drug within the budget, by the fewest changes that lead there."""
        slot = self.start.slots[i]
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
        return [
            Option(changes, after, withdrawn, sum(self._prices[c.kind] for c in changes))
            for (after, withdrawn), changes in found.items()
        ]

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

    def _fixed(self, i: int, option: Option) -> float:
        """Hazard the drug itself loses; negative where a withdrawal or a worse drug takes its place."""
        after = self.harm.drug_hazard(option.slot) if option.slot is not None else 0.0
        return self.own[i] - after - (self.harm.w.withdrawal if option.withdrawn else 0.0)

    def _share(self, i: int, option: Option) -> float:
        """Largest share of any of its pairs' hazard that the option removes."""
        if self._leaves(i, option):
            return 1.0
        row = self._row(i, option)
        kept = [row[j] / h for j, h in enumerate(self.pairs[i]) if h > 0.0]
        return 1.0 - min(kept, default=1.0)

    def _leaves(self, i: int, option: Option) -> bool:
        """Whether the drug is off the list afterwards, so that set effects may lose it."""
        return option.slot is None or self._starts(i, option)

    def _starts(self, i: int, option: Option) -> bool:
        return option.slot is not None and option.slot.drug_id != self.start.slots[i].drug_id

    def _row(self, i: int, option: Option) -> list[float]:
        """Hazards with the others' starting state that the bound counts; a started drug's are left out."""
        slots = self.start.slots
        if option.slot is None or self._starts(i, option):
            return [0.0] * len(slots)
        return [
            self.harm.pair_hazard(option.slot, other) if j != i else 0.0
            for j, other in enumerate(slots)
        ]

    def _add_needs(self, found: dict[int, list[Option]]) -> None:
        """Add to prices the needs that only this drug could meet and the option gives up."""
        harm, slots = self.harm, self.start.slots
        could: dict[str, set[int]] = {need: set() for need, _ in harm.needs}
        gained: set[str] = set()
        for i, slot in enumerate(slots):
            meets = harm.treats(slot.drug_id)
            for need in meets:
                could[need].add(i)
            for option in found.get(i, ()):
                for need in harm.treats(option.slot.drug_id) if option.slot is not None else ():
                    could[need].add(i)
                    if need not in meets:
                        gained.add(need)
        # a need that some change could newly meet is left out of every bound
        self.certain = tuple((need, w) for need, w in harm.needs if need not in gained)
        alone = {need: next(iter(who)) for need, who in could.items() if len(who) == 1}
        for i, options in found.items():
            mine = [(need, w) for need, w in harm.needs if alone.get(need) == i]
            found[i] = [o._replace(price=o.price + self._given_up(mine, o)) for o in options]

    def _given_up(self, needs: list[tuple[str, float]], option: Option) -> float:
        slot = option.slot
        met = self.harm.treats(slot.drug_id) if slot is not None else ()
        share = self.harm.w.efficacy[slot.dose_step] if slot is not None else 0.0
        return sum(w * (1.0 - (share if need in met else 0.0)) for need, w in needs)

    # -- the bound ----------------------------------------------------------------------------

    def _nets(
        self, partial: Partial, left: int, position: int
    ) -> tuple[float, list[list[float]]]:
        """(H(T), for each drug from `position` on: chord * gain - price of each option)."""
        harm = self.harm
        now = partial.now
        slots = [s for s in now if s is not None]
        total = harm.w.withdrawal * partial.withdrawn
        stays = [i for i, s in enumerate(now) if s is not None]
        settled = [i for i in stays if i not in partial.fresh]
        for i in stays:
            slot = now[i]
            if slot is not None:
                total += harm.drug_hazard(slot)
        around = self._around(partial, settled)
        total += sum(around[i] for i in settled) / 2
        member: dict[str, float] = {}
        for effect in harm.set_effects(slots):
            hazard = min(effect.hazard, self.effects.get(_key(harm, effect), 0.0))
            if hazard:
                total += hazard
                for drug in set(effect.drugs):
                    member[drug] = member.get(drug, 0.0) + hazard
        gains: list[list[float]] = []
        for i in self.order[position:]:
            pairs = around[i]
            effects = member.get(self.start.slots[i].drug_id, 0.0)
            gains.append(
                [f + s * pairs + (effects if leaves else 0.0) for f, s, leaves in self.terms[i]]
            )
        most = sorted((max(row, default=0.0) for row in gains), reverse=True)[:left]
        span = min(total, sum(g for g in most if g > 0.0))
        top = harm.harm(total)
        chord = (top - harm.harm(total - span)) / span if span > TINY else 1.0 / harm.w.scale
        nets = [
            [chord * gain - o.price for gain, o in zip(row, self.options[i], strict=True)]
            for i, row in zip(self.order[position:], gains, strict=True)
        ]
        return top, nets

    def _around(self, partial: Partial, settled: list[int]) -> list[float]:
        """For each drug, the hazard of its pairs with the others as they are now, started drugs aside."""
        now, start, harm = partial.now, self.start.slots, self.harm
        changed = [i for i in settled if now[i] is not start[i]]
        around = [0.0] * len(now)
        for i in settled:
            row = self.pairs[i]
            around[i] = sum([row[j] for j in settled])
        for i in changed:
            for j in settled:
                a, b = now[i], now[j]
                if i != j and a is not None and b is not None and (j not in changed or i < j):
                    difference = harm.pair_hazard(a, b) - self.pairs[i][j]
                    around[i] += difference
                    around[j] += difference
        return around

    def _unmet(self, partial: Partial) -> float:
        """U lost for certain to needs, whatever the untouched drugs become."""
        harm = self.harm
        met: dict[str, float] = {}
        for slot in partial.now:
            if slot is not None:
                share = harm.w.efficacy[slot.dose_step]
                for need in harm.treats(slot.drug_id):
                    if share > met.get(need, 0.0):
                        met[need] = share
        return sum(weight * (1.0 - met.get(need, 0.0)) for need, weight in self.certain)

    # -- search -------------------------------------------------------------------------------

    def descend(
        self, position: int, left: int, partial: Partial, changes: tuple[Change, ...]
    ) -> None:
        """Change one more drug at or after `position` in every way that the bound leaves open."""
        self.nodes += 1
        top, nets = self._nets(partial, left, position)
        floor = top + self._unmet(partial) + sum(self._prices[c.kind] for c in changes)
        if changes and floor < -self.best_value - TINY:
            self._consider(partial, changes)
        if left == 0:
            return
        promise = [max(row, default=0.0) for row in nets]
        for k in range(len(nets)):
            if floor - _largest(promise[k:], left) >= -self.best_value - TINY:
                return
            i = self.order[position + k]
            ranked = sorted(range(len(nets[k])), key=lambda o: -nets[k][o])
            for o in ranked:
                option = self.options[i][o]
                used = len(option.changes)
                if used > left:
                    continue
                rest = _largest(promise[k + 1 :], left - used)
                if floor - nets[k][o] - rest >= -self.best_value - TINY:
                    continue
                started = self._starts(i, option)
                if started and self._clashes(i, option, partial):
                    continue
                self.descend(
                    position + k + 1,
                    left - used,
                    partial.settle(i, option, started),
                    changes + option.changes,
                )

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

    def _clashes(self, i: int, option: Option, partial: Partial) -> bool:
        """Whether the drug it would start is on the list already."""
        new = option.slot.drug_id if option.slot is not None else ""
        return any(
            s is not None and s.drug_id == new for j, s in enumerate(partial.now) if j != i
        )


def _key(harm: HarmModel, effect: SetEffect) -> tuple[str, ...]:
    """What makes an effect the same one later: a cascade by its pair, duplicates by their class."""
    if effect.name == "cascade":
        return (effect.name, *effect.drugs)
    if effect.name == "duplicate_class":
        return (effect.name, harm.tables.drugs[effect.drugs[0]].drug_class)
    return (effect.name,)


def _largest(values: list[float], count: int) -> float:
    """Sum of the `count` largest, those below 0 left out."""
    if count <= 0 or not values:
        return 0.0
    if count == 1:
        return max(0.0, max(values))
    return sum(v for v in sorted(values, reverse=True)[:count] if v > 0.0)


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
