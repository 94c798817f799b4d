"""What is told once a validation is over: the hidden state, the posterior, the report, the reference.

The reference plan is worked out once a case and remembered. Knows no reward but the rubrics' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from env_server.contract import Measure
from env_server.envs.drug_target import rubrics
from env_server.envs.drug_target.latent import plain, state_of

if TYPE_CHECKING:
    from env_server.envs.drug_target.episode import ValidationEpisode
    from env_server.envs.drug_target.generator import Case


# the columns of this family in every table, made of what `tell` tells
MEASURES: Final[Mapping[str, Measure]] = MappingProxyType(
    {
        # 1 - 4(p - y)^2 of the report, with nothing charged for how it came about
        "skill": Measure(lambda told: told["skill"]),
        "right": Measure(lambda told: float(told["correct"])),
        "credits": Measure(lambda told: float(told["credits_spent"])),
        # mean |p - b|: how far the report is from what its own evidence says
        "off evidence": Measure(lambda told: told["off_the_evidence"]),
        "skill/credit": Measure(
            lambda told: told["evidence_skill"], per=lambda told: float(told["credits_spent"])
        ),
    }
)


def tell(episode: ValidationEpisode) -> Mapping[str, Any]:
    """Everything that was hidden. `regret` is against the value-of-information plan on the same noise.

    It may be negative: that plan is the best we know, not the best there is.
    """
    case, books = episode.case, episode.books()
    best, plan = reference(case, episode.rubric)
    filed = books.report
    p = filed.p_go if filed else 0.5
    score = episode.score()
    told: dict[str, Any] = {
        "right_decision": case.decision,
        "decided": filed.decision if filed else None,
        "stated_p_go": p,
        "correct": bool(filed and filed.decision == case.decision),
        "posterior_p_go": books.posterior,
        "brier": (p - float(books.go)) ** 2,
        "log_loss": rubrics.log_loss(p, books.go),
        "skill": rubrics.skill(p, books.go),
        "evidence_skill": rubrics.skill(books.posterior, books.go),
        "off_the_evidence": abs(p - books.posterior),
        "proper_return": rubrics.proper(books),
        "seed_return": rubrics.seed_terminal(books),
        "rubric": episode.rubric,
        "credits_spent": books.spent,
        "redundant_calls": books.redundant,
        "key_coverage": books.key_seen / books.key_total if books.key_total else 1.0,
        "latent_state": plain(state_of(episode).to_json()),
        "scenario": case.scenario,
        "shifted": case.shift,
        "score_best": best,
        "best_plan": list(plan),
        "regret": best - score,
    }
    return MappingProxyType(told)


def reference(case: Case, rubric: rubrics.Rubric) -> tuple[float, tuple[dict[str, Any], ...]]:
    """(score, actions) of the value-of-information plan on this case, its noise included."""
    key = f"reference {rubric}"
    found = case.memory.get(key)
    if found is None:
        found = case.memory[key] = _play(case, rubric)
    return found  # type: ignore[return-value]


def _play(case: Case, rubric: rubrics.Rubric) -> tuple[float, tuple[dict[str, Any], ...]]:
    from env_server.envs.drug_target.agents import Planner
    from env_server.envs.drug_target.family import start

    episode = start(case, rubric)
    planner, plan = Planner(episode), []
    while not episode.done:
        action = planner.act(episode.observe(), episode.legal_actions)
        plan.append(action.to_json())
        episode.step(action)
    return episode.score(), tuple(plan)
