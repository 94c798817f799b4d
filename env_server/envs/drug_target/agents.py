"""Every agent the family ships: chance, a checklist, canaries, planners on the exact posterior, oracles.

Planners read the dossier alone, as anybody could; the two oracles look into the case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, cast

from data.drug_target.records import Reading
from env_server.contract import Action, Agent, AgentCard, Episode, Observation
from env_server.envs.drug_target.actions import (
    ASSAYS,
    CONFIDENCES,
    FLAGS,
    ORDERS,
    DrugTargetAction,
    order,
    report,
)
from env_server.envs.drug_target.observation import Finding, ValidationObservation
from env_server.envs.drug_target.rules import reached
from env_server.seeds import Stream

if TYPE_CHECKING:
    from env_server.envs.drug_target.belief import Belief
    from env_server.envs.drug_target.episode import ValidationEpisode
    from env_server.envs.drug_target.planner import Offer, Rule

Legal = Callable[[], Sequence[Action]]

# one look at each question, cheapest first: what a practitioner works through
CHECKLIST: Final = (
    order("literature_search", focus="efficacy"),
    order("literature_search", focus="druggability"),
    order("literature_search", focus="safety"),
    order("query_expression", database="GTEx"),
    order("differential_expression", dataset="TCGA_vs_GTEx"),
    order("druggability_screen", library="fragment"),
    order("toxicity_panel", panel="general"),
    order("clinical_trial_lookup", registry="ClinicalTrials.gov"),
    order("off_target_screen", panel="proteome_wide"),
    order("patient_stratification", feature="mutation"),
    order("crispr_knockout", panel="disease_matched"),
)
CHECKLIST_BUDGET: Final = 0.7  # of the credits


class Random:
    """An action at random; a form first, so that reports are as likely as any assay."""

    def __init__(self, episode: Episode) -> None:
        self._stream = Stream("drug_target random", episode.task.name, episode.split, episode.seed)

    def act(self, observation: Observation, legal: Legal) -> DrugTargetAction:
        actions = cast(Sequence[DrugTargetAction], legal())
        form = self._stream.choice(tuple(dict.fromkeys(a.action_type for a in actions)))
        return self._stream.choice([a for a in actions if a.action_type == form])


class Heuristic:
    """Works through the checklist to 70 % of the budget, then reports the mean of what it read."""

    def __init__(self) -> None:
        self._left = list(CHECKLIST)

    def act(self, observation: Observation, legal: Legal) -> DrugTargetAction:
        seen = cast(ValidationObservation, observation)
        most = CHECKLIST_BUDGET * seen.credits_total
        possible = set(legal())
        while self._left and seen.max_steps - seen.step_index > 1:
            ordered = self._left.pop(0)
            spent = seen.credits_total - seen.credits_remaining
            if spent + seen.costs[ordered.action_type] <= most and ordered in possible:
                return ordered
        return verdict(mean_vote(seen.findings))


def mean_vote(findings: Sequence[Finding]) -> float:
    """Mean of the levels read, from -1 (all unfavourable) to 1; 0 where nothing was read."""
    votes = [_vote(f) for f in findings if f.level is not None]
    return sum(votes) / len(votes) if votes else 0.0


def _vote(finding: Finding) -> float:
    level = finding.level or 0
    return 2.0 * level - 1 if finding.said in ("ABSENT", "PRESENT", "GO", "NO_GO") else level - 1.0


def verdict(vote: float) -> DrugTargetAction:
    """A report from a vote: surer the more one-sided it is."""
    return report("go" if vote > 0 else "no_go", round(min(0.55 + 0.5 * abs(vote), 1.0), 4))


def stated(p_go: float) -> DrugTargetAction:
    """The report that states a probability of go."""
    sure = round(max(p_go, 1 - p_go), 4)
    return report("go" if p_go >= 0.5 else "no_go", sure)


# -- on the exact posterior -------------------------------------------------------------------


class Filter:
    """Follows the dossier with the exact posterior. `informed` also counts gene and cancer."""

    def __init__(self, episode: Episode, informed: bool = False) -> None:
        from env_server.envs.drug_target.belief import opening

        case = cast("ValidationEpisode", episode).case
        self.belief: Belief = opening(case.modality, case.pair if informed else None)
        self._taken = 0

    def update(self, seen: ValidationObservation) -> Belief:
        """The belief after everything in the dossier."""
        fresh = seen.findings[self._taken :]
        self._taken = len(seen.findings)
        self.belief = self.belief.after((_channel(f, at), f.level) for at, f in _placed(fresh))
        return self.belief


def _placed(findings: Sequence[Finding]) -> list[tuple[int, Finding]]:
    """Findings with their place among those of the same purchase."""
    placed: list[tuple[int, Finding]] = []
    for finding in findings:
        last = placed[-1] if placed else None
        same = last is not None and last[1].step == finding.step
        placed.append((last[0] + 1 if last and same else 0, finding))
    return placed


def _channel(finding: Finding, at: int) -> Reading:
    from env_server.envs.drug_target.episode import spell_variant

    for variant in ASSAYS[finding.action].variants:
        if spell_variant(variant) == finding.variant:
            return variant.readings[at]
    raise LookupError(f"{finding.action} has no variant {finding.variant!r}")


class Planner:
    """Buys the reading whose expected gain in skill is worth most, then reports the posterior."""

    def __init__(
        self, episode: Episode, rule: Rule = "net", informed: bool = False, at_most: int = 99
    ) -> None:
        self._filter, self._rule, self._at_most = Filter(episode, informed), rule, at_most

    def act(self, observation: Observation, legal: Legal) -> DrugTargetAction:
        ordered, p_go = self.plan(cast(ValidationObservation, observation), legal)
        return ordered or self.close(p_go)

    def plan(
        self, seen: ValidationObservation, legal: Legal
    ) -> tuple[DrugTargetAction | None, float]:
        """(what to buy next, or None to report; the posterior chance of go)."""
        from env_server.envs.drug_target import planner

        belief = self._filter.update(seen)
        if seen.max_steps - seen.step_index <= 1 or len(seen.bought) >= self._at_most:
            return None, belief.p_go
        offers = self._offers(seen, legal)
        chosen = planner.choose(belief, [o for _, o in offers], seen.credits_total, self._rule)
        found = next((a for a, o in offers if o is chosen.offer), None)
        return found, chosen.p_go

    def _offers(
        self, seen: ValidationObservation, legal: Legal
    ) -> list[tuple[DrugTargetAction, Offer]]:
        from env_server.envs.drug_target.planner import Offer

        possible, found = set(legal()), []
        for ordered in ORDERS:
            variant = ordered.variant
            if variant is None or not variant.readings or ordered not in possible:
                continue
            if (ordered.action_type, variant.parameters) not in seen.bought:
                found.append((ordered, Offer(variant, seen.costs[ordered.action_type])))
        return found

    def close(self, p_go: float) -> DrugTargetAction:
        return stated(p_go)


class BinnedPlanner(Planner):
    """The planner, reporting at the nearest listed confidence: what a discrete or small learner can copy."""

    def close(self, p_go: float) -> DrugTargetAction:
        sure = max(p_go, 1 - p_go)
        near = min(CONFIDENCES, key=lambda c: abs(c - sure))
        return report("go" if p_go >= 0.5 else "no_go", near)


class OracleReport(Planner):
    """The planner's evidence, then the truth: the ceiling of the proper rubric."""

    def __init__(self, episode: Episode) -> None:
        super().__init__(episode)
        self._right = cast("ValidationEpisode", episode).case.decision

    def close(self, p_go: float) -> DrugTargetAction:
        return report(self._right, 1.0)


class Oracle:
    """The cheapest action for each dimension that matters, then the truth."""

    def __init__(self, episode: Episode) -> None:
        self._case = cast("ValidationEpisode", episode).case

    def act(self, observation: Observation, legal: Legal) -> DrugTargetAction:
        seen = cast(ValidationObservation, observation)
        if seen.max_steps - seen.step_index > 1:
            possible = [a for a in cast(Sequence[DrugTargetAction], legal()) if a.variant]
            for dimension in self._case.key_dimensions:
                if dimension not in seen.seen:
                    fit = [a for a in possible if a.variant and dimension in _reached(a)]
                    if fit:
                        return min(fit, key=lambda a: seen.costs[a.action_type])
        return report(self._case.decision, 1.0)


def _reached(action: DrugTargetAction) -> frozenset[str]:
    variant = action.variant
    return reached(ASSAYS[action.action_type], variant) if variant else frozenset()


class BuyAllBayes(Filter):
    """Every assay once, cheapest first, while credits last; then the posterior."""

    def act(self, observation: Observation, legal: Legal) -> DrugTargetAction:
        seen = cast(ValidationObservation, observation)
        belief = self.update(seen)
        return next_assay(seen, legal) or stated(belief.p_go)


def next_assay(seen: ValidationObservation, legal: Legal) -> DrugTargetAction | None:
    """The cheapest assay that was not run in any variant, while two steps are left."""
    if seen.max_steps - seen.step_index <= 1:
        return None
    run = {name for name, _ in seen.bought}
    left = [
        a
        for a in cast(Sequence[DrugTargetAction], legal())
        if a.variant and a.variant.readings and a.action_type not in run
    ]
    return min(left, key=lambda a: seen.costs[a.action_type], default=None)


# -- canaries ---------------------------------------------------------------------------------


class Constant:
    """Files the same report at once."""

    def __init__(self, filed: DrugTargetAction) -> None:
        self._filed = filed

    def act(self, observation: Observation, legal: Legal) -> DrugTargetAction:
        return self._filed


class SpamFlags:
    """Raises every flag, then says that it does not know."""

    def act(self, observation: Observation, legal: Legal) -> DrugTargetAction:
        possible = set(legal())
        return next((f for f in FLAGS if f in possible), report("no_go", 0.5))


class BuyAll:
    """Buys every assay and commits to nothing: pays where coverage is what is graded."""

    def act(self, observation: Observation, legal: Legal) -> DrugTargetAction:
        seen = cast(ValidationObservation, observation)
        return next_assay(seen, legal) or report("go", 0.5)


class LookupCertain:
    """The source document's own first move, a look into GTEx, then certainty."""

    def act(self, observation: Observation, legal: Legal) -> DrugTargetAction:
        seen = cast(ValidationObservation, observation)
        if not seen.bought:
            return order("query_expression", database="GTEx")
        return report("go" if mean_vote(seen.findings) > 0 else "no_go", 1.0)


class RepeatAction:
    """Repeats its first action until the clock runs out, whether or not it is refused."""

    def act(self, observation: Observation, legal: Legal) -> DrugTargetAction:
        return ORDERS[0]


class FirstLegal:
    """Takes the first legal action each time."""

    def act(self, observation: Observation, legal: Legal) -> Action:
        return legal()[0]


def _ignoring(make: Callable[[], Agent]) -> Callable[[Episode], Agent]:
    return lambda episode: make()


CARDS: tuple[AgentCard, ...] = (
    AgentCard("random", "random", Random, "a form at random, then an action of that form"),
    AgentCard(
        "heuristic",
        "heuristic",
        _ignoring(Heuristic),
        "a cheap-first checklist to 70 % of the budget, then the mean vote",
    ),
    AgentCard(
        "reference",
        "reference",
        Planner,
        "value of information, net of price, on the exact posterior; reports it (not the optimum)",
    ),
    AgentCard(
        "voi_binned",
        "reference",
        BinnedPlanner,
        "the reference at the five listed confidences: what a small learner can copy",
    ),
    AgentCard(
        "voi_ratio",
        "reference",
        lambda episode: Planner(episode, "ratio"),
        "the same per credit: spends less where little is needed",
    ),
    AgentCard(
        "voi_informed",
        "reference",
        lambda episode: Planner(episode, informed=True),
        "the reference, which also knows what facts say of this gene in this cancer",
    ),
    AgentCard(
        "buy_all_bayes",
        "reference",
        BuyAllBayes,
        "every assay it can pay for, then the exact posterior",
    ),
    AgentCard(
        "oracle_report",
        "reference",
        OracleReport,
        "the reference's evidence, then the truth: the ceiling of the proper rubric",
    ),
    AgentCard(
        "oracle",
        "reference",
        Oracle,
        "the cheapest action for each key dimension, then the truth",
    ),
    AgentCard(
        "null",
        "canary",
        _ignoring(lambda: Constant(report("no_go", 0.5))),
        "reports one half at once",
    ),
    AgentCard(
        "always_go",
        "canary",
        _ignoring(lambda: Constant(report("go", 1.0))),
        "reports go for certain, at once",
    ),
    AgentCard(
        "never_sure",
        "canary",
        _ignoring(lambda: Constant(report("go", 0.0))),
        "reports go with confidence 0, at once: the seed pays it like certainty",
    ),
    AgentCard("spam_flags", "canary", _ignoring(SpamFlags), "raises every flag, decides nothing"),
    AgentCard("buy_all", "canary", _ignoring(BuyAll), "buys what it can, and commits to nothing"),
    AgentCard(
        "lookup_certain",
        "canary",
        _ignoring(LookupCertain),
        "one cheap reading, then certainty",
    ),
    AgentCard("repeat_action", "canary", _ignoring(RepeatAction), "repeats its first action"),
    AgentCard("first_legal", "canary", _ignoring(FirstLegal), "takes the first legal action"),
)
