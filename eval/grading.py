"""Whether a grader pays for the right thing: the oracle on top, thoughtless play at the bottom, room between.

Knows what players scored and returned; nothing of how they play or what a task is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, sqrt
from statistics import fmean, pstdev, variance

from env_server.contract import SCORE_CEILING, SCORE_FLOOR
from eval.finding import KNOWN_OF_SEED_TASKS, Finding, judged, not_applicable
from eval.probes import Played, Subject

# the first two as in `openenv.yaml`
ORACLE_TOLERANCE = 0.01
FLOOR_MARGIN = 0.1
HEADROOM = 0.05
SATURATED = 0.95
SEPARATION = 0.05
MOST_RETURN = 10.0  # beyond, what is graded (at most 1) drowns in the other parts of the reward
LEAST_SPREAD = 0.01
LEAST_DISTINCT = 6
MOST_PATIENTS = 0.9  # a reference that is not exact may be unlucky on some
Z95 = 1.96
LEVELS = ("easy", "medium", "hard", "very_hard")


def oracle_max(subject: Subject) -> Finding:
    """Nobody does better than the reference: on no patient where it is exact, else not on average."""
    check, task = "oracle_max", subject.task.name
    card, oracle = subject.oracle(), subject.reference()
    if card is None or oracle is None:
        return judged(check, task, False, None, "a reference", "the family ships no reference")
    others = subject.others()
    if task not in card.exact_on:
        best = max(others, key=lambda p: p.score)
        lead = oracle.score - best.score
        return judged(
            check,
            task,
            lead >= -ORACLE_TOLERANCE,
            lead,
            f"mean lead of the reference >= -{ORACLE_TOLERANCE}",
            f"{oracle.name} {oracle.score:.3f} (not exact here), best other {best.name} {best.score:.3f}",
        )
    excess, seed, who = max(
        (score - oracle.scores[seed], seed, p.name)
        for p in others
        for seed, score in enumerate(p.scores)
    )
    said = f"no player above the reference on any of {subject.patients} patients"
    if excess > 0:
        said = f"{who} is {excess:.3f} above the reference on patient {seed}"
    return judged(
        check,
        task,
        excess <= ORACLE_TOLERANCE,
        0.0 - excess,
        f"least lead on a patient >= -{ORACLE_TOLERANCE}",
        said,
    )


def floor_gap(subject: Subject) -> Finding:
    """Random play scores well below the reference."""
    random, oracle = subject.random(), subject.reference()
    return _gap("floor_gap", subject, oracle, random, FLOOR_MARGIN)


def headroom(subject: Subject) -> Finding:
    """What a practitioner would do leaves something to learn."""
    heuristic, oracle = subject.heuristic(), subject.reference()
    found = _gap("headroom", subject, oracle, heuristic, HEADROOM)
    if heuristic is not None and heuristic.score > SATURATED:
        return judged(
            "headroom",
            subject.task.name,
            False,
            heuristic.score,
            f"heuristic <= {SATURATED}",
            f"the heuristic scores {heuristic.score:.3f}: nothing is left to learn",
        )
    return found


def _gap(
    check: str, subject: Subject, upper: Played | None, lower: Played | None, least: float
) -> Finding:
    task, threshold = subject.task.name, f"gap >= {least}"
    if upper is None or lower is None:
        return judged(check, task, False, None, threshold, "one of the two agents is not shipped")
    gap = upper.score - lower.score
    said = f"{upper.name} {upper.score:.3f}, {lower.name} {lower.score:.3f}"
    return judged(check, task, gap >= least, gap, threshold, said)


def canary_floor(subject: Subject) -> Finding:
    """The degenerate policies that the family ships stay below its yardstick by the task's margin."""
    canaries = [subject.play(card) for card in subject.cards("canary")]
    if not canaries:
        why = "the family ships no canary for this task; gameability_gap plays its own"
        return not_applicable("canary_floor", subject.task.name, why)
    return _below_yardstick("canary_floor", subject, canaries)


def gameability_gap(subject: Subject) -> Finding:
    """No policy without a thought pays: not in score, and not in the return a trainer maximises."""
    thoughtless, upper = subject.degenerate(), _yardstick(subject)
    found = _below_yardstick("gameability_gap", subject, thoughtless)
    if upper is None or found.status != "pass":
        return found
    richest = max(thoughtless, key=lambda p: p.episode_return)
    if richest.episode_return < upper.episode_return:
        return found
    said = (
        f"{richest.name} returns {richest.episode_return:.3f}, the {subject.task.yardstick}"
        f" {upper.episode_return:.3f}: the reward pays for what the score does not"
    )
    gap = upper.episode_return - richest.episode_return
    above = f"{subject.task.yardstick}'s return above theirs"
    return _known("gameability_gap", subject, gap, above, said)


def _yardstick(subject: Subject) -> Played | None:
    """Whom degenerate policies are held against: the heuristic, but where a task says the reference."""
    return subject.reference() if subject.task.yardstick == "reference" else subject.heuristic()


def _below_yardstick(check: str, subject: Subject, canaries: Sequence[Played]) -> Finding:
    task, upper = subject.task, _yardstick(subject)
    threshold = f"{task.yardstick} less the best of them >= {task.margin}"
    if upper is None:
        return judged(check, task.name, False, None, threshold, f"no {task.yardstick} is shipped")
    best = max(canaries, key=lambda p: p.score)
    gap = upper.score - best.score
    said = (
        f"{best.name} {best.score:.3f}, {upper.name} {upper.score:.3f} ({len(canaries)} policies)"
    )
    if gap >= task.margin:
        return judged(check, task.name, True, gap, threshold, said)
    return _known(check, subject, gap, threshold, said)


def _known(check: str, subject: Subject, gap: float, threshold: str, said: str) -> Finding:
    """A failure, or what was expected of a grader that is kept exact from its source."""
    task = subject.task
    if task.seed and check in KNOWN_OF_SEED_TASKS:
        return Finding(check, task.name, "expected", gap, threshold, f"{said}; a seed task")
    return judged(check, task.name, False, gap, threshold, said)


def reward_reachability(subject: Subject) -> Finding:
    """What the outcome calls best can be reached by playing, and pays more than saying nothing."""
    check, task = "reward_reachability", subject.task.name
    card, oracle = subject.oracle(), subject.reference()
    if card is None or oracle is None:
        return judged(check, task, False, None, "a reference", "the family ships no reference")
    silent = next(p for p in subject.degenerate() if p.name == "*silent")
    pays = [a > b for a, b in zip(oracle.returns, silent.returns, strict=True)]
    promised = [o.get("score_best") for o in oracle.outcomes]
    reached = [max(p.scores[at] for p in subject.references()) for at in range(len(promised))]
    kept = [
        score >= best - ORACLE_TOLERANCE
        for score, best in zip(reached, promised, strict=True)
        if isinstance(best, int | float)
    ]
    exact = task in card.exact_on
    share = fmean(kept) if kept else None
    least = 1.0 if exact else MOST_PATIENTS
    holds = fmean(pays) >= least and (share is None or share >= least)
    told = f"score_best reached on {share:.0%}" if share is not None else "no score_best is told"
    return judged(
        check,
        task,
        holds,
        min(fmean(pays), 1.0 if share is None else share),
        f"score_best, and more than silence earns, on {'all' if exact else f'>= {least}'} patients",
        f"{told}, more than silence on {fmean(pays):.0%}",
    )


def variance_bound(subject: Subject) -> Finding:
    """Scores vary with play, and no return is so large that it drowns what is graded."""
    check, task = "variance_bound", subject.task.name
    players = [p for p in (subject.random(), subject.heuristic()) if p is not None]
    if not players:
        return judged(check, task, False, None, "two agents", "neither random nor heuristic")
    scores = [score for p in players for score in p.scores]
    oracle = subject.reference()
    everyone = [*subject.others(), *([] if oracle is None else [oracle])]
    largest = max(abs(value) for p in everyone for value in p.returns)
    outside = [s for p in everyone for s in p.scores if not SCORE_FLOOR <= s <= SCORE_CEILING]
    distinct, spread = len({round(s, 9) for s in scores}), pstdev(scores)
    least = min(LEAST_DISTINCT, max(2, subject.patients // 2))
    holds = (
        distinct >= least
        and spread >= LEAST_SPREAD
        and isfinite(largest)
        and largest <= MOST_RETURN
        and not outside
    )
    return judged(
        check,
        task,
        holds,
        spread,
        f"sd >= {LEAST_SPREAD} over >= {least} different scores, |return| <= {MOST_RETURN:g},"
        f" scores in [{SCORE_FLOOR}, {SCORE_CEILING}]",
        f"sd {spread:.3f} over {distinct} different scores, largest return {largest:.2f},"
        f" {len(outside)} scores out of bounds",
    )


def difficulty_separation(subjects: Sequence[Subject]) -> list[Finding]:
    """A harder level is not easier for the heuristic, and the hardest is harder than the easiest.

    One finding for the seed tasks and one for the others: they are graded by other rules.
    """
    groups = {
        kind: [s for s in subjects if s.task.seed == seed]
        for kind, seed in (("graded tasks", False), ("seed tasks", True))
    }
    return [_separated(kind, group) for kind, group in groups.items() if group]


def _separated(kind: str, subjects: Sequence[Subject]) -> Finding:
    check = "difficulty_separation"
    by_level: dict[str, list[float]] = {}
    for subject in subjects:
        played = subject.heuristic()
        if played is not None:
            by_level.setdefault(subject.task.difficulty, []).extend(played.scores)
    levels = [level for level in LEVELS if level in by_level]
    if len(levels) < 2:
        return not_applicable(check, kind, f"only one difficulty: {', '.join(levels) or 'none'}")
    means = {level: fmean(by_level[level]) for level in levels}
    inverted = [
        f"{hard} is easier than {easy}"
        for at, easy in enumerate(levels)
        for hard in levels[at + 1 :]
        if means[hard] - means[easy] > _half_width(by_level[easy], by_level[hard])
    ]
    gap = means[levels[0]] - means[levels[-1]]
    said = ", ".join(f"{level} {means[level]:.3f}" for level in levels)
    return judged(
        check,
        kind,
        not inverted and gap >= SEPARATION,
        gap,
        f"heuristic's {levels[0]} less {levels[-1]} >= {SEPARATION}; no level beyond its 95 % above"
        " an easier one",
        "; ".join([said, *inverted]),
    )


def _half_width(one: Sequence[float], other: Sequence[float]) -> float:
    """Half of a 95 % interval of the difference of two means of different patients."""
    return Z95 * sqrt(sum(variance(v) / len(v) for v in (one, other) if len(v) > 1))
