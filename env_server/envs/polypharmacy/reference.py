"""The best review that the budget allows, found exactly: branch and bound over interventions.

Long because it is one search: what is prepared, bounded and settled shares the same sums.

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


Fits = Callable[[str, list[str]], bool]
Orders = Callable[[tuple[Change, ...]], bool]


def optimum(
    harm: HarmModel,
    start: Regimen,
    budget: int,
    swaps: Callable[[Slot], tuple[str, ...]],
    fits: Fits,
    playable: Orders,
) -> Optimum:
    """The regimen of highest U within `budget` interventions, and the changes that lead to it.

    `swaps(slot)` lists substitutes before the rest of the list is looked at; `fits(drug, rest)` looks
    at the rest; `playable(changes)` says whether some order of the changes is accepted and justified step by step, and is asked
    only of plans that would be the best so far.
    """
    search = Search(harm, start, budget, swaps, fits, playable)
    search.descend(0, budget, search.root, ())
    return Optimum(search.best_value, search.best_regimen, search.best, search.nodes)


class Partial(NamedTuple):
    """A list with some drugs settled, and the sums that the bound needs, kept up to date.

    now[i] is what became of drug i, None once stopped; around[i] the hazard of its pairs with the
    others as they are now; own the sum of the drugs' own hazards and withdrawals.
    """

    now: tuple[Slot | None, ...]
    around: tuple[float, ...]
    own: float
    effects: tuple[SetEffect, ...]


class Bound(NamedTuple):
    """What untouched drugs could still give at a node: net of price, by drug and option.

    `nets` counts a set effect in full for each of its drugs, `alone` for none; `shared` is what all
    set effects are worth together, so that either the one or the other sum may be taken.
    """

    nets: list[list[float]]
    alone: list[list[float]]
    shared: float
    chord: float  # U gained by a unit of hazard, at most


class Search:
    """Depth-first over drugs in order of promise; a bound drops what cannot beat the best found.

    The bound: let T be the hazard of the list with untouched drugs left as they are, and `gain` of
    a drug the most that changing it alone removes. No choice of r more drugs removes more than
    their gains together (what two of them share is counted twice), so at most G, the sum of the r
    largest. H is concave: over [T - G, T] it falls at most along its chord. Each change pays at
    least its price. Hence -U >= H(T) + unmet needs + disruption - the r largest (chord * gain -
    price). `tests/test_reference.py` holds the result against brute force.
    """

    def __init__(
        self,
        harm: HarmModel,
        start: Regimen,
        budget: int,
        swaps: Callable[[Slot], tuple[str, ...]],
        fits: Fits,
        playable: Orders,
    ) -> None:
        self.harm, self.start, self.budget = harm, start, budget
        self.swaps, self.fits, self.playable = swaps, fits, playable
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
        self.root = self._root()
        self._prepare()

    # -- what each drug could give ------------------------------------------------------------

    def _root(self) -> Partial:
        harm, slots = self.harm, self.start.slots
        self.start_pairs = [
            [0.0 if a is b else harm.pair_hazard(a, b) for b in slots] for a in slots
        ]
        around = tuple(sum(row) for row in self.start_pairs)
        own = sum(harm.drug_hazard(s) for s in slots)
        return Partial(slots, around, own, tuple(harm.set_effects(slots)))

    def _prepare(self) -> None:
        slots, root = self.start.slots, self.root
        justified = {d for effect in root.effects for d in effect.drugs}
        touchable = [
            i
            for i, slot in enumerate(slots)
            if self.harm.drug_hazard(slot) > TINY
            or root.around[i] > TINY
            or slot.drug_id in justified
        ]
        found = {i: self._options(i) for i in touchable}
        drugs = {s.drug_id for s in slots} | {
            o.slot.drug_id for options in found.values() for o in options if o.slot is not None
        }
        self.reach = sorted(drugs)
        self._add_needs(found)
        # gain of an option = fixed + share * (hazard of the drug's pairs now) + (its set effects now)
        terms = {
            i: [(self._fixed(i, o), self._share(i, o), self._leaves(i, o), o) for o in options]
            for i, options in found.items()
        }
        self.terms = {
            i: [t for t in rows if len(t[3].changes) == 1 or self._adds(i, t, rows)]
            for i, rows in terms.items()
        }
        self.order = touchable
        promise = [
            max(row, default=0.0)
            for row in self._bound(root, self._total(root), self.budget, 0).nets
        ]
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
        before = self.harm.drug_hazard(self.start.slots[i])
        return before - after - (self.harm.w.withdrawal if option.withdrawn else 0.0)

    def _share(self, i: int, option: Option) -> float:
        """Largest share of its hazard with any drug in reach that the option removes."""
        if self._leaves(i, option) or option.slot is None:
            return 1.0
        kept = 1.0
        for other in self.reach:
            partner = Slot(other, "")
            before = self.harm.pair_hazard(self.start.slots[i], partner)
            if before > 0.0:
                kept = min(kept, self.harm.pair_hazard(option.slot, partner) / before)
        return 1.0 - kept

    def _leaves(self, i: int, option: Option) -> bool:
        """Whether the drug is off the list afterwards, so that set effects may lose it."""
        return option.slot is None or option.slot.drug_id != self.start.slots[i].drug_id

    def _adds(
        self,
        i: int,
        term: tuple[float, float, bool, Option],
        rows: list[tuple[float, float, bool, Option]],
    ) -> bool:
        """Whether the last change of an option can do anything for the drug it is made on.

        Lowering or watching a started drug is pointless where it has no hazard with anything in reach.
        """
        fixed, share, _, option = term
        slot = option.slot
        if slot is None:
            return True
        if slot.drug_id == self.start.slots[i].drug_id:
            shorter = [r for r in rows if r[3].changes == option.changes[:-1]]
            return all(fixed > r[0] + TINY or share > r[1] + TINY for r in shorter)
        plain = Slot(slot.drug_id, slot.indication)
        if slot == plain:
            return True
        if self.harm.drug_hazard(slot) < self.harm.drug_hazard(plain) - TINY:
            return True
        return any(
            self.harm.pair_hazard(slot, Slot(d, ""))
            < self.harm.pair_hazard(plain, Slot(d, "")) - TINY
            for d in self.reach
        )

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

    def _total(self, partial: Partial) -> float:
        """T: the hazard of the list as it is now."""
        return partial.own + sum(partial.around) / 2 + sum([e.hazard for e in partial.effects])

    def _bound(self, partial: Partial, total: float, left: int, position: int) -> Bound:
        """What the drugs from `position` on could still give, in units of U."""
        member: dict[str, float] = {}
        for effect in partial.effects:
            for drug in effect.drugs:
                member[drug] = member.get(drug, 0.0) + effect.hazard
        slots, around = self.start.slots, partial.around
        gains: list[list[float]] = []
        alone: list[list[float]] = []
        for i in self.order[position:]:
            pairs, effects = around[i], member.get(slots[i].drug_id, 0.0)
            row = [f + s * pairs for f, s, _, _ in self.terms[i]]
            alone.append(row)
            gains.append(
                [g + effects if t[2] else g for g, t in zip(row, self.terms[i], strict=True)]
                if effects
                else row
            )
        shared = sum(e.hazard for e in partial.effects)
        span = min(
            total,
            _largest([max(row, default=0.0) for row in gains], left),
            shared + _largest([max(row, default=0.0) for row in alone], left),
        )
        harm = self.harm
        chord = (
            (harm.harm(total) - harm.harm(total - span)) / span
            if span > TINY
            else 1.0 / harm.w.scale
        )
        nets, alone = self._paid(gains, chord, position), self._paid(alone, chord, position)
        return Bound(nets, alone, chord * shared, chord)

    def _paid(self, gains: list[list[float]], chord: float, position: int) -> list[list[float]]:
        return [
            [chord * gain - term[3].price for gain, term in zip(row, self.terms[i], strict=True)]
            for i, row in zip(self.order[position:], gains, strict=True)
        ]

    def _gained(self, total: float, gain: float) -> float:
        """By how much H falls when `gain` of the hazard goes."""
        return self.harm.harm(total) - self.harm.harm(max(0.0, total - gain))

    def _settle(self, partial: Partial, i: int, option: Option) -> Partial:
        """The list once drug i has become what the option says."""
        harm, now, start = self.harm, partial.now, self.start.slots
        before, after = now[i], option.slot
        around = list(partial.around)
        mine = 0.0
        for j, other in enumerate(now):
            if j != i and other is not None and before is not None:
                new = harm.pair_hazard(after, other) if after is not None else 0.0
                untouched = other is start[j]  # the drug itself is: each is settled once
                old = self.start_pairs[i][j] if untouched else harm.pair_hazard(before, other)
                around[j] += new - old
                mine += new
        around[i] = mine
        settled = (*now[:i], after, *now[i + 1 :])
        effects = partial.effects
        if self._leaves(i, option):
            effects = tuple(harm.set_effects([s for s in settled if s is not None]))
        own = partial.own + (harm.drug_hazard(after) if after is not None else 0.0)
        own -= harm.drug_hazard(before) if before is not None else 0.0
        own += harm.w.withdrawal * option.withdrawn
        return Partial(settled, tuple(around), own, effects)

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
        total = self._total(partial)
        floor = self.harm.harm(total) + self._unmet(partial)
        floor += sum([self._prices[c.kind] for c in changes])
        if changes and floor < -self.best_value - TINY:
            self._consider(partial, changes)
        if left == 0:
            return
        nets, alone, shared, chord = self._bound(partial, total, left, position)
        promise = [max(row, default=0.0) for row in nets]
        single = [max(row, default=0.0) for row in alone]
        for k, row in enumerate(nets):
            most = min(_largest(promise[k:], left), shared + _largest(single[k:], left))
            if most <= floor + self.best_value + TINY:
                return
            # what may follow this drug, by how many changes it leaves
            rests = [
                (_largest(promise[k + 1 :], n), shared + _largest(single[k + 1 :], n))
                for n in range(left)
            ]
            most = min(promise[k] + rests[-1][0], single[k] + rests[-1][1])
            if most <= floor + self.best_value + TINY:
                continue  # no plan that changes this drug is good enough
            i = self.order[position + k]
            for o in sorted(range(len(row)), key=row.__getitem__, reverse=True):
                option = self.terms[i][o][3]
                used = len(option.changes)
                if used > left:
                    continue
                rest, rest_alone = rests[left - used]
                most = min(row[o] + rest, alone[k][o] + rest_alone)
                if used == left:  # nothing follows: H itself instead of its chord
                    gain = (row[o] + option.price) / chord
                    most = min(most, self._gained(total, gain) - option.price)
                if most <= floor + self.best_value + TINY:
                    continue
                if self._leaves(i, option) and self._clashes(i, option, partial):
                    continue
                after = self._settle(partial, i, option)
                self.descend(position + k + 1, left - used, after, changes + option.changes)

    def _consider(self, partial: Partial, changes: tuple[Change, ...]) -> None:
        if self._quarrels(partial):
            return
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

    def _quarrels(self, partial: Partial) -> bool:
        """Whether a started drug could not have been started beside one that is still there."""
        for i, slot in enumerate(partial.now):
            if slot is not None and slot.drug_id != self.start.slots[i].drug_id:
                rest = [s.drug_id for j, s in enumerate(partial.now) if s is not None and j != i]
                if not self.fits(slot.drug_id, rest):
                    return True
        return False

    def _clashes(self, i: int, option: Option, partial: Partial) -> bool:
        """Whether the drug it would start is on the list already."""
        new = option.slot.drug_id if option.slot is not None else ""
        return any(s is not None and s.drug_id == new for j, s in enumerate(partial.now) if j != i)


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
