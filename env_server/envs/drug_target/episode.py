"""One validation, step by step: credits, prerequisites, readings, flags, and the report that ends it.

Knows the order of events and the rules of what may be done when. What a case is comes from
`generator.py`, what it is worth from `rubrics.py`, what the evidence says from `belief.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from data.drug_target.records import VOTE, Assay, Variant
from env_server.contract import (
    NOTHING,
    Action,
    EpisodeOver,
    EpisodeRunning,
    JsonObject,
    Refusal,
    Split,
    Step,
    Task,
)
from env_server.envs.drug_target import channels, rubrics, rules, tasks
from env_server.envs.drug_target.actions import (
    ASSAYS,
    EXPERT,
    FLAG,
    REPORT,
    SYNTHESIS,
    DrugTargetAction,
    Value,
)
from env_server.envs.drug_target.biology import AT, FACTOR_WORDS, FLAGGABLE
from env_server.envs.drug_target.generator import Case
from env_server.envs.drug_target.observation import Finding, Record, ValidationObservation
from env_server.envs.drug_target.rubrics import Books, Report, Rubric
from env_server.seeds import Stream

if TYPE_CHECKING:
    from env_server.envs.drug_target.belief import Belief, Observed


_SPOKEN: Final[Mapping[str, str]] = {
    **{str(factor): word for factor, word in FACTOR_WORDS.items()},
    "T": "tractability",
    "pharm": "pharmacology",
    VOTE: "expert vote",
}


@dataclass(slots=True)
class ValidationEpisode:
    """One validation, played once. Satisfies `contract.Episode`."""

    case: Case
    seed: int
    split: Split
    episode_id: str
    rubric: Rubric
    belief: Belief
    spent: int = 0
    steps: int = 0
    done: bool = False
    findings: tuple[Finding, ...] = ()
    history: tuple[Record, ...] = ()
    seen: frozenset[str] = frozenset()  # dimensions looked at
    bought: tuple[rules.Key, ...] = ()
    flagged: tuple[str, ...] = ()
    report: Report | None = None
    coherent: int = 0
    with_prerequisites: int = 0
    redundant: int = 0
    _observed: tuple[Observed, ...] = ()
    _potential: float = 0.0
    _p_go: float | None = None
    _outcome: Mapping[str, Any] | None = field(default=None, repr=False)
    _score: float | None = None
    _last: tuple[float, Mapping[str, float], Refusal | None] = (0.0, NOTHING, None)
    _look: ValidationObservation | None = field(default=None, repr=False)

    @property
    def task(self) -> Task:
        return tasks.graded(self.case.validation.task.name, self.rubric)

    @property
    def credits(self) -> int:
        """What is left to spend."""
        return self.case.credits - self.spent

    @property
    def evidence(self) -> int:
        """How many actions bought evidence."""
        return len(self.bought)

    # -- looking ------------------------------------------------------------------------------

    def observe(self) -> ValidationObservation:
        if self._look is None:
            self._look = self._observation()
        return self._look

    def _observation(self) -> ValidationObservation:
        reward, parts, refusal = self._last
        case = self.case
        return ValidationObservation(
            episode_id=self.episode_id,
            task_id=self.task.name,
            about=case.about,
            credits_remaining=self.credits,
            credits_total=case.credits,
            costs=case.costs,
            usual_costs=case.usual_costs,
            step_index=self.steps,
            max_steps=self.task.max_steps,
            findings=self.findings,
            flagged=self.flagged,
            seen=self.seen,
            bought=self.bought,
            history=self.history,
            shaped_reward=reward,
            reward_parts=parts,
            refusal=refusal,
            done=self.done,
            score=self._score,
            told=self.outcome if self.done else None,
        )

    def legal_actions(self) -> Sequence[Action]:
        """Assays that are paid for and prepared, flags not yet raised, reports at five confidences.

        Any other confidence in [0, 1] is accepted too. Repeating an assay is legal, costs its price
        and tells nothing new.
        """
        if self.done:
            return ()
        return tuple(
            rules.legal(self.case.costs, self.credits, self.seen, self.bought, self.flagged)
        )

    def state(self) -> JsonObject:
        return {
            "episode_id": self.episode_id,
            "task_id": self.task.name,
            "step_count": self.steps,
            "max_steps": self.task.max_steps,
            "credits_used": self.spent,
            "evidence_actions": self.evidence,
            "red_flags": len(self.flagged),
        }

    def copy(self) -> ValidationEpisode:
        return replace(self)

    # -- acting -------------------------------------------------------------------------------

    def step(self, action: Action | Refusal) -> Step:
        if self.done:
            raise EpisodeOver(f"episode {self.episode_id} has ended; begin another one")
        self.steps += 1
        paid: dict[str, float] = {}
        refusal = action if isinstance(action, Refusal) else self._act(action, paid)
        if refusal is not None and self.rubric == "seed":
            paid = {"rule_violation": -rubrics.HARD}
        if self.steps >= self.task.max_steps:
            self.done = True
        parts = self._parts(paid)
        reward = sum(parts.values())
        self._last = (reward, MappingProxyType(parts), refusal)
        self._look = None
        return Step(self.observe(), reward, self._last[1], self.done, refusal)

    def _act(self, action: Action, paid: dict[str, float]) -> Refusal | None:
        if not isinstance(action, DrugTargetAction):
            return Refusal("malformed", f"{type(action).__name__} is no action on a drug target")
        if action.action_type == REPORT:
            self.report = Report(action.final_decision, action.confidence)
            self._record(action, 0, "report filed", list(action.slips), paid)
            self.done = True
            return None
        if action.action_type == FLAG:
            return self._flag(action, paid)
        asks = action.action_type != EXPERT  # of nature; asking people is no evidence action
        if self.credits <= 0 and self.case.costs[action.action_type] and asks:
            self.done = True  # exhausted: the report was due
            return Refusal("budget", "the credits are spent; only flags and the report were left")
        assay = ASSAYS[action.action_type]
        cost = self.case.costs[action.action_type]
        barred = rules.barred(assay, cost, self.credits, self.seen, self.bought)
        if barred is None:
            self._buy(action, paid)
        return barred

    def _flag(self, action: DrugTargetAction, paid: dict[str, float]) -> Refusal | None:
        dimension = str(dict(action.parameters)["dimension"])
        if dimension in self.flagged:
            return Refusal("illegal", f"{dimension} has its red flag already")
        self.flagged += (dimension,)
        self._record(action, 0, f"red flag on {dimension}", list(action.slips), paid)
        return None

    def _buy(self, action: DrugTargetAction, paid: dict[str, float]) -> None:
        assay, variant = ASSAYS[action.action_type], action.variant
        assert variant is not None  # every assay that can be bought has variants
        key: rules.Key = (action.action_type, variant.parameters)
        violations = list(action.slips)
        if assay.soft:
            self.with_prerequisites += 1
            if rules.prepared(assay.soft, self.seen):
                self.coherent += 1
                paid["coherence"] = rubrics.COHERENT
            else:
                paid["coherence"] = -rubrics.INCOHERENT
                before = rules.needed(assay.soft)
                violations.append(f"{action.action_type} before evidence on {before}")
        again = key in self.bought
        if again:
            self.redundant += 1
            paid["redundancy"] = -rubrics.REDUNDANT
            violations.append("the same reading was bought before")
        cost = self.case.costs[action.action_type]
        self.spent += cost
        self.bought += (key,)
        if assay.dimension not in self.seen:
            paid["novelty"] = rubrics.NOVELTY
        self.seen |= rules.reached(assay, variant)
        found = self._read(action, assay, variant, again)
        self._record(action, cost, found, violations, paid)

    def _read(self, action: DrugTargetAction, assay: Assay, variant: Variant, again: bool) -> str:
        """Add what the readings report to the dossier, and say it in a line."""
        if assay.action_type == SYNTHESIS:
            return self._digest()
        case, spelled = self.case, spell_variant(variant)
        stream = Stream(case.noise, action.action_type, spelled)
        said = []
        for reading in variant.readings:
            level, value = channels.draw(stream, reading, case.profile, case.modality, case.quality)
            finding = Finding(
                assay.dimension or "",
                reading.factor,
                action.action_type,
                spelled,
                level,
                channels.word(reading.factor, level),
                value,
                channels.unit(reading.factor) if value is not None else "",
                self.steps,
                self._quoted(stream, reading.factor, level),
            )
            said.append(f"{spoken(reading.factor)} {finding.said}")
            if not again:
                self.findings += (finding,)
                self._observed += ((reading, level),)
        return "; ".join(said)

    def _quoted(self, stream: Stream, factor: str, level: int | None) -> tuple[str, ...]:
        """Proteins named with a poor selectivity; they are no evidence beyond the level."""
        if factor != "sel" or level is None or level == 2:
            return ()
        return tuple(stream.sample(self.case.off_targets, 2))

    def _digest(self) -> str:
        """The dossier counted by factor: nothing that is not in it."""
        votes: dict[str, list[str]] = {}
        for finding in self.findings:
            votes.setdefault(spoken(finding.factor), []).append(finding.said)
        return "; ".join(f"{name} {', '.join(said)}" for name, said in votes.items())

    def _record(
        self,
        action: DrugTargetAction,
        credits: int,
        output: str,
        violations: list[str],
        paid: dict[str, float],
    ) -> None:
        spelled = "; ".join(
            f"{k}={_json_word(v)}"
            for k, v in action.told().items()
            if k not in ("action_type", "final_decision", "confidence")
        )
        self.history += (
            Record(
                self.steps,
                action.action_type,
                spelled,
                credits,
                output,
                action.reasoning,
                tuple(violations),
            ),
        )
        if action.slips:
            paid["rule_violation"] = -rubrics.REDUNDANT

    # -- paying -------------------------------------------------------------------------------

    def _parts(self, paid: dict[str, float]) -> dict[str, float]:
        """The components of this step's reward under the rubric; the score is paid once and last."""
        parts: dict[str, float] = {}
        if self.rubric == "proper_dense":
            before, self._potential = self._potential, 0.0 if self.done else self._stands()
            parts["standing"] = self._potential - before
        elif self.rubric == "seed":
            parts.update(paid)
            before, self._potential = self._potential, rubrics.coverage(self._share())
            if self._potential != before:
                parts["coverage"] = self._potential - before
        if self.done:
            self._score = rubrics.score(self.books(), self.rubric)
            parts["score"] = self._score
        return parts

    def _share(self) -> float:
        """Of the dimensions of evidence, how many were looked at."""
        return sum(d in self.seen for d in rules.DIMENSIONS) / len(rules.DIMENSIONS)

    def _stands(self) -> float:
        return rubrics.potential(self._posterior(), self.spent, self.case.credits, self.steps)

    def _posterior(self) -> float:
        """The exact chance of go; readings are taken in when it is asked for."""
        if self._observed or self._p_go is None:
            # products are summed in another order on another processor: the last digits are not kept
            self._p_go = round(self.believed().p_go, 12)
        return self._p_go

    def believed(self) -> Belief:
        """The exact posterior on the evidence bought so far; no agent sees it."""
        if self._observed:
            self.belief = self.belief.after(self._observed)
            self._observed, self._p_go = (), None
        return self.belief

    def books(self) -> Books:
        """What the rubrics grade."""
        case = self.case
        wrong = sum(1 for word in self.flagged if case.profile[AT[FLAGGABLE[word]]] != 0)
        return Books(
            go=case.decision == "go",
            report=self.report,
            posterior=self._posterior(),
            spent=self.spent,
            budget=case.credits,
            steps=self.steps,
            evidence=self.evidence,
            flags_right=len(self.flagged) - wrong,
            flags_wrong=wrong,
            calls=self.evidence,
            redundant=self.redundant,
            coherent=self.coherent,
            with_prerequisites=self.with_prerequisites,
            key_seen=sum(d in self.seen for d in case.key_dimensions),
            key_total=len(case.key_dimensions),
        )

    def score(self) -> float:
        if self._score is None:
            raise EpisodeRunning(f"episode {self.episode_id} has not ended")
        return self._score

    def outcome(self) -> Mapping[str, Any]:
        """The hidden state, the posterior, how the report did, and the reference on the same noise."""
        if not self.done:
            raise EpisodeRunning(f"episode {self.episode_id} has not ended")
        if self._outcome is None:
            from env_server.envs.drug_target.outcome import tell

            self._outcome = tell(self)
        return self._outcome


def spell_variant(variant: Variant) -> str:
    """`database=GTEx`, or nothing where an assay has one variant."""
    return "; ".join(f"{name}={_json_word(value)}" for name, value in variant.parameters)


def _json_word(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def spoken(factor: str) -> str:
    """What a reading is about, in words."""
    return _SPOKEN[factor]
