"""Where each drug of a list can end up within the budget, and what that removes and costs by itself.

Knows nothing of plans of several drugs, nor of which of them is best.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from env_server.envs.polypharmacy.actions import InterventionType
from env_server.envs.polypharmacy.harm import HarmModel, SetEffect
from env_server.envs.polypharmacy.regimen import Regimen, Slot

TINY = 1e-9

Swaps = Callable[[Slot], tuple[str, ...]]


class Change(NamedTuple):
    """One intervention of a plan."""

    drug_id: str
    kind: InterventionType
    new_drug: str | None = None


class End(NamedTuple):
    """What one drug of the list can become, None once stopped, and the changes that lead there."""

    changes: tuple[Change, ...]
    slot: Slot | None
    withdrawn: bool


class Option(NamedTuple):
    """An end that can do something for the patient, and what a bound needs to know of it."""

    changes: tuple[Change, ...]
    slot: Slot | None
    withdrawn: bool
    leaves: bool  # the drug is off the list afterwards, so that set effects may lose it
    fixed: float  # hazard the drug itself loses; below 0 where a worse one takes its place
    share: float  # largest share of its hazard with any drug in reach that it removes
    disruption: float  # U
    price: float  # disruption and untreated need that it costs at least, U


class Need(NamedTuple):
    """A need that the drugs in `who` meet or could go on meeting, and the U lost if none does."""

    condition: str
    loss: float
    who: tuple[int, ...]


class Choices:
    """The options of every drug that gives a reason to be changed.

    `options` goes from positions on the list to options; `certain` are the needs, with the U lost
    if they are left untreated, that no option could newly meet.
    """

    def __init__(
        self, harm: HarmModel, start: Regimen, effects: list[SetEffect], budget: int, swaps: Swaps
    ) -> None:
        self._harm, self._slots, self._budget, self._swaps = harm, start.slots, budget, swaps
        w = harm.w
        self._disruption = {
            "stop": w.stop,
            "substitute": w.substitute,
            "dose_reduce": w.reduce,
            "add_monitoring": w.monitor,
        }
        ends = {
            i: self._ends(slot) for i, slot in enumerate(self._slots) if self._reason(i, effects)
        }
        drugs = {s.drug_id for s in self._slots}
        drugs |= {e.slot.drug_id for row in ends.values() for e in row if e.slot is not None}
        self._reach = [Slot(drug, "") for drug in sorted(drugs)]
        self.certain, only = self._needs(ends)
        found = {i: [self._option(i, e, only[i]) for e in row] for i, row in ends.items()}
        self.options = {
            i: [o for o in row if len(o.changes) == 1 or self._adds(i, o, row)]
            for i, row in found.items()
        }

    def _reason(self, i: int, effects: list[SetEffect]) -> bool:
        """Whether a criterion, a pair or a set effect of the starting list speaks for a change."""
        slot = self._slots[i]
        return (
            self._harm.drug_hazard(slot) > TINY
            or any(slot.drug_id in effect.drugs for effect in effects)
            or any(self._harm.pair_hazard(slot, s) > TINY for s in self._slots if s is not slot)
        )

    # -- ends ---------------------------------------------------------------------------------

    def _ends(self, slot: Slot) -> list[End]:
        """Every end of this drug within the budget, by the fewest changes that lead there."""
        found: dict[tuple[Slot | None, bool], tuple[Change, ...]] = {}
        frontier: list[tuple[Slot, tuple[Change, ...]]] = [(slot, ())]
        for _ in range(self._budget):
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
        return [End(changes, after, withdrawn) for (after, withdrawn), changes in found.items()]

    def _moves(self, slot: Slot) -> list[tuple[Change, Slot | None, bool]]:
        drug = slot.drug_id
        taper = self._harm.tables.drugs[drug].needs_taper and slot.dose_step == 0
        moves: list[tuple[Change, Slot | None, bool]] = [(Change(drug, "stop"), None, taper)]
        if self._harm.can_reduce(slot):
            lower = slot._replace(dose_step=slot.dose_step + 1)
            moves.append((Change(drug, "dose_reduce"), lower, False))
        if not slot.monitored:
            moves.append((Change(drug, "add_monitoring"), slot._replace(monitored=True), False))
        for new in self._swaps(slot):
            moves.append((Change(drug, "substitute", new), Slot(new, slot.indication), False))
        return moves

    # -- what an end removes and costs --------------------------------------------------------

    def _option(self, i: int, end: End, only: list[tuple[str, float]]) -> Option:
        harm, before, after = self._harm, self._slots[i], end.slot
        leaves = after is None or after.drug_id != before.drug_id
        fixed = harm.drug_hazard(before) - (harm.drug_hazard(after) if after is not None else 0.0)
        fixed -= harm.w.withdrawal if end.withdrawn else 0.0
        share = 1.0 if leaves or after is None else self._share(before, after)
        disruption = sum(self._disruption[c.kind] for c in end.changes)
        price = disruption + self._given_up(only, after)
        return Option(*end, leaves, fixed, share, disruption, price)

    def _share(self, before: Slot, after: Slot) -> float:
        kept = 1.0
        for partner in self._reach:
            hazard = self._harm.pair_hazard(before, partner)
            if hazard > 0.0:
                kept = min(kept, self._harm.pair_hazard(after, partner) / hazard)
        return 1.0 - kept

    def _adds(self, i: int, option: Option, rows: list[Option]) -> bool:
        """Whether the last change of an option can do anything for the drug it is made on.

        Lowering or watching a started drug is pointless where it has no hazard with anything in reach.
        """
        harm, slot = self._harm, option.slot
        if slot is None:
            return True
        if slot.drug_id == self._slots[i].drug_id:
            shorter = [r for r in rows if r.changes == option.changes[:-1]]
            return all(
                option.fixed > r.fixed + TINY or option.share > r.share + TINY for r in shorter
            )
        plain = Slot(slot.drug_id, slot.indication)
        if slot == plain or harm.drug_hazard(slot) < harm.drug_hazard(plain) - TINY:
            return True
        return any(
            harm.pair_hazard(slot, partner) < harm.pair_hazard(plain, partner) - TINY
            for partner in self._reach
        )

    # -- needs --------------------------------------------------------------------------------

    def _needs(
        self, ends: dict[int, list[End]]
    ) -> tuple[tuple[Need, ...], list[list[tuple[str, float]]]]:
        """The needs that nothing could newly meet, and by drug those that only it could meet."""
        harm = self._harm
        could: dict[str, set[int]] = {need: set() for need, _ in harm.needs}
        gained: set[str] = set()
        for i, slot in enumerate(self._slots):
            meets = harm.treats(slot.drug_id)
            for need in meets:
                could[need].add(i)
            for end in ends.get(i, ()):
                for need in harm.treats(end.slot.drug_id) if end.slot is not None else ():
                    could[need].add(i)
                    if need not in meets:
                        gained.add(need)
        certain = tuple(
            Need(need, u, tuple(sorted(could[need])))
            for need, u in harm.needs
            if need not in gained
        )
        only = [
            [(need, u) for need, u in harm.needs if could[need] == {i}]
            for i in range(len(self._slots))
        ]
        return certain, only

    def _given_up(self, needs: list[tuple[str, float]], slot: Slot | None) -> float:
        met = self._harm.treats(slot.drug_id) if slot is not None else ()
        share = self._harm.w.efficacy[slot.dose_step] if slot is not None else 0.0
        return sum(u * (1.0 - (share if need in met else 0.0)) for need, u in needs)
