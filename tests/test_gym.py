"""Every task is a Gymnasium environment that Gymnasium itself accepts."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
from fakes import NumberLine
from gymnasium.utils.env_checker import check_env

from env_server import gym, registry
from env_server.contract import BadSplit, Family, UnknownTask
from env_server.task_env import BadOption, TaskEnv

LINE = cast(Family, NumberLine())
LEFT, RIGHT, FINISH = 0, 1, 3


def line(**settings: Any) -> TaskEnv:
    return TaskEnv(LINE, "near", **settings)


@pytest.mark.parametrize("name", gym.NAMES)
def test_gymnasium_accepts_every_task(name: str) -> None:
    with warnings.catch_warnings():
        # features of any family have no bound that all of them share
        warnings.filterwarnings("ignore", message=".*A Box observation space m.*infinity.*")
        check_env(gymnasium.make(name, disable_env_checker=True).unwrapped)


def test_every_task_of_every_family_has_a_name() -> None:
    every = {gym.name_of(f, t) for f in registry.names() for t in registry.get(f).tasks}

    assert set(gym.NAMES) == every
    assert gym.register() == gym.NAMES


def test_equal_seeds_give_equal_patients_and_the_stream_goes_on() -> None:
    env = line()
    drawn = [[env.reset(seed=s)[1]["patient"], *(env.reset()[1]["patient"] for _ in range(3))]
             for s in (1, 1, 2)]  # fmt: skip

    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 4


def test_the_stream_stays_among_its_patients_of_the_train_split() -> None:
    env = line(first_patient=10, patients=3)
    seen = {env.reset(seed=s)[1]["patient"] for s in range(50)}

    assert seen == {10, 11, 12}
    assert env.episode is not None and env.episode.split == "train"


def test_attempts_play_each_patient_of_the_stream_so_often_and_from_the_start() -> None:
    env, once = line(attempts=3), line()
    order = [env.reset(seed=5)[1]["patient"]]
    begun = env.episode.observe() if env.episode else None
    env.step(RIGHT)
    order += [env.reset()[1]["patient"] for _ in range(5)]
    drawn = [once.reset(seed=5)[1]["patient"], once.reset()[1]["patient"]]

    assert order == [drawn[0]] * 3 + [drawn[1]] * 3
    env.reset(seed=5)
    env.step(RIGHT)
    env.reset()
    assert env.episode is not None and env.episode.observe() == begun


def test_an_option_asks_for_one_patient_of_another_split() -> None:
    env = line()
    _, info = env.reset(options={"split": "validation", "patient": 7})
    assert split_of(env) == "validation" and info["patient"] == 7

    env.reset()
    assert split_of(env) == "train"


def split_of(env: TaskEnv) -> str:
    assert env.episode is not None
    return env.episode.split


def test_an_illegal_action_is_a_refusal_that_is_counted_and_changes_nothing() -> None:
    env = line()
    while env.reset()[0][0] != 0:  # a patient who stands at the left end
        pass
    assert not env.action_masks()[LEFT]

    features, reward, terminated, truncated, info = env.step(LEFT)

    assert (features[0], reward, terminated, truncated) == (0.0, -0.1, False, False)
    assert info["refusals"] == 1 and info["parts"] == {"invalid": -0.1}


def test_an_index_that_names_no_place_of_the_list_is_a_refusal_too() -> None:
    env = TaskEnv("polypharmacy", "review_easy")
    env.reset(seed=0)
    last_pair = 104  # places 14 and 15 of a list of at most five

    info = env.step(last_pair)[4]

    assert info["refusals"] == 1


def test_running_out_of_steps_terminates_and_does_not_truncate() -> None:
    env = line()
    env.reset(seed=0)
    for _ in range(LINE.tasks["near"].max_steps):
        _, _, terminated, truncated, info = env.step(2)  # ask, again and again

    assert terminated and not truncated
    assert "score" in info and not info["action_mask"].any()
    with pytest.raises(gymnasium.error.ResetNeeded, match="over"):
        env.step(FINISH)


def test_the_rewards_of_an_episode_sum_to_the_return_it_reports() -> None:
    env = line()
    env.reset(seed=4)
    rewards = [env.step(2)[1]]
    _, reward, _, _, info = env.step(FINISH)

    assert info["return"] == pytest.approx(sum([*rewards, reward]))


def test_render_shows_the_observation_as_text() -> None:
    env = line(render_mode="ansi")
    env.reset(seed=0)

    assert '"place"' in (env.render() or "")
    assert line().render_mode is None


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"task": "revew_easy"}, UnknownTask, "did you mean"),
        ({"split": "tset"}, BadSplit, "splits: train"),
        ({"patients": 0}, BadOption, "patients"),
        ({"attempts": 0}, BadOption, "attempts is 0"),
        ({"first_patient": -1}, BadOption, "starts at 0"),
        ({"render_mode": "human"}, BadOption, "ansi"),
        ({"encoding": "slot"}, KeyError, "slots"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(
    settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        TaskEnv("polypharmacy", **settings)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"spilt": "test"}, BadOption, "no option 'spilt'"),
        ({"patient": "seven"}, BadOption, "whole number"),
        ({"split": "tset"}, BadSplit, "tset"),
    ],
)
def test_a_wrong_option_is_an_error_that_names_it(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        line().reset(options=options)


def test_acting_before_the_first_reset_is_an_error() -> None:
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        line().step(0)


def test_a_vector_plays_different_patients_and_goes_on_by_itself() -> None:
    envs = gym.vector("review_easy", 3)
    features, info = envs.reset(seed=5)
    assert features.shape == (3, envs.single_observation_space.shape[0])
    assert len(set(info["patient"])) == 3 and info["action_mask"].shape[0] == 3

    draws = np.random.default_rng(0)
    ended = 0
    for _ in range(40):
        legal = [draws.choice(np.flatnonzero(mask)) if mask.any() else 0
                 for mask in info["action_mask"]]  # fmt: skip
        _, rewards, terminated, truncated, info = envs.step(np.array(legal))
        ended += int(terminated.sum())
        assert np.isfinite(rewards).all() and not truncated.any()
    assert ended > 3
    with pytest.raises(BadOption, match="needs one"):
        gym.vector("review_easy", 0)


def test_without_gymnasium_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['gymnasium'] = None; import env_server.gym"
    root = Path(__file__).resolve().parents[1]
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert answer.returncode != 0 and "rounds[agents]" in answer.stderr
