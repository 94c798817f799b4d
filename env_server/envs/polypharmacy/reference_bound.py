"""How much a partial plan has gained, and the most that the drugs it has not come to could still give.

Knows nothing of which plans are acceptable. Vectors run over the options of the drugs in `order`
from some position on, one drug after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from math import inf, log
from operator import add
from typing import NamedTuple

from env_server.envs.polypharmacy.harm import HarmModel, SetEffect
from env_server.envs.polypharmacy.reference_options import TINY, Choices, Need, Option
from env_server.envs.polypharmacy.regimen import Slot

Vector = list[float]


class Effects(NamedTuple):
    """The set effects of a list: their hazard, and by drug in `order` the hazard of those it is in."""

    hazard: float
    of: Vector


class Partial(NamedTuple):
    """A list with the drugs before `position` settled, and the sums that the bound needs.

    `single` is the hazard of drugs, pairs and withdrawals; `shift` what the changes so far add to
    the hazard that each option from `position` on removes; `unmet` the U lost for certain to needs,
    whatever the untouched drugs become.
    """

    position: int
    now: tuple[Slot | None, ...]
    single: float
    shift: Vector
    effects: Effects
    unmet: float

    @property
    def hazard(self) -> float:
        return self.single + self.effects.hazard


class Promise(NamedTuple):
    """What drugs from a position on could still give, net of price, in units of U.

    `nets` (by drug and option) counts a set effect in full for each of its drugs, `alone` for none;
    `shared` is what all set effects are worth together, so that either sum may be taken.
    """

    nets: list[Vector]
    alone: list[Vector]
    shared: float
    chord: float  # U gained by a unit of hazard, at most


class Bound:
    """The bound of the search over the drugs in `order`; all others stay as they are.

    Let T be the hazard of the list with untouched drugs left as they are. What an option removes is
    exact but for pairs with drugs that may change too, of which it is given the largest share it can
    have. No choice of r more drugs removes more than their gains together (what two of them share
    is counted twice), so at most G, the sum of the r largest. H is concave: over [T - G, T] it falls
    at most along its chord. Each change pays at least its price. Hence -U >= H(T) + unmet needs +
    disruption - the r largest (chord * gain - price).
    """

    def __init__(
        self,
        harm: HarmModel,
        slots: tuple[Slot, ...],
        options: dict[int, list[Option]],
        certain: tuple[Need, ...],
    ) -> None:
        self.harm, self.slots = harm, slots
        self.order, self.options = list(options), list(options.values())
        self._certain = certain
        self._needs = [[need for need in certain if i in need.who] for i in range(len(slots))]
        self._prices = [[o.price for o in row] for row in self.options]
        self._flat = [(i, o) for i, row in zip(self.order, self.options, strict=True) for o in row]
        self.begin = [0, *accumulate(len(row) for row in self.options)]
        self._columns: dict[tuple[int, Slot | None], Vector] = {}
        self._effects: dict[tuple[str, ...], Effects] = {}
        self._shifts: dict[tuple[int, Slot | None], Vector] = {}
        kept = [self._column(j, s, 0) for j, s in enumerate(slots)]
        pairs = [sum(parts) for parts in zip(*kept, strict=True)] if self._flat else []
        self._exact = [o.fixed + p for (_, o), p in zip(self._flat, pairs, strict=True)]
        self._gains = self._by_position(kept)
        self.root = self._root()

    def _by_position(self, kept: list[Vector]) -> list[Vector]:
        """By position, what each later option removes if nothing before it changed."""
        settled = [j for j in range(len(self.slots)) if j not in self.order]
        gains = [o.fixed + sum(kept[j][n] for j in settled) for n, (_, o) in enumerate(self._flat)]
        shares = [[o.share * self._start_pair(i, j) for i, o in self._flat] for j in self.order]
        for row in shares:
            gains = list(map(add, gains, row))
        found = []
        for k, j in enumerate(self.order):
            gains = gains[self.begin[k] - (self.begin[k - 1] if k else 0) :]
            found.append(gains)
            tail = self.begin[k]
            gains = [
                g + exact - most
                for g, exact, most in zip(gains, kept[j][tail:], shares[k][tail:], strict=True)
            ]
        return found

    def _start_pair(self, i: int, j: int) -> float:
        return 0.0 if i == j else self.harm.pair_hazard(self.slots[i], self.slots[j])

    def _column(self, j: int, state: Slot | None, begin: int) -> Vector:
        """What each option from `begin` on removes of its drug's pair with drug j in that state."""
        if state is None:
            return [0.0] * (len(self._flat) - begin)
        pair, slots = self.harm.pair_hazard, self.slots
        column: Vector = []
        drug, before = -1, 0.0
        for i, option in self._flat[begin:]:
            if i != drug:
                drug, before = i, pair(slots[i], state) if i != j else 0.0
            after = pair(option.slot, state) if option.slot is not None and i != j else 0.0
            column.append(before - after)
        return column

    def _root(self) -> Partial:
        harm, slots = self.harm, self.slots
        single = sum(harm.drug_hazard(s) for s in slots)
        single += sum(harm.pair_hazard(a, b) for n, a in enumerate(slots) for b in slots[n + 1 :])
        unmet = sum(u * (1.0 - self._met(slots, need, who)) for need, u, who in self._certain)
        effects = self._looked(slots)
        return Partial(0, slots, single, [0.0] * len(self._flat), effects, unmet)

    # -- settling a drug ----------------------------------------------------------------------

    def settle(self, partial: Partial, k: int, n: int, over: bool) -> Partial:
        """The list once drug k of `order`, and no other from its position on, took its option n.

        `over`: nothing follows, so that `shift` is not needed.
        """
        i, option = self.order[k], self.options[k][n]
        now = (*partial.now[:i], option.slot, *partial.now[i + 1 :])
        flat = self.begin[k] + n
        removed = self._exact[flat] + partial.shift[flat - self.begin[partial.position]]
        effects = self._looked(now) if option.leaves else partial.effects
        unmet = partial.unmet
        for need, u, who in self._needs[i]:
            unmet += u * (self._met(partial.now, need, who) - self._met(now, need, who))
        skipped = self.begin[k + 1] - self.begin[partial.position]
        shift = [] if over else list(map(add, partial.shift[skipped:], self._shift(k, option.slot)))
        return Partial(k + 1, now, partial.single - removed, shift, effects, unmet)

    def _shift(self, k: int, state: Slot | None) -> Vector:
        """What drug k in that state, not as it was, adds to what later options remove."""
        key = (k, state)
        shift = self._shifts.get(key)
        if shift is None:
            j, begin = self.order[k], self.begin[k + 1]
            new, old = self._column(j, state, begin), self._column(j, self.slots[j], begin)
            shift = self._shifts[key] = [a - b for a, b in zip(new, old, strict=True)]
        return shift

    def _looked(self, now: tuple[Slot | None, ...]) -> Effects:
        key = tuple([s.drug_id for s in now if s is not None])
        found = self._effects.get(key)
        if found is None:
            effects = self.harm.set_effects([s for s in now if s is not None])
            member: dict[str, float] = {}
            for effect in effects:
                for drug in effect.drugs:
                    member[drug] = member.get(drug, 0.0) + effect.hazard
            of = [member.get(self.slots[i].drug_id, 0.0) for i in self.order]
            found = self._effects[key] = Effects(sum([e.hazard for e in effects]), of)
        return found

    def _met(self, now: tuple[Slot | None, ...], need: str, who: tuple[int, ...]) -> float:
        """How well the best of the drugs at `who` meets the need."""
        best = 0.0
        for i in who:
            slot = now[i]
            if slot is not None and need in self.harm.treats(slot.drug_id):
                best = max(best, self.harm.w.efficacy[slot.dose_step])
        return best

    # -- what is still open -------------------------------------------------------------------

    def last(self, partial: Partial, needed: float) -> Iterator[tuple[int, int]]:
        """The options that may gain more than `needed`, net of price, where one change is left.

        Exact but for set effects, which are counted in full: all others stay as they are.
        """
        position, harm, total = partial.position, self.harm, partial.hazard
        begin, before = self.begin, harm.harm(total)
        exact = list(map(add, self._exact[begin[position] :], partial.shift))
        share_left = 1.0 - max(0.0, before - needed)
        # the hazard that must go even where that costs nothing
        least = total + harm.w.scale * log(share_left) if share_left > 0.0 else -inf
        for k in range(position, len(self.order)):
            row = exact[begin[k] - begin[position] : begin[k + 1] - begin[position]]
            extra = partial.effects.of[k]
            if max(row) + extra <= least:
                continue
            for n, option in enumerate(self.options[k]):
                gain = row[n] + (extra if option.leaves else 0.0)
                if gain > least and len(option.changes) == 1:
                    net = before - harm.harm(max(0.0, total - gain)) - option.price
                    if net > needed:
                        yield k, n

    def promise(self, partial: Partial, left: int) -> Promise:
        """What up to `left` of the drugs from the partial plan's position on could still give."""
        position, harm = partial.position, self.harm
        flat = list(map(add, self._gains[position], partial.shift))
        gains, alone = [], []
        begin = self.begin[position]
        for k in range(position, len(self.order)):
            row = flat[self.begin[k] - begin : self.begin[k + 1] - begin]
            alone.append(row)
            extra = partial.effects.of[k]
            if extra:
                options = self.options[k]
                row = [g + extra if o.leaves else g for g, o in zip(row, options, strict=True)]
            gains.append(row)
        prices = self._prices[position:]
        return _promise(harm, partial.hazard, partial.effects.hazard, gains, alone, prices, left)


def promising(
    harm: HarmModel,
    slots: tuple[Slot, ...],
    choices: Choices,
    effects: list[SetEffect],
    budget: int,
) -> dict[int, list[Option]]:
    """The drugs (by position) whose change promises anything and their options, best first.

    Here any drug of the list may change, and every option is given its largest share of all pairs.
    """
    around = [sum([harm.pair_hazard(a, b) for b in slots if b is not a]) for a in slots]
    hazard = sum(e.hazard for e in effects)
    total = sum(harm.drug_hazard(s) for s in slots) + sum(around) / 2 + hazard
    gains, alone = [], []
    for i, row in choices.options.items():
        member = sum(e.hazard for e in effects for d in e.drugs if d == slots[i].drug_id)
        alone.append([o.fixed + o.share * around[i] for o in row])
        gains.append([g + member * o.leaves for g, o in zip(alone[-1], row, strict=True)])
    prices = [[o.price for o in row] for row in choices.options.values()]
    nets = _promise(harm, total, hazard, gains, alone, prices, budget).nets
    ranked: dict[int, list[Option]] = {}
    for i, net in sorted(zip(choices.options, nets, strict=True), key=lambda pair: -_best(pair[1])):
        if _best(net) > 0.0:
            by_net = sorted(zip(net, choices.options[i], strict=True), key=lambda pair: -pair[0])
            ranked[i] = [option for _, option in by_net]
    return ranked


def _promise(
    harm: HarmModel,
    total: float,
    shared: float,
    gains: list[Vector],
    alone: list[Vector],
    prices: list[Vector],
    left: int,
) -> Promise:
    """What the gains in hazard are worth, net of price, along the chord of H below `total`."""
    span = min(
        total,
        _sum_of_largest([_best(row) for row in gains], left),
        shared + _sum_of_largest([_best(row) for row in alone], left),
    )
    fall = harm.harm(total) - harm.harm(total - span)
    chord = fall / span if span > TINY else 1.0 / harm.w.scale
    return Promise(_paid(gains, chord, prices), _paid(alone, chord, prices), chord * shared, chord)


def _best(row: Vector) -> float:
    return max(row, default=0.0)


def _paid(gains: list[Vector], chord: float, prices: list[Vector]) -> list[Vector]:
    return [
        [chord * g - p for g, p in zip(row, price, strict=True)]
        for row, price in zip(gains, prices, strict=True)
    ]


def _sum_of_largest(values: Vector, count: int) -> float:
    return sum([v for v in sorted(values, reverse=True)[:count] if v > 0.0])


def largest(values: Vector, count: int) -> list[Vector]:
    """By k and r <= count, the sum of the r largest of values[k:], those below 0 left out.

    One row more than there are values: the last is of none.
    """
    top: Vector = [0.0] * count
    rows = [[0.0] * (count + 1)]
    for value in reversed(values):
        if count and value > top[-1]:
            top = sorted([*top[:-1], value], reverse=True)
            rows.append([0.0, *accumulate(top)])
        else:
            rows.append(rows[-1])
    return rows[::-1]
