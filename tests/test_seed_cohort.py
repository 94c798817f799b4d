"""Seed reviews as arrays: every number is the one that reviews played one by one give, to the last bit."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from env_server import registry
from env_server.contract import Encoding, Episode
from env_server.envs.polypharmacy.encoding import FINISH_AT, FIRST_CHANGE
from env_server.envs.polypharmacy.seed_cohort import IllegalMove, SeedCohort
from env_server.envs.polypharmacy.tasks import REVIEWS
from training import classical_rollout
from training.classical_rollout import Batch, Patients, roll, sample
from training.cohort import OneByOne, together
from training.reinforce_learner import Learner
from training.reinforce_settings import ReinforceConfig

POLYPHARMACY = registry.get("polypharmacy")
SEED_TASKS = tuple(name for name, review in REVIEWS.items() if review.kind == "seed")


def seed16(task: str) -> Encoding:
    return POLYPHARMACY.encoding(task, "seed16")


def begin(task: str, first: int, patients: int, attempts: int) -> list[Episode]:
    return Patients(POLYPHARMACY, task, "train").batch(first, patients, attempts)


def cohort(task: str, first: int = 0, patients: int = 10, attempts: int = 2) -> SeedCohort:
    found = together(seed16(task), begin(task, first, patients, attempts))
    assert isinstance(found, SeedCohort)
    return found


def drawn(mask_LA: np.ndarray, random: np.random.Generator, lean: float) -> np.ndarray:
    """A possible action a row; `lean` draws changes more often. Finishing is rare, so that budgets run out."""
    weight_LA = mask_LA * random.random(mask_LA.shape)
    weight_LA[:, FIRST_CHANGE:FINISH_AT] *= lean
    weight_LA[:, FINISH_AT] *= np.where(random.random(len(mask_LA)) < 0.05, 9.0, 1e-9)
    return weight_LA.argmax(1)


@pytest.mark.parametrize("lean", [0.5, 1.0, 9.0])
@pytest.mark.parametrize("task", SEED_TASKS)
def test_a_cohort_shows_pays_and_grades_what_its_reviews_do(task: str, lean: float) -> None:
    random = np.random.default_rng(int(10 * lean))
    ours = cohort(task, patients=20)
    theirs = OneByOne(seed16(task), begin(task, 0, 20, 2))

    while len(theirs.live):
        assert ours.live.tolist() == theirs.live.tolist()
        features, mask = theirs.features(), theirs.mask()
        assert ours.features().dtype == np.float32
        assert ours.features().tobytes() == features.tobytes()
        assert ours.mask().tobytes() == mask.tobytes()
        actions = drawn(mask, random, lean)
        assert ours.step(actions).tolist() == theirs.step(actions).tolist()

    assert not len(ours.live)
    assert ours.scores() == theirs.scores()


@pytest.mark.parametrize("task", SEED_TASKS)
def test_a_policy_learns_from_the_same_bits_either_way(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batch() -> Batch:
        learner = Learner(
            ReinforceConfig(task=task, encoding="seed16", hidden_dim=16), POLYPHARMACY
        )
        episodes = begin(task, 3, 10, 3)
        choose = sample(learner.generator)
        return roll(learner.policy, learner.encoding, episodes, choose, 0.99, learner.value)

    ours = batch()
    monkeypatch.setattr(classical_rollout, "together", OneByOne)
    theirs = batch()

    for field in fields(Batch):
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        same = torch.equal(mine, other) if isinstance(mine, torch.Tensor) else mine == other
        assert same, field.name


def test_what_was_shown_stays_as_it_was_once_play_goes_on() -> None:
    played = cohort("budgeted_screening")
    features, mask = played.features(), played.mask()
    before = features.tobytes(), mask.tobytes()

    for _ in range(6):
        played.step(drawn(played.mask(), np.random.default_rng(0), 1.0))

    assert (features.tobytes(), mask.tobytes()) == before


def test_an_action_that_the_mask_shuts_is_an_error_that_names_it() -> None:
    played = cohort("easy_screening")
    actions = np.full(20, FINISH_AT)
    actions[7] = FIRST_CHANGE - 1  # the last two of fifteen places, on a list of five at most

    with pytest.raises(IllegalMove, match="action 104 is not possible for review 7"):
        played.step(actions)
    assert len(played.live) == 20


def test_what_cannot_be_played_as_arrays_is_played_one_by_one() -> None:
    started = begin("easy_screening", 0, 20, 1)
    started[1].step(started[1].legal_actions()[0])
    mixed = begin("easy_screening", 0, 19, 1) + begin("budgeted_screening", 0, 1, 1)
    reviews = begin("review_easy", 0, 20, 1)
    few = begin("easy_screening", 0, 3, 1)  # as arrays they would take longer
    other_features = POLYPHARMACY.encoding("easy_screening", "slots")

    for episodes in (started, mixed, reviews, few):
        assert isinstance(together(seed16("easy_screening"), episodes), OneByOne)
    assert isinstance(together(other_features, begin("easy_screening", 0, 20, 1)), OneByOne)
