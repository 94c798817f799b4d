"""A validation as numbers: what was read of each factor, what is left, and a fixed list of actions.

The list is every variant of every assay, every flag, and reports at five confidences each way. Reads the
typed observation alone, so it can tell a learner nothing that an agent may not see.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from data.drug_target.records import MODALITIES, VOTE
from env_server.contract import Action, Encoding, Observation, RoundsError, nearest
from env_server.envs.drug_target.actions import (
    DISCRETE,
    ORDERS,
    REPORT,
    DrugTargetAction,
    report,
)
from env_server.envs.drug_target.biology import FACTOR_WORDS, FLAGGABLE
from env_server.envs.drug_target.channels import levels_of
from env_server.envs.drug_target.observation import ValidationObservation
from env_server.envs.drug_target.rules import ALLOSTERIC, DIMENSIONS

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

NAMES: Final = ("readings", "counts")  # the first is the default
READ: Final = (*FACTOR_WORDS, "T", "pharm", VOTE)  # what a reading may be about
REPORTS_EACH: Final = 4  # low, medium, high, no data
_INDEX: Final[Mapping[DrugTargetAction, int]] = MappingProxyType(
    {a: at for at, a in enumerate(DISCRETE)}
)


class UnknownEncoding(RoundsError, KeyError):
    """The family has no encoding of that name."""

    __str__ = Exception.__str__


class NoSuchAction(RoundsError, IndexError):
    """A discrete action outside the list."""


def counts(seen: ValidationObservation) -> Floats:
    """How often each factor was reported at each level or not at all, and what is left.

    Layout: 12 factors by (low, medium, high, no data), dimensions looked at, flags, purse, clock, kind.
    """
    tally = np.zeros((len(READ), REPORTS_EACH), dtype=np.float32)
    for finding in seen.findings:
        tally[READ.index(finding.factor), _place(finding.factor, finding.level)] += 1
    looked = [float(d in seen.seen) for d in (*DIMENSIONS, ALLOSTERIC)]
    flags = [float(word in seen.flagged) for word in FLAGGABLE]
    left = [
        seen.credits_remaining / 40,
        seen.credits_remaining / seen.credits_total,
        seen.step_index / seen.max_steps,
        float(seen.usual_costs),
        *(float(seen.about.modality == m) for m in MODALITIES),
    ]
    return np.concatenate([tally.ravel() / 3, np.array(looked + flags + left, np.float32)])


def _place(factor: str, level: int | None) -> int:
    if level is None:
        return REPORTS_EACH - 1
    return 2 * level if levels_of(factor) == 2 else level


def readings(seen: ValidationObservation) -> Floats:
    """`counts`, then for every variant of every assay what each of its readings reported.

    Two readings of four places a variant: all zero where it was not bought.
    """
    places = np.zeros((len(ORDERS), 2, REPORTS_EACH), dtype=np.float32)
    by_name = _by_name()
    at_step: dict[int, int] = {}
    for finding in seen.findings:
        reading = at_step.get(finding.step, 0)
        at_step[finding.step] = reading + 1
        at = by_name[finding.action, finding.variant]
        places[at, reading, _place(finding.factor, finding.level)] = 1
    return np.concatenate([counts(seen), places.ravel()])


@lru_cache(maxsize=1)
def _by_name() -> Mapping[tuple[str, str], int]:
    from env_server.envs.drug_target.episode import spell_variant

    return {
        (a.action_type, spell_variant(a.variant)): at
        for at, a in enumerate(ORDERS)
        if a.variant is not None
    }


class ValidationEncoding:
    """Satisfies `contract.Encoding`; the same for all four tiers."""

    n_actions = len(DISCRETE)

    def __init__(self, name: str) -> None:
        self.name = name
        base = len(READ) * REPORTS_EACH + len(DIMENSIONS) + 1 + len(FLAGGABLE) + 4 + len(MODALITIES)
        self.size = base + (len(ORDERS) * 2 * REPORTS_EACH if name == "readings" else 0)

    def features(self, observation: Observation) -> Floats:
        """float32 array of shape (size,)."""
        seen = cast(ValidationObservation, observation)
        return readings(seen) if self.name == "readings" else counts(seen)

    def mask(self, observation: Observation) -> Mask:
        """bool array of shape (n_actions,): exactly the indices whose action is legal; none once done."""
        mask = np.zeros(self.n_actions, dtype=np.bool_)
        for action in cast(ValidationObservation, observation).legal():
            mask[_INDEX[action]] = True
        return mask

    def action(self, observation: Observation, index: int) -> Action:
        """The action of `index`, the same at every moment. Raises NoSuchAction."""
        if not 0 <= index < self.n_actions:
            raise NoSuchAction(f"no discrete action {index}; there are 0 to {self.n_actions - 1}")
        return DISCRETE[index]

    def index(self, observation: Observation, action: Action) -> int | None:
        """The index of `action`; a report goes to the nearest confidence, None where none can be said."""
        if not isinstance(action, DrugTargetAction):
            return None
        if action.action_type == REPORT and action not in _INDEX:
            return _nearest_report(action)
        return _INDEX.get(action)


def _nearest_report(action: DrugTargetAction) -> int | None:
    if action.final_decision is None or action.confidence is None:
        return None
    same = [a for a in DISCRETE if a.final_decision == action.final_decision]
    near = min(same, key=lambda a: abs((a.confidence or 0.0) - (action.confidence or 0.0)))
    return _INDEX[report(action.final_decision, near.confidence or 0.5)]


@lru_cache(maxsize=4)
def encoding(task_name: str, name: str = "default") -> Encoding:
    """The encoding called `name` (`default` is `readings`). Raises UnknownEncoding."""
    if name in ("default", *NAMES):
        return ValidationEncoding(NAMES[0] if name == "default" else name)
    raise UnknownEncoding(
        f"{task_name} has no encoding {name!r}{nearest(name, NAMES)}; encodings: {', '.join(NAMES)}"
    )
