"""What a regimen does to this patient: hazards, needs left untreated, and the price of change.

Long because every constant of the model stands here with the sentence that explains it.

U = -(H + untreated need + disruption), H = 1 - exp(-sum of hazards / scale). Knows nothing of
budgets, of what the agent has seen, or of how a review is graded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from types import MappingProxyType
from typing import NamedTuple

from data.polypharmacy import cascades
from data.polypharmacy.tables import Criterion, Drug, Pair, Tables
from env_server.envs.polypharmacy.patient import Patient
from env_server.envs.polypharmacy.regimen import Regimen, Slot


@dataclass(frozen=True, slots=True)
class HarmWeights:
    """The constants of the model, in hazard units unless said otherwise."""

    scale: float = 2.6
    """Hazard at which H reaches 1 - 1/e. Constant: a long list is not excused by its length."""
    pair: float = 1.0
    """Hazard of a pair per unit of its base_risk_score (severe .6-.9, moderate .25-.5, mild .05-.15)."""
    severity: tuple[tuple[str, float], ...] = (("severe", 1.0), ("moderate", 0.25), ("mild", 0.1))
    """Severity counts beyond the score: a moderate pair is mostly lived with, a severe one must not be missed."""
    dose: tuple[float, float, float] = (1.0, 0.7, 0.45)
    """Share of a drug's hazards left at each dose step."""
    monitored: tuple[tuple[str, float], ...] = (
        ("monitor_closely", 0.45),
        ("dose_adjust", 0.6),
        ("avoid_combination", 0.75),
        ("no_action", 1.0),
    )
    """Share of a monitorable pair's hazard left under monitoring, by what the reference work advises."""
    avoid: float = 0.4
    avoid_in_condition: float = 0.45
    dose_adjust: float = 0.35
    """Gone at the lowest dose, a third of it half way."""
    caution: float = 0.12
    caution_monitored: float = 0.5
    """Share of a caution left under monitoring."""
    anticholinergic: float = 0.3
    """At a burden of 3; each further point adds a quarter of it."""
    sedation: float = 0.35
    """Three drugs that depress the central nervous system; each further one adds half of it."""
    kidney_triple: float = 0.6
    """RAS blocker + diuretic + anti-inflammatory."""
    qt_stack: float = 0.4
    """Three drugs that can prolong QT, or two of known risk."""
    bleeding_stack: float = 0.4
    """Anticoagulant or antiplatelet with another bleeding drug and no gastroprotection."""
    potassium_stack: float = 0.4
    """Three drugs that raise potassium, or two with clearance below 45 mL/min."""
    duplicate: float = 0.35
    """Each further drug of one class."""
    cascade: float = 0.3
    """Each drug that another one on the list explains."""
    unprotected_nsaid: float = 0.3
    """Long use of an anti-inflammatory without gastroprotection (Beers row of circumstance)."""
    trimethoprim_ras: float = 0.3
    theophylline_alone: float = 0.2
    withdrawal: float = 0.5
    """A drug that needs tapering stopped at full dose."""
    need: float = 0.45
    """U lost per unit of need_weight left untreated."""
    efficacy: tuple[float, float, float] = (1.0, 0.95, 0.85)
    """Share of a need still met at each dose step."""
    stop: float = 0.015
    """U lost to each kind of change: new habits, new monitoring, new errors."""
    substitute: float = 0.02
    reduce: float = 0.01
    monitor: float = 0.01


WEIGHTS = HarmWeights()

# Mechanisms whose harm a laboratory value, a level or a trace shows before the patient feels it.
MONITORABLE = frozenset(
    [
        "inr_increase",
        "cyp2c9_inhibition",
        "hyperkalaemia",
        "hypokalaemia",
        "hypokalaemia_toxicity",
        "qt_prolongation",
        "lithium_retention",
        "digoxin_level",
        "level_increase",
        "level_reduction",
        "pgp_inhibition",
        "renal_perfusion",
        "nephrotoxicity",
        "methotrexate_clearance",
        "myelosuppression",
        "hyponatraemia",
        "hypoglycaemia",
        "glycaemic_control",
        "bradycardia_av_block",
        "hypotension",
        "hypercalcaemia",
        "hypomagnesaemia",
        "hyperammonaemia",
        "hepatotoxicity",
        "protein_displacement",
        "cyp_induction",
        "pgp_induction",
    ]
)
GASTROPROTECTIVE = "proton pump inhibitor"
PSYCHOSES = frozenset({"psychosis", "bipolar_disorder"})
VASCULAR = frozenset(
    {"coronary_artery_disease", "recent_acs", "stroke_tia", "peripheral_artery_disease"}
)
DIURETICS = frozenset({"loop_diuretic", "diuretic_bp", "mra", "potassium_sparing"})


class SetEffect(NamedTuple):
    """A hazard of the list as a whole, which no query of a pair shows."""

    name: str
    drugs: tuple[str, ...]  # those whose removal can lessen it
    hazard: float


class Assessment(NamedTuple):
    """What a list is worth: value = -(harm + untreated + disruption)."""

    value: float  # U, at most 0
    harm: float  # H, in [0, 1)
    untreated: float  # U lost to needs left untreated


class Traits(NamedTuple):
    """What set effects ask of a drug, read off the tables once."""

    acb: int
    sedative: bool
    qt: int  # 0 none, 1 conditional or possible, 2 known
    bleeding: bool
    antithrombotic: bool
    potassium: bool
    ras: bool
    diuretic: bool
    nsaid: bool
    protective: bool
    acid: bool
    drug_class: str
    explains: frozenset[str]
    copd: bool


_TRAITS: dict[tuple[str, str], Mapping[str, Traits]] = {}  # by version and directory of the tables


def traits(tables: Tables) -> Mapping[str, Traits]:
    """drug_id -> traits, for every drug of the tables; worked out once for each set of tables."""
    key = (tables.version, str(tables.directory))
    known = _TRAITS.get(key)
    if known is None:
        roots = cascades.load(tables)
        known = MappingProxyType({d.drug_id: _traits(d, roots) for d in tables.drugs.values()})
        _TRAITS[key] = known
    return known


def _traits(drug: Drug, roots: dict[str, frozenset[str]]) -> Traits:
    group = drug.substitution_group
    return Traits(
        acb=drug.acb_score,
        sedative="cns_depressant" in drug.effects,
        qt={"none": 0, "known": 2}.get(drug.qt_risk, 1),
        bleeding="bleeding" in drug.effects or "gi_ulcer" in drug.effects,
        antithrombotic=group in {"oral_anticoagulant", "parenteral_anticoagulant", "antiplatelet"},
        potassium="hyperkalaemia" in drug.effects,
        ras=group == "ras_blocker",
        diuretic=group in DIURETICS,
        nsaid=group == "nsaid",
        protective=drug.drug_class == GASTROPROTECTIVE,
        acid=group == "acid_suppression",
        drug_class=drug.drug_class,
        explains=roots.get(drug.drug_id, frozenset()),
        copd="copd" in drug.indications,
    )


def applies(criterion: Criterion, patient: Patient) -> bool:
    """Whether a Beers, STOPP or renal row concerns this patient, list aside.

    Circumstances a record cannot show (first line, new start, form, ...) never apply; the three
    that depend on the rest of the list are set effects.
    """
    if criterion.crcl_below is not None and patient.crcl_ml_min >= criterion.crcl_below:
        return False
    condition = criterion.condition
    if condition is None or condition in patient.conditions:
        return True
    if condition == "no_psychosis_indication":
        return not PSYCHOSES.intersection(patient.conditions)
    if condition == "primary_prevention":
        return not VASCULAR.intersection(patient.conditions)
    if condition == "age_over_60":
        return patient.age > 60
    if condition == "two_of_age80_weight60_cr133":
        # 133 umol/L is 1.5 mg/dL
        facts = (patient.age >= 80, patient.weight_kg <= 60, patient.creatinine_mg_dl >= 1.5)
        return sum(facts) >= 2
    return False


class HarmModel:
    """The model for one patient. Pure; remembers what it has worked out."""

    def __init__(self, tables: Tables, patient: Patient, weights: HarmWeights = WEIGHTS) -> None:
        self.tables = tables
        self.patient = patient
        self.w = weights
        self._severity = dict(weights.severity)
        self._watched = dict(weights.monitored)
        self._traits = traits(tables)
        self._needs = tuple(
            (c, tables.conditions[c].need_weight * weights.need)
            for c in dict.fromkeys(p.indication for p in patient.prescriptions)
        )
        self._treats: dict[str, tuple[str, ...]] = {}
        self._criteria: dict[str, tuple[Criterion, ...]] = {}
        self._drug_hazard: dict[tuple[str, int, bool], float] = {}
        self._pair_hazard: dict[tuple[str, str, int, int, bool], float] = {}
        self._assessed: dict[Regimen, Assessment] = {}

    # -- hazards ------------------------------------------------------------------------------

    def criteria(self, drug_id: str) -> tuple[Criterion, ...]:
        """The rows that concern this patient, in table order."""
        rows = self._criteria.get(drug_id)
        if rows is None:
            all_rows = self.tables.criteria.get(drug_id, ())
            rows = tuple(c for c in all_rows if applies(c, self.patient))
            self._criteria[drug_id] = rows
        return rows

    def drug_hazard(self, slot: Slot) -> float:
        """Hazard of the drug itself in this patient: its criteria at this dose."""
        key = (slot.drug_id, slot.dose_step, slot.monitored)
        hazard = self._drug_hazard.get(key)
        if hazard is None:
            hazard = sum(self._criterion_hazard(c, slot) for c in self.criteria(slot.drug_id))
            self._drug_hazard[key] = hazard
        return hazard

    def _criterion_hazard(self, criterion: Criterion, slot: Slot) -> float:
        w = self.w
        kind = criterion.criterion_type
        if kind == "caution":
            return w.caution * (w.caution_monitored if slot.monitored else 1.0)
        if kind == "dose_adjust":
            lowest = not self.can_reduce(slot)
            if slot.dose_step == 0:
                return w.dose_adjust
            return 0.0 if lowest else w.dose_adjust / 3
        base = w.avoid if kind == "avoid" else w.avoid_in_condition
        return base * w.dose[slot.dose_step]

    def can_reduce(self, slot: Slot) -> bool:
        drug = self.tables.drugs[slot.drug_id]
        return slot.dose_step < len(self.w.dose) - 1 and drug.min_dose_mg < drug.default_dose_mg

    def pair_hazard(self, a: Slot, b: Slot) -> float:
        """Hazard of two drugs together: severity, doses, and monitoring where it can help."""
        key = (a.drug_id, b.drug_id, a.dose_step, b.dose_step, a.monitored or b.monitored)
        hazard = self._pair_hazard.get(key)
        if hazard is None:
            pair = self.tables.pair(a.drug_id, b.drug_id)
            hazard = 0.0 if pair is None else self._weigh(pair, key)
            self._pair_hazard[key] = hazard
        return hazard

    def _weigh(self, pair: Pair, key: tuple[str, str, int, int, bool]) -> float:
        w = self.w
        hazard = w.pair * pair.base_risk_score * self._severity[pair.severity]
        hazard *= w.dose[key[2]] * w.dose[key[3]]
        if key[4] and pair.mechanism in MONITORABLE:
            hazard *= self._watched[pair.recommendation]
        return hazard

    def set_effects(self, slots: Sequence[Slot]) -> list[SetEffect]:
        """Hazards of the list as a whole, in a fixed order."""
        known = [(s.drug_id, self._traits[s.drug_id]) for s in slots]
        w = self.w
        effects: list[SetEffect] = []
        protected = any(t.protective for _, t in known)
        self._burdens(known, effects)
        nsaids = [d for d, t in known if t.nsaid]
        if nsaids:
            ras = [d for d, t in known if t.ras]
            diuretics = [d for d, t in known if t.diuretic]
            if ras and diuretics:
                effects.append(
                    SetEffect("kidney_triple", (*nsaids, *ras, *diuretics), w.kidney_triple)
                )
        if not protected:
            acid = [d for d, t in known if t.acid]
            bleeders = [d for d, t in known if t.bleeding]
            thrombo = any(t.antithrombotic for _, t in known)
            if thrombo and len(bleeders) > 1:
                effects.append(SetEffect("bleeding_stack", (*bleeders, *acid), w.bleeding_stack))
            elif nsaids:
                effects.append(
                    SetEffect("unprotected_nsaid", (*nsaids, *acid), w.unprotected_nsaid)
                )
        self._relations(known, effects)
        return effects

    def _burdens(self, known: list[tuple[str, Traits]], effects: list[SetEffect]) -> None:
        w = self.w
        burden = sum(t.acb for _, t in known)
        if burden >= 3:
            drugs = tuple(d for d, t in known if t.acb)
            hazard = w.anticholinergic * (1 + (burden - 3) / 4)
            effects.append(SetEffect("anticholinergic_burden", drugs, hazard))
        sedatives = tuple(d for d, t in known if t.sedative)
        if len(sedatives) >= 3:
            hazard = w.sedation * (1 + (len(sedatives) - 3) / 2)
            effects.append(SetEffect("sedation_stack", sedatives, hazard))
        qt = tuple(d for d, t in known if t.qt)
        if len(qt) >= 3 or sum(t.qt == 2 for _, t in known) >= 2:
            effects.append(SetEffect("qt_stack", qt, w.qt_stack))
        potassium = tuple(d for d, t in known if t.potassium)
        if len(potassium) >= 3 or (len(potassium) == 2 and self.patient.crcl_ml_min < 45):
            effects.append(SetEffect("potassium_stack", potassium, w.potassium_stack))

    def _relations(self, known: list[tuple[str, Traits]], effects: list[SetEffect]) -> None:
        w = self.w
        by_class: dict[str, list[str]] = {}
        for drug, t in known:
            by_class.setdefault(t.drug_class, []).append(drug)
        for drugs in by_class.values():
            if len(drugs) > 1:
                extra = len(drugs) - 1
                effects.append(SetEffect("duplicate_class", tuple(drugs), w.duplicate * extra))
        for root, t in known:
            if t.explains:
                for drug, _ in known:
                    if drug in t.explains:
                        effects.append(SetEffect("cascade", (root, drug), w.cascade))
        self._circumstances(known, effects)

    def _circumstances(self, known: list[tuple[str, Traits]], effects: list[SetEffect]) -> None:
        """Beers rows whose condition is the rest of the list."""
        for drug, _ in known:
            for row in self.tables.criteria.get(drug, ()):
                if row.condition == "ras_blocker_and_low_crcl":
                    ras = tuple(d for d, t in known if t.ras)
                    if ras and self.patient.crcl_ml_min < 60:
                        hazard = self.w.trimethoprim_ras
                        effects.append(SetEffect("trimethoprim_ras", (drug, *ras), hazard))
                elif (
                    row.condition == "copd_monotherapy"
                    and "copd" in self.patient.conditions
                    and not any(t.copd for d, t in known if d != drug)
                ):
                    hazard = self.w.theophylline_alone
                    effects.append(SetEffect("theophylline_alone", (drug,), hazard))

    def hazard(self, regimen: Regimen) -> float:
        """Sum of all hazards, >= 0; order never matters."""
        slots = regimen.slots
        total = self.w.withdrawal * len(regimen.withdrawn)
        for i, slot in enumerate(slots):
            total += self.drug_hazard(slot)
            for other in slots[i + 1 :]:
                total += self.pair_hazard(slot, other)
        return total + sum(effect.hazard for effect in self.set_effects(slots))

    def harm(self, hazard: float) -> float:
        """H in [0, 1), increasing in hazard."""
        return 1.0 - exp(-hazard / self.w.scale)

    # -- needs, change, value -----------------------------------------------------------------

    def treats(self, drug_id: str) -> tuple[str, ...]:
        """The needs of this patient that the drug can meet."""
        met = self._treats.get(drug_id)
        if met is None:
            indications = self.tables.drugs[drug_id].indications
            met = tuple(c for c, _ in self._needs if c in indications)
            self._treats[drug_id] = met
        return met

    def untreated(self, slots: Iterable[Slot]) -> float:
        """U lost to needs left untreated, >= 0: a need is met as well as its best drug meets it."""
        met: dict[str, float] = {}
        for slot in slots:
            share = self.w.efficacy[slot.dose_step]
            for need in self.treats(slot.drug_id):
                if share > met.get(need, 0.0):
                    met[need] = share
        return sum(weight * (1.0 - met.get(need, 0.0)) for need, weight in self._needs)

    @property
    def needs(self) -> tuple[tuple[str, float], ...]:
        """(condition, U lost if it is left untreated), for what the patient takes drugs for."""
        return self._needs

    def disruption(self, regimen: Regimen) -> float:
        w = self.w
        return (
            w.stop * regimen.stopped
            + w.substitute * regimen.substituted
            + w.reduce * regimen.reduced
            + w.monitor * regimen.monitors
        )

    def assess(self, regimen: Regimen) -> Assessment:
        """U of the list and what it is made of; remembered."""
        found = self._assessed.get(regimen)
        if found is None:
            harm = self.harm(self.hazard(regimen))
            untreated = self.untreated(regimen.slots)
            value = -(harm + untreated + self.disruption(regimen))
            found = self._assessed[regimen] = Assessment(value, harm, untreated)
        return found

    def value(self, regimen: Regimen) -> float:
        """U <= 0: 0 is no harm, every need met, nothing changed."""
        return self.assess(regimen).value
