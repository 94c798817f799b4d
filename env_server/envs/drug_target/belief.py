"""What the evidence says: the exact posterior over all 34 992 hidden states, in a few kilobytes.

Given a quality of data, every reading speaks of the row or of the column of a profile (see `worlds.py`),
so its likelihoods can be kept apart as two small tables, and the sum over all states is two small
products. Knows readings, not rewards; sees nothing that the agent did not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from data.drug_target.records import QUALITIES, VOTE, Modality, Reading
from env_server.envs.drug_target import biology
from env_server.envs.drug_target.channels import confusion, levels_of
from env_server.envs.drug_target.worlds import (
    COLUMN,
    COLUMNS,
    GO,
    NO,
    ROW,
    ROWS,
    Floats,
    PairKey,
    prior,
    profile_at,
)

Observed = tuple[Reading, int | None]  # a channel and what it reported; None is no data


@cache
def levels(factor: str, modality: Modality) -> np.ndarray[tuple[int], np.dtype[np.int_]]:
    """The true level of a factor at every row (54) or at every column (162), whichever it depends on."""
    if factor in COLUMN:
        return np.array([column[COLUMN.index(factor)] for column in COLUMNS])
    return np.array(
        [biology.level(factor, profile_at(row, 0), modality) for row in range(len(ROWS))]
    )


def of_row(factor: str) -> bool:
    """Whether a factor is told by the row: its own factors, and T and pharm which follow from them."""
    return factor in ROW or factor in ("T", "pharm")


@cache
def likelihoods(reading: Reading, modality: Modality) -> Floats:
    """Chance of each report, no data last: (reports, 4 qualities, 54 or 162)."""
    rows = np.array([confusion(reading, q) for q in QUALITIES])  # quality, level, report
    found: Floats = rows[:, levels(reading.factor, modality), :].transpose(2, 0, 1)
    return np.ascontiguousarray(found)


@dataclass(slots=True)
class Belief:
    """A posterior, as the prior and the likelihood of all evidence so far. Never changes; `after` makes another.

    rows: (4, 54), columns: (4, 162), votes: likelihood of no_go and of go, each up to a scale. The prior summed
    over columns (or rows) under their likelihoods is kept for as long as it holds: a reading of the other side
    then costs a few hundred products instead of seventy thousand.
    """

    modality: Modality
    start: Floats  # the prior, (2, 4, 54, 162)
    rows: Floats
    columns: Floats
    votes: tuple[float, float] = (1.0, 1.0)
    _over_columns: Floats | None = field(default=None, repr=False)  # (2, 4 * 54)
    _over_rows: Floats | None = field(default=None, repr=False)  # (2, 4 * 162)

    def after(self, observed: Iterable[Observed]) -> Belief:
        """What is believed once these readings have been seen too. Order never matters."""
        rows, columns, votes = self.rows, self.columns, self.votes
        for reading, report in observed:
            if reading.factor == VOTE:
                wrong = reading.error
                chance = (wrong, 1 - wrong) if report else (1 - wrong, wrong)
                votes = (votes[NO] * chance[NO], votes[GO] * chance[GO])
                continue
            seen = likelihoods(reading, self.modality)[-1 if report is None else report]
            if of_row(reading.factor):
                rows = rows * seen
            else:
                columns = columns * seen
        return Belief(
            self.modality,
            self.start,
            rows,
            columns,
            votes,
            self._over_columns if columns is self.columns else None,
            self._over_rows if rows is self.rows else None,
        )

    def weights(self) -> tuple[float, float]:
        """Unnormalised chance of no_go and of go."""
        if self._over_columns is None and self._over_rows is not None:
            no, go = self._over_rows @ self.columns.ravel()
        else:
            no, go = self.over_columns() @ self.rows.ravel()
        return float(no) * self.votes[NO], float(go) * self.votes[GO]

    def over_columns(self) -> Floats:
        """The prior summed over columns under their likelihood, (2, 4 * 54)."""
        if self._over_columns is None:
            summed = np.matmul(self.start, self.columns[None, :, :, None])
            self._over_columns = summed.reshape(2, -1)
        return self._over_columns

    def over_rows(self) -> Floats:
        """The prior summed over rows under their likelihood, (2, 4 * 162)."""
        if self._over_rows is None:
            summed = np.matmul(self.rows[None, :, None, :], self.start)
            self._over_rows = summed.reshape(2, -1)
        return self._over_rows

    @property
    def p_go(self) -> float:
        """The chance that go is right, given the evidence."""
        no, go = self.weights()
        return go / (no + go)

    def joint(self) -> Floats:
        """The whole posterior, (2, 4, 54, 162), summing to 1: for tests and for the planner."""
        votes = np.array(self.votes)[:, None, None, None]
        found: Floats = (
            self.start * votes * self.rows[None, :, :, None] * self.columns[None, :, None, :]
        )
        whole: Floats = found / found.sum()
        return whole

    def marginal(self, factor: str) -> tuple[float, ...]:
        """The chance of each level of a factor."""
        joint = self.joint().sum(axis=(0, 1))
        by = joint.sum(axis=1) if of_row(factor) else joint.sum(axis=0)
        at = levels(factor, self.modality)
        return tuple(float(by[at == level].sum()) for level in range(levels_of(factor)))


def opening(modality: Modality, pair: PairKey | None = None) -> Belief:
    """What is believed before any evidence; `pair` also knows what gene and cancer suggest."""
    return _opening(modality, pair)


@cache
def _opening(modality: Modality, pair: PairKey | None) -> Belief:
    start, n = prior(modality, pair), len(QUALITIES)
    begun = Belief(modality, start, np.ones((n, len(ROWS))), np.ones((n, len(COLUMNS))))
    begun.over_columns()
    begun.over_rows()
    return begun
