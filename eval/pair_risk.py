"""A reviewer that has learned, from the patients it trained on, which pairs are risky and which changes pay.

Two neural Thompson samplers: `risk`, what asking about two drugs would say, and `gain`, what a change
would be credited with. Sees observations alone. Knows nothing of how either was learned.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from env_server.contract import Action, JsonObject, Observation
from env_server.seeds import digest
from eval import neural_ts
from eval.neural_ts import Floats, NeuralTS, Rows

Pair = tuple[str, str]
Row = dict[str, float]  # feature -> value; features the model never met weigh nothing

HAZARD = {"severe": 1.0, "moderate": 0.25, "mild": 0.1, "none": 0.0}
ABOUT, RISK, GAIN = "model.json", "risk.safetensors", "gain.safetensors"


@dataclass(frozen=True, slots=True)
class Manner:
    """How sure is sure. Chosen on validation patients.

    ask: a pair is asked about when a sample of its risk is above this. change: a change is made when
    its gain, less `caution` spreads, is above this.
    """

    ask: float = 0.2
    change: float = 0.01
    caution: float = 0.0


@dataclass(slots=True)
class PairRisk:
    """Both beliefs, the words their columns stand for, and every answer heard in training."""

    risk: NeuralTS
    gain: NeuralTS
    risk_columns: Mapping[str, int]
    gain_columns: Mapping[str, int]
    heard: dict[Pair, float]
    manner: Manner

    def pair_risk(
        self, pairs: Sequence[tuple[JsonObject, JsonObject]], rng: np.random.Generator | None
    ) -> Floats:
        """The risk of each pair: heard before, else the mean, or with `rng` a Thompson sample."""
        answer = np.zeros(len(pairs))
        new = []
        for at, (a, b) in enumerate(pairs):
            known = self.heard.get(named(a, b))
            if known is None:
                new.append(at)
            else:
                answer[at] = known
        if new:
            rows = matrix([pair_row(*pairs[at]) for at in new], self.risk_columns)
            answer[new] = (
                self.risk.mean(rows)
                if rng is None
                else self.risk.sample(rows, rng, nu=1.0, noise_scaled=True)
            )
        return answer

    def gains(self, rows: Sequence[Row], caution: float) -> Floats:
        """What each change would be credited with, less `caution` spreads."""
        features = matrix(rows, self.gain_columns)
        mean = self.gain.mean(features)
        if not caution:
            return mean
        lower: Floats = mean - caution * np.sqrt(self.gain.variance(features))
        return lower


def named(a: JsonObject, b: JsonObject) -> Pair:
    first, second = sorted((str(a["drug_id"]), str(b["drug_id"])))
    return first, second


def matrix(rows: Sequence[Row], columns: Mapping[str, int]) -> Rows:
    """float32 CSR (N, F) of named features."""
    at, values, ends = [], [], [0]
    for row in rows:
        for name, value in row.items():
            if name in columns and value:
                at.append(columns[name])
                values.append(value)
        ends.append(len(at))
    shape = (len(rows), len(columns))
    return sparse.csr_matrix((np.array(values, np.float32), at, ends), shape=shape)


def pair_row(a: JsonObject, b: JsonObject) -> Row:
    """What a pair looks like before it is asked about: two drugs, their groups, what they share."""
    row: Row = {"one": 1.0}
    for m in (a, b):
        for name in (f"drug:{m['drug_id']}", f"class:{m['drug_class']}", f"group:{m['group']}"):
            row[name] = row.get(name, 0.0) + 1.0
        row["high_risk"] = row.get("high_risk", 0.0) + bool(m["is_high_risk_elderly"])
    # sorted: the order of a row is the order its terms are summed in
    for effect in sorted(set(a["effects"]) & set(b["effects"])):
        row[f"shared:{effect}"] = 1.0
    groups = sorted((str(a["group"]), str(b["group"])))
    row[f"groups:{groups[0]}+{groups[1]}"] = 1.0
    return row


@dataclass(frozen=True, slots=True)
class Look:
    """One observation, with what the belief says of the pairs on the list."""

    seen: JsonObject
    drugs: Mapping[str, JsonObject]
    asked: Mapping[Pair, float]
    expected: Mapping[Pair, float]  # of every pair on the list, asked or not

    @classmethod
    def at(cls, seen: JsonObject, model: PairRisk | None) -> Look:
        drugs = {m["drug_id"]: m for m in seen["current_medications"]}
        asked = {
            (q["drug_id_1"], q["drug_id_2"]): answer(q)
            for q in seen["interaction_queries"]
            if q["drug_id_1"] in drugs and q["drug_id_2"] in drugs
        }
        pairs = list(combinations(drugs.values(), 2))
        risks = np.zeros(len(pairs)) if model is None else model.pair_risk(pairs, None)
        expected = {named(a, b): float(r) for (a, b), r in zip(pairs, risks, strict=True)}
        return cls(seen, drugs, asked, expected | asked)


def answer(query: JsonObject) -> float:
    """The risk that an answer tells: its score, counted by severity."""
    return float(query["risk_score"]) * HAZARD[query["severity"]]


def change_row(look: Look, change: JsonObject, model: PairRisk | None) -> Row:
    """What one change looks like: its kind with everything that is known of the drug."""
    drug = look.drugs[change["target_drug_id"]]
    kind = change["intervention_type"]
    own = str(drug["drug_id"])
    asked = [risk for pair, risk in look.asked.items() if own in pair]
    unasked = [r for pair, r in look.expected.items() if own in pair and pair not in look.asked]
    effects = sum(own in e["drugs"] for e in look.seen["view"].get("set_effects", ()))
    same_need = sum(m["indication"] == drug["indication"] for m in look.drugs.values())
    unsupported = not (any(asked) or effects or drug["beers_flags"])
    facts: Row = {
        "one": 1.0,
        "asked": sum(asked),
        "worst_asked": max(asked, default=0.0),
        "unasked": sum(unasked),
        "worst_unasked": max(unasked, default=0.0),
        "set_effects": float(effects),
        "sole": float(same_need == 1),
        "unsupported": float(unsupported),
        "critical": float(drug["is_critical"]),
        "taper": float(drug["needs_taper"] and drug["dose_step"] == 0),
        "high_risk": float(drug["is_high_risk_elderly"]),
        "step": float(drug["dose_step"]),
        "monitored": float(drug["monitored"]),
        f"need:{drug['indication']}": 1.0,
        f"drug:{own}": 1.0,
    }
    for effect in look.seen["view"].get("set_effects", ()):
        if own in effect["drugs"]:
            facts[f"effect:{effect['effect']}"] = 1.0
    for flag in drug["beers_flags"]:
        name = f"flag:{flag.partition(':')[0]}"
        facts[name] = facts.get(name, 0.0) + 1.0
    facts["harm"] = sum(asked) + sum(unasked) + 0.35 * (effects + len(drug["beers_flags"]))
    facts["supported_harm"] = 0.0 if unsupported else facts["harm"]
    new = change.get("proposed_new_drug_id")
    if new and model is not None:
        facts[f"new:{new}"] = 1.0
        rest = [d for d in look.drugs if d != own]
        facts["new_risk"] = sum(model.heard.get(_sorted(new, d), 0.0) for d in rest)
    return {f"{kind}|{name}": value for name, value in facts.items()}


def _sorted(a: str, b: str) -> Pair:
    return (a, b) if a < b else (b, a)


class Reviewer:
    """Asks where a Thompson sample of risk is highest, changes where the posterior is sure, finishes."""

    def __init__(self, model: PairRisk, *name: object) -> None:
        self._model = model
        # one draw a patient: the same review again gives the same bytes
        self._rng = np.random.default_rng(digest("bandit", *name))

    def act(self, observation: Observation, legal: Callable[[], Sequence[Action]]) -> Action:
        possible = list(legal())
        look = Look.at(observation.to_json(), self._model)
        return self._question(look, possible) or self._change(look, possible) or possible[-1]

    def _question(self, look: Look, possible: Iterable[Action]) -> Action | None:
        if look.seen["remaining_intervention_budget"] <= 0:
            return None
        asks = [(a, a.to_json()) for a in possible]
        open_ = [(a, told) for a, told in asks if told["action_type"] == "query_ddi"]
        if not open_:
            return None
        pairs = [(look.drugs[t["drug_id_1"]], look.drugs[t["drug_id_2"]]) for _, t in open_]
        risks = self._model.pair_risk(pairs, self._rng)
        at = int(risks.argmax())
        return open_[at][0] if risks[at] > self._model.manner.ask else None

    def _change(self, look: Look, possible: Iterable[Action]) -> Action | None:
        told = [(a, a.to_json()) for a in possible]
        changes = [(a, t) for a, t in told if t["action_type"] == "propose_intervention"]
        if not changes:
            return None
        manner = self._model.manner
        rows = [change_row(look, t, self._model) for _, t in changes]
        gains = self._model.gains(rows, manner.caution)
        at = int(gains.argmax())
        return changes[at][0] if gains[at] > manner.change else None


def save(model: PairRisk, folder: Path, about: JsonObject) -> None:
    """The folder a player reads: two safetensors files and model.json, written last."""
    folder.mkdir(parents=True, exist_ok=True)
    neural_ts.save(model.risk, folder / RISK)
    neural_ts.save(model.gain, folder / GAIN)
    manner = {"ask": model.manner.ask, "change": model.manner.change}
    body = {
        **about,
        "manner": {**manner, "caution": model.manner.caution},
        "risk_columns": list(model.risk_columns),
        "gain_columns": list(model.gain_columns),
        "heard": [[*pair, risk] for pair, risk in sorted(model.heard.items())],
    }
    half = folder / "model.part"
    half.write_text(json.dumps(body) + "\n", encoding="utf-8")
    half.replace(folder / ABOUT)


def load(folder: Path) -> PairRisk:
    """What `save` wrote."""
    body: dict[str, Any] = json.loads((folder / ABOUT).read_text("utf-8"))
    return PairRisk(
        neural_ts.load(folder / RISK),
        neural_ts.load(folder / GAIN),
        {name: at for at, name in enumerate(body["risk_columns"])},
        {name: at for at, name in enumerate(body["gain_columns"])},
        {(a, b): float(risk) for a, b, risk in body["heard"]},
        Manner(**body["manner"]),
    )
