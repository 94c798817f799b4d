"""Who is being reviewed: age, body, kidneys, conditions, and what is taken for what.

Knows nothing of harm or of tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Sex = Literal["M", "F", "O"]
EgfrCategory = Literal["normal", "mild", "moderate", "severe"]
LiverCategory = Literal["normal", "impaired"]


@dataclass(frozen=True, slots=True)
class Prescription:
    """One line of the medication list: a drug and the condition it is taken for."""

    drug_id: str
    indication: str


@dataclass(frozen=True, slots=True)
class Patient:
    """A person of 65 or more. Conditions include states (falls, ...) that no drug treats."""

    age: int  # years
    sex: Sex
    weight_kg: float
    creatinine_mg_dl: float
    liver_function_category: LiverCategory
    conditions: tuple[str, ...]
    allergies: tuple[str, ...]  # substitution groups that must not be started
    prescriptions: tuple[Prescription, ...]

    @property
    def crcl_ml_min(self) -> float:
        return creatinine_clearance(self.age, self.sex, self.weight_kg, self.creatinine_mg_dl)

    @property
    def egfr_category(self) -> EgfrCategory:
        return kidney_category(self.crcl_ml_min)

    def fingerprint(self) -> tuple[object, ...]:
        """What makes two patients the same case: the drugs and why they are taken, not the age.

        A split must never share a case, so age and weight, which an agent could ignore, are left out.
        """
        return tuple(sorted((p.drug_id, p.indication) for p in self.prescriptions))


def creatinine_clearance(age: int, sex: Sex, weight_kg: float, creatinine_mg_dl: float) -> float:
    """Cockcroft and Gault 1976, in mL/min, to one decimal: (140 - age) * kg / (72 * mg/dL), .85 for women."""
    clearance = (140 - age) * weight_kg / (72.0 * creatinine_mg_dl)
    return round(clearance * (0.85 if sex == "F" else 1.0), 1)


def kidney_category(crcl_ml_min: float) -> EgfrCategory:
    """KDIGO-like bands in mL/min: normal >= 90, mild 60-89, moderate 30-59, severe < 30."""
    if crcl_ml_min >= 90:
        return "normal"
    if crcl_ml_min >= 60:
        return "mild"
    return "moderate" if crcl_ml_min >= 30 else "severe"
