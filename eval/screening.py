"""What a trained bandit says of combinations it is asked about: the server's /bandit routes stand on this.

Opens either kind of folder: a search of simulated combinations, whose drugs are numbers, or the
polypharmacy bandit, whose drugs have names. numpy alone; knows nothing of HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr

from data.polypharmacy.tables import Drug, load
from env_server.contract import JsonObject, RoundsError, nearest
from eval import neural_ts, pair_risk
from eval.neural_ts import NeuralTS
from eval.roster import NotReady

HOW = (
    "make one with: python -m training.bandit --config configs/bandit/demo.yaml, or name the folder"
    " of another with --bandit"
)


class UnknownDrug(RoundsError, ValueError):
    """A combination holds something the bandit has never seen."""


@dataclass(frozen=True, slots=True)
class CombinationScreen:
    """A search of simulated combinations: drugs are whole numbers from 0."""

    model: NeuralTS
    about: JsonObject

    def screen(self, asked: Sequence[Sequence[object]]) -> list[JsonObject]:
        """For each combination its RR, how unsure that is, and the chance that it is dangerous."""
        drugs, threshold = int(self.about["drugs"]), float(self.about["threshold"])
        bits = np.zeros((len(asked), drugs), np.float32)
        for at, combination in enumerate(asked):
            bits[at, [self._column(drug, drugs) for drug in combination]] = 1
        rows = self.model.features(bits)
        mean = self.model.mean(rows).astype(float)
        sd = np.sqrt(self.model.variance(rows) + self.model.scatter(mean) ** 2)
        chance = ndtr((mean - threshold) / np.maximum(sd, 1e-9))
        return [
            {
                "drugs": list(combination),
                "risk": round(float(m), 4),
                "sd": round(float(s), 4),
                "probability": round(float(p), 4),
                "dangerous": bool(p > 0.5),
            }
            for combination, m, s, p in zip(asked, mean, sd, chance, strict=True)
        ]

    @staticmethod
    def _column(drug: object, drugs: int) -> int:
        if isinstance(drug, bool) or not isinstance(drug, int) or not 0 <= drug < drugs:
            raise UnknownDrug(
                f"{drug!r} is no drug of this set; its drugs are the numbers 0 to {drugs - 1}"
            )
        return drug

    def metrics(self) -> JsonObject:
        return self.about


@dataclass(frozen=True, slots=True)
class PairScreen:
    """The polypharmacy bandit: drugs have the names of the family's tables."""

    model: pair_risk.PairRisk
    about: JsonObject

    def screen(self, asked: Sequence[Sequence[object]]) -> list[JsonObject]:
        """For each combination the risk of its worst pair, and of all its pairs together."""
        return [self._one([self._drug(name) for name in combination]) for combination in asked]

    def _one(self, drugs: Sequence[Drug]) -> JsonObject:
        shown = {d.drug_id: _shown(d) for d in drugs}  # a drug named twice is taken once
        pairs = list(combinations(shown.values(), 2))
        risks = self.model.pair_risk(pairs, None).astype(float) if pairs else np.zeros(0)
        told = [
            {
                "drugs": list(pair_risk.named(a, b)),
                "risk": round(max(float(r), 0.0), 4),
                "heard": pair_risk.named(a, b) in self.model.heard,
            }
            for (a, b), r in zip(pairs, risks, strict=True)
        ]
        told.sort(key=lambda pair: -float(pair["risk"]))  # type: ignore[arg-type]
        return {
            "drugs": list(shown),
            "risk": told[0]["risk"] if told else 0.0,
            "total": round(float(np.maximum(risks, 0).sum()), 4),
            "dangerous": bool(told and float(told[0]["risk"]) > self.model.manner.ask),  # type: ignore[arg-type]
            "pairs": told,
        }

    @staticmethod
    def _drug(name: object) -> Drug:
        drugs = load().drugs
        if not isinstance(name, str) or name not in drugs:
            near = nearest(str(name), tuple(drugs))
            raise UnknownDrug(f"{name!r} is no drug of the formulary{near}")
        return drugs[name]

    def metrics(self) -> JsonObject:
        hidden = ("risk_columns", "gain_columns", "heard")
        return {key: value for key, value in self.about.items() if key not in hidden}


def _shown(drug: Drug) -> JsonObject:
    """What a list shows of a drug that a pair's risk is read from."""
    return {
        "drug_id": drug.drug_id,
        "drug_class": drug.drug_class,
        "group": drug.substitution_group,
        "is_high_risk_elderly": drug.is_high_risk_elderly,
        "effects": [
            *sorted(drug.effects),
            *([f"qt_{drug.qt_risk}"] if drug.qt_risk != "none" else []),
            *([f"acb_{drug.acb_score}"] if drug.acb_score else []),
        ],
    }


def open_screen(folder: str) -> CombinationScreen | PairScreen:
    """The bandit in `folder`. Raises NotReady where there is none, with the command that makes one."""
    place = Path(folder)
    if not (place / "model.json").is_file():
        raise NotReady(f"no trained bandit in {folder}; {HOW}")
    about: dict[str, Any] = json.loads((place / "model.json").read_text("utf-8"))
    if about["kind"] == "pairs":
        return PairScreen(pair_risk.load(place), about)
    return CombinationScreen(neural_ts.load(place / "model.safetensors"), about)
