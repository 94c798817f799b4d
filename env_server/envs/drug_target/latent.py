"""The whole state of a validation under the names of the source document: what no agent ever sees.

Told with the outcome, once it is over. Knows how to say the state, not what follows from it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from data.drug_target.records import FACTORS
from data.drug_target.tables import load
from env_server.contract import JsonObject
from env_server.envs.drug_target import biology, rules

if TYPE_CHECKING:
    from env_server.envs.drug_target.episode import ValidationEpisode


@dataclass(frozen=True, slots=True)
class TargetProfile:
    """The target as it is: nine levels, and what follows from them."""

    levels: dict[str, int]
    modality: str
    expected_in_vitro: int  # level of pharmacology
    expected_in_vivo: tuple[int, int]  # levels of pharmacology and of toxicity
    true_viability_score: float
    correct_decision: str
    key_evidence_dimensions: tuple[str, ...]
    misleading_signals: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DataQualityState:
    """How the evidence errs."""

    noise_level: str  # clean, typical, poor or hyped
    false_positive_rate: float
    false_negative_rate: float
    database_coverage: float


@dataclass(frozen=True, slots=True)
class CreditState:
    """The purse."""

    credits_total: int
    credits_used: int
    credits_remaining: int


@dataclass(frozen=True, slots=True)
class ValidationProgress:
    """What has been looked at, and whether a report was filed."""

    investigated: dict[str, bool]
    report_submitted: bool


@dataclass(frozen=True, slots=True)
class FullLatentState:
    """All of it."""

    target: TargetProfile
    quality: DataQualityState
    credits: CreditState
    progress: ValidationProgress

    def to_json(self) -> JsonObject:
        return asdict(self)


def state_of(episode: ValidationEpisode) -> FullLatentState:
    """Everything there is to know of a validation now."""
    case = episode.case
    noise = load().noise[case.quality]
    pharm = biology.level("pharm", case.profile, case.modality)
    dimensions = (*rules.DIMENSIONS, rules.ALLOSTERIC)
    return FullLatentState(
        TargetProfile(
            {str(f): at for f, at in zip(FACTORS, case.profile, strict=True)},
            case.modality,
            pharm,
            (pharm, case.profile[biology.AT["tox"]]),
            round(biology.viability(case.profile, case.modality), 6),
            case.decision,
            case.key_dimensions,
            case.misleading,
        ),
        DataQualityState(case.quality, noise.false_positive, noise.false_negative, noise.coverage),
        CreditState(case.credits, episode.spent, episode.credits),
        ValidationProgress({d: d in episode.seen for d in dimensions}, episode.report is not None),
    )


def report_of(episode: ValidationEpisode) -> JsonObject:
    """The hidden state and what the evidence says of it, for whoever debugs an environment."""
    belief = episode.copy().believed()
    marginals = {str(f): [round(p, 9) for p in belief.marginal(f)] for f in FACTORS}
    return {
        "latent_state": plain(state_of(episode).to_json()),
        "belief": {"p_go": round(belief.p_go, 12), "marginals": marginals},
    }


def plain(value: Any) -> Any:
    """The value as JSON reads it again: tuples become lists."""
    if isinstance(value, dict):
        return {key: plain(member) for key, member in value.items()}
    return [plain(member) for member in value] if isinstance(value, list | tuple) else value
