"""One case of target validation from a seed: gene, cancer, hidden profile, hidden quality, and the words about it.

Knows splits and tiers; knows nothing of actions or rewards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from math import floor
from types import MappingProxyType
from typing import Final, Literal

from data.drug_target.records import QUALITIES, Modality, Profile, Quality, Scenario
from data.drug_target.tables import load
from env_server.contract import BadSplit, Split, did_you_mean
from env_server.envs.drug_target import biology
from env_server.envs.drug_target.observation import Hypothesis
from env_server.envs.drug_target.tasks import SPLITS, TIERS, VALIDATIONS, Validation
from env_server.seeds import Stream, digest

Shift = Literal["poor_data", "small_budget", "large_budget", "permuted_costs", "natural_base_rate"]
SHIFTS: Final[tuple[Shift, ...]] = (
    "poor_data",
    "small_budget",
    "large_budget",
    "permuted_costs",
    "natural_base_rate",
)
SMALLER, LARGER = 0.6, 1.5  # of the tier's budget, under shift
# programme codes are owned by splits: half of them are training's
_OWNERS: Final[tuple[str, ...]] = ("train",) * 8 + SPLITS[1:]
# the curated cases of each tier
CURATED: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "easy": ("egfr_nsclc_viable",),
        "medium": ("kras_pdac_borderline", "tp53_solid_tumors_clear_fail"),
        "hard": ("cd33_aml_misleading",),
        "very_hard": ("ptpn11_juvenile_mml_complex",),
    }
)
_SETTINGS: Final = (
    "first line, unselected",
    "second line, after standard treatment",
    "advanced disease, previously treated",
    "maintenance after response",
    "relapsed disease, heavily pretreated",
)
_KIND: Final = {"small_molecule": "small molecule", "antibody_adc": "antibody or conjugate"}
_MEANS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "small_molecule": (
            "oral {name} inhibitor, monotherapy",
            "oral {name} inhibitor on top of standard treatment",
            "selective {name} inhibitor, intermittent dosing",
        ),
        "antibody_adc": (
            "antibody against {name}, monotherapy",
            "{name} antibody-drug conjugate, previously treated patients",
            "{name} antibody on top of standard treatment",
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Options:
    """What may be asked for beyond task, seed and split; the family checks it."""

    scenario: str | None = None  # a curated case by name, whatever the task's tier
    kappa: float | None = (
        None  # how far gene and cancer foretell the profile; None: .5, or 0 in `swap`
    )
    anonymise: bool = False  # hide the gene's name, as `anon` does
    budget: int | None = None  # credits, instead of the tier's


AS_IT_IS: Final = Options()


@dataclass(frozen=True)
class Case:
    """What all episodes of one (task, seed, split, options) share. Pure, so it may remember."""

    validation: Validation
    seed: int
    split: Split
    about: Hypothesis
    modality: Modality
    profile: Profile
    quality: Quality
    credits: int
    costs: Mapping[str, int]
    usual_costs: bool
    key_dimensions: tuple[str, ...]
    misleading: tuple[str, ...]
    off_targets: tuple[str, ...]
    scenario: str | None
    shift: Shift | None
    pair: tuple[str, str] | None
    noise: int  # names every draw of this case
    memory: dict[str, object] = field(default_factory=dict, compare=False, repr=False)

    @property
    def decision(self) -> biology.Decision:
        return biology.decision(self.profile, self.modality)


@lru_cache(maxsize=4096)
def begin(task: str, seed: int, split: Split, options: Options = AS_IT_IS) -> Case:
    """The case of (task, seed, split), always the same. Raises BadSplit."""
    if split not in SPLITS:
        raise BadSplit(did_you_mean(f"{task} split", split, SPLITS))
    validation = VALIDATIONS[task]
    stream = Stream("drug_target", task, split, seed, options.kappa)
    code = _code(stream, split)
    name = options.scenario or _curated(validation, seed, split)
    noise = digest("drug_target noise", task, split, seed, name)
    if name is not None:
        return _by_hand(load().scenarios[name], validation, seed, split, options, code, noise)
    return _drawn(stream, validation, seed, split, options, code, noise)


def _code(stream: Stream, split: Split) -> str:
    """A programme code of this split's own: no case of one split opens like one of another."""
    while True:
        code = f"RX-{stream.below(16**8):08X}"
        if _OWNERS[digest("programme", code) % len(_OWNERS)] == split:
            return code


def _curated(validation: Validation, seed: int, split: Split) -> str | None:
    if split != "curated":
        return None
    names = CURATED[validation.tier]
    return names[seed % len(names)]


def _by_hand(
    made: Scenario,
    validation: Validation,
    seed: int,
    split: Split,
    options: Options,
    code: str,
    noise: int,
) -> Case:
    hidden, alias = options.anonymise, _alias(code)
    about = Hypothesis(
        alias if hidden else made.target,
        alias,
        made.indication.replace(made.target, alias) if hidden else made.indication,
        # mutations and nicknames in the author's words name the gene as well as its symbol does
        "not told where names are hidden" if hidden else made.disease_context,
        made.modality,
        made.direction,
        f"{_KIND[made.modality]} to {made.direction} {alias}"
        if hidden
        else made.programme_hypothesis,
        code,
    )
    return Case(
        validation,
        seed,
        split,
        about,
        made.modality,
        made.profile,
        made.quality,
        options.budget or made.credits,
        _usual_costs(),
        True,
        made.key_dimensions,
        made.misleading,
        () if hidden else made.off_targets,
        made.name,
        None,
        None,
        noise,
    )


def _drawn(
    stream: Stream,
    validation: Validation,
    seed: int,
    split: Split,
    options: Options,
    code: str,
    noise: int,
) -> Case:
    shift = SHIFTS[seed % len(SHIFTS)] if split == "shift" else None
    kappa = options.kappa if options.kappa is not None else 0.0 if split == "swap" else None
    modality, pair, profile = _hidden(stream, validation, split, kappa, shift)
    quality = _quality(stream, validation, shift)
    target = load().targets[pair[0]]
    hidden_name = options.anonymise or split == "anon"
    shown = _alias(code) if hidden_name else pair[0]
    about = Hypothesis(
        shown,
        _alias(code),
        load().indications[pair[1]].name,
        stream.choice(_SETTINGS),
        modality,
        "inhibit",
        stream.choice(_MEANS[modality]).format(name=shown),
        code,
    )
    return Case(
        validation,
        seed,
        split,
        about,
        modality,
        profile,
        quality,
        options.budget or _credits(validation, shift),
        _permuted(stream) if shift == "permuted_costs" else _usual_costs(),
        shift != "permuted_costs",
        biology.key_dimensions(profile, modality),
        biology.misleading(profile, modality),
        () if hidden_name else target.off_targets,
        None,
        shift,
        pair,
        noise,
    )


def _alias(code: str) -> str:
    return f"T-{int(code[3:], 16) % 10_000:04d}"


def _hidden(
    stream: Stream, validation: Validation, split: Split, kappa: float | None, shift: Shift | None
) -> tuple[Modality, tuple[str, str], Profile]:
    """Decision first, then kind of drug, then gene and cancer by how well they fit, then the profile."""
    # numpy is half of an import: a server that begins no case of this family never pays for it
    from env_server.envs.drug_target import worlds

    tier = validation.tier
    kappa = worlds.KAPPA if kappa is None else kappa
    go = stream.chance(biology.BASE_RATE if shift == "natural_base_rate" else 0.5)
    antibody = stream.chance(worlds.antibody_share(tier))
    modality: Modality = "antibody_adc" if antibody else "small_molecule"
    drawn = worlds.keys(modality, split == "test_targets", split == "test_indications")
    fitting = worlds.cumulated_masses(modality, tier, kappa, drawn)[int(go)]
    pair = drawn[_pick(stream, fitting)]
    cells = worlds.cumulated_cells(modality, tier, kappa, pair, int(go))
    row, column = divmod(_pick(stream, cells), len(worlds.COLUMNS))
    profile = worlds.profile_at(row, column)
    if split == "swap":  # any true name, whatever the profile
        pair = stream.choice(drawn)
    return modality, pair, profile


def _pick(stream: Stream, cumulated: object) -> int:
    """An index drawn in proportion to the steps of a cumulated array."""
    total = float(cumulated[-1])  # type: ignore[index]
    at = int(cumulated.searchsorted(stream.uniform() * total, side="right"))  # type: ignore[attr-defined]
    return min(at, len(cumulated) - 1)  # type: ignore[arg-type]


def _quality(stream: Stream, validation: Validation, shift: Shift | None) -> Quality:
    if shift == "poor_data":
        return "poor" if stream.chance(0.5) else "hyped"
    return stream.weighted(QUALITIES, [validation.quality[q] for q in QUALITIES])


def _credits(validation: Validation, shift: Shift | None) -> int:
    scale = {"small_budget": SMALLER, "large_budget": LARGER}.get(shift or "", 1.0)
    return floor(validation.credits * scale)


@cache
def _usual_costs() -> Mapping[str, int]:
    return MappingProxyType({name: a.cost for name, a in load().assays.items()})


def _permuted(stream: Stream) -> Mapping[str, int]:
    """The same prices on other shelves; what is free stays free."""
    usual = _usual_costs()
    priced = [name for name, cost in usual.items() if cost]
    mixed = dict(zip(priced, stream.shuffled([usual[n] for n in priced]), strict=True))
    return MappingProxyType({name: mixed.get(name, 0) for name in usual})


__all__ = ["AS_IT_IS", "CURATED", "SHIFTS", "TIERS", "Case", "Options", "begin"]
