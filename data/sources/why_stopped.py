"""Why a trial was stopped, read from a sentence that somebody typed into a registry.

A word counts where nothing denies it: "no safety concern" is no safety reason. Knows English clauses
and a few word lists; nothing of trials.
"""

from __future__ import annotations

import re
from typing import Final, Literal

Reason = Literal["safety", "efficacy", "business", "enrolment", "other", "untold"]

_WORDS: Final[tuple[tuple[Reason, re.Pattern[str]], ...]] = (
    (
        "safety",
        re.compile(
            r"\b(safety|toxicit\w*|toxic|adverse|side effects?|tolerab\w*|hepatotoxic\w*|cardiotoxic\w*|deaths?"
            r"|mortality|dlts?|dose[- ]limiting|risk[- ]?(?:/|to)?[- ]?benefit|unacceptable risk)\b"
        ),
    ),
    (
        "efficacy",
        re.compile(
            r"\b(futil\w*|efficacy|ineffective|lack of (?:effect|activity|response|benefit)"
            r"|did not meet|not meet(?:ing)?|failed to (?:meet|show|demonstrate)|insufficient (?:activity|benefit|response)"
            r"|no (?:clinical )?(?:benefit|activity|response)|primary endpoint)\b"
        ),
    ),
    (
        "enrolment",
        re.compile(
            r"\b(enrol\w*|accrual|recruit\w*|low inclusion|no (?:patients|participants|subjects)|slow inclusion)\b"
        ),
    ),
    (
        "business",
        re.compile(
            r"\b(business|sponsor\w*|strateg\w*|commercial\w*|funding|financ\w*|portfolio|company|priorit\w*"
            r"|drug supply|investigator left|administrative|budget\w*|corporate|terminated the agreement|acquisition)\b"
        ),
    ),
)
# what, earlier in its own clause, turns a word into its denial
_DENIED: Final = re.compile(
    r"\b(no|not|non|without|unrelated|nothing|neither|nor|never|rather than|other than|lack of any|\w+n't)\b"
)
# a denial that ends at its own verb: "did not meet its endpoint and safety" denies no safety
_SPENT: Final = re.compile(
    r"\b(?:did|could|does|would|has|have|had|will|can)(?: not|n't) (?:be )?(?:meet|met|show|shown|demonstrate\w*|reach\w*|enrol\w*|recruit\w*)"
    r"|\b(?:not met|not meeting|no (?:patients|participants|subjects|benefit|response|activity))\b"
)
_DENIED_AFTER: Final = re.compile(
    r"^\W*(?:\w+\W+){0,3}?(?:was|were|is|are|had|has|have) (?:not|no|never)\b"
    r"|^\W*(?:\w+\W+){0,3}?(?:was|were|is|are|remains?) (?:as expected|acceptable|favou?rable|good|manageable|consistent)"
    r"|^\W*(?:\w+\W+){0,2}?not (?:the|a|an) (?:reason|factor|concern|issue)"
)
_MISSED: Final = re.compile(
    r"^\W*(?:\w+\W+){0,2}?not (?:been )?(?:demonstrated|shown|met|reached|achieved|observed|sufficient)"
)
_LACKING: Final = re.compile(r"\b(lack|lacking|insufficient|limited|poor|absence|low)\b")
_INHERENT: Final = re.compile(r"futil|ineffective|did not|not meet|failed|lack of|insufficient|no ")
# the cause begins here: what was denied before it is another matter, unless the cause itself is denied
_CAUSE: Final = re.compile(
    r"\b(?:due to|because of|because|owing to|as a result of|for reasons of)\b"
)
_CLAUSE: Final = re.compile(
    r"[.;:()\n]|\bbut\b|\bhowever\b|\balthough\b|,\s*(?=(?:and|not|no|nor|without|unrelated|rather|due|lack|futil|business|sponsor|strateg|company|slow|low|poor|funding|insufficient))|\s[-–—]\s"
)


def why_stopped(said: str | None) -> tuple[Reason, ...]:
    """Every reason that the sentence gives and does not deny, the gravest first.

    `untold` where nothing was said, `other` where no list has its words.
    """
    if said is None or not said.strip():
        return ("untold",)
    clauses = [clause.strip().lower() for clause in _CLAUSE.split(said) if clause.strip()]
    found = [
        reason for reason, pattern in _WORDS if any(_given(reason, pattern, c) for c in clauses)
    ]
    return tuple(found) or ("other",)


def _given(reason: Reason, pattern: re.Pattern[str], clause: str) -> bool:
    """Whether the clause names this reason and denies it neither before nor after."""
    for match in pattern.finditer(clause):
        before, after = clause[: match.start()], clause[match.end() :]
        if reason == "efficacy":
            if _disappointing(match[0], before, after):
                return True
        elif not _denied(before) and not _DENIED_AFTER.search(after):
            return True
    return False


def _denied(before: str) -> bool:
    """Whether something between the last cause (or the clause's beginning) and the word denies it."""
    causes = list(_CAUSE.finditer(before))
    if causes:
        lead = before[: causes[-1].start()].rstrip()
        if not re.search(
            r"\b(?:not|nor|never|neither|n't)(?: (?:stopped|terminated|primarily|solely))?$", lead
        ):
            before = before[causes[-1].end() :]
    return _DENIED.search(_SPENT.sub(" ", before)) is not None


def _disappointing(words: str, before: str, after: str) -> bool:
    """Whether the mechanism is said not to have worked: `efficacy` alone is no reason, its lack is."""
    if _INHERENT.match(words):
        return not _denied(before)
    lacking = _LACKING.search(before)
    if lacking:
        return not _denied(before[: lacking.start()])
    return _MISSED.search(after) is not None
