"""The conformance kit: what every task of every installed family keeps, without knowing any of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import islice
from math import isclose, isfinite
from typing import Any

import jsonschema
import numpy as np
import pytest

from env_server import registry
from env_server.contract import (
    SCORE_CEILING,
    SCORE_FLOOR,
    Action,
    BadSplit,
    Episode,
    EpisodeOver,
    EpisodeRunning,
    Family,
    Refusal,
    Split,
    Step,
    UnknownAgent,
    UnknownFamily,
    UnknownTask,
    canonical,
)
from env_server.seeds import Stream

EVERY_TASK = [(name, task) for name in registry.names() for task in registry.get(name).tasks]
every_family = pytest.mark.parametrize("family_name", registry.names())
every_task = pytest.mark.parametrize(("family_name", "task"), EVERY_TASK)

NOT_AN_ANSWER = Refusal("malformed", "no action could be read")
# what an observation may change when an answer was refused
CLOCK = {"step_index", "shaped_reward", "reward_parts", "refusal"}
GARBAGE: list[Any] = [
    None,
    "finish",
    [],
    7,
    {},
    {"action_type": "no_such_form"},
    {"action_type": None},
    {"surprise": 1},
    {"action_type": ["finish_review"]},
]


def episode(family: str, task: str, seed: int = 0, split: Split = "validation") -> Episode:
    return registry.get(family).begin(task, seed, split)


def wander(played: Episode, name: object = "wander") -> Iterator[Step]:
    """Steps at random over legal actions, with a refused answer now and then, until it is over."""
    stream = Stream(name, played.task.name, played.seed)
    while not played.done:
        refuse = stream.chance(0.1)
        yield played.step(NOT_AN_ANSWER if refuse else stream.choice(played.legal_actions()))


def trace(played: Episode) -> bytes:
    """Everything that an episode said from its opening to its outcome."""
    opening = canonical(played.observe().to_json())
    steps = b"".join(canonical(step.to_json()) for step in wander(played))
    return opening + steps + canonical({"score": played.score(), "state": played.state()})


@cache
def scores(family_name: str, task: str, agent: str, n: int) -> tuple[float, ...]:
    """Final scores of a shipped agent on the first `n` validation seeds."""
    family = registry.get(family_name)
    found = []
    for seed in range(n):
        played = family.begin(task, seed, "validation")
        player = family.agents[agent].make(played)
        while not played.done:
            played.step(player.act(played.observe(), played.legal_actions))
        found.append(played.score())
    return tuple(found)


def mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)


def shipped(family: Family, task: str, role: str) -> list[str]:
    return [
        c.name for c in family.agents.values() if c.role == role and task in (c.tasks or (task,))
    ]


# -- the same again, and apart ------------------------------------------------------------------


@every_task
def test_the_same_seed_and_actions_give_the_same_bytes(family_name: str, task: str) -> None:
    for seed in range(3):
        assert trace(episode(family_name, task, seed)) == trace(episode(family_name, task, seed))


_TRACES_IN_A_FRESH_PROCESS = """
import hashlib
from tests_contract import EVERY_TASK, episode, trace
digest = hashlib.sha256()
for family, task in EVERY_TASK:
    for seed in range(2):
        digest.update(trace(episode(family, task, seed)))
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_another_process_with_another_hash_seed_gives_the_same_bytes() -> None:
    said = set()
    for hash_seed in ("1", "2"):
        code = (
            "import sys, importlib.util as u;"
            f"s = u.spec_from_file_location('tests_contract', {__file__!r});"
            "m = u.module_from_spec(s); sys.modules['tests_contract'] = m; s.loader.exec_module(m)\n"
        ) + _TRACES_IN_A_FRESH_PROCESS
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        said.add(run.stdout)
    assert len(said) == 1


@every_task
def test_different_seeds_give_different_openings(family_name: str, task: str) -> None:
    openings = {opening(episode(family_name, task, seed)) for seed in range(10)}

    assert len(openings) == 10


def opening(played: Episode) -> bytes:
    shown = played.observe().to_json()
    shown.pop("episode_id", None)
    return canonical(shown)


@every_task
def test_interleaved_episodes_do_not_disturb_one_another(family_name: str, task: str) -> None:
    alone = [
        [canonical(step.to_json()) for step in wander(episode(family_name, task, seed))]
        for seed in range(3)
    ]
    walks = [wander(episode(family_name, task, seed)) for seed in range(3)]
    together: list[list[bytes]] = [[], [], []]
    for _ in range(episode(family_name, task).task.max_steps):
        for said, walk in zip(together, walks, strict=True):
            said += [canonical(step.to_json()) for step in islice(walk, 1)]

    assert together == alone


@every_task
def test_a_copy_and_its_original_go_their_own_ways(family_name: str, task: str) -> None:
    first, second = episode(family_name, task, 1), episode(family_name, task, 1)
    for _ in zip(range(2), wander(first), strict=False):
        pass
    for _ in zip(range(2), wander(second), strict=False):
        pass
    if first.done:
        pytest.fail("two random steps ended it: choose another seed")

    before = canonical(first.observe().to_json())
    list(wander(first.copy(), "elsewhere"))

    assert canonical(first.observe().to_json()) == before
    assert trace(first) == trace(second)


# -- rewards and scores -----------------------------------------------------------------------------


@every_task
def test_rewards_are_finite_and_the_sum_of_their_parts(family_name: str, task: str) -> None:
    for seed in range(5):
        for step in wander(episode(family_name, task, seed)):
            assert isfinite(step.reward)
            assert isclose(step.reward, sum(step.parts.values()), abs_tol=1e-12)


@every_task
def test_scores_stay_in_the_open_unit_interval(family_name: str, task: str) -> None:
    for seed in range(10):
        played = episode(family_name, task, seed)
        list(wander(played))

        assert SCORE_FLOOR <= played.score() <= SCORE_CEILING


@every_task
def test_the_score_is_paid_once_and_last(family_name: str, task: str) -> None:
    played = episode(family_name, task, 2)
    steps = list(wander(played))

    assert [("score" in step.parts) for step in steps] == [False] * (len(steps) - 1) + [True]
    assert steps[-1].parts["score"] == played.score()


@every_task
def test_score_and_outcome_are_told_only_at_the_end(family_name: str, task: str) -> None:
    played = episode(family_name, task)
    with pytest.raises(EpisodeRunning):
        played.score()
    with pytest.raises(EpisodeRunning):
        played.outcome()

    list(wander(played))

    assert {"score_best", "regret", "best_plan"} <= set(played.outcome())


@every_task
def test_an_episode_is_played_once(family_name: str, task: str) -> None:
    played = episode(family_name, task)
    list(wander(played))

    assert played.legal_actions() == ()
    with pytest.raises(EpisodeOver):
        played.step(NOT_AN_ANSWER)


@every_task
def test_an_episode_ends_by_max_steps(family_name: str, task: str) -> None:
    played = episode(family_name, task)
    while not played.done:
        played.step(NOT_AN_ANSWER)

    assert played.steps == played.task.max_steps


# -- actions ---------------------------------------------------------------------------------------


@every_task
def test_every_legal_action_is_accepted(family_name: str, task: str) -> None:
    for at in states(family_name, task):
        for action in at.legal_actions():
            assert at.copy().step(action).refusal is None


def states(family_name: str, task: str, seeds: int = 3) -> Iterator[Episode]:
    """Episodes at some of the moments that random play passes through."""
    for seed in range(seeds):
        played = episode(family_name, task, seed)
        yield played.copy()
        for at, _ in enumerate(wander(played)):
            if at % 3 == 0 and not played.done:
                yield played.copy()


@every_task
def test_actions_that_are_no_longer_legal_are_refused(family_name: str, task: str) -> None:
    for seed in range(3):
        played = episode(family_name, task, seed)
        opening_actions = played.legal_actions()
        for _ in wander(played):
            gone = [] if played.done else set(opening_actions) - set(played.legal_actions())
            for action in gone:
                assert played.copy().step(action).refusal is not None


@every_task
def test_a_refused_answer_costs_a_step_and_changes_nothing_else(
    family_name: str, task: str
) -> None:
    for at in states(family_name, task):
        if at.steps + 1 >= at.task.max_steps:
            continue
        legal, shown, state = at.legal_actions(), at.observe().to_json(), at.state()

        step = at.step(NOT_AN_ANSWER)

        now = step.observation.to_json()
        assert step.refusal == NOT_AN_ANSWER and step.reward < 0 and not step.done
        assert {key for key in shown if shown[key] != now[key]} <= CLOCK
        assert at.legal_actions() == legal
        assert sum(at.state()[key] != value for key, value in state.items()) == 1


@every_task
def test_actions_survive_json(family_name: str, task: str) -> None:
    family = registry.get(family_name)
    for action in opening_actions(family_name, task):
        assert family.action_from_json(json.loads(json.dumps(action.to_json()))) == action


def opening_actions(family_name: str, task: str) -> list[Action]:
    return [a for seed in range(3) for a in episode(family_name, task, seed).legal_actions()]


@every_task
def test_the_action_schema_accepts_every_legal_action(family_name: str, task: str) -> None:
    schema = jsonschema.Draft202012Validator(registry.get(family_name).action_schema())
    for action in opening_actions(family_name, task):
        schema.validate(action.to_json())


@every_family
@pytest.mark.parametrize("garbage", GARBAGE, ids=repr)
def test_garbage_is_no_action_to_the_reader_or_the_schema(family_name: str, garbage: Any) -> None:
    family = registry.get(family_name)
    read = family.action_from_json(garbage)

    assert isinstance(read, Refusal) and read.why
    assert not jsonschema.Draft202012Validator(family.action_schema()).is_valid(garbage)


@every_task
def test_the_observation_schema_describes_every_observation(family_name: str, task: str) -> None:
    schema = jsonschema.Draft202012Validator(registry.get(family_name).observation_schema())
    played = episode(family_name, task, 1)
    schema.validate(json.loads(canonical(played.observe().to_json())))
    for step in wander(played):
        schema.validate(json.loads(canonical(step.observation.to_json())))


@every_task
def test_the_mask_is_exactly_the_legal_actions(family_name: str, task: str) -> None:
    encoding = registry.get(family_name).encoding(task)
    for at in states(family_name, task, seeds=2):
        seen, legal = at.observe(), set(at.legal_actions())
        for index, open_ in enumerate(encoding.mask(seen)):
            assert open_ == (meant(encoding, seen, index) in legal)


def meant(encoding: Any, seen: Any, index: int) -> Action | None:
    try:
        action: Action = encoding.action(seen, index)
    except IndexError:
        return None
    assert encoding.index(seen, action) == index
    return action


@every_task
def test_features_are_finite_float32_of_the_promised_size(family_name: str, task: str) -> None:
    encoding = registry.get(family_name).encoding(task)
    for at in states(family_name, task):
        features = encoding.features(at.observe())

        assert features.shape == (encoding.size,) and features.dtype == np.float32
        assert np.isfinite(features).all()


# -- what is hidden ---------------------------------------------------------------------------------


@every_task
def test_nothing_told_at_the_end_is_shown_before_it(family_name: str, task: str) -> None:
    over = episode(family_name, task, 3)
    list(wander(over))
    told = set(over.outcome())
    played = episode(family_name, task, 3)
    for step in wander(played):
        shown = step.observation.to_json()
        if not step.done:
            assert shown["score"] is None and shown["outcome"] is None
            assert not told & (keys(shown) | keys(played.state()) | keys(dict(step.info)))


def keys(value: Any) -> set[str]:
    """Every key at any depth."""
    if isinstance(value, dict):
        return set(value).union(*(keys(v) for v in value.values()))
    if isinstance(value, list):
        return set().union(*(keys(v) for v in value))
    return set()


@pytest.mark.slow
@every_task
def test_splits_share_no_opening(family_name: str, task: str) -> None:
    splits = registry.get(family_name).tasks[task].splits
    shown = [
        {opening(episode(family_name, task, s, split)) for s in range(100)} for split in splits
    ]

    assert len(set.union(*shown)) == sum(map(len, shown))


@every_task
def test_an_unknown_split_is_an_error_that_names_the_known_ones(
    family_name: str, task: str
) -> None:
    with pytest.raises(BadSplit, match="train"):
        episode(family_name, task, 0, "tset")  # type: ignore[arg-type]


# -- agents -----------------------------------------------------------------------------------------


@every_task
@pytest.mark.slow
def test_reference_beats_heuristic_beats_random(family_name: str, task: str) -> None:
    random, heuristic, reference = (
        mean(scores(family_name, task, agent, 60)) for agent in ("random", "heuristic", "reference")
    )
    assert random <= heuristic <= reference
    assert random < reference


@every_task
@pytest.mark.slow
def test_the_grader_is_not_constant(family_name: str, task: str) -> None:
    assert len(set(scores(family_name, task, "random", 60))) > 5
    assert len(set(scores(family_name, task, "heuristic", 60))) > 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family_name", "task"), [p for p in EVERY_TASK if not registry.get(p[0]).tasks[p[1]].seed]
)
def test_degenerate_policies_stay_below_the_heuristic(family_name: str, task: str) -> None:
    family = registry.get(family_name)
    yardstick = family.tasks[task].yardstick  # the reference, where a family says why
    ceiling = mean(scores(family_name, task, yardstick, 100)) - family.tasks[task].margin
    canaries = shipped(family, task, "canary")

    found = {name: mean(scores(family_name, task, name, 100)) for name in canaries}

    assert canaries
    assert {name: score for name, score in found.items() if score > ceiling} == {}


@every_task
def test_every_shipped_agent_plays_to_the_end(family_name: str, task: str) -> None:
    family = registry.get(family_name)
    for card in family.agents.values():
        if task in (card.tasks or (task,)):
            assert scores(family_name, task, card.name, 2)


# -- the registry -----------------------------------------------------------------------------------


def test_unknown_names_are_answered_with_the_nearest_known_one() -> None:
    name = registry.names()[0]
    family = registry.get(name)
    task = next(iter(family.tasks))

    with pytest.raises(UnknownFamily, match=f"did you mean '{name}'"):
        registry.get(name[:-1])
    with pytest.raises(UnknownTask, match=f"did you mean '{task}'"):
        family.begin(task + "x")
    with pytest.raises(UnknownAgent, match="heuristic"):
        registry.agent(family, "heuristc")


@every_family
def test_a_family_agrees_with_itself(family_name: str) -> None:
    family = registry.get(family_name)

    assert family.default_task in family.tasks
    assert all(
        task.name == name and task.family == family_name for name, task in family.tasks.items()
    )
    assert {"random", "heuristic", "reference"} <= set(family.agents)
    assert all(set(card.tasks) <= set(family.tasks) for card in family.agents.values())
    assert all(registry.owner(task) is family for task in family.tasks)
