"""How a validation is graded, and what each step of it pays: four rubrics, by name.

`proper_dense` (the default) and `proper_sparse` grade alike; they differ in when they pay. `seed` and
`seed_terminal` are the published rubric, known to be gameable. Knows books, not how they came about.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Final, Literal, get_args

from env_server.envs.drug_target.biology import Decision

Rubric = Literal["proper_dense", "proper_sparse", "seed", "seed_terminal"]
RUBRICS: Final[tuple[Rubric, ...]] = get_args(Rubric)


@dataclass(frozen=True, slots=True)
class Prices:
    """The constants of the proper rubric, in units of skill."""

    report: float = 0.8  # weight of the skill of the reported probability
    evidence: float = 0.2  # weight of the skill of the exact posterior on the same evidence
    credits: float = 0.25  # of spending the whole budget
    step: float = 0.005
    flag: float = 0.02  # a right flag; a wrong one costs as much
    blind: float = 0.5  # a report on no evidence at all
    unsure: float = 0.3  # a report without a decision or a confidence
    silent: float = 0.5  # no report


PRICES: Final = Prices()
# The score is the proper return on an affine scale: nothing is cut off, so it stays proper.
# Lowest: certain and wrong, posterior certain and wrong, all credits, all steps, eight wrong flags: -3.5.
LOWEST: Final = -3.6
HIGHEST: Final = 1.2
FLOOR, CEILING = 0.001, 0.999

NOVELTY: Final = 0.10
COHERENT, INCOHERENT = 0.05, 0.10
REDUNDANT: Final = 0.05
HARD: Final = 0.25
SHARE_OF_PHI: Final = 0.2


@dataclass(frozen=True, slots=True)
class Report:
    """What was filed. Either may be missing, which is charged for."""

    decision: Decision | None
    confidence: float | None

    @property
    def p_go(self) -> float:
        """The probability of go that the report states; one half where it states none."""
        if self.decision is None or self.confidence is None:
            return 0.5
        return self.confidence if self.decision == "go" else 1 - self.confidence


@dataclass(frozen=True, slots=True)
class Books:
    """What a validation is graded on."""

    go: bool  # the truth
    report: Report | None
    posterior: float  # exact chance of go on the evidence bought
    spent: int
    budget: int
    steps: int
    evidence: int  # actions that bought evidence
    flags_right: int
    flags_wrong: int
    calls: int
    redundant: int
    coherent: int
    with_prerequisites: int  # actions that have soft prerequisites
    key_seen: int
    key_total: int


def skill(p: float, go: bool) -> float:
    """1 - 4 (p - y)^2: 1 for certain and right, 0 for one half, -3 for certain and wrong."""
    return 1 - 4 * (p - float(go)) ** 2


def proper(books: Books) -> float:
    """The whole proper return, in units of skill: strictly proper in the reported probability."""
    found = running(books.spent, books.budget, books.steps) + PRICES.flag * (
        books.flags_right - books.flags_wrong
    )
    found += PRICES.report * skill(books.report.p_go if books.report else 0.5, books.go)
    found += PRICES.evidence * skill(books.posterior, books.go)
    return found - penalties(books)


def running(spent: int, budget: int, steps: int) -> float:
    """What has been paid on the way: credits and steps. Flags are settled at the end: now they would tell."""
    return -PRICES.credits * spent / budget - PRICES.step * steps


def penalties(books: Books) -> float:
    """The hard penalties, shared by all rubrics."""
    if books.report is None:
        return PRICES.silent
    found = 0.0
    if books.evidence == 0:
        found += PRICES.blind
    if books.report.decision is None or books.report.confidence is None:
        found += PRICES.unsure
    return found


def seed_terminal(books: Books) -> float:
    """The published terminal rubric: decision, coverage, efficiency, coherence, and the hard penalties."""
    accuracy = 0.0
    if books.report is not None and books.report.decision and books.report.confidence is not None:
        right = (books.report.decision == "go") == books.go
        accuracy = (1 if right else -1) * 2 * abs(books.report.confidence - 0.5)
    coverage = books.key_seen / books.key_total if books.key_total else 1.0
    efficiency = 1 - books.redundant / books.calls if books.calls else 0.0
    coherence = books.coherent / books.with_prerequisites if books.with_prerequisites else 0.0
    earned = 0.40 * accuracy + 0.35 * coverage + 0.15 * efficiency + 0.10 * coherence
    return earned - penalties(books)


def on_scale(raw: float, low: float = LOWEST, high: float = HIGHEST) -> float:
    """`raw` from [low, high] brought to [0.001, 0.999] by an affine map."""
    return FLOOR + (CEILING - FLOOR) * (raw - low) / (high - low)


SLOPE: Final = (CEILING - FLOOR) / (HIGHEST - LOWEST)
SEED_LOWEST: Final = -0.9  # confidently wrong, on no evidence
SEED_HIGHEST: Final = 1.0


def score(books: Books, rubric: Rubric) -> float:
    """The grade in [0.001, 0.999]."""
    if rubric in ("seed", "seed_terminal"):
        return on_scale(seed_terminal(books), SEED_LOWEST, SEED_HIGHEST)
    return on_scale(proper(books))


def potential(posterior: float, spent: int, budget: int, steps: int) -> float:
    """Where a validation stands: the skill of what is known, less what it has cost. 0 at the start.

    What dense steps pay is the change of it, and the end gives all of it back: over an episode they
    sum to nothing, and the return is the score.
    """
    return SLOPE * (1 - 4 * posterior * (1 - posterior) + running(spent, budget, steps))


def coverage(share: float) -> float:
    """The published potential: of all dimensions, not of the key ones, which it would give away.

    It is kept at the end, so that it pays for looking around: one of that rubric's loopholes.
    """
    return SHARE_OF_PHI * share


def log_loss(p: float, go: bool) -> float:
    """-log of the probability given to what was true, no smaller than 1e-6."""
    return -log(max(p if go else 1 - p, 1e-6))
