"""ClinicalTrials.gov: what became of trials with a target's drugs in one cancer.

A registry tells that a trial ended, not that the drug worked: COMPLETED is no success, a stop for
business is no failure, and progress in another disease is no precedent. Knows the API v2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from data.sources.finding import (
    Disease,
    EvidenceSource,
    Judged,
    Params,
    Subject,
    plain,
)
from data.sources.why_stopped import Reason, why_stopped
from data.sources.wire import Garbled, Request, SourceError, listed

HOME: Final = "https://clinicaltrials.gov/api/v2/studies"
PAGE: Final = 100
MOST_PAGES: Final = 20
STOPPED: Final = frozenset({"TERMINATED", "WITHDRAWN", "SUSPENDED"})
LATE: Final = frozenset({"PHASE2", "PHASE3"})
REGISTRY: Final = "ClinicalTrials.gov"


class NoDrugs(SourceError):
    """Trials are searched by drugs, and none is known for this target."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One study, as far as a level hangs on it. here: of the cancer asked about. tests_it: with one of the drugs."""

    nct_id: str
    status: str
    phases: tuple[str, ...]
    reasons: tuple[Reason, ...]
    has_results: bool
    here: bool
    tests_it: bool

    @property
    def stopped(self) -> bool:
        return self.status in STOPPED


class ClinicalTrials(EvidenceSource):
    """Clinical precedent of a target in an indication."""

    name = "clinicaltrials"
    offers = (
        ("clinical_trial_lookup", {"registry": REGISTRY, "scope": "this_indication"}),
        ("clinical_trial_lookup", {"registry": REGISTRY, "scope": "any_indication"}),
    )

    def _judge(self, target: Subject, indication: Disease, action: str, params: Params) -> Judged:
        """Trials of the target's drugs. Raises NoDrugs where there is nothing to search by."""
        if not target.drugs:
            raise NoDrugs(
                f"no drug against {target.symbol} is in the tables; name some with --drugs NAME..."
            )
        anywhere = params["scope"] == "any_indication"
        studies = self._studies(target.drugs, None if anywhere else indication)
        trials = [trial(study, indication, target.drugs) for study in studies]
        return precedent(trials, anywhere)

    def _studies(self, drugs: Sequence[str], indication: Disease | None) -> list[Mapping[str, Any]]:
        """All pages: the token of the next one is in the answer, and a last page has none."""
        named = " OR ".join(f'"{drug}"' if " " in drug else drug for drug in drugs)
        asked = [("query.intr", named), ("pageSize", str(PAGE))]
        if indication is not None:
            asked.insert(0, ("query.cond", indication.name))
        found: list[Mapping[str, Any]] = []
        token = ""
        for _ in range(MOST_PAGES):
            more = [("pageToken", token)] if token else []
            payload = self._wire.json(Request(HOME, (*asked, *more)))
            found += listed(payload, "studies", "ClinicalTrials.gov")
            before, token = token, str(payload.get("nextPageToken") or "")
            if not token:
                return found
            if token == before:
                raise Garbled(
                    f"ClinicalTrials.gov gave the page after {token!r} as the next one again"
                )
        raise Garbled(
            f"more than {MOST_PAGES * PAGE} trials of {named}; name fewer drugs with --drugs, or a level would"
            " rest on a part of them"
        )


def trial(study: Mapping[str, Any], indication: Disease, drugs: Sequence[str] = ()) -> Trial:
    """A study's record. Raises Garbled where it has no identifier or status."""
    try:
        protocol = study["protocolSection"]
        nct_id = str(protocol["identificationModule"]["nctId"])
        status = protocol["statusModule"]
        told = str(status["overallStatus"])
    except (KeyError, TypeError) as error:
        raise Garbled(f"ClinicalTrials.gov sent a study without {error}") from error
    conditions = protocol.get("conditionsModule", {}).get("conditions", [])
    arms = protocol.get("armsInterventionsModule", {}).get("interventions", [])
    names = plain(" ".join(str(arm.get("name", "")) for arm in arms))
    return Trial(
        nct_id=nct_id,
        status=told,
        phases=tuple(protocol.get("designModule", {}).get("phases", ())),
        reasons=why_stopped(status.get("whyStopped")) if told in STOPPED else (),
        has_results=bool(study.get("hasResults", False)),
        here=any(indication.is_named(condition) for condition in conditions),
        tests_it=not drugs or any(plain(drug) in names for drug in drugs),
    )


def precedent(trials: Sequence[Trial], anywhere: bool = False) -> Judged:
    """Level of `clin` from a registry alone.

    2: a trial after approval (phase 4) in this cancer. 0: a phase 2 or 3 trial was stopped because the
    drug did not work or did harm, and no such trial goes on or was completed. 1: anything in between.
    None: nothing in this cancer.
    """
    ours = [t for t in trials if t.tests_it and (t.here or anywhere)]
    elsewhere = sum(not t.here for t in trials)
    remarks = []
    if elsewhere:
        weight = (
            "counted, though progress there is no precedent here"
            if anywhere
            else "left aside: no precedent here"
        )
        remarks.append(f"trials in other diseases, {weight}: {elsewhere}")
    if not ours:
        return Judged(
            "clin", None, "no trial of these drugs in this cancer", remarks=tuple(remarks)
        )
    failed = [t for t in ours if t.stopped and {"safety", "efficacy"} & set(t.reasons)]
    harmless = [t for t in ours if t.stopped and t not in failed]
    late = [t for t in ours if LATE & set(t.phases)]
    going = [t for t in late if not t.stopped]
    approved = [t for t in ours if "PHASE4" in t.phases and not t.stopped]
    if approved:
        level = 2
    elif any(t in failed for t in late) and not going:
        level = 0
    else:
        level = 1
    completed = sum(t.status == "COMPLETED" for t in ours)
    if completed and level == 1:
        remarks.append(f"{completed} completed: an end, not a success")
    if harmless:
        remarks.append(
            f"{len(harmless)} stopped for reasons that speak neither of harm nor of failure"
        )
    counted = f"{len(ours)} trials, {len(late)} of phase 2 or 3, {len(failed)} stopped for efficacy or safety"
    basis = approved or (failed if level == 0 else late) or ours
    return Judged(
        "clin",
        level,
        counted,
        value=float(len(ours)),
        unit="trials",
        remarks=tuple(remarks),
        records=tuple(t.nct_id for t in basis[:8]),
    )
