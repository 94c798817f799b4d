"""The certified optimum is the best review there is, and playing for the return finds it too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from env_server import registry
from env_server.envs.polypharmacy.reference import Change
from env_server.envs.polypharmacy.reference_options import Option
from env_server.envs.polypharmacy.reference_starts import Standing, Starts
from env_server.envs.polypharmacy.regimen import Regimen, Slot
from env_server.envs.polypharmacy.review_case import ReviewCase
from env_server.seeds import Stream

FAMILY = registry.get("polypharmacy")


def case_of(task: str, seed: int, split: str = "train") -> ReviewCase:
    case = FAMILY.begin(task, seed, split).case
    assert isinstance(case, ReviewCase)
    return case


def changes_of(case: ReviewCase, regimen: Regimen) -> Iterator[Change]:
    """Every change that the episode would accept and evidence could support."""
    for slot in regimen.slots:
        drug = slot.drug_id
        wanted = [Change(drug, "stop"), Change(drug, "dose_reduce"), Change(drug, "add_monitoring")]
        wanted += [Change(drug, "substitute", new) for new in case.substitutes(regimen, slot)]
        yield from (change for change in wanted if case._possible(regimen, change))


def every_end(case: ReviewCase, budget: int) -> dict[Regimen, tuple[Change, ...]]:
    """All lists that up to `budget` supported changes lead to, by plain enumeration."""
    found: dict[Regimen, tuple[Change, ...]] = {case.start: ()}
    frontier = [(case.start, ())]
    for _ in range(budget):
        grown = []
        for regimen, path in frontier:
            for change in changes_of(case, regimen):
                after = case._after(regimen, change)
                if after not in found:
                    found[after] = (*path, change)
                    grown.append((after, found[after]))
        frontier = grown
    return found


def small_cases() -> Iterator[tuple[ReviewCase, int]]:
    for seed in range(150):
        yield case_of("review_easy", seed), 2
    for seed in range(35):
        yield case_of("review_budgeted", seed), 2
    for seed in range(15):
        yield case_of("review_easy", 1000 + seed), 3


@pytest.mark.slow
def test_brute_force_agrees_with_the_certified_optimum_on_200_small_cases() -> None:
    checked = 0
    for case, budget in small_cases():
        best = max(case.value(regimen) for regimen in every_end(case, budget))
        assert optimum_with(case, budget) == pytest.approx(best, abs=1e-9)
        checked += 1
    assert checked == 200


def optimum_with(case: ReviewCase, budget: int) -> float:
    from env_server.envs.polypharmacy.reference import optimum

    found = optimum(
        case.harm,
        case.start,
        budget,
        case.swaps,
        case._fits,
        lambda changes: case._order(changes) is not None,
    )
    return found.value


# Three drugs; each new one quarrels with those named.
LIST = (Slot("a", ""), Slot("b", ""), Slot("c", ""))
QUARRELS = {"for_a": {"b"}, "for_b": {"a"}, "free": set()}


def start_of(drug: str, new: str | None) -> Option:
    kind = "stop" if new is None else "substitute"
    slot = None if new is None else Slot(new, "")
    change = Change(drug, kind, new)  # type: ignore[arg-type]
    return Option((change,), slot, False, True, 0.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("plan", "possible"),
    [
        ([("a", "for_a"), ("b", None)], True),  # b is stopped, then a replaced
        ([("a", "for_a"), ("b", "free")], True),
        ([("a", "for_a"), ("c", None)], False),  # b stays
        ([("a", "for_a"), ("b", "for_b")], False),  # each waits for the other to leave
        ([("a", "c"), ("c", None)], False),  # two drugs of one name on the way
    ],
)
def test_a_drug_starts_only_once_those_it_quarrels_with_have_left(
    plan: list[tuple[str, str | None]], possible: bool
) -> None:
    starts = Starts(LIST, lambda new, rest: not QUARRELS.get(new, set()).intersection(rest))
    standing: Standing | None = Standing()
    for drug, new in plan:
        place = "abc".index(drug)
        later = 0b111 & ~((2 << place) - 1)
        if standing is not None:
            standing = starts.after(standing, place, start_of(drug, new), later)
    assert (standing is not None and not standing.must) == possible


def test_the_reference_scores_full_marks_on_every_patient() -> None:
    for task in ("review_easy", "review_budgeted", "review_complex"):
        for seed in range(12):
            episode = FAMILY.begin(task, seed, "validation")
            agent = FAMILY.agents["reference"].make(episode)
            while not episode.done:
                step = episode.step(agent.act(episode.observe(), episode.legal_actions))
                assert step.refusal is None
            assert episode.score() == pytest.approx(0.999)
            assert episode.outcome()["regret"] == pytest.approx(0.0)


def test_no_random_review_beats_the_optimum() -> None:
    for seed in range(40):
        episode = FAMILY.begin("review_budgeted", seed, "validation")
        stream = Stream("beat the optimum", seed)
        while not episode.done:
            episode.step(stream.choice(episode.legal_actions()))
        outcome = episode.outcome()
        assert outcome["attained"] <= outcome["optimum"] + 1e-9


@pytest.mark.slow
def test_the_best_return_is_the_best_score_within_two_hundredths_on_200_patients() -> None:
    for seed in range(200):
        case = case_of("review_easy", seed, "validation")
        attainable = case.optimum().value - case.value(case.start)
        shares = [share_of_best_return(case, attainable)]
        assert min(shares) >= 0.98


def share_of_best_return(case: ReviewCase, attainable: float) -> float:
    """The score of the plan whose return (change of U, costs and score together) is highest."""
    start = case.value(case.start)
    best = (-1.0, 0.0)
    for regimen, path in every_end(case, case.review.intervention_budget).items():
        gained = case.value(regimen) - start
        if attainable <= 1e-6:
            score = 1.0 - min(1.0, max(0.0, -gained) / case.grading.clean_scale)
        else:
            score = max(0.0, gained / attainable)
        asked = queries_for(case, path)
        costs = case.charges.intervention * len(path) + case.charges.query * asked
        best = max(best, (gained + costs + score, score))
    return best[1]


def queries_for(case: ReviewCase, path: tuple[Change, ...]) -> int:
    regimen, asked = case.start, set()
    for change in path:
        pair = case._evidence(regimen, change.drug_id)
        if pair:
            asked.add(pair)
        regimen = case._after(regimen, change)
    return len(asked)
