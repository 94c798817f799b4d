"""A review as numbers: the mask is exact, indices and actions are inverse, features say what they say."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest

from env_server import registry
from env_server.envs.polypharmacy.actions import FINISH, intervene, query
from env_server.envs.polypharmacy.encoding import (
    FINISH_AT,
    FIRST_CHANGE,
    N_ACTIONS,
    NoSuchPlace,
    ReviewEncoding,
    UnknownEncoding,
    encoding,
)
from env_server.envs.polypharmacy.episode import ReviewEpisode
from env_server.envs.polypharmacy.features import PAIRS, SEED16, SlotFeatures
from env_server.envs.polypharmacy.tasks import REVIEWS
from env_server.seeds import Stream

NAMES = ("slots", "seed16")
TASKS = tuple(REVIEWS)


def begin(task: str, seed: int = 0) -> ReviewEpisode:
    played = registry.get("polypharmacy").begin(task, seed, "validation")
    assert isinstance(played, ReviewEpisode)
    return played


def of(name: str) -> ReviewEncoding:
    found = encoding("review_easy", name)
    assert isinstance(found, ReviewEncoding)
    return found


def masked_play(task: str, seed: int, stop_early: bool = False) -> Iterator[ReviewEpisode]:
    """A review played at random through the mask; yields it before each step.

    Finish is drawn only when nothing else is open, so that budgets run out and lists grow short.
    """
    played, code = begin(task, seed), of("seed16")
    stream = Stream("masked", task, seed)
    while not played.done:
        yield played
        open_ = np.flatnonzero(code.mask(played.observe()))
        choices = open_ if stop_early or len(open_) == 1 else open_[open_ != FINISH_AT]
        changes = choices[choices >= FIRST_CHANGE]
        if len(changes) and stream.chance(0.4):
            choices = changes
        step = played.step(code.action(played.observe(), int(stream.choice(list(choices)))))
        assert step.refusal is None


def test_there_are_105_questions_60_changes_and_one_end() -> None:
    assert (FIRST_CHANGE, FINISH_AT - FIRST_CHANGE, N_ACTIONS) == (105, 60, 166)
    assert tuple(combinations(range(15), 2)) == PAIRS


@pytest.mark.parametrize("task", TASKS)
def test_the_mask_is_the_legal_actions_all_through_random_reviews(task: str) -> None:
    code = of("slots")
    for seed in range(12):
        for played in masked_play(task, seed):
            seen, legal = played.observe(), set(played.legal_actions())
            mask = code.mask(seen)
            meant = {code.action(seen, int(i)) for i in np.flatnonzero(mask)}

            assert meant <= legal
            # what the mask leaves out of the legal actions is a substitute by name, and nothing else
            assert all(code.index(seen, action) is None for action in legal - meant)


@pytest.mark.parametrize("task", TASKS)
def test_a_masked_action_is_never_refused(task: str) -> None:
    for seed in range(20):
        assert all(not played.refusals for played in masked_play(task, seed))


def test_nothing_is_open_once_the_review_is_over() -> None:
    played = begin("review_easy")
    played.step(FINISH)

    assert not of("slots").mask(played.observe()).any()


@pytest.mark.parametrize("task", TASKS)
def test_index_undoes_action(task: str) -> None:
    code = of("slots")
    for played in masked_play(task, 1):
        seen = played.observe()
        for index in range(N_ACTIONS):
            try:
                action = code.action(seen, index)
            except NoSuchPlace:
                continue
            assert code.index(seen, action) == index


def test_what_the_discrete_list_cannot_say_has_no_index() -> None:
    seen = begin("review_complex").observe()
    drug = seen.current_medications[0].drug_id

    assert of("slots").index(seen, intervene(drug, "substitute", "apixaban")) is None
    assert of("slots").index(seen, intervene("no_such_drug", "stop")) is None
    assert of("slots").index(seen, query(drug, "no_such_drug")) is None


def test_a_reason_given_does_not_change_the_index() -> None:
    seen = begin("review_complex").observe()
    drug = seen.current_medications[2].drug_id

    assert of("slots").index(seen, intervene(drug, "stop", rationale="falls")) == 105 + 2 * 4


@pytest.mark.parametrize("index", [-1, 166, PAIRS.index((13, 14)), 164])
def test_an_index_beyond_the_list_is_an_error_that_names_it(index: int) -> None:
    with pytest.raises(NoSuchPlace, match=str(index)):
        of("slots").action(begin("easy_screening").observe(), index)


def test_an_unknown_encoding_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(UnknownEncoding, match="did you mean 'seed16'"):
        encoding("review_easy", "seed_16")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("task", TASKS)
def test_features_stay_between_zero_and_a_few(task: str, name: str) -> None:
    code = of(name)
    for seed in range(6):
        for played in masked_play(task, seed):
            features = code.features(played.observe())
            assert features.shape == (code.size,) and features.dtype == np.float32
            assert features.min() >= 0.0 and features.max() <= (1.0 if name == "seed16" else 4.0)


def test_seed16_tells_a_finding_as_it_is_made() -> None:
    played = begin("easy_screening", 4)
    case = played.case
    severe = next(
        pair
        for pair in combinations([m.drug_id for m in played.observe().current_medications], 2)
        if case.finding(*pair).severity == "severe"
    )
    played.step(query(*severe))
    told = dict(zip(SEED16, of("seed16").features(played.observe()), strict=True))

    assert told["severe_found"] == 1.0 and told["queries_used"] == 0.25
    assert told["severe_unresolved"] == pytest.approx(0.2)
    played.step(intervene(severe[0], "stop"))
    told = dict(zip(SEED16, of("seed16").features(played.observe()), strict=True))
    assert told["severe_unresolved"] == 0.0 and told["interventions_used"] == 0.5


def test_a_slot_row_follows_its_drug() -> None:
    features, played = SlotFeatures(), begin("review_complex", 2)
    before = played.observe()
    start = features.size - 2 * len(PAIRS) - 15 * features.width
    rows = features(before)[start : -2 * len(PAIRS)].reshape(15, -1)
    assert (rows[len(before.current_medications) :] == 0).all()

    played.step(intervene(before.current_medications[0].drug_id, "stop"))

    after = features(played.observe())[start : -2 * len(PAIRS)].reshape(15, -1)
    # what a drug is moves up with it; what depends on the rest of the list may change
    assert (after[0, :-2] == rows[1, :-2]).all()


def test_a_question_is_seen_at_its_pair() -> None:
    features, played = SlotFeatures(), begin("review_complex", 2)
    drugs = [m.drug_id for m in played.observe().current_medications]
    played.step(query(drugs[3], drugs[1]))

    pairs = features(played.observe())[-2 * len(PAIRS) :].reshape(-1, 2)

    assert pairs[:, 0].tolist() == [float(pair == (1, 3)) for pair in PAIRS]
