"""Which drugs must leave the list before others can be started, and whether that can end well.

Knows nothing of hazards. Sets of positions on the list are bit masks: bit i is drug i.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from env_server.envs.polypharmacy.reference_options import Option
from env_server.envs.polypharmacy.regimen import Slot

Fits = Callable[[str, list[str]], bool]


class Started(NamedTuple):
    """A drug that took the place of drug `place`, whose own leaving waited for those in `waits`."""

    place: int  # one bit
    drug_id: str
    waits: int


class Standing(NamedTuple):
    """What the plan so far leaves to be done: drugs gone, drugs that still must go, drugs started."""

    gone: int = 0
    must: int = 0
    started: tuple[Started, ...] = ()


class Starts:
    """Follows a plan drug by drug. A drug fits on a list where it fits beside each drug of it."""

    def __init__(self, slots: tuple[Slot, ...], fits: Fits) -> None:
        self._slots, self._fits = slots, fits
        self._against: dict[str, int] = {}

    def after(self, standing: Standing, i: int, option: Option, open_to: int) -> Standing | None:
        """The standing once drug i has become what the option says.

        None where no change of the drugs in `open_to` can make the plan acceptable: a started drug
        quarrels with one that stays, or drugs wait for each other to leave.
        """
        place = 1 << i
        gone, must, started = standing
        if not option.leaves:
            return None if must & place else standing
        gone, must = gone | place, must & ~place
        if option.slot is not None:
            new = option.slot.drug_id
            if self._named(new) & ~gone:
                return None  # changes name drugs: two of one name could not be told apart
            if not all(self._fits(new, [s.drug_id]) for s in started):
                return None
            first = next(c.new_drug for c in option.changes if c.new_drug is not None)
            waits = self._quarrels(first) & ~place
            must |= (self._quarrels(new) | waits) & ~gone
            started = (*started, Started(place, new, waits))
            if not _in_some_order(started):
                return None
        return None if must & ~open_to else Standing(gone, must, started)

    def _named(self, drug: str) -> int:
        return sum(1 << j for j, slot in enumerate(self._slots) if slot.drug_id == drug)

    def _quarrels(self, new: str) -> int:
        """The drugs of the starting list that `new` cannot be started beside."""
        against = self._against.get(new)
        if against is None:
            against = self._against[new] = sum(
                1 << j for j, slot in enumerate(self._slots) if not self._fits(new, [slot.drug_id])
            )
        return against


def _in_some_order(started: tuple[Started, ...]) -> bool:
    """Whether each can leave after those it waits for: False where some wait in a circle."""
    left = started
    while left:
        here = sum(s.place for s in left)
        stuck = tuple(s for s in left if s.waits & here)
        if len(stuck) == len(left):
            return False
        left = stuck
    return True
