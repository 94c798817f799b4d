"""What the patient is taking now: drugs, dose steps, monitoring, and what has happened to the list.

Pure values; knows nothing of harm or reward.
"""

from __future__ import annotations

from typing import NamedTuple

DOSE_STEPS = 2  # usual dose -> half way -> lowest


class Slot(NamedTuple):
    """One drug on the list."""

    drug_id: str
    indication: str
    dose_step: int = 0
    monitored: bool = False


class Regimen(NamedTuple):
    """The list, and the traces that changes left: what was stopped abruptly, how many changes."""

    slots: tuple[Slot, ...]
    withdrawn: tuple[str, ...] = ()  # drugs that need tapering and were stopped at full dose
    stopped: int = 0
    substituted: int = 0
    reduced: int = 0
    monitors: int = 0

    def position(self, drug_id: str) -> int | None:
        for i, slot in enumerate(self.slots):
            if slot.drug_id == drug_id:
                return i
        return None


def dose_mg(usual: float, lowest: float, dose_step: int) -> float:
    """Daily dose after `dose_step` reductions: half way to the lowest, then the lowest."""
    return round(usual - (usual - lowest) * dose_step / DOSE_STEPS, 4)


def without(regimen: Regimen, position: int, withdrawn: str | None) -> Regimen:
    """The list once a drug is stopped; `withdrawn` names it where the stop was abrupt."""
    return regimen._replace(
        slots=regimen.slots[:position] + regimen.slots[position + 1 :],
        withdrawn=(*regimen.withdrawn, withdrawn) if withdrawn else regimen.withdrawn,
        stopped=regimen.stopped + 1,
    )


def reduced(regimen: Regimen, position: int) -> Regimen:
    slot = regimen.slots[position]
    return regimen._replace(
        slots=_put(regimen, position, slot._replace(dose_step=slot.dose_step + 1)),
        reduced=regimen.reduced + 1,
    )


def watched(regimen: Regimen, position: int) -> Regimen:
    slot = regimen.slots[position]
    return regimen._replace(
        slots=_put(regimen, position, slot._replace(monitored=True)),
        monitors=regimen.monitors + 1,
    )


def swapped(regimen: Regimen, position: int, new_drug: str) -> Regimen:
    """The list with another drug for the same indication, at its usual dose, not yet monitored."""
    slot = regimen.slots[position]
    return regimen._replace(
        slots=_put(regimen, position, Slot(new_drug, slot.indication)),
        substituted=regimen.substituted + 1,
    )


def _put(regimen: Regimen, position: int, slot: Slot) -> tuple[Slot, ...]:
    return (*regimen.slots[:position], slot, *regimen.slots[position + 1 :])
