"""The validator passes what is sound, and each fault planted in a sound family is caught by its name."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, cast

import pytest
from fakes import AGENTS, FAMILY, FINISH, LineEpisode, NumberLine, Script, Sight, Walk

from env_server import registry
from env_server.contract import (
    Action,
    AgentCard,
    Family,
    Refusal,
    Split,
    Step,
    Task,
    clamp_score,
)
from env_server.seeds import digest
from eval import validate as command
from eval.finding import NAMES, Finding
from eval.probes import form_of, words_of
from eval.validate import Report, TooFew, validate

EPISODES = 40


# -- a sound family -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NamedSight(Sight):
    """What a walker sees, with a name no other patient has: on a short line many stand alike."""

    name: str = ""
    extra: Any = None

    def to_json(self) -> dict[str, Any]:
        shown = {**Sight.to_json(self), "name": self.name}
        return shown if self.extra is None else {**shown, **self.extra}


class Sound(LineEpisode):
    """The fake's episode. A planted fault overrides one of its methods."""

    __slots__ = ()

    def observe(self) -> Sight:
        seen = LineEpisode.observe(self)
        fields = (seen.place, seen.length, seen.told, seen.steps_left, seen.done, seen.score)
        return NamedSight(*fields, f"{digest(self.split, self.seed):x}", self.extra())

    def extra(self) -> dict[str, Any] | None:
        return None

    def score(self) -> float:
        """A long line is graded more strictly."""
        return clamp_score(LineEpisode.score(self) ** (1.3 if self.length == 30 else 1.0))

    def copy(self) -> LineEpisode:
        twin = LineEpisode.copy(self)
        twin.__class__ = type(self)
        return twin


TASKS = {
    "near": Task("near", FAMILY, "easy", 12, "a line of ten steps"),
    "far": Task("far", FAMILY, "hard", 40, "a line of thirty steps", margin=0.02),
}


@dataclass(frozen=True, slots=True)
class Line(NumberLine):
    """The fake family with another kind of episode."""

    kind: type[Sound] = Sound

    def begin(self, task: str | None = None, seed: int = 0, split: Split = "train") -> LineEpisode:
        episode = NumberLine.begin(self, task, seed, split)
        episode.__class__ = self.kind
        return episode


def line(kind: type[Sound] = Sound, **changes: Any) -> Family:
    return cast(Family, replace(Line(kind=kind, tasks=TASKS), **changes))


def failed(family: Family, episodes: int = EPISODES) -> dict[str, list[Finding]]:
    report = validate(family, episodes=episodes)
    found: dict[str, list[Finding]] = {}
    for finding in report.findings:
        if finding.status == "fail":
            found.setdefault(finding.check, []).append(finding)
    assert report.ok == (not found)
    return found


@pytest.fixture(scope="module")
def sound() -> Report:
    return validate(line(), episodes=60)


def test_a_sound_family_passes_every_check(sound: Report) -> None:
    assert {f.check: f.said for f in sound.findings if f.status == "fail"} == {}
    assert list(dict.fromkeys(f.check for f in sound.findings)) == list(NAMES)


def test_every_finding_says_what_was_measured_and_what_was_asked(sound: Report) -> None:
    body = json.loads(json.dumps(sound.to_json()))

    assert body["ok"] and body["episodes"] == 60
    for found in body["findings"]:
        assert found["said"] and (found["threshold"] or found["status"] == "not_applicable")


# -- planted faults -----------------------------------------------------------------------------


class SaysTheMark(Sound):
    __slots__ = ()

    def extra(self) -> dict[str, Any]:
        return {"mark": self.mark}


class HintsAtTheMark(Sound):
    """Under an innocent name, as a float."""

    __slots__ = ()

    def extra(self) -> dict[str, Any]:
        return {"advice": {"about": float(self.mark)}}


class StateTellsThePlan(Sound):
    __slots__ = ()

    def state(self) -> dict[str, Any]:
        plan = Sound.copy(self)
        while not plan.done:
            plan.step(FINISH)
        return {**LineEpisode.state(self), "notes": {"k": plan.outcome()["best_plan"]}}


class InfoNamesTheOptimum(Sound):
    __slots__ = ()

    def step(self, action: Action | Refusal) -> Step:
        return replace(LineEpisode.step(self, action), info=MappingProxyType({"optimum": 1}))


class Moody(Sound):
    """Its observation holds a number of no seed."""

    __slots__ = ()

    def extra(self) -> dict[str, Any]:
        return {"mood": random.random()}


class Crowded(Sound):
    """Its observation depends on how many steps all episodes have taken; alone, it is the same again."""

    __slots__ = ()
    steps_of_all: ClassVar[list[int]] = [0]

    def extra(self) -> dict[str, Any]:
        if self.steps == 0:
            self.steps_of_all[0] = 0
        return {"crowd": self.steps_of_all[0]}

    def step(self, action: Action | Refusal) -> Step:
        self.steps_of_all[0] += 1
        return LineEpisode.step(self, action)


class ConstantGrader(Sound):
    __slots__ = ()

    def score(self) -> float:
        LineEpisode.score(self)
        return 0.5


class PaysForHaste(Sound):
    """The fewer steps, the better: whoever stops at once wins."""

    __slots__ = ()

    def score(self) -> float:
        walked = LineEpisode.score(self)
        return clamp_score(walked if self.steps > 12 else 1.0 - self.steps / 100)


class PaysEverybody(Sound):
    """Half a point for taking part at all: random play is close to the best."""

    __slots__ = ()

    def score(self) -> float:
        return clamp_score(0.9 + LineEpisode.score(self) / 10)


class PromisesTooMuch(Sound):
    """Calls a score the best that nobody reaches."""

    __slots__ = ()

    def score(self) -> float:
        return clamp_score(LineEpisode.score(self) * 0.8)


class Shouts(Sound):
    """Pays a hundredfold for a step."""

    __slots__ = ()

    def step(self, action: Action | Refusal) -> Step:
        step = LineEpisode.step(self, action)
        return replace(step, reward=100 * step.reward)


class EasyWhenFar(Sound):
    __slots__ = ()

    def score(self) -> float:
        walked = LineEpisode.score(self)
        return clamp_score(walked**0.1 if self.task.name == "far" else walked**2)


class Breaks(Sound):
    __slots__ = ()

    def outcome(self) -> Mapping[str, Any]:
        raise ZeroDivisionError("no such patient")


@dataclass(frozen=True, slots=True)
class OnePatient(Line):
    """Whatever the seed, it is patient 1."""

    def begin(self, task: str | None = None, seed: int = 0, split: Split = "train") -> LineEpisode:
        return Line.begin(self, task, 1, split)


@dataclass(frozen=True, slots=True)
class SharedSplits(Line):
    def begin(self, task: str | None = None, seed: int = 0, split: Split = "train") -> LineEpisode:
        return Line.begin(self, task, seed, "train")


@dataclass(frozen=True, slots=True)
class ReadsLeftForRight(Line):
    """Its reader turns one action into another, so that a record is played differently."""

    def action_from_json(self, payload: object) -> Action | Refusal:
        read = NumberLine.action_from_json(self, payload)
        return Walk("right") if read == Walk("left") else read


def agents(*changed: AgentCard) -> dict[str, AgentCard]:
    return {card.name: card for card in AGENTS} | {card.name: card for card in changed}


def knows(episode: Any) -> Script:
    step = Walk("right" if episode.mark > episode.place else "left")
    return Script([*[step] * abs(episode.mark - episode.place), FINISH])


LAZY_ORACLE = AgentCard(
    "reference", "reference", lambda e: Script([FINISH]), "stops", exact_on=("near", "far")
)
LAZY_GUESS = replace(LAZY_ORACLE, exact_on=())
KNOWING = AgentCard("heuristic", "heuristic", knows, "cannot be improved")
PAID_CANARY = AgentCard("finish_at_once", "canary", knows, "a canary that the grader rewards")

FAULTS: list[tuple[str, Callable[[], Family], str]] = [
    ("no_solution_leakage", lambda: line(SaysTheMark, tells=False), "'mark'"),
    ("no_solution_leakage", lambda: line(HintsAtTheMark, tells=False), "observation.advice.about"),
    ("no_solution_leakage", lambda: line(StateTellsThePlan), "best plan"),
    ("no_solution_leakage", lambda: line(InfoNamesTheOptimum), "info names 'optimum'"),
    ("episode_determinism", lambda: line(Moody), "0 of 8"),
    ("episode_isolation", lambda: line(Crowded), "interleaved"),
    ("variance_bound", lambda: line(ConstantGrader), "1 different scores"),
    ("variance_bound", lambda: line(Shouts), "largest return"),
    ("gameability_gap", lambda: line(PaysForHaste), "*last_legal"),
    ("floor_gap", lambda: line(PaysEverybody), "random 0.9"),
    ("reward_reachability", lambda: line(PromisesTooMuch), "score_best reached on"),
    ("difficulty_separation", lambda: line(EasyWhenFar), "hard is easier than easy"),
    ("seed_control", lambda: cast(Family, OnePatient(tasks=TASKS)), "2% of 40 seeds differ"),
    ("seed_control", lambda: cast(Family, SharedSplits(tasks=TASKS)), "shared"),
    ("replayability", lambda: cast(Family, ReadsLeftForRight(tasks=TASKS)), "turn"),
    ("oracle_max", lambda: line(agents=agents(LAZY_ORACLE)), "above the reference"),
    ("oracle_max", lambda: line(agents=agents(LAZY_GUESS)), "not exact"),
    ("headroom", lambda: line(agents=agents(KNOWING)), "nothing is left to learn"),
    ("canary_floor", lambda: line(agents=agents(PAID_CANARY)), "finish_at_once"),
    ("oracle_max", lambda: line(Breaks), "raised ZeroDivisionError: no such patient"),
]


@pytest.mark.parametrize(
    ("check", "family", "words"), FAULTS, ids=[f"{c}-{w}" for c, _, w in FAULTS]
)
def test_a_planted_fault_is_caught_by_the_check_of_that_name(
    check: str, family: Callable[[], Family], words: str
) -> None:
    found = failed(family())

    assert check in found, found
    assert any(words in finding.said for finding in found[check]), found[check]


def test_every_check_has_a_fault_that_it_catches() -> None:
    assert {check for check, _, _ in FAULTS} == set(NAMES)


def test_a_gameable_seed_task_is_expected_and_fails_nothing_else() -> None:
    seeds = {name: replace(task, seed=True) for name, task in TASKS.items()}
    report = validate(line(PaysForHaste, tasks=seeds), episodes=EPISODES)

    by_check = {f.check: f.status for f in report.findings if f.task == "near"}
    assert by_check["gameability_gap"] == "expected"
    assert by_check["floor_gap"] == "fail"  # only what is known of seed tasks is excused


def test_what_a_family_does_not_have_is_not_applicable_or_a_failure_that_says_so() -> None:
    bare = line(
        agents={c.name: c for c in AGENTS if c.role in ("random", "heuristic")},
        tasks={"near": TASKS["near"]},
    )
    by_check = {f.check: f for f in validate(bare, episodes=EPISODES).findings}

    assert by_check["canary_floor"].status == "not_applicable"
    assert by_check["difficulty_separation"].status == "not_applicable"
    assert by_check["oracle_max"].status == "fail" and "no reference" in by_check["oracle_max"].said


def test_forms_are_the_fixed_words_of_an_action() -> None:
    family = registry.get("polypharmacy")
    words = words_of(family.action_schema())
    legal = family.begin("review_easy", 0, "validation").legal_actions()

    forms = {form_of(action, words) for action in legal}

    assert ("query_ddi",) in forms and ("finish_review",) in forms
    assert ("propose_intervention", "stop") in forms


# -- the command --------------------------------------------------------------------------------


def test_the_command_says_pass_and_fail_by_its_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = line(ConstantGrader)
    monkeypatch.setattr(registry, "get", lambda name: broken)

    assert command.main(["--family", FAMILY, "--episodes", "12"]) == 1
    said = capsys.readouterr().out
    assert "FAIL variance_bound, near" in said

    monkeypatch.setattr(registry, "get", lambda name: line())
    assert command.main(["--family", FAMILY, "--episodes", "40", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--family", "polypharmcy"], "did you mean 'polypharmacy'"),
        (["--task", "revew_easy"], "did you mean 'review_easy'"),
        (["--episodes", "1"], "ask for 4"),
        (["--split", "tset"], "tset"),
    ],
)
def test_a_wrong_question_is_an_error_that_names_it(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(flags) == 2
    assert words in capsys.readouterr().err


def test_too_few_episodes_are_refused() -> None:
    with pytest.raises(TooFew):
        validate(line(), episodes=3)


@pytest.mark.slow
@pytest.mark.parametrize("family", registry.names())
def test_every_family_is_fit_to_train_and_to_measure_on(family: str) -> None:
    many = len(registry.get(family).tasks) > 10
    report = validate(family, episodes=24 if many else command.EPISODES)

    assert [f for f in report.findings if f.status == "fail"] == []


def test_the_page_shows_the_report_that_is_committed() -> None:
    docs = Path(__file__).resolve().parents[1] / "docs"
    report = json.loads((docs / "results" / "validation" / "polypharmacy.json").read_text("utf-8"))
    page = (docs / "validation.md").read_text(encoding="utf-8")

    assert report["ok"]
    for found in report["findings"]:
        if found["check"] != "difficulty_separation":
            row = next(r for r in page.splitlines() if r.startswith(f"| `{found['check']}` | ") and
                       "passes" not in r and r.count("|") == 8)  # fmt: skip
            assert f"{found['measured']:.2f}" in row


@pytest.mark.parametrize("name", NAMES)
def test_the_page_explains_every_check(name: str) -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "validation.md"
    assert f"`{name}`" in page.read_text(encoding="utf-8")
