"""Whether what is hidden can be read off what is shown: by name, by value, or word for word.

Knows observations, state, info and outcomes as JSON. What follows from shown facts by thinking is no
leak; a hidden number standing in the observation of every patient is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from env_server.contract import canonical
from eval.finding import Finding, judged
from eval.probes import Subject, wander

PATIENTS = 40
LEAST_DISTINCT = 5  # fewer different values agree by chance
LEAST_PATIENTS = 12

Leaves: TypeAlias = "dict[str, Any]"


def no_solution_leakage(subject: Subject) -> Finding:
    """Nothing that an outcome tells stands in an observation, the state or the info before the end."""
    n = min(PATIENTS, subject.patients)
    shown: list[Leaves] = []
    hidden: list[Leaves] = []
    leaks: dict[str, None] = {}
    for seed in range(n):
        opening, outcome, found = _one(subject, seed)
        shown.append(opening)
        hidden.append(outcome)
        leaks |= dict.fromkeys(found)
    leaks |= dict.fromkeys(_equal_everywhere(shown, hidden))
    said = "; ".join(leaks) if leaks else f"nothing hidden is shown to {n} patients' agents"
    return judged(
        "no_solution_leakage",
        subject.task.name,
        not leaks,
        float(len(leaks)),
        "no name, value or plan of an outcome before the end",
        said,
    )


def _one(subject: Subject, seed: int) -> tuple[Leaves, Leaves, list[str]]:
    """(leaves of the opening, leaves of the outcome, leaks by name and by plan) of one patient."""
    episode = subject.begin(seed)
    before: list[tuple[str, Any]] = [
        ("observation", episode.observe().to_json()),
        ("state", episode.state()),
    ]
    opening = {path: value for name, body in before for path, value in leaves(body, name)}
    for step in wander(episode):
        if not step.done:
            before += [
                ("observation", step.observation.to_json()),
                ("state", episode.state()),
                ("info", dict(step.info)),
            ]
    outcome = dict(episode.outcome())
    found = [
        f"{name} names {key!r}, which only an outcome may"
        for name, body in before
        for key in sorted(set(outcome) & keys(body))
    ]
    plan = outcome.get("best_plan")
    if isinstance(plan, list) and len(plan) > 1:
        text = canonical(plan)
        found += [f"{name} holds the best plan" for name, body in before if text in canonical(body)]
    return opening, dict(leaves(outcome, "outcome")), found


def _equal_everywhere(shown: list[Leaves], hidden: list[Leaves]) -> Iterator[str]:
    """Places of the opening that hold a hidden value on every patient, though it varies."""
    for secret in _in_all(hidden):
        values = [_settled(told[secret]) for told in hidden]
        if len(values) < LEAST_PATIENTS or len(set(values)) < LEAST_DISTINCT:
            continue
        for place in _in_all(shown):
            if all(_settled(s[place]) == v for s, v in zip(shown, values, strict=True)):
                yield f"{place} is {secret} on all {len(values)} patients"


def _in_all(bodies: list[Leaves]) -> list[str]:
    """The paths that every body has."""
    return [p for p in bodies[0] if all(p in body for body in bodies[1:])] if bodies else []


def _settled(value: Any) -> Any:
    """A number as text of nine digits, so that 1 and 1.0 and a rounded twin are one value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return (type(value).__name__, value)
    return f"{float(value):.9g}"


def leaves(body: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every number and text in a JSON value, with its path."""
    if isinstance(body, Mapping):
        for key, value in body.items():
            yield from leaves(value, f"{path}.{key}")
    elif isinstance(body, list | tuple):
        for at, value in enumerate(body):
            yield from leaves(value, f"{path}[{at}]")
    elif body is not None:
        yield path, body


def keys(body: Any) -> set[str]:
    """Every key of a JSON value, at any depth."""
    if isinstance(body, Mapping):
        return set(body).union(*(keys(value) for value in body.values()))
    if isinstance(body, list | tuple):
        return set().union(*(keys(value) for value in body))
    return set()
